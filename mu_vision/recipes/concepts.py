"""Recipes about concepts of diffusion models: erase, tables of erasures, evaluate, audit."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from ..errors import UsageError
from .base import (
    Label,
    ProtocolSpec,
    Recipe,
    RequestSpec,
    Settings,
    Strict,
    blank_to_empty,
    unlearners,
)

if TYPE_CHECKING:
    from ..unlearn.base import Unlearner


class _Evaluates(Recipe):
    protocol: ProtocolSpec = Field(default_factory=ProtocolSpec)

    def check_protocol(self) -> None:
        """Look up the protocol, and its attacks if it has any."""
        protocol = self.protocol.resolve()
        if protocol.robustness:
            from ..evaluation.robustness import attacks_of

            attacks_of(protocol)


class EraseRecipe(_Evaluates):
    """Take one concept out of one model, by several methods, and evaluate.

    Attributes:
        model: an embedded model (``minicanvas/sd``), a ``diffusers`` folder, or a hub id.
        methods: label -> settings. The label is the method's name, unless the settings give
            ``method``, so that one method can stand in a recipe twice.
        delta: also write the changed weights alone, ``model/<label>.delta.safetensors``.
    """

    kind: Literal["erase"]
    model: str
    request: RequestSpec
    methods: dict[Label, Settings] = Field(min_length=1)
    delta: bool = False

    @field_validator("methods", mode="before")
    @classmethod
    def _no_settings(cls, value: Any) -> Any:
        return blank_to_empty(value)

    def unlearners(self) -> dict[str, Unlearner]:
        return unlearners(self.methods, "diffusion", self.seed, f"recipe {self.name}, methods")

    def check(self) -> None:
        self.request.resolve()
        self.unlearners()
        self.check_protocol()


class Group(Strict):
    """Requests of one kind that share the settings of their methods; ``names: all`` is allowed."""

    kind: Literal["style", "object"]
    names: tuple[str, ...] | Literal["all"]
    dataset: str = "minicanvas"
    anchor: str | None = None
    methods: dict[Label, Settings] = Field(min_length=1)

    @field_validator("methods", mode="before")
    @classmethod
    def _no_settings(cls, value: Any) -> Any:
        return blank_to_empty(value)

    def stochastic(self, label: str) -> bool:
        """Whether a method's result depends on its seed."""
        settings = {label: self.methods[label]}
        return unlearners(settings, "diffusion", 0, "methods")[label].stochastic

    def requests(self) -> list[RequestSpec]:
        names = self.names
        if names == "all":
            from ..data.cards import load_card

            card = load_card(self.dataset)
            names = card.style_names if self.kind == "style" else card.object_names
            names = [name for name in names if name != card.photo_style]
        return [
            RequestSpec(kind=self.kind, name=name, dataset=self.dataset, anchor=self.anchor)
            for name in names
        ]


class TableRecipe(_Evaluates):
    """Groups of requests x methods: one row a request, and an average a group.

    Attributes:
        seeds: repeat every method with each of these; one without randomness, and the untouched
            model, are measured with the first alone. Default: the recipe's ``seed``.
    """

    kind: Literal["table"]
    model: str
    seeds: tuple[NonNegativeInt, ...] = ()
    groups: dict[Label, Group] = Field(min_length=1)

    def check(self) -> None:
        self.jobs()
        self.check_protocol()

    def jobs(self) -> list[tuple[str, EraseRecipe]]:
        """(group, one-request recipe) in the order of the file."""
        jobs = []
        seeds = self.seeds or (self.seed,)
        for title, group in self.groups.items():
            where = f"recipe {self.name}, groups.{title}.methods"
            built = unlearners(group.methods, "diffusion", self.seed, where)
            random = {label: group.methods[label] for label, m in built.items() if m.stochastic}
            for seed, spec in product(seeds, group.requests()):
                methods = group.methods if seed == seeds[0] else random
                if methods:
                    jobs.append((title, self._job(group, spec, seed, methods)))
        if not jobs:
            raise UsageError(f"Recipe {self.name} asks for no concept: every group is empty.")
        return jobs

    def _job(self, group: Group, spec: RequestSpec, seed: int, methods: dict) -> EraseRecipe:
        slug = spec.resolve()[0].slug
        return EraseRecipe(
            kind="erase",
            name=f"{slug}-seed{seed}" if len(self.seeds) > 1 else slug,
            summary=f"{self.name}: {group.kind} {spec.name}",
            seed=seed,
            model=self.model,
            request=spec,
            methods=methods,
            protocol=self.protocol,
        )


class EvaluateRecipe(_Evaluates):
    """Measure models that exist.

    Attributes:
        models: label -> folder or name.
        original: the model they were made from, the oracle beside every number; may be absent.
    """

    kind: Literal["evaluate"]
    models: dict[Label, str] = Field(default_factory=dict)
    original: str | None = None
    request: RequestSpec | None = None

    @model_validator(mode="after")
    def _something(self) -> EvaluateRecipe:
        if not self.models and self.original is None:
            raise ValueError("there is nothing to evaluate: give models or original")
        return self

    def check(self) -> None:
        if self.request:
            self.request.resolve()
        self.check_protocol()


class AuditRecipe(EvaluateRecipe):
    """Attack models that exist, and measure nothing else.

    Attributes:
        targets: folder of pictures of the concept that attacks may use, in place of the original's.
    """

    kind: Literal["audit"]
    original: str = Field(min_length=1)
    request: RequestSpec
    targets: str | None = None

    def check(self) -> None:
        super().check()
        if not self.protocol.resolve().robustness:
            raise UsageError(
                f"recipe {self.name}: the protocol {self.protocol.name} names no attack; use"
                " minicanvas_robust, or add `robustness:` to it."
            )
