"""Small measured data and regressors for tests."""

from __future__ import annotations

from functools import cache

import torch

from mu_vision.data.labelled import digits
from mu_vision.data.measured import Measured
from mu_vision.data.samples import Splits
from mu_vision.data.selectors import ForgetRequest, Selector
from mu_vision.models.regressor import Regressor
from mu_vision.train.regressor import RegressorTrainer


@cache
def digit_values(train: int = 240, test: int = 80) -> Splits:
    """Handwritten digits with their value as the target; the subject is odd or even."""
    whole = digits()

    def part(data, count):
        few = data.take(range(count))
        return Measured(few.x, few.y.float(), few.y % 2, ("even", "odd"))

    return Splits("digit_values", part(whole.train, train), part(whole.test, test))


def low_digits(**size) -> ForgetRequest:
    """Forget the digits up to 2."""
    return Selector(kind="range", high=2).select(digit_values(**size))


@cache
def trained_regressor(epochs: int = 4, seed: int = 0) -> Regressor:
    trainer = RegressorTrainer(architecture="small_cnn", epochs=epochs, seed=seed)
    return trainer.fit(digit_values())[0]


def table(rows: int = 60, columns: int = 5) -> Splits:
    """A linear table with noise; subject and value do not depend on each other."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(rows, columns, generator=draw)
    y = x @ torch.arange(1.0, columns + 1) + 0.1 * torch.randn(rows, generator=draw)
    data = Measured(x, y, torch.arange(rows) % 3, ("a", "b", "c"), "squared")
    cut = rows * 2 // 3
    return Splits("table", data.take(range(cut)), data.take(range(cut, rows)))
