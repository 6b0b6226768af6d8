"""UNSIR, "Fast Yet Effective Machine Unlearning" (Tarun et al., TNNLS 2023): impair, then repair.

    n*       = argmin over n     E over noise pictures n of -CE(f_o(n), c) + b |n|^2,   for each class c
    impair   min over theta      E over D_sub, and over n* with the label c, of CE
    repair   min over theta      E over D_sub of CE

n* are pictures on which the original is as wrong as can be about c: learning that they are c takes the
class away. D_sub is a part of each class that is kept; of D_f nothing but its classes is used.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from ... import seeding
from ...data.labelled import Labelled
from ...passes import Pass
from ...registry import Paper, register
from .base import ClassifierErasure, ClassifierUnlearner


@register("method", "unsir")
class UNSIR(ClassifierUnlearner):
    """Teach that error-maximising noise is the forgotten class, then repair the others."""

    title: ClassVar[str] = "UNSIR"
    class_wise: ClassVar[bool] = True
    paper: ClassVar[Paper] = Paper(
        title="Fast Yet Effective Machine Unlearning",
        authors="A. K. Tarun, V. S. Chundawat, M. Mandal, M. Kankanhalli",
        arxiv="2111.08947",
        venue="IEEE TNNLS 2023",
        repository="https://github.com/vikram2000b/Fast-Machine-Unlearning",
        deviations=(
            "All noise pictures are used; a port of the published code shows the first three alone.",
        ),
        cost="25 steps on noise, then two epochs over a part of D_r",
    )
    trial: ClassVar[dict[str, Any]] = {"lr": 1e-2, "noise_steps": 2, "pictures": 4, "copies": 4}

    epochs: int = Field(1, ge=1, description="epochs, of an impair and a repair pass each")
    lr: float = Field(1e-4, ge=0, description="learning rate of both passes")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimiser")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimiser")
    batch: int = Field(32, ge=1, description="samples a step of the impair pass")
    repair_batch: int = Field(128, ge=1, description="samples a step of the repair pass")
    per_class: int = Field(500, ge=1, description="samples of each kept class in D_sub, at most")
    pictures: int = Field(32, ge=1, description="noise pictures of each class")
    copies: int = Field(80, ge=1, description="times that an impair pass shows each of them")
    noise_steps: int = Field(25, ge=0, description="steps of Adam on the noise")
    noise_lr: float = Field(0.1, ge=0, description="their learning rate")
    penalty: float = Field(0.1, ge=0, description="b, weight of |n|^2")

    def objective(self, model, requests):
        return UnsirObjective(self, model, requests)


class UnsirObjective(ClassifierErasure):
    """Cross-entropy on noise and D_sub, then on D_sub alone.

    Attributes:
        some: D_sub.
        noise: labels of the noise pictures, and the pictures, which ``start`` makes.
    """

    def __init__(self, settings, model, requests):
        super().__init__(settings, model, requests)
        s, y = settings, self.retain.y.cpu()
        draw = seeding.generator("unsir", s.seed)
        order = torch.randperm(len(y), generator=draw)
        taken = [order[y[order] == label][: s.per_class] for label in y.unique()]
        self.some = self.retain.take(torch.cat(taken).sort().values)
        labels = self.forget.y.cpu().unique().repeat_interleave(s.pictures)
        start = seeding.noise((len(labels), *self.forget.x.shape[1:]), "unsir-noise", s.seed)
        self.noise = Labelled(start, labels, self.forget.classes)

    def start(self) -> None:
        device = self.teacher.device
        self.some, self.noise = self.some.to(device), self.noise.to(device)
        self.noise.x.copy_(self.error_maximising())

    def error_maximising(self) -> torch.Tensor:
        """n*, [pictures of all classes, C, H, W]; not bound to [0, 1]."""
        s, y = self.settings, self.noise.y
        n = self.noise.x.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([n], lr=s.noise_lr)
        for _ in range(s.noise_steps):
            # a sum over pictures, for each of them is a problem of its own
            losses = -F.cross_entropy(self.teacher.network(n), y, reduction="none")
            loss = (losses + s.penalty * n.square().flatten(1).sum(1)).sum()
            n.grad = torch.autograd.grad(loss, n)[0]
            optimizer.step()
        return n.detach()

    def passes(self, epoch):
        noise, some = self.noise, self.some
        shown = Labelled(
            torch.cat([noise.x.repeat(self.settings.copies, 1, 1, 1), some.x]),
            torch.cat([noise.y.repeat(self.settings.copies), some.y]), some.classes,
        )  # fmt: skip
        batch = min(self.settings.repair_batch, len(some))
        return [
            self.sweep("impair", shown, self.cross_entropy),
            Pass("repair", some, self.cross_entropy, batch),
        ]
