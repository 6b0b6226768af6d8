"""Gradient surgery: one step from the gradients of several losses that may pull against each other.

    protect     a' = a - lambda min(0, <a, b>) / |b|^2 b     b is protected, not descended (A-GEM)
    pcgrad      p_i = g_i; for j != i in random order: where <p_i, g_j> < 0, take the component along
                the original g_j out of p_i; the step is sum_i p_i
    mgda        alpha a + (1 - alpha) b of the smallest norm
    reference   a - lambda min(0, cos(a, b)) b / |b|, DoCo's published code: not a projection, since
                the factor |a| is missing

"Gradient Surgery for Multi-Task Learning" (PCGrad, Yu et al., NeurIPS 2020, arXiv 2001.06782),
"Efficient Lifelong Learning with A-GEM" (Chaudhry et al., ICLR 2019, arXiv 1812.00420), and
"Multi-Task Learning as Multi-Objective Optimization" (Sener and Koltun, NeurIPS 2018, arXiv
1810.04650).

Every rule gives a linear combination of the gradients, so all of them work on the n x n matrix of
inner products alone and end in one weighted sum. The order is: accumulate, average over processes,
combine, clip, step; surgery is not linear, and any other order is another algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from . import seeding
from .errors import UsageError
from .loop import note, summed

if TYPE_CHECKING:
    from .loop import Run

Mode = Literal["none", "protect", "protect_and_descend", "pcgrad", "mgda", "reference"]
Scope = Literal["tensor", "global"]


@dataclass(frozen=True)
class Surgery:
    """How gradients become one.

    Attributes:
        mode: ``none`` sums them; ``protect`` and ``reference`` descend the first and protect the
            second; ``protect_and_descend`` adds the second too (its weight is its loss's, since
            projections do not depend on the length of b); ``pcgrad`` treats n alike; ``mgda`` two.
        scope: inner products over one ``tensor`` at a time (DoCo), or over all together (PCGrad).
        strength: lambda; 1 removes the conflict, less leaves some of it, more turns it round.
        clip: largest norm of each gradient before the rule, 0 for none.
    """

    mode: Mode = "protect"
    scope: Scope = "global"
    strength: float = 1.0
    clip: float = 0.0

    def check(self, losses: int) -> None:
        """Refuse a rule that does not fit the number of losses.

        Raises:
            UsageError: for other than two losses where the rule is for two.
        """
        if self.mode not in ("none", "pcgrad") and losses != 2:
            raise UsageError(
                f"Gradient surgery by {self.mode} is for two losses, and there are {losses}; use"
                " pcgrad, which takes any number."
            )


def _ratio(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Part over whole, and 0 where ``whole`` is 0: a gradient of zero changes nothing."""
    return torch.where(whole == 0, torch.zeros_like(part), part / whole)


def weights(
    gram: torch.Tensor, surgery: Surgery, order: Sequence[Sequence[int]] = (), scale: float = 1.0
) -> torch.Tensor:
    """How much of each gradient is in the step, [K, n], without a branch on a value of a tensor.

    Args:
        gram: inner products <g_i, g_j> in each of K scopes, [K, n, n].
        surgery: the rule.
        order: for ``pcgrad``, for each gradient the order in which the others are looked at.
        scale: factor on all gradients (fp16), which the ``reference`` rule has to know.
    """
    n = gram.shape[-1]
    w = torch.ones_like(gram[:, 0])
    if surgery.mode == "none":
        return w
    if surgery.mode == "pcgrad":
        return _pcgrad(gram, order or [range(n)] * n)
    aa, ab, bb = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
    if surgery.mode == "mgda":
        alpha = _ratio(bb - ab, aa - 2 * ab + bb).clamp(0, 1)
        return torch.stack([alpha, 1 - alpha], 1)
    if surgery.mode == "reference":
        conflict = scale * _ratio(ab.clamp(max=0), aa.sqrt() * bb)
    else:
        conflict = _ratio(ab.clamp(max=0), bb)
    w[:, 1] = float(surgery.mode == "protect_and_descend") - surgery.strength * conflict
    return w


def _pcgrad(gram: torch.Tensor, order: Sequence[Sequence[int]]) -> torch.Tensor:
    """Row i of ``w`` holds p_i in terms of the gradients, so that <p_i, g_j> = (w gram)_ij."""
    w = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).repeat(len(gram), 1, 1)
    for i, others in enumerate(order):
        for j in others:
            if i != j:
                along = (w[:, i] * gram[:, :, j]).sum(-1)
                w[:, i, j] -= _ratio(along.clamp(max=0), gram[:, j, j])
    return w.sum(1)


