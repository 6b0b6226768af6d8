"""One wrapper around Stable Diffusion pipelines, so that a method never spells a module path.

Whatever the network predicts (noise or velocity) and whatever extra inputs it takes (SDXL's sizes
and pooled text), outside this file there are only latents [B, C, h, w], timesteps, text states
and predicted noise.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import files
from ..errors import UsageError
from . import maths
from .loading import locate, quiet, read_pipeline
from .reader import ENCODERS, PromptReader
from .text import TextStates
from .weights import digest_of, sharing_copy

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

MARK = "mu_vision.json"


class DiffusionModel(PromptReader):
    """A StableDiffusionPipeline or StableDiffusionXLPipeline as a handful of verbs.

    Args:
        pipeline: the pipeline; its weights are frozen here.
        name: short name for reports.
        source: folder or hub name that it was read from.
    """

    family = "diffusion"

    def __init__(
        self,
        pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline,
        name: str = "model",
        source: str = "",
    ):
        from diffusers import DDIMScheduler

        super().__init__()
        self.pipeline, self.name, self.source = pipeline, name, source
        config = dict(pipeline.scheduler.config)
        self.prediction_type = config.get("prediction_type", "epsilon")
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise UsageError(
                f"{name} predicts {self.prediction_type!r}; networks that predict noise (epsilon)"
                " or velocity (v_prediction) can be read."
            )
        with quiet():
            self.ddim = DDIMScheduler.from_config(
                {
                    **config,
                    "prediction_type": "epsilon",
                    "clip_sample": config.get("clip_sample", False),
                    "set_alpha_to_one": config.get("set_alpha_to_one", False),
                }
            )
        self.is_xl = getattr(pipeline, "text_encoder_2", None) is not None
        self.alphas_cumprod = self.ddim.alphas_cumprod.to(self.device)
        self.final_alpha = self.ddim.final_alpha_cumprod.to(self.device)

    @classmethod
    def load(
        cls, name_or_path: str | Path, device: torch.device | str | None = None
    ) -> DiffusionModel:
        """Read a model with float32 weights.

        Args:
            name_or_path: ``minicanvas/sd`` (embedded), a diffusers folder, or a name on the hub.
            device: default a GPU if there is one, else the CPU.

        Raises:
            UsageError: for a missing, damaged or truncated folder, a pickle, another pipeline.
        """
        source = locate(name_or_path)
        pipeline = read_pipeline(source)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        named = isinstance(name_or_path, str) and not Path(name_or_path).is_dir()
        name = name_or_path if named else Path(name_or_path).resolve().name
        return cls(pipeline.to(device), str(name), str(name_or_path))

    @property
    def device(self) -> torch.device:
        return next(self.pipeline.unet.parameters()).device

    def to(self, device: torch.device | str) -> DiffusionModel:
        """Move everything to a device, in place."""
        if torch.device(device) != self.device:
            self.pipeline.to(device)
            self.alphas_cumprod = self.alphas_cumprod.to(self.device)
            self.final_alpha = self.final_alpha.to(self.device)
            self._texts_version = ()
        return self

    @property
    def unet(self) -> torch.nn.Module:
        return self.pipeline.unet

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the latents that the network was trained on."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    def parts(self) -> dict[str, torch.nn.Module]:
        """The networks that a method may train: the U-Net and the text encoders."""
        return {"unet": self.unet, **self.encoders()}

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """All parameters of ``parts``, named ``unet.…``, ``text_encoder.…``, ``text_encoder_2.…``."""
        return {
            f"{part}.{name}": parameter
            for part, module in self.parts().items()
            for name, parameter in module.named_parameters()
        }

    # Noise ----------------------------------------------------------------------------------

    def predict_noise(
        self, x: torch.Tensor, t: torch.Tensor | int, text: TextStates
    ) -> torch.Tensor:
        """Predicted noise eps, float32 [B, C, h, w].

        Args:
            x: noisy latents x_t = a x0 + b eps, [B, C, h, w].
            t: timestep(s) in [0, T), a number or [B].
            text: states of B texts, or of one for the whole batch.
        """
        t = torch.as_tensor(t, device=x.device).expand(len(x))
        text = text.expand(len(x))
        extra = None
        if self.is_xl:
            extra = {"text_embeds": text.pooled, "time_ids": self._time_ids(len(x))}
        out = self.unet(x, t, text.states, added_cond_kwargs=extra, return_dict=False)[0].float()
        if self.prediction_type == "v_prediction":
            return maths.v_to_eps(x, out, self.alphas_cumprod[t])
        return out

    def guided_noise(
        self,
        x: torch.Tensor,
        t: torch.Tensor | int,
        cond: TextStates,
        null: TextStates,
        guidance: float,
    ) -> torch.Tensor:
        """eps_null + guidance (eps_cond - eps_null), both branches as one batch.

        A branch whose weight is 0 (guidance 1 or 0) is not evaluated.
        """
        if guidance in (0, 1):
            return self.predict_noise(x, t, cond if guidance == 1 else null)
        return maths.guided(*self.noise_branches(x, t, cond, null), guidance)

    def noise_branches(
        self, x: torch.Tensor, t: torch.Tensor | int, cond: TextStates, null: TextStates
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """eps_null and eps_cond, both [B, C, h, w], as one batch."""
        n = len(x)
        both = TextStates.cat([null.expand(n), cond.expand(n)])
        twice = torch.as_tensor(t, device=x.device).expand(n).repeat(2)
        e_null, e_cond = self.predict_noise(torch.cat([x, x]), twice, both).chunk(2)
        return e_null, e_cond

    def _time_ids(self, rows: int) -> torch.Tensor:
        """SDXL's size conditioning: original size, crop corner, target size, in pixels."""
        scale = self.pipeline.vae_scale_factor
        size = [scale * side for side in self.latent_shape[1:]]
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=self.device)
        return ids.expand(rows, -1)

    # Sampling -------------------------------------------------------------------------------

    def timesteps(self, steps: int) -> list[int]:
        """The sampler's timesteps, from noisy to clean, by the pipeline's own spacing."""
        if not 1 <= steps <= len(self.alphas_cumprod):
            raise UsageError(
                f"{steps} sampling steps: give a number from 1 to {len(self.alphas_cumprod)}."
            )
        self.ddim.set_timesteps(steps)
        return self.ddim.timesteps.tolist()

    def level_after(self, t: int, steps: int) -> torch.Tensor:
        """Level abar of the state after the step at timestep t of a sampler with ``steps`` steps."""
        previous = t - len(self.alphas_cumprod) // steps
        return self.alphas_cumprod[previous] if previous >= 0 else self.final_alpha

    @torch.no_grad()
    def sample(
        self,
        text: TextStates,
        latents: torch.Tensor,
        steps: int = 25,
        guidance: float = 3.0,
        negative: TextStates | None = None,
        progress: Callable[[int, int], None] | None = None,
        skip: int = 0,
    ) -> torch.Tensor:
        """Latents of pictures by DDIM (eta 0), the whole batch at once.

        Args:
            text: states of B texts, or of one.
            latents: standard normal noise [B, C, h, w]; row i alone decides picture i.
            steps: sampler steps.
            guidance: classifier-free guidance scale, 1 for none.
            negative: replaces the null text.
            progress: called with (steps done, steps) after every step.
            skip: sampler steps to leave out at the noisy end; ``latents`` are noised pictures at
                the level of the first one that is left.

        Returns:
            Clean latents [B, C, h, w].
        """
        null = self.null_text() if negative is None else negative
        x = latents.to(self.device)
        for done, t in enumerate(self.timesteps(steps)[skip:], skip + 1):
            eps = self.guided_noise(x, t, text, null, guidance)
            x = maths.ddim_step(x, eps, self.alphas_cumprod[t], self.level_after(t, steps))
            if progress:
                progress(done, steps)
        return x

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, batch: int = 16) -> np.ndarray:
        """Pictures [B, H, W, 3] uint8 of latents [B, C, h, w]."""
        vae = self.pipeline.vae
        mean, std = self._latent_statistics(latents.device)
        z = latents / vae.config.scaling_factor * std + mean
        rows = [vae.decode(part.to(vae.device), return_dict=False)[0] for part in z.split(batch)]
        pixels = (torch.cat(rows).float() / 2 + 0.5).clamp(0, 1)
        return (pixels.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)

    @torch.no_grad()
    def encode_pictures(self, pictures: np.ndarray, batch: int = 16) -> torch.Tensor:
        """Clean latents [B, C, h, w] of pictures [B, H, W, 3] uint8: the posterior's mean.

        Pictures are resized to the size that the network was trained on.
        """
        vae = self.pipeline.vae
        size = [self.pipeline.vae_scale_factor * side for side in self.latent_shape[1:]]
        pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
        if list(pixels.shape[-2:]) != size:
            pixels = torch.nn.functional.interpolate(
                pixels, size=size, mode="bicubic", antialias=True
            ).clamp(0, 255)
        rows = (pixels / 127.5 - 1).to(vae.device).split(batch)
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

    # Copies, hashes, files --------------------------------------------------------------------

    def clone(self, trained: Iterable[str]) -> DiffusionModel:
        """A model whose named tensors are copies that require grad; all others are shared.

        Args:
            trained: names as in ``named_parameters``.

        Raises:
            KeyError: if there is no tensor of a name.
        """
        trained, parameters = set(trained), self.named_parameters()
        missing = sorted(trained - set(parameters))
        if missing:
            raise KeyError(f"no tensor {missing[0]!r} in {self.name}")
        twin = copy.copy(self)
        twin.pipeline = copy.copy(self.pipeline)
        for part, module in self.parts().items():
            names = {name for name in trained if name.split(".", 1)[0] == part}
            if names:
                setattr(twin.pipeline, part, sharing_copy(module, part, names))
        if any(name.split(".", 1)[0] in ENCODERS for name in trained):
            twin._texts, twin._texts_version = {}, ()
        return twin

    def freeze(self) -> DiffusionModel:
        """Let no parameter require grad any more."""
        for parameter in self.named_parameters().values():
            parameter.requires_grad_(False)
            parameter.grad = None
        return self

    def fingerprint(self) -> str:
        """SHA-256 of all weights and of the noise schedule: the same pictures, the same hash.

        Picture i of a prompt depends on (fingerprint, prompt, seed i) and the sampler alone.
        """
        digest = hashlib.sha256(self.prediction_type.encode())
        digest.update(self.alphas_cumprod.cpu().numpy().tobytes())
        for name, module in {**self.parts(), "vae": self.pipeline.vae}.items():
            digest.update(name.encode() + digest_of(module))
        return digest.hexdigest()

    def save(self, folder: Path | str, extra: Mapping[str, str] | None = None) -> Path:
        """Write a diffusers folder, whole or not at all.

        Args:
            folder: an earlier model folder of ours there is replaced.
            extra: {file name: text} of further files, e.g. a model card.

        Raises:
            UsageError: if the folder holds something else, or this model was read from it.
        """
        folder = Path(folder)
        if self.source and folder.resolve() == Path(self.source).resolve():
            raise UsageError(
                f"{folder} is the folder that {self.name} was read from; it stays as it is, so"
                " choose another output folder."
            )
        if folder.exists() and not (folder.is_dir() and _ours(folder)):
            raise UsageError(
                f"{folder} exists and is not a model folder that was written here; choose another"
                " output folder, or delete it."
            )
        texts = {MARK: "{}\n", **(extra or {})}
        with files.replacing(folder) as partial, quiet():
            self.pipeline.save_pretrained(partial)
            for name, text in texts.items():
                (partial / name).write_text(text, encoding="utf-8")
        return folder


def _ours(folder: Path) -> bool:
    """Nothing is in the folder, or what ``save`` writes and nothing else."""
    index = folder / "model_index.json"
    parts = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    known = {*parts, index.name, MARK, "README.md", "delta.safetensors"}
    names = {path.name for path in folder.iterdir()}
    return not names or (MARK in names and names <= known)
