"""Which training samples a model has to forget: selectors, and the request that methods take.

A forget set is a set of positions in the training set, so it is part of what the model was trained
on by construction; the request carries the hash of that training set, and whoever uses a forget set
with other data is told.
"""

from __future__ import annotations

import hashlib
import json
import math
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
from .labelled import Labelled
from .measured import Measured
from .samples import Samples, Splits

Kind = Literal["random", "class", "range", "subject", "indices", "file", "poisoned"]


class Selector(BaseModel):
    """How a user says which samples to forget.

    Attributes:
        kind: ``random`` (a share of all), ``class`` (all or a share of one class), ``range`` (of
            values), ``subject`` (a share of all that is of one subject), ``indices``, ``file`` (a
            forget set that was saved), or ``poisoned`` (the samples with a backdoor).
        share: of the training set, or of the class, range or subject; in (0, 1].
        of: name of the class or the subject.
        low: smallest value that is forgotten; None for no bound.
        high: largest value that is forgotten; None for no bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = Field(
        "random", description="random, class, range, subject, indices, file or poisoned"
    )
    share: float | None = Field(None, gt=0, le=1, description="share of the set or of the class")
    of: str | None = Field(None, description="class or subject whose samples are forgotten")
    low: float | None = Field(None, description="smallest value that is forgotten")
    high: float | None = Field(None, description="largest value that is forgotten")
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
            "random": self._random, "class": self._part, "range": self._part, "subject": self._part,
            "indices": self._given, "poisoned": lambda *_: self._poisoned(splits),
        }  # fmt: skip
        rows = chosen[self.kind](splits.train, np.random.default_rng((seed, 7919)))
        like: tuple[int, ...] = ()
        if self.kind in ("range", "subject") and self.share in (None, 1):
            like = tuple(self._members(splits.test).nonzero().flatten().tolist())
            if not like:
                raise UsageError(
                    f"The test set of {splits.name} has no sample of the forget set"
                    f" ({self.describe()}), so nobody can see what is known of it; ask for more."
                )
        return ForgetRequest(splits, tuple(sorted(rows)), self.describe(), like=like)

    def describe(self) -> str:
        """``random 10 %``, ``class 3``, ``values up to 30``."""
        share = "" if self.share in (None, 1) else f"{100 * self.share:g} %"
        part = f"{share} of " if share else ""
        what = {
            "random": f"random {share}", "class": f"{part}class {self.of}",
            "range": f"{part}values {self._bounds()}", "subject": f"{part}subject {self.of}",
            "indices": f"{len(self.indices or ())} given samples", "file": f"{self.file}",
            "poisoned": "poisoned samples",
        }  # fmt: skip
        return what[self.kind].strip()

    def _bounds(self) -> str:
        ends = {"from": self.low, "up to": self.high}
        if None not in ends.values():
            return f"from {self.low:g} to {self.high:g}"
        return " ".join(f"{word} {end:g}" for word, end in ends.items() if end is not None)

    def _needed(self, name: str) -> Any:
        if getattr(self, name) is None:
            raise UsageError(f"A forget set by {self.kind} needs {name}=..., which is missing.")
        return getattr(self, name)

    def _random(self, train: Samples, rng: np.random.Generator) -> list[int]:
        count = round(self._needed("share") * len(train))
        return rng.permutation(len(train))[:count].tolist()

    def _part(self, train: Samples, rng: np.random.Generator) -> list[int]:
        """All or a share of the samples of a class, a range of values or a subject."""
        rows = self._members(train).nonzero().flatten().numpy()
        if self.kind == "range" and not len(rows):
            raise UsageError(
                f"No training sample has a value {self._bounds()}; they go from"
                f" {float(train.y.min()):g} to {float(train.y.max()):g}."
            )
        return rng.permutation(rows)[: round((self.share or 1) * len(rows))].tolist()

    def _members(self, data: Samples) -> torch.Tensor:
        """[N] bool: which samples are of the class, the range of values or the subject."""
        kind, has = (Labelled, "a class") if self.kind == "class" else (Measured, "a value")
        if not isinstance(data, kind):
            raise UsageError(f"A forget set by {self.kind} needs samples with {has} each.")
        if self.kind == "range":
            return self._within(data.y.cpu())
        name = str(self._needed("of"))
        names = data.classes if self.kind == "class" else data.names
        if name not in names:
            raise unknown(self.kind, name, names)
        return (data.y if self.kind == "class" else data.subjects).cpu() == names.index(name)

    def _within(self, y: torch.Tensor) -> torch.Tensor:
        if self.low is None and self.high is None:
            raise UsageError("A forget set by range needs low=..., high=... or both.")
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if low > high:
            raise UsageError(f"A range of values from low={low:g} to high={high:g} is empty.")
        return (y >= low) & (y <= high)

    def _poisoned(self, splits: Splits) -> list[int]:
        if splits.poison is None:
            raise UsageError(
                f"{splits.name} has no backdoor, so no poisoned samples to forget; add `poison:`."
            )
        return list(splits.poison.rows)

    def _given(self, train: Samples, rng: np.random.Generator) -> list[int]:
        return [int(row) for row in self._needed("indices")]


@dataclass(frozen=True)
class ForgetRequest:
    """Training samples that a classifier or a regressor has to forget.

    Attributes:
        splits: the data; ``splits.train`` is what the model was trained on.
        rows: positions in the training set to forget, ascending.
        name: in words.
        like: positions in the test set of what is forgotten whole: of a range of values or a subject.
        gone: positions that earlier requests took away: neither forgotten again nor kept.
        parts: requests that are made one after the other, if this is all of them together.
    """

    splits: Splits
    rows: tuple[int, ...]
    name: str = "given samples"
    gone: tuple[int, ...] = field(default=())
    parts: tuple[ForgetRequest, ...] = field(default=(), repr=False)
    like: tuple[int, ...] = field(default=(), repr=False)

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
        if not isinstance(train, Labelled):
            return ()
        has, keeps = (
            set(labels.tolist()) for labels in (train.y, train.y.cpu()[list(self.kept_rows)])
        )
        return tuple(train.classes[label] for label in sorted(has - keeps))

    @cached_property
    def forget(self) -> Any:
        """The samples to forget, of the same kind as the training set."""
        return self.splits.train.take(self.rows)

    @cached_property
    def retain(self) -> Any:
        return self.splits.train.take(self.kept_rows)

    @cached_property
    def known(self) -> Any:
        """The training set; without what earlier requests took away."""
        train = self.splits.train
        return train.take(sorted({*self.rows, *self.kept_rows})) if self.gone else train

    @cached_property
    def test(self) -> Any:
        """The test set; without the classes, range of values or subject that is forgotten whole."""
        out = set(self._left_out)
        kept = [row for row in range(len(self.splits.test)) if row not in out]
        return self.splits.test.take(kept) if out else self.splits.test

    @cached_property
    def unseen(self) -> Any:
        """Test samples that are like the forgotten ones: those that ``test`` is without, else all."""
        return self.splits.test.take(self._left_out) if self._left_out else self.splits.test

    @cached_property
    def _left_out(self) -> tuple[int, ...]:
        if not self.whole:
            return self.like
        test = self.splits.test
        labels = torch.tensor([test.classes.index(name) for name in self.whole])
        return tuple(torch.isin(test.y.cpu(), labels).nonzero().flatten().tolist())

    def then(self, later: ForgetRequest, before: Sequence[ForgetRequest] = ()) -> ForgetRequest:
        """The later request for a model that has forgotten this one.

        Args:
            later: what is to be forgotten next.
            before: the requests that came before this one, to name the one that took the samples.

        Raises:
            UsageError: if it is on another training set, or all of it was forgotten before.
        """
        check_training_set(self.splits, later)
        gone = tuple(sorted({*self.rows, *self.gone}))
        rows = tuple(row for row in later.rows if row not in set(gone))
        if not rows:
            took = [
                f"request {n} ({request.name})"
                for n, request in enumerate([*before, self], 1)
                if set(request.rows) & set(later.rows)
            ]
            raise UsageError(
                f"The forget set ({later.name}) was forgotten already, by"
                f" {' and '.join(took) or 'an earlier request'}: leave it out."
            )
        return ForgetRequest(self.splits, rows, later.name, gone, like=later.like)

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
        positions = {
            "indices": list(self.rows), "gone_indices": list(self.gone), "like": list(self.like)
        }  # fmt: skip
        files.write_json(path, {**self.model_dump(), **positions})
        return Path(path)


def in_turn(first: ForgetRequest, *later: ForgetRequest) -> ForgetRequest:
    """Requests that come one after the other, as one; ``parts`` are what a model is asked in turn.

    Samples that an earlier request took are left out of the later ones.
    """
    parts = [first]
    for request in later:
        parts.append(parts[-1].then(request, parts[:-1]))
    rows = sorted({row for part in parts for row in part.rows})
    name = ", then ".join(part.name for part in parts)
    like = like_any_of(parts)
    return ForgetRequest(first.splits, tuple(rows), name, first.gone, tuple(parts), like)


def like_any_of(requests: Sequence[ForgetRequest]) -> tuple[int, ...]:
    """Positions in the test set of what any of the requests forgets whole."""
    return tuple(sorted({row for request in requests for row in request.like}))


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
        like = tuple(map(int, kept.get("like", ())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no forget set ({type(error).__name__}: {error}).") from error
    if made_on != splits.train.fingerprint:
        raise UsageError(
            f"{path} was made on another training set ({kept.get('dataset')}, {kept.get('of')} samples)"
            f" than {splits.name} with {len(splits.train)}; its positions mean other samples here."
        )
    return ForgetRequest(splits, rows, name, gone, like=like)


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
