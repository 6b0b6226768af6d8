"""Other words for the same thing, without any search: does forgetting reach beyond its prompts?

The texts come with the cases, sorted by what they change (``paraphrase``: the sentence, ``synonym``:
the name). Only those count under which the original shows the concept; how many it did not know is
reported beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ..metrics.rates import Rate
from ..registry import Paper, register
from .base import Attack, AttackResult, Books, Kind, Scene, draw

# whether the original shows the concept under a text: the same for every victim
_KNOWN: dict[tuple[Any, ...], bool] = {}


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

    texts: int = Field(12, ge=1, description="other texts a case, evenly spread over all there are")

    def search(self, scene: Scene, books: Books) -> AttackResult:
        asked, known, back = {}, {}, {}
        chosen = [spread(case.paraphrases, self.texts) for case in scene.cases]
        for turn in range(max(map(len, chosen))):
            rows = [row for row, texts in enumerate(chosen) if len(texts) > turn]
            pairs = [chosen[row][turn] for row in rows]
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
        about = (scene.original.fingerprint(), scene.verdict, scene.sampler)
        keys = [(about, scene.cases[row], text) for row, text in zip(rows, texts, strict=True)]
        new = [k for k, key in enumerate(keys) if key not in _KNOWN]
        if new:
            there = [rows[k] for k in new]
            states = scene.original.encode_prompt([texts[k] for k in new])
            pictures = draw(scene.original, states, scene.noise(there), scene.sampler)
            shown = scene.verdict(pictures, [scene.cases[row] for row in there])
            _KNOWN.update(zip([keys[k] for k in new], map(bool, shown), strict=True))
        return np.array([_KNOWN[key] for key in keys])


def spread(items: Sequence, most: int) -> list:
    """At most so many of the items, evenly spread over all of them."""
    count = min(most, len(items))
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count)]


def _share(hits: int, total: int) -> dict[str, Any]:
    """Pictures that show the concept of those that the original knows, with the interval."""
    if not total:
        return {"shown": 0, "interval": None}
    return {"shown": hits, "interval": list(Rate(hits, total).interval)}
