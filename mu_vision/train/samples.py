"""Train a network on samples in memory: what the trainers of classifiers and regressors share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from ..data.samples import Splits
from ..loop import LoopConfig, LoopResult, train
from ..models.predictor import Predictor
from ..passes import Losses, Pass, PassObjective
from .base import Trainer


class SampleTrainer(Trainer):
    """Epochs over the training set; a function of the seed. Give ``untrained`` and ``training``.

    Attributes:
        data: name of the data set.
        root: its folder, if it is read from one.
    """

    optimizer: ClassVar[Literal["adam", "sgd"]] = "sgd"

    data: str
    root: str | None = None
    epochs: int = Field(30, ge=1)
    lr: float = Field(0.05, gt=0)
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    weight_decay: float = Field(5e-4, ge=0)
    batch: int = Field(64, ge=1)
    precision: Literal["no", "bf16", "fp16"] = "no"

    def splits(self) -> Splits:
        """The data set."""
        raise NotImplementedError

    def untrained(self, splits: Splits) -> Any:
        """The network before its first step."""
        raise NotImplementedError

    def training(self, model: Any, splits: Splits, rows: Sequence[int] | None) -> Training:
        """The objective of a training that starts from a model."""
        raise NotImplementedError

    def run(self, folder: Path | str, checkpoints: Path | str | None = None) -> LoopResult:
        folder = Path(folder)
        checkpoints = Path(checkpoints or folder.parent / "checkpoints") / self.output
        model, result = self.fit(self.splits(), checkpoints)
        model.save(folder / self.output, {"data": self.data, "trainer": self.model_dump()})
        return result

    def loop_config(self, steps: int = 0, checkpoint_every: int = 0) -> LoopConfig:
        return LoopConfig(
            steps=steps, lr=self.lr, optimizer=self.optimizer, schedule=self.schedule,
            weight_decay=self.weight_decay, seed=self.seed, precision=self.precision,
            checkpoint_every=checkpoint_every,
        )  # fmt: skip

    def fit(
        self,
        splits: Splits,
        checkpoints: Path | None = None,
        model: Any = None,
        rows: Sequence[int] | None = None,
    ) -> tuple[Any, LoopResult]:
        """Train on a data set in memory.

        Args:
            splits: the data.
            checkpoints: where a stopped run goes on from; None for none.
            model: where to start; an untrained network by default. It is not changed.
            rows: positions in the training set to train on; all by default.

        Raises:
            UsageError: if the checkpoints are of a training with other settings, data or start.
        """
        start = model or self.untrained(splits)
        if checkpoints:
            self.claim(
                Path(checkpoints), start=start.fingerprint(), data=splits.train.fingerprint,
                rows=None if rows is None else [int(row) for row in rows],
            )  # fmt: skip
        objective = self.training(start, splits, rows)
        config = self.loop_config(objective.length(), self.checkpoint_every if checkpoints else 0)
        result = train(objective, config, checkpoints, f"training the {self.output}")
        return objective.student.freeze(), result


class Training(PassObjective):
    """The task's loss on the training set; pruned weights stay 0. Give ``task_loss``."""

    def __init__(
        self,
        settings: SampleTrainer,
        model: Predictor,
        splits: Splits,
        rows: Sequence[int] | None = None,
    ):
        self.student = model.clone()
        self.samples = splits.train if rows is None else splits.train.take(rows)
        self.augment, self.order_seed = splits.augment, settings.seed
        self.epochs, self.batch = settings.epochs, settings.batch

    def task_loss(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> Losses:
        raise NotImplementedError

    def prepare(self, device: torch.device) -> None:
        self.student.to(device)
        self.samples = self.samples.to(device)
        self.student.apply_mask()
        self.make_plan()
        self.student.network.train()

    def network(self) -> torch.nn.Module:
        return self.student.network

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return self.student.named_parameters()

    def passes(self, epoch: int) -> list[Pass]:
        return [self.sweep("train", self.samples, self.task_loss)]

    def after_step(self, step: int) -> None:
        self.student.apply_mask()
