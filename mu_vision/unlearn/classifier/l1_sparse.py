"""l1-sparse, "Model Sparsity Can Simplify Machine Unlearning" (Jia et al., NeurIPS 2023).

    min over theta, from theta_o,   E over D_r of CE(f_theta(x), y) + gamma_e sum_i |theta_i|

gamma_e of epoch e falls linearly to 0 (the paper's choice), grows, or is constant; the last
``plain_epochs`` are without it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ...registry import Paper, register
from .base import ClassifierErasure, ClassifierUnlearner

SPARSE = Paper(
    title="Model Sparsity Can Simplify Machine Unlearning",
    authors="J. Jia, J. Liu, P. Ram, Y. Yao, G. Liu, Y. Liu, P. Sharma, S. Liu",
    arxiv="2304.04934",
    venue="NeurIPS 2023",
    repository="https://github.com/OPTML-Group/Unlearn-Sparse",
    licence="MIT",
    deviations=(
        "gamma has a name and a default of its own; the published code shares one default of 0.2,"
        " under which nothing survives.",
    ),
    cost="epochs over D_r",
)


@register("method", "l1_sparse")
class L1Sparse(ClassifierUnlearner):
    """Fine-tuning on the retain set with an l1 penalty on all weights."""

    title: ClassVar[str] = "l1-sparse"
    paper: ClassVar[Paper] = SPARSE
    idle: ClassVar[dict | None] = {"lr": 0.0, "weight_decay": 0.0}

    gamma: float = Field(1e-3, ge=0, description="gamma_0; short runs need more")
    decline: Literal["decaying", "growing", "constant"] = Field(
        "decaying", description="course of gamma over epochs"
    )
    plain_epochs: int = Field(0, ge=0, description="epochs without l1 at the end")

    def gamma_at(self, epoch: int) -> float:
        """gamma_e; the first epoch of a decaying schedule has all of gamma_0, none has 0."""
        length = self.epochs - self.plain_epochs
        if epoch >= length:
            return 0.0
        share = {"decaying": 1 - epoch / length, "growing": epoch / length, "constant": 1.0}
        return self.gamma * share[self.decline]

    def objective(self, model, requests):
        return L1Objective(self, model, requests)


class L1Objective(ClassifierErasure):
    """Cross-entropy on D_r and the penalty."""

    def passes(self, epoch):
        gamma = self.settings.gamma_at(epoch)

        def loss(x, y, rows):
            losses = self.cross_entropy(x, y, rows)
            if gamma:
                size = sum(p.abs().sum() for p in self.student.network.parameters())
                losses["l1_loss"] = gamma * size
            return losses

        return [self.sweep("retain", self.retain, loss)]
