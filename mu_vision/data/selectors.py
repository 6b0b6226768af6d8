"""Which training samples a model has to forget: selectors, and the request that methods take.

A forget set is a set of positions in the training set, so it is part of what the model was trained
on by construction; the request carries the hash of that training set, and whoever uses a forget set
with other data is told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from .. import files
from ..errors import UsageError, unknown
from .labelled import Labelled, Splits

Kind = Literal["random", "class", "indices", "file", "poisoned"]


class Selector(BaseModel):
    """How a user says which samples to forget.

    Attributes:
        kind: ``random`` (a share of all), ``class`` (all or a share of one class), ``indices``,
            ``file`` (a forget set that was saved), or ``poisoned`` (the samples with a backdoor).
        share: of the training set, or of the class; in (0, 1].
        of: name of the class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = Field("random", description="random, class, indices, file or poisoned")
    share: float | None = Field(None, gt=0, le=1, description="share of the set or of the class")
    of: str | None = Field(None, description="class whose samples are forgotten")
    indices: tuple[int, ...] | None = Field(None, description="positions in the training set")
    file: str | None = Field(None, description="a forget set that was saved")

    def select(self, splits: Splits, seed: int = 0) -> ForgetRequest:
        """The request on a data set; ``seed`` decides what random selectors draw.

        Raises:
            UsageError: if nothing, or everything, is selected, or the class or a position does not
                exist.
        """
        if self.kind == "file":
            return load_forget_set(self._needed("file"), splits)
        chosen = {
            "random": self._random, "class": self._class, "indices": self._given,
            "poisoned": lambda *_: self._poisoned(splits),
        }  # fmt: skip
        rows = chosen[self.kind](splits.train, np.random.default_rng((seed, 7919)))
        return ForgetRequest(splits, tuple(sorted(rows)), self.describe())

    def describe(self) -> str:
        """``random 10 %``, ``class 3``."""
        share = "" if self.share in (None, 1) else f"{100 * self.share:g} %"
        what = {
            "random": f"random {share}", "class": f"{share} of class {self.of}".removeprefix(" of "),
            "indices": f"{len(self.indices or ())} given samples", "file": f"{self.file}",
            "poisoned": "poisoned samples",
        }  # fmt: skip
        return what[self.kind].strip()

    def _needed(self, name: str) -> Any:
        if getattr(self, name) is None:
            raise UsageError(f"A forget set by {self.kind} needs {name}=..., which is missing.")
        return getattr(self, name)

    def _random(self, train: Labelled, rng: np.random.Generator) -> list[int]:
        count = round(self._needed("share") * len(train))
        return rng.permutation(len(train))[:count].tolist()

    def _class(self, train: Labelled, rng: np.random.Generator) -> list[int]:
        name = str(self._needed("of"))
        if name not in train.classes:
            raise unknown("class", name, train.classes)
        rows = (train.y.cpu() == train.classes.index(name)).nonzero().flatten().numpy()
        return rng.permutation(rows)[: round((self.share or 1) * len(rows))].tolist()

    def _poisoned(self, splits: Splits) -> list[int]:
        if splits.poison is None:
            raise UsageError(
                f"{splits.name} has no backdoor, so no poisoned samples to forget; add `poison:`."
            )
        return list(splits.poison.rows)

    def _given(self, train: Labelled, rng: np.random.Generator) -> list[int]:
        return [int(row) for row in self._needed("indices")]


