"""GA, gradient ascent (NegGrad): climb the loss of what is to be forgotten.

max over theta, from theta_o,   E over D_f of CE(f_theta(x), y)
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ...registry import Paper, register
from .base import ClassifierErasure, ClassifierUnlearner


@register("method", "gradient_ascent")
class GradientAscent(ClassifierUnlearner):
    """Gradient ascent on the forget set; without a stop it destroys the network."""

    title: ClassVar[str] = "GA"
    paper: ClassVar[Paper] = Paper(
        title="Unrolling SGD: Understanding Factors Influencing Machine Unlearning",
        authors="A. Thudi, G. Deza, V. Chandrasekaran, N. Papernot",
        arxiv="2109.13398",
        venue="EuroS&P 2022",
        cost="epochs over D_f",
    )

    epochs: int = Field(5, ge=1, description="epochs over D_f")
    lr: float = Field(1e-3, ge=0, description="learning rate; there is no lower bound to reach")

    def objective(self, model, requests):
        return AscentObjective(self, model, requests)


class AscentObjective(ClassifierErasure):
    """Minus the cross-entropy on D_f."""

    def ascend(self, x, y, rows):
        return {"forget_loss": -self.cross_entropy(x, y, rows)["ce_loss"]}

    def passes(self, epoch):
        return [self.sweep("forget", self.forget, self.ascend)]
