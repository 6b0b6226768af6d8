"""The report of classifiers that forgot: what the page of a ``forget`` recipe shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..recipes.forgetting import YARDSTICK
from . import views
from .build import write_page
from .plots import Axis, Curve, LinePlot, Plot, Point, curves, tradeoff

COLUMNS = {
    "ua": "UA", "ra": "RA", "ta": "TA", "mia": "MIA", "asr": "Backdoor", "gap": "Avg. gap", "lira": "U-LiRA",
    "relearn_time": "Relearn epochs", "ain": "AIN", "js": "JS to Retrain", "mia_entropy": "MIA, entropy",
    "probe": "Probe", "one_shot": "One-shot probe", "sparsity": "Sparsity", "weight_distance": "Weights moved apart",
}  # fmt: skip
PLAIN = ("weight_distance", "relearn_time", "ain")  # no shares
COMPARED = ("ua", "ra", "ta", "mia")
ALIKE = Axis("forgotten as Retrain: 100 less the distance of UA and MIA, %", "forgotten as Retrain")
USEFUL = Axis("kept: mean of RA and TA, %", "kept")
STAY = {
    "members": "retain set, trained on", "forgotten": "forget set", "unseen": "test set, never seen"
}  # fmt: skip


@dataclass
class LabData:
    """What the page is made from.

    Attributes:
        scores: the content of ``scores.json``.
    """

    name: str
    scores: Mapping[str, Any]
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar in percent of the axis, with its whisker, its colour and where Retrain stands."""

    title: str
    text: str
    share: float
    low: float
    high: float
    colour: int
    gold: float = 0.0


def write_lab(data: LabData, path: Path | str) -> Path:
    """Write the report of a lab as one HTML file."""
    return write_page("lab.html.j2", data, lab_context(data), path)


def lab_context(data: LabData) -> dict[str, Any]:
    """Everything that the template needs, already worded."""
    scores = data.scores
    colours = views.colours((line["method"] for line in scores["table"]), {YARDSTICK: 2})
    blocks = []
    for group in dict.fromkeys(line["group"] for line in scores["table"]):
        lines = [line for line in scores["table"] if line["group"] == group]
        rows = [row for row in scores["rows"] if row["group"] == group]
        gold = next(line for line in lines if line["method"] == YARDSTICK)
        blocks.append(
            {
                "group": group,
                "about": scores["requests"][group],
                "rows": [_row(line, gold) for line in lines],
                "bars": {key: _bars(lines, gold, key, colours) for key in ("ua", "mia")},
                "plot": _plot(lines, gold, colours),
                "failed": [row for row in rows if "failed" in row],
                "unattacked": [row for row in rows if "lira_failed" in row],
                "confidences": _histograms(scores["closer"][group], colours),
                "confusions": _confusions(lines, scores["closer"][group], scores["classes"]),
                "relearned": _relearned(rows),
                "best": _best(lines),
            }
        )
    # a column of zeros, as the sparsity of dense networks, says nothing
    shown = [k for k in COLUMNS if any(line.get(k) for line in scores["table"])]
    return {
        "blocks": blocks,
        "columns": [(key, COLUMNS[key]) for key in shown],
        "seeds": len(scores["seeds"]),
        "methods": len({line["method"] for line in scores["table"]} - {views.ORIGINAL, YARDSTICK}),
        "stay": STAY,
        "across": _across(scores["table"], colours, scores.get("axis")),
    }


def _row(line: Mapping[str, Any], gold: Mapping[str, Any]) -> dict[str, Any]:
    cells = {}
    for key in COLUMNS:
        value, half = line.get(key), line.get(f"{key}_half")
        if value is None:
            cells[key] = {"text": "–", "half": "", "gap": "", "step": None}
            continue
        gap = abs(value - gold[key]) if key in COMPARED else None
        cells[key] = {
            "text": f"{value:.2f}" if key in PLAIN else f"{100 * value:.1f}",
            "half": "" if half is None else f"± {half if key in PLAIN else 100 * half:.1f}",
            "gap": "" if gap is None or line is gold else f"{100 * gap:.1f}",
            # 10 points away from Retrain, or more, have the full colour
            "step": None if gap is None or line is gold else min(10, round(100 * gap)),
        }
    if line.get("gap") is not None and line is not gold:
        cells["gap"]["step"] = min(10, round(100 * line["gap"]))
    seconds = line.get("seconds")
    return {
        "method": line["method"],
        "title": views.title_of(line["method"]),
        "gold": line is gold,
        "cells": cells,
        "seconds": "–" if seconds is None else f"{seconds:.2f}",
        "failed": line["failed"],
    }


