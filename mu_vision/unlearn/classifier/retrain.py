"""Retrain, the gold standard: train from scratch on what is to be kept.

    min over theta, from a fresh start,   E over D_r of CE(f_theta(x), y)

What an unlearned model should be is what this one is; every gap of the other methods is to it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ...registry import Paper, register
from .base import ClassifierErasure, ClassifierUnlearner


@register("method", "retrain")
class Retrain(ClassifierUnlearner):
    """Train a new network without the forget set."""

    title: ClassVar[str] = "Retrain"
    paper: ClassVar[Paper] = Paper(
        title="Machine Unlearning",
        authors="L. Bourtoule, V. Chandrasekaran, C. A. Choquette-Choo, H. Jia, A. Travers, B. Zhang,"
        " D. Lie, N. Papernot",
        arxiv="1912.03817",
        venue="IEEE S&P 2021",
        cost="a whole training on D_r",
    )
    trial: ClassVar[dict[str, Any]] = {"epochs": 1, "lr": 0.05}
    idle: ClassVar[dict[str, Any] | None] = None

    epochs: int = Field(30, ge=1, description="epochs, as many as the original's")
    lr: float = Field(0.05, ge=0, description="learning rate, as the original's")
    schedule: Literal["constant", "cosine", "step"] = Field("cosine", description="course of lr")

    def objective(self, model, requests):
        return RetrainObjective(self, model, requests)


class RetrainObjective(ClassifierErasure):
    """Cross-entropy on D_r from new weights; a pruned network keeps its mask."""

    def start(self) -> None:
        self.student.reset(seed=self.settings.seed)
