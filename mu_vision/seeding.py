"""Randomness as a pure function of names and numbers, never of what ran before.

``seed_of("latent", 188, "neon", "cat")`` is the same whole number on every machine, so picture i
depends on (model, prompt, seed i) alone, whatever the batch size, the order, a resume or the
number of processes, and step n of a training run does not need the steps before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(*parts: str | int) -> int:
    """A 63-bit whole number made from the parts by SHA-256."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded by the parts; draw on the CPU, then move to the device."""
    import torch

    return torch.Generator().manual_seed(seed_of(*parts))


def noise(shape: tuple[int, ...], *parts: str | int) -> torch.Tensor:
    """Standard normal float32 tensor of this shape on the CPU, a function of the parts alone."""
    import torch

    return torch.randn(shape, generator=generator(*parts))


@contextmanager
def seeded(*parts: str | int) -> Iterator[None]:
    """Seed torch's global generators from the parts inside the block, restore them after it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed_of(*parts))
        yield
