"""What a recipe may say: one whole job, typed and strict, in one YAML file.

There are five kinds. ``erase`` takes one concept out of a model with one or several methods and
evaluates all; ``table`` does so for groups of concepts and averages; ``evaluate`` only measures
models that exist; ``audit`` only attacks them; ``train`` runs trainers one after another. Any value
can be set from the command line as ``key.of.a.key=value``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    field_validator,
    model_validator,
)

from . import resources, validation
from .errors import UsageError, unknown
from .validation import validated

if TYPE_CHECKING:
    from .evaluation.protocol import Protocol
    from .request import ConceptRequest
    from .unlearn.base import Unlearner

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
        from .request import concept_request

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
        from .evaluation.protocol import load_protocol

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

    def check(self) -> None:
        """Look up every name that the recipe uses.

        Raises:
            UsageError: for the first one that does not exist, with the nearest that does.
        """


class _Evaluates(Recipe):
    protocol: ProtocolSpec = Field(default_factory=ProtocolSpec)

    def check_protocol(self) -> None:
        """Look up the protocol, and its attacks if it has any."""
        protocol = self.protocol.resolve()
        if protocol.robustness:
            from .evaluation.robustness import attacks_of

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
        return _blank_to_empty(value)

    def unlearners(self) -> dict[str, Unlearner]:
        return unlearners(self.methods, self.seed, f"recipe {self.name}, methods")

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
        return _blank_to_empty(value)

    def requests(self) -> list[RequestSpec]:
        names = self.names
        if names == "all":
            from .data.cards import load_card

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
            built = unlearners(group.methods, self.seed, where)
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


class TrainRecipe(Recipe):
    """Run trainers one after another into ``runs/<name>/model``."""

    kind: Literal["train"]
    trainers: list[Settings] = Field(min_length=1)

    def check(self) -> None:
        self.jobs()

    def jobs(self) -> list[tuple[str, Any]]:
        """(name of the trainer, the trainer) in order."""
        from . import registry

        jobs = []
        for number, settings in enumerate(self.trainers):
            where = f"recipe {self.name}, trainers.{number}"
            settings = {"seed": self.seed, **settings}
            name = settings.pop("trainer", None)
            if not isinstance(name, str):
                raise UsageError(f"{where}: 'trainer' is missing; name one of them.")
            jobs.append((name, validated(registry.get("trainer", name), settings, where)))
        return jobs


KINDS: dict[str, type[Recipe]] = {
    "erase": EraseRecipe,
    "table": TableRecipe,
    "evaluate": EvaluateRecipe,
    "audit": AuditRecipe,
    "train": TrainRecipe,
}


def unlearners(methods: Mapping[str, Settings], seed: int, where: str) -> dict[str, Unlearner]:
    """Build every method of a recipe from its settings.

    Raises:
        UsageError: unknown method, unknown key, wrong type or range.
    """
    from . import registry

    built = {}
    for label, settings in methods.items():
        settings = {"seed": seed, **settings}
        name = settings.pop("method", label)
        if label == "original":
            raise UsageError(f"{where}: 'original' names the untouched model; use another label.")
        built[label] = validated(registry.get("method", name), settings, f"{where}.{label}")
    return built


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name (``quickstart``) or by path, with ``key=value`` changes.

    Raises:
        UsageError: one sentence for whatever is wrong with it.
    """
    path = resources.find("recipe", str(name_or_path))
    data = validation.read_yaml_file(path, f"recipe {path.stem}")
    return make_recipe(data, overrides, where=f"recipe {path.stem}")


def make_recipe(data: Mapping[str, Any], overrides: Iterable[str] = (), where="recipe") -> Recipe:
    """A recipe from a dict; see ``load_recipe``."""
    kind = data.get("kind", "erase")
    if kind not in KINDS:
        raise unknown("kind of recipe", str(kind), KINDS)
    cls = KINDS[kind]
    data = {**data, "kind": kind}
    for text in overrides:
        data = override(data, text, cls)
    recipe = validated(cls, data, where)
    recipe.check()
    return recipe


def override(data: Mapping[str, Any], text: str, cls: type[BaseModel]) -> dict[str, Any]:
    """Set one nested key: ``override({...}, "methods.esd.steps=50", EraseRecipe)``.

    Raises:
        UsageError: if it is not ``key=value``, or the path leads through a plain value.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"{text!r} is not a change of the form key=value, e.g. seed=1.")
    leaf = _read_value(value, validation.annotation_at(cls, parts), text)
    return _set(data, parts, leaf, text)


def parse_settings(texts: Iterable[str], cls: type[BaseModel]) -> dict[str, Any]:
    """``["steps=50", "lr=1e-3"]`` -> a dict for ``validated(cls, ...)``."""
    data: dict[str, Any] = {}
    for text in texts:
        data = override(data, text, cls)
    return data


def _read_value(text: str, annotation: Any, whole: str) -> Any:
    """YAML, except where the schema wants a text: there ``no`` and ``1e3`` stay as typed."""
    try:
        value = yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError as error:
        raise UsageError(f"The value in {whole!r} is not valid YAML; put it in quotes.") from error
    if annotation is str and not isinstance(value, str | None | list | dict):
        return text
    return value


def _set(node: Any, parts: list[str], leaf: Any, whole: str) -> Any:
    here, rest = parts[0], parts[1:]
    if isinstance(node, list | tuple):
        if not here.isdigit() or int(here) >= len(node):
            raise UsageError(
                f"In {whole!r}, {here!r} must be a place in a list of {len(node)}, counted from 0."
            )
        place, copy = int(here), list(node)
        copy[place] = _set(copy[place], rest, leaf, whole) if rest else leaf
        return copy
    if isinstance(node, str) and whole.startswith("protocol."):
        node = {"name": node}
    if node is not None and not isinstance(node, Mapping):
        raise UsageError(f"In {whole!r}, {here!r} lies below {node!r}, which has no keys.")
    copy = dict(node or {})
    copy[here] = _set(copy.get(here), rest, leaf, whole) if rest else leaf
    return copy


def _blank_to_empty(value: Any) -> Any:
    """``uce:`` without settings is read by YAML as null."""
    if not isinstance(value, Mapping):
        return value
    return {label: {} if settings is None else settings for label, settings in value.items()}
