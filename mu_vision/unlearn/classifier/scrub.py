"""SCRUB, "Towards Unbounded Machine Unlearning" (Kurmanji et al., NeurIPS 2023).

    max pass over D_f   -KL_T(teacher || student)
    min pass over D_r   g CE + a KL_T(teacher || student)

The teacher is the original; the first ``max_epochs`` epochs begin with a max pass, every epoch has a
min pass. SCRUB+R rewinds: of the weights after each epoch it takes those whose error on D_f is
nearest to the error of the last ones on a validation set with the class mix of D_f. That set is held
out before the original is trained (``validation`` of its trainer); the test set is no part of it.

At the first step student and teacher agree and the gradient of KL is 0: only batch norm's own
statistics, dropout or augmentation tell them apart.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from ...errors import UsageError
from ...registry import register
from .base import ClassifierErasure, ClassifierUnlearner, kl
from .neggrad import NegGradPlus


@register("method", "scrub")
class SCRUB(ClassifierUnlearner):
    """Disobey the original on the forget set, obey it on the retain set."""

    title: ClassVar[str] = "SCRUB"
    paper: ClassVar = NegGradPlus.paper

    lr: float = Field(5e-3, ge=0, description="learning rate")
    max_epochs: int = Field(3, ge=0, description="first epochs with a max pass")
    gamma: float = Field(1.0, ge=0, description="g, weight of CE")
    alpha: float = Field(0.5, ge=0, description="a, weight of KL on D_r")
    temperature: float = Field(4.0, gt=0, description="T")
    rewind: bool = Field(False, description="SCRUB+R: go back to the epoch that forgot enough")

    def objective(self, model, requests):
        return ScrubObjective(self, model, requests)


class ScrubObjective(ClassifierErasure):
    """Max and min passes; the teacher's logits are computed once unless batches are augmented.

    Raises:
        UsageError: if SCRUB+R has no validation sample of a class of D_f to compare with.
    """

    def __init__(self, settings, model, requests):
        super().__init__(settings, model, requests)
        if settings.rewind and not self._mix().any():
            name = self.request.splits.name
            raise UsageError(
                f"method {settings.name}: rewind=true compares with validation samples of the forgotten"
                f" classes, and {name} has none; train the original with validation=0.1."
            )

    def start(self) -> None:
        if not self.augment:
            sets = {"forget": self.forget, "retain": self.retain}
            self.known = {n: self.teacher.logits(d.x).to(d.y.device) for n, d in sets.items()}
        self.kept: list[dict[str, torch.Tensor]] = []

    def teach(self, name: str, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if not self.augment:
            return self.known[name][rows]
        return self.teacher.logits(x).to(x.device)

    def climb(self, x, y, rows):
        told = self.teach("forget", x, rows)
        return {"forget_loss": -kl(told, self.student.network(x), self.settings.temperature)}

    def descend(self, x, y, rows):
        s, logits = self.settings, self.student.network(x)
        losses = {"ce_loss": s.gamma * F.cross_entropy(logits, y)}
        if s.alpha:
            losses["kl_loss"] = s.alpha * kl(self.teach("retain", x, rows), logits, s.temperature)
        return losses

    def passes(self, epoch):
        sweeps = [self.sweep("retain", self.retain, self.descend)]
        if epoch < self.settings.max_epochs:
            sweeps.insert(0, self.sweep("forget", self.forget, self.climb))
        return sweeps

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self.settings.rewind and self._ends_epoch(step):
            self.kept.append({n: t.clone() for n, t in self.student.network.state_dict().items()})

    def _ends_epoch(self, step: int) -> bool:
        last = (self.settings.steps or len(self.plan)) - 1
        place, after = (n % len(self.plan) for n in (step, step + 1))
        return step == last or after == 0 or self.plan[after][0] != self.plan[place][0]

    def state(self) -> dict[str, torch.Tensor]:
        rewinds = {
            f"kept.{n}.{name}": t for n, kept in enumerate(self.kept) for name, t in kept.items()
        }
        return {**super().state(), **rewinds}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        own = {name: t for name, t in state.items() if not name.startswith("kept.")}
        super().load_state(own)
        for key, tensor in state.items():
            if key.startswith("kept."):
                number, _, name = key.removeprefix("kept.").partition(".")
                while len(self.kept) <= int(number):
                    self.kept.append({})
                self.kept[int(number)][name] = tensor.to(self.teacher.device)

    @torch.no_grad()
    def finish(self) -> None:
        if self.settings.rewind and self.kept:
            chosen = rewind_epoch([self._error(kept) for kept in self.kept], self._reference())
            self.student.network.load_state_dict(self.kept[chosen])

    def _error(self, weights: dict[str, torch.Tensor]) -> float:
        self.student.network.load_state_dict(weights)
        found = self.student.logits(self.forget.x).argmax(1)
        return float((found != self.forget.y.cpu()).float().mean())

    def _mix(self) -> torch.Tensor:
        """[K] samples of each class in D_f, 0 where validation has none."""
        held_out, classes = self.request.splits.validation, len(self.request.splits.classes)
        if held_out is None:
            return torch.zeros(classes)
        there = torch.bincount(held_out.y.cpu(), minlength=classes) > 0
        return torch.bincount(self.forget.y.cpu(), minlength=classes) * there

    def _reference(self) -> float:
        """Error of the last weights on validation samples, with the class mix of D_f."""
        self.student.network.load_state_dict(self.kept[-1])
        held_out, mix = self.request.splits.validation, self._mix()
        y = held_out.y.cpu()
        wrong = (self.student.logits(held_out.x).argmax(1) != y).float()
        there = torch.bincount(y, minlength=len(mix))
        error = torch.bincount(y, wrong, minlength=len(mix)) / there.clamp_min(1)
        return float((mix * error).sum() / mix.sum())


def rewind_epoch(errors: list[float], reference: float) -> int:
    """The epoch whose error on D_f is nearest to the reference; of equal ones the last."""
    gaps = [abs(error - reference) for error in errors]
    return max(n for n, gap in enumerate(gaps) if gap == min(gaps))
