"""The report of several requests by several methods: what the page of ``build.write_table`` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..columns import COLUMNS, EACH_ATTACK, MEAN, filled, means
from ..metrics.rates import Rate
from . import views
from .labels import percent
from .plots import KEPT, WITHSTOOD, Plot, Point, tradeoff

if TYPE_CHECKING:
    from .build import TableData

RATES = ("ua", "ira", "cra", "kept")


def table_context(data: TableData) -> dict[str, Any]:
    """Rows by kind with their means, the headline, and the trade-off plot of each kind."""
    rows = [_completed(row) for row in data.rows]
    methods = [m for m in dict.fromkeys(r["method"] for r in rows) if m != views.ORIGINAL]
    colours = views.colours(methods)
    blocks = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        published = views.published_view(data.protocol, kind)
        by_method = {m: [r for r in mine if r["method"] == m] for m in colours}
        averaged = {
            m: {"method": m, "kind": kind, "request": MEAN, **means(of)}
            for m, of in by_method.items()
            if of
        }
        blocks.append(
            {
                "kind": kind,
                "rows": [_shown(row, colours) for row in mine],
                "means": [_shown(mean, colours) for mean in averaged.values()],
                "plot": _plot(mine, averaged, colours, published),
                "withstood": _withstood(mine, averaged, colours),
                "published": published,
                "ours": [_beside(mean, colours) for mean in averaged.values()],
                "requests": len({row["request"] for row in mine}),
            }
        )
    return {
        "blocks": blocks,
        "columns": [(c, COLUMNS[c][0]) for c in filled(rows, each_attack=False)],
        "each_attack": [(c, COLUMNS[c][0]) for c in filled(rows) if c in EACH_ATTACK],
        "headline": _headline(rows, methods),
        "requests": len({(r["kind"], r["request"]) for r in rows}),
        "methods": methods,
    }


def _completed(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with ``kept``, the mean of IRA and CRA."""
    row = dict(row)
    if row.get("kept") is None and row.get("ira") is not None and row.get("cra") is not None:
        row["kept"] = (row["ira"] + row["cra"]) / 2
    return row


def _shown(row: Mapping[str, Any], colours: Mapping[str, int]) -> dict[str, Any]:
    texts = {}
    for column, (_, decimals) in COLUMNS.items():
        value = row.get(column)
        texts[column] = "–" if value is None else f"{value:,.{decimals}f}"
    counted = row.get("counts") or {} if row["request"] == MEAN else {}
    return {
        "request": row["request"],
        "title": views.title_of(row["method"]),
        "colour": colours[row["method"]],
        "texts": texts,
        "intervals": {column: _interval(*counts) for column, counts in counted.items()},
        "shares": {c: row[c] / 100 for c in RATES if row.get(c) is not None},
    }


def _interval(hits: int, total: int) -> str:
    low, high = Rate(hits, total).interval
    return f"{100 * low:.1f}–{100 * high:.1f} of {total:,}"


def _beside(mean: Mapping[str, Any], colours: Mapping[str, int]) -> dict[str, Any]:
    """A mean as a row of the published table."""
    names = {"memory_gb": "peak_memory_gb"}
    found = [mean.get(names.get(column, column)) for column in views.PUBLISHED]
    return {
        "title": views.title_of(mean["method"]),
        "colour": colours[mean["method"]],
        "texts": ["–" if value is None else f"{value:,.2f}" for value in found],
    }


def _plot(
    rows: Iterable[Mapping[str, Any]],
    means: Mapping[str, Mapping[str, Any]],
    colours: Mapping[str, int],
    published: Sequence[Mapping[str, Any]],
) -> Plot | None:
    from .build import published_points

    points = _points(rows, means, colours, lambda row: row.get("ua"))
    return tradeoff([*points, *published_points(published)]) if points else None


def _withstood(
    rows: Iterable[Mapping[str, Any]],
    means: Mapping[str, Mapping[str, Any]],
    colours: Mapping[str, int],
) -> Plot | None:
    """What the worst attack did not bring back against what was kept; None without attacks."""

    def withstood(row: Mapping[str, Any]) -> float | None:
        return None if row.get("asr_worst") is None else 100 - row["asr_worst"]

    points = _points(rows, means, colours, withstood)
    return tradeoff(points, WITHSTOOD, KEPT) if points else None


def _points(
    rows: Iterable[Mapping[str, Any]],
    means: Mapping[str, Mapping[str, Any]],
    colours: Mapping[str, int],
    x_of: Callable[[Mapping[str, Any]], float | None],
) -> list[Point]:
    """A point a method, its mean, and a small one a request; those that have both numbers."""
    points = []
    for method, mean in means.items():
        x, y = x_of(mean), mean.get("kept")
        if x is not None and y is not None:
            kind = "original" if method == views.ORIGINAL else "ours"
            points.append(Point(views.title_of(method), x / 100, y / 100, kind, colours[method]))
    for row in rows:
        x, y = x_of(row), row.get("kept")
        if x is not None and y is not None and row["method"] != views.ORIGINAL:
            colour = colours[row["method"]]
            points.append(Point(str(row["request"]), x / 100, y / 100, "request", colour))
    return points


def _headline(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """One clause a method: how much was forgotten and kept on average, and the worst request."""
    requests = len({(r["kind"], r["request"]) for r in rows})
    clauses = []
    for method in methods:
        mine = [r for r in rows if r["method"] == method and r.get("ua") is not None]
        if not mine:
            continue
        worst = min(mine, key=lambda row: row["ua"])
        kept = [row["kept"] for row in mine if row.get("kept") is not None]
        text = f"{views.title_of(method)} forgets {percent(fmean(r['ua'] for r in mine) / 100)}"
        if len(kept) == len(mine):
            text += f" and keeps {percent(fmean(kept) / 100)}"
        if requests > 1:
            text += f", at worst {percent(worst['ua'] / 100)} ({worst['request']})"
        broken = [row["asr_worst"] for row in mine if row.get("asr_worst") is not None]
        if len(broken) == len(mine):
            text += f"; its worst attack succeeds on {percent(fmean(broken) / 100)} of prompts"
        clauses.append(text)
    if not clauses:
        return "No method was run."
    over = f"On average over {requests} requests" if requests > 1 else "For one request"
    return f"{over} " + "; ".join(clauses) + "."
