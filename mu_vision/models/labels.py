"""Diffusion models that are asked with a class label in place of a text, and paint pixels.

The network is a ``UNet2DModel`` with one embedding a class and one more, the last, for "no class"
(the null label of classifier-free guidance). Latents are the pixels in [-1, 1] themselves, or
patches of them: with ``patch`` p the network sees p x p pixels as the channels of one place
(``pixel_unshuffle``), which changes nothing but its cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from ..errors import UsageError, unknown
from .denoiser import Denoiser, to_pictures, to_pixels
from .loading import LABEL_PIPELINES


@dataclass(frozen=True)
class Labels:
    """Class labels of a batch, used like ``TextStates``.

    Attributes:
        ids: [B] int64; the number of classes is the null label.
    """

    ids: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Sequence[int] | torch.Tensor | int) -> Labels:
        return Labels(self.ids[[rows] if isinstance(rows, int) else rows])

    @staticmethod
    def cat(parts: Sequence[Labels]) -> Labels:
        return Labels(torch.cat([part.ids for part in parts]))

    def expand(self, n: int) -> Labels:
        """The same label n times (of one label only; n labels stay as they are)."""
        if len(self) == n:
            return self
        if len(self) != 1:
            raise ValueError(f"{len(self)} labels cannot serve a batch of {n}")
        return Labels(self.ids.expand(n))

    def to(self, device: torch.device | str) -> Labels:
        return Labels(self.ids.to(device))


class LabelPipeline(DiffusionPipeline):
    """A class-conditional pixel diffusion model, as ``diffusers`` writes and reads it.

    Args:
        unet: with ``num_class_embeds`` = classes + 1; the last is the null label.
        scheduler: of the noise; ``generator`` in its configuration makes it draw in few steps.
        id2label: class number -> name.
        patch: side of the square of pixels that the network sees as one place.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: DDIMScheduler,
        id2label: Mapping[int | str, str] | None = None,
        patch: int = 1,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            id2label={str(k): v for k, v in (id2label or {}).items()}, patch=patch
        )
        self.vae_scale_factor = patch

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by number."""
        named = self.config.id2label
        return tuple(named[str(k)] for k in range(len(named)))

    @torch.no_grad()
    def __call__(
        self,
        labels: str | Sequence[str],
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Draw one picture a label; a distilled pipeline does so in the steps it was made for."""
        labels = [labels] if isinstance(labels, str) else list(labels)
        model = LabelModel(self)
        if latents is None:
            shape = (len(labels), *model.latent_shape)
            latents = randn_tensor(shape, generator=generator, device=self.device)
        cond = model.encode_prompt(labels)
        drawn = model.decode(model.sample(cond, latents, num_inference_steps, guidance_scale))
        images: Any = drawn.astype(np.float32) / 255
        if output_type == "pil":
            images = [Image.fromarray(picture) for picture in drawn]
        return ImagePipelineOutput(images=images) if return_dict else (images,)


class LabelModel(Denoiser):
    """A ``LabelPipeline``; see ``Denoiser``.

    It has no text encoder. What is asked of it in words is read for the name of a class, so that
    requests, prompts and methods made for text work on it too.

    Raises:
        UsageError: if the network has not one embedding more than there are classes.
    """

    pipelines: ClassVar[tuple[str, ...]] = LABEL_PIPELINES

    def __init__(self, pipeline: LabelPipeline, name: str = "model", source: str = ""):
        super().__init__(pipeline, name, source)
        self.classes = pipeline.classes
        known = pipeline.unet.config.num_class_embeds
        if not self.classes or known != len(self.classes) + 1:
            raise UsageError(
                f"{name} names {len(self.classes)} classes and its network has {known or 0} label"
                " embeddings; it needs at least one class, and one embedding more (no class)."
            )
        words = sorted(map(re.escape, self.classes), key=len, reverse=True)
        self._named = re.compile(r"(?<!\w)(" + "|".join(words) + r")(?!\w)", re.IGNORECASE)

    def class_of(self, text: str) -> str | None:
        """The class that a text names, whatever the case of its letters; None for an empty text.

        Raises:
            UsageError: if it names no class, or several.
        """
        if not text.strip():
            return None
        by_letters = {name.lower(): name for name in self.classes}
        found = {by_letters[word.lower()] for word in self._named.findall(text)}
        if not found:
            raise unknown(f"class of {self.name}", text, self.classes)
        if len(found) > 1:
            raise UsageError(
                f"{text!r} names several classes ({', '.join(sorted(found))}); {self.name} draws"
                " one at a time."
            )
        return found.pop()

    def encode_prompt(self, prompts: Sequence[str]) -> Labels:
        """The labels [B] of names of classes, or of texts that name one; "" is the null label."""
        ids = [
            len(self.classes) if name is None else self.classes.index(name)
            for name in map(self.class_of, prompts)
        ]
        return Labels(torch.tensor(ids, dtype=torch.long, device=self.device))

    def null_text(self) -> Labels:
        """The null label."""
        return self.encode_prompt([""])

    def _network(self, x: torch.Tensor, t: torch.Tensor, text: Labels) -> torch.Tensor:
        return self.unet(x, t, class_labels=text.ids, return_dict=False)[0]

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Pictures [B, H, W, 3] uint8 of latents [B, C, h, w]; values beyond [-1, 1] are clamped."""
        return to_pictures(F.pixel_shuffle(latents, self.pipeline.config.patch))

    def encode_pictures(self, pictures: np.ndarray) -> torch.Tensor:
        """Latents [B, C, h, w] of pictures [B, H, W, 3] uint8, resized to the model's size."""
        pixels = to_pixels(pictures, self.picture_size).to(self.device)
        return F.pixel_unshuffle(pixels, self.pipeline.config.patch)
