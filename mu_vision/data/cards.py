"""Dataset cards: what a data set is, one Markdown file each, with a YAML header that the program reads.

A card names the styles and objects, how a caption is made of them, and which indices belong to
which split, so that requests, protocols and trainers never spell such a list themselves.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .. import resources
from ..errors import MissingFiles, UsageError, unknown
from ..validation import read_yaml, validated


class Names(BaseModel):
    """The texts that name one style or object.

    Attributes:
        names: texts that captions may use, the first one is the usual one.
        held_out: texts that no training caption uses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] = Field(min_length=1)
    held_out: tuple[str, ...] = ()


class DatasetCard(BaseModel):
    """A data set as its card describes it; the methods make prompts and captions.

    Lists keep the card's order: ``style_names`` and ``object_names`` are the class orders.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="short name, the card's file name")
    title: str = Field(description="the name as people write it")
    kind: Literal["rendered", "folder", "prompts", "labelled", "measured"] = Field(
        description="rendered by this project, a folder of pictures, a table of prompts, pictures"
        " with one label each (objects are then the classes), or samples with a value each"
    )
    summary: str = Field(description="one line for listings")
    licence: str
    source: str = Field(description="where the facts and the data come from")
    citation: str = ""
    fetch: str = Field("", description="one sentence: what to fetch and where to put it")
    hub: str | None = Field(None, description="name on the model hub")
    size: tuple[int, int] | None = Field(None, description="height and width in pixels")
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = Field(
        None, description="mean and standard deviation by channel, of values in [0, 1]"
    )
    layout: str | None = Field(None, description="path of a picture below the data set's folder")
    per_cell: int | None = Field(None, ge=1, description="pictures of each style and object")
    count: int | None = Field(None, ge=1, description="pictures or prompts in all")
    columns: dict[str, str] = Field({}, description="column of a table -> what it holds")
    template: str = Field("", description="the prompt that protocols use")
    hub_template: str = Field("", description="the caption in the hub's text column")
    photo_style: str | None = Field(None, description="the style that means a plain photo")
    paraphrases: tuple[str, ...] = ()
    held_out_paraphrases: tuple[str, ...] = ()
    style_only: tuple[str, ...] = ()
    object_only: tuple[str, ...] = ()
    articles: bool = Field(False, description="write 'an' before a vowel, except in the template")
    styles: dict[str, Names] = {}
    extra_styles: tuple[str, ...] = Field((), description="styles on disk that no protocol uses")
    objects: dict[str, Names] = {}
    splits: dict[str, tuple[int, int]] = Field({}, description="first index, and one past the last")
    body: str = Field("", description="the Markdown text below the header")

    @field_validator("styles", "objects", mode="before")
    @classmethod
    def _names_from_list(cls, value: Any) -> Any:
        """``[Van_Gogh]`` is short for ``{Van_Gogh: {names: [Van Gogh]}}``."""
        if isinstance(value, list):
            return {str(name): {"names": [str(name).replace("_", " ")]} for name in value}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DatasetCard:
        for text in (self.template, *self.paraphrases, *self.held_out_paraphrases):
            _check_template(text, {"object", "style"})
        for text in self.style_only:
            _check_template(text, {"style"})
        for text in self.object_only:
            _check_template(text, {"object"})
        if self.photo_style is not None and self.photo_style not in self.styles:
            raise ValueError(f"photo_style {self.photo_style!r} is not one of the styles")
        for name, (start, stop) in self.splits.items():
            if not 0 <= start < stop:
                raise ValueError(f"split {name!r} must run from a first index to a larger one")
        return self

    @property
    def style_names(self) -> list[str]:
        return list(self.styles)

    @property
    def object_names(self) -> list[str]:
        return list(self.objects)

    def style_text(self, style: str) -> str:
        """How a prompt names a style.

        Raises:
            UsageError: if the card has no such style; the nearest one is suggested.
        """
        return self._style(style).names[0]

    def object_text(self, object: str) -> str:
        """How a prompt names an object.

        Raises:
            UsageError: if the card has no such object; the nearest one is suggested.
        """
        return self._object(object).names[0]

    def prompt(self, object: str, style: str) -> str:
        """The protocol's prompt: ``prompt("cat", "neon")`` -> ``"A cat image in neon style."``."""
        texts = {"object": self.object_text(object), "style": self.style_text(style)}
        return self.template.format(**texts)

    def captions(self, object: str, style: str, held_out: bool = False) -> list[str]:
        """Every caption of a picture: sentences x names of the object x names of the style.

        Args:
            object: name of an object of the card.
            style: name of a style of the card.
            held_out: give only the captions that no training may show: those with a held-out
                sentence, a held-out name, or both. By default all the others, the prompt first.
        """
        things, hands = self._object(object), self._style(style)
        seen = self._fill(
            (self.template, *self.paraphrases), object=things.names, style=hands.names
        )
        if not held_out:
            return seen
        sentences = (self.template, *self.paraphrases, *self.held_out_paraphrases)
        every = self._fill(
            sentences,
            object=things.names + things.held_out,
            style=hands.names + hands.held_out,
        )
        return _without(every, seen)

    def style_captions(self, style: str, held_out: bool = False) -> list[str]:
        """Captions that name the style alone, the plain one ("neon style") first."""
        hands = self._style(style)
        return self._fill(self.style_only, style=hands.held_out if held_out else hands.names)

    def object_captions(self, object: str, held_out: bool = False) -> list[str]:
        """Captions that name the object alone, the plain one ("cat") first."""
        things = self._object(object)
        return self._fill(self.object_only, object=things.held_out if held_out else things.names)

    def split(self, name: str) -> range:
        """The indices of a split.

        Raises:
            UsageError: if the card has no such split.
        """
        if name not in self.splits:
            raise unknown(f"split of {self.title}", name, self.splits)
        return range(*self.splits[name])

    def _style(self, style: str) -> Names:
        if style not in self.styles:
            raise unknown(f"style of {self.title}", style, self.styles)
        return self.styles[style]

    def _object(self, object: str) -> Names:
        if object not in self.objects:
            raise unknown(f"object of {self.title}", object, self.objects)
        return self.objects[object]

    def _fill(self, sentences: Iterable[str], **choices: tuple[str, ...]) -> list[str]:
        """Every sentence with every combination of names, in order, each text once."""
        filled = []
        for sentence in sentences:
            for texts in itertools.product(*choices.values()):
                text = sentence.format(**dict(zip(choices, texts, strict=True)))
                fixed = self.articles and sentence != self.template
                filled.append(_article(text) if fixed else text)
        return list(dict.fromkeys(filled))


