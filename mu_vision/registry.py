"""Name -> class for methods, trainers and attacks, filled by a decorator on the thing itself.

Adding one means adding its file: the packages below are walked, nothing central is edited. Methods
of two families may share a name: SalUn is one idea on classifiers and on diffusion models.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from .errors import UsageError, unknown

Thing = TypeVar("Thing")

PACKAGES = {
    "method": "mu_vision.unlearn",
    "attack": "mu_vision.attack",
    "trainer": "mu_vision.train",
}
# kind -> name -> family -> class; what belongs to no family has the family ""
_TABLE: dict[str, dict[str, dict[str, type]]] = {kind: {} for kind in PACKAGES}


@dataclass(frozen=True)
class Paper:
    """Where a method comes from, for listings, model cards and reports.

    Attributes:
        deviations: where this code departs from the published code, a sentence each.
        cost: what a run costs, in words.
    """

    title: str
    authors: str
    arxiv: str
    venue: str = ""
    repository: str = ""
    licence: str = ""
    deviations: tuple[str, ...] = ()
    cost: str = ""


def register(kind: str, name: str) -> Callable[[type[Thing]], type[Thing]]:
    """Class decorator: enter the class under ``name`` and set ``cls.name``."""

    def enter(cls: type[Thing]) -> type[Thing]:
        family = getattr(cls, "family", "")
        if _TABLE[kind].get(name, {}).get(family, cls).__qualname__ != cls.__qualname__:
            raise ValueError(f"two classes want to be {kind} {name!r} {family}".rstrip())
        _TABLE[kind][name] = {**_TABLE[kind].get(name, {}), family: cls}
        cls.name = name
        return cls

    return enter


@cache
def _walk(kind: str) -> None:
    package = importlib.import_module(PACKAGES[kind])
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def classes(kind: str, family: str | None = None) -> list[type]:
    """All registered classes of a kind, by name and family; those of one family if it is given."""
    _walk(kind)
    return [
        cls
        for _, named in sorted(_TABLE[kind].items())
        for own, cls in sorted(named.items())
        if family in (None, own)
    ]


def names(kind: str, family: str | None = None) -> list[str]:
    """All registered names of a kind (and family), sorted."""
    return list(dict.fromkeys(cls.name for cls in classes(kind, family)))


def get(kind: str, name: str, family: str | None = None) -> type:
    """The class registered under a name.

    Args:
        kind: ``method``, ``attack`` or ``trainer``.
        name: its name.
        family: the family of the models that it is for; needed where two share the name.

    Raises:
        UsageError: if there is none (the nearest name is suggested), it is of other families only,
            or of several and none was said.
    """
    _walk(kind)
    if name not in _TABLE[kind]:
        raise unknown(kind, name, names(kind, family))
    named = _TABLE[kind][name]
    if family in named:
        return named[family]
    found = " and ".join(sorted(named))
    if family is not None:
        raise UsageError(f"The {kind} {name} works on {found} models, not on {family} models.")
    if len(named) > 1:
        raise UsageError(f"There is a {kind} {name} for {found} models; say for which of them.")
    return next(iter(named.values()))
