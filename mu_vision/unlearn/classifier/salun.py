"""SalUn, "Empowering Machine Unlearning via Gradient-based Weight Saliency" (Fan et al., ICLR 2024).

    m_S     = 1[ |grad over theta of E over D_f of CE| at theta_o is among the largest d P of all P ]
    theta_u = m_S (theta_o + delta) + (1 - m_S) theta_o,   delta trained by random labels

Weights outside the mask stay theta_o bit for bit: they are restored after every step, because
momentum and weight decay move them without a gradient.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from ...registry import Paper, register
from ..saliency import restore, salient
from .random_label import RandomLabel, RandomLabelObjective


@register("method", "salun")
class SalUn(RandomLabel):
    """Random labels, on the weights that matter for the forget set."""

    title: ClassVar[str] = "SalUn"
    paper: ClassVar[Paper] = Paper(
        title="SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image"
        " Classification and Generation",
        authors="C. Fan, J. Liu, Y. Zhang, E. Wong, D. Wei, S. Liu",
        arxiv="2310.12508",
        venue="ICLR 2024",
        repository="https://github.com/OPTML-Group/Unlearn-Saliency",
        licence="MIT",
        deviations=(
            "Batches count by their size in the saliency; the published sum counts them alike.",
            "Frozen weights are restored after every step (published code does since 2026).",
        ),
        cost="a gradient over D_f, then epochs over D_f and D_r",
    )

    density: float = Field(0.5, gt=0, le=1, description="share of weights that may change")

    def objective(self, model, requests):
        return SalUnObjective(self, model, requests)


class SalUnObjective(RandomLabelObjective):
    """Random labels under the saliency mask.

    Attributes:
        saliency: {parameter: bool}, True where it may change.
    """

    def start(self) -> None:
        s = self.settings
        names, parameters = zip(*self.student.named_parameters().items(), strict=True)
        self.student.network.eval()
        total = [torch.zeros_like(p) for p in parameters]
        for rows in torch.arange(len(self.forget)).split(s.batch):
            rows = rows.to(self.forget.y.device)
            logits = self.student.network(self.forget.x[rows])
            loss = F.cross_entropy(logits, self.forget.y[rows], reduction="sum")
            for sum_, grad in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                sum_ += grad
        self.saliency = salient(dict(zip(names, total, strict=True)), s.density)
        self.initial = {n: p.detach().clone() for n, p in zip(names, parameters, strict=True)}

    def after_step(self, step: int) -> None:
        restore(self.student.named_parameters(), self.saliency, self.initial)
        super().after_step(step)
