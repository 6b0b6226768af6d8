"""GANs as a handful of verbs: pictures, drawing, copies, hashes, files.

A GAN folder holds ``model.safetensors`` and ``gan.json``, which says how to build the networks. The
generator is the moving average of the trained one; the discriminator goes with it, for whatever
trains the GAN further. Pictures are in [-1, 1] inside.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .. import files, resources, seeding
from ..errors import UsageError, unknown
from ..validation import validated
from . import dcgan, stylegan2
from .weights import digest_of, sharing_copy

FILE, WEIGHTS = "gan.json", "model.safetensors"
PARTS = ("generator", "discriminator")
# pictures drawn with fresh noise come in chunks of this size, so that picture i is always the same
CHUNK = 64


class GanConfig(BaseModel):
    """How to build the two networks of a GAN."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["stylegan2", "dcgan"] = Field("stylegan2", description="kind of networks")
    channels: int = Field(3, ge=1, le=4, description="channels of a picture")
    latent: int = Field(64, ge=1, description="dimensions of a latent")
    widths: tuple[int, ...] = Field(
        (64, 64, 32, 32), min_length=1, description="the generator's channels at 4, 8, ... pixels"
    )
    critic_widths: tuple[int, ...] = Field(
        (64, 64, 32, 32), min_length=1, description="the discriminator's channels, likewise"
    )
    depth: int = Field(4, ge=0, description="layers of StyleGAN2's mapping network")

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Untrained generator and discriminator; draws from torch's global generator.

        Raises:
            UsageError: if they are for pictures of different sizes.
        """
        if len(self.widths) != len(self.critic_widths):
            raise UsageError(
                f"widths has {len(self.widths)} entries and critic_widths {len(self.critic_widths)};"
                " generator and discriminator need one each for 4, 8, 16, ... pixels."
            )
        if self.architecture == "dcgan":
            generator = dcgan.Generator(self.latent, self.channels, self.widths)
            return generator, dcgan.Discriminator(self.channels, self.critic_widths)
        generator = stylegan2.Generator(self.latent, self.channels, self.widths, self.depth)
        return generator, stylegan2.Discriminator(self.channels, self.critic_widths)

    @property
    def size(self) -> int:
        return 4 * 2 ** (len(self.widths) - 1)


class Gan:
    """A generator with its discriminator.

    Args:
        config: how to build them.
        generator: latents [B, latent] to pictures [B, C, S, S].
        discriminator: pictures to logits [B].
    """

    family = "gan"

    def __init__(
        self,
        config: GanConfig,
        generator: nn.Module,
        discriminator: nn.Module,
        name: str = "model",
        source: str = "",
    ):
        self.config, self.generator, self.discriminator = config, generator, discriminator
        self.name, self.source = name, source
        self.freeze()

    @classmethod
    def build(cls, config: GanConfig, seed: int = 0) -> Gan:
        """An untrained GAN; its weights are a function of the seed."""
        with seeding.seeded("gan", config.architecture, seed):
            return cls(config, *config.build(), name=config.architecture)

    def __repr__(self) -> str:
        side = self.config.size
        return f"Gan({self.name!r}, {self.config.architecture}, {side}x{side})"

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    def to(self, device: torch.device | str) -> Gan:
        """Move to a device, in place."""
        self.generator.to(device)
        self.discriminator.to(device)
        return self

    def latents(self, count: int, *parts: str | int) -> torch.Tensor:
        """[count, latent] standard normal on the CPU, a function of the parts alone."""
        return seeding.noise((count, self.config.latent), "gan-latents", *parts)

    @torch.no_grad()
    def pictures(self, z: torch.Tensor, batch: int = 256) -> torch.Tensor:
        """[N, C, S, S] float32 in [-1, 1] on the CPU; a function of each latent alone."""
        drawn = [self.generator(part.to(self.device)).float().cpu() for part in z.split(batch)]
        return torch.cat(drawn).clamp(-1, 1)

    @torch.no_grad()
    def draw(self, count: int, *parts: str | int, start: int = 0) -> torch.Tensor:
        """Pictures ``start`` to ``start + count`` of an endless sheet, with fresh noise.

        Args:
            count: how many.
            parts: names and numbers that the sheet is a function of.
            start: the first; a multiple of ``CHUNK``.

        Returns:
            [count, C, S, S] float32 in [-1, 1] on the CPU.
        """
        drawn = []
        for number in range(start // CHUNK, -(-(start + count) // CHUNK)):
            with seeding.seeded("gan-sheet", *parts, number):
                z = torch.randn(CHUNK, self.config.latent).to(self.device)
                drawn.append(self.generator(z, fresh=True).float().cpu())
        return torch.cat(drawn)[:count].clamp(-1, 1)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All parameters, named ``generator.…`` and ``discriminator.…``."""
        return {
            f"{part}.{name}": parameter
            for part in PARTS
            for name, parameter in getattr(self, part).named_parameters()
        }

    def clone(self, trained: Iterable[str] | None = None) -> Gan:
        """A GAN whose named parameters (default: all) are copies that require grad.

        Everything else, the kept noise included, is shared.
        """
        names = set(self.named_parameters() if trained is None else trained)
        missing = sorted(names - set(self.named_parameters()))
        if missing:
            raise KeyError(f"no tensor {missing[0]!r} in {self.name}")
        twin = copy.copy(self)
        for part in PARTS:
            setattr(twin, part, sharing_copy(getattr(self, part), part, names))
        return twin

    def freeze(self) -> Gan:
        """Eval mode, and no parameter requires grad."""
        for part in PARTS:
            getattr(self, part).eval().requires_grad_(False)
            for parameter in getattr(self, part).parameters():
                parameter.grad = None
        return self

    def fingerprint(self) -> str:
        """SHA-256 of all parameters and buffers of both networks."""
        return (digest_of(self.generator) + digest_of(self.discriminator)).hex()

    def save(
        self, folder: Path | str, extra: dict[str, Any] | None = None, half: bool = False
    ) -> Path:
        """Write a GAN folder, whole or not at all.

        Args:
            folder: an earlier one there is replaced.
            extra: further facts for ``gan.json``.
            half: keep the weights in float16.
        """
        tensors = {
            f"{part}.{name}": tensor.cpu().contiguous().to(torch.float16 if half else tensor.dtype)
            for part in PARTS
            for name, tensor in getattr(self, part).state_dict().items()
        }
        with files.replacing(folder) as partial:
            partial.mkdir(parents=True)
            save_file(tensors, partial / WEIGHTS)
            facts = {"config": self.config.model_dump(mode="json"), **(extra or {})}
            files.write_json(partial / FILE, facts)
        return Path(folder)

    @classmethod
    def load(cls, name_or_path: Path | str, device: torch.device | str = "cpu") -> Gan:
        """Read an embedded GAN (``minicanvas/gan``) or a GAN folder, in float32.

        Raises:
            UsageError: if it is none, or its weights do not fit its description.
        """
        folder = locate(name_or_path)
        facts = read_facts(folder)
        config = validated(GanConfig, facts.get("config"), f"{folder / FILE}, config")
        try:
            tensors = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{folder / WEIGHTS} cannot be read ({error}).") from error
        model = cls.build(config)
        model.name, model.source = str(name_or_path), str(folder)
        for part in PARTS:
            network = getattr(model, part)
            own = {n.removeprefix(f"{part}."): t.float() for n, t in tensors.items() if n.startswith(part)}  # fmt: skip
            check_same(network.state_dict(), own, f"{folder / WEIGHTS} ({part})")
            network.load_state_dict(own)
        return model.to(device).freeze()


