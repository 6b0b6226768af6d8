"""What the report shows, taken out of scorecards: verdicts, warnings, cells, facts.

Templates only lay out; every sentence is made here, where it can be tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from . import attacks
from .labels import Value, number, percent, value_of

if TYPE_CHECKING:
    from .build import ReportData

ORIGINAL = "original"
# UA of at least this much -> how we say it; the report prints this table
FORGOT = ((0.95, "forgot"), (0.80, "mostly forgot"), (0.50, "half forgot"), (0.0, "did not forget"))
# mean of IRA and CRA as a share of the original's
KEPT = ((0.95, "kept the rest"), (0.85, "kept most of the rest"), (0.0, "damaged the rest"))
# the three shapes of a method in plain words, by the name of its base class
SHAPES = {
    "GradientUnlearner": "trains a part of the weights until prompts for the target lead elsewhere",
    "ClosedFormUnlearner": "rewrites a part of the weights by solving one equation, without training",
    "AdversarialUnlearner": "trains against an opponent that tries to bring the target back",
}


@dataclass(frozen=True)
class Cells:
    """Right answers of a judge in every cell.

    Attributes:
        hits: [S, O] int.
        total: pictures a cell.
    """

    judge: str
    styles: list[str]
    objects: list[str]
    hits: np.ndarray
    total: int

    def rows(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Per style: its name and its cells as (percent text, colour step 0..10, title)."""
        return [
            (style, [self._cell(style, o, hit) for o, hit in zip(self.objects, hits, strict=True)])
            for style, hits in zip(self.styles, self.hits, strict=True)
        ]

    def _cell(self, style: str, thing: str, hit: int) -> dict[str, Any]:
        share = hit / self.total
        return {
            "object": thing,
            "text": f"{100 * share:.0f}",
            "step": round(10 * share),
            "title": f"{style}, {thing}: {hit} of {self.total} right",
        }


@dataclass
class ModelView:
    """One model of the report.

    Attributes:
        colour: number of its colour in the style sheet, 0 for the original.
        became: what the target's pictures were taken for: (label, count, share), most first.
        same_pictures: its answer set equals the original's, bit for bit.
        collapsed: the evaluator found its pictures ruined.
        facts: hashes and counts of its answer set.
        robustness: what attacks found, empty if it was not attacked.
    """

    key: str
    title: str
    colour: int
    values: dict[str, Value]
    warnings: list[str] = field(default_factory=list)
    cells: list[Cells] = field(default_factory=list)
    became: list[tuple[str, int, float]] = field(default_factory=list)
    same_pictures: bool = False
    collapsed: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    robustness: Mapping[str, Any] = field(default_factory=dict)

    @property
    def original(self) -> bool:
        return self.colour == 0

    @property
    def ua(self) -> float | None:
        return self._rate("ua")

    @property
    def kept(self) -> float | None:
        """Mean of IRA and CRA; IRA where pictures have one label alone."""
        ira, cra = self._rate("ira"), self._rate("cra")
        return ira if ira is None or cra is None else (ira + cra) / 2

    @property
    def kept_is(self) -> str:
        return "mean of IRA and CRA" if "cra" in self.values else "IRA"

    def _rate(self, name: str) -> float | None:
        return self.values[name].value if name in self.values else None


def colours(names: Iterable[str], own: Mapping[str, int] | None = None) -> dict[str, int]:
    """A number of the style sheet's colours for each model, one and the same on the whole page.

    Args:
        names: all models of the page; after six the colours come again.
        own: colours that no other model has, besides the original's grey.
    """
    fixed = {ORIGINAL: 0} | dict(own or {})
    free = [number for number in range(1, 7) if number not in fixed.values()]
    others = [name for name in dict.fromkeys(names) if name not in fixed]
    return fixed | {name: free[k % len(free)] for k, name in enumerate(others)}


def model_views(data: ReportData) -> list[ModelView]:
    """One view a scorecard, the original first."""
    keys = sorted(data.scorecards, key=lambda key: key != ORIGINAL)
    painted = colours(keys)
    base, views = data.answers.get(ORIGINAL), []
    for key in keys:
        card, answers = data.scorecards[key], data.answers.get(key)
        flags = card.get("flags") or {}
        robustness = card.get("robustness") or {}
        # attacks have a section of their own, with their warnings in it
        apart = robustness.get("warnings", ())
        same = bool(flags.get("no_op") or flags.get("unchanged_pictures"))
        if key != ORIGINAL and base is not None and answers is not None:
            same = same or bool(np.array_equal(base.pictures, answers.pictures))
        views.append(
            ModelView(
                key,
                title_of(key),
                painted[key],
                {name: value_of(metric) for name, metric in card["metrics"].items()},
                [str(text) for text in card.get("warnings", ()) if text not in apart],
                cells_of(card),
                became_of(card),
                same,
                bool(flags.get("collapsed")),
                facts_of(card),
                robustness,
            )
        )
    return views


