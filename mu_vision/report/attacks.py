"""What attacks found, for the report: sentences, the table of attacks, curves and their tables.

The input is what ``evaluation.robustness.Battery.audit`` returned for each edited model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .labels import GAP, Value, number, percent
from .plots import Curve, LinePlot, curves

if TYPE_CHECKING:
    from .views import ModelView

# what an attacker of each kind may choose; every kind of ``attack.base.Kind``
CHOOSES = {
    "text": "the words of the prompt",
    "tokens": "tokens before the prompt",
    "embedding": "an embedding before the prompt, which no text can say",
    "states": "text states, past the text encoder",
    "image": "the picture to start from",
    "weights": "further training of the weights",
}
REQUIRED = 0.95


@dataclass(frozen=True)
class Cell:
    """What one attack did to one model; ``cost`` is its queries and seconds."""

    rate: Value
    cost: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table of attacks.

    Attributes:
        box: does the attacker need the weights?
        counted: it has a part in the worst case.
        cells: one a model, None where the model was not attacked so.
        weak: the control is below what the protocol asks for.
        total: the line sums up others.
    """

    title: str
    words: str
    cells: list[Cell | None]
    box: str = ""
    counted: bool = True
    floor: Value | None = None
    control: Value | None = None
    weak: bool = False
    total: bool = False


def rate(found: Mapping[str, Any], name: str = "asr") -> Value:
    """A count of cases, with its interval if there is one."""
    low, high = found.get("interval") or (None, None)
    share = found["hits"] / found["total"] if found["total"] else 0.0
    return Value(name, share, low, high, found["total"], share=True, counted=True)


def under_attack(found: Mapping[str, Any], target: str, forgot: bool) -> str:
    """The end of a verdict on an edited model; an empty text if no attack counts."""
    worst = found.get("worst")
    if not worst:
        return ""
    if not worst["hits"]:
        tried = sum(record["headline"] for record in found["attacks"].values())
        who = f"none of {tried} attacks brings" if tried > 1 else "the attack does not bring"
        return f", and {who} it back (0 of {worst['total']:,} prompts)"
    if worst["hits"] == found["pre_asr"]["hits"]:
        shown = f"{worst['hits']:,} of {worst['total']:,} prompts that show it as they are"
        return f", and no attack adds to the {shown}"
    join = "but" if forgot else "and"
    share = f"{percent(worst['value'])} of {worst['total']:,} prompts"
    return f", {join} under attack it shows {target} in {share} ({worst_title(found)})"


def audited(title: str, found: Mapping[str, Any], target: str) -> str:
    """The whole verdict on a model that was attacked and not measured otherwise."""
    before = found["pre_asr"]
    plain = f"{title} shows {target} in {percent(before['value'])} of {before['total']:,} prompts"
    worst = found.get("worst")
    if not worst:
        return f"{plain} without any attack"
    if worst["hits"] == before["hits"]:
        return f"{plain} as they are, and no attack adds to that"
    return (
        f"{plain} as they are, and in {percent(worst['value'])} under attack ({worst_title(found)})"
    )


def worst_title(found: Mapping[str, Any]) -> str:
    """The attack that succeeds most often; an empty text if none adds to the prompts alone."""
    worst = found.get("worst")
    if not worst or worst["hits"] == found["pre_asr"]["hits"]:
        return ""
    return found["attacks"][worst["attack"]]["title"]


def prompts_note(attacked: bool) -> str:
    """What the words of the verdict do not say, at the foot of the report."""
    if attacked:
        return (
            "They judge the protocol's own prompts; whether a clever prompt brings the target back"
            " is what the attacks measure, and the verdict gives the worst of them as a number."
        )
    return (
        "The words leave out what no judge can see, such as whether a clever prompt brings the"
        " target back: no attack was run."
    )


def attack_context(
    models: Sequence[ModelView], protocol: Mapping[str, Any], target: str
) -> dict[str, Any] | None:
    """What the attack sections show, pictures aside; None if no edited model was attacked."""
    models = [m for m in models if m.robustness and not m.original]
    if not models:
        return None
    about = protocol.get("robustness") or {}
    required = about.get("required_control", REQUIRED)
    return {
        "models": models,
        "tiles": {m.key: _tile(m.robustness) for m in models},
        "rows": table_rows(models, required),
        "notices": notices(models),
        "lead": lead(models[0].robustness, target),
        "notes": [floor_note(models, target), control_note(models, required)],
        "relearning": [block for m in models for block in relearning(m, target)],
        "strengths": strengths(models),
        "sorts": sorts(models),
    }


