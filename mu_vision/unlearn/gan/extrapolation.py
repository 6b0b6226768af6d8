"""Extrapolation: walk from the original away from the adapted GANs, without training.

    theta(s) = theta_G + s mean_m (theta_N,m - theta_G),  s < 0

The baseline that led to Adapt-then-Unlearn (Tiwary et al., TMLR 2025): it takes the target out, and
the quality with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from ...data.feedback import GanRequest
from ...loop import peak_memory_gb
from ...models.gan import Gan
from ...registry import Paper, register
from ..base import Unlearned
from .adaptation import AdaptingUnlearner, weights_of
from .positives import Positives


@register("method", "extrapolation")
class Extrapolation(AdaptingUnlearner):
    """A step backwards along the direction that means the target."""

    title: ClassVar[str] = "Extrapolation"
    paper: ClassVar[Paper] = Paper(
        title=Positives.paper.title,
        authors=Positives.paper.authors,
        arxiv=Positives.paper.arxiv,
        venue=Positives.paper.venue,
        repository=Positives.paper.repository,
        deviations=("The discriminator stays that of the original.",),
        cost="stage 1 `models` times, and one sum over theta",
    )

    steps: int = Field(2000, ge=1, description="steps of stage 1")
    s: float = Field(-1.0, description="how far, in lengths of the direction; negative: away")

    def trained(self, model: Gan) -> list[str]:
        return [name for name in model.named_parameters() if name.startswith("generator.")]

    def _run(self, model: Gan, requests: Sequence[GanRequest], folder: Path | None) -> Unlearned:
        self.claim(folder, model, requests)
        adapted, results = self.adapt(model, requests, folder, self.steps)
        names = self.trained(model)
        moved = extrapolated(model, adapted, self.s, names)
        spent = sum(result.seconds for result in results)
        history = [row for result in results for row in result.history]
        return Unlearned(moved, spent, peak_memory_gb(), names, {"s": self.s}, history)


@torch.no_grad()
def extrapolated(
    model: Gan, adapted: Sequence[Gan], s: float, names: Sequence[str] | None = None
) -> Gan:
    """theta_G + s mean_m (theta_N,m - theta_G), as a GAN of its own."""
    twin = model.clone(names)
    weights = zip(twin.generator.parameters(), *(weights_of(gan) for gan in adapted), strict=True)
    for own, *others in weights:
        own += s * (torch.stack(others).mean(0) - own)
    return twin.freeze()
