"""BadT, "Can Bad Teaching Induce Forgetting?" (Chundawat et al., AAAI 2023).

    min over theta   E over D_f and a part of D_r of KL(target || softmax(f_theta(x)))

The target is what a network of random weights says on D_f, and what the original says on D_r.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from ... import seeding
from ...data.labelled import Labelled
from ...registry import Paper, register
from .base import ClassifierErasure, ClassifierUnlearner, kl


@register("method", "bad_teacher")
class BadTeacher(ClassifierUnlearner):
    """Learn from an incompetent teacher on the forget set, from the original elsewhere."""

    title: ClassVar[str] = "BadT"
    paper: ClassVar[Paper] = Paper(
        title="Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks using an Incompetent"
        " Teacher",
        authors="V. S. Chundawat, A. K. Tarun, M. Mandal, M. Kankanhalli",
        arxiv="2205.08096",
        venue="AAAI 2023",
        repository="https://github.com/vikram2000b/bad-teaching-unlearning",
        deviations=(
            "KL is summed over classes; the published mean divides it by their number.",
            "More epochs and a higher rate than the paper's (1 epoch, 1e-4), which are for networks"
            " trained on 50,000 pictures.",
        ),
        cost="epochs over D_f and a part of D_r",
    )
    trial: ClassVar[dict[str, Any]] = {"epochs": 1, "lr": 1e-2}

    epochs: int = Field(3, ge=1, description="epochs")
    lr: float = Field(1e-3, ge=0, description="learning rate")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimiser")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimiser")
    share: float = Field(0.3, gt=0, le=1, description="share of D_r that is shown (paper: 0.3)")

    def objective(self, model, requests):
        return BadTeacherObjective(self, model, requests)


class BadTeacherObjective(ClassifierErasure):
    """KL to the row-wise target; the targets are computed once unless batches are augmented."""

    def __init__(self, settings, model, requests):
        super().__init__(settings, model, requests)
        draw = seeding.generator("bad-teacher", settings.seed)
        count = max(1, round(settings.share * len(self.retain)))
        shown = self.retain.take(torch.randperm(len(self.retain), generator=draw)[:count])
        self.mixed = Labelled(
            torch.cat([self.forget.x, shown.x]), torch.cat([self.forget.y, shown.y]), shown.classes
        )

    def start(self) -> None:
        self.mixed = self.mixed.to(self.teacher.device)
        self.incompetent = self.teacher.clone().reset(seed=self.settings.seed).freeze()
        if not self.augment:
            everyone = torch.arange(len(self.mixed))
            self.targets = self.target(self.mixed.x, everyone)

    def target(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        bad, good = self.incompetent.logits(x), self.teacher.logits(x)
        return torch.where((rows.cpu() < len(self.forget)).unsqueeze(1), bad, good).to(x.device)

    def imitate(self, x, y, rows):
        told = self.target(x, rows) if self.augment else self.targets[rows]
        return {"kl_loss": kl(told, self.student.network(x))}

    def passes(self, epoch):
        return [self.sweep("mixed", self.mixed, self.imitate)]
