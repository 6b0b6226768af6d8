"""What classifier methods share: passes over the forget and the retain set, and pruned weights.

A gradient method says which passes over which samples an epoch has, and the loss of a batch of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from ... import seeding
from ...data.selectors import ForgetRequest, check_training_set
from ...errors import UsageError
from ...models.classifier import Classifier
from ...passes import Losses, Pass, PassObjective
from ..base import ClosedFormUnlearner, Erasure, GradientUnlearner, Unlearner


class ClassifierUnlearner(GradientUnlearner):
    """A method that trains a classifier some more; ``epochs`` count its own passes."""

    family: ClassVar[str] = "classifier"
    trial: ClassVar[dict[str, Any]] = {"epochs": 1, "lr": 0.05}
    idle: ClassVar[dict[str, Any] | None] = {"lr": 0.0, "weight_decay": 0.0}

    steps: int = Field(0, ge=0, description="optimiser steps; 0: as many as the epochs have")
    epochs: int = Field(10, ge=1, description="epochs")
    lr: float = Field(0.01, ge=0, description="learning rate")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("sgd", description="optimiser")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of the optimiser")
    batch: int = Field(64, ge=1, description="samples a step")

    def trained(self, model: Classifier) -> list[str]:
        return list(model.named_parameters())

    def objective(self, model: Classifier, requests: Sequence[ForgetRequest]) -> ClassifierErasure:
        return ClassifierErasure(self, model, requests)

    def _run(self, model, requests, folder):
        check_request(self, together(requests))
        objective = self.objective(model, requests)
        splits = objective.request.splits
        model.check_classes(splits.name, splits.classes)
        steps = self.steps or objective.length()
        done = self._trained(objective, self.loop_config(steps), model, requests, folder)
        objective.finish()
        return done


class ClassifierErasure(PassObjective, Erasure):
    """Passes of a method on one request; the default is one over the retain set, with CE.

    Attributes:
        forget: the samples to forget, on the device.
        retain: the samples to keep, on the device.
    """

    def __init__(
        self, settings: ClassifierUnlearner, model: Classifier, requests: Sequence[ForgetRequest]
    ):
        super().__init__(settings, model, requests)
        self.request = together(requests)
        self.forget, self.retain = self.request.forget, self.request.retain
        self.augment, self.order_seed = self.request.splits.augment, settings.seed
        self.epochs, self.batch = settings.epochs, settings.batch

    def passes(self, epoch: int) -> list[Pass]:
        return [self.sweep("retain", self.retain, self.cross_entropy)]

    def start(self) -> None:
        """Change the student before the first step, and compute once what is frozen."""

    def finish(self) -> None:
        """Change the student after the last step."""

    def network(self) -> torch.nn.Module:
        return self.student.network

    def cross_entropy(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> Losses:
        return {"ce_loss": F.cross_entropy(self.student.network(x), y)}

    def prepare(self, device: torch.device) -> None:
        Erasure.prepare(self, device)
        self.forget, self.retain = self.forget.to(device), self.retain.to(device)
        self.start()
        self.student.apply_mask()
        self.make_plan()
        self.train_mode()

    def train_mode(self) -> None:
        """Train mode, but eval mode for layers that do not learn and for what follows them."""
        learns = next(self.student.network.parameters()).requires_grad
        for module in self.student.network.modules():
            inside, own = list(module.parameters()), list(module.parameters(recurse=False))
            if own:
                learns = any(p.requires_grad for p in own)
            # dropout and norms without weights do as the layer before them
            module.training = any(p.requires_grad for p in inside) if inside else learns

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.student.apply_mask()


class OneShotUnlearner(ClosedFormUnlearner):
    """A method that edits the weights of a classifier once: give ``edit``."""

    family: ClassVar[str] = "classifier"

    def trained(self, model: Classifier) -> list[str]:
        return list(model.named_parameters())

    def edit(self, model: Classifier, requests: Sequence[ForgetRequest]) -> dict[str, Any]:
        request = together(requests)
        model.check_classes(request.splits.name, request.splits.classes)
        with seeding.seeded(self.name, self.seed):
            report = self.change(model, request)
        model.apply_mask()
        return report

    def change(self, model: Classifier, request: ForgetRequest) -> dict[str, Any]:
        """Change the parameters of ``model`` in place and return a report."""
        raise NotImplementedError


def check_request(method: Unlearner, request: ForgetRequest) -> None:
    """See that a method can forget what is asked for.

    Raises:
        UsageError: if it forgets whole classes alone, and samples of one are kept.
    """
    for part in request.parts or (request,):
        kept = {part.splits.classes[label] for label in part.forget.y.tolist()} - set(part.whole)
        if method.class_wise and kept:
            raise UsageError(
                f"The method {method.name} forgets whole classes alone, and {part.name} leaves samples of"
                f" class {min(kept)}; ask for a whole class, or take another method."
            )


def together(requests: Sequence[ForgetRequest]) -> ForgetRequest:
    """Several requests on one training set as one."""
    first, *others = requests
    if not others:
        return first
    for other in others:
        check_training_set(first.splits, other)
    rows = sorted({row for request in requests for row in request.rows})
    gone = sorted({row for request in requests for row in request.gone} - set(rows))
    name = " and ".join(request.name for request in requests)
    return ForgetRequest(first.splits, tuple(rows), name, tuple(gone))


def forget_in_turn(
    method: Unlearner, model: Classifier, request: ForgetRequest
) -> tuple[Classifier, float]:
    """Ask a method for the parts of a request one after the other.

    Retrain is asked for all of them together, for it starts anew each time.

    Returns:
        The last model, and the seconds of all calls of ``unlearn`` together.
    """
    seconds = 0.0
    for part in (method.name != "retrain" and request.parts) or (request,):
        done = method.unlearn(model, part)
        model, seconds = done.model, seconds + done.seconds
    return model, seconds


def kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)): summed over classes, mean over rows."""
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
