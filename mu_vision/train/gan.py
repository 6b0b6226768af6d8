"""Train a GAN on labelled pictures: the original of everything that a GAN unlearns."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from ..adversarial import Game, GameSettings
from ..data.labelled import Labelled, load_splits, named
from ..errors import UsageError
from ..loop import LoopConfig, LoopResult, train
from ..models.gan import Gan, GanConfig
from ..registry import register
from .base import Trainer


@register("trainer", "gan")
class GanTrainer(Trainer, GameSettings):
    """The non-saturating game; a function of the seed.

    Attributes:
        data: name of the data set.
        root: its folder, if it is read from one.
        without: classes that are left out, by name or by a word of it: the GAN that never saw them.
        output: name of the folder that is written.
        model: settings of ``models.gan.GanConfig``.
        half: keep the weights in float16.
    """

    data: str = "digits"
    root: str | None = None
    without: tuple[str, ...] = ()
    output: str = Field("gan", pattern=r"^[a-z0-9-]+$")
    model: GanConfig = GanConfig()
    steps: int = Field(3000, ge=1)
    lr: float = Field(2e-3, gt=0)
    half: bool = True
    precision: Literal["no", "bf16", "fp16"] = "no"

    def run(self, folder: Path | str, checkpoints: Path | str | None = None) -> LoopResult:
        folder = Path(folder)
        checkpoints = Path(checkpoints or folder.parent / "checkpoints") / self.output
        samples = self.samples()
        model, result = self.fit(samples, checkpoints)
        facts = {"trainer": self.model_dump(mode="json"), "pictures": len(samples)}
        model.save(folder / self.output, facts, self.half)
        return result

    def samples(self) -> Labelled:
        """The training pictures at the GAN's resolution, without the classes that are left out.

        Raises:
            UsageError: if one of these classes does not exist, or nothing is left.
        """
        return kept_samples(load_splits(self.data, self.root).train, self.without, self.model.size)

    def loop_config(self) -> LoopConfig:
        return LoopConfig(
            steps=self.steps, lr=self.lr, seed=self.seed, precision=self.precision,
            checkpoint_every=self.checkpoint_every, log_every=50,
        )  # fmt: skip

    def fit(self, samples: Labelled, checkpoints: Path | None = None) -> tuple[Gan, LoopResult]:
        """Train on pictures in memory."""
        objective = Pretraining(self, samples)
        result = train(objective, self.loop_config(), checkpoints, "training the GAN")
        return objective.finished_model(), result


def kept_samples(samples: Labelled, without: tuple[str, ...], size: int) -> Labelled:
    """Pictures at another resolution, without those of some classes; see ``GanTrainer.samples``."""
    out = [k for name in without for k in named(samples.classes, name)]
    rows = (~torch.isin(samples.y, torch.tensor(out, dtype=torch.long))).nonzero().flatten()
    if not len(rows):
        raise UsageError("Every class is left out: nothing remains to train the GAN on.")
    kept = samples.take(rows)
    x = kept.x
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return Labelled(x.clamp(0, 1), kept.y, kept.classes)


class Pretraining(Game):
    """Real pictures of a data set."""

    def __init__(self, settings: GanTrainer, samples: Labelled):
        self.settings = self.rules = settings
        self.samples = samples

    def prepare(self, device: torch.device) -> None:
        self.student = Gan.build(self.settings.model, self.settings.seed).to(device).clone()
        channels = self.samples.x.shape[1]
        if channels != self.settings.model.channels:
            raise UsageError(
                f"The pictures have {channels} channels, but the GAN draws"
                f" {self.settings.model.channels}; set model.channels={channels}."
            )
        self.pictures = (self.samples.x * 2 - 1).to(device)
        self.start()

    def real(self, count: int) -> torch.Tensor:
        rows = torch.randint(len(self.pictures), (count,))
        return self.pictures[rows.to(self.pictures.device)]
