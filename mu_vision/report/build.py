"""Write the report of a run: one HTML file that needs nothing else.

Style sheet, pictures and plots lie in the file itself; it works without a network and without
JavaScript, in light and dark, on a desk and on a phone. Every text that comes from a user is
escaped by jinja2.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from .. import __version__, files
from . import attacks, pictures, views
from .brought_back import brought_back
from .labels import ATTACKS, grouped, percent
from .plots import Plot, Point, tradeoff
from .views import ORIGINAL, ModelView

if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.answers import AnswerSet

HERE = Path(__file__).parent
SEEDS_SHOWN = 5


@dataclass
class ReportData:
    """Everything a report shows.

    Attributes:
        name: of the run.
        request: JSON of a ``ConceptRequest``, or of several; None when nothing was asked for.
        scorecards: model name -> ``Scorecard.to_json()``; the untouched model is ``original``.
        answers: model name -> answer set; a model without one has no pictures in the report.
        concepts: model name -> pictures of a request in free words.
        attacked: model name -> attack -> [N, H, W, 3] uint8, its pictures of the N cases.
        unattacked: model name -> [2, N, H, W, 3] uint8, the target pictures and its own without
            attack; models and attacks may be missing in both.
        recipe: the resolved recipe as YAML.
        environment: versions and machine, ``environment.environment()``.
        methods: model name -> what was recorded of the edit, its folder's ``mu_vision.json``.
        protocol: JSON of the ``Protocol``; it names the published numbers to set beside ours.
        model: name or path of the untouched model.
        command: what to type to make this run again; made from ``name`` by default.
    """

    name: str
    request: Any
    scorecards: Mapping[str, Mapping[str, Any]]
    answers: Mapping[str, AnswerSet] = field(default_factory=dict)
    concepts: Mapping[str, AnswerSet] = field(default_factory=dict)
    attacked: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    unattacked: Mapping[str, np.ndarray] = field(default_factory=dict)
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    command: str = ""


@dataclass
class TableData:
    """Several requests by several methods.

    Attributes:
        rows: one dict a (request, method): ``kind``, ``request``, ``method``, ``ua``, ``ira``,
            ``cra`` in percent; any further number is shown in a column of its own.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    command: str = ""


def write_report(data: ReportData, path: Path | str) -> Path:
    """Write the report of one request (or several at once) as one HTML file."""
    return _write("report.html.j2", report_context(data), path)


def write_table(data: TableData, path: Path | str) -> Path:
    """Write the report of a table of requests x methods as one HTML file."""
    from .table import table_context

    return _write("table.html.j2", {**_common(data), **table_context(data)}, path)


def write_page(template: str, data: Any, context: Mapping[str, Any], path: Path | str) -> Path:
    """Write a page of another kind, with the foot that all have."""
    return _write(template, {**_common(data), **context}, path)


def write_plain(template: str, context: Mapping[str, Any], path: Path | str) -> Path:
    """Write a page that has no run behind it."""
    return _write(template, {**_style(), **context}, path)


def _style() -> dict[str, Any]:
    css = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return {"css": css, "version": __version__}


def _write(template: str, context: Mapping[str, Any], path: Path | str) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(context)
    files.write_text(path, text)
    return Path(path)


def _common(data: ReportData | TableData) -> dict[str, Any]:
    """What both pages show at their foot."""
    return {
        **_style(),
        "data": data,
        "command": data.command or f"mu-vision run {shlex.quote(data.name)}",
        "environment": views.flat(data.environment),
        "protocol": views.flat(data.protocol),
        "protocol_title": data.protocol.get("title") or data.protocol.get("name") or "",
        "percent": percent,
        "published_columns": list(views.PUBLISHED.values()),
    }


def report_context(data: ReportData) -> dict[str, Any]:
    """Everything that the template needs, already worded."""
    requests = views.requests_of(data.request)
    target = views.target_text(requests)
    models = views.model_views(data)
    original = next((m for m in models if m.original), None)
    kind = requests[0]["kind"] if requests else "style"
    measured = any(m.ua is not None or m.kept is not None for m in models)
    published = views.published_view(data.protocol, kind) if measured else []
    about = data.protocol.get("robustness") or {}
    first = views.target_text(requests[:1])  # of several concepts the first one is attacked
    attacked = attacks.attack_context(models, data.protocol, first)
    groups = grouped(name for model in models for name in model.values)
    if all(title == ATTACKS for title, _ in groups):
        groups = []  # the table of attacks says all that and more
    return {
        **_common(data),
        "requests": requests,
        "target": target,
        "kind": kind,
        "on_grid": any("cra" in model.values for model in models),
        "target_names": [r["name"] for r in requests],
        "models": models,
        "original": original,
        "edited": [m for m in models if not m.original],
        "headline": views.headline(models, target, first),
        "notices": views.notices(models),
        "groups": groups,
        "attacks": attacked,
        "back": brought_back(data, attacked["models"], first) if attacked else [],
        "attack_target": first,
        "blur": bool(about.get("blur")) or any(m.robustness.get("blur") for m in models),
        "prompts_note": attacks.prompts_note(bool(attacked)),
        "walls": _walls(data, requests, models),
        "plot": _plot(models, published),
        "published": published,
        "ours": views.our_rows(models),
        "notes": {m.key: views.method_note(m.key, data.methods.get(m.key, {})) for m in models},
        "thresholds": (views.FORGOT, views.KEPT),
    }


