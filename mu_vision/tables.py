"""A table: groups of requests x methods, a row each, and averages; resumable request by request.

Every request is a run of its own in a sub-folder, with its own report; the untouched model and
its answer set are shared by all. ``merging`` puts the requests of several runs into one table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import files
from .columns import COLUMNS, MEAN, filled, means
from .environment import environment
from .errors import RunError
from .metrics.rates import Rate
from .recipe import EraseRecipe, TableRecipe
from .reporting import answer_places, forget_stale, write_table_report
from .runner import Chain, Original
from .runs import ORIGINAL, Announce, RunResult, write_recipe
from .stages import open_run

ALL = "all"
TEXTS = ("group", "request", "method")


def run_table(recipe: TableRecipe, folder: Path, announce: Announce) -> RunResult:
    """Run every request of a table recipe, then write ``table.csv``, ``table.md`` and the report."""
    original = Original(recipe.model)
    data = recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
    write_recipe(folder, data, {"state": "begun"})
    rows, places = [], []
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
        places += answer_places(result.scores)
        rows += rows_of(recipe, group, job, result.scores)
    result = write_results(folder, recipe, rows, resolved["environment"])
    forget_stale(folder / "answers", places)
    return result


def write_results(
    folder: Path,
    recipe: TableRecipe,
    rows: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
) -> RunResult:
    """``scores.json``, the tables and the report, from the rows of all requests."""
    table = with_means(rows)
    write_table(folder, table)
    scores = {
        "name": recipe.name,
        "protocol": recipe.protocol.name,
        "table": table,
        "rows": list(rows),
        "environment": dict(environment),
    }
    files.write_json(folder / "scores.json", scores)
    return RunResult(folder, scores, report=write_table_report(folder), table=table)


def rows_of(
    recipe: TableRecipe, group: str, job: EraseRecipe, scores: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row a model of a request's ``scores.json``.

    The untouched model is the same whatever the seed of the methods: it has a row with the first.
    A row has the columns' values, rates in percent, and ``counts``: column -> [hits, pictures or
    prompts] of those that count something.
    """
    seeds = recipe.seeds or (job.seed,)
    rows = []
    for label, model in scores["models"].items():
        if label == ORIGINAL and job.seed != seeds[0]:
            continue
        row = {
            "group": group, "request": request_title(recipe, job), "method": label,
            "kind": job.request.kind, "name": job.request.name, "seed": job.seed,
        }  # fmt: skip
        row |= {key: model.get(key) for key in COLUMNS}
        if row["ira"] is not None and row["cra"] is not None:
            row["kept"] = (row["ira"] + row["cra"]) / 2
        row["counts"] = _counts(model["scorecard"]["metrics"])
        rows.append(row)
    return rows


def request_title(recipe: TableRecipe, job: EraseRecipe) -> str:
    """What a request is called in the table: repetitions are told apart by their seed."""
    return job.request.name + (f", seed {job.seed}" if len(recipe.seeds) > 1 else "")


def _counts(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    return {
        name: [metric["details"]["hits"], metric["used"]]
        for name, metric in metrics.items()
        if name in COLUMNS and "hits" in metric.get("details", {})
    }


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
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        mean = means(mine)
        for key in COLUMNS:
            found = sum(row.get(key) is not None for row in mine)
            if 0 < found < len(mine):
                raise RunError(
                    f"{method} has {key} for {found} of {len(mine)} requests of {group},"
                    " so there is no mean; run the missing ones again."
                )
        head = {"group": group, "request": request, "method": method, "rows": len(mine)}
        table.append({**head, **mean})
    return table


def write_table(folder: Path, table: Iterable[Mapping[str, Any]]) -> None:
    """``table.csv`` with full numbers, ``table.md`` with rounded ones, ``means.md`` with means alone."""
    table = list(table)
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*TEXTS, *filled(table)], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(table)
    files.write_text(folder / "table.csv", text.getvalue())
    files.write_text(folder / "table.md", markdown(table))
    files.write_text(folder / "means.md", means_markdown(table))


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


def means_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The means in Markdown; what is a count has the 95 % interval over all that was counted."""
    rows = [row for row in table if row["request"] == MEAN]
    shown = filled(rows)
    lines = [
        "| group | method | rows | " + " | ".join(COLUMNS[key][0] for key in shown) + " |",
        "|---|---|---:|" + "---:|" * len(shown),
    ]
    for row in rows:
        cells = [_with_interval(row, key) for key in shown]
        lines.append(f"| {row['group']} | {row['method']} | {row['rows']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _with_interval(row: Mapping[str, Any], key: str) -> str:
    text = _number(row.get(key), COLUMNS[key][1])
    if key not in row["counts"]:
        return text
    hits, total = row["counts"][key]
    low, high = (100 * end for end in Rate(hits, total).interval)
    return f"{text} ({low:.0f} to {high:.0f}; {hits} of {total})"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
