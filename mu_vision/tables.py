"""A table: groups of requests x methods, a row each, and averages; resumable request by request.

Every request is a run of its own in a sub-folder, with its own report; the untouched model and
its answer set are shared by all.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from . import files
from .columns import COLUMNS, filled
from .environment import environment
from .errors import RunError
from .recipe import TableRecipe
from .reporting import answer_places, forget_stale, write_table_report
from .runner import Chain, Original
from .runs import ORIGINAL, Announce, RunResult, write_recipe
from .stages import open_run

MEAN, ALL = "mean", "all"
TEXTS = ("group", "request", "method")


def run_table(recipe: TableRecipe, folder: Path, announce: Announce) -> RunResult:
    """Run every request of a table recipe, then write ``table.csv``, ``table.md`` and the report."""
    original = Original(recipe.model)
    data = recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
    write_recipe(folder, data, {"state": "begun"})
    rows, parts = [], {}
    jobs = recipe.jobs()
    resolved = {
        "protocol": recipe.protocol.resolve().model_dump(mode="json"),
        "original": original.model.fingerprint(),
        "environment": environment(),
    }
    write_recipe(folder, data, resolved)
    for number, (group, job) in enumerate(jobs, 1):
        place = open_run(folder / job.name)
        announce(f"request {number} of {len(jobs)}: {job.request.kind} {job.request.name}")
        result = Chain(job, place, announce, original, folder / "answers").run()
        parts[job.name] = result.scores
        repeated = f", seed {job.seed}" if len(recipe.seeds) > 1 else ""
        found = rows_of(group, result.scores, repeated)
        again = job.seed != (recipe.seeds or (job.seed,))[0]
        # the untouched model is the same whatever the seed of the methods
        rows.extend(row for row in found if not (again and row["method"] == ORIGINAL))
    table = with_means(rows)
    write_table(folder, table)
    scores = {
        "name": recipe.name,
        "protocol": recipe.protocol.name,
        "table": table,
        "rows": rows,
        "requests": {name: scores["request"] for name, scores in parts.items()},
        "environment": resolved["environment"],
    }
    files.write_json(folder / "scores.json", scores)
    report = write_table_report(folder)
    forget_stale(folder / "answers", [p for s in parts.values() for p in answer_places(s)])
    return RunResult(folder, scores, report=report, table=table)


def rows_of(group: str, scores: Mapping[str, Any], repeated: str = "") -> list[dict[str, Any]]:
    """One row a model of a request's ``scores.json``; ``repeated`` tells repetitions apart."""
    rows = []
    for label, model in scores["models"].items():
        asked = scores["request"]
        name = asked["name"] + repeated
        row = {"group": group, "request": name, "method": label, "kind": asked["kind"]}
        row |= {key: model.get(key) for key in COLUMNS}
        if row["ira"] is not None and row["cra"] is not None:
            row["kept"] = (row["ira"] + row["cra"]) / 2
        rows.append(row)
    return rows


def with_means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of each group followed by their means, then the means over all requests.

    A mean over all requests counts every request once, whatever its group.

    Raises:
        RunError: if a method lacks a number that another request of it has.
    """
    groups = list(dict.fromkeys(row["group"] for row in rows))
    table: list[dict[str, Any]] = []
    for group in groups:
        mine = [row for row in rows if row["group"] == group]
        table += [dict(row) for row in mine]
        table += _means(mine, group, MEAN)
    if len(groups) > 1:
        table += _means(rows, ALL, MEAN)
    return table


def _means(rows: Sequence[Mapping[str, Any]], group: str, request: str) -> list[dict[str, Any]]:
    means = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        mean: dict[str, Any] = {"group": group, "request": request, "method": method}
        for key in COLUMNS:
            values = [row.get(key) for row in mine]
            found = [value for value in values if value is not None]
            if found and len(found) != len(values):
                raise RunError(
                    f"{method} has {key} for {len(found)} of {len(values)} requests of {group},"
                    " so there is no mean; run the missing ones again."
                )
            mean[key] = fmean(found) if found else None
        means.append(mean)
    return means


def write_table(folder: Path, table: Iterable[Mapping[str, Any]]) -> None:
    """``table.csv`` with full numbers and ``table.md`` with rounded ones."""
    table = list(table)
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*TEXTS, *filled(table)], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(table)
    files.write_text(folder / "table.csv", text.getvalue())
    files.write_text(folder / "table.md", markdown(table))


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    shown = filled(table)
    lines = [
        "| " + " | ".join([*TEXTS, *(COLUMNS[key][0] for key in shown)]) + " |",
        "|" + "---|" * len(TEXTS) + "---:|" * len(shown),
    ]
    for row in table:
        texts = [str(row[key]).replace("|", "\\|") for key in TEXTS]
        numbers = [_number(row.get(key), COLUMNS[key][1]) for key in shown]
        lines.append("| " + " | ".join([*texts, *numbers]) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
