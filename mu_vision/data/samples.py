"""Samples with a target each, in memory as one tensor, and the two sets that a model is made with.

Data that fits lives on the device as a whole: a batch is an index. What the targets are, a class or
a value, is said by the kinds of samples: ``Labelled`` and ``Measured``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from ..errors import UsageError, unknown

if TYPE_CHECKING:
    from .poison import Poisoned


@dataclass(frozen=True)
class Samples:
    """N samples with their targets; every field that is a tensor has a row a sample.

    Attributes:
        x: [N, ...] float32.
        y: [N].
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)

    def _facts(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {n: value for n, value in self._facts().items() if isinstance(value, torch.Tensor)}

    def take(self, rows: np.ndarray | torch.Tensor | Sequence[int]) -> Self:
        """The samples at these positions, in this order."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        return replace(self, **{n: t[rows.to(t.device)] for n, t in self._tensors().items()})

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **{n: t.to(device) for n, t in self._tensors().items()})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that the samples are."""
        tensors = self._tensors()
        words = {n: value for n, value in self._facts().items() if n not in tensors}
        digest = hashlib.sha256(repr((tuple(self.x.shape), words)).encode())
        for tensor in tensors.values():
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Splits:
    """What a model learns from and what nobody may learn from.

    Attributes:
        name: of the data set.
        augment: crop and flip training batches, as is usual for CIFAR; digits have neither.
        poison: the backdoor in the training set, if there is one.
        validation: held out of the training set, to choose settings or an epoch by.
    """

    name: str
    train: Samples
    test: Samples
    augment: bool = False
    poison: Poisoned | None = None
    validation: Samples | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def hold_out(self, share: float) -> Splits:
        """The same data with a share of each class taken out of the training set.

        The choice is fixed: nothing that a seed moves may become training data elsewhere.

        Args:
            share: of each class, in [0, 1); 0 leaves the data as it is.

        Raises:
            UsageError: if that is no sample of any class.
        """
        if not share:
            return self
        y, rng = self.train.y.cpu().numpy(), np.random.default_rng(1)
        chosen: list[int] = []
        for label in np.unique(y):
            rows = rng.permutation(np.flatnonzero(y == label))
            chosen += rows[: round(share * len(rows))].tolist()
        if not chosen:
            raise UsageError(
                f"validation={share:g} of {self.name} is no sample of any class; give a larger share."
            )
        left = np.setdiff1d(np.arange(len(y)), chosen)
        return replace(
            self, train=self.train.take(left), validation=self.train.take(sorted(chosen))
        )


def check_known(known: Collection[str], name: str) -> None:
    """See that there is a data set of this name.

    Raises:
        UsageError: if not; the nearest name is suggested.
    """
    if name not in known:
        raise unknown("data set", name, known)


def read_splits(
    known: Mapping[str, Callable[[Path], Splits]], name: str, root: Path | str | None
) -> Splits:
    """A data set by name; ``root`` is ``data/NAME`` by default.

    Raises:
        UsageError: unknown name (the nearest is suggested), or what its reader raises.
    """
    check_known(known, name)
    return known[name](Path(root or Path("data") / name))