def locate(name_or_path: Path | str) -> Path:
    """The GAN folder that a name or path means.

    Raises:
        UsageError: if there is none; the nearest embedded one is suggested.
    """
    name, folder = str(name_or_path), Path(name_or_path)
    if not folder.is_dir() and name.startswith("minicanvas/"):
        folder = resources.EMBEDDED / name.removeprefix("minicanvas/")
        if not (folder / FILE).is_file():
            known = sorted(
                f"minicanvas/{p.parent.name}" for p in resources.EMBEDDED.glob(f"*/{FILE}")
            )
            raise unknown("embedded GAN", name, known)
    if not (folder / FILE).is_file() or not (folder / WEIGHTS).is_file():
        raise UsageError(f"{folder} is no GAN folder: {FILE} and {WEIGHTS} must be in it.")
    return folder


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``gan.json`` of a GAN folder says.

    Raises:
        UsageError: if it is damaged.
    """
    try:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / FILE} cannot be read as JSON ({error}).") from error
    if not isinstance(facts, dict):
        raise UsageError(f"{folder / FILE} does not hold a description of a GAN.")
    return facts


def check_same(wanted: dict[str, torch.Tensor], given: dict[str, torch.Tensor], where: str) -> None:
    """See that two sets of tensors have the same names and shapes.

    Raises:
        UsageError: for the first that differs.
    """
    for name in sorted(set(wanted) | set(given)):
        there = tuple(given[name].shape) if name in given else None
        here = tuple(wanted[name].shape) if name in wanted else None
        if here != there:
            raise UsageError(
                f"{where} is of another architecture: {name} is {there} there and {here} here."
            )


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """[N, C, H, W] in [-1, 1] to [N, H, W, 3] uint8; one channel is repeated."""
    x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
    pixels = ((x + 1) * 127.5).round().clamp(0, 255).byte()
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
