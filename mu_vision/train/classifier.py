"""Train a classifier on labelled pictures: the original model of everything that is unlearned."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field

from ..data.cards import load_card
from ..data.labelled import Splits, load_splits
from ..errors import UsageError
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

    def training(self, model, splits, rows=None) -> Training:
        return Training(self, model, splits, rows)


class Training(samples.Training):
    """Cross-entropy on the training set; pruned weights stay 0."""

    def task_loss(self, x, y, rows):
        return {"ce_loss": F.cross_entropy(self.student.network(x), y)}
