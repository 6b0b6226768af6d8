"""Diffusion models of points in the plane, with the real verbs: toys that are trained in a moment.

Every concept is a Gaussian cloud, so what a perfect network predicts is known in closed form, and
that is what the toys learn from. Latents are [B, 2, 1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import nn

from mu_vision import seeding
from mu_vision.models import maths
from mu_vision.models.denoiser import Denoiser
from mu_vision.models.text import TextStates

WIDTH, TEXT, COSINE = 64, 16, 0.3


class Attention(nn.Module):
    """One head of cross-attention, with the names that ``diffusers`` gives its layers."""

    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_k = nn.Linear(TEXT, WIDTH, bias=False)
        self.to_v = nn.Linear(TEXT, WIDTH, bias=False)
        self.to_out = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        k, v = self.to_k(text), self.to_v(text)
        weight = (self.to_q(h).unsqueeze(1) * k).sum(-1).div(math.sqrt(WIDTH)).softmax(1)
        return self.to_out((weight.unsqueeze(-1) * v).sum(1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn2 = Attention()
        self.ff = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, h: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        h = h + self.attn2(h, text)
        return h + self.ff(h)


class PointNet(nn.Module):
    """Noise [B, 2, 1, 1] of points under texts of two tokens."""

    def __init__(self, levels: torch.Tensor):
        super().__init__()
        self.config = SimpleNamespace(sample_size=1, in_channels=2)
        self.register_buffer("levels", maths.sigmas(levels).log())
        self.inner = nn.Linear(2 + 8, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.outer = nn.Linear(WIDTH, 2)

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        angle = self.levels[t].unsqueeze(1) * 2.0 ** torch.arange(-2, 2)
        h = self.inner(torch.cat([x.flatten(1), angle.sin(), angle.cos()], 1))
        for block in self.blocks:
            h = block(h, text)
        return self.outer(h).view_as(x)


class CloudNet(nn.Module):
    """The exact noise prediction of one Gaussian cloud a text, whose mean and width are learnt."""

    def __init__(
        self, levels: torch.Tensor, clouds: torch.Tensor, spread: float, words: torch.Tensor
    ):
        super().__init__()
        self.config = SimpleNamespace(sample_size=1, in_channels=2)
        self.register_buffer("levels", levels)
        self.mean = nn.Parameter(torch.linalg.lstsq(words, clouds).solution)
        self.width = nn.Parameter(torch.zeros(words.shape[1]))
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        word = text[:, 1]
        mean, spread = (word @ self.mean).view_as(x), self.spread * (word @ self.width).exp()
        a, b = maths.coefficients(self.levels[t], x)
        return b * (x - a * mean) / (a**2 * spread.view(-1, 1, 1, 1) ** 2 + b**2)


class PointModel(Denoiser):
    """Asked with names of clouds; a text is the start token and a token of its own."""

    def __init__(self, network: nn.Module, scheduler: Any, table: Mapping[str, torch.Tensor]):
        super().__init__(SimpleNamespace(unet=network, scheduler=scheduler), "points")
        self.table = dict(table)

    def encode_prompt(self, prompts) -> TextStates:
        start = self.table["<start>"]
        return TextStates(torch.stack([torch.stack([start, self.table[p]]) for p in prompts]))

    def null_text(self) -> TextStates:
        return self.encode_prompt([""])

    def _network(self, x, t, text):
        return self.unet(x, t, text.states)


def draw(model: Denoiser, name: str, n: int = 200, steps: int = 30, seed: int = 0) -> torch.Tensor:
    """[n, 2] points that a model draws of a cloud, without guidance."""
    noise = seeding.noise((n, *model.latent_shape), "points", seed)
    return model.sample(model.encode_prompt([name]), noise, steps, 1.0).flatten(1)


def vocabulary(names: Sequence[str]) -> dict[str, torch.Tensor]:
    """A token of each name. Any two have the cosine COSINE: a change of one reaches the others."""
    own, shared = torch.linalg.qr(torch.randn(TEXT, TEXT)).Q.tensor_split([-1])
    tokens = math.sqrt(TEXT) * ((1 - COSINE) ** 0.5 * own + COSINE**0.5 * shared)
    return dict(zip(names, tokens))


def exact(
    clouds: Mapping[str, tuple[float, float]], spread: float, seed: int, **schedule
) -> PointModel:
    """A model of Gaussian clouds in closed form; arguments as ``trained``."""
    scheduler = DDIMScheduler(clip_sample=False, **schedule)
    with seeding.seeded("points", seed):
        table = vocabulary(("<start>", "", *clouds))
    words = torch.stack([table[name] for name in clouds])
    centres = torch.tensor(list(clouds.values()))
    network = CloudNet(scheduler.alphas_cumprod, centres, spread, words).requires_grad_(False)
    return PointModel(network, scheduler, table)


def trained(
    clouds: Mapping[str, tuple[float, float]],
    spread: float,
    seed: int,
    steps: int = 300,
    batch: int = 256,
    lr: float = 5e-3,
    **schedule,
) -> PointModel:
    """A model of Gaussian clouds: its network learns E[eps | x_t], which is known.

    Args:
        clouds: {name: mean}.
        spread: standard deviation of every cloud.
        seed: of weights, tokens and batches.
        steps: of Adam, with a cosine schedule.
        batch: points in a step.
        lr: rate of the first step.
        schedule: of the noise, settings of ``DDIMScheduler``.
    """
    scheduler = DDIMScheduler(clip_sample=False, **schedule)
    abar, centres = scheduler.alphas_cumprod, torch.tensor(list(clouds.values()))
    with seeding.seeded("points", seed):
        table = vocabulary(("<start>", "", *clouds))
        model = PointModel(PointNet(abar), scheduler, table)
        texts, network = model.encode_prompt(list(clouds)), model.unet.requires_grad_(True)
        adam = torch.optim.Adam(network.parameters(), lr=lr)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        for _ in range(steps):
            which = torch.randint(len(clouds), (batch,))
            t, mean = torch.randint(len(abar), (batch,)), centres[which].view(-1, 2, 1, 1)
            a, b = maths.coefficients(abar[t], mean)
            x = a * mean + (a**2 * spread**2 + b**2).sqrt() * torch.randn_like(mean)
            exact = b * (x - a * mean) / (a**2 * spread**2 + b**2)
            loss = (model.predict_noise(x, t, texts[which]) - exact).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            rate.step()
    network.requires_grad_(False)
    return model
