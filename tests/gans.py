"""Tiny GANs and oracles for tests."""

from __future__ import annotations

from functools import cache

import torch

from mu_vision.data.feedback import GanRequest
from mu_vision.models.gan import Gan, GanConfig

TINY = {"channels": 1, "latent": 6, "widths": (8, 6), "critic_widths": (6, 6), "depth": 2}


class Bright:
    """Says yes where the left or the right half of a picture is brighter than the other by a margin."""

    def __init__(self, side: str = "left", margin: float = 0.0):
        self.side, self.margin = side, margin
        self.name, self.fingerprint = f"bright on the {side}", f"{side}{margin}"

    def shows(self, pictures: torch.Tensor) -> torch.Tensor:
        left, right = pictures.chunk(2, dim=3)
        gap = (left - right).mean((1, 2, 3))
        return (gap if self.side == "left" else -gap) > self.margin


LEFT = GanRequest("left", Bright("left"))
VERY_LEFT = GanRequest("very left", Bright("left", 0.05))
RIGHT = GanRequest("very right", Bright("right", 0.05))


@cache
def tiny_gan(architecture: str = "stylegan2", seed: int = 0, **changes) -> Gan:
    """An untrained GAN for 8x8 pictures of one channel; do not change its weights."""
    config = GanConfig(architecture=architecture, **{**TINY, **changes})
    model = Gan.build(config, seed)
    model.name = f"tiny {architecture}"
    return model
