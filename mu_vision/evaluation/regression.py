"""What a regressor has forgotten and kept, beside one that was retrained without the forget set.

Predictions on the forget set, the retain set and both parts of the test set are computed once a
model; every metric reads them. Errors are in the unit of the targets (its square where the task's
loss is squared).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from ..data.selectors import ForgetRequest
from ..errors import UsageError
from ..loop import train
from ..metrics.forgetting import ain
from ..metrics.regression import member_share, wasserstein_1
from ..models.regressor import Regressor
from ..train.regressor import RegressorTrainer, Training

GAP_KEYS = ("forget", "retain", "test", "unseen")


@dataclass(frozen=True)
class Outputs:
    """Predictions [N] of one model on the sets of a request.

    Attributes:
        forget: on the forget set, which the original was trained on.
        retain: on the retain set.
        test: on the test samples that are not like the forgotten ones.
        unseen: on those that are; all of them if samples were forgotten at random.
    """

    forget: torch.Tensor
    retain: torch.Tensor
    test: torch.Tensor
    unseen: torch.Tensor

    @classmethod
    def of(cls, model: Regressor, request: ForgetRequest) -> Outputs:
        """Run the model once over each set, in eval mode.

        Raises:
            UsageError: if it gives NaN or infinite predictions.
        """
        found = [model.predict(getattr(request, f.name).x) for f in fields(cls)]
        if not all(torch.isfinite(values).all() for values in found):
            raise UsageError(
                f"{model.name} gives predictions that are not finite after forgetting {request.name};"
                " its weights are ruined: lower the learning rate."
            )
        return cls(*found)

    def errors(self, request: ForgetRequest) -> dict[str, np.ndarray]:
        """d(prediction, y) of every sample, by set."""
        return {
            f.name: getattr(request, f.name).to("cpu").error(getattr(self, f.name)).numpy()
            for f in fields(self)
        }


class Relearning(BaseModel):
    """How long it takes to learn the forgotten again: steps on all training data.

    Attributes:
        alpha: the error on ``unseen`` may be this share above the original's.
        lr: of Adam.
        batch: samples a step.
        epochs: after so many the count is given up (censored).
        every: steps between looks at the error; counts are multiples of it.
        seed: of the order of samples, the same for every model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(0.05, ge=0, description="tolerated share above the original's error")
    lr: float = Field(1e-3, gt=0, description="learning rate of Adam")
    batch: int = Field(64, ge=1, description="samples a step")
    epochs: int = Field(10, ge=1, description="epochs after which the count is given up")
    every: int = Field(1, ge=1, description="steps between looks at the error")
    seed: int = Field(0, ge=0, description="seed of the order of samples")

    def steps(
        self, model: Regressor, original: Regressor, request: ForgetRequest
    ) -> tuple[int, bool]:
        """Steps until a copy of the model is as good as the original on what was forgotten.

        Args:
            model: what relearns; it is not changed.
            original: what sets the target.
            request: what was forgotten.

        Returns:
            The number of steps, 0 if the model is good enough already, and True if they were not
            enough.
        """
        target = (1 + self.alpha) * error_on(original, request.unseen)
        trainer = RegressorTrainer(
            epochs=self.epochs, lr=self.lr, batch=self.batch, schedule="constant", seed=self.seed
        )
        objective = _Watched(trainer, model, request, target, self.every)
        if error_on(model, request.unseen) <= target:
            return 0, False
        try:
            train(objective, trainer.loop_config(objective.length()), label="relearning")
        except _Reached as reached:
            return reached.steps, False
        return objective.length(), True


class _Reached(Exception):
    """The error is low enough; ends a relearning."""

    def __init__(self, steps: int):
        super().__init__(steps)
        self.steps = steps


class _Watched(Training):
    """A training on all data that ends once the error on unseen samples is low enough."""

    def __init__(self, trainer, model, request: ForgetRequest, target: float, every: int):
        super().__init__(trainer, model, request.splits)
        self.unseen, self.target, self.every = request.unseen, target, every

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if (step + 1) % self.every == 0 and error_on(self.student, self.unseen) <= self.target:
            raise _Reached(step + 1)


