"""Forget sets that are hardest, or easiest, to unlearn, found by bi-level selection.

    min over w in S   sum_i w_i CE(theta_u(w); z_i) + gamma |w|^2
    S:                w in [0, 1]^N with sum m
    theta_u(w):       K epochs of signSGD on sum_i (1 - w_i) CE(theta; z_i), from theta_o

A set is hard to unlearn if a model that learned without it still predicts it. The sign of a
gradient is constant almost everywhere, so theta_u does not move with w, and CE_i + 2 gamma w_i is
the whole gradient of the upper problem: nothing is differentiated through the training.

Source: Fan et al., "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine
Unlearning", ECCV 2024, arXiv 2403.07362.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .data.labelled import Splits
from .data.selectors import ForgetRequest
from .errors import UsageError
from .loop import LoopConfig, train
from .models.classifier import Classifier
from .train.classifier import Training

EVALUATION_BATCH = 4096
STABLE = 2  # upper iterations without a change of the set after which the search stops


@dataclass(frozen=True)
class Selection:
    """A forget set and how it was found.

    Attributes:
        request: the samples to forget.
        scores: [N] float64 w in [0, 1] by sample (or by class), with sum m.
        losses: [N] float64, cross-entropy by sample (or its mean by class) of theta_u(w).
        history: share of an iteration's set that was in the set of the one before, from the second
            on; far from 1 at its end, the search has not settled.
        seconds: wall time.
    """

    request: ForgetRequest
    scores: torch.Tensor
    losses: torch.Tensor
    history: tuple[float, ...]
    seconds: float


class WorstCase(BaseModel):
    """Settings of a bi-level selection; give either ``share`` or ``count``.

    It starts from w = m/N. The published code starts from a random set, which a small upper step
    never leaves. Losses of the upper level are read in eval mode, without augmentation. Of all w
    that were tried the best is returned, not the last: leaving out a whole class raises its loss so
    much that the next iteration chooses another, and the search walks over the classes.

    Attributes:
        share: size of the set as a share of all samples (or classes), in (0, 1).
        count: size m of the set in samples (or classes).
        by: choose single ``samples``, or whole ``classes``.
        easiest: find the set that is easiest to unlearn: losses count with a minus.
        outer: upper iterations U at most; fewer if the set stays the same twice. The last set is
            not tried any more, so to try each of few classes takes one more than there are.
        epochs: lower-level epochs K.
        lr: beta, how far a sign step moves each weight.
        step: alpha of the upper step; losses are about 1, so 1e3 gives a set, 1e-3 shades of one.
        gamma: weight of |w|^2.
        solver: ``projected`` gradient steps, or ``topm``, the exact minimiser for gamma = 0: the m
            smallest of the losses averaged over iterations, which visits more sets if none stays.
        from_scratch: lower levels start from new random weights instead of the original's.
        batch: samples of a sign step.
        seed: of the order of samples, augmentation and new weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float | None = Field(None, gt=0, lt=1, description="share of samples or classes")
    count: int | None = Field(None, ge=1, description="number of samples or classes")
    by: Literal["samples", "classes"] = Field("samples", description="samples or classes")
    easiest: bool = Field(False, description="the set easiest to unlearn instead")
    outer: int = Field(10, ge=1, description="upper iterations at most")
    epochs: int = Field(10, ge=1, description="epochs of a lower level")
    lr: float = Field(1e-3, gt=0, description="size of a sign step")
    step: float = Field(1e3, gt=0, description="size of an upper step")
    gamma: float = Field(0.0, ge=0, description="weight of |w|^2")
    solver: Literal["projected", "topm"] = Field("topm", description="projected or topm")
    from_scratch: bool = Field(False, description="retrain in every lower level")
    batch: int = Field(256, ge=1, description="samples of a sign step")
    seed: int = Field(0, ge=0, description="seed of all randomness")

    @model_validator(mode="after")
    def _fits_together(self) -> WorstCase:
        if (self.share is None) == (self.count is None):
            raise ValueError("give the size of the set either as a share or as a count")
        if self.solver == "topm" and self.gamma:
            raise ValueError(
                f"solver=topm minimises without |w|^2, but gamma={self.gamma:g}; use"
                " solver=projected, or gamma=0"
            )
        return self

    def select(self, model: Classifier, splits: Splits) -> Selection:
        """Find the set that is hardest (or easiest) to unlearn.

        Costs ``outer`` times ``epochs`` epochs and a pass over all samples at most.

        Args:
            model: the original, trained on ``splits.train``. It is not changed.
            splits: the data.

        Raises:
            UsageError: if the set would be empty or all there is, the model tells another number of
                classes than the data has, or a class to choose from has no sample.
            Diverged: if the loss of a lower level becomes NaN or infinite.
        """
        started = time.perf_counter()
        model.check_classes(splits.name, splits.classes)
        y, count = splits.train.y.cpu(), len(splits.classes)
        items = torch.arange(len(y)) if self.by == "samples" else y
        n = len(y) if self.by == "samples" else count
        m = self._size(n)
        w = torch.full((n,), m / n, dtype=torch.float64)
        mean, chosen, history, tried = torch.zeros_like(w), None, [], []
        for done in range(self.outer):
            losses = sample_losses(self.lower_level(model, splits, w[items]), splits)
            if self.by == "classes":
                losses = class_means(losses, y, splits.classes)
            cost = -losses if self.easiest else losses
            if chosen is not None:
                value = float((w * cost).sum() + self.gamma * w.square().sum())
                tried.append((value, done, chosen, w, losses))
            mean += (cost - mean) / (done + 1)
            if self.solver == "topm":
                w = indicator(mean, m)
            else:
                w = upper_step(w, cost, m, self.step, self.gamma)
            before, chosen = chosen, _largest(w, cost, m)
            if before is not None:
                history.append(len(before & chosen) / m)
            if len(history) >= STABLE and min(history[-STABLE:]) == 1:
                break
        if tried:
            _, _, chosen, w, losses = min(tried)
        request = self._request(splits, chosen, y)
        return Selection(request, w, losses, tuple(history), time.perf_counter() - started)

    def lower_level(self, model: Classifier, splits: Splits, weights: torch.Tensor) -> Classifier:
        """theta_u(w): train by sign steps on sum_i (1 - w_i) CE_i.

        Args:
            model: theta_o. It is not changed.
            splits: the data.
            weights: [N] w of every training sample, in [0, 1].
        """
        start = model.clone().freeze()
        if self.from_scratch:
            start.reset(seed=self.seed)
        objective = LowerLevel(self, start, splits, weights)
        config = LoopConfig(steps=objective.length(), lr=self.lr, seed=self.seed)
        train(objective, config, label="lower level")
        return objective.student.freeze()

    def _size(self, n: int) -> int:
        m = self.count if self.share is None else round(self.share * n)
        if not 0 < m < n:
            asked = f"count={m}" if self.share is None else f"share={self.share:g}"
            raise UsageError(
                f"{asked} of {n} {self.by} is {m}: a forget set needs at least 1, and must leave at"
                " least 1."
            )
        return m

    def _request(self, splits: Splits, chosen: set[int], y: torch.Tensor) -> ForgetRequest:
        name = "easiest" if self.easiest else "worst case"
        if self.by == "samples":
            size = f"{self.count} samples" if self.share is None else f"{100 * self.share:g} %"
            return ForgetRequest(splits, tuple(sorted(chosen)), f"{name} {size}")
        names = [splits.classes[c] for c in sorted(chosen)]
        rows = torch.isin(y, torch.tensor(sorted(chosen))).nonzero().flatten().tolist()
        what = f"class {names[0]}" if len(names) == 1 else f"classes {', '.join(names)}"
        return ForgetRequest(splits, tuple(rows), f"{name} {what}")


