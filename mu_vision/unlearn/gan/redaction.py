"""Data redaction: the marked pictures count as generated ones, so D learns to refuse them.

    L_D = mean softplus(-D(S_p)) + lambda mean softplus(D(G(z))) + (1 - lambda) mean softplus(D(S_n))

"Data Redaction from Pre-trained GANs" (Kong & Chaudhuri, SaTML 2023), its data-based form, with the
oracle's positives S_p in the place of real pictures and its negatives S_n as what is redacted.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from ...data.diffaugment import augment
from ...data.feedback import restored
from ...registry import Paper, register
from .base import GanErasure, GanUnlearner


@register("method", "redaction")
class Redaction(GanUnlearner):
    """Show the discriminator the target as fake."""

    title: ClassVar[str] = "Data redaction"
    paper: ClassVar[Paper] = Paper(
        title="Data Redaction from Pre-trained GANs",
        authors="Z. Kong, K. Chaudhuri",
        arxiv="2206.14389",
        venue="SaTML 2023",
        deviations=("Generated pictures stand in for real ones: S_p and S_n are the oracle's.",),
        cost="a step of each network, with one more batch for the discriminator",
    )

    kept: float = Field(0.95, gt=0, le=1, description="lambda, weight of the generated pictures")

    def objective(self, model, requests):
        return RedactionObjective(self, model, requests)


class RedactionObjective(GanErasure):
    """Mixes the negatives into the fake side."""

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        self.redacted = self.feedback.negatives.to(device)

    def critic_objective(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        kept = self.settings.kept
        if kept == 1:
            return super().critic_objective(real, fake)
        critic, policies = self.student.discriminator, self.rules.augment
        rows = torch.randint(len(self.redacted), (len(real),)).to(self.redacted.device)
        batches = (real, fake, restored(self.redacted[rows]))
        real, fake, redacted = (critic(augment(x, policies)) for x in batches)
        wrong = kept * F.softplus(fake).mean() + (1 - kept) * F.softplus(redacted).mean()
        return F.softplus(-real).mean() + wrong
