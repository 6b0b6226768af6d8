"""Train the text encoder and the U-Net of the embedded Stable Diffusion pipeline on MiniCanvas.

    L = |eps - eps_theta(a_t z + b_t eps, t, c)|^2,   t ~ U{0..999},  c = "" in one case of ten

z are the latents of the trained autoencoder, encoded once; c the states of the text encoder, which
is trained along. What is saved is the moving average of the weights, which does the work of a
falling learning rate: the rate is constant, so a finished training can be prolonged. ``start``
prolongs one whose checkpoints are gone: it goes on from a pipeline's weights with a new optimiser.

``without`` leaves styles and objects out of the pictures and captions, which makes the model that
never knew them. ``text_from`` takes autoencoder, tokenizer and text encoder of another pipeline as
they are, as Stable Diffusion takes CLIP's: every caption is then encoded once, before the first
step, and only the U-Net is trained.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F

from ..data import minicanvas
from ..data.cards import load_card
from ..errors import unknown
from ..loop import LoopConfig, Objective
from ..models.loading import locate
from ..models.weights import MovingAverage
from ..progress import track
from ..registry import register
from .base import Trainer, pixels_to_tensor
from .text import CaptionSampler, all_captions, tokenize, train_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel


@register("trainer", "unet")
class UNetTrainer(Trainer):
    """Text encoder and U-Net together; needs ``vae`` in the model folder, writes the pipeline."""

    output: ClassVar[str] = "unet"
    precision: Literal["no", "bf16", "fp16"] = "no"
    steps: int = 3750
    batch: int = 48
    lr: float = 1e-3
    channels: tuple[int, ...] = (64, 96, 128)
    heads: int = 4
    groups: int = 8
    text_width: int = 96
    text_layers: int = 2
    vocabulary: int = 1024
    length: int = 32
    alone: float = 0.15
    drop: float = 0.1
    average: float = 0.999
    start: str | None = None
    without: tuple[str, ...] = ()
    text_from: str | None = None

    def objective(self) -> Objective:
        return UNetObjective(self)

    def loop_config(self) -> LoopConfig:
        return LoopConfig(
            self.steps, self.lr, "adamw", 0.01, "constant", warmup=200, clip=1.0,
            precision=self.precision, seed=self.seed, checkpoint_every=self.checkpoint_every,
        )  # fmt: skip

    def build_unet(self, latent_channels: int, latent_size: int) -> UNet2DConditionModel:
        from diffusers import UNet2DConditionModel

        levels = len(self.channels)
        return UNet2DConditionModel(
            sample_size=latent_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=self.channels,
            # No attention at full resolution: it would cost more than all the rest together.
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
            up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=self.text_width,
            # In UNet2DConditionModel this argument sets the number of heads, despite its name.
            attention_head_dim=self.heads,
            norm_num_groups=self.groups,
        )

    def build_text_encoder(self, vocabulary: int, end: int) -> CLIPTextModel:
        from transformers import CLIPTextConfig, CLIPTextModel

        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=self.text_width,
                intermediate_size=4 * self.text_width,
                projection_dim=self.text_width,
                num_hidden_layers=self.text_layers,
                num_attention_heads=self.heads,
                max_position_embeddings=self.length,
                bos_token_id=end - 1,
                eos_token_id=end,
                pad_token_id=end,
            )
        )


class UNetObjective(Objective):
    def __init__(self, settings: UNetTrainer):
        self.settings = settings

    def prepare(self, device: torch.device) -> None:
        from diffusers import AutoencoderKL, DDIMScheduler
        from transformers import CLIPTokenizer

        settings, card = self.settings, load_card("minicanvas")
        self.device = device
        text_from = Path(locate(settings.text_from)) if settings.text_from else None
        start = Path(locate(settings.start)) if settings.start else text_from
        if start and not (self.folder / "vae").exists():
            shutil.copytree(start / "vae", self.folder / "vae")
        self.vae = AutoencoderKL.from_pretrained(self.folder / "vae", torch_dtype=torch.float32)
        pictures = kept_pictures(settings.without)
        self.objects, self.styles = pictures.objects.tolist(), pictures.styles.tolist()
        self.mean, self.std = encode_all(self.vae.to(device), pictures.pixels, device)
        if start:
            self.tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
        else:
            self.tokenizer = train_tokenizer(
                all_captions(card), self.folder / "tokenizer", settings.vocabulary, settings.length
            )
        self.sampler = CaptionSampler.build(card, self.tokenizer, settings.alone)
        self.null = tokenize(self.tokenizer, [""])
        self.scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.unet = settings.build_unet(self.mean.shape[1], self.mean.shape[2]).to(device)
            self.text_encoder = settings.build_text_encoder(
                len(self.tokenizer), self.tokenizer.eos_token_id
            ).to(device)
        for part, folder in (("unet", settings.start and start), ("text_encoder", start)):
            if folder:
                module = getattr(self, part)
                saved = type(module).from_pretrained(folder / part, torch_dtype=torch.float32)
                module.load_state_dict(saved.state_dict())
        self.states = self._encode_captions() if text_from else None
        self.average = MovingAverage(self.parameters(), settings.average)

    @torch.no_grad()
    def _encode_captions(self) -> torch.Tensor:
        """States [n + 1, L, D] of all captions, the empty one last."""
        self.text_encoder.requires_grad_(False)
        tokens = torch.cat([self.sampler.tokens, self.null]).to(self.device)
        parts = [self.text_encoder(part).last_hidden_state for part in tokens.split(256)]
        return torch.cat(parts)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        parts = {"unet": self.unet}
        if not self.settings.text_from:
            parts["text_encoder"] = self.text_encoder
        return {f"{k}.{n}": p for k, part in parts.items() for n, p in part.named_parameters()}

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        batch = self.settings.batch
        rows = torch.randint(len(self.mean), (batch,)).tolist()
        mean, std = self.mean[rows].to(self.device), self.std[rows].to(self.device)
        z = mean + std * torch.randn(mean.shape).to(self.device)
        captions, _ = self.sampler.choose(
            [self.objects[r] for r in rows], [self.styles[r] for r in rows]
        )
        states = self._states(captions, torch.rand(batch) < self.settings.drop)
        # One timestep from each of B equal slices of the schedule: the same marginal, less noise.
        t = ((torch.arange(batch) + torch.rand(batch)) * 1000 / batch).long().to(self.device)
        noise = torch.randn(z.shape).to(self.device)
        x = self.scheduler.add_noise(z, noise, t)
        prediction = self.unet(x, t, states).sample
        return {"denoising_loss": F.mse_loss(prediction.float(), noise)}

    def _states(self, captions: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """Text states [B, L, D] of the captions of these numbers, of "" where dropped."""
        if self.states is not None:
            return self.states[captions.masked_fill(dropped, len(self.states) - 1)]
        tokens = torch.where(dropped[:, None], self.null, self.sampler.tokens[captions])
        return self.text_encoder(tokens.to(self.device)).last_hidden_state

    def after_step(self, step: int) -> None:
        self.average.update(self.parameters(), step)

    def state(self) -> dict[str, torch.Tensor]:
        return self.average.values

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.average.load(state)

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write the whole pipeline into the folder above ``unet``, averaged weights, float16."""
        from diffusers import StableDiffusionPipeline

        unet, text_encoder = copy.deepcopy(self.unet), copy.deepcopy(self.text_encoder)
        for part, module in (("unet", unet), ("text_encoder", text_encoder)):
            for name, parameter in module.named_parameters():
                # a text encoder that was not trained has no average
                parameter.copy_(self.average.values.get(f"{part}.{name}", parameter))
        pipeline = StableDiffusionPipeline(
            vae=copy.deepcopy(self.vae).half(), unet=unet.half(), text_encoder=text_encoder.half(),
            tokenizer=self.tokenizer, scheduler=self.scheduler, safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.save_pretrained(folder.parent)
        # transformers loads in the dtype that the config names; all parts compute in float32.
        config = folder.parent / "text_encoder" / "config.json"
        config.write_text(config.read_text().replace('"float16"', '"float32"'))
        config = folder.parent / "vae" / "config.json"
        settings = json.loads(config.read_text())
        settings.pop("_name_or_path", None)  # a path of the machine that trained it
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def kept_pictures(without: Sequence[str]) -> minicanvas.Pictures:
    """The generator's pictures, but those that show a style or object of these names.

    Raises:
        UsageError: if MiniCanvas has no style or object of a name.
    """
    for name in without:
        if name not in (*minicanvas.STYLES, *minicanvas.OBJECTS):
            known = (*minicanvas.STYLES, *minicanvas.OBJECTS)
            raise unknown("style or object of MiniCanvas", name, known)
    return minicanvas.load(minicanvas.SPLITS["generator"], without=without)


@torch.no_grad()
def encode_all(
    vae: AutoencoderKL, pixels, device: torch.device, batch: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and standard deviation of all pictures, scaled: two [N, C, h, w] tensors."""
    means, stds = [], []
    for start in track(range(0, len(pixels), batch), "encoding pictures"):
        posterior = vae.encode(pixels_to_tensor(pixels[start : start + batch], device)).latent_dist
        means.append(posterior.mean.float().cpu() * vae.config.scaling_factor)
        stds.append(posterior.std.float().cpu() * vae.config.scaling_factor)
    return torch.cat(means), torch.cat(stds)
