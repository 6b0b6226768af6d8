"""Gaussian-Amnesiac unlearning (Tarun et al., ICML 2023): train on, with drawn targets for D_f.

    y'_i ~ N(mean(y), std(y)^2)   for i in D_f, one independent draw each
    min over theta, from theta_o,   E over D_r and D_f' of d(f_theta(x), y),   D_f' = {(x_i, y'_i)}

Mean and standard deviation (with n - 1) are of all training targets. Draws are not cut to the range
of the targets, as published: years can be negative.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from ... import seeding
from ...registry import Paper, register
from .base import RegressorErasure, RegressorUnlearner, deep_regression


@register("method", "gaussian_amnesiac")
class GaussianAmnesiac(RegressorUnlearner):
    """Give the forget set targets that are drawn once, and train on."""

    title: ClassVar[str] = "Gaussian-Amnesiac"
    paper: ClassVar[Paper] = deep_regression("epochs over D_f and D_r")

    epochs: int = Field(1, ge=1, description="epochs over D_f and D_r (paper's code: 1)")

    def objective(self, model, requests):
        return GaussianObjective(self, model, requests)


class GaussianObjective(RegressorErasure):
    """The task's loss on all samples, with drawn targets for the forget set."""

    def __init__(self, settings, model, requests):
        super().__init__(settings, model, requests)
        everything, train = self.everything(), self.request.splits.train
        drawn = drawn_targets(train.y, len(self.forget), settings.seed)
        self.mixed = replace(everything, y=torch.cat([drawn, everything.y[len(self.forget) :]]))

    def start(self) -> None:
        self.mixed = self.mixed.to(self.teacher.device)

    def passes(self, epoch):
        return [self.sweep("mixed", self.mixed, self.task_loss)]


def drawn_targets(y: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """``count`` draws from the normal distribution with the moments of the targets y [N]."""
    return y.mean() + y.std() * seeding.noise((count,), "gaussian-amnesiac", seed).to(y.device)
