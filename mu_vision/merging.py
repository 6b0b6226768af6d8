"""Several runs of a table in one: other concepts, methods or seeds, from other machines or days.

What is merged are finished requests, so a run that is still going, or was stopped, gives what it
has. Nothing is computed again: a row is the one that its run wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from . import validation
from .errors import UsageError
from .recipe import SAVED, EraseRecipe, Recipe, TableRecipe, make_recipe
from .reporting import read_scores
from .runs import ORIGINAL, Announce, RunResult, silent, without_times, write_recipe
from .stages import open_run
from .tables import request_title, rows_of, write_results

Row = dict[str, Any]
Key = tuple[str, str, str, int | None]  # group, request, method, seed if it has randomness


@dataclass(frozen=True)
class Source:
    """What one run has."""

    folder: Path
    recipe: TableRecipe
    rows: dict[Key, Row]


def merge(
    folders: Sequence[Path | str], output: Path | str, announce: Announce = silent
) -> RunResult:
    """Write the table of all finished requests of several runs of kind ``table``.

    The output has a recipe that asks for all of it, ``scores.json``, the tables and the report,
    and can be merged again.

    Raises:
        UsageError: if a folder is no run of a table or has nothing finished; if two runs differ in
            the original, the protocol or the settings of a method; if they have other numbers for
            one model; or if the output is one of them, or any other run.
    """
    output, places = Path(output), [Path(folder) for folder in folders]
    known = [place.resolve() for place in places]
    if not places or len(set(known)) < len(places):
        raise UsageError("Which runs are to be merged? Give their folders, each once.")
    if output.resolve() in known:
        raise UsageError(f"{output} is one of the runs; give another folder to write to with -o.")
    _check_output(output)
    sources = [read_source(place) for place in places]
    recipe = _union(sources)
    rows: list[Row] = []
    missing = 0
    for group, job, method in _wanted(recipe):
        row = _found(sources, _key(recipe, group, job.request.name, method, job.seed))
        if row is None:
            missing += 1
        else:
            rows.append({**row, "request": request_title(recipe, job), "seed": job.seed})
    if missing:
        announce(f"{missing} of {missing + len(rows)} rows are not there yet")
    open_run(output)
    environment = sources[0].recipe.resolved["environment"]
    resolved = {
        **sources[0].recipe.resolved,
        "merged": [
            {"run": s.folder.name, "environment": s.recipe.resolved["environment"]} for s in sources
        ],
    }
    data = recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
    write_recipe(output, data, resolved)
    return write_results(output, recipe, rows, environment)


def _check_output(folder: Path) -> None:
    """See that nothing but an earlier merged table would be written over.

    Raises:
        UsageError: if the folder is one of another run.
    """
    path = folder / SAVED
    if path.is_file() and "merged" not in (
        validation.read_yaml_file(path, str(path)).get("resolved") or {}
    ):
        raise UsageError(
            f"{folder} holds a run, which would be written over; give another folder with -o."
        )


def read_source(folder: Path) -> Source:
    """The finished requests of a run folder.

    Raises:
        UsageError: if it is no run of a table, is damaged, or has nothing finished.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no run folder {folder}.")
    recipe = _saved_in(folder)
    if not isinstance(recipe, TableRecipe):
        raise UsageError(
            f"{folder} is a run of the kind {recipe.kind}; only runs of the kind table are merged."
        )
    found: dict[Key, Row] = {}
    for row in _rows_in(folder, recipe):
        found[_key(recipe, row["group"], row["name"], row["method"], row["seed"])] = row
    if not found or "protocol" not in (recipe.resolved or {}):
        raise UsageError(
            f"{folder} has no finished request yet: mu-vision run {folder / SAVED} goes on with it."
        )
    return Source(folder, recipe, found)


def _saved_in(folder: Path) -> Recipe:
    path = folder / SAVED
    return make_recipe(validation.read_yaml_file(path, f"recipe {path}"), where=f"recipe {path}")


