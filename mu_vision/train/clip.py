"""Train a small open_clip model on MiniCanvas pictures and captions.

The contrastive loss of CLIP (Radford et al. 2021, arXiv 2103.00020), with every caption that is
true of a picture as a positive: a caption that names only a style is true of all the pictures in
that style, and the targets of a row are uniform over its positives.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..data import minicanvas
from ..data.cards import load_card
from ..loop import LoopConfig
from ..registry import register
from .base import NetworkObjective, Trainer, pixels_to_tensor
from .judge import roughen
from .text import CaptionSampler, all_captions, tokenize, train_tokenizer


@register("trainer", "clip")
class ClipTrainer(Trainer):
    """CLIP's residual network and a text transformer with a common embedding."""

    output: ClassVar[str] = "clip"
    steps: int = 1500
    batch: int = 128
    lr: float = 1.5e-3
    embed: int = 64
    vision_layers: tuple[int, int, int, int] = (1, 1, 1, 1)
    vision_width: int = 16
    text_layers: int = 2
    text_width: int = 96
    heads: int = 4
    vocabulary: int = 1024
    length: int = 32
    alone: float = 0.2

    def objective(self) -> NetworkObjective:
        return ClipObjective(self)

    def loop_config(self) -> LoopConfig:
        return LoopConfig(
            self.steps, self.lr, "adamw", 0.05, "cosine", warmup=200, clip=1.0,
            precision=self.precision, seed=self.seed, checkpoint_every=self.checkpoint_every,
        )  # fmt: skip

    def architecture(self, vocabulary: int) -> dict:
        return {
            "embed_dim": self.embed,
            "vision_cfg": {
                "image_size": minicanvas.SIZE,
                "layers": list(self.vision_layers),
                "width": self.vision_width,
            },
            "text_cfg": {
                "context_length": self.length,
                "vocab_size": vocabulary,
                "width": self.text_width,
                "heads": self.heads,
                "layers": self.text_layers,
                # Any text makes open_clip read the tokenizer that lies in the same folder.
                "hf_tokenizer_name": "local",
            },
        }


class ClipObjective(NetworkObjective):
    def __init__(self, settings: ClipTrainer):
        self.settings = settings

    def prepare(self, device: torch.device) -> None:
        import open_clip

        settings, card = self.settings, load_card("minicanvas")
        pictures = minicanvas.load(minicanvas.SPLITS["clip"])
        self.pixels = torch.from_numpy(pictures.pixels)
        self.objects = torch.from_numpy(pictures.objects)
        self.styles = torch.from_numpy(pictures.styles)
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer = train_tokenizer(
                all_captions(card), Path(folder), settings.vocabulary, settings.length
            )
        self.sampler = CaptionSampler.build(card, self.tokenizer, settings.alone)
        self.config = settings.architecture(len(self.tokenizer))
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.network = open_clip.CLIP(
                self.config["embed_dim"], self.config["vision_cfg"], self.config["text_cfg"]
            ).to(device)
        self.device, self.card = device, card

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(self.pixels), (self.settings.batch,))
        objects, styles = self.objects[rows], self.styles[rows]
        tokens, named = self.sampler.draw(objects.tolist(), styles.tolist())
        x = roughen(pixels_to_tensor(self.pixels[rows], self.device))
        images = self.network.encode_image(x, normalize=True)
        texts = self.network.encode_text(tokens.to(self.device), normalize=True)
        logits = self.network.logit_scale.exp().clamp(max=100) * images.float() @ texts.float().T
        true = (~named[:, 0] | (objects[:, None] == objects[None])) & (
            ~named[:, 1] | (styles[:, None] == styles[None])
        )
        true = true.to(self.device).float()
        by_image = F.cross_entropy(logits, true / true.sum(1, keepdim=True))
        by_text = F.cross_entropy(logits.T, true.T / true.T.sum(1, keepdim=True))
        return {"contrastive_loss": (by_image + by_text) / 2}

    def save(self, folder: Path) -> None:
        """Write an open_clip ``local-dir`` folder: configuration, weights (float16), tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        network = copy.deepcopy(self.network).half()
        accuracy = zero_shot(network.float(), self.tokenizer, self.card, self.device)
        config = {
            "model_cfg": self.config,
            "preprocess_cfg": {
                "size": minicanvas.SIZE,
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
            },
            "card": accuracy,
        }
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
        weights = {
            name: (t.half() if t.is_floating_point() else t).contiguous()
            for name, t in network.state_dict().items()
        }
        save_file(weights, folder / "open_clip_model.safetensors")
        self.tokenizer.save_pretrained(folder)


@torch.no_grad()
def zero_shot(network, tokenizer, card, device) -> dict[str, float]:
    """Zero-shot accuracy on the test split with the template prompts.

    A picture is compared with the prompts of all (object, style) pairs; the label of the best one
    is the answer.

    Returns:
        ``{"style": ..., "object": ..., "pictures": n}``, accuracies in [0, 1].
    """
    pictures = minicanvas.load(minicanvas.SPLITS["test"], "painting the test split")
    prompts = [card.prompt(o, s) for o in card.object_names for s in card.style_names]
    training = network.training
    network.eval()
    texts = network.encode_text(tokenize(tokenizer, prompts).to(device), normalize=True)
    best = []
    for start in range(0, len(pictures), 256):
        x = pixels_to_tensor(pictures.pixels[start : start + 256], device)
        best.append((network.encode_image(x, normalize=True) @ texts.T).argmax(1).cpu())
    network.train(training)
    best, n = torch.cat(best), len(card.style_names)
    return {
        "style": (best % n == torch.from_numpy(pictures.styles)).float().mean().item(),
        "object": (best // n == torch.from_numpy(pictures.objects)).float().mean().item(),
        "pictures": len(pictures),
    }
