"""Differentiable augmentation for GANs on little data (Zhao et al. 2020, arXiv 2006.10738).

Real and generated pictures go through the same random changes before the discriminator, and the
generator's gradient goes back through them, so that the changes do not leak into what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F

Policy = Literal["color", "translation", "cutout"]


def _uniform(x: torch.Tensor) -> torch.Tensor:
    return torch.rand(len(x), 1, 1, 1).to(x.device)


def color(x: torch.Tensor) -> torch.Tensor:
    """Shift the brightness by up to 0.5, scale saturation by 0 to 2 and contrast by 0.5 to 1.5."""
    x = x + _uniform(x) - 0.5
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * _uniform(x)
    middle = x.mean((1, 2, 3), keepdim=True)
    return middle + (x - middle) * (_uniform(x) + 0.5)


def translation(x: torch.Tensor, reach: float = 0.125) -> torch.Tensor:
    """Move each picture by up to an eighth of its side; what comes in is 0."""
    batch, _, height, width = x.shape
    far_y, far_x = int(height * reach + 0.5), int(width * reach + 0.5)
    rows = torch.arange(height) + torch.randint(0, 2 * far_y + 1, (batch, 1))
    columns = torch.arange(width) + torch.randint(0, 2 * far_x + 1, (batch, 1))
    padded = F.pad(x, (far_x, far_x, far_y, far_y)).permute(0, 2, 3, 1)
    place = (torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :])
    return padded[tuple(part.to(x.device) for part in place)].permute(0, 3, 1, 2)


def cutout(x: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """Set a square of half the side to 0, at a random place that may reach over the edge."""
    batch, _, height, width = x.shape
    tall, wide = int(height * share + 0.5), int(width * share + 0.5)
    y = torch.randint(0, height + (1 - tall % 2), (batch, 1)) - tall // 2
    left = torch.randint(0, width + (1 - wide % 2), (batch, 1)) - wide // 2
    rows, columns = torch.arange(height), torch.arange(width)
    inside_y = (rows >= y) & (rows < y + tall)
    inside_x = (columns >= left) & (columns < left + wide)
    hole = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return x * (~hole).to(x)


POLICIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "color": color, "translation": translation, "cutout": cutout,
}  # fmt: skip


def augment(x: torch.Tensor, policies: Sequence[Policy]) -> torch.Tensor:
    """Apply the named changes one after the other; draws from torch's global generator.

    Args:
        x: [B, C, H, W] in [-1, 1].
        policies: of ``POLICIES``; none of them gives ``x`` back.
    """
    for policy in policies:
        x = POLICIES[policy](x)
    return x
