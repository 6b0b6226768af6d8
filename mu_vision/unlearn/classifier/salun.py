"""SalUn, "Empowering Machine Unlearning via Gradient-based Weight Saliency" (Fan et al., ICLR 2024).

    m_S     = 1[ |grad over theta of E over D_f of CE| at theta_o is among the largest d P of all P ]
    theta_u = m_S (theta_o + delta) + (1 - m_S) theta_o,   delta trained by random labels

Weights outside the mask stay theta_o bit for bit: they are restored after every step, because
momentum and weight decay move them without a gradient.

SalUn-soft has no fixed mask. After step i of I the k_i = (1 - d) (1 - i / I) P weights that changed
least go back to theta_o and all others as far towards it (a soft threshold), so all are free at the end.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from ...registry import Paper, register
from ..saliency import restore, salient, shrink
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
            "SalUn-soft measures the change from theta_o throughout; the published code takes its"
            " anchors anew every epoch.",
        ),
        cost="a gradient over D_f, then epochs over D_f and D_r",
    )

    density: float = Field(0.5, gt=0, le=1, description="share of weights that may change")
    mask: Literal["hard", "soft"] = Field(
        "hard", description="the largest gradients at theta_o, or a soft threshold that ends (soft)"
    )

    def objective(self, model, requests):
        return SalUnObjective(self, model, requests)


class SalUnObjective(RandomLabelObjective):
    """Random labels under the saliency mask.

    Attributes:
        saliency: {parameter: bool}, True where it may change; empty if the threshold is soft.
    """

    def start(self) -> None:
        self.initial = {n: p.detach().clone() for n, p in self.student.named_parameters().items()}
        self.saliency = self._salient() if self.settings.mask == "hard" else {}

    def _salient(self) -> dict[str, torch.Tensor]:
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
        return salient(dict(zip(names, total, strict=True)), s.density)

    def held(self, step: int) -> int:
        """k: how many weights the soft threshold holds after this step."""
        s, total = self.settings, sum(p.numel() for p in self.initial.values())
        steps = s.steps or self.length()
        return int((1 - s.density) * (1 - (step + 1) / steps) * total)

    def after_step(self, step: int) -> None:
        if self.settings.mask == "hard":
            restore(self.student.named_parameters(), self.saliency, self.initial)
        else:
            shrink(self.student.named_parameters(), self.initial, self.held(step))
        super().after_step(step)