def _rows_in(folder: Path, recipe: TableRecipe) -> Iterator[Row]:
    """The rows of a finished table, else those of the requests that are finished."""
    rows = read_scores(folder)["rows"] if (folder / "scores.json").is_file() else []
    if rows and all("name" in row for row in rows):  # older tables did not tell name and seed apart
        yield from rows
        return
    for group, job in recipe.jobs():
        part = folder / job.name
        if (part / "scores.json").is_file() and _made_by(part, job):
            yield from rows_of(recipe, group, job, read_scores(part))


def _made_by(part: Path, job: EraseRecipe) -> bool:
    """The request's numbers are of this recipe, not of an earlier one in the same folder."""
    kept = _saved_in(part)
    return isinstance(kept, EraseRecipe) and _asked(kept) == _asked(job)


def _asked(recipe: EraseRecipe) -> tuple[Any, ...]:
    methods = recipe.unlearners()
    settings = {label: (method.name, method.model_dump()) for label, method in methods.items()}
    return recipe.model, recipe.request, recipe.protocol, settings


def _wanted(recipe: TableRecipe) -> Iterator[tuple[str, EraseRecipe, str]]:
    """(group, request, method) of every row, the untouched model first."""
    first = (recipe.seeds or (recipe.seed,))[0]
    for group, job in recipe.jobs():
        for method in chain([ORIGINAL] if job.seed == first else [], job.methods):
            yield group, job, method


def _key(recipe: TableRecipe, group: str, name: str, method: str, seed: int) -> Key:
    """What tells a row from the others; the seed only where it makes a difference."""
    random = method != ORIGINAL and recipe.groups[group].stochastic(method)
    return group, name, method, seed if random else None


def _found(sources: Sequence[Source], key: Key) -> Row | None:
    """The row that the runs have for a key.

    Raises:
        UsageError: if two runs have other numbers for it.
    """
    having = [source for source in sources if key in source.rows]
    for other in having[1:]:
        mine, theirs = (_numbers(s.rows[key]) for s in (having[0], other))
        if mine != theirs:
            group, name, method, seed = key
            raise UsageError(
                f"{having[0].folder} and {other.folder} have other numbers for {method} of {name}"
                f" ({group}{'' if seed is None else f', seed {seed}'}); merge only one of them."
            )
    return having[0].rows[key] if having else None


def _numbers(row: Row) -> Row:
    """What a row measured; what a seed or a table calls it is left out."""
    return without_times({k: v for k, v in row.items() if k not in ("request", "seed")})


def _union(sources: Sequence[Source]) -> TableRecipe:
    """The recipe that asks for all that the runs asked for."""
    first = sources[0]
    data = first.recipe.model_dump(mode="json", exclude={"resolved"}, exclude_none=True)
    for source in sources[1:]:
        for what in ("original", "protocol"):
            if source.recipe.resolved.get(what) != first.recipe.resolved.get(what):
                raise UsageError(
                    f"{first.folder} and {source.folder} have another {what}: their numbers do"
                    " not belong in one table."
                )
        for title, group in source.recipe.groups.items():
            mine = data["groups"].get(title)
            theirs = group.model_dump(mode="json", exclude_none=True)
            data["groups"][title] = (
                theirs if mine is None else _both(mine, theirs, title, first.folder, source.folder)
            )
    seeds = list(
        dict.fromkeys(s for one in sources for s in one.recipe.seeds or (one.recipe.seed,))
    )
    data |= {"seed": seeds[0], "seeds": seeds if len(seeds) > 1 else []}
    return make_recipe(data, where="the merged recipe")


def _both(mine: Row, theirs: Row, title: str, here: Path, there: Path) -> Row:
    """A group of two recipes as one."""
    for what in ("kind", "dataset", "anchor"):
        if mine.get(what) != theirs.get(what):
            raise UsageError(f"{here} and {there} have another {what} in the group {title}.")
    for label in mine["methods"].keys() & theirs["methods"].keys():
        if mine["methods"][label] != theirs["methods"][label]:
            raise UsageError(
                f"{here} and {there} have other settings for {label} in the group {title}."
            )
    names = "all"
    if "all" not in (mine["names"], theirs["names"]):
        names = list(dict.fromkeys([*mine["names"], *theirs["names"]]))
    return {**mine, "names": names, "methods": {**mine["methods"], **theirs["methods"]}}
