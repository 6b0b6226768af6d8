"""Pictures of objects at other sizes: the augmentation of "Ablating Concepts in Text-to-Image
Diffusion Models" (Kumari et al., ICCV 2023).

    s ~ U{S/3 .. S}  with probability 0.66,  else  s ~ U{1.2 S .. 1.4 S}

A picture of side S is resized to side s and put at a random place of a black canvas of side S, or cut
to it if it is larger, and mirrored half of the time. m is 1 on the latent cells strictly inside the
resized picture (a cell of margin), and everywhere if s > S. If s < 0.6 S or s > S, words that say so
come before the prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import UsageError
from ...models.denoiser import Denoiser

FAR = ("a far away ", "very small ")
NEAR = ("zoomed in ", "close up ")
WORDS = (*FAR, *NEAR)


@dataclass(frozen=True)
class Resizing:
    """How each of n pictures is resized.

    Attributes:
        size: S, side of the canvas in pixels.
        scale: [n] s, side of the resized picture in pixels.
        corner: [n, 2] row and column of its first pixel on the canvas, negative if it is cut.
        mirrored: [n] bool.
        words: [n] position of its words in ``WORDS``, -1 for none.
    """

    size: int
    scale: torch.Tensor
    corner: torch.Tensor
    mirrored: torch.Tensor
    words: torch.Tensor

    @classmethod
    def draw(cls, n: int, size: int, cell: int) -> Resizing:
        """Draw from the global generator.

        Args:
            n: number of pictures.
            size: side of the pictures in pixels.
            cell: side of a latent cell in pixels; pictures of less than three cells would have an
                empty mask and are not drawn.
        """
        low = min(max(size // 3, 3 * cell), size)
        smaller = torch.randint(low, size + 1, (n,))
        larger = torch.randint(math.ceil(1.2 * size), math.floor(1.4 * size) + 1, (n,))
        scale = torch.where(torch.rand(n) < 0.66, smaller, larger)
        room = (size - scale).unsqueeze(1)
        place = (torch.rand(n, 2) * (room.abs() + 1)).long()
        mirrored, words = torch.rand(n) < 0.5, torch.randint(2, (n,))
        words = torch.where(scale < 0.6 * size, words, len(FAR) + words)
        words = words.masked_fill((scale >= 0.6 * size) & (scale <= size), -1)
        return cls(size, scale, place * room.sign(), mirrored, words)

    def show(self, pictures: torch.Tensor) -> np.ndarray:
        """Pictures [n, S, S, 3] uint8 as they look resized, the same shape and type.

        The resizing is linear along each axis and antialiased, a matrix of each picture.
        """
        x = torch.where(self.mirrored.view(-1, 1, 1, 1), pictures.flip(2), pictures).float()
        rows, columns = (self._weights(self.corner[:, axis]) for axis in (0, 1))
        x = torch.einsum("nij,njkc->nikc", rows, x)
        x = torch.einsum("nlk,nikc->nilc", columns, x)
        return x.round().clamp(0, 255).to(torch.uint8).numpy()

    def _weights(self, corner: torch.Tensor) -> torch.Tensor:
        """[n, S, S]: how much of each pixel of a picture is in each of the canvas; 0 beyond it."""
        place = torch.arange(self.size).unsqueeze(0) - corner.unsqueeze(1)
        ratio = (self.size / self.scale).view(-1, 1, 1)
        source = (place.unsqueeze(2) + 0.5) * ratio - 0.5
        reach = ratio.clamp(min=1)
        weights = (1 - (torch.arange(self.size) - source).abs() / reach).clamp(min=0)
        weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-6)
        inside = (place >= 0) & (place < self.scale.unsqueeze(1))
        return weights * inside.unsqueeze(2)

    def mask(self, cells: int) -> torch.Tensor:
        """[n, 1, cells, cells]: m, 1 strictly inside the resized picture and 0 elsewhere."""
        cell = self.size // cells
        place = torch.arange(cells).view(1, 1, -1)
        first = self.corner.div(cell, rounding_mode="floor") + 1
        end = (self.corner + self.scale.unsqueeze(1)).div(cell, rounding_mode="floor") - 1
        inside = (place >= first.unsqueeze(2)) & (place < end.unsqueeze(2))
        inside = inside | (self.scale > self.size).view(-1, 1, 1)
        return (inside[:, 0, :, None] & inside[:, 1, None, :]).unsqueeze(1).float()


def check(model: Denoiser, prompts: list[str]) -> None:
    """Refuse what cannot be resized, or described at another size.

    Args:
        model: what is edited.
        prompts: the prompts with words of size before them.

    Raises:
        UsageError: if pictures are not square, or a prompt is too long for its words.
    """
    height, width = model.picture_size
    if height != width:
        raise UsageError(
            f"Pictures of {model.name} are {height} x {width}; resizing is for square ones, so use"
            " augment=off."
        )
    if model.classes:
        return
    for prompt in prompts:
        if model.tokens(prompt).truncated:
            raise UsageError(
                f"With the words of its size, {prompt!r} is longer than {model.name} reads; give a"
                " shorter prompt, or use augment=off."
            )


def masked_mean(square: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the mean of ``square`` [n, C, h, w] where ``mask`` [n, 1, h, w] is 1."""
    per_row = (mask * square).flatten(1).sum(1)
    return (per_row / (square.shape[1] * mask.flatten(1).sum(1))).mean()
