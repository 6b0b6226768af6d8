"""Samples with one value each, and the subject that they are of, for regressors.

Pictures are float32 in [0, 1], tables as their source gives them; normalisation belongs to the
network. Targets keep their unit: they are years, degrees or points, never standardised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import UsageError
from .samples import Samples

Deviation = Literal["absolute", "squared"]


@dataclass(frozen=True)
class Measured(Samples):
    """N samples with a value each.

    Attributes:
        x: [N, ...] float32: pictures [N, C, H, W], rows of a table [N, D], sequences [N, T, D].
        y: [N] float32, finite.
        subjects: [N] int64, whose sample it is, a position in ``names``.
        names: the subjects.
        deviation: the task's loss d(prediction, y): ``absolute`` or ``squared``.
    """

    subjects: torch.Tensor
    names: tuple[str, ...]
    deviation: Deviation = "absolute"

    def __post_init__(self):
        if not len(self.x) == len(self.y) == len(self.subjects) or self.y.ndim != 1:
            raise UsageError(
                f"Samples need one value and one subject each; got {list(self.x.shape)},"
                f" {list(self.y.shape)} and {list(self.subjects.shape)}."
            )
        broken = (~torch.isfinite(self.y)).nonzero().flatten()
        if len(broken):
            raise UsageError(
                f"Sample {int(broken[0])} has the target {float(self.y[broken[0]]):g} (one of"
                f" {len(broken)} that are not finite): mend these targets, or leave the samples out."
            )

    def error(self, predictions: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """d(prediction, y) of each sample, [B] >= 0.

        Args:
            predictions: [B].
            y: [B], the targets; those of the samples by default.
        """
        apart = predictions - (self.y if y is None else y)
        return apart.abs() if self.deviation == "absolute" else apart.square()
