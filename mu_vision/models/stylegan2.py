"""StyleGAN2 at any size, in plain torch operations (Karras et al. 2020, arXiv 1912.04958).

A mapping network turns latents into styles, modulated and demodulated convolutions draw a constant
into a picture, and every convolution gets noise of its own. Demodulation is applied to activations:
w' = s_i w / |s w| in every sample equals scaling the input by s and the output by 1 / |s w|, which
needs no convolution a sample and has a second derivative everywhere (path length, R1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

GAIN = math.sqrt(2)


def activate(x: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU (0.2) that keeps the variance."""
    return F.leaky_relu(x, 0.2) * GAIN


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate (Karras et al. 2018, arXiv 1710.10196).

    Args:
        lr_mul: the weights are stored divided by it, so they learn that much slower.
    """

    def __init__(self, inputs: int, outputs: int, lr_mul: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_mul)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_mul))
        self.scale, self.lr_mul = lr_mul / math.sqrt(inputs), lr_mul

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)


class EqualConv(nn.Module):
    """A convolution of stride 1 with equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.padding = 1 / math.sqrt(inputs * kernel**2), kernel // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class ModulatedConv(nn.Module):
    """A convolution whose input channels a style scales; demodulated unless it makes the picture."""

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int, demodulate: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(style, inputs, bias=1.0)
        self.scale, self.padding = 1 / math.sqrt(inputs * kernel**2), kernel // 2
        self.demodulate = demodulate

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        style, weight = self.modulation(w), self.weight * self.scale
        x = F.conv2d(x * style[:, :, None, None], weight, padding=self.padding)
        if self.demodulate:
            power = style.square() @ weight.square().sum((2, 3)).T
            x = x * (power + 1e-8).rsqrt()[:, :, None, None]
        return x


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, activation; doubles the resolution first if asked to."""

    def __init__(self, inputs: int, outputs: int, style: int, size: int, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.up = up
        self.register_buffer("noise", torch.randn(1, 1, size, size))

    def forward(self, x: torch.Tensor, w: torch.Tensor, fresh: bool) -> torch.Tensor:
        x = self.conv(doubled(x) if self.up else x, w)
        noise = torch.randn(len(x), 1, *x.shape[2:]).to(x.device) if fresh else self.noise
        return activate(x + self.strength * noise + self.bias[:, None, None])


class ToPicture(nn.Module):
    """1x1 convolution to the channels of the picture, added to the picture so far."""

    def __init__(self, inputs: int, channels: int, style: int):
        super().__init__()
        self.conv = ModulatedConv(inputs, channels, 1, style, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor, w: torch.Tensor, before: torch.Tensor | None):
        picture = self.conv(x, w) + self.bias[:, None, None]
        return picture if before is None else picture + doubled(before)


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Twice the resolution, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Generator(nn.Module):
    """Latents [B, latent] to pictures [B, channels, S, S], about [-1, 1].

    Args:
        widths: channels at 4, 8, 16, ... pixels; their number decides S.
        depth: layers of the mapping network.
    """

    def __init__(self, latent: int, channels: int, widths: Sequence[int], depth: int = 8):
        super().__init__()
        self.latent, self.size = latent, 4 * 2 ** (len(widths) - 1)
        self.mapping = nn.ModuleList(EqualLinear(latent, latent, 0.01) for _ in range(depth))
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.first = StyledConv(widths[0], widths[0], latent, 4)
        self.first_picture = ToPicture(widths[0], channels, latent)
        self.convs, self.pictures = nn.ModuleList(), nn.ModuleList()
        for k, (before, width) in enumerate(pairwise(widths)):
            size = 8 * 2**k
            self.convs.append(StyledConv(before, width, latent, size, up=True))
            self.convs.append(StyledConv(width, width, latent, size))
            self.pictures.append(ToPicture(width, channels, latent))
        self.layers = 2 * len(widths)

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """Styles [B, layers, latent] of latents [B, latent], the same in every layer."""
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = activate(layer(w))
        return w[:, None].expand(-1, self.layers, -1)

    def draw(self, w: torch.Tensor, fresh: bool = False) -> torch.Tensor:
        """Pictures of styles; with fresh noise, or with the noise that the network keeps."""
        x = self.constant.expand(len(w), -1, -1, -1)
        x = self.first(x, w[:, 0], fresh)
        picture = self.first_picture(x, w[:, 1], None)
        for k, to_picture in enumerate(self.pictures):
            x = self.convs[2 * k](x, w[:, 2 * k + 1], fresh)
            x = self.convs[2 * k + 1](x, w[:, 2 * k + 2], fresh)
            picture = to_picture(x, w[:, 2 * k + 3], picture)
        return picture

    def forward(self, z: torch.Tensor, fresh: bool = False) -> torch.Tensor:
        return self.draw(self.map(z), fresh)

    def anchored(self) -> list[str]:
        """Parameters that elastic weight consolidation holds: convolutions from 8 pixels on."""
        return [n for n, _ in self.named_parameters() if n.startswith("convs.")]


class Residual(nn.Module):
    """Two convolutions that halve the resolution, beside a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.conv2 = EqualConv(inputs, inputs), EqualConv(inputs, outputs)
        self.skip = EqualConv(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = activate(self.conv2(F.avg_pool2d(activate(self.conv1(x)), 2)))
        return (y + self.skip(F.avg_pool2d(x, 2))) / GAIN


class Discriminator(nn.Module):
    """Pictures [B, channels, S, S] to logits [B]; residual, with the minibatch deviation.

    Args:
        widths: channels at 4, 8, 16, ... pixels.
    """

    def __init__(self, channels: int, widths: Sequence[int]):
        super().__init__()
        self.first = EqualConv(channels, widths[-1], 1)
        self.blocks = nn.ModuleList(Residual(*pair) for pair in pairwise(reversed(widths)))
        self.conv = EqualConv(widths[0] + 1, widths[0])
        self.linear = EqualLinear(16 * widths[0], widths[0])
        self.head = EqualLinear(widths[0], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = activate(self.first(x))
        for block in self.blocks:
            x = block(x)
        x = activate(self.conv(torch.cat([x, deviation(x)], 1)))
        return self.head(activate(self.linear(x.flatten(1)))).squeeze(1)


GROUP = 4


def deviation(x: torch.Tensor, group: int = GROUP) -> torch.Tensor:
    """[B, 1, H, W]: the mean standard deviation within each group of neighbouring samples.

    (Karras et al. 2018, arXiv 1710.10196, section 3.) A batch that is not a multiple of the group
    is one group.
    """
    size = group if len(x) % group == 0 else len(x)
    grouped = x.unflatten(0, (-1, size))
    spread = (grouped.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return spread.repeat_interleave(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
