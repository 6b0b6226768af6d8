"""Concept inversion (Pham et al., ICLR 2024, after textual inversion): a new word for the old thing.

    min over w [k, D]   E mean( (n - eps_theta(x_t, TE(w + P_0), t))^2 )

w are continuous embeddings before the neutral prompt P_0 (a caption without the concept's name),
x_t noised pictures of the concept, theta the victim. One w is learned from a few example pictures
and used for all cases. No text of real tokens can say what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from .. import seeding
from ..models import maths
from ..models.diffusion import DiffusionModel
from ..models.text import TextStates
from ..progress import track
from ..registry import Paper, register
from .base import Attack, AttackResult, Books, Kind, Scene
from .tokens import check_room


@register("attack", "concept_inversion")
class ConceptInversion(Attack):
    """Learn embeddings that make the victim draw the example pictures, then ask with them."""

    title: ClassVar[str] = "Concept inversion"
    kind: ClassVar[Kind] = "embedding"
    one_encoder: ClassVar[bool] = True
    paper: ClassVar[Paper] = Paper(
        title="Circumventing Concept Erasure Methods For Text-to-Image Generative Models",
        authors="M. Pham, K. O. Marshall, N. Cohen, G. Mittal, C. Hegde",
        arxiv="2308.01508",
        venue="ICLR 2024",
        deviations=(
            "The learned embeddings stand before a neutral caption, not in a fixed sentence, and"
            " several restarts run as one batch.",
        ),
        cost="steps x batch passes with gradient in all, and one picture a prompt and restart",
    )
    trial: ClassVar[dict[str, Any]] = {"tokens": 1, "steps": 2, "batch": 2, "restarts": 1}

    tokens: int = Field(1, ge=1, description="k, vectors that are learned")
    steps: int = Field(1000, ge=1, description="optimiser steps")
    batch: int = Field(4, ge=1, description="example pictures a step and restart")
    lr: float = Field(5e-3, gt=0, description="of Adam on the embeddings, falling to 0")
    restarts: int = Field(2, ge=1, description="starts that are learned as one batch")

    def search(self, scene: Scene, books: Books) -> AttackResult:
        rows = books.standing()
        if not rows:
            return books.result(self.name, error=[])
        check_room(scene, self.tokens)
        w, error = self._learn(scene)
        # learning serves all cases, so each carries its share
        books.share(rows, self.steps * self.batch * self.restarts)
        for start in error.argsort().tolist():
            rows = books.standing()
            if not rows:
                break
            prompts = [scene.cases[row].neutral for row in rows]
            with torch.no_grad():
                text = self._read(scene.victim, prompts, w[start].expand(len(rows), -1, -1))
            notes = [f"<learned {start + 1}> {prompt}".strip() for prompt in prompts]
            books.try_states(rows, text, notes)
        return books.result(self.name, error=[round(e, 5) for e in error.tolist()])

    def _read(self, victim: DiffusionModel, prompts: Sequence[str], w: torch.Tensor) -> TextStates:
        """Text states of prompts with the learned vectors [B, k, D] before them."""
        return victim.encode_embeddings(victim.insert(prompts, w))

    def _learn(self, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings [R, k, D], and each one's mean error [R] over the last tenth of the steps."""
        victim, table = scene.victim, scene.victim.vocabulary.detach()
        x_0 = victim.encode_pictures(scene.examples.pixels)
        generator = seeding.generator(self.name, scene.seed, scene.concept[0])
        w = torch.nn.Parameter(self._starts(scene, table, generator))
        optimizer = torch.optim.Adam([w], lr=self.lr)
        shape = (self.restarts, self.batch, *x_0.shape[1:])
        last = torch.zeros(self.restarts)
        tail = max(1, self.steps // 10)
        for step in track(range(self.steps), self.title, 0, self.steps):
            optimizer.param_groups[0]["lr"] = self.lr * (1 - step / self.steps)
            chosen = torch.randint(len(x_0), shape[:2], generator=generator)
            t = torch.randint(len(victim.alphas_cumprod), shape[:2], generator=generator)
            noise = torch.randn(shape, generator=generator).to(x_0.device)
            t, noise = t.flatten().to(x_0.device), noise.flatten(0, 1)
            x_t = maths.add_noise(x_0[chosen.flatten()], noise, victim.alphas_cumprod[t])
            prompts = [scene.examples.neutral[i] for i in chosen.flatten().tolist()]
            with torch.enable_grad():
                text = self._read(victim, prompts, w.repeat_interleave(self.batch, 0))
                eps = victim.predict_noise(x_t, t, text)
                error = (eps - noise).square().flatten(1).mean(1).reshape(shape[:2]).mean(1)
                w.grad = torch.autograd.grad(error.sum(), w)[0]
            optimizer.step()
            if step >= self.steps - tail:
                last += error.detach().cpu() / tail
        return w.detach(), last

    def _starts(self, scene: Scene, table: torch.Tensor, generator) -> torch.Tensor:
        """The first restart begins at the concept's own tokens, the others at random ones."""
        tokens = scene.victim.tokens(scene.concept[0])
        own = tokens.ids[1 : tokens.count - 1] or (0,)
        named = [own[k % len(own)] for k in range(self.tokens)]
        ids = torch.randint(len(table), (self.restarts, self.tokens), generator=generator)
        ids[0] = torch.tensor(named)
        return table[ids.to(table.device)].clone()
