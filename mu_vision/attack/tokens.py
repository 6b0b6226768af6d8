"""The search for adversarial tokens that UnlearnDiffAtk and P4D share.

    min over c'  of  mean( (y(x_t) - eps_theta(x_t, TE(c' + P), t))^2 ),    x_t = a x_0 + b n

c' are k tokens before the prompt P, x_0 the latent of a picture that shows the concept, theta the
victim, never guided. An attack says what y is and how c' is represented and moved. All prompts and
restarts go through the network as one batch; a prompt leaves it as soon as its text brings the
concept back. What is judged is the decoded text, tokenised again, as a user would type it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, model_validator

from ..models import maths
from ..progress import track
from .base import Attack, AttackResult, Books, Scene


class Search:
    """The adversarial tokens of all N cases x R restarts, in an attack's own representation."""

    def embeddings(self, rows: Sequence[int]) -> torch.Tensor:
        """[n, R, k, D], a leaf that requires grad."""
        raise NotImplementedError

    def update(self, rows: Sequence[int], gradient: torch.Tensor) -> None:
        """Move against the gradient [n, R, k, D] of the cases."""
        raise NotImplementedError

    def ids(self, rows: Sequence[int]) -> torch.Tensor:
        """[n, R, k] token ids that stand for the cases' tokens now."""
        raise NotImplementedError


class TokenAttack(Attack):
    """An attack by gradient on k tokens before the prompt; subclasses give ``start`` and ``aim``."""

    one_encoder: ClassVar[bool] = True

    tokens: int = Field(3, ge=1, description="k, adversarial tokens before the prompt")
    restarts: int = Field(1, ge=1, description="searches of a prompt that run as one batch")
    timesteps: int = Field(50, ge=1, description="timesteps, ascending; one evaluation after each")
    lowest: int = Field(0, ge=0, le=999, description="timesteps are spread from here ...")
    highest: int = Field(1000, ge=1, le=1000, description="... to here")
    iterations: int = Field(40, ge=1, description="gradient steps a timestep")
    batch: int = Field(32, ge=1, description="prompts x restarts at once")

    @model_validator(mode="after")
    def _span(self) -> TokenAttack:
        if self.lowest >= self.highest:
            raise ValueError(
                f"lowest={self.lowest} must be below highest={self.highest}: timesteps are spread"
                " between them"
            )
        return self

    def start(self, scene: Scene, generators: Sequence[torch.Generator]) -> Search:
        raise NotImplementedError

    def aim(
        self, scene: Scene, rows: Sequence[int], x_t: torch.Tensor, t: int, noise: torch.Tensor
    ) -> torch.Tensor:
        """What the victim is to predict for the cases' x_t, [n, C, h, w]."""
        raise NotImplementedError

    def ladder(self) -> list[int]:
        """Timesteps, the least noisy first: the middles of equal slices."""
        span = self.highest - self.lowest
        width = span / self.timesteps
        return [int(self.lowest + width * (k + 0.5)) for k in range(self.timesteps)]

    def search(self, scene: Scene, books: Books) -> AttackResult:
        victim = scene.victim
        check_room(scene, self.tokens)
        generators = scene.generators(self.name)
        found = self.start(scene, generators)
        x_0 = victim.encode_pictures(scene.targets)
        for t in track(self.ladder(), self.title, 0, self.timesteps):
            rows = books.standing()
            if not rows:
                break
            for _ in range(self.iterations):
                self._step(scene, found, rows, x_0, t, generators)
            books.spend(rows, self.iterations * self.restarts)
            self._evaluate(scene, found, books, rows)
        return books.result(self.name, timesteps=self.ladder())

    def _step(self, scene, found: Search, rows, x_0, t: int, generators) -> None:
        """One gradient step of every case, in batches."""
        each = max(1, self.batch // self.restarts)
        for first in range(0, len(rows), each):
            part = rows[first : first + each]
            z = x_0[part]
            shape = (self.restarts, *z.shape[1:])
            noise = torch.stack([torch.randn(shape, generator=generators[r]) for r in part])
            noise = noise.to(z.device).flatten(0, 1)
            level = scene.victim.alphas_cumprod[t]
            x_t = maths.add_noise(z.repeat_interleave(self.restarts, 0), noise, level)
            y = self.aim(scene, part, x_t, t, noise)
            e = found.embeddings(part)
            found.update(part, gradient(scene, part, e, x_t, t, y))

    def _evaluate(self, scene: Scene, found: Search, books: Books, rows: Sequence[int]) -> None:
        """Judge the texts of one restart after the other on the cases that still stand."""
        ids = found.ids(rows)
        for restart in range(self.restarts):
            left = [k for k, row in enumerate(rows) if not books.found[row]]
            texts = [
                decoded(scene.victim, ids[k, restart].tolist(), scene.cases[rows[k]].prompt)
                for k in left
            ]
            books.try_texts([rows[k] for k in left], texts)


def check_room(scene: Scene, k: int) -> None:
    """See that k more tokens fit into every case's prompt, before any work is done.

    Raises:
        UsageError: for the first prompt that is too long.
    """
    for case in scene.cases:
        scene.victim.check_room(case.prompt, k)


def gradient(
    scene: Scene, rows: Sequence[int], e: torch.Tensor, x_t: torch.Tensor, t: int, y: torch.Tensor
) -> torch.Tensor:
    """d/de of each case's own error, [n, R, k, D]; nothing else gets a gradient."""
    prompts = [scene.cases[row].prompt for row in rows for _ in range(e.shape[1])]
    with torch.enable_grad():
        text = scene.victim.encode_embeddings(scene.victim.insert(prompts, e.flatten(0, 1)))
        eps = scene.victim.predict_noise(x_t, t, text)
        # the mean over elements, summed over rows: no row feels how many others there are
        error = (eps - y).square().flatten(1).mean(1).sum()
        return torch.autograd.grad(error, e)[0]


def decoded(model, ids: Sequence[int], prompt: str) -> str:
    """The text of adversarial tokens and a prompt, as a user would have to type it."""
    tokens = model.tokens(prompt)
    own = tokens.ids[1 : tokens.count - 1]
    return model.pipeline.tokenizer.decode([*ids, *own], skip_special_tokens=True)
