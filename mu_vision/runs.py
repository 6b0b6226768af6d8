"""What every kind of run has: its result, its ``recipe.yaml``, and scores without clocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import files
from .stages import Record

if TYPE_CHECKING:
    from .evaluation.scorecard import Scorecard

Announce = Callable[[str], None]
ORIGINAL = "original"
# what of a run's results differs from one time to the next
CLOCKS = ("seconds", "memory_gb", "stages", "environment")


def silent(text: str) -> None:
    """Announce nothing."""


@dataclass
class RunResult:
    """What a run leaves behind.

    Attributes:
        folder: the run folder.
        scores: the content of ``scores.json``.
        scorecards: model -> scorecard; empty for tables and training.
        report: path of the HTML report, None for training.
        table: the rows of a table recipe.
        stages: name -> record with fingerprint, time and memory.
    """

    folder: Path
    scores: dict[str, Any] = field(default_factory=dict)
    scorecards: dict[str, Scorecard] = field(default_factory=dict)
    report: Path | None = None
    table: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, Record] = field(default_factory=dict)


def write_recipe(folder: Path, data: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
    text = yaml.safe_dump({**data, "resolved": dict(resolved)}, sort_keys=False, allow_unicode=True)
    files.write_text(folder / "recipe.yaml", text)


def without_times(value: Any) -> Any:
    """Scores without clocks and memory: the part that a resumed run gives again to the last bit."""
    if isinstance(value, Mapping):
        return {k: without_times(v) for k, v in value.items() if not k.endswith(CLOCKS)}
    if isinstance(value, list | tuple):
        return [without_times(v) for v in value]
    return value


def model_row(card: Scorecard) -> dict[str, Any]:
    """One model of ``scores.json``: rates in percent, counts, then the whole scorecard."""
    row: dict[str, Any] = {"ua": None, "ira": None, "cra": None}
    counts = {}
    for name, metric in card.metrics.items():
        percent = metric.unit in ("rate", "share")
        row[name] = round(100 * metric.value, 4) if percent else round(metric.value, 6)
        counts[name] = {"expected": metric.expected, "used": metric.used}
    row["counts"] = counts
    row["warnings"] = list(card.warnings)
    row["scorecard"] = card.to_json()
    return row
