"""What methods on classifiers and regressors share: passes over the forget and the retain set.

A gradient method says which passes over which samples an epoch has, and the loss of a batch of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from .. import seeding
from ..data.selectors import ForgetRequest, check_training_set, like_any_of
from ..errors import UsageError
from ..models.predictor import Predictor
from ..passes import Losses, Pass, PassObjective
from .base import ClosedFormUnlearner, Erasure, GradientUnlearner, Unlearner


class SampleUnlearner(GradientUnlearner):
    """A method that trains a network some more; ``epochs`` count its own passes."""

    idle: ClassVar[dict[str, Any] | None] = {"lr": 0.0, "weight_decay": 0.0}

    steps: int = Field(0, ge=0, description="optimiser steps; 0: as many as the epochs have")
    epochs: int = Field(10, ge=1, description="epochs")
    lr: float = Field(0.01, ge=0, description="learning rate")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("sgd", description="optimiser")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of the optimiser")
    batch: int = Field(64, ge=1, description="samples a step")

    def trained(self, model: Predictor) -> list[str]:
        return list(model.named_parameters())

    def objective(self, model: Any, requests: Sequence[ForgetRequest]) -> SampleErasure:
        raise NotImplementedError

    def check(self, model: Any, request: ForgetRequest) -> None:
        """See that the model fits the data.

        Raises:
            UsageError: if it does not.
        """

    def _run(self, model, requests, folder):
        check_request(self, together(requests))
        objective = self.objective(model, requests)
        self.check(model, objective.request)
        steps = self.steps or objective.length()
        done = self._trained(objective, self.loop_config(steps), model, requests, folder)
        objective.finish()
        return done


class SampleErasure(PassObjective, Erasure):
    """Passes of a method on one request; the default is one over the retain set, with the task's loss.

    Attributes:
        forget: the samples to forget, on the device.
        retain: the samples to keep, on the device.
    """

    def __init__(
        self, settings: SampleUnlearner, model: Predictor, requests: Sequence[ForgetRequest]
    ):
        super().__init__(settings, model, requests)
        self.request = together(requests)
        self.forget, self.retain = self.request.forget, self.request.retain
        self.augment, self.order_seed = self.request.splits.augment, settings.seed
        self.epochs, self.batch = settings.epochs, settings.batch

    def task_loss(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> Losses:
        """What the original was trained with, on a batch."""
        raise NotImplementedError

    def passes(self, epoch: int) -> list[Pass]:
        return [self.sweep("retain", self.retain, self.task_loss)]

    def start(self) -> None:
        """Change the student before the first step, and compute once what is frozen."""

    def finish(self) -> None:
        """Change the student after the last step."""

    def network(self) -> torch.nn.Module:
        return self.student.network

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
    """A method that edits the weights of a network once: give ``change``."""

    def trained(self, model: Predictor) -> list[str]:
        return list(model.named_parameters())

    def check(self, model: Any, request: ForgetRequest) -> None:
        """See that the model fits the data.

        Raises:
            UsageError: if it does not.
        """

    def edit(self, model: Any, requests: Sequence[ForgetRequest]) -> dict[str, Any]:
        request = together(requests)
        self.check(model, request)
        with seeding.seeded(self.name, self.seed):
            report = self.change(model, request)
        model.apply_mask()
        return report

    def change(self, model: Any, request: ForgetRequest) -> dict[str, Any]:
        """Change the parameters of ``model`` in place and return a report."""
        raise NotImplementedError


def check_request(method: Unlearner, request: ForgetRequest) -> None:
    """See that a method can forget what is asked for.

    Raises:
        UsageError: if it forgets whole classes alone, and samples of one are kept.
    """
    for part in (request.parts or (request,)) if method.class_wise else ():
        kept = {part.splits.classes[label] for label in part.forget.y.tolist()} - set(part.whole)
        if kept:
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
    like = like_any_of(requests)
    return ForgetRequest(first.splits, tuple(rows), name, tuple(gone), like=like)


def forget_in_turn(method: Unlearner, model: Any, request: ForgetRequest) -> tuple[Any, float]:
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
