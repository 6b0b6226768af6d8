"""A ``forget`` recipe of regressors: the lab's stages, with the metrics and columns of regression.

Values are in the unit of the targets (its square where the task's loss is squared); MIA is a share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .data.selectors import ForgetRequest
from .evaluation import regression
from .lab import Lab
from .models.regressor import Regressor
from .recipes.forgetting import YARDSTICK

COLUMNS = (
    "forget", "unseen", "retain", "test", "w1", "mia", "gap", "relearn", "censored", "ain", "seconds"
)  # fmt: skip
HEADINGS = {
    "forget": "D_f", "unseen": "D_f, test", "retain": "D_r", "test": "D_r, test", "w1": "W1",
    "mia": "MIA %", "gap": "gap", "relearn": "steps", "ain": "AIN", "seconds": "seconds",
}  # fmt: skip
BINS = 32


class RegressionLab(Lab):
    """One recipe of regressors in one run folder."""

    model = Regressor
    columns = COLUMNS

    def facts(self) -> dict[str, Any]:
        return {"family": "regressor", "deviation": self.splits.train.deviation}

    def asked(self) -> dict[str, Any]:
        return {"anamnesis": self.recipe.anamnesis}

    def yardstick(
        self, retrained: Regressor, request: ForgetRequest, original: Regressor
    ) -> regression.Yardstick:
        relearning = self.recipe.relearning(self.recipe.seed)
        return regression.Yardstick.of(retrained, request, original, relearning)

    def compared(self, seed, group, request, rows) -> list[dict[str, Any]]:
        """The rows as they are: AIN is measured beside Retrain's at once."""
        return rows

    def measured(self, model, request, original, yardstick, seed) -> dict[str, Any]:
        relearning = self.recipe.relearning(self.recipe.seed)
        return regression.measure(model, request, original, yardstick, relearning)

    def markdown(self, table: Sequence[Mapping[str, Any]]) -> str:
        return as_markdown(table)

    def closer(
        self, group: str, request: ForgetRequest, models: Mapping[str, Regressor]
    ) -> dict[str, Any]:
        """Scatters, and densities of the predictions on the forget set, of the first seed."""
        outputs = {label: regression.Outputs.of(model, request) for label, model in models.items()}
        y = request.splits.train.y
        edges = np.linspace(float(y.min()), float(y.max()), BINS + 1).tolist()
        found = {
            label: {
                "scatter": regression.scatter(out, request),
                "density": regression.density(out.forget, edges),
            }
            for label, out in outputs.items()
        }
        return {"edges": [edges[0], edges[-1]], "models": found,
                "truth": regression.density(request.forget.y, edges)}  # fmt: skip


def shown(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that have a value."""
    return [key for key in HEADINGS if any(line.get(key) is not None for line in table)]


def cell(line: Mapping[str, Any], key: str) -> str:
    """``3.21 ± 0.40``: mean and half of the 95 % interval; ``>`` before steps that were given up."""
    value, half = line.get(key), line.get(f"{key}_half")
    if value is None:
        return "–"
    scale, digits = (100, 1) if key == "mia" else (1, 0 if key == "relearn" else 2)
    text = f"{scale * value:.{digits}f}"
    if key in ("relearn", "ain") and line.get("censored"):
        text = f"> {text}"
    return text if half is None or key == "seconds" else f"{text} ± {scale * half:.{digits}f}"


def as_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """A block a group."""
    from .report.views import title_of

    keys, blocks = shown(table), []
    for group in dict.fromkeys(line["group"] for line in table):
        text = [
            f"### {group}", "",
            "| method | " + " | ".join(HEADINGS[key] for key in keys) + " |",
            "|---|" + "---:|" * len(keys),
        ]  # fmt: skip
        for line in (line for line in table if line["group"] == group):
            cells = " | ".join(cell(line, key) for key in keys)
            text.append(f"| {title_of(line['method'])} | {cells} |")
        blocks.append("\n".join(text))
    return "\n\n".join(blocks) + "\n"


def nearest(lines: Sequence[Mapping[str, Any]], key: str = "w1") -> Mapping[str, Any] | None:
    """The method nearest to Retrain; None if there is none."""
    from .runs import ORIGINAL

    known = [
        line for line in lines
        if line.get(key) is not None and line["method"] not in (YARDSTICK, ORIGINAL)
    ]  # fmt: skip
    return min(known, key=lambda line: line[key]) if known else None