class Gradients:
    """Gradients of n losses with respect to the same parameters, as rows of one buffer.

    Attributes:
        rows: [n, N] float32, N the number of trained scalars.
        sizes: scalars in each parameter.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], losses: int):
        self.parameters = list(parameters)
        self.sizes = [p.numel() for p in self.parameters]
        device = self.parameters[0].device
        self.rows = torch.zeros(losses, sum(self.sizes), device=device)

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """[N] as tensors of the parameters' shapes that share its memory."""
        parts = flat.split(self.sizes)
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def add(self, row: int, gradients: Sequence[torch.Tensor | None]) -> None:
        """Add one micro-batch; a parameter that the loss does not use has None."""
        used = [(v, g) for v, g in zip(self.views(self.rows[row]), gradients) if g is not None]
        if used:
            torch._foreach_add_([v for v, _ in used], [g.float() for _, g in used])

    def gram(self) -> torch.Tensor:
        """Inner products within each parameter, [K, n, n]."""
        return torch.stack([part @ part.T for part in self.rows.split(self.sizes, 1)])

    @torch.no_grad()
    def combine(
        self, surgery: Surgery, order: Sequence[Sequence[int]] = (), scale: float = 1.0
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The step [N], and what there is to log about it; in float32 whatever autocast is on."""
        with torch.autocast(self.rows.device.type, enabled=False):
            return self._combine(surgery, order, scale)

    def _combine(
        self, surgery: Surgery, order: Sequence[Sequence[int]], scale: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        gram = self.gram()
        if surgery.clip:
            norm = gram.sum(0).diagonal().sqrt()
            shorter = (surgery.clip * scale / norm).clamp(max=1)  # |g| = 0 gives inf, then 1
            self.rows *= shorter.unsqueeze(1)
            gram = gram * shorter.unsqueeze(1) * shorter
        scopes = gram if surgery.scope == "tensor" else gram.sum(0, keepdim=True)
        w = weights(scopes, surgery, order, scale).expand(len(gram), -1)
        parts = self.rows.split(self.sizes, 1)
        return torch.cat([w[k] @ part for k, part in enumerate(parts)]), conflicts(gram)

    def clear(self) -> None:
        self.rows.zero_()


def conflicts(gram: torch.Tensor) -> dict[str, torch.Tensor]:
    """Log of the inner products [K, n, n].

    ``gradient_cosine``: the smallest cosine of two of the whole gradients. ``conflict_share``: the
    share of tensors in which two of them conflict, that is, have a negative inner product. Nothing
    for a single gradient.
    """
    if gram.shape[-1] == 1:
        return {}
    whole = gram.sum(0)
    norm = whole.diagonal().sqrt()
    pairs = torch.ones_like(whole).triu(1) > 0
    cosine = _ratio(whole, norm.unsqueeze(1) * norm)[pairs].min()
    return {
        "gradient_cosine": cosine,
        "conflict_share": (gram[:, pairs] < 0).any(1).float().mean(),
    }


def descend(
    run: Run,
    surgery: Surgery,
    gradients: Gradients,
    optimizer: Any,
    losses: Sequence[Callable[[int], dict[str, torch.Tensor]]],
    step: int,
) -> dict[str, torch.Tensor]:
    """One optimiser step from the gradients of several losses, each with a pass of its own.

    Each loss is computed and differentiated before the next, so only one graph is in memory. The
    gradients of all micro-batches are summed here, averaged over processes once, combined, clipped
    once and applied. ``.grad`` of no other parameter is touched.

    Args:
        run: the loop.
        surgery: the rule.
        gradients: the buffer, of the optimiser's parameters in their order; cleared here.
        optimizer: what takes the step.
        losses: functions of the step, as ``Objective.loss``: keys ending in ``_loss`` are summed.
        step: number of the step.

    Returns:
        Means of what the losses gave, and the log of the surgery.

    Raises:
        Diverged: if a loss is NaN or infinite.
        UsageError: if the rule does not fit the number of losses.
    """
    surgery.check(len(losses))
    logged: dict[str, torch.Tensor] = {}
    gradients.clear()
    k = run.config.accumulation
    for micro in range(k):
        with run.randomness(step, micro):
            for row, loss in enumerate(losses):
                values = loss(step)
                found = run.gradients(summed(values) / k, gradients.parameters, step)
                gradients.add(row, found)
                note(logged, values, k)
    gradients.rows = run.average(gradients.rows)
    order: list[list[int]] = []
    if surgery.mode == "pcgrad":
        # the same on every process, and known to a resumed run
        draw = seeding.generator("surgery", run.config.seed, step)
        order = [torch.randperm(len(losses), generator=draw).tolist() for _ in losses]
    combined, found = gradients.combine(surgery, order, run.scale)
    for parameter, view in zip(gradients.parameters, gradients.views(combined), strict=True):
        parameter.grad = view
    # each gradient was clipped by itself where the rule asks for it
    run.apply(optimizer, gradients.parameters, 0.0 if surgery.clip else None, averaged=True)
    return {**logged, **found}
