"""P4D, "Prompting4Debugging" (Chin et al., ICML 2024): tokens that make the victim predict as before.

    min over c'   mean( (eps_theta(x_t, TE(c' + P), t) - eps*(x_t, TE*(P), t))^2 )

eps* is the original model under the prompt that names the concept, theta the victim, x_t the noised
picture of the concept. c' is continuous; the forward pass uses the nearest embedding of the
vocabulary (by cosine), and its gradient moves the continuous copy (PEZ).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from ..registry import Paper, register
from .base import Kind, Scene
from .tokens import Search, TokenAttack


@register("attack", "p4d")
class P4D(TokenAttack):
    """Search k tokens before the prompt under which the victim predicts what the original did.

    Settings are those of UnlearnDiffAtk's comparison, so that both have the same budget.
    """

    title: ClassVar[str] = "P4D"
    kind: ClassVar[Kind] = "tokens"
    paper: ClassVar[Paper] = Paper(
        title="Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding"
        " Problematic Prompts",
        authors="Z.-Y. Chin, C.-M. Jiang, C.-C. Huang, P.-Y. Chen, W.-C. Chiu",
        arxiv="2309.06135",
        venue="ICML 2024",
        deviations=(
            "Tokens stand before the prompt, as in UnlearnDiffAtk's comparison; the authors' code"
            " replaces the whole prompt (P4D-N) or spreads them over it (P4D-K).",
            "Timesteps are those of UnlearnDiffAtk, not drawn at random.",
        ),
        cost="as UnlearnDiffAtk, and one pass of the original for every gradient step",
    )
    trial: ClassVar[dict[str, Any]] = {"tokens": 1, "timesteps": 2, "iterations": 2}

    lr: float = Field(0.01, gt=0, description="of Adam on the continuous embeddings")
    weight_decay: float = Field(0.1, ge=0, description="of Adam, added to the gradient (L2)")

    def start(self, scene: Scene, generators: Sequence[torch.Generator]) -> Search:
        return Nearest(self, scene, generators)

    @torch.no_grad()
    def aim(
        self, scene: Scene, rows: Sequence[int], x_t: torch.Tensor, t: int, noise: torch.Tensor
    ) -> torch.Tensor:
        texts = [scene.cases[row].asks_for for row in rows for _ in range(self.restarts)]
        return scene.original.predict_noise(x_t, t, scene.original.encode_prompt(texts))


class Nearest(Search):
    """Continuous embeddings [N, R, k, D], read as the nearest tokens; they start at random ones."""

    def __init__(self, settings: P4D, scene: Scene, generators):
        self.table = scene.victim.vocabulary.detach()
        self.directions = F.normalize(self.table, dim=-1)
        shape = (settings.restarts, settings.tokens)
        drawn = [torch.randint(len(self.table), shape, generator=g) for g in generators]
        self.parts = [torch.nn.Parameter(self.table[ids].clone()) for ids in drawn]
        self.optimizers = [
            torch.optim.Adam([c], lr=settings.lr, weight_decay=settings.weight_decay)
            for c in self.parts
        ]

    def embeddings(self, rows: Sequence[int]) -> torch.Tensor:
        return self.table[self.ids(rows)].requires_grad_(True)

    def update(self, rows: Sequence[int], gradient: torch.Tensor) -> None:
        for row, grad in zip(rows, gradient, strict=True):
            self.parts[row].grad = grad.clone()
            self.optimizers[row].step()

    def ids(self, rows: Sequence[int]) -> torch.Tensor:
        here = F.normalize(torch.stack([self.parts[row].detach() for row in rows]), dim=-1)
        return (here @ self.directions.T).argmax(-1)
