"""Train a classifier on labelled pictures: the original model of everything that is unlearned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field

from ..data.cards import load_card
from ..data.labelled import Splits, load_splits
from ..errors import UsageError
from ..loop import LoopConfig, LoopResult, train
from ..models.classifier import Classifier
from ..passes import Pass, PassObjective
from ..registry import register
from .base import Trainer


@register("trainer", "classifier")
class ClassifierTrainer(Trainer):
    """SGD with momentum and weight decay; a function of the seed.

    Attributes:
        data: name of the data set.
        root: its folder, if it is read from one.
        architecture: ``small_cnn``, ``resnet18_cifar``, ``torchvision/NAME`` or a name of timm.
        normalize: mean and std by channel, a layer of the network; ``card`` for those of the data
            set's card, None for none.
        validation: share of the training set that is held out, as papers on CIFAR hold out 0.1.
    """

    output: ClassVar[str] = "classifier"

    data: str = "digits"
    root: str | None = None
    architecture: str = "small_cnn"
    normalize: Literal["card"] | tuple[tuple[float, ...], tuple[float, ...]] | None = None
    validation: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(30, ge=1)
    lr: float = Field(0.05, gt=0)
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    weight_decay: float = Field(5e-4, ge=0)
    batch: int = Field(64, ge=1)
    precision: Literal["no", "bf16", "fp16"] = "no"

    def run(self, folder: Path | str, checkpoints: Path | str | None = None) -> LoopResult:
        folder = Path(folder)
        checkpoints = Path(checkpoints or folder.parent / "checkpoints") / self.output
        model, result = self.fit(self.splits(), checkpoints)
        model.save(folder / self.output, {"data": self.data, "trainer": self.model_dump()})
        return result

    def splits(self) -> Splits:
        """The data set, with its validation set if one is held out.

        Raises:
            UsageError: if its files are missing.
        """
        return load_splits(self.data, self.root).hold_out(self.validation)

    def untrained(self, splits: Splits) -> Classifier:
        """The network before its first step.

        Raises:
            UsageError: if the card is asked for a normalisation that it does not have.
        """
        channels, normalize = splits.train.x.shape[1], self.normalize
        if normalize == "card":
            normalize = load_card(self.data).normalize
            if normalize is None:
                raise UsageError(
                    f"The card of {self.data} has no normalisation; give normalize=[[MEAN], [STD]], or"
                    " leave it out."
                )
        return Classifier.build(self.architecture, splits.classes, channels, self.seed, normalize)

    def loop_config(self, steps: int = 0, checkpoint_every: int = 0) -> LoopConfig:
        return LoopConfig(
            steps=steps, lr=self.lr, optimizer="sgd", schedule=self.schedule,
            weight_decay=self.weight_decay, seed=self.seed, precision=self.precision,
            checkpoint_every=checkpoint_every,
        )  # fmt: skip

    def fit(
        self,
        splits: Splits,
        checkpoints: Path | None = None,
        model: Classifier | None = None,
        rows: Sequence[int] | None = None,
    ) -> tuple[Classifier, LoopResult]:
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
        objective = Training(self, start, splits, rows)
        config = self.loop_config(objective.length(), self.checkpoint_every if checkpoints else 0)
        result = train(objective, config, checkpoints, "training the classifier")
        return objective.student.freeze(), result


class Training(PassObjective):
    """Cross-entropy on the training set; pruned weights stay 0."""

    def __init__(self, settings: ClassifierTrainer, model: Classifier, splits: Splits, rows=None):
        self.student = model.clone()
        self.samples = splits.train if rows is None else splits.train.take(rows)
        self.augment, self.order_seed = splits.augment, settings.seed
        self.epochs, self.batch = settings.epochs, settings.batch

    def prepare(self, device) -> None:
        self.student.to(device)
        self.samples = self.samples.to(device)
        self.student.apply_mask()
        self.make_plan()
        self.student.network.train()

    def network(self):
        return self.student.network

    def parameters(self):
        return self.student.named_parameters()

    def passes(self, epoch: int) -> list[Pass]:
        return [self.sweep("train", self.samples, self.cross_entropy)]

    def cross_entropy(self, x, y, rows):
        return {"ce_loss": F.cross_entropy(self.student.network(x), y)}

    def after_step(self, step: int) -> None:
        self.student.apply_mask()
