"""Train the autoencoder of the embedded pipeline on MiniCanvas.

    L = |x - x_hat|_1 + mse_weight |x - x_hat|_2^2 + grad_weight |D x - D x_hat|_1
        + kl_weight KL(q(z|x) || N(0, I)) / dim z                                 (means per entry)

D are the horizontal and vertical differences of neighbouring pixels: they keep lines and textures
crisp where a plain L1 loss would wash them out. Few, wide normalisation groups: with two channels
a group the network would normalise away the flat colour of a picture.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from ..data import minicanvas
from ..loop import LoopConfig, Objective
from ..registry import register
from .base import Trainer, pixels_to_tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@register("trainer", "autoencoder")
class AutoencoderTrainer(Trainer):
    """AutoencoderKL, 64x64 pictures to 16x16 latents (three levels)."""

    output: ClassVar[str] = "vae"
    steps: int = 1700
    batch: int = 12
    lr: float = 1e-3
    channels: tuple[int, ...] = (32, 32, 64)
    groups: int = 4
    latent_channels: int = 4
    mse_weight: float = 2.0
    grad_weight: float = 0.5
    kl_weight: float = 1e-4

    def objective(self) -> Objective:
        return AutoencoderObjective(self)

    def loop_config(self) -> LoopConfig:
        return LoopConfig(
            self.steps, self.lr, "adamw", 1e-4, "cosine", warmup=100, clip=1.0,
            precision=self.precision, seed=self.seed, checkpoint_every=self.checkpoint_every,
        )  # fmt: skip


class AutoencoderObjective(Objective):
    def __init__(self, settings: AutoencoderTrainer):
        self.settings = settings

    def prepare(self, device: torch.device) -> None:
        from diffusers import AutoencoderKL

        self.pixels = torch.from_numpy(minicanvas.load(minicanvas.SPLITS["generator"]).pixels)
        levels = len(self.settings.channels)
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            self.vae = AutoencoderKL(
                block_out_channels=self.settings.channels,
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                layers_per_block=1,
                latent_channels=self.settings.latent_channels,
                norm_num_groups=self.settings.groups,
                sample_size=minicanvas.SIZE,
            ).to(device)
        start_quietly(self.vae)
        self.device = device

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.vae.named_parameters())

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(self.pixels), (self.settings.batch,))
        x = pixels_to_tensor(self.pixels[rows], self.device)
        posterior = self.vae.encode(x).latent_dist
        x_hat = self.vae.decode(posterior.sample()).sample.float()
        error = x_hat - x
        across, down = error.diff(dim=-1), error.diff(dim=-2)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {
            "l1_loss": error.abs().mean(),
            "mse_loss": self.settings.mse_weight * error.square().mean(),
            "gradient_loss": self.settings.grad_weight * (across.abs().mean() + down.abs().mean()),
            "kl_loss": self.settings.kl_weight * kl,
        }

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write the model with the scaling factor that makes its latents unit variance."""
        sample = pixels_to_tensor(self.pixels[:: max(1, len(self.pixels) // 800)], self.device)
        latents = self.vae.encode(sample).latent_dist.mean
        self.vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
        copy.deepcopy(self.vae).half().save_pretrained(folder)


@torch.no_grad()
def start_quietly(vae: AutoencoderKL) -> None:
    """Zero the last layer of every residual branch, and start with almost no noise in the latents.

    The network then begins as a short chain of plain convolutions (as in Zhang et al. 2019, arXiv
    1901.09321) whose latents carry the picture from the first step, not noise of variance one.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    for part in vae.modules():
        if isinstance(part, ResnetBlock2D):
            torch.nn.init.zeros_(part.conv2.weight)
            torch.nn.init.zeros_(part.conv2.bias)
        elif isinstance(part, Attention):
            torch.nn.init.zeros_(part.to_out[0].weight)
            torch.nn.init.zeros_(part.to_out[0].bias)
    log_variance = slice(vae.config.latent_channels, None)
    vae.quant_conv.weight[log_variance] = 0
    vae.quant_conv.bias[log_variance] = -6
