"""RL, random labels (Golatkar et al., CVPR 2020; Amnesiac unlearning, Graves et al., AAAI 2021).

    min over theta, from theta_o,   E over D_f of CE(f_theta(x), y~) + E over D_r of CE(f_theta(x), y)

y~ is uniform over the other classes, drawn anew for every batch; an epoch is a sweep over D_f, then
one over D_r.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from ...registry import Paper, register
from .base import ClassifierErasure, ClassifierUnlearner


@register("method", "random_label")
class RandomLabel(ClassifierUnlearner):
    """Teach wrong labels on the forget set, right ones on the retain set."""

    title: ClassVar[str] = "RL"
    paper: ClassVar[Paper] = Paper(
        title="Amnesiac Machine Learning",
        authors="L. Graves, V. Nagisetty, V. Ganesh",
        arxiv="2010.10981",
        venue="AAAI 2021",
        deviations=(
            "The true label is never drawn (true_label: the published code draws it too).",
        ),
        cost="epochs over D_f and D_r",
    )

    true_label: bool = Field(False, description="let the random label be the true one by chance")

    def objective(self, model, requests):
        return RandomLabelObjective(self, model, requests)


class RandomLabelObjective(ClassifierErasure):
    """Random labels on D_f, then true ones on D_r."""

    def random_labels(self, y: torch.Tensor) -> torch.Tensor:
        classes = len(self.student.classes)
        if self.settings.true_label:
            return torch.randint(classes, y.shape).to(y.device)
        return (y + torch.randint(1, classes, y.shape).to(y.device)) % classes

    def relabel(self, x, y, rows):
        return {"forget_loss": self.cross_entropy(x, self.random_labels(y), rows)["ce_loss"]}

    def passes(self, epoch):
        return [
            self.sweep("forget", self.forget, self.relabel),
            self.sweep("retain", self.retain, self.cross_entropy),
        ]
