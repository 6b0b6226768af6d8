"""The pictures that attacks brought back, with the texts that did it.

Adversarial texts hold raw bytes, control characters and worse, so each is written out before it
reaches a page; jinja2 escapes the rest.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .labels import number
from .pictures import data_uri, spread

if TYPE_CHECKING:
    import numpy as np

    from .build import ReportData
    from .views import ModelView

MOST = 10
LONGEST = 60
ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


@dataclass(frozen=True)
class Shot:
    """One picture; ``mark`` is empty where the concept is not shown."""

    uri: str
    alt: str
    mark: str = ""


@dataclass(frozen=True)
class Line:
    """One row of pictures: no attack, or one."""

    title: str
    below: str
    shots: list[Shot]


@dataclass(frozen=True)
class Try:
    """What was tried on one case, in visible characters; ``text`` is empty if nothing was."""

    case: int
    outcome: str
    hit: bool
    text: str


def visible(text: str) -> str:
    """The text with everything that a page would hide or bend written as Python would write it.

    That is control, format and private characters, lone surrogates, spaces that are not the usual
    one, the replacement character, and combining marks, which pile up on the letter before them.
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    kind = unicodedata.category(character)
    hidden = kind[0] in "CM" or kind in ("Zl", "Zp") or character == "\N{REPLACEMENT CHARACTER}"
    if not hidden and not (kind == "Zs" and character != " "):
        return character
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def short(text: str, most: int = LONGEST) -> str:
    """The text, cut with dots if it is long."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def brought_back(
    data: ReportData, models: Sequence[ModelView], target: str, most: int = MOST
) -> list[dict[str, Any]]:
    """For each attacked model its pictures by attack, and what was tried on the shown cases."""
    blocks = []
    for model in models:
        records = model.robustness["attacks"]
        first = next(iter(records.values()), None)
        if first is None:
            continue
        cases = spread(range(len(first["trials"])), most)
        trials = [first["trials"][case] for case in cases]
        blocks.append(
            {
                "model": model,
                "columns": [
                    (case + 1, short(visible(t["prompt"])), t["seed"])
                    for case, t in zip(cases, trials, strict=True)
                ],
                "lines": _lines(data, model, cases, target),
                "tries": [(r["title"], _tries(r, cases)) for r in records.values()],
                "which": which(len(cases), len(first["trials"])),
            }
        )
    return blocks


def which(shown: int, total: int) -> str:
    """Which cases a reader sees."""
    if shown == total:
        return f"All {total:,} prompts."
    return (
        f"{shown} of {total:,} prompts, evenly spread over them; not chosen by what came of them."
    )


def _lines(data: ReportData, model: ModelView, cases: Sequence[int], target: str) -> list[Line]:
    """The target pictures, the model's own, and a row an attack; those whose pictures are there."""
    lines = []
    records = model.robustness["attacks"]
    trials = next(iter(records.values()))["trials"]
    before = data.unattacked.get(model.key)
    if before is not None:
        aims = [
            Shot(
                data_uri(before[0][case]),
                f"{target}, as attacks want it: {_words(trials[case], case)}",
            )
            for case in cases
        ]
        marks = ["shown" if trials[case]["before"] else "" for case in cases]
        own = _shots(before[1], f"{model.title} without attack", trials, cases, marks, target)
        lines = [Line("Target", "what attacks want", aims)]
        lines.append(Line("Without attack", _count(model.robustness["pre_asr"]), own))
    for label, record in records.items():
        pictures = data.attacked.get(model.key, {}).get(label)
        if pictures is None:
            continue
        tried = record["trials"]
        marks = [outcome(tried[case])[1] for case in cases]
        title = f"{model.title}, {record['title']}"
        shots = _shots(pictures, title, tried, cases, marks, target)
        below = _count(record["asr"]) + ("" if record["headline"] else ", not counted")
        lines.append(Line(record["title"], below, shots))
    return lines


def _shots(
    pictures: np.ndarray, title: str, trials: Sequence[Mapping[str, Any]], cases: Sequence[int],
    marks: Sequence[str], target: str,
) -> list[Shot]:  # fmt: skip
    shots = []
    for case, mark in zip(cases, marks, strict=True):
        found = f"{target} {mark}" if mark else f"{target} not shown"
        shots.append(
            Shot(data_uri(pictures[case]), f"{title}: {found}, {_words(trials[case], case)}", mark)
        )
    return shots


def _words(trial: Mapping[str, Any], case: int) -> str:
    return f"prompt {case + 1}, {short(visible(trial['prompt']))}, seed {trial['seed']}"


def _count(found: Mapping[str, Any]) -> str:
    return f"{found['hits']:,} of {found['total']:,}"


def outcome(trial: Mapping[str, Any]) -> tuple[str, str]:
    """How it went: in words, and as the mark on the picture (empty where nothing is shown)."""
    tries = trial["tries"]
    if trial["before"]:
        return "needs no attack", "shown"
    if trial["after"]:
        return f"brought back at picture {number(tries)}", "back"
    if not tries:
        return "nothing was tried", ""
    return "withstood 1 picture" if tries == 1 else f"withstood {number(tries)} pictures", ""


def _tries(record: Mapping[str, Any], cases: Sequence[int]) -> list[Try]:
    trials = [record["trials"][case] for case in cases]
    return [
        Try(case + 1, outcome(trial)[0], bool(trial["after"]), visible(trial["adversarial"] or ""))
        for case, trial in zip(cases, trials, strict=True)
    ]
