"""NegGrad+ of "Towards Unbounded Machine Unlearning" (Kurmanji et al., NeurIPS 2023).

    min over theta, from theta_o,   a E over D_r of CE - (1 - a) E over D_f of CE

One retain batch and one forget batch a step.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ...data.labelled import augmented
from ...registry import Paper, register
from .base import ClassifierErasure, ClassifierUnlearner


@register("method", "neggrad")
class NegGradPlus(ClassifierUnlearner):
    """Descent on the retain set and ascent on the forget set in one step."""

    title: ClassVar[str] = "NegGrad+"
    paper: ClassVar[Paper] = Paper(
        title="Towards Unbounded Machine Unlearning",
        authors="M. Kurmanji, P. Triantafillou, J. Hayes, E. Triantafillou",
        arxiv="2302.09880",
        venue="NeurIPS 2023",
        repository="https://github.com/meghdadk/SCRUB",
        deviations=("Forget batches are drawn anew; the published code repeats the first order.",),
        cost="epochs over D_r, each with as many forget batches",
    )

    epochs: int = Field(5, ge=1, description="epochs over D_r")
    alpha: float = Field(0.95, ge=0, le=1, description="a; it has a sharp threshold")

    def objective(self, model, requests):
        return NegGradObjective(self, model, requests)


class NegGradObjective(ClassifierErasure):
    """a CE on a retain batch - (1 - a) CE on a forget batch."""

    def both(self, x, y, rows):
        a, forget = self.settings.alpha, self.forget
        drawn = torch.randperm(len(forget))[: self.settings.batch].to(y.device)
        x_f = augmented(forget.x[drawn]) if self.augment else forget.x[drawn]
        losses = {}
        # each batch has its own batch norm statistics, as in two passes
        if a > 0:
            losses["retain_loss"] = a * self.cross_entropy(x, y, rows)["ce_loss"]
        if a < 1:
            climbed = self.cross_entropy(x_f, forget.y[drawn], drawn)["ce_loss"]
            losses["forget_loss"] = -(1 - a) * climbed
        return losses

    def passes(self, epoch):
        return [self.sweep("retain", self.retain, self.both)]
