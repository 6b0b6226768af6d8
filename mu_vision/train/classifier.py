"""Train a classifier on labelled pictures: the original model of everything that is unlearned."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F

from ..data.labelled import Splits, load_splits
from ..models.classifier import Classifier
from ..registry import register
from . import samples


@register("trainer", "classifier")
class ClassifierTrainer(samples.SampleTrainer):
    """SGD with momentum and weight decay; a function of the seed.

    Attributes:
        data: name of the data set.
        root: its folder, if it is read from one.
        architecture: ``small_cnn``, ``resnet18_cifar``, ``torchvision/NAME`` or a name of timm.
        normalize: mean and std by channel, a layer of the network; None for none.
    """

    output: ClassVar[str] = "classifier"

    data: str = "digits"
    root: str | None = None
    architecture: str = "small_cnn"
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def splits(self) -> Splits:
        return load_splits(self.data, self.root)

    def untrained(self, splits: Splits) -> Classifier:
        channels = splits.train.x.shape[1]
        return Classifier.build(
            self.architecture, splits.classes, channels, self.seed, self.normalize
        )

    def training(self, model, splits, rows=None) -> Training:
        return Training(self, model, splits, rows)


class Training(samples.Training):
    """Cross-entropy on the training set; pruned weights stay 0."""

    def task_loss(self, x, y, rows):
        return {"ce_loss": F.cross_entropy(self.student.network(x), y)}
