"""No gradient through the start token.

Every prompt begins with the same token, so a change of what cross-attention reads there would move
all prompts. While a method trains keys and values, those of text position 0 are detached, as in
"Multi-Concept Customization of Text-to-Image Diffusion" (Kumari et al., CVPR 2023, arXiv 2212.04488):
values stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...models.diffusion import DiffusionModel
from .selectors import keys_and_values


@contextmanager
def start_token_detached(model: DiffusionModel) -> Iterator[None]:
    """Inside the block no gradient reaches keys and values through text position 0.

    The hooks are taken off at its end, so the model stays a plain one.
    """
    hooks = [module.register_forward_hook(_detach) for module in keys_and_values(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _detach(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """Keys or values [B, L, D] of a text of L tokens."""
    return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)