def _bars(
    lines: Sequence[Mapping[str, Any]],
    gold: Mapping[str, Any],
    key: str,
    colours: Mapping[str, int],
) -> list[Bar]:
    bars = []
    for line in lines:
        if line.get(key) is None:
            continue
        value, half = line[key], line.get(f"{key}_half") or 0.0
        low, high = max(0.0, value - half), min(1.0, value + half)
        title, text = views.title_of(line["method"]), f"{100 * value:.1f}"
        colour = colours[line["method"]]
        bars.append(Bar(title, text, 100 * value, 100 * low, 100 * high, colour, 100 * gold[key]))
    return bars


def _plot(
    lines: Sequence[Mapping[str, Any]], gold: Mapping[str, Any], colours: Mapping[str, int]
) -> Plot:
    points = []
    for line in lines:
        if line.get("ua") is None:
            continue
        apart = (abs(line["ua"] - gold["ua"]) + abs(line["mia"] - gold["mia"])) / 2
        kind = "original" if line["method"] == views.ORIGINAL else "ours"
        kept, title = (line["ra"] + line["ta"]) / 2, views.title_of(line["method"])
        points.append(Point(title, 1 - apart, kept, kind, colours[line["method"]]))
    return tradeoff(points, ALIKE, USEFUL)


def _histograms(closer: Mapping[str, Any], colours: Mapping[str, int]) -> list[dict[str, Any]]:
    found = []
    for label, about in closer.items():
        rows = about["confidences"]
        shapes = {}
        for name, shares in rows.items():
            # a square root: a bin that holds a hundredth is still to be seen
            heights = [46 * share**0.5 for share in shares]
            shapes[name] = [
                (round(200 * k / len(heights), 2), round(46 - height, 2), round(height, 2))
                for k, height in enumerate(heights)
            ]
        width = round(200 / max(len(next(iter(rows.values()))), 1) - 1, 2)
        look = {"title": views.title_of(label), "colour": colours[label]}
        found.append({**look, "shapes": shapes, "width": width})
    return found


