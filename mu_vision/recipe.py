"""What a recipe may say: one whole job, typed and strict, in one YAML file.

The kinds: ``erase`` takes one concept out of a model with one or several methods and evaluates all;
``table`` does so for groups of concepts and averages; ``evaluate`` only measures models that exist;
``audit`` only attacks them; ``forget`` takes samples or classes out of classifiers; ``gan`` takes
what it draws out of a GAN; ``train`` runs trainers one after another. Any value can be set from the command line as ``key.of.a.key=value``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from . import resources, validation
from .errors import UsageError, unknown
from .recipes.base import ProtocolSpec, Recipe, RequestSpec, Settings, Strict, unlearners
from .recipes.concepts import AuditRecipe, EraseRecipe, EvaluateRecipe, Group, TableRecipe
from .recipes.forgetting import ForgetRecipe
from .recipes.gan import GanRecipe
from .recipes.training import TrainRecipe
from .validation import validated

SAVED = "recipe.yaml"  # in a run folder
KINDS: dict[str, type[Recipe]] = {
    "erase": EraseRecipe,
    "table": TableRecipe,
    "evaluate": EvaluateRecipe,
    "audit": AuditRecipe,
    "forget": ForgetRecipe,
    "gan": GanRecipe,
    "train": TrainRecipe,
}


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name (``quickstart``) or by path, with ``key=value`` changes.

    One that a run saved in its own folder goes on there, unless its name is changed.

    Raises:
        UsageError: one sentence for whatever is wrong with it.
    """
    path = resources.find("recipe", str(name_or_path))
    data = validation.read_yaml_file(path, f"recipe {path.stem}")
    recipe = make_recipe(data, overrides, where=f"recipe {path.stem}")
    if recipe.name == data.get("name") and _is_of_its_run(path, data):
        recipe.lies_in(path.parent)
    return recipe


def _is_of_its_run(path: Path, data: Mapping[str, Any]) -> bool:
    """True for the ``recipe.yaml`` that a run saved, where it saved it: a copy elsewhere is none.

    Nor is that of one request of a table: its pictures and attacks belong to the table.
    """
    folder = path.resolve().parent
    if path.name != SAVED or "resolved" not in data or (folder.parent / SAVED).is_file():
        return False
    alone = all(other.name == SAVED for other in folder.iterdir())
    marks = ("log.jsonl", "scores.json", f"*/{SAVED}")
    return alone or any(any(folder.glob(mark)) for mark in marks)


def make_recipe(data: Mapping[str, Any], overrides: Iterable[str] = (), where="recipe") -> Recipe:
    """A recipe from a dict; see ``load_recipe``. Without ``kind`` it is an erasure."""
    if "kind" not in data:
        _see_that_it_is_an_erasure(data, where)
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


def _see_that_it_is_an_erasure(data: Mapping[str, Any], where: str) -> None:
    """Say which kind is meant where keys are plainly not those of an erasure.

    Raises:
        UsageError: if there are keys that only other kinds have, at the top or in a group.
    """
    groups = data.get("groups")
    inner = groups.values() if isinstance(groups, Mapping) else ()
    used = {*data, *(key for group in inner if isinstance(group, Mapping) for key in group)}
    strange = used - _vocabulary(EraseRecipe) - set(RequestSpec.model_fields)
    found = {kind: strange & _vocabulary(cls) for kind, cls in KINDS.items()}
    most = max(map(len, found.values()))
    if not most:
        return
    kinds = [kind for kind, keys in found.items() if len(keys) == most]
    keys = sorted(set().union(*(found[kind] for kind in kinds)))
    shown, belongs = ", ".join(map(repr, keys)), "belong" if len(keys) > 1 else "belongs"
    raise UsageError(
        f"{where}: 'kind' is missing, and {shown} {belongs} to a recipe of kind"
        f" {' or '.join(kinds)}; add the line `kind: {kinds[0]}`."
    )


def _vocabulary(cls: type[Recipe]) -> set[str]:
    """The keys of a kind of recipe, with those of its groups."""
    groups = validation.annotation_at(cls, ["groups", "any"])
    return set(cls.model_fields) | set(getattr(groups, "model_fields", ()))


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
        value = validation.load_yaml(text) if text.strip() else ""
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


__all__ = [
    "KINDS", "AuditRecipe", "EraseRecipe", "EvaluateRecipe", "ForgetRecipe", "GanRecipe", "Group",
    "ProtocolSpec", "Recipe", "RequestSpec", "Settings", "Strict", "TableRecipe", "TrainRecipe",
    "load_recipe", "make_recipe", "override", "parse_settings", "unlearners",
]  # fmt: skip
