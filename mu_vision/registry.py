"""Name -> class for methods, trainers, attacks and metrics, filled by a decorator on the thing itself.

Adding one means adding its file: the packages below are walked, nothing central is edited.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from .errors import unknown

Thing = TypeVar("Thing")

PACKAGES = {
    "method": "mu_vision.unlearn",
    "attack": "mu_vision.attack",
    "trainer": "mu_vision.train",
}
_TABLE: dict[str, dict[str, type]] = {kind: {} for kind in PACKAGES}


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
        if _TABLE[kind].get(name, cls).__qualname__ != cls.__qualname__:
            raise ValueError(f"two classes want to be {kind} {name!r}")
        _TABLE[kind][name] = cls
        cls.name = name
        return cls

    return enter


@cache
def _walk(kind: str) -> None:
    package = importlib.import_module(PACKAGES[kind])
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def names(kind: str) -> list[str]:
    """All registered names of a kind, sorted."""
    _walk(kind)
    return sorted(_TABLE[kind])


def get(kind: str, name: str) -> type:
    """The class registered under a name.

    Raises:
        UsageError: if there is none; the nearest name is suggested.
    """
    _walk(kind)
    if name not in _TABLE[kind]:
        raise unknown(kind, name, _TABLE[kind])
    return _TABLE[kind][name]
