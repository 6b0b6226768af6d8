"""PatchGAN: a discriminator of latents by their patches, as DoCo's code has it."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...errors import UsageError


def blocks_for(height: int, width: int) -> int:
    """Halving blocks of a discriminator for latents of this size: 4 for 64 x 64, 2 for 16 x 16.

    Raises:
        UsageError: if the latents are too small for one block.
    """
    side = min(height, width)
    if side < 4:
        raise UsageError(
            f"Latents of {height} x {width} are too small for the discriminator, whose smallest"
            " form reads 4 x 4; take a model with larger latents, or a method without one, such as"
            " concept_ablation."
        )
    return min(max(int(math.log2(side)) - 2, 1), 4)


class PatchGAN(nn.Module):
    """Logits [B, 1, h', w'] of latents [B, C, h, w]; 2,767,553 parameters for 4 x 64 x 64.

    BatchNorm has no running statistics: the network is only ever used as it is trained, and the two
    sides come as batches of their own.

    Args:
        channels: of the latents.
        height: of the latents.
        width: of the latents.

    Raises:
        UsageError: if the latents are too small for one block.
    """

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(blocks_for(height, width)):
            out = 64 * 2**block
            layers.append(nn.Conv2d(channels, out, 4, 2, 1))
            if block:
                layers.append(nn.BatchNorm2d(out, track_running_stats=False))
            layers.append(nn.LeakyReLU(0.2))
            channels = out
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents)