def load_card(name_or_path: str | Path) -> DatasetCard:
    """Read a card by its name (``"minicanvas"``) or from a Markdown file.

    Raises:
        UsageError: if there is no such card, or its header is not a card's; one sentence that
            names the file and the fault.
    """
    path = resources.find("card", str(name_or_path))
    where = f"The dataset card {path}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{where} cannot be read as text ({error}).") from error
    parts = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|\Z)(.*)\Z", text, re.DOTALL)
    if parts is None:
        raise UsageError(f"{where} must begin with a YAML header between two lines '---'.")
    header = read_yaml(parts[1], where)
    if "body" in header:
        raise UsageError(f"{where}: 'body' is the Markdown text below the header, not a key in it.")
    return validated(DatasetCard, {**header, "body": parts[2].strip()}, where)


def missing(name: str, root: Path | str, what: str) -> MissingFiles:
    """That a data set is not in a folder; its card says what to fetch and where to put it."""
    card = load_card(name)
    return MissingFiles(f"{card.title} cannot be read from {root}: {what}. {card.fetch}")


def _check_template(text: str, fields: set[str]) -> None:
    try:
        found = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise ValueError(f"{text!r} is not a template: {error}") from error
    if text and found != fields:
        needed = " and ".join(f"{{{field}}}" for field in sorted(fields))
        raise ValueError(f"the template {text!r} must hold {needed}, and nothing else in braces")


def _article(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def _without(texts: list[str], removed: list[str]) -> list[str]:
    gone = set(removed)
    return [text for text in texts if text not in gone]
