"""UA, IRA and CRA of UnlearnCanvas (Zhang et al. 2024, arXiv 2402.11846), from label tables.

An answer set is a full grid: every style x object x seed has one picture. What the two judges say
of it are two boolean arrays [S, O, R]: was the style right, was the object right. With h_s, h_o
the judges and x(t, o, r) the picture of style t, object o and seed r:

    acc_s(t) = mean over o, r of [h_s(x(t, o, r)) = t]
    acc_o(o) = mean over t, r of [h_o(x(t, o, r)) = o]

    forget style s:  UA = 1 - acc_s(s)  IRA = mean of acc_s(t), t != s   CRA = mean of acc_o
    forget object o: UA = 1 - acc_o(o)  IRA = mean of acc_o(o'), o' != o CRA = mean of acc_s

All cells hold the same number of pictures, so a mean of accuracies is a share of pictures, and
carries a Wilson interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["style", "object"]
Z95 = 1.959963984540054


def wilson_interval(hits: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927), 95 % by default.

    Raises:
        ValueError: if there is no sample, or there are more hits than samples.
    """
    if total <= 0 or not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total} is not a share")
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    high = 1.0 if hits == total else min(1.0, middle + half)
    return low, high


@dataclass(frozen=True)
class Rate:
    """A share of pictures, with its count."""

    hits: int
    total: int

    @classmethod
    def of(cls, right: np.ndarray) -> Rate:
        """Share of true values in a boolean array of any shape."""
        return cls(int(np.count_nonzero(right)), int(right.size))

    @property
    def value(self) -> float:
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.hits, self.total)

    @property
    def complement(self) -> Rate:
        return Rate(self.total - self.hits, self.total)


@dataclass(frozen=True)
class Grid:
    """Which cells of an answer set count.

    Attributes:
        styles: names along the first axis.
        objects: names along the second axis.
        seed_theme: the style of plain photos, or None.
        include_seed_theme: count its cells in UA, IRA and CRA (UnlearnCanvas leaves them out).
    """

    styles: tuple[str, ...]
    objects: tuple[str, ...]
    seed_theme: str | None = None
    include_seed_theme: bool = False

    def scored(self) -> np.ndarray:
        """[S] bool: the styles that count."""
        return np.array([s != self.seed_theme or self.include_seed_theme for s in self.styles])

    def target_mask(self, kind: Kind, targets: Iterable[str]) -> np.ndarray:
        """[S, O] bool: the cells that show something to be forgotten."""
        mask = np.zeros((len(self.styles), len(self.objects)), bool)
        for name in targets:
            if kind == "style":
                mask[self.styles.index(name)] = True
            else:
                mask[:, self.objects.index(name)] = True
        return mask

    def scored_mask(self) -> np.ndarray:
        """[S, O] bool: the cells that count."""
        return np.repeat(self.scored()[:, None], len(self.objects), axis=1)


def unlearning_rates(
    grid: Grid,
    style_right: np.ndarray,
    object_right: np.ndarray,
    kind: Kind,
    targets: Sequence[str],
) -> dict[str, Rate]:
    """UA, IRA and CRA (both scopes) of a request.

    Args:
        grid: the names and what counts.
        style_right: [S, O, R] bool, what the style judge found right.
        object_right: [S, O, R] bool, what the object judge found right.
        kind: what the request forgets, ``style`` or ``object``.
        targets: the names to be forgotten; with several, UA is over all of their cells.

    Returns:
        ``ua``, ``ira``, ``cra_all`` (over every scored cell) and ``cra_retain`` (without the
        cells of the targets).

    Raises:
        ValueError: if nothing is left to score, or a target is not in the grid.
    """
    target, scored = grid.target_mask(kind, targets), grid.scored_mask()
    within, across = (style_right, object_right)[:: 1 if kind == "style" else -1]
    forgotten, kept = target & scored, ~target & scored
    if not forgotten.any() or not kept.any():
        raise ValueError("the request must leave scored cells on both sides")
    return {
        "ua": Rate.of(within[forgotten]).complement,
        "ira": Rate.of(within[kept]),
        "cra_all": Rate.of(across[scored]),
        "cra_retain": Rate.of(across[kept]),
    }


def confusion(truth: np.ndarray, found: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[rows, columns] int: how often truth i was called j; row sums are picture counts."""
    flat = np.asarray(truth).ravel() * columns + np.asarray(found).ravel()
    return np.bincount(flat, minlength=rows * columns).reshape(rows, columns)


@dataclass(frozen=True)
class OverRequests:
    """A rate over several requests: mean, worst, and a bootstrap interval of the mean."""

    mean: float
    worst: float
    interval: tuple[float, float]
    requests: int


def over_requests(
    values: Sequence[float], higher_is_better: bool = True, seed: int = 0, draws: int = 2000
) -> OverRequests:
    """Summarise one value a request, as UnlearnCanvas's table does (plain mean).

    The interval is the percentile bootstrap over requests: one request at 5 seeds rests on 100
    pictures only, so the mean says less than its digits.
    """
    array = np.asarray(values, np.float64)
    if array.size == 0:
        raise ValueError("there is no request to summarise")
    picks = np.random.default_rng(seed).integers(0, array.size, (draws, array.size))
    low, high = np.percentile(array[picks].mean(axis=1), [2.5, 97.5])
    worst = array.min() if higher_is_better else array.max()
    return OverRequests(
        float(array.mean()), float(worst), (float(low), float(high)), int(array.size)
    )


def paired_change(before: np.ndarray, after: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Change of a share of pictures between two models on the same latents.

    Args:
        before: bool, what was right.
        after: bool of the same shape, what is right now.

    Returns:
        ``mean(after) - mean(before)``, and its 95 % interval by Newcombe's method 10 (Statistics
        in Medicine 17, 2635-2650, 1998): Wilson intervals of both shares, joined with the
        correlation of the pairs; it keeps its width where every pair changed.
    """
    total = before.size
    if total == 0 or before.shape != after.shape:
        raise ValueError("paired shares need the same pictures, and at least one")
    new, old = Rate.of(after), Rate.of(before)
    both = int(np.count_nonzero(after & before))
    neither = total - new.hits - old.hits + both
    spread = new.hits * (total - new.hits) * old.hits * (total - old.hits)
    crossed = (new.hits - both) * (old.hits - both)
    phi = (both * neither - crossed) / math.sqrt(spread) if spread else 0.0
    change = (new.hits - old.hits) / total

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    (new_low, new_high), (old_low, old_high) = new.interval, old.interval
    low = change - reach(new.value - new_low, old_high - old.value)
    high = change + reach(new_high - new.value, old.value - old_low)
    return change, (max(-1.0, low), min(1.0, high))