def _plot(models: Sequence[ModelView], published: Sequence[Mapping[str, Any]]) -> Plot | None:
    points = []
    for model in models:
        if model.ua is None or model.kept is None:
            continue
        ua = model.values["ua"]
        interval = None if ua.low is None or ua.high is None else (ua.low, ua.high)
        kind = "original" if model.original else "ours"
        points.append(Point(model.title, model.ua, model.kept, kind, model.colour, interval))
    if not points:
        return None
    return tradeoff([*points, *published_points(published)])


def published_points(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Published rows that have all three rates, as points of the trade-off plot."""
    return [
        Point(row["method"], row["ua"], (row["ira"] + row["cra"]) / 2, "published")
        for row in rows
        if row["ira"] is not None and row["cra"] is not None
    ]


def _walls(
    data: ReportData, requests: Sequence[Mapping[str, Any]], models: Sequence[ModelView]
) -> dict[str, Any]:
    """The grids of pictures: the target, everything else, and the target at further seeds."""
    sets = {key: answers for key, answers in data.answers.items() if len(answers)}
    shown = {m.key: m.title for m in models if m.key in sets}
    first = next(iter(sets.values()), None)
    if first is None or not len(first.object_names):
        return {"target": None, "kept": None, "more": []}
    lookup = {key: _lookup(sets[key]) for key in shown}
    if not len(first.style_names):
        return _class_walls([r["name"] for r in requests], first.object_names, shown, lookup)
    styles, objects = list(first.style_names), list(first.object_names)
    seeds = list(dict.fromkeys(int(s) for s in first.seeds))[:SEEDS_SHOWN]
    kind = requests[0]["kind"] if requests else "concept"
    known = styles if kind == "style" else objects
    names = [r["name"] for r in requests if r["kind"] == kind and r["name"] in known]

    def grid(choose: Any, seed: int) -> pictures.Wall:
        cells, columns = choose(kind, names, styles, objects, seed)
        return pictures.wall(cells, columns, shown, lookup)

    target = [grid(pictures.target_cells, seed) for seed in seeds] if names else []
    if not target and data.concepts:
        target = [_concept_wall(data.concepts, {m.key: m.title for m in models})]
    return {
        "target": target[0] if target else None,
        "kept": grid(pictures.kept_cells, seeds[0]),
        "more": list(zip(seeds, target))[1:],
        "seed": seeds[0],
    }


def _class_walls(
    targets: Sequence[str], classes: Sequence[str], shown: Mapping[str, str], lookup: Any
) -> dict[str, Any]:
    """Pictures of one label each: the first ones of the target, and one of every other class."""
    asked = [("", name, k) for name in targets for k in range(10 // len(targets))]
    others = [("", name, 0) for name in classes if name not in targets]

    def grid(cells: Sequence[pictures.Cell]) -> pictures.Wall:
        columns = [(name, f"picture {k + 1}") for _, name, k in cells]
        return pictures.wall(cells, columns, shown, lookup)

    target = grid(asked) if asked else None
    return {"target": target, "kept": grid(others), "more": [], "seed": 0}


def _concept_wall(
    sets: Mapping[str, AnswerSet], titles: Mapping[str, str], most: int = 10
) -> pictures.Wall:
    """The first pictures of a request in free words, its prompts in turn."""

    def cells_of(answers: AnswerSet) -> list[pictures.Cell]:
        drawn = zip(answers.prompts, answers.seeds, strict=True)
        return [(prompt, "", int(seed)) for prompt, seed in drawn][:most]

    lookup = {key: dict(zip(cells_of(a), a.pictures)) for key, a in sets.items()}
    shown = {key: title for key, title in titles.items() if key in sets}
    cells = cells_of(next(iter(sets.values())))
    return pictures.wall(cells, [(cell[0], "") for cell in cells], shown, lookup)


def _lookup(answers: AnswerSet) -> dict[tuple[str, str, int], Any]:
    return {
        (answers.style_names[s] if s >= 0 else "", answers.object_names[o], int(seed)): pixels
        for s, o, seed, pixels in zip(
            answers.styles, answers.objects, answers.seeds, answers.pictures, strict=True
        )
        if o >= 0
    }


__all__ = ["ORIGINAL", "ReportData", "TableData", "report_context", "write_report", "write_table"]
