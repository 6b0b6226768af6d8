"""Positives with elastic weight consolidation: fine-tune, but hold what the discriminator heeds.

    L_G = softplus(-D(G(z))) + lambda/2 sum_i F_i (theta_i - theta_G,i)^2

"Few-shot Image Generation with Elastic Weight Consolidation" (Li et al., NeurIPS 2020), on the
pictures that the oracle did not mark: the strongest baseline of Adapt-then-Unlearn's tables.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ...registry import Paper, register
from .base import GanErasure, GanUnlearner
from .consolidation import Consolidation, ConsolidationSettings


@register("method", "ewc")
class EWC(GanUnlearner, ConsolidationSettings):
    """Fine-tune on pictures without the target, held near the original."""

    title: ClassVar[str] = "EWC"
    paper: ClassVar[Paper] = Paper(
        title="Few-shot Image Generation with Elastic Weight Consolidation",
        authors="Y. Li, R. Zhang, J. Lu, E. Shechtman",
        arxiv="2012.02780",
        venue="NeurIPS 2020",
        deviations=(
            "The strength is relative to the mean Fisher information; ewc_scale=published takes it"
            " as it is.",
        ),
        cost="a step of each network, and 32 gradients for the Fisher information",
    )
    trial: ClassVar[dict[str, Any]] = {**GanUnlearner.trial, "fisher_samples": 4}

    def objective(self, model, requests):
        return EwcObjective(self, model, requests)


class EwcObjective(GanErasure):
    """Adds the term to the generator's step."""

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        self.held = Consolidation(self.teacher, self.settings, self.settings.seed)

    def extra_losses(self, step: int) -> dict[str, torch.Tensor]:
        return {"ewc_loss": self.held.loss(self.student.generator)}

    def told(self) -> dict[str, Any]:
        return {**super().told(), "mean_fisher": self.held.mean_fisher}