def word(table: Sequence[tuple[float, str]], value: float) -> str:
    """The words of the first threshold that the value reaches."""
    return next(words for least, words in table if value >= least)


def clause(
    view: ModelView, target: str, original: ModelView | None, attacked: str | None = None
) -> str:
    """What one method did, and what attacks undid, as part of a sentence.

    Args:
        view: the edited model.
        target: everything that was to be forgotten.
        original: the untouched model.
        attacked: the part of the target that attacks want back, if it is not all.
    """
    if view.same_pictures:
        return f"{view.title} changed nothing: it draws the original's pictures, bit for bit"
    if view.ua is None and view.robustness:
        return attacks.audited(view.title, view.robustness, attacked or target)
    said = _edit(view, target, original)
    if not view.robustness or view.ua is None:
        return said
    forgot = view.ua >= FORGOT[1][0]
    return said + attacks.under_attack(view.robustness, attacked or target, forgot)


def _shown(view: ModelView, target: str, original: ModelView | None) -> str:
    """Of a table of prompts: many of them lead nowhere in any model, so the original stands beside."""
    said = f"{view.title} shows {target} in {percent(view.values['shown'].value)} of its pictures"
    if original and "shown" in original.values:
        said += f", the original in {percent(original.values['shown'].value)}"
    return said + (", but with picture quality lost" if view.collapsed else "")


def _edit(view: ModelView, target: str, original: ModelView | None) -> str:
    """What one method did to the protocol's own pictures."""
    if view.ua is None:
        return f"{view.title} was not asked to forget anything that a judge knows"
    if "shown" in view.values:
        return _shown(view, target, original)
    # a UA that comes with ruined pictures must not read like forgetting
    verb = "lost" if view.collapsed else word(FORGOT, view.ua)
    forgot = f"{view.title} {verb} {target} ({percent(view.ua)})"
    if original and original.ua is not None and original.ua >= FORGOT[2][0]:
        # what the original never drew cannot be forgotten
        return (
            f"{view.title} does not draw {target} in {percent(view.ua)} of its pictures, but"
            f" neither does the original in {percent(original.ua)}, so nothing is shown"
        )
    if view.collapsed:
        forgot += " together with picture quality"
    if view.kept is None:
        return forgot
    base = original.kept if original and original.kept else 1.0
    kept = word(KEPT, view.kept / base)
    good = view.ua >= FORGOT[1][0] and not view.collapsed
    join = "and" if good == (kept != KEPT[-1][1]) else "but"
    beside = f", the original {percent(base)}" if base < 0.9 else ""
    return f"{forgot} {join} {kept} ({percent(view.kept)}{beside})"


def headline(views: Iterable[ModelView], target: str, attacked: str | None = None) -> str:
    """The verdict over all methods in one sentence."""
    views = list(views)
    original = next((v for v in views if v.original), None)
    clauses = [clause(v, target, original, attacked) for v in views if not v.original]
    if not clauses:
        return "No method was run: these are the numbers of the original model."
    return "; ".join(clauses) + "."


def notices(models: Iterable[ModelView]) -> list[tuple[str, str, bool]]:
    """(model, sentence, serious) of all warnings, the serious ones first."""
    found = []
    for model in models:
        serious = model.same_pictures or model.collapsed
        if model.same_pictures and not model.warnings:
            text = "is a no-op: its pictures equal the original's, bit for bit."
            found.append((model.title, text, True))
        found += [(model.title, warning, serious) for warning in model.warnings]
    return sorted(found, key=lambda notice: not notice[2])


def requests_of(request: Any) -> list[dict[str, Any]]:
    """One request, several, or none, as a list of dicts."""
    if request is None:
        return []
    return [dict(request)] if isinstance(request, Mapping) else [dict(r) for r in request]


def target_text(requests: Sequence[Mapping[str, Any]]) -> str:
    names = [str(r["name"]).replace("_", " ") for r in requests]
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def title_of(key: str) -> str:
    """``esd_text`` -> ``ESD text``: a method's name as it is written, and what a label adds to it."""
    from .. import registry

    if key == ORIGINAL:
        return "Original"

    for method in sorted(registry.classes("method"), key=lambda cls: len(cls.name), reverse=True):
        if key == method.name or key.startswith(f"{method.name}_"):
            title = method.title or _spelled(method.name)
            return title + key[len(method.name) :].replace("_", " ")
    return key.replace("_", " ")


