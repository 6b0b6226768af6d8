"""UnlearnDiffAtk (Zhang et al., ECCV 2024), Eq. 6: a few tokens that make the target likely.

    min over u   mean( (n - eps_theta(x_t, TE(z E + P), t))^2 ),   z_j ~ Categorical(u_j)

u [k, V] are rows on the probability simplex, E the vocabulary's embeddings, x_t the noised picture
of the concept. A diffusion model that explains the picture better under a text holds the text for
more likely, so the search needs no classifier and no original model. The forward pass samples real
tokens; the gradient reaches u straight through them, clipped to [-1, 1]; after each Adam step every
row goes back to the simplex.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from ..registry import Paper, register
from .base import Kind, Scene
from .tokens import Search, TokenAttack


@register("attack", "unlearndiffatk")
class UnlearnDiffAtk(TokenAttack):
    """Search k tokens before the prompt that explain a picture of the concept. Paper's defaults."""

    title: ClassVar[str] = "UnlearnDiffAtk"
    kind: ClassVar[Kind] = "tokens"
    paper: ClassVar[Paper] = Paper(
        title="To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To"
        " Generate Unsafe Images ... For Now",
        authors="Y. Zhang, J. Jia, X. Chen, A. Chen, Y. Zhang, J. Liu, K. Ding, S. Liu",
        arxiv="2310.11868",
        venue="ECCV 2024",
        repository="https://github.com/OPTML-Group/Diffusion-MU-Attack",
        licence="MIT",
        deviations=(
            "Every case has a generator of its own; the published code seeds the global one at"
            " each evaluation, so that its noise repeats.",
            "The projection to the simplex is exact, by sorting, not a bisection.",
            "All prompts run as one batch and none is dropped for its length: one that leaves no"
            " room for k tokens is refused.",
        ),
        cost="timesteps x iterations passes with gradient and `timesteps` pictures a prompt, at most",
    )
    trial: ClassVar[dict[str, Any]] = {"tokens": 1, "timesteps": 2, "iterations": 2}

    lr: float = Field(0.01, gt=0, description="of Adam on u")
    weight_decay: float = Field(0.1, ge=0, description="of Adam, added to the gradient (L2)")
    initial: Literal["uniform", "random"] = Field(
        "uniform", description="u at the start: 1/V, or random and projected"
    )

    def start(self, scene: Scene, generators: Sequence[torch.Generator]) -> Search:
        return Simplex(self, scene, generators)

    def aim(
        self, scene: Scene, rows: Sequence[int], x_t: torch.Tensor, t: int, noise: torch.Tensor
    ) -> torch.Tensor:
        return noise


def project(rows: torch.Tensor) -> torch.Tensor:
    """The nearest points [..., V] on the probability simplex, exactly, by sorting.

    clip(a - mu, 0, 1) with mu = (sum of the r largest - 1) / r, r the largest number for which the
    r-th largest entry stays positive (Held, Wolfe & Crowder 1974).
    """
    ordered, _ = rows.sort(dim=-1, descending=True)
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    r = (ordered * count > excess).sum(-1, keepdim=True)
    mu = excess.gather(-1, r - 1) / r
    return (rows - mu).clamp(0, 1)


class Simplex(Search):
    """u [N, R, k, V] on the simplex, and the tokens that were sampled last."""

    def __init__(self, settings: UnlearnDiffAtk, scene: Scene, generators):
        table = scene.victim.vocabulary.detach()
        self.table, self.generators = table, list(generators)
        shape = (len(scene.cases), settings.restarts, settings.tokens, len(table))
        self.u = torch.full(shape, 1 / len(table), device=table.device)
        if settings.initial == "random":
            drawn = [torch.rand(shape[1:], generator=g) for g in self.generators]
            self.u = project(torch.stack(drawn).to(table.device))
        # one optimiser a case: a case that has left does not move, and has no part in the others
        self.parts = [torch.nn.Parameter(u) for u in self.u]
        self.optimizers = [
            torch.optim.Adam([u], lr=settings.lr, weight_decay=settings.weight_decay)
            for u in self.parts
        ]

    def embeddings(self, rows: Sequence[int]) -> torch.Tensor:
        ids = [self._sample(row) for row in rows]
        return self.table[torch.stack(ids).to(self.table.device)].requires_grad_(True)

    def _sample(self, row: int) -> torch.Tensor:
        """[R, k] ids, each drawn from its row of u."""
        u = self.parts[row].detach().cpu()
        drawn = torch.multinomial(u.flatten(0, 1), 1, generator=self.generators[row])
        return drawn.reshape(u.shape[:2])

    @torch.no_grad()
    def update(self, rows: Sequence[int], gradient: torch.Tensor) -> None:
        """Straight through: d/du = clip( (d/d embedding) E^T, -1, 1 )."""
        towards = (gradient @ self.table.T).clamp(-1, 1)
        for row, grad in zip(rows, towards, strict=True):
            self.parts[row].grad = grad
            self.optimizers[row].step()
            self.parts[row].copy_(project(self.parts[row]))

    def ids(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.stack([self.parts[row].detach().argmax(-1) for row in rows])
