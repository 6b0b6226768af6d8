"""What classifier methods share: cross-entropy, the teacher's KL, and a look at the classes.

Passes over the forget and the retain set, and pruned weights, are those of ``unlearn/samples.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from ...data.selectors import ForgetRequest
from ...models.classifier import Classifier
from ...passes import Losses
from ..samples import OneShotUnlearner as OneShot
from ..samples import SampleErasure, SampleUnlearner


class ClassifierUnlearner(SampleUnlearner):
    """A method that trains a classifier some more; ``epochs`` count its own passes."""

    family: ClassVar[str] = "classifier"
    trial: ClassVar[dict[str, Any]] = {"epochs": 1, "lr": 0.05}

    def objective(self, model: Classifier, requests: Sequence[ForgetRequest]) -> ClassifierErasure:
        return ClassifierErasure(self, model, requests)

    def check(self, model: Classifier, request: ForgetRequest) -> None:
        model.check_classes(request.splits.name, request.splits.classes)


class ClassifierErasure(SampleErasure):
    """Passes of a method on one request; the default is one over the retain set, with CE."""

    def task_loss(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> Losses:
        return self.cross_entropy(x, y, rows)

    def cross_entropy(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> Losses:
        return {"ce_loss": F.cross_entropy(self.student.network(x), y)}


class OneShotUnlearner(OneShot):
    """A method that edits the weights of a classifier once: give ``change``."""

    family: ClassVar[str] = "classifier"

    def check(self, model: Classifier, request: ForgetRequest) -> None:
        model.check_classes(request.splits.name, request.splits.classes)


def kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)): summed over classes, mean over rows."""
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