def _spelled(name: str) -> str:
    """A method without a title: a short name is an abbreviation."""
    return name.upper() if len(name) <= 4 else name.replace("_", " ")


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one list of ``a.b: text`` lines; what is empty is left out."""
    lines: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            lines.update(flat(value, f"{prefix}{key}."))
        elif value is not None and value != "" and value != [] and value != ():
            many = isinstance(value, (list, tuple))
            lines[f"{prefix}{key}"] = ", ".join(map(str, value)) if many else str(value)
    return lines


def cells_of(card: Mapping[str, Any]) -> list[Cells]:
    """The judges' right answers by style and object."""
    return [
        Cells(judge, cells["styles"], cells["objects"], np.array(cells["hits"]), cells["total"])
        for judge, cells in (card.get("cells") or {}).items()
    ]


def became_of(card: Mapping[str, Any], most: int = 5) -> list[tuple[str, int, float]]:
    """What the pictures of the target were taken for, most frequent first."""
    counts = card.get("became") or {}
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [(label, count, count / total) for label, count in ranked if count][:most]
    rest = total - sum(count for _, count, _ in shown)
    return [*shown, ("others", rest, rest / total)] if rest else shown


ANSWER_FACTS = {
    "pictures": "pictures",
    "fingerprint": "weights, SHA-256",
    "sha256": "pictures, SHA-256",
    "key": "key of the answer set",
}


def facts_of(card: Mapping[str, Any]) -> dict[str, str]:
    """Hashes and counts of a model's answer set."""
    answers = flat(card.get("answers") or {})
    return {ANSWER_FACTS.get(key, key.replace("_", " ")): text for key, text in answers.items()}


def method_note(key: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a method is, in the words of its class, and how it was set.

    Args:
        key: the model's name in the run; the method's name if the record has none.
        record: the model folder's ``mu_vision.json``, or nothing.
    """
    from .. import registry

    name = str(record.get("method") or key)
    method = {cls.name: cls for cls in registry.classes("method", "diffusion")}.get(name)
    bases = [base.__name__ for base in method.__mro__] if method else []
    facts: dict[str, str] = {}
    if "seconds" in record:
        facts["time of the edit"] = f"{number(record['seconds'])} s"
    if "peak_memory_gb" in record:
        facts["peak memory of the edit"] = f"{number(record['peak_memory_gb'])} GB"
    for fact, value in (record.get("report") or {}).items():
        facts[fact.replace("_", " ")] = summary(value)
    return {
        "title": title_of(key),
        "words": " ".join((method.__doc__ or "").split("\n\n")[0].split()) if method else "",
        "paper": getattr(method, "paper", None),
        "shape": next((words for base, words in SHAPES.items() if base in bases), ""),
        "settings": flat(record.get("settings") or {}),
        "facts": facts,
    }


def summary(value: Any) -> str:
    """One line of what a method reports: long tables by their mean, largest value and length."""
    if isinstance(value, Mapping):
        numbers = [v for v in value.values() if isinstance(v, int | float)]
        if numbers and len(numbers) == len(value):
            mean = sum(numbers) / len(numbers)
            return f"mean {number(mean)}, largest {number(max(numbers))}, of {len(numbers)}"
    if isinstance(value, Mapping | list | tuple):
        return {0: "none", 1: "1 entry"}.get(len(value), f"{len(value)} entries")
    return number(value) if isinstance(value, float) else str(value)


PUBLISHED = {
    "ua": "UA", "ira": "IRA", "cra": "CRA", "fid_unlearncanvas": "FID", "seconds": "time, s",
    "memory_gb": "memory, GB", "storage_gb": "storage, GB",
}  # fmt: skip


def published_view(protocol: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The benchmark's own rows of the published table that the protocol names.

    Rows of later papers are left out: they were measured with other prompts.
    """
    if not protocol.get("published"):
        return []
    from ..evaluation.protocol import Protocol
    from ..evaluation.published import published_rows

    rows = published_rows(Protocol.model_validate(protocol), kind)
    rows = [row for row in rows if row["paper"] == rows[0]["paper"]]
    for row in rows:
        row["texts"] = [_published_text(column, row[column]) for column in PUBLISHED]
    return rows


def _published_text(column: str, value: float | None) -> str:
    if value is None:
        return "–"
    if column in ("ua", "ira", "cra"):
        return f"{100 * value:.2f}"
    return f"{value:,.0f}" if column == "seconds" else str(value)


def our_rows(models: Iterable[ModelView]) -> list[dict[str, Any]]:
    """Our models as rows of the published table; only what has the same name has a value."""
    names = {"memory_gb": "peak_memory_gb"}
    rows = []
    for model in models:
        found = [model.values.get(names.get(column, column)) for column in PUBLISHED]
        texts = [
            "–" if v is None else f"{100 * v.value:.2f}" if v.share else number(v.value)
            for v in found
        ]
        rows.append({"title": model.title, "colour": model.colour, "texts": texts})
    return rows
