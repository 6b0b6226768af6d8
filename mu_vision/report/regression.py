"""The report of regressors that forgot: what the page of a ``forget`` recipe of regressors shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..lab_regression import HEADINGS, cell, nearest, shown
from ..recipes.forgetting import YARDSTICK
from . import views
from .build import write_page
from .lab import LabData

SIDE, MARGIN = 260, 34  # of a scatter, in units of its view box
WIDTH, HEIGHT = 200, 56  # of a density
UNITS = {"absolute": "mean absolute error", "squared": "mean squared error"}


def write_regression(data: LabData, path: Path | str) -> Path:
    """Write the report of a lab of regressors as one HTML file."""
    return write_page("regression.html.j2", data, regression_context(data), path)


def regression_context(data: LabData) -> dict[str, Any]:
    """Everything that the template needs, already worded."""
    scores = data.scores
    keys = shown(scores["table"])
    blocks = []
    for group, about in scores["requests"].items():
        lines = [line for line in scores["table"] if line["group"] == group]
        closer, best = scores["closer"][group], nearest(lines)
        blocks.append(
            {
                "group": group,
                "about": about,
                "rows": [_row(line, keys) for line in lines],
                "failed": [r for r in scores["rows"] if r["group"] == group and "failed" in r],
                "best": best and {"title": views.title_of(best["method"]), "w1": cell(best, "w1")},
                "scatters": _scatters(closer),
                "densities": _densities(closer),
                "range": [f"{end:.3g}" for end in closer["edges"]],
            }
        )
    return {
        "blocks": blocks,
        "headings": [HEADINGS[key] for key in keys],
        "seeds": len(scores["seeds"]),
        "methods": len({line["method"] for line in scores["table"]} - {views.ORIGINAL, YARDSTICK}),
        "error": UNITS[scores["deviation"]],
        "side": SIDE,
        "margin": MARGIN,
    }


def _row(line: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {
        "title": views.title_of(line["method"]),
        "gold": line["method"] == YARDSTICK,
        "cells": [cell(line, key) for key in keys],
        "failed": line["failed"],
    }


def _scatters(closer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Predicted against true, one drawing a model, all on the axes of the training targets."""
    low, high = closer["edges"]

    def place(value: float) -> float:
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return MARGIN + share * (SIDE - MARGIN - 6)

    found = []
    for label, about in closer["models"].items():
        points = {
            name: [(round(place(y), 1), round(SIDE - place(said), 1)) for y, said in pairs]
            for name, pairs in about["scatter"].items()
        }
        found.append({"title": views.title_of(label), "points": points})
    return found


def _densities(closer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Outlines of the predictions on the forget set, one scale for all; Retrain's lies behind each."""
    shares = {"truth": closer["truth"]}
    shares |= {label: about["density"] for label, about in closer["models"].items()}
    # a square root: a model that says one value only would flatten all others
    top = max(share**0.5 for some in shares.values() for share in some)

    def outline(some: Sequence[float]) -> str:
        step = WIDTH / len(some)
        tops = [round(HEIGHT - HEIGHT * share**0.5 / top, 1) for share in some]
        path = "".join(f"L{k * step:.1f} {y}L{(k + 1) * step:.1f} {y}" for k, y in enumerate(tops))
        return f"M0 {HEIGHT}{path}L{WIDTH} {HEIGHT}Z"

    gold = outline(shares[YARDSTICK])
    titles = {"truth": "The true values"}
    return [
        {"title": titles.get(label, views.title_of(label)), "path": outline(some), "gold": gold}
        for label, some in shares.items()
    ]
