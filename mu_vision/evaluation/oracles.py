"""Networks that say what generated pictures show: as feedback, as scores, and to be climbed.

A scorer reads pictures [N, C, S, S] in [-1, 1] of any size and one or three channels, and gradients
flow back through it. The scorer of a report is never the one that gave the feedback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from ..data.labelled import named
from ..errors import UsageError
from ..models.classifier import Classifier
from .judges import Judge


class Scorer:
    """A classifier of generated pictures.

    Args:
        name: for messages and reports.
        classes: names of its K classes.
        fingerprint: of its weights.
        network: [N, C, s, s] in [0, 1] to logits [N, K], in eval mode.
        channels: C that the network takes.
        size: s that the network takes; None for any.
        device: where it runs.
    """

    def __init__(
        self, name: str, classes: Sequence[str], fingerprint: str,
        network: Callable[[torch.Tensor], torch.Tensor], channels: int, size: int | None,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        self.name, self.classes, self.fingerprint = name, tuple(classes), fingerprint
        self.network, self.channels, self.size, self.device = network, channels, size, device

    @classmethod
    def of_judge(cls, judge: Judge) -> Scorer:
        return cls(
            judge.name, judge.classes, judge.fingerprint, judge.logits, 3, None, judge.device
        )

    @classmethod
    def of_classifier(cls, model: Classifier, channels: int, size: int) -> Scorer:
        """A classifier that was trained on pictures of this size and number of channels."""
        model.freeze()
        return cls(
            model.name, model.classes, model.fingerprint(), model.network, channels, size,
            model.device,
        )  # fmt: skip

    def logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, K] on the scorer's device, with a graph if the pictures have one."""
        x = ((pictures + 1) / 2).to(self.device)
        if x.shape[1] != self.channels:
            x = x.mean(1, keepdim=True) if self.channels == 1 else x.expand(-1, 3, -1, -1)
        if self.size is not None and x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network(x).float()

    @torch.no_grad()
    def chances(self, pictures: torch.Tensor, batch: int = 512) -> torch.Tensor:
        """[N, K] probabilities, on the CPU."""
        return torch.cat([self.logits(part).softmax(1).cpu() for part in pictures.split(batch)])

    def columns(self, target: str) -> list[int]:
        """Classes that show a target; see ``data.labelled.named``."""
        return named(self.classes, target)

    def chance(self, pictures: torch.Tensor, target: str) -> torch.Tensor:
        """[N] probability that a picture shows the target, on the CPU."""
        return self.chances(pictures)[:, self.columns(target)].sum(1)


class ScorerOracle:
    """Says yes where a scorer gives the target at least this probability.

    Args:
        scorer: the network.
        target: a class, or a word of several classes' names.
        threshold: of the probability, in (0, 1).
    """

    def __init__(self, scorer: Scorer, target: str, threshold: float = 0.5):
        if not 0 < threshold < 1:
            raise UsageError(f"The oracle's threshold must be between 0 and 1, not {threshold:g}.")
        self.scorer, self.target, self.threshold = scorer, target, threshold
        scorer.columns(target)
        self.name = f"{scorer.name} for {target}"
        self.fingerprint = f"{scorer.fingerprint}/{target}/{threshold:g}"

    def shows(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.scorer.chance(pictures, self.target) >= self.threshold
