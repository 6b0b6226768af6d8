"""Columns of a table of results, the same at the terminal, in ``table.csv`` and in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# key in scores.json -> (heading, decimals); rates are percent there
COLUMNS: dict[str, tuple[str, int]] = {
    "ua": ("UA %", 1),
    "ira": ("IRA %", 1),
    "cra": ("CRA %", 1),
    "kept": ("(IRA+CRA)/2", 1),
    "fid": ("FID", 2),
    "fid_unlearncanvas": ("FID (UnlearnCanvas)", 2),
    "fid_clip": ("FID (CLIP)", 2),
    "clip_score": ("CLIP score", 2),
    "seconds": ("erase s", 1),
    "peak_memory_gb": ("peak GB", 2),
    "storage_gb": ("storage GB", 3),
}


def filled(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns in which at least one row has a number, in order."""
    rows = list(rows)
    return [key for key in COLUMNS if any(isinstance(row.get(key), int | float) for row in rows)]