def _confusions(
    lines: Sequence[Mapping[str, Any]], closer: Mapping[str, Any], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Before, Retrain, and the method that comes nearest to it."""
    best = _best(lines)
    shown = [views.ORIGINAL, YARDSTICK, *([best["method"]] if best else [])]
    found = []
    for label in shown:
        if label not in closer:
            continue
        table = closer[label]["confusion"]
        rows = []
        for name, counts in zip(classes, table, strict=True):
            total = max(sum(counts), 1)
            rows.append((name, [(count, round(10 * count / total)) for count in counts]))
        found.append({"title": views.title_of(label), "rows": rows, "classes": list(classes)})
    return found


def _across(
    table: Sequence[Mapping[str, Any]],
    colours: Mapping[str, int],
    axis: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """UA and average gap of every method in every group, as a table and drawn; None with one group.

    Args:
        table: lines of the summary.
        colours: of the methods.
        axis: the number in which the groups differ, if it is one (``ForgetRecipe.axis``).
    """
    groups = list(dict.fromkeys(line["group"] for line in table))
    if len(groups) < 2:
        return None
    found = {(line["group"], line["method"]): line for line in table}
    rows = []
    for method in dict.fromkeys(line["method"] for line in table):
        cells = []
        for group in groups:
            line = found.get((group, method), {})
            gap, half, ua = line.get("gap"), line.get("gap_half"), line.get("ua")
            cells.append(
                {
                    "gap": "–" if gap is None else f"{100 * gap:.1f}",
                    "half": "" if half is None else f"± {100 * half:.1f}",
                    "ua": "–" if ua is None else f"{100 * ua:.1f}",
                    "step": None
                    if gap is None or method == YARDSTICK
                    else min(10, round(100 * gap)),
                }
            )
        rows.append({"title": views.title_of(method), "gold": method == YARDSTICK, "cells": cells})
    across: dict[str, Any] = {"groups": groups, "rows": rows}
    if axis:
        return {**across, "lines": {"name": axis["name"], "plots": _against(table, colours, axis)}}
    return {**across, "lines": None, "bars": _side_by_side(found, groups)}


def _against(
    table: Sequence[Mapping[str, Any]], colours: Mapping[str, int], axis: Mapping[str, Any]
) -> list[tuple[str, LinePlot]]:
    """Gaps to Retrain over the axis, a line a method with its intervals as a band."""
    places = axis["places"]
    methods = [m for m in dict.fromkeys(line["method"] for line in table) if m != YARDSTICK]
    ordered = sorted(table, key=lambda line: places[line["group"]])

    def said(share: float, place: float) -> str:
        return f"{100 * share:.1f} points at {place:g} % {axis['name']}"

    def curve(method: str, key: str) -> Curve | None:
        known = [x for x in ordered if x["method"] == method and x.get(key) is not None]
        halves = [line[f"{key}_half"] for line in known]
        if not known:
            return None
        # when all colours are used up they come again, dashed
        before = methods[: methods.index(method)]
        dashed = colours[method] in (colours[other] for other in before)
        return Curve(
            views.title_of(method),
            [round(100 * places[line["group"]], 2) for line in known],
            [line[key] for line in known], colours[method], dashed,
            None if None in halves else halves,
        )  # fmt: skip

    plots = []
    for key, heading in (("gap", "Average gap"), ("mia_gap", "Gap of MIA")):
        lines = [found for method in methods if (found := curve(method, key))]
        if lines:
            highest = max(value for line in lines for value in line.shares)
            # four whole numbers on the axis
            top = min(1.0, 0.04 * max(1, math.ceil(1.1 * highest / 0.04)))
            plots.append((heading, curves(lines, 440, 300, top, said)))
    return plots


def _side_by_side(
    found: Mapping[tuple[str, str], Mapping[str, Any]], groups: Sequence[str]
) -> list[tuple[str, list[dict[str, Any]], str]]:
    """Average gap, and UA, of every method in every group: heading, rows of bars, end of the axis.

    A bar has the colour of its group, whatever groups a method is not in.
    """
    drawn = []
    for key, heading in (("gap", "Average gap, points"), ("ua", "UA, %")):
        methods = list(dict.fromkeys(method for _, method in found))
        if key == "gap":
            methods.remove(YARDSTICK)
        values = [line[key] for line in found.values() if line.get(key) is not None]
        top = max(1, math.ceil(max(values, default=0) * 20)) / 20
        rows = []
        for method in methods:
            bars: list[Bar | None] = []
            for number, group in enumerate(groups):
                line = found.get((group, method), {})
                if line.get(key) is None:
                    bars.append(None)
                    continue
                half = line.get(f"{key}_half") or 0.0
                low, high = (_share(line[key] + sign * half, top) for sign in (-1, 1))
                title, text = group.replace("_", " "), f"{100 * line[key]:.1f}"
                share, colour = _share(line[key], top), number % 6 + 1
                bars.append(Bar(title, text, share, low, high, colour))
            rows.append({"title": views.title_of(method), "bars": bars})
        drawn.append((heading, rows, f"{100 * top:.0f}"))
    return drawn


def _share(value: float, top: float) -> float:
    """Percent of an axis that ends at ``top``."""
    return 100 * min(1.0, max(0.0, value / top))


def _best(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    known = [
        line
        for line in lines
        if line.get("gap") is not None and line["method"] not in (YARDSTICK, views.ORIGINAL)
    ]
    if not known:
        return None
    nearest = min(known, key=lambda line: line["gap"])
    text = f"{100 * nearest['gap']:.1f}"
    alike = [views.title_of(k["method"]) for k in known if f"{100 * k['gap']:.1f}" == text]
    several = (
        f"{', '.join(alike[:-1])} and {alike[-1]} come" if len(alike) > 1 else f"{alike[0]} comes"
    )
    told = nearest.get("lira")
    lira = "" if told is None else f"{100 * told:.0f}"
    title = views.title_of(nearest["method"])
    return {
        "method": nearest["method"],
        "title": title,
        "words": several,
        "gap": text,
        "lira": lira,
    }


def _relearned(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean accuracy on the forget set after each epoch of training on it again."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        curves = [row["relearn"] for row in rows if row["method"] == method and row.get("relearn")]
        if curves:
            means = [sum(values) / len(values) for values in zip(*curves, strict=True)]
            found.append(
                {"title": views.title_of(method), "values": [f"{100 * v:.0f}" for v in means]}
            )
    return found
