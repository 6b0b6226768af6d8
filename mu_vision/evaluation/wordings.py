"""Does forgetting reach words that the eraser was not given? UA on other sentences, other names.

A request for a style or object of a card gives an eraser the names alone ("neon style") and the
protocol's sentence. Here every cell of the target is asked for in other words: other sentences with
the usual names (``ua_paraphrase``), and other names in the usual sentence (``ua_synonym``), those that
no training caption holds included. A picture counts where the original, from the same latent and
under the same words, shows the target: what it never knew under these words cannot be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..attack.paraphrase import spread
from ..metrics.rates import Rate
from .plan import Plan, cell_latent, settings_of
from .scorecard import Metric

if TYPE_CHECKING:
    from ..data.cards import DatasetCard
    from ..request import ConceptRequest
    from .answers import AnswerSet
    from .marks import Bench, Marks
    from .protocol import Protocol

SORTS = ("paraphrase", "synonym")


def other_words(card: DatasetCard, kind: str, thing: str, style: str) -> Iterator[tuple[str, str]]:
    """(sort, text) of a cell: other sentences with the usual names, other names in the usual one.

    Args:
        card: gives sentences and names.
        kind: which of the two is the concept, ``style`` or ``object``; it alone changes its name.
        thing: an object of the card.
        style: a style of the card.
    """
    names = {"object": card.object_text(thing), "style": card.style_text(style)}
    for sentence in (*card.paraphrases, *card.held_out_paraphrases):
        yield "paraphrase", sentence.format(**names)
    known = card.styles[style] if kind == "style" else card.objects[thing]
    for sort, synonyms in (("synonym", known.names[1:]), ("held-out synonym", known.held_out)):
        for synonym in synonyms:
            yield sort, card.template.format(**{**names, kind: synonym})


def wordings_plan(
    protocol: Protocol, requests: Sequence[ConceptRequest]
) -> tuple[Plan, np.ndarray]:
    """What is drawn, and [N] the position in ``SORTS`` of each picture's text.

    Latents are those of the cell in the protocol's grid.
    """
    grid, card, about = protocol.grid, protocol.card, protocol.wordings
    kind = requests[0].kind
    mask = grid.target_mask(kind, [request.name for request in requests])
    rows = []
    for s, o in np.argwhere(mask & grid.scored_mask()).tolist():
        words = list(other_words(card, kind, grid.objects[o], grid.styles[s]))
        for sort, name in enumerate(SORTS):
            texts = [text for found, text in words if found.endswith(name)]
            for text in spread(texts, about.texts):
                rows += [(text, s, o, sort, seed) for seed in protocol.seeds[: about.seeds]]
    texts, styles, objects, sorts, seeds = zip(*rows, strict=True)
    latents = tuple(cell_latent(protocol, s, o, seed) for _, s, o, _, seed in rows)
    plan = Plan(
        texts, np.array(styles), np.array(objects), np.array(seeds), grid.styles, grid.objects,
        latents, settings_of(protocol),
    )  # fmt: skip
    return plan, np.array(sorts)


def wordings_metrics(
    kind: str,
    bench: Bench,
    sorts: np.ndarray,
    answers: tuple[AnswerSet, Marks],
    before: tuple[AnswerSet, Marks],
) -> list[Metric]:
    """``ua_paraphrase`` and ``ua_synonym``; none of a sort of which the original knows no text."""
    shown, known = (_right(kind, bench, *pair) for pair in (answers, before))
    seconds, found = answers[1].seconds.get(kind, 0.0), []
    for sort, name in enumerate(SORTS):
        counted = known & (sorts == sort)
        if counted.any():
            rate = Rate.of(shown[counted]).complement
            metric = Metric.of_rate(
                f"ua_{name}", rate, int(counted.sum()), bench.judges[kind].name, seconds
            )
            metric.details["asked"] = int((sorts == sort).sum())
            found.append(metric)
    return found


def _right(kind: str, bench: Bench, answers: AnswerSet, marks: Marks) -> np.ndarray:
    cells = answers.styles if kind == "style" else answers.objects
    return marks.labels[kind] == bench.columns[kind][cells]
