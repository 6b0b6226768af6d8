"""Stable Diffusion pipelines as a handful of verbs, so that a method never spells a module path.

What is special about them, the autoencoder, text encoders and SDXL's extra inputs (sizes and pooled
text), is here and in ``reader.py``; all else is any diffusion model's (``denoiser.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch

from .denoiser import Denoiser, to_pictures, to_pixels
from .loading import TEXT_PIPELINES
from .reader import ENCODERS, PromptReader
from .text import TextStates

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline


class DiffusionModel(PromptReader, Denoiser):
    """A StableDiffusionPipeline or StableDiffusionXLPipeline; see ``Denoiser``."""

    pipelines: ClassVar[tuple[str, ...]] = TEXT_PIPELINES

    def __init__(
        self,
        pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline,
        name: str = "model",
        source: str = "",
    ):
        PromptReader.__init__(self)
        Denoiser.__init__(self, pipeline, name, source)
        self.is_xl = getattr(pipeline, "text_encoder_2", None) is not None

    def to(self, device: torch.device | str) -> Self:
        """Move everything to a device, in place."""
        if torch.device(device) != self.device:
            super().to(device)
            self._texts_version = ()
        return self

    def parts(self) -> dict[str, torch.nn.Module]:
        """The networks that a method may train: the U-Net and the text encoders."""
        return {"unet": self.unet, **self.encoders()}

    def frozen_parts(self) -> dict[str, torch.nn.Module]:
        return {"vae": self.pipeline.vae}

    def _network(self, x: torch.Tensor, t: torch.Tensor, text: TextStates) -> torch.Tensor:
        extra = None
        if self.is_xl:
            extra = {"text_embeds": text.pooled, "time_ids": self._time_ids(len(x))}
        return self.unet(x, t, text.states, added_cond_kwargs=extra, return_dict=False)[0]

    def _time_ids(self, rows: int) -> torch.Tensor:
        """SDXL's size conditioning: original size, crop corner, target size, in pixels."""
        size = self.picture_size
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=self.device)
        return ids.expand(rows, -1)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, batch: int = 16) -> np.ndarray:
        """Pictures [B, H, W, 3] uint8 of latents [B, C, h, w]."""
        vae = self.pipeline.vae
        mean, std = self._latent_statistics(latents.device)
        z = latents / vae.config.scaling_factor * std + mean
        rows = [vae.decode(part.to(vae.device), return_dict=False)[0] for part in z.split(batch)]
        return to_pictures(torch.cat(rows))

    @torch.no_grad()
    def encode_pictures(self, pictures: np.ndarray, batch: int = 16) -> torch.Tensor:
        """Clean latents [B, C, h, w] of pictures [B, H, W, 3] uint8: the posterior's mean.

        Pictures are resized to the size that the network was trained on.
        """
        vae = self.pipeline.vae
        rows = to_pixels(pictures, self.picture_size).to(vae.device).split(batch)
        z = torch.cat([vae.encode(part).latent_dist.mean for part in rows]).float()
        shift, spread = self._latent_statistics(z.device)
        return (z - shift) / spread * vae.config.scaling_factor

    def _latent_statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread of the autoencoder's latents, 0 and 1 where it does not state them."""
        config = self.pipeline.vae.config
        found = [getattr(config, f"latents_{key}", None) for key in ("mean", "std")]
        if None in found:
            found = [[0.0], [1.0]]
        mean, std = (torch.tensor(value, device=device).view(1, -1, 1, 1) for value in found)
        return mean, std

    def clone(self, trained: Iterable[str]) -> Self:
        """A model whose named tensors are copies that require grad; all others are shared."""
        trained = set(trained)
        twin = super().clone(trained)
        if any(name.split(".", 1)[0] in ENCODERS for name in trained):
            twin._texts, twin._texts_version = {}, ()
        return twin
