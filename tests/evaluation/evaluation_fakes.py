"""A model, judges and a CLIP that read and write labels in the colours of tiny pictures."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import torch

from mu_vision.data.cards import load_card
from mu_vision.evaluation import marks
from mu_vision.evaluation.judges import Judge
from mu_vision.evaluation.protocol import Protocol
from mu_vision.models.diffusion import TextStates
from mu_vision.request import concept_request

CARD = load_card("minicanvas")
STYLES, OBJECTS = CARD.style_names, CARD.object_names
STEP = 20  # levels between two labels in a colour channel


def protocol(**changes) -> Protocol:
    settings = {
        "name": "test", "dataset": "minicanvas", "seeds": (1, 2), "steps": 2, "guidance": 1.0,
        "judges": {"style": "fake-style", "object": "fake-object"}, "clip": "fake-clip",
        "fid": {"per_cell": 1}, "include_seed_theme": True, "concept_pictures": 10,
    }  # fmt: skip
    return Protocol.model_validate({**settings, **changes})


def label_of(prompt: str) -> tuple[int, int]:
    """Style and object that a prompt of the card names; (0, 0) for others."""
    for s, style in enumerate(STYLES):
        for o, thing in enumerate(OBJECTS):
            if prompt == CARD.prompt(thing, style):
                return s, o
    return 0, 0


class FakeModel:
    """Draws 8x8 pictures: red says the style, green the object, blue holds the latent's noise.

    Args:
        draw: (style, object, prompt) -> what is drawn instead, as (style, object).
        name: also decides the fingerprint, unless ``fingerprint`` is given.
    """

    latent_shape = (4, 2, 2)
    device = torch.device("cpu")
    pipeline = SimpleNamespace(vae_scale_factor=4)

    def __init__(self, draw=lambda s, o, prompt: (s, o), name="fake", fingerprint=None):
        self.draw, self.name = draw, name
        self._fingerprint = fingerprint or hashlib.sha256(name.encode()).hexdigest()
        self.batches: list[int] = []
        self.encoded: list[str] = []
        self.weight = torch.nn.Parameter(torch.zeros(3) + len(name))
        self.shared = torch.nn.Parameter(torch.zeros(5))

    def fingerprint(self) -> str:
        return self._fingerprint

    def named_parameters(self):
        return {"unet.weight": self.weight, "unet.shared": self.shared}

    def encode_prompt(self, prompts) -> TextStates:
        self.encoded += list(prompts)
        drawn = [self.draw(*label_of(prompt), prompt) for prompt in prompts]
        return TextStates(torch.tensor(drawn).float().view(len(drawn), 1, 2))

    def sample(self, text, latents, steps, guidance, negative=None):
        self.batches.append(len(latents))
        drawn = latents.clone()
        drawn[:, :2] = text.states.view(-1, 2, 1, 1)
        return drawn

    def decode(self, latents) -> np.ndarray:
        big = latents.repeat_interleave(4, 2).repeat_interleave(4, 3)
        pixels = torch.stack(
            [big[:, 0] * STEP + 5, big[:, 1] * STEP + 5, (big[:, 2] * 30 + 128).clamp(0, 255)], -1
        )
        return pixels.round().to(torch.uint8).numpy()


class Reader(torch.nn.Module):
    """Reads a label from a colour channel; certain of it by ``sure``."""

    def __init__(self, channel: int, classes: int, sure: float = 20.0):
        super().__init__()
        self.channel, self.classes, self.sure = channel, classes, sure

    def forward(self, x):
        level = (x[:, self.channel].mean((1, 2)) * 0.5 + 0.5) * 255
        label = ((level - 5) / STEP).round().long().clamp(0, self.classes - 1)
        return torch.nn.functional.one_hot(label, self.classes).float() * self.sure


class FakeClip:
    """Features: a one-hot style beside a one-hot object; other texts lean on the first object."""

    name, fingerprint, logit_scale = "fake-clip", "clip", 100.0

    def image_features(self, pictures):
        colours = (pictures.reshape(len(pictures), -1, 3).mean(1) - 5) / STEP
        s = colours[:, 0].round().astype(int).clip(0, len(STYLES) - 1)
        o = colours[:, 1].round().astype(int).clip(0, len(OBJECTS) - 1)
        grain = pictures[:, :2, :2, 2].reshape(len(pictures), -1) / 2550
        return np.concatenate([np.eye(len(STYLES))[s], np.eye(len(OBJECTS))[o], grain], 1).astype(
            np.float32
        )

    def text_features(self, texts):
        found = []
        for text in texts:
            s, o = label_of(text)
            style = next((k for k, name in enumerate(STYLES) if name in text), s)
            thing = next((k for k, name in enumerate(OBJECTS) if name in text), o)
            found.append([*np.eye(len(STYLES))[style], *np.eye(len(OBJECTS))[thing], 0, 0, 0, 0])
        return np.array(found, np.float32)


def judge(kind: str, accuracy: float | None = 0.99, classes=None, sure: float = 20.0) -> Judge:
    names = classes or (STYLES if kind == "style" else OBJECTS)
    network = Reader(0 if kind == "style" else 1, len(names), sure)
    return Judge(network, names, f"fake-{kind}", kind, (8, 8), test_accuracy=accuracy)


def install(monkeypatch, **judges: Judge) -> None:
    """Let ``open_bench`` find the fakes."""
    from mu_vision.evaluation import evaluate

    marks._bench.cache_clear()
    evaluate._SHELF.clear()
    kinds = {kind: judges.get(kind) or judge(kind) for kind in ("style", "object")}
    monkeypatch.setattr(
        marks, "load_judge", lambda spec, classes, device: kinds[str(spec).removeprefix("fake-")]
    )
    monkeypatch.setattr(marks, "load_clip", lambda spec, device: FakeClip())


def request(kind: str = "style", name: str = "neon", **more):
    return concept_request(kind, name, "minicanvas" if kind != "concept" else None, **more)
