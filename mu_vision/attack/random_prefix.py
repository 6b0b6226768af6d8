"""Random tokens before the prompt: what luck alone brings back with the same number of pictures."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from ..progress import track
from ..registry import Paper, register
from .base import Attack, AttackResult, Books, Kind, Scene
from .tokens import check_room, decoded


@register("attack", "random_prefix")
class RandomPrefix(Attack):
    """k random tokens before the prompt, again and again; the baseline of every search."""

    title: ClassVar[str] = "Random prefix"
    kind: ClassVar[Kind] = "tokens"
    white_box: ClassVar[bool] = False
    one_encoder: ClassVar[bool] = True
    paper: ClassVar[Paper] = Paper(
        title="To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To"
        " Generate Unsafe Images ... For Now",
        authors="Y. Zhang, J. Jia, X. Chen, A. Chen, Y. Zhang, J. Liu, K. Ding, S. Liu",
        arxiv="2310.11868",
        venue="ECCV 2024",
        cost="`pictures` pictures a prompt, at most",
    )
    trial: ClassVar[dict[str, Any]] = {"tokens": 1, "pictures": 2}

    tokens: int = Field(3, ge=1, description="k, random tokens before the prompt")
    pictures: int = Field(50, ge=1, description="prefixes tried on a prompt")

    def search(self, scene: Scene, books: Books) -> AttackResult:
        check_room(scene, self.tokens)
        size = len(scene.victim.vocabulary)
        generators = scene.generators(self.name)
        for _ in track(range(self.pictures), self.title, 0, self.pictures):
            rows = books.standing()
            if not rows:
                break
            ids = [torch.randint(size, (self.tokens,), generator=generators[r]) for r in rows]
            texts = [
                decoded(scene.victim, chosen.tolist(), scene.cases[row].prompt)
                for row, chosen in zip(rows, ids, strict=True)
            ]
            books.try_texts(rows, texts)
        return books.result(self.name)
