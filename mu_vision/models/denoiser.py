"""What every wrapped diffusion model can do, whatever it is asked with: text states or labels.

Whatever the network predicts (noise or velocity), outside the wrappers there are only latents
[B, C, h, w], timesteps, conditions and predicted noise. Conditions (``TextStates``, ``Labels``) are
batches that can be indexed, joined (``cat``) and repeated (``expand``).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from .. import files
from ..errors import UsageError
from . import maths
from .loading import locate, quiet, read_pipeline
from .weights import digest_of, sharing_copy

MARK = "mu_vision.json"
LOG = "log.jsonl"
GENERATOR = "generator"  # key in the scheduler's configuration


@dataclass(frozen=True)
class Generator:
    """How a distilled network draws: from noise at one level to the picture, without a sampler.

    Attributes:
        t_init: timestep of the level that it starts from.
        steps: evaluations a picture; after each but the last its x0 is noised again, to
            t_init (1 - i / steps).
    """

    t_init: int
    steps: int = 1


class Denoiser:
    """A diffusers pipeline with a network ``unet``, as a handful of verbs.

    Args:
        pipeline: the pipeline; its weights are frozen here.
        name: short name for reports.
        source: folder or hub name that it was read from.

    Attributes:
        classes: names of the classes that it knows; none for a model that reads any text.
        generator: how it draws if it was distilled, else None.
    """

    family: ClassVar[str] = "diffusion"
    pipelines: ClassVar[tuple[str, ...]]
    classes: tuple[str, ...] = ()

    def __init__(self, pipeline: Any, name: str = "model", source: str = ""):
        from diffusers import DDIMScheduler

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
        self.generator = Generator(**config[GENERATOR]) if config.get(GENERATOR) else None
        self.alphas_cumprod = self.ddim.alphas_cumprod.to(self.device)
        self.final_alpha = self.ddim.final_alpha_cumprod.to(self.device)

    @classmethod
    def load(cls, name_or_path: str | Path, device: torch.device | str | None = None) -> Self:
        """Read a model with float32 weights.

        Args:
            name_or_path: an embedded model (``minicanvas/sd``), a diffusers folder, or a name on
                the hub.
            device: default a GPU if there is one, else the CPU.

        Raises:
            UsageError: for a missing, damaged or truncated folder, a pickle, another pipeline.
        """
        source = locate(name_or_path)
        pipeline = read_pipeline(source, cls.pipelines)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        named = isinstance(name_or_path, str) and not Path(name_or_path).is_dir()
        name = name_or_path if named else Path(name_or_path).resolve().name
        return cls(pipeline.to(device), str(name), str(name_or_path))

    @property
    def device(self) -> torch.device:
        return next(self.pipeline.unet.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move everything to a device, in place."""
        if torch.device(device) != self.device:
            self.pipeline.to(device)
            self.alphas_cumprod = self.alphas_cumprod.to(self.device)
            self.final_alpha = self.final_alpha.to(self.device)
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

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the pictures that the network was trained on."""
        height, width = (self.pipeline.vae_scale_factor * side for side in self.latent_shape[1:])
        return height, width

    def parts(self) -> dict[str, torch.nn.Module]:
        """The networks that a method may train."""
        return {"unet": self.unet}

    def frozen_parts(self) -> dict[str, torch.nn.Module]:
        """Networks that no method trains, but that decide the pictures too."""
        return {}

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """All parameters of ``parts``, named ``unet.…``, ``text_encoder.…``, ``text_encoder_2.…``."""
        return {
            f"{part}.{name}": parameter
            for part, module in self.parts().items()
            for name, parameter in module.named_parameters()
        }

    # Noise ----------------------------------------------------------------------------------

    def predict_noise(self, x: torch.Tensor, t: torch.Tensor | int, text: Any) -> torch.Tensor:
        """Predicted noise eps, float32 [B, C, h, w].

        Args:
            x: noisy latents x_t = a x0 + b eps, [B, C, h, w].
            t: timestep(s) in [0, T), a number or [B].
            text: conditions of B rows, or one for the whole batch.
        """
        t = torch.as_tensor(t, device=x.device).expand(len(x))
        text = text.expand(len(x))
        out = self._network(x, t, text).float()
        if self.prediction_type == "v_prediction":
            return maths.v_to_eps(x, out, self.alphas_cumprod[t])
        return out

    def predict_x0(self, x: torch.Tensor, t: torch.Tensor | int, text: Any) -> torch.Tensor:
        """The picture x0 that the network expects behind x_t; arguments as ``predict_noise``."""
        eps = self.predict_noise(x, t, text)
        return maths.eps_to_x0(x, eps, self.alphas_cumprod[t])

    def _network(self, x: torch.Tensor, t: torch.Tensor, text: Any) -> torch.Tensor:
        """What the network says of x [B, C, h, w] at timesteps t [B] under B conditions."""
        raise NotImplementedError

    def guided_noise(
        self,
        x: torch.Tensor,
        t: torch.Tensor | int,
        cond: Any,
        null: Any,
        guidance: float,
    ) -> torch.Tensor:
        """eps_null + guidance (eps_cond - eps_null), both branches as one batch.

        A branch whose weight is 0 (guidance 1 or 0) is not evaluated.
        """
        if guidance in (0, 1):
            return self.predict_noise(x, t, cond if guidance == 1 else null)
        return maths.guided(*self.noise_branches(x, t, cond, null), guidance)

    def noise_branches(
        self, x: torch.Tensor, t: torch.Tensor | int, cond: Any, null: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """eps_null and eps_cond, both [B, C, h, w], as one batch."""
        n = len(x)
        both = cond.cat([null.expand(n), cond.expand(n)])
        twice = torch.as_tensor(t, device=x.device).expand(n).repeat(2)
        e_null, e_cond = self.predict_noise(torch.cat([x, x]), twice, both).chunk(2)
        return e_null, e_cond

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
        text: Any,
        latents: torch.Tensor,
        steps: int = 25,
        guidance: float = 3.0,
        negative: Any | None = None,
        progress: Callable[[int, int], None] | None = None,
        skip: int = 0,
    ) -> torch.Tensor:
        """Latents of pictures, the whole batch at once: by DDIM (eta 0), or by the generator.

        A model with a ``generator`` draws as it was distilled to: steps, guidance and negative
        change nothing then.

        Args:
            text: conditions of B pictures, or one.
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
        x = latents.to(self.device)
        if self.generator is not None:
            if skip:
                raise UsageError(
                    f"{self.name} draws from noise alone, so no picture can be handed to it half"
                    " noised; take a model that was not distilled."
                )
            return self._generated(text, x)
        null = self.null_text() if negative is None else negative
        for done, t in enumerate(self.timesteps(steps)[skip:], skip + 1):
            eps = self.guided_noise(x, t, text, null, guidance)
            x = maths.ddim_step(x, eps, self.alphas_cumprod[t], self.level_after(t, steps))
            if progress:
                progress(done, steps)
        return x

    def _generated(self, text: Any, latents: torch.Tensor) -> torch.Tensor:
        """x0 [B, C, h, w] of noise [B, C, h, w], drawn as ``generator`` says."""
        t_init, steps = self.generator.t_init, self.generator.steps
        _, b = maths.coefficients(self.alphas_cumprod[t_init], latents)
        x = self.predict_x0(b * latents, t_init, text)
        for done in range(1, steps):
            t = round(t_init * (1 - done / steps))
            # shifted, the picture's own noise is as good as fresh, and no neighbour can change it
            noise = latents.roll(done * latents.shape[-1] // steps, -1)
            x = self.predict_x0(maths.add_noise(x, noise, self.alphas_cumprod[t]), t, text)
        return x

    def evaluations(self, steps: int, guidance: float) -> int:
        """How many times the network is evaluated for one picture of ``sample``."""
        if self.generator is not None:
            return self.generator.steps
        return len(self.timesteps(steps)) * (1 if guidance in (0, 1) else 2)

    # Copies, hashes, files --------------------------------------------------------------------

    def clone(self, trained: Iterable[str]) -> Self:
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
        return twin

    def drawing_by(self, generator: Generator | None) -> Self:
        """The same weights, drawn from in another way; ``save`` keeps it in the scheduler."""
        twin = copy.copy(self)
        twin.pipeline, twin.generator = copy.copy(self.pipeline), generator
        with quiet():
            scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        scheduler.register_to_config(**{GENERATOR: generator and asdict(generator)})
        twin.pipeline.scheduler = scheduler
        return twin

    def freeze(self) -> Self:
        """Let no parameter require grad any more."""
        for parameter in self.named_parameters().values():
            parameter.requires_grad_(False)
            parameter.grad = None
        return self

    def fingerprint(self) -> str:
        """SHA-256 of all weights, of the noise schedule and of the way of drawing, if it has one.

        Picture i of a prompt depends on (fingerprint, prompt, seed i) and the sampler alone.
        """
        digest = hashlib.sha256(self.prediction_type.encode())
        digest.update(self.alphas_cumprod.cpu().numpy().tobytes())
        for name, module in {**self.parts(), **self.frozen_parts()}.items():
            digest.update(name.encode() + digest_of(module))
        if self.generator is not None:
            digest.update(repr(self.generator).encode())
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
    known = {*parts, index.name, MARK, LOG, "README.md", "delta.safetensors"}
    names = {path.name for path in folder.iterdir()}
    return not names or (MARK in names and names <= known)


def to_pictures(pixels: torch.Tensor) -> np.ndarray:
    """[B, 3, H, W] in [-1, 1] to [B, H, W, 3] uint8; what lies outside is clamped."""
    unit = (pixels.float() / 2 + 0.5).clamp(0, 1)
    return (unit.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)


def to_pixels(pictures: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """[B, H, W, 3] uint8 to [B, 3, h, w] float32 in [-1, 1], resized (bicubic, antialiased)."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    if tuple(pixels.shape[-2:]) != tuple(size):
        pixels = torch.nn.functional.interpolate(
            pixels, size=tuple(size), mode="bicubic", antialias=True
        ).clamp(0, 255)
    return pixels / 127.5 - 1
