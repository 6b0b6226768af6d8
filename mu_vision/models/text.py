"""Text as a diffusion network reads it, and as its tokenizer counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TextStates:
    """What the U-Net reads of a batch of texts.

    Attributes:
        states: last hidden states [B, L, D] of the text encoder (two, side by side, for SDXL).
        pooled: [B, P] for SDXL, else None.
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: slice | Sequence[int] | torch.Tensor | int) -> TextStates:
        rows = [rows] if isinstance(rows, int) else rows
        return TextStates(self.states[rows], None if self.pooled is None else self.pooled[rows])

    @staticmethod
    def cat(parts: Sequence[TextStates]) -> TextStates:
        pooled = None
        if parts[0].pooled is not None:
            pooled = torch.cat([part.pooled for part in parts])
        return TextStates(torch.cat([part.states for part in parts]), pooled)

    def expand(self, n: int) -> TextStates:
        """The same text n times (of one text only; n texts stay as they are)."""
        if len(self) == n:
            return self
        if len(self) != 1:
            raise ValueError(f"{len(self)} texts cannot serve a batch of {n}")
        pooled = None if self.pooled is None else self.pooled.expand(n, -1)
        return TextStates(self.states.expand(n, -1, -1), pooled)

    def to(self, device: torch.device | str) -> TextStates:
        pooled = None if self.pooled is None else self.pooled.to(device)
        return TextStates(self.states.to(device), pooled)


@dataclass(frozen=True)
class Tokens:
    """The tokens of one prompt; positions count from 0, the begin-of-text token.

    Attributes:
        ids: all ids up to the tokenizer's length, padding included.
        count: how many are not padding, begin and end included.
        truncated: True if the text was longer than the encoder reads.
    """

    ids: tuple[int, ...]
    count: int
    truncated: bool

    @property
    def last(self) -> int:
        """Position of the last real token; 0 (begin of text) for the empty text."""
        return self.count - 2