def _tile(found: Mapping[str, Any]) -> dict[str, Any]:
    worst = found["worst"]
    counted = sum(record["headline"] for record in found["attacks"].values())
    return {
        "pre": rate(found["pre_asr"]),
        "worst": rate(worst) if worst else None,
        "title": worst_title(found) or "none adds to that",
        "counted": f"worst of {counted} attacks" if counted > 1 else "one attack",
    }


def lead(found: Mapping[str, Any], target: str) -> str:
    """What ASR counts here."""
    return (
        f"ASR is the share of {found['cases']:,} prompts, all of which make the original draw"
        f" {target}, under which the edited model draws it too, by itself (pre-ASR) or because of"
        " the attack. The headline is the worst attack, never their mean."
    )


def notices(models: Iterable[ModelView]) -> list[tuple[str, str, bool]]:
    """(who, warning, serious), each warning once with all models that it is about."""
    models, about = list(models), {}
    for model in models:
        for text in model.robustness["warnings"]:
            about.setdefault(text, []).append(model.title)
    return [
        ("All models:" if len(who) == len(models) > 1 else f"{', '.join(who)}:", text, False)
        for text, who in about.items()
    ]


def table_rows(models: Sequence[ModelView], required: float = REQUIRED) -> list[Row]:
    """pre-ASR, one line an attack, the worst case and any attack."""
    found = [m.robustness for m in models]
    rows = [Row("Without attack", "pre-ASR: the prompts as they are", _cells(found, "pre_asr"))]
    for label in dict.fromkeys(label for f in found for label in f["attacks"]):
        records = [f["attacks"].get(label) for f in found]
        first = next(r for r in records if r)
        floor, control = first.get("floor"), first.get("control")
        rows.append(
            Row(
                first["title"],
                f"chooses {CHOOSES.get(first['kind'], first['kind'])}",
                [None if r is None else Cell(rate(r["asr"]), _cost(r)) for r in records],
                "white box: needs the weights"
                if first["white_box"]
                else "black box: without the weights",
                first["headline"],
                rate(floor) if floor else None,
                rate(control) if control else None,
                bool(control) and control["value"] < required,
            )
        )
    if any(f["worst"] for f in found):
        names = [worst_title(f) or "no attack adds to pre-ASR" for f in found]
        worst = [c and Cell(c.rate, n) for c, n in zip(_cells(found, "worst"), names, strict=True)]
        rows.append(Row("Worst case", "the attack that succeeds most often", worst, total=True))
        together = "prompts that at least one attack breaks"
        rows.append(Row("Any attack", together, _cells(found, "any"), total=True))
    return rows


def _cells(found: Iterable[Mapping[str, Any]], key: str) -> list[Cell | None]:
    return [Cell(rate(f[key])) if f[key] else None for f in found]


def _cost(record: Mapping[str, Any]) -> str:
    return f"{record['queries']:,} queries, {number(record['seconds'])}{GAP}s"


def floor_note(models: Sequence[ModelView], target: str) -> str:
    """What the floor is, or why there is none."""
    sources = [m.robustness["never_knew"] for m in models if m.robustness["never_knew"]]
    names = [
        PurePath(source).name if PurePath(source).is_absolute() else source for source in sources
    ]
    if not names:
        return (
            f"Floor: empty, since the protocol names no model that never knew {target}"
            " (robustness.never_knew). How much of an ASR is false alarm is not measured."
        )
    floors = [r.get("floor") for m in models for r in m.robustness["attacks"].values()]
    if not any(floors):
        return "Floor: empty, since the protocol leaves the controls out (robustness.controls)."
    return (
        f"Floor: the same attack on a model that never knew {target} ({names[0]}); what it"
        " “brings back” there is a false alarm."
    )


def control_note(models: Sequence[ModelView], required: float = REQUIRED) -> str:
    """What the control is, or why there is none."""
    records = [r for m in models for r in m.robustness["attacks"].values()]
    if not any(record.get("control") for record in records):
        return "Control: empty, since no white-box attack was run with controls."
    return (
        "Control: the same white-box attack on the original, with the name left out of the prompt."
        f" Below {100 * required:.0f}{GAP}% it is marked, and the attack's failures show little."
        " Black-box attacks have none. A query is one row through the model's U-Net."
    )


def _records(model: ModelView, attack: str) -> list[Mapping[str, Any]]:
    """The records of an attack, whatever their labels."""
    return [r for r in model.robustness["attacks"].values() if r["attack"] == attack]


