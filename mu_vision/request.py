"""What to forget, as one object that methods, evaluators and reports share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .errors import UsageError

if TYPE_CHECKING:
    from .data.cards import Names


class ConceptRequest(BaseModel):
    """A concept that a generative model has to forget.

    The texts come in two sorts, the plain ones first: texts that name the concept alone
    ("neon style"), and whole captions that hold it ("A cat image in neon style.").
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["style", "object", "concept"]
    name: str = Field(min_length=1, description="name on the card, or free text")
    prompts: tuple[str, ...] = Field(
        min_length=1, description="texts to erase; the first is the plain name"
    )
    plain: int = Field(0, ge=0, description="how many of the first prompts name it alone; 0: all")
    anchor: str | None = Field(
        None, description="harmless text that takes its place; '' is the null prompt, None for none"
    )
    anchors: tuple[str, ...] = Field((), description="the anchor of each prompt, in their order")
    keep: tuple[str, ...] = Field((), description="texts of concepts to keep")
    plain_keep: int = Field(
        0, ge=0, description="how many of the first kept texts are plain; 0: all"
    )
    dataset: str | None = Field(None, description="card that the concept comes from")
    synonyms: tuple[str, ...] = Field((), description="other names of it, of which nothing is kept")

    @model_validator(mode="after")
    def _aligned(self) -> ConceptRequest:
        if self.anchors and len(self.anchors) != len(self.prompts):
            raise ValueError(
                f"there are {len(self.prompts)} prompts but {len(self.anchors)} anchors"
            )
        return self

    @property
    def slug(self) -> str:
        """``style-neon``: a name for folders."""
        text = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return f"{self.kind}-{text or 'unnamed'}"

    def all_names(self) -> list[str]:
        """Every text that names the concept: its plain prompts, its name and its synonyms."""
        plain = self.prompts[: self.plain or len(self.prompts)]
        return list(dict.fromkeys([self.name.replace("_", " "), *plain, *self.synonyms]))

    def pairs(self, texts: Literal["all", "names", "captions"] = "all") -> list[tuple[str, str]]:
        """(prompt, its anchor) for all texts, those that name the concept alone, or captions.

        Without an anchor the null prompt takes its place. A request that has no captions gives
        its names for ``captions``.
        """
        anchors = self.anchors or (self.anchor or "",) * len(self.prompts)
        return _part(list(zip(self.prompts, anchors, strict=True)), self.plain, texts)

    def kept(self, texts: Literal["all", "names", "captions"] = "all") -> list[str]:
        """The texts to keep: all, those that name a concept alone, or whole captions."""
        return _part(list(self.keep), self.plain_keep, texts)


def _part(items: list, plain: int, texts: str) -> list:
    plain = plain or len(items)
    if texts == "all":
        return items
    return items[:plain] if texts == "names" else items[plain:] or items


def concept_request(
    kind: Literal["style", "object", "concept"],
    name: str,
    dataset: str | None = "minicanvas",
    anchor: str | None = None,
    prompts: Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
) -> ConceptRequest:
    """Make a request; what is not given is filled from the dataset card.

    Args:
        kind: ``style`` or ``object`` of a card, or ``concept`` for free text.
        name: the card's name of the style or object, or the free text.
        dataset: card's name or path; not used for free text.
        anchor: what takes its place: another style or object of the card, or any text. Default:
            the card's photo style, the next object of the card, or the null prompt for free text.
        prompts: texts to erase in place of the card's.
        keep: texts of concepts to keep in place of the card's.

    Raises:
        UsageError: if the card has no such style or object (the nearest name is suggested).
    """
    if not name.strip():
        raise UsageError("The concept to erase has no name: give a style, an object or a text.")
    if prompts is not None and not (prompts and all(text.strip() for text in prompts)):
        raise UsageError(
            f"The prompts of {name!r} must name it: give at least one text and no empty one, or"
            " leave them out."
        )
    if kind == "concept":
        texts = tuple(prompts or (name,))
        return ConceptRequest(
            kind=kind, name=name, prompts=texts, anchor=anchor or "", keep=tuple(keep or ())
        )
    if kind not in ("style", "object"):
        raise UsageError(f"A request is for a style, an object or a concept, not {kind!r}.")
    from .data.cards import load_card

    card = load_card(dataset or "minicanvas")
    filled = _of_style(card, name, anchor) if kind == "style" else _of_object(card, name, anchor)
    if prompts:
        anchors = (filled["anchor"],) * len(prompts)
        filled.update(prompts=tuple(prompts), anchors=anchors, plain=0)
    if keep is not None:
        filled.update(keep=tuple(keep), plain_keep=0)
    return ConceptRequest(kind=kind, name=name, dataset=card.name, **filled)


def _of_style(card, style: str, anchor: str | None) -> dict:
    text, others = card.style_text(style), [s for s in card.style_names if s != style]
    default = card.photo_style if card.photo_style != style else others[0]
    anchor = default if anchor is None else anchor
    harmless = card.style_text(anchor) if anchor in card.styles else None
    sentences = card.style_only or ("{style} style",)
    pairs = [
        (alone.format(style=text), anchor if harmless is None else alone.format(style=harmless))
        for alone in sentences
    ]
    for thing in card.object_names:
        instead = anchor if harmless is None else card.prompt(thing, anchor)
        pairs.append((card.prompt(thing, style), instead))
    names = [_style_alone(card, s) for s in others] + _objects_alone(card)
    captions = [card.prompt(thing, s) for s in others for thing in card.object_names]
    return _filled(pairs, len(sentences), names, captions, card.styles[style])


def _of_object(card, thing: str, anchor: str | None) -> dict:
    text, everything = card.object_text(thing), card.object_names
    others = [o for o in everything if o != thing]
    if anchor is None:
        anchor = everything[(everything.index(thing) + 1) % len(everything)]
    harmless = card.object_text(anchor) if anchor in card.objects else None
    sentences = card.object_only or ("{object}",)
    pairs = [
        (alone.format(object=text), anchor if harmless is None else alone.format(object=harmless))
        for alone in sentences
    ]
    for style in card.style_names:
        instead = anchor if harmless is None else card.prompt(anchor, style)
        pairs.append((card.prompt(thing, style), instead))
    styles = [_style_alone(card, style) for style in card.style_names]
    names = [card.object_text(other) for other in others] + styles
    captions = [card.prompt(other, style) for other in others for style in card.style_names]
    return _filled(pairs, len(sentences), names, captions, card.objects[thing])


def _filled(
    pairs: list[tuple[str, str]], plain: int, names: list, captions: list, known: Names
) -> dict:
    return {
        "synonyms": (*known.names, *known.held_out),
        "prompts": tuple(prompt for prompt, _ in pairs),
        "anchors": tuple(instead for _, instead in pairs),
        "anchor": pairs[0][1],
        "plain": plain,
        "keep": (*names, *captions),
        "plain_keep": len(names),
    }


def _style_alone(card, style: str) -> str:
    text = card.style_text(style)
    return card.style_only[0].format(style=text) if card.style_only else f"{text} style"


def _objects_alone(card) -> list[str]:
    return [card.object_text(thing) for thing in card.object_names]
