"""Boundary Shrink, "Boundary Unlearning" (Chen et al., CVPR 2023).

    x'    = clip(x + b sign(grad over x of CE(f_o(x), y)), 0, 1)
    y_nb  = argmax f_o(x')
    min over theta, from theta_o,   E over D_f of CE(f_theta(x), y_nb(x))

The labels depend on the original alone and are computed once.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from ...registry import Paper, register
from .base import ClassifierErasure, ClassifierUnlearner

BOUNDARY = Paper(
    title="Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary",
    authors="M. Chen, W. Gao, G. Liu, K. Peng, C. Wang",
    arxiv="2303.11570",
    venue="CVPR 2023",
    cost="epochs over D_f",
)


@register("method", "boundary_shrink")
class BoundaryShrink(ClassifierUnlearner):
    """Give forgotten samples the label of the nearest other class."""

    title: ClassVar[str] = "Boundary Shrink"
    paper: ClassVar[Paper] = BOUNDARY

    lr: float = Field(1e-3, ge=0, description="learning rate")
    bound: float = Field(0.1, ge=0, le=1, description="b, of the FGSM step; pictures are in [0, 1]")

    def objective(self, model, requests):
        return ShrinkObjective(self, model, requests)


class ShrinkObjective(ClassifierErasure):
    """Cross-entropy to the adversarial labels.

    Attributes:
        nearest: [N] labels y_nb of the forget set.
    """

    def start(self) -> None:
        moved = fgsm(self.teacher, self.forget.x, self.forget.y, self.settings.bound)
        self.nearest = self.teacher.logits(moved).argmax(1).to(self.forget.y.device)

    def shrink(self, x, y, rows):
        return {"forget_loss": self.cross_entropy(x, self.nearest[rows], rows)["ce_loss"]}

    def passes(self, epoch):
        return [self.sweep("forget", self.forget, self.shrink)]


def fgsm(model, x: torch.Tensor, y: torch.Tensor, bound: float, batch: int = 512) -> torch.Tensor:
    """The fast gradient sign step (Goodfellow et al. 2015), within [0, 1]."""
    moved = []
    for part, labels in zip(x.split(batch), y.split(batch), strict=True):
        free = part.clone().requires_grad_(True)
        with torch.enable_grad():
            loss = F.cross_entropy(model.network(free), labels, reduction="sum")
            grad = torch.autograd.grad(loss, free)[0]
        moved.append((part + bound * grad.sign()).clamp(0, 1))
    return torch.cat(moved)
