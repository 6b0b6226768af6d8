"""Train a regressor on measured samples: the original model of everything that is unlearned."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..data.regression import Splits, load_splits
from ..models.regressor import Regressor
from ..registry import register
from . import samples


@register("trainer", "regressor")
class RegressorTrainer(samples.SampleTrainer):
    """Adam at the paper's rate; a function of the seed.

    The paper (arXiv 2210.08196) trains for 100 epochs and divides the rate by 10 on plateaus; a
    cosine needs no validation set. The head's bias begins at the mean of the targets.

    Attributes:
        data: name of the data set.
        root: its folder, if it is read from one.
        architecture: ``allcnn``, ``small_allcnn``, ``small_cnn``, ``mlp``, ``pair_lstm`` or a name of
            timm.
        standardize: begin the network with (x - mean) / std by channel of the training inputs, as
            tables need it.
    """

    output: ClassVar[str] = "regressor"
    optimizer: ClassVar[Literal["adam", "sgd"]] = "adam"

    data: str = "gauges"
    architecture: str = "small_allcnn"
    standardize: bool = False
    epochs: int = Field(12, ge=1)
    lr: float = Field(0.01, gt=0)
    weight_decay: float = Field(0.0, ge=0)

    def splits(self) -> Splits:
        return load_splits(self.data, self.root)

    def untrained(self, splits: Splits) -> Regressor:
        x, moments = splits.train.x, None
        if self.standardize:
            axes = [0, *range(2, x.ndim)]
            std = x.std(axes).clamp_min(1e-6)
            moments = (x.mean(axes).tolist(), std.tolist())
        model = Regressor.build(self.architecture, x.shape[1], self.seed, moments, x.ndim - 2)
        return model.check_reads(splits.name, x).centre(splits.train.y)

    def training(self, model, splits, rows=None) -> Training:
        return Training(self, model, splits, rows)


class Training(samples.Training):
    """The data's own deviation, absolute or squared, on the training set."""

    def task_loss(self, x, y, rows):
        return {"error_loss": self.samples.error(self.student.values(x), y).mean()}
