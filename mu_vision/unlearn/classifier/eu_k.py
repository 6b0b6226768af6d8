"""EU-k, "Towards Adversarial Evaluations for Inexact Machine Unlearning" (Goel et al., 2022).

CF-k, but the last k layers are given new random weights once, before the first step. What the layers
before know of the forgotten samples, they keep.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ...registry import register
from .base import ClassifierErasure
from .cf_k import CFk


@register("method", "eu_k")
class EUk(CFk):
    """Exact unlearning of the last k layers: train them anew on the retain set."""

    title: ClassVar[str] = "EU-k"
    idle: ClassVar[dict[str, Any] | None] = None

    def objective(self, model, requests):
        return EUkObjective(self, model, requests)


class EUkObjective(ClassifierErasure):
    """Cross-entropy on D_r after a reset of the last layers."""

    def start(self) -> None:
        self.student.reset(self.settings.last_layers(self.student), self.settings.seed)
