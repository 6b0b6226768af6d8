"""GA, gradient ascent: climb the error on what is to be forgotten.

    max over theta, from theta_o,   E over D_f of d(f_theta(x), y)

The slope of an absolute error does not shrink as the error grows, so nothing slows the climb.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ...registry import Paper, register
from .base import RegressorErasure, RegressorUnlearner


@register("method", "gradient_ascent")
class GradientAscent(RegressorUnlearner):
    """Gradient ascent on the forget set; without a stop it destroys the network."""

    title: ClassVar[str] = "GA"
    paper: ClassVar[Paper] = Paper(
        title="Unrolling SGD: Understanding Factors Influencing Machine Unlearning",
        authors="A. Thudi, G. Deza, V. Chandrasekaran, N. Papernot",
        arxiv="2109.13398",
        venue="EuroS&P 2022",
        deviations=("The error of a regressor takes the place of cross-entropy.",),
        cost="epochs over D_f",
    )

    epochs: int = Field(1, ge=1, description="epochs over D_f")
    lr: float = Field(1e-4, ge=0, description="learning rate; there is no lower bound to reach")

    def objective(self, model, requests):
        return AscentObjective(self, model, requests)


class AscentObjective(RegressorErasure):
    """Minus the task's loss on D_f."""

    def ascend(self, x, y, rows):
        return {"forget_loss": -self.task_loss(x, y, rows)["error_loss"]}

    def passes(self, epoch):
        return [self.sweep("forget", self.forget, self.ascend)]
