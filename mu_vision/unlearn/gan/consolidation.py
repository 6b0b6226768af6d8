"""Elastic weight consolidation of a generator (Li et al. 2020, arXiv 2012.02780).

    L_EWC = lambda/2 sum_i F_i (theta_i - theta_G,i)^2,   F_i = 1/n sum_k (d D(G(z_k)) / d theta_i)^2

over the generator's convolutions from 8 pixels on. F is the squared gradient of the logit, at
theta_G. The published lambda = 5e8 belongs to the F of StyleGAN2 at full size and freezes a small
GAN, so the strength here is lambda times the mean of F unless it is asked for as published.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, Field

from ... import seeding
from ...errors import RunError
from ...models.gan import Gan
from ...models.stylegan2 import GROUP


class ConsolidationSettings(BaseModel):
    """Settings of the term."""

    ewc: float = Field(0.1, ge=0, description="strength of the EWC term, 0 for none")
    ewc_scale: Literal["relative", "published"] = Field(
        "relative", description="the strength is lambda times the mean of F, or lambda itself"
    )
    fisher_samples: int = Field(32, ge=1, description="latents that F is measured on")


def fisher(gan: Gan, samples: int, seed: int) -> dict[str, torch.Tensor]:
    """F of the anchored parameters of a generator, by name within the generator.

    The squares are added up sample by sample, in groups that share the minibatch deviation.
    """
    twin = gan.clone([f"generator.{name}" for name in gan.generator.anchored()])
    held = {n: p for n, p in twin.generator.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in held.items()}
    for start in range(0, samples, GROUP):
        count = min(GROUP, samples - start)
        with seeding.seeded("fisher", seed, start):
            z = torch.randn(count, gan.config.latent).to(gan.device)
            logits = twin.discriminator(twin.generator(z, fresh=True))
        for k in range(count):
            found = torch.autograd.grad(logits[k], list(held.values()), retain_graph=k < count - 1)
            for name, gradient in zip(held, found, strict=True):
                total[name] += gradient.square()
    return {name: value / samples for name, value in total.items()}


class Consolidation:
    """The term, with F and the anchor computed once.

    Attributes:
        mean_fisher: mean of F over all anchored values.
        strength: lambda.
    """

    def __init__(self, gan: Gan, settings: ConsolidationSettings, seed: int):
        self.weights = fisher(gan, settings.fisher_samples, seed)
        own = dict(gan.generator.named_parameters())
        self.anchor = {name: own[name].detach().clone() for name in self.weights}
        count = sum(value.numel() for value in self.weights.values())
        self.mean_fisher = (
            float(sum(value.double().sum() for value in self.weights.values())) / count
        )
        self.strength = settings.ewc
        if settings.ewc_scale == "relative":
            if not self.mean_fisher:
                raise RunError(
                    f"The Fisher information of {gan.name} is 0: its discriminator does not react to its"
                    " generator, so elastic weight consolidation has nothing to hold; set ewc=0."
                )
            self.strength /= self.mean_fisher

    def loss(self, generator: torch.nn.Module) -> torch.Tensor:
        """lambda/2 sum F (theta - theta_G)^2 of a generator."""
        own = dict(generator.named_parameters())
        held = [(own[n] - self.anchor[n]).square().mul(f).sum() for n, f in self.weights.items()]
        return self.strength / 2 * torch.stack(held).sum()