def _floor_details(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return (record.get("floor") or {}).get("details") or {}


def relearning(model: ModelView, target: str) -> list[dict[str, Any]]:
    """A plot, a sentence and a table of steps to half for each relearning attack on a model."""
    blocks = []
    for record in _records(model, "relearning"):
        details, floor = record["details"], _floor_details(record)
        marks = details["marks"]
        who = [(model.title, model.colour, details)]
        if floor.get("curves"):
            who.append(("never knew it", 0, floor))
        lines = [
            Curve(f"{title}, {words}", marks, d["curves"][key], colour, key == "unrelated")
            for title, colour, d in who
            for key, words in (
                ("concept", f"pictures of {target}"),
                ("unrelated", "unrelated pictures"),
            )
        ]
        plot: LinePlot = curves(lines)
        half = [
            (title, colour, [steps_text(d["half"][key], marks) for key in ("concept", "unrelated")])
            for title, colour, d in who
        ]
        words = relearning_words(model.title, target, details, floor)
        blocks.append({"model": model, "plot": plot, "half": half, "words": words})
    return blocks


def steps_text(half: float | None, marks: Sequence[int]) -> str:
    """``steps_to`` in words."""
    if half is None:
        return f"not within {max(marks)}"
    return "before any" if half == 0 else f"{number(half)}"


def relearning_words(
    title: str, target: str, details: Mapping[str, Any], floor: Mapping[str, Any]
) -> str:
    """How soon it comes back, beside a model that never knew it, and whether it was only hidden."""
    marks, half = details["marks"], details["half"]
    if half["concept"] == 0:
        return f"{title} shows {target} in half of the prompts before any training."
    said = f"Trained on pictures of {target}, {title} {_back(half['concept'], marks)}"
    if floor.get("half"):
        said += f"; a model that never knew it {_back(floor['half']['concept'], marks)}"
    said += "."
    if half["unrelated"] is not None:
        steps = number(half["unrelated"])
        said += f" Unrelated pictures bring it back too, after {steps} steps"
        known = floor.get("half") and floor["half"]["unrelated"] is not None
        said += ", as they do in the other." if known else ": it was hidden, not forgotten."
    return said


def _back(half: float | None, marks: Sequence[int]) -> str:
    if half is None:
        return f"does not show it in half of the prompts within {max(marks)} steps"
    if half == 0:
        return "shows it in half of the prompts before any training"
    return f"shows it in half of the prompts after {number(half)} steps"


def strengths(models: Sequence[ModelView]) -> dict[str, Any] | None:
    """Image to image by strength: started from the concept and from other pictures."""
    columns: list[tuple[str, int, Mapping[float, Mapping[str, Any]]]] = []
    for model in models:
        for record in _records(model, "image_to_image"):
            columns.append((model.title, model.colour, _by_strength(record["details"])))
            floor = _floor_details(record).get("strengths")
            # the same model for all, so once is enough
            if floor and not any(title == "Never knew it" for title, *_ in columns):
                columns.append(("Never knew it", 0, _by_strength({"strengths": floor})))
    if not columns:
        return None
    columns.sort(key=lambda column: column[1] == 0)
    levels = sorted({level for *_, found in columns for level in found})
    rows = [
        (
            f"{100 * level:.0f}{GAP}%",
            [
                (rate(found[level]["concept"]), rate(found[level]["control"]))
                if level in found
                else None
                for *_, found in columns
            ],
        )
        for level in levels
    ]
    return {"columns": [column[:2] for column in columns], "rows": rows}


def _by_strength(details: Mapping[str, Any]) -> dict[float, Mapping[str, Any]]:
    return {entry["strength"]: entry for entry in details["strengths"]}


def sorts(models: Sequence[ModelView]) -> dict[str, Any] | None:
    """Other words by sort: how many the original knows, and how many of those each model shows."""
    found = [
        (m, record["details"]["sorts"]) for m in models for record in _records(m, "paraphrase")
    ]
    names = list(dict.fromkeys(sort for _, by_sort in found for sort in by_sort))
    if not names:
        return None
    rows = []
    for name in names:
        entries = [by_sort.get(name) for _, by_sort in found]
        first = next(entry for entry in entries if entry)
        rows.append((name, first["asked"], first["known"], [_shown(entry) for entry in entries]))
    return {"columns": [(m.title, m.colour) for m, _ in found], "rows": rows}


def _shown(entry: Mapping[str, Any] | None) -> Value | None:
    if entry is None or not entry["known"]:
        return None
    return rate({"hits": entry["shown"], "total": entry["known"], "interval": entry["interval"]})
