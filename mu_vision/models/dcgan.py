"""A deep convolutional GAN for small pictures, after Radford et al. 2016 (arXiv 1511.06434).

Departs from the paper where that makes a picture a function of its latent alone: the generator
normalises each pixel over its channels instead of each channel over the batch, and doubles the
resolution by nearest neighbours before plain convolutions; the discriminator has no normalisation,
and sees the deviation of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from .stylegan2 import deviation


def prepared(network: nn.Module) -> None:
    """He's initialisation: torch's own lets the signal of a leaky network fade."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, 0.2)
            nn.init.zeros_(module.bias)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """Every pixel divided by its root mean square over the channels."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Generator(nn.Module):
    """Latents [B, latent] to pictures [B, channels, S, S] in [-1, 1].

    Args:
        widths: channels at 4, 8, 16, ... pixels; their number decides S.
    """

    def __init__(self, latent: int, channels: int, widths: Sequence[int]):
        super().__init__()
        self.latent, self.size, self.layers = latent, 4 * 2 ** (len(widths) - 1), 1
        self.first = nn.Linear(latent, 16 * widths[0])
        self.convs = nn.ModuleList()
        for before, width in pairwise(widths):
            self.convs.append(nn.Conv2d(before, width, 3, padding=1))
            self.convs.append(nn.Conv2d(width, width, 3, padding=1))
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        prepared(self)

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """[B, 1, latent]: there is no mapping network, and one layer that reads the latent."""
        return z[:, None]

    def draw(self, w: torch.Tensor, fresh: bool = False) -> torch.Tensor:
        """Pictures of ``map``'s result; there is no noise, so ``fresh`` changes nothing."""
        x = self.first(w[:, 0]).unflatten(1, (-1, 4, 4))
        x = normalised(F.leaky_relu(x, 0.2))
        for k, conv in enumerate(self.convs):
            x = F.interpolate(x, scale_factor=2, mode="nearest") if k % 2 == 0 else x
            x = normalised(F.leaky_relu(conv(x), 0.2))
        return torch.tanh(self.last(x))

    def forward(self, z: torch.Tensor, fresh: bool = False) -> torch.Tensor:
        return self.draw(self.map(z), fresh)

    def anchored(self) -> list[str]:
        """Parameters that elastic weight consolidation holds: convolutions from 8 pixels on."""
        return [n for n, _ in self.named_parameters() if n.startswith("convs.")]


class Discriminator(nn.Module):
    """Pictures [B, channels, S, S] to logits [B].

    Args:
        widths: channels at 4, 8, 16, ... pixels.
    """

    def __init__(self, channels: int, widths: Sequence[int]):
        super().__init__()
        self.first = nn.Conv2d(channels, widths[-1], 3, padding=1)
        pairs = pairwise(reversed(widths))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairs)
        self.head = nn.Linear(16 * (widths[0] + 1), 1)
        prepared(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.first(x), 0.2)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        return self.head(torch.cat([x, deviation(x)], 1).flatten(1)).squeeze(1)