class SignSGD(torch.optim.Optimizer):
    """theta <- theta - lr sign(gradient); every weight moves by exactly lr, or not at all.

    Source: Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", ICML 2018,
    arXiv 1802.04434.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if moved:
                signs = torch._foreach_sign([p.grad for p in moved])
                torch._foreach_add_(moved, signs, alpha=-group["lr"])


class LowerLevel(Training):
    """Weighted cross-entropy by sign steps: a sample with w = 1 is left out of the loss."""

    def __init__(self, settings, model: Classifier, splits: Splits, weights: torch.Tensor):
        super().__init__(settings, model, splits)
        self.kept = (1 - weights).float()

    def prepare(self, device) -> None:
        super().prepare(device)
        self.kept = self.kept.to(device)

    def optimizers(self, config):
        return {"main": SignSGD(self.parameters().values(), config.lr)}

    def task_loss(self, x, y, rows):
        losses = F.cross_entropy(self.student.network(x), y, reduction="none")
        return {"ce_loss": (self.kept[rows] * losses).sum()}


def hyper_gradient(w: torch.Tensor, losses: torch.Tensor, gamma: float = 0.0) -> torch.Tensor:
    """[N] gradient of the upper problem: CE_i + 2 gamma w_i."""
    return losses + 2 * gamma * w


def upper_step(
    w: torch.Tensor, losses: torch.Tensor, m: int, step: float, gamma: float = 0.0
) -> torch.Tensor:
    """A projected gradient step of the upper problem.

    From uniform w, steps of any size rank items by loss. From a set (w of 0 and 1), steps that
    together come to less than 1 over the spread of losses end with the same set.

    Args:
        w: [N] in [0, 1], sum m.
        losses: [N] of the items; with a minus to find the easiest.
        m: size of the set.
        step: alpha > 0.
        gamma: weight of |w|^2.

    Returns:
        [N] float64 in [0, 1], sum m.
    """
    return project_capped_simplex(w - step * hyper_gradient(w, losses, gamma), m)


def project_capped_simplex(a: torch.Tensor, m: int) -> torch.Tensor:
    """The nearest point to ``a`` in {w in [0, 1]^N, sum w = m}, exactly, in O(N log N).

    w = clip(a - mu, 0, 1), and sum w is piecewise linear in mu with bends at a_i - 1 and a_i:
    sort the bends, find the piece that holds m, interpolate.

    Args:
        a: [N] finite, of any size.
        m: whole number from 0 to N.

    Returns:
        [N] float64.

    Raises:
        UsageError: if ``a`` is not finite, or m is out of range.
    """
    a, n = a.double(), len(a)
    if not torch.isfinite(a).all():
        raise UsageError("Scores to project must be finite.")
    if not 0 <= m <= n:
        raise UsageError(f"{n} numbers in [0, 1] cannot have the sum {m}.")
    if m in (0, n):
        return torch.full_like(a, float(m == n))
    # mu is within 1 below the m-th largest number, so nothing beyond 1 from that one matters:
    # clamped, numbers of any size lose no digits
    b = (a - a.topk(m).values[-1]).clamp(-1, 1)
    bends, order = torch.cat([b - 1, b]).sort()
    free = torch.where(order < n, 1.0, -1.0).double().cumsum(0)[:-1]
    sums = n - torch.cat([b.new_zeros(1), (free * bends.diff()).cumsum(0)])
    piece = int((sums > m).sum()) - 1
    mu = bends[piece] + (sums[piece] - m) / free[piece]
    return (b - mu).clamp(0, 1)


def indicator(losses: torch.Tensor, m: int) -> torch.Tensor:
    """[N] float64, 1 at the m smallest losses: the minimiser of sum_i w_i losses_i over S."""
    w = torch.zeros(len(losses), dtype=torch.float64)
    w[losses.argsort(stable=True)[:m]] = 1
    return w


def sample_losses(model: Classifier, splits: Splits) -> torch.Tensor:
    """[N] float64 cross-entropy of every training sample, in eval mode, without augmentation."""
    logits = model.logits(splits.train.x, EVALUATION_BATCH).double()
    return F.cross_entropy(logits, splits.train.y.cpu(), reduction="none")


def class_means(losses: torch.Tensor, y: torch.Tensor, classes: tuple[str, ...]) -> torch.Tensor:
    """[K] mean of the losses [N] of each class.

    Raises:
        UsageError: if a class has no sample.
    """
    counts = torch.bincount(y, minlength=len(classes))
    if not counts.all():
        empty = classes[int((counts == 0).nonzero()[0])]
        raise UsageError(f"The class {empty!r} has no training sample, so it cannot be chosen.")
    return torch.bincount(y, losses, minlength=len(classes)) / counts


def _largest(w: torch.Tensor, cost: torch.Tensor, m: int) -> set[int]:
    """Positions of the m largest w; of equal ones those that cost least."""
    order = cost.argsort(stable=True)
    order = order[w[order].argsort(descending=True, stable=True)]
    return set(order[:m].tolist())
