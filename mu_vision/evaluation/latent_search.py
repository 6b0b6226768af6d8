"""An attack on a GAN that forgot: climb in the latent space to the pictures it should not have.

    z <- |z| u / |u|,  u = z + lr g / |g|,  g = grad_z log p(target | G(z))

Latents stay on the sphere that they were drawn from, so that what is found are pictures that the
generator draws, not what lies outside its prior. One network is climbed and another one says what
was found, so that a picture that only fools the first does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field

from ..metrics.rates import Rate
from ..models.gan import Gan
from .oracles import Scorer


class LatentSearch(BaseModel):
    """Settings of the search."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    starts: int = Field(64, ge=1, description="latents that it starts from")
    budgets: tuple[int, ...] = Field(
        (0, 5, 10, 20, 40), min_length=1, description="steps after which the found are counted"
    )
    lr: float = Field(0.5, gt=0, description="length of a step, in the latent space")
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which it is found")
    seed: int = Field(0, ge=0, description="seed of the starts")

    def run(self, gan: Gan, climbed: Scorer, confirmed: Scorer, target: str) -> list[Rate]:
        """Share of starts from which the target was found within each budget.

        Args:
            gan: the GAN to search.
            climbed: the network whose probability is climbed.
            confirmed: the network that says whether the target was found.
            target: a class of both, or a word of their classes.
        """
        z = gan.latents(self.starts, "search", self.seed).to(gan.device)
        size, columns = z.norm(dim=1, keepdim=True), climbed.columns(target)
        found = torch.zeros(self.starts, dtype=torch.bool)
        rates: dict[int, Rate] = {}
        for step in range(max(self.budgets) + 1):
            z = z.detach().requires_grad_(True)
            pictures = gan.generator(z).clamp(-1, 1)
            chance = confirmed.chance(pictures.detach().cpu(), target)
            found |= chance >= self.threshold
            if step in self.budgets:
                rates[step] = Rate.of(found.numpy())
            if step == max(self.budgets):
                break
            score = climbed.logits(pictures).log_softmax(1)[:, columns].logsumexp(1)
            (gradient,) = torch.autograd.grad(score.sum(), z)
            z = z + self.lr * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
            z = z * (size / z.norm(dim=1, keepdim=True))
        return [rates[budget] for budget in self.budgets]


def curve(rates: Sequence[Rate]) -> list[dict[str, float]]:
    """Rates as JSON."""
    return [
        {
            "value": rate.value,
            "hits": rate.hits,
            "total": rate.total,
            "interval": list(rate.interval),
        }
        for rate in rates
    ]
