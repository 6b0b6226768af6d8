"""Train a style or object judge (a small timm network) on MiniCanvas."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_model

from ..data import minicanvas
from ..loop import LoopConfig
from ..registry import register
from .base import NetworkObjective, Trainer, pixels_to_tensor

LABELS = {"style": minicanvas.STYLES, "object": minicanvas.OBJECTS}


@register("trainer", "judge")
class JudgeTrainer(Trainer):
    """A residual network that names the style or the object of a picture."""

    target: Literal["style", "object"]
    steps: int = 1500
    batch: int = 128
    lr: float = 2e-3
    architecture: str = "resnet18"
    layers: tuple[int, ...] = (1, 1, 1, 1)
    channels: tuple[int, ...] = (24, 48, 96, 128)

    @property
    def output(self) -> str:
        return f"{self.target}-judge"

    def objective(self) -> NetworkObjective:
        return JudgeObjective(self)

    def loop_config(self) -> LoopConfig:
        return LoopConfig(
            self.steps, self.lr, "adamw", 0.05, "cosine", warmup=100, clip=1.0,
            precision=self.precision, seed=self.seed, checkpoint_every=self.checkpoint_every,
        )  # fmt: skip

    def model_args(self) -> dict:
        return {"layers": list(self.layers), "channels": list(self.channels)}


class JudgeObjective(NetworkObjective):
    def __init__(self, settings: JudgeTrainer):
        self.settings = settings
        self.classes = LABELS[settings.target]

    def prepare(self, device: torch.device) -> None:
        pictures = minicanvas.load(minicanvas.SPLITS["judge"])
        self.pixels = torch.from_numpy(pictures.pixels)
        labels = pictures.styles if self.settings.target == "style" else pictures.objects
        self.labels = torch.from_numpy(labels)
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            self.network = timm.create_model(
                self.settings.architecture,
                num_classes=len(self.classes),
                **self.settings.model_args(),
            ).to(device)
        self.device = device

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(self.pixels), (self.settings.batch,))
        x = roughen(pixels_to_tensor(self.pixels[rows], self.device))
        logits = self.network(x)
        labels = self.labels[rows].to(self.device)
        accuracy = (logits.argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
        return {"judge_loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write weights (float16) and ``config.json`` with the measured test accuracy."""
        network = copy.deepcopy(self.network).half()
        accuracy, count = test_accuracy(network.float(), self.settings.target, self.device)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "architecture": self.settings.architecture,
            "num_classes": len(self.classes),
            "classes": list(self.classes),
            "input_size": [3, minicanvas.SIZE, minicanvas.SIZE],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "model_args": self.settings.model_args(),
            "card": {"test_accuracy": accuracy, "test_pictures": count},
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_model(network.half(), str(folder / "model.safetensors"))


def roughen(x: torch.Tensor) -> torch.Tensor:
    """Shift, mirror, tint, soften and grain pictures [B, 3, H, W], each one on its own.

    A judge has to mark pictures that came through an autoencoder: it must not rest on the last
    bit of sharpness or on an exact place.
    """
    batch, _, height, width = x.shape
    padded = F.pad(x, (4, 4, 4, 4), mode="replicate")
    shift = torch.randint(0, 9, (2, batch))
    rows = torch.arange(height)[None] + shift[0][:, None]
    columns = torch.arange(width)[None] + shift[1][:, None]
    x = padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    x = x.permute(0, 3, 1, 2)
    x = torch.where((torch.rand(batch) < 0.5).to(x.device)[:, None, None, None], x.flip(-1), x)
    gain = 1 + 0.15 * torch.randn(batch, 3, 1, 1)
    x = x * gain.to(x.device) + 0.08 * torch.randn(batch, 3, 1, 1).to(x.device)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = (torch.rand(batch, 1, 1, 1) * (torch.rand(batch, 1, 1, 1) < 0.5)).to(x.device)
    noise = torch.randn(x.shape).to(x.device) * 0.1 * torch.rand(batch, 1, 1, 1).to(x.device)
    return x + share * (soft - x) + noise


@torch.no_grad()
def test_accuracy(
    network: torch.nn.Module, target: str, device: torch.device, every: int = 1
) -> tuple[float, int]:
    """Accuracy in [0, 1] on the test split, and the number of pictures."""
    pictures = minicanvas.load(minicanvas.SPLITS["test"][::every], "painting the test split")
    labels = torch.from_numpy(pictures.styles if target == "style" else pictures.objects)
    training = network.training
    network.eval()
    right = 0
    for start in range(0, len(pictures), 256):
        x = pixels_to_tensor(pictures.pixels[start : start + 256], device)
        right += int((network(x).argmax(1).cpu() == labels[start : start + 256]).sum())
    network.train(training)
    return right / len(pictures), len(pictures)