def error_on(model: Regressor, data: Any) -> float:
    """Mean d(prediction, y)."""
    return float(data.to("cpu").error(model.predict(data.x)).mean())


@dataclass(frozen=True)
class Yardstick:
    """What every method is compared with: Retrain's predictions, errors and relearn steps."""

    outputs: Outputs
    values: Mapping[str, Any]
    fingerprint: str

    @classmethod
    def of(
        cls, retrained: Regressor, request: ForgetRequest, original: Regressor,
        relearning: Relearning | None,
    ) -> Yardstick:  # fmt: skip
        out = Outputs.of(retrained, request)
        values = {
            **rates(out, request), **relearned(retrained, original, request, relearning)
        }  # fmt: skip
        return cls(out, values, retrained.fingerprint())


def rates(out: Outputs, request: ForgetRequest, seed: int = 0) -> dict[str, float]:
    """Mean errors on the four sets, and the membership attack."""
    errors = out.errors(request)
    members = np.concatenate([errors["forget"], errors["retain"]])
    others = np.concatenate([errors["test"], errors["unseen"]])
    found = {name: float(values.mean()) for name, values in errors.items()}
    found["mia"] = member_share(members, others, errors["forget"], seed=seed)
    return found


def relearned(
    model: Regressor, original: Regressor, request: ForgetRequest, relearning: Relearning | None
) -> dict[str, Any]:
    """``relearn`` (steps) and ``censored`` of a model; nothing if nobody asks."""
    if relearning is None:
        return {}
    return dict(
        zip(("relearn", "censored"), relearning.steps(model, original, request), strict=True)
    )


def measure(
    model: Regressor,
    request: ForgetRequest,
    original: Regressor,
    yardstick: Yardstick | None = None,
    relearning: Relearning | None = None,
) -> dict[str, Any]:
    """The metrics of one model.

    Args:
        model: what unlearning gave.
        request: what it had to forget.
        original: what it was before; sets the target of relearning.
        yardstick: what was computed of Retrain; None for none.
        relearning: how relearning goes; None for no relearning.

    Returns:
        Mean errors ``forget``, ``retain``, ``test`` and ``unseen`` (see ``Outputs``), ``mia`` (share
        of the forget set called member), ``relearn`` (steps) and ``censored``; beside Retrain ``w1``
        (distance of the predictions on the forget set), ``gap`` (mean distance of the four errors)
        and ``ain``.
    """
    if yardstick is not None and model.fingerprint() == yardstick.fingerprint:
        out, found = yardstick.outputs, dict(yardstick.values)
    else:
        out = Outputs.of(model, request)
        found = {**rates(out, request), **relearned(model, original, request, relearning)}
    if yardstick is not None:
        gold = yardstick.values
        found["w1"] = wasserstein_1(out.forget, yardstick.outputs.forget)
        found["gap"] = float(np.mean([abs(found[key] - gold[key]) for key in GAP_KEYS]))
        if relearning is not None:
            found["ain"] = ain(found["relearn"], gold["relearn"])
    return found


def scatter(
    out: Outputs, request: ForgetRequest, most: int = 150, seed: int = 0
) -> dict[str, list[tuple[float, float]]]:
    """(target, prediction) of test samples, those like the forgotten ones and the others."""
    rng, found = np.random.default_rng(seed), {}
    for name in ("test", "unseen"):
        y, said = getattr(request, name).y.cpu(), getattr(out, name)
        rows = np.sort(rng.permutation(len(y))[:most])
        found[name] = [(round(float(y[r]), 2), round(float(said[r]), 2)) for r in rows]
    return found


def density(values: torch.Tensor, edges: Sequence[float]) -> list[float]:
    """Shares of predictions between the edges; what is outside is in the first and the last."""
    inside = np.clip(np.asarray(values, np.float64), edges[0], edges[-1])
    return (np.histogram(inside, edges)[0] / len(inside)).tolist()
