"""Train the label-conditional pixel diffusion model of MiniCanvas's objects.

    L = |v - v_theta(a_t x + b_t eps, t, y)|^2,   v = a_t eps - b_t x,   t = 1000 u^2,  u ~ U[0, 1)

x are the generator's pictures in the given styles, scaled down; y is the object, or null in one case
of ten. The network predicts velocity (Salimans and Ho 2022, arXiv 2202.00512): where noise is all
there is to see it answers with the picture, while an error in predicted noise would come out
multiplied by sigma = b / a, up to 157. Half of the timesteps lie below 250 (sigma 0.96), where
details are decided; a uniform draw would spend its half beyond sigma 3.4. The noise schedule is
DDPM's linear one (Ho et al. 2020, arXiv 2006.11239). What is saved is the moving average of the
weights. ``without`` leaves objects out of the pictures, which makes the model that never knew them
(Retrain): the network keeps their label, which no picture ever had.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F

from ..data import minicanvas
from ..errors import UsageError
from ..loop import LoopConfig
from ..models.denoiser import to_pixels
from ..models.maths import coefficients
from ..models.weights import MovingAverage
from ..registry import register
from .base import NetworkObjective, Trainer
from .unet import kept_pictures

if TYPE_CHECKING:
    from diffusers import UNet2DModel


@register("trainer", "label_unet")
class LabelUNetTrainer(Trainer):
    """A U-Net on patches of pixels with one label embedding an object, and one for none."""

    output: ClassVar[str] = "objects"
    steps: int = 4200
    batch: int = 32
    lr: float = 1e-3
    size: int = 32
    patch: int = 2
    channels: tuple[int, ...] = (32, 64, 96)
    head_width: int = 16
    groups: int = 8
    drop: float = 0.1
    average: float = 0.999
    schedule: Literal["constant", "cosine"] = "constant"
    styles: tuple[str, ...] = ("photo",)
    without: tuple[str, ...] = ()

    def objective(self) -> LabelUNetObjective:
        if self.size % (self.patch * 2 ** (len(self.channels) - 1)):
            raise UsageError(
                f"Pictures of {self.size} pixels cannot be halved {len(self.channels) - 1} times"
                f" after patches of {self.patch}; choose another size, patch or fewer channels."
            )
        return LabelUNetObjective(self)

    def loop_config(self) -> LoopConfig:
        return LoopConfig(
            self.steps, self.lr, "adamw", 0.01, schedule=self.schedule, warmup=200, clip=1.0,
            precision=self.precision, seed=self.seed, checkpoint_every=self.checkpoint_every,
        )  # fmt: skip

    def build_unet(self) -> UNet2DModel:
        from diffusers import UNet2DModel

        inner = len(self.channels) - 1
        return UNet2DModel(
            sample_size=self.size // self.patch,
            in_channels=3 * self.patch**2,
            out_channels=3 * self.patch**2,
            block_out_channels=self.channels,
            layers_per_block=1,
            down_block_types=(*("DownBlock2D",) * inner, "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", *("UpBlock2D",) * inner),
            attention_head_dim=self.head_width,
            norm_num_groups=self.groups,
            num_class_embeds=len(minicanvas.OBJECTS) + 1,
        )


class LabelUNetObjective(NetworkObjective):
    """Denoising loss; ``average`` is what is saved."""

    def __init__(self, settings: LabelUNetTrainer):
        self.settings = settings

    def prepare(self, device: torch.device) -> None:
        from diffusers import DDIMScheduler

        settings = self.settings
        others = [style for style in minicanvas.STYLES if style not in settings.styles]
        pictures = kept_pictures([*settings.without, *others])
        size, side = (settings.size, settings.size), settings.patch
        parts = [
            F.pixel_unshuffle(to_pixels(pictures.pixels[start : start + 1024], size), side).half()
            for start in range(0, len(pictures), 1024)
        ]
        self.x, self.labels = torch.cat(parts), torch.from_numpy(pictures.objects)
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.network = settings.build_unet().to(device)
        self.scheduler = DDIMScheduler(
            beta_schedule="linear",
            clip_sample=False,
            timestep_spacing="trailing",
            prediction_type="v_prediction",
        )
        self.abar = self.scheduler.alphas_cumprod.to(device)
        self.average = MovingAverage(self.parameters(), settings.average)
        self.device = device

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        batch = self.settings.batch
        rows = torch.randint(len(self.x), (batch,))
        x, labels = self.x[rows].float().to(self.device), self.labels[rows]
        dropped = torch.rand(batch) < self.settings.drop
        labels = labels.masked_fill(dropped, len(minicanvas.OBJECTS)).to(self.device)
        # one u from each of B equal slices of [0, 1): the same marginal, less noise
        u = (torch.arange(batch) + torch.rand(batch)) / batch
        t = (u.square() * len(self.abar)).long()
        t, noise = t.to(self.device), torch.randn(x.shape).to(self.device)
        a, b = coefficients(self.abar[t], x)
        predicted = self.network(a * x + b * noise, t, class_labels=labels).sample
        return {"denoising_loss": F.mse_loss(predicted.float(), a * noise - b * x)}

    def after_step(self, step: int) -> None:
        self.average.update(self.parameters(), step)

    def state(self) -> dict[str, torch.Tensor]:
        return {**super().state(), **{f"average.{n}": v for n, v in self.average.values.items()}}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        super().load_state(state)
        kept = {n: v for n, v in state.items() if n.startswith("average.")}
        self.average.load({n.removeprefix("average."): v for n, v in kept.items()})

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write the pipeline: averaged weights, float16."""
        from ..models.labels import LabelModel, LabelPipeline

        network = copy.deepcopy(self.network)
        network.load_state_dict(self.average.values, strict=False)
        pipeline = LabelPipeline(
            network.half(),
            self.scheduler,
            dict(enumerate(minicanvas.OBJECTS)),
            self.settings.patch,
        )
        LabelModel(pipeline, folder.name).save(folder)