@dataclass(frozen=True)
class ForgetRequest:
    """Training samples that a classifier has to forget.

    Attributes:
        splits: the data; ``splits.train`` is what the model was trained on.
        rows: positions in the training set to forget, ascending.
        name: in words.
        gone: positions that earlier requests took away: neither forgotten again nor kept.
        parts: requests that are made one after the other, if this is all of them together.
    """

    splits: Splits
    rows: tuple[int, ...]
    name: str = "given samples"
    gone: tuple[int, ...] = field(default=())
    parts: tuple[ForgetRequest, ...] = field(default=(), repr=False)

    def __post_init__(self):
        n, rows = len(self.splits.train), self.rows
        if not rows:
            raise UsageError(f"The forget set ({self.name}) is empty: there is nothing to forget.")
        outside = [row for row in (*rows, *self.gone) if not 0 <= row < n]
        if outside:
            raise UsageError(
                f"The forget set ({self.name}) names sample {outside[0]}, but the training set has"
                f" samples 0 to {n - 1}."
            )
        if len(set(rows)) < len(rows):
            raise UsageError(f"The forget set ({self.name}) names a sample twice.")
        both = set(rows) & set(self.gone)
        if both:
            raise UsageError(
                f"Sample {min(both)} was forgotten before; leave it out of this request."
            )
        if len(rows) + len(self.gone) >= n:
            raise UsageError(
                f"The forget set ({self.name}) is the whole training set: nothing is left to keep."
            )

    @cached_property
    def kept_rows(self) -> tuple[int, ...]:
        """Positions of the retain set, ascending."""
        out = {*self.rows, *self.gone}
        return tuple(row for row in range(len(self.splits.train)) if row not in out)

    @cached_property
    def whole(self) -> tuple[str, ...]:
        """Classes of which no sample is kept, though the training set has some."""
        train = self.splits.train
        has, keeps = (
            set(labels.tolist()) for labels in (train.y, train.y.cpu()[list(self.kept_rows)])
        )
        return tuple(train.classes[label] for label in sorted(has - keeps))

    @cached_property
    def forget(self) -> Labelled:
        return self.splits.train.take(self.rows)

    @cached_property
    def retain(self) -> Labelled:
        return self.splits.train.take(self.kept_rows)

    @cached_property
    def test(self) -> Labelled:
        """The test set; without the classes that are forgotten whole."""
        test = self.splits.test
        if not self.whole:
            return test
        left_out = torch.tensor([test.classes.index(name) for name in self.whole])
        return test.take((~torch.isin(test.y.cpu(), left_out)).nonzero().flatten())

    def then(self, later: ForgetRequest) -> ForgetRequest:
        """The later request for a model that has forgotten this one.

        Raises:
            UsageError: if it is on another training set, or all of it was forgotten before.
        """
        check_training_set(self.splits, later)
        gone = tuple(sorted({*self.rows, *self.gone}))
        rows = tuple(row for row in later.rows if row not in set(gone))
        return ForgetRequest(self.splits, rows, later.name, gone)

    def model_dump(self, mode: str = "json") -> dict[str, Any]:
        """What reports and checkpoints keep of it: words, counts and a hash of the positions."""
        digest = hashlib.sha256(np.asarray([*self.rows, -1, *self.gone], np.int64).tobytes())
        return {
            "kind": "samples", "name": self.name, "dataset": self.splits.name,
            "samples": len(self.rows), "of": len(self.splits.train), "whole": list(self.whole),
            "gone": len(self.gone), "parts": len(self.parts), "rows": digest.hexdigest(),
            "training_set": self.splits.train.fingerprint,
        }  # fmt: skip

    def save(self, path: Path | str) -> Path:
        """A small JSON file that others can load on the same data."""
        positions = {"indices": list(self.rows), "gone_indices": list(self.gone)}
        files.write_json(path, {**self.model_dump(), **positions})
        return Path(path)


def in_turn(first: ForgetRequest, *later: ForgetRequest) -> ForgetRequest:
    """Requests that come one after the other, as one; ``parts`` are what a model is asked in turn.

    Samples that an earlier request took are left out of the later ones.
    """
    parts = [first]
    for request in later:
        parts.append(parts[-1].then(request))
    rows = sorted({row for part in parts for row in part.rows})
    name = ", then ".join(part.name for part in parts)
    return ForgetRequest(first.splits, tuple(rows), name, first.gone, tuple(parts))


def forget_rows(splits: Splits, rows: Sequence[int], name: str = "given samples") -> ForgetRequest:
    """A request for samples at given positions.

    Raises:
        UsageError: see ``ForgetRequest``.
    """
    return ForgetRequest(splits, tuple(sorted(int(row) for row in rows)), name)


def load_forget_set(path: Path | str, splits: Splits) -> ForgetRequest:
    """A forget set that ``ForgetRequest.save`` wrote.

    Raises:
        UsageError: if it cannot be read, or was made on another training set.
    """
    try:
        kept = json.loads(Path(path).read_text(encoding="utf-8"))
        rows, gone = (tuple(sorted(map(int, kept[k]))) for k in ("indices", "gone_indices"))
        name, made_on = kept["name"], kept["training_set"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no forget set ({type(error).__name__}: {error}).") from error
    if made_on != splits.train.fingerprint:
        raise UsageError(
            f"{path} was made on another training set ({kept.get('dataset')}, {kept.get('of')} samples)"
            f" than {splits.name} with {len(splits.train)}; its positions mean other samples here."
        )
    return ForgetRequest(splits, rows, name, gone)


def check_training_set(splits: Splits, request: ForgetRequest) -> None:
    """See that the positions of a request mean the samples of these splits.

    Raises:
        UsageError: if it was made on another training set.
    """
    made_on = request.splits
    if made_on is not splits and made_on.train.fingerprint != splits.train.fingerprint:
        raise UsageError(
            f"The forget set ({request.name}) was made on another training set ({made_on.name},"
            f" {len(made_on.train)} samples) than {splits.name} with {len(splits.train)}."
        )
