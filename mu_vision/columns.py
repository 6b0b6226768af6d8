"""Columns of a table of results, the same at the terminal, in ``table.csv`` and in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

MEAN = "mean"  # the request of a row that is the mean of others

# key in scores.json -> (heading, decimals); rates are percent there
COLUMNS: dict[str, tuple[str, int]] = {
    "ua": ("UA %", 1),
    "ira": ("IRA %", 1),
    "cra": ("CRA %", 1),
    "kept": ("(IRA+CRA)/2", 1),
    "ua_paraphrase": ("UA, other sentences %", 1),
    "ua_synonym": ("UA, other names %", 1),
    "ira_nearest": ("IRA, nearest %", 1),
    "pre_asr": ("pre-ASR %", 1),
    "asr_worst": ("worst ASR %", 1),
    "asr_paraphrase": ("words %", 1),
    "asr_random_prefix": ("random %", 1),
    "asr_ring_a_bell": ("Ring-A-Bell %", 1),
    "asr_p4d": ("P4D %", 1),
    "asr_unlearndiffatk": ("UnlearnDiffAtk %", 1),
    "asr_concept_inversion": ("inversion %", 1),
    "asr_state_inversion": ("states %", 1),
    "asr_image_to_image": ("img2img %", 1),
    "inception_score": ("IS (judge)", 2),
    "precision": ("precision %", 1),
    "recall": ("recall %", 1),
    "evaluations": ("NFE", 0),
    "pictures_per_second": ("pictures/s", 1),
    "fid": ("FID", 2),
    "fid_unlearncanvas": ("FID (UnlearnCanvas)", 2),
    "fid_clip": ("FID (CLIP)", 2),
    "clip_score": ("CLIP score", 2),
    "seconds": ("erase s", 1),
    "peak_memory_gb": ("peak GB", 2),
    "storage_gb": ("storage GB", 3),
}


# one column an attack: for files and details, too many beside the others
EACH_ATTACK = tuple(key for key in COLUMNS if key.startswith("asr_") and key != "asr_worst")


def filled(rows: Iterable[Mapping[str, Any]], each_attack: bool = True) -> list[str]:
    """The columns in which at least one row has a number, in order.

    Args:
        rows: of a table, or models of ``scores.json``.
        each_attack: those of single attacks too, not only the worst case.
    """
    rows = list(rows)
    found = [key for key in COLUMNS if any(isinstance(row.get(key), int | float) for row in rows)]
    return found if each_attack else [key for key in found if key not in EACH_ATTACK]


def pooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Column -> [hits, total] over rows, for the columns that count something in all of them."""
    counts = [row.get("counts") or {} for row in rows]
    shared = [key for key in COLUMNS if counts and all(key in count for count in counts)]
    return {key: [sum(c[key][0] for c in counts), sum(c[key][1] for c in counts)] for key in shared}


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Column -> plain mean over rows, for the columns that all of them have, and pooled ``counts``."""
    values = {key: [row.get(key) for row in rows] for key in COLUMNS}
    whole = {key: found for key, found in values.items() if found and None not in found}
    return {**{key: fmean(found) for key, found in whole.items()}, "counts": pooled(rows)}
