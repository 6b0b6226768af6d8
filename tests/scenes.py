"""A small scene for attacks: two cases on the tiny pipeline, and judges that say what is wanted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from mu_vision import seeding
from mu_vision.attack.base import Case, Pictures, Sampler, Scene, draw
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.models.text import TextStates

SAMPLER = Sampler(steps=2, guidance=2.0, batch=4)
CASES = (
    Case("a cat, neon", "a cat, neon", "a cat", 1, (("paraphrase", "neon cat"),)),
    Case("a car, neon", "a car, neon", "a car", 2, (("paraphrase", "neon car"),)),
    Case("a sun, neon", "a sun, neon", "a sun", 3, (("synonym", "sun, glow"),)),
)


def never(pictures, cases) -> np.ndarray:
    return np.zeros(len(pictures), bool)


def always(pictures, cases) -> np.ndarray:
    return np.ones(len(pictures), bool)


def bright(level: float):
    """A judge that only looks at a picture's mean."""
    return lambda pictures, cases: pictures.mean(axis=(1, 2, 3)) > level


def pixels(n: int, seed: int = 0) -> np.ndarray:
    """[n, 16, 16, 3] uint8 of coarse random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


def pictures(n: int, seed: int, name: str = "neon") -> Pictures:
    neutral = tuple(f"a thing {k % 3}" for k in range(n))
    return Pictures(pixels(n, seed), tuple(f"{text}, {name}" for text in neutral), neutral)


def edited(model: DiffusionModel, seed: int = 0) -> DiffusionModel:
    """A victim: all tensors are its own, and all are a little off."""
    twin = model.clone(model.named_parameters())
    with torch.no_grad(), seeding.seeded("edited", seed):
        for parameter in twin.named_parameters().values():
            parameter.add_(0.05 * parameter.std().nan_to_num(0) * torch.randn_like(parameter))
    return twin.freeze()


def scene(
    victim: DiffusionModel, original: DiffusionModel, verdict=never, cases=CASES, **changes
) -> Scene:
    """What an attack gets; ``changes`` replace parts of it."""
    sampler = changes.get("sampler", SAMPLER)
    noise = torch.stack([case.noise(victim.latent_shape) for case in cases])
    own = draw(victim, victim.encode_prompt([case.prompt for case in cases]), noise, sampler)
    parts = dict(
        victim=victim, original=original, concept=("neon",), cases=tuple(cases),
        targets=pixels(len(cases), 1), examples=pictures(4, 2), others=pictures(3, 3, "plain"),
        verdict=verdict, unattacked=own, before=np.asarray(verdict(own, cases), bool),
        sampler=sampler, seed=0,
    )  # fmt: skip
    return Scene(**{**parts, **changes})


class ToyVictim:
    """The error under a prefix token e is mean((M e - b)^2), at every state and timestep.

    Pictures are black, so x_t is scaled noise, which the toy predicts exactly; what is left over
    is a linear map of the token in the first place after the begin of text.
    """

    latent_shape = (4, 2, 2)
    device = torch.device("cpu")

    def __init__(self, words: int, width: int, seed: int, best: int):
        rng = torch.Generator().manual_seed(seed)
        table = torch.randn(words, width, generator=rng)
        self.vocabulary = table / table.norm(dim=1, keepdim=True)
        self.matrix = torch.randn(16, width, generator=rng)
        self.b = self.matrix @ self.vocabulary[best] + 0.1 * torch.randn(16, generator=rng)
        self.alphas_cumprod = torch.linspace(0.99, 0.01, 1000)
        self.pipeline = SimpleNamespace()

    def insert(self, prompts, prefix):
        return torch.cat([torch.zeros(len(prompts), 1, prefix.shape[2]), prefix], 1)

    def encode_embeddings(self, embeddings):
        return TextStates(embeddings)

    def encode_prompt(self, prompts):
        return TextStates(torch.zeros(len(prompts), 2, self.vocabulary.shape[1]))

    def left_over(self, e: torch.Tensor) -> torch.Tensor:
        """[..., 16] of embeddings [..., D]."""
        return e @ self.matrix.T - self.b

    def errors(self) -> torch.Tensor:
        """[V], the error of every token of the vocabulary, by brute force."""
        return self.left_over(self.vocabulary).square().mean(-1)

    def predict_noise(self, x, t, text):
        spread = (1 - self.alphas_cumprod[t]).sqrt()
        return x / spread + self.left_over(text.states[:, 1]).reshape(len(x), *self.latent_shape)


class ToyOriginal(ToyVictim):
    """Predicts the noise itself under every prompt."""

    def predict_noise(self, x, t, text):
        return x / (1 - self.alphas_cumprod[t]).sqrt()


def toy_scene(victim: ToyVictim, original=None, cases=CASES) -> Scene:
    n = len(cases)
    return Scene(
        victim, original, ("neon",), tuple(cases), np.zeros((n, 4, 4, 3), np.uint8),
        pictures(1, 0), pictures(1, 0), never, np.zeros((n, 4, 4, 3), np.uint8),
        np.zeros(n, bool), SAMPLER,
    )  # fmt: skip
