"""A backdoor in a training set: some samples carry a trigger and a wrong label.

The protocol of the sparsity paper's Trojan experiment (Jia et al. 2023, arXiv 2304.04934): a share of
the training samples gets a black square near the lower right corner and the label of the target
class. What a cleaned model has to forget are these samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from ..errors import UsageError, unknown
from .labelled import Labelled, Splits


class Poison(BaseModel):
    """Settings of the backdoor.

    Attributes:
        share: of the training samples that are poisoned.
        target: name of the class that the trigger stands for.
        size: side of the square in pixels.
        margin: pixels between the square and the corner.
        value: of its pixels, in [0, 1].
        seed: which samples are poisoned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.1, gt=0, lt=1, description="share of training samples")
    target: str = Field(description="class that the trigger stands for")
    size: int = Field(2, ge=1, description="side of the square in pixels")
    margin: int = Field(0, ge=0, description="pixels between the square and the corner")
    value: float = Field(1.0, ge=0, le=1, description="of the square's pixels")
    seed: int = Field(0, ge=0, description="which samples")

    def triggered(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures [N, C, H, W] with the square.

        Raises:
            UsageError: if it does not fit.
        """
        height, width = x.shape[2:]
        if self.size + self.margin > min(height, width):
            raise UsageError(
                f"A trigger of {self.size} pixels with a margin of {self.margin} does not fit into"
                f" pictures of {height} x {width}."
            )
        bottom, right = height - self.margin, width - self.margin
        marked = x.clone()
        marked[:, :, bottom - self.size : bottom, right - self.size : right] = self.value
        return marked

    def apply(self, splits: Splits) -> Splits:
        """The data set with poisoned training samples; the test set stays clean.

        Samples of the target class are never chosen: their label would be right.

        Raises:
            UsageError: if there is no such class, or too few other samples.
        """
        train = splits.train
        if self.target not in splits.classes:
            raise unknown("class", self.target, splits.classes)
        target = splits.classes.index(self.target)
        others = (train.y.cpu() != target).nonzero().flatten().numpy()
        count = round(self.share * len(train))
        if not 0 < count < len(others):
            raise UsageError(
                f"share={self.share:g} poisons {count} of {len(train)} samples; {len(others)} are of"
                " other classes than the target, and some of them must stay clean."
            )
        rows = np.sort(np.random.default_rng((self.seed, 104_729)).permutation(others)[:count])
        chosen = torch.from_numpy(rows)
        x, y = train.x.clone(), train.y.clone()
        x[chosen], y[chosen] = self.triggered(train.x[chosen]), target
        marked = Poisoned(self, tuple(rows.tolist()))
        return replace(splits, train=Labelled(x, y, train.classes), poison=marked)


@dataclass(frozen=True)
class Poisoned:
    """The backdoor of a data set.

    Attributes:
        settings: what the trigger is.
        rows: positions of the poisoned training samples.
    """

    settings: Poison
    rows: tuple[int, ...]

    def attack_set(self, test: Labelled) -> Labelled:
        """Triggered test pictures of all other classes, labelled with the target class.

        Accuracy on it is the backdoor's success; a clean model is near 0.
        """
        target = test.classes.index(self.settings.target)
        rows = (test.y != target).nonzero().flatten()
        others = test.take(rows)
        return Labelled(
            self.settings.triggered(others.x), torch.full_like(others.y, target), test.classes
        )
