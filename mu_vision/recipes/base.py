"""What all recipes have in common: strict classes, requests, protocols, and how methods are named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from ..errors import UsageError
from ..validation import validated

if TYPE_CHECKING:
    from ..evaluation.protocol import Protocol
    from ..request import ConceptRequest
    from ..unlearn.base import Unlearner

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Settings = dict[str, Any]


class Strict(BaseModel):
    """A pydantic class that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RequestSpec(Strict):
    """What to forget, as a user writes it; ``resolve`` fills the rest from the dataset card.

    Attributes:
        also: further concepts of the same kind to forget together with ``name``.
    """

    kind: Literal["style", "object", "concept"]
    name: str = Field(min_length=1)
    also: tuple[str, ...] = ()
    dataset: str | None = "minicanvas"
    anchor: str | None = None
    prompts: tuple[str, ...] | None = None
    keep: tuple[str, ...] | None = None

    def resolve(self) -> tuple[ConceptRequest, ...]:
        """The full requests: one, or several to be forgotten together.

        Raises:
            UsageError: if the card has no such style or object; the nearest is suggested.
        """
        from ..request import concept_request

        dataset = None if self.kind == "concept" else self.dataset
        names = (self.name, *self.also)
        if len(set(names)) < len(names) or (self.also and self.prompts):
            raise UsageError(
                "Concepts that are forgotten together need different names, and prompts belong to"
                " a single one."
            )
        return tuple(
            concept_request(
                self.kind, name, dataset, anchor=self.anchor, prompts=self.prompts, keep=self.keep
            )
            for name in names
        )


class ProtocolSpec(BaseModel):
    """A protocol's name, and values of it that this recipe changes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "minicanvas"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    def resolve(self) -> Protocol:
        """The protocol with the changes in it; a change of one key below another leaves the rest.

        Raises:
            UsageError: if there is no such protocol, or a changed key or value does not fit.
        """
        from ..evaluation.protocol import load_protocol

        protocol = load_protocol(self.name)
        changes = self.model_extra or {}
        if not changes:
            return protocol
        changed = protocol.changed(changes, f"protocol {self.name} with the recipe's changes")
        changed.check_names()
        return changed


class Recipe(Strict):
    """What every kind of recipe has.

    Attributes:
        name: name of the run and of its folder below ``runs/``.
        summary: one line for listings.
        seed: seed of every method that does not set its own.
        resolved: versions, hashes and the full protocol, written by a run and never read back.
    """

    kind: str
    name: Label
    summary: str = ""
    seed: int = Field(0, ge=0)
    resolved: dict[str, Any] | None = None
    _place: Path | None = PrivateAttr(None)

    @property
    def folder(self) -> Path:
        """Where its run goes if nobody says where: ``runs/<name>``, or where it was saved by a run."""
        return self._place or Path("runs") / self.name

    def lies_in(self, folder: Path) -> None:
        """Note the run folder in which a run saved it."""
        self._place = folder

    def check(self) -> None:
        """Look up every name that the recipe uses.

        Raises:
            UsageError: for the first one that does not exist, with the nearest that does.
        """


def unlearners(
    methods: Mapping[str, Settings], family: str, seed: int, where: str
) -> dict[str, Unlearner]:
    """Build every method of a recipe, for one family of models, from its settings.

    Raises:
        UsageError: unknown method, a method of another family, unknown key, wrong type or range.
    """
    from .. import registry

    built = {}
    for label, settings in methods.items():
        settings = {"seed": seed, **settings}
        name = settings.pop("method", label)
        if label == "original":
            raise UsageError(f"{where}: 'original' names the untouched model; use another label.")
        method = registry.get("method", name, family)
        built[label] = validated(method, settings, f"{where}.{label}")
    return built


def blank_to_empty(value: Any) -> Any:
    """``uce:`` without settings is read by YAML as null."""
    if not isinstance(value, Mapping):
        return value
    return {label: {} if settings is None else settings for label, settings in value.items()}
