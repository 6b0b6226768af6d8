"""What regressor methods share: the task's loss, Adam at the paper's rate, and the paper.

Passes over the forget and the retain set are those of ``unlearn/samples.py``. The loss d is the
data's own: absolute error on pictures, squared error on pairs of sentences and on tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from ...data.measured import Measured
from ...data.selectors import ForgetRequest
from ...errors import UsageError
from ...models.regressor import Regressor
from ...passes import Losses
from ...registry import Paper
from ..samples import OneShotUnlearner, SampleErasure, SampleUnlearner

AUTHORS = "A. K. Tarun, V. S. Chundawat, M. Mandal, M. Kankanhalli"


def deep_regression(cost: str, deviations: tuple[str, ...] = ()) -> Paper:
    """Deep Regression Unlearning, as the source of a method."""
    return Paper(
        title="Deep Regression Unlearning",
        authors=AUTHORS,
        arxiv="2210.08196",
        venue="ICML 2023",
        repository="https://github.com/ayu987/deep-regression-unlearning",
        licence="MIT",
        deviations=deviations,
        cost=cost,
    )


class RegressorUnlearner(SampleUnlearner):
    """A method that trains a regressor some more; ``epochs`` count its own passes."""

    family: ClassVar[str] = "regressor"
    trial: ClassVar[dict[str, Any]] = {"epochs": 1, "lr": 0.01}

    epochs: int = Field(5, ge=1, description="epochs")
    lr: float = Field(1e-3, ge=0, description="learning rate")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimiser")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimiser")

    def objective(self, model: Regressor, requests: Sequence[ForgetRequest]) -> RegressorErasure:
        return RegressorErasure(self, model, requests)

    def check(self, model: Regressor, request: ForgetRequest) -> None:
        check_fits(model, request)


class RegressorErasure(SampleErasure):
    """Passes of a method on one request; the default is one over the retain set."""

    forget: Measured
    retain: Measured

    def task_loss(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> Losses:
        return {"error_loss": self.errors(self.student.values(x), y).mean()}

    def errors(self, predictions: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """d(prediction, y) of each sample, [B]."""
        return self.retain.error(predictions, y)

    def everything(self) -> Measured:
        """D_f, then D_r: the first rows are to be forgotten."""
        return self.request.splits.train.take([*self.request.rows, *self.request.kept_rows])


class OneShotRegressorUnlearner(OneShotUnlearner):
    """A method that edits the weights of a regressor once: give ``change``."""

    family: ClassVar[str] = "regressor"

    def check(self, model: Regressor, request: ForgetRequest) -> None:
        check_fits(model, request)


def check_fits(model: Regressor, request: ForgetRequest) -> None:
    """See that the samples have values, and that the model takes them.

    Raises:
        UsageError: if they have classes, or another shape.
    """
    if not isinstance(request.splits.train, Measured):
        raise UsageError(
            f"{request.splits.name} has a class a sample, and a regressor forgets samples with a"
            " value each."
        )
    model.check_reads(request.splits.name, request.splits.train.x)
