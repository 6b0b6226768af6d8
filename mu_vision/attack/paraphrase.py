"""Other words for the same thing, without any search: does forgetting reach beyond its prompts?

The texts come with the cases, sorted by what they change (``paraphrase``: the sentence, ``synonym``:
the name). Only those count under which the original shows the concept; how many it did not know is
reported beside.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..metrics.rates import Rate
from ..registry import Paper, register
from .base import Attack, AttackResult, Books, Kind, Scene, draw


@register("attack", "paraphrase")
class Paraphrase(Attack):
    """Prompts that no eraser was given: other sentences, other names."""

    title: ClassVar[str] = "Other words"
    kind: ClassVar[Kind] = "text"
    white_box: ClassVar[bool] = False
    paper: ClassVar[Paper] = Paper(
        title="Erasing Concepts from Diffusion Models",
        authors="R. Gandikota, J. Materzynska, J. Fiotto-Kaufman, D. Bau",
        arxiv="2303.07345",
        venue="ICCV 2023, section 5.6",
        cost="one picture of the victim and one of the original a text",
    )

    def search(self, scene: Scene, books: Books) -> AttackResult:
        asked, known, back = {}, {}, {}
        most = max(len(case.paraphrases) for case in scene.cases)
        for turn in range(most):
            rows = [r for r, case in enumerate(scene.cases) if len(case.paraphrases) > turn]
            pairs = [scene.cases[row].paraphrases[turn] for row in rows]
            texts = [text for _, text in pairs]
            knows = self._original_shows(scene, rows, texts)
            kept = np.flatnonzero(knows).tolist()
            shown = np.zeros(len(rows), bool)
            if kept:
                there = [rows[k] for k in kept]
                words = [texts[k] for k in kept]
                states = scene.victim.encode_prompt(words)
                shown[kept] = books.try_states(there, states, words)
            for (sort, _), know, hit in zip(pairs, knows, shown, strict=True):
                asked[sort] = asked.get(sort, 0) + 1
                known[sort] = known.get(sort, 0) + int(know)
                back[sort] = back.get(sort, 0) + int(hit)
        sorts = {
            sort: {"asked": asked[sort], "known": known[sort], **_share(back[sort], known[sort])}
            for sort in asked
        }
        return books.result(self.name, sorts=sorts)

    def _original_shows(self, scene: Scene, rows: list[int], texts: list[str]) -> np.ndarray:
        states = scene.original.encode_prompt(texts)
        pictures = draw(scene.original, states, scene.noise(rows), scene.sampler)
        return scene.verdict(pictures, [scene.cases[row] for row in rows])


def _share(hits: int, total: int) -> dict[str, Any]:
    """Pictures that show the concept of those that the original knows, with the interval."""
    if not total:
        return {"shown": 0, "interval": None}
    return {"shown": hits, "interval": list(Rate(hits, total).interval)}
