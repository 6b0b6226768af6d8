"""Retrain, the gold standard: train from scratch on what is to be kept.

    min over theta, from a fresh start,   E over D_r of d(f_theta(x), y)

What an unlearned model should be is what this one is; every gap of the other methods is to it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ...registry import Paper, register
from .base import RegressorErasure, RegressorUnlearner, deep_regression


@register("method", "retrain")
class Retrain(RegressorUnlearner):
    """Train a new network without the forget set."""

    title: ClassVar[str] = "Retrain"
    paper: ClassVar[Paper] = deep_regression(
        "a whole training on D_r",
        (
            "A cosine course of the rate takes the place of plateaus.",
            "The bias of the head begins at the mean of the targets of D_r.",
        ),
    )
    idle: ClassVar[dict[str, Any] | None] = None

    epochs: int = Field(12, ge=1, description="epochs, as many as the original's")
    lr: float = Field(0.01, ge=0, description="learning rate, as the original's")
    schedule: Literal["constant", "cosine", "step"] = Field("cosine", description="course of lr")

    def objective(self, model, requests):
        return RetrainObjective(self, model, requests)


class RetrainObjective(RegressorErasure):
    """The task's loss on D_r from new weights."""

    def start(self) -> None:
        self.student.reset(seed=self.settings.seed).centre(self.retain.y)
