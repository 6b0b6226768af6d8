"""Protocols of classes: pictures of every class of a label-conditional model.

    kind: classes

The third kind of protocol, beside a grid of styles and objects (``protocol.py``) and a table of
prompts (``prompts.py``): ``per_class`` pictures of every class, each from a first latent that is a
function of (seed, class, number) alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from ..data.cards import DatasetCard, load_card
from ..errors import MissingFiles, UsageError, unknown
from ..validation import merged, validated
from .protocol import ClipFile, Collapse, JudgeFile, LocalFile, Minimum, Strict, missing_files


class RealPictures(Strict):
    """Which real pictures stand beside the drawn ones.

    Attributes:
        split: the card's split that they come from.
        per_cell: how many of it for each object and style.
        styles: a part of the card's styles, those that the model was trained on; all by default.
    """

    split: str = "test"
    styles: tuple[str, ...] | None = Field(None, min_length=1)
    per_cell: int = Field(25, ge=1)


class ClassProtocol(Strict):
    """Classes x pictures, a sampler, a judge, and CLIP for what has no label.

    Attributes:
        classes: a part of the card's objects; all by default.
        per_class: pictures of each.
        seed: of the first latents.
        size: side of the square pictures in pixels; the model must draw them so.
        neighbours: k of precision and recall.
        splits: of the Inception Score.
        steps, guidance, negative, precision, batch: as in ``Protocol``; a distilled model draws in
            the steps that it was made for.
    """

    kind: Literal["classes"]
    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    title: str = ""
    summary: str = ""
    dataset: str
    classes: tuple[str, ...] | None = Field(None, min_length=2)
    per_class: int = Field(100, ge=4)
    seed: int = Field(0, ge=0)
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=0)
    negative: str = ""
    size: int = Field(ge=8)
    precision: Literal["no", "bf16"] = "no"
    batch: int = Field(64, ge=1)
    judge: str | JudgeFile
    clip: str | ClipFile
    real: RealPictures = RealPictures()
    neighbours: int = Field(3, ge=1)
    splits: int = Field(1, ge=1)
    minimum: Minimum = Minimum()
    collapse: Collapse = Collapse()
    jpeg_quality: ClassVar[None] = None
    robustness: ClassVar[None] = None

    @cached_property
    def card(self) -> DatasetCard:
        """The dataset card.

        Raises:
            UsageError: if it is not of rendered pictures, or lacks a class.
        """
        card = load_card(self.dataset)
        if card.kind != "rendered":
            raise UsageError(
                f"{card.title} is not rendered here; a protocol of classes takes its real pictures"
                " from a data set that is, e.g. minicanvas."
            )
        for name in self.classes or ():
            if name not in card.object_names:
                raise unknown(f"object of {card.title}", name, card.object_names)
        for name in self.real.styles or ():
            if name not in card.style_names:
                raise unknown(f"style of {card.title}", name, card.style_names)
        return card

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes, in the card's order."""
        known = self.card.object_names
        return tuple(name for name in known if self.classes is None or name in self.classes)

    def pictures(self) -> int:
        """How many pictures a model draws."""
        return len(self.names) * self.per_class

    def files(self) -> list[LocalFile]:
        """The files that the user has to have."""
        return [place for place in (self.judge, self.clip) if isinstance(place, LocalFile)]

    def contents(self) -> dict[str, str]:
        """Hashes of the user's files that decide what is drawn: none."""
        return {}

    def check_files(self) -> None:
        """Raise if a file is not there.

        Raises:
            UsageError: one sentence that says what to fetch and where to put it.
        """
        if said := missing_files(self.name, self.files()):
            raise MissingFiles(said[0])

    def check_names(self) -> None:
        """Look up every name that the protocol uses; see ``card``."""
        _ = self.names

    def changed(self, changes: Mapping[str, Any], where: str) -> ClassProtocol:
        """The protocol with some values changed; of nested ones only those that are given."""
        return validated(type(self), merged(self.model_dump(), changes), where)
