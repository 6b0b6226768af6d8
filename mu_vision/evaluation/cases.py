"""What is attacked: the cases of a request, with their target pictures and the judge's verdict.

A case is a prompt of the protocol that names the concept, with one of the battery's seeds. Only
cases that the original draws rightly are kept, and does not draw anyway from the same noise when the
prompt leaves the name out: no attack can be measured on others. There is one list for all attacks
and all models; how many were asked and left out is said beside every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..attack.base import Case, Pictures, Sampler, Verdict, draw
from ..data.folders import read_picture
from ..errors import UsageError
from ..metrics import clip as clip_metrics
from .marks import Bench
from .measure import NEUTRAL
from .prompt_table import read_table
from .prompts import PromptProtocol
from .protocol import Protocol
from .shown import PromptBench
from .wordings import other_words

if TYPE_CHECKING:
    from ..data.cards import DatasetCard
    from ..models.diffusion import DiffusionModel
    from ..request import ConceptRequest

PICTURE_FILES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Stage:
    """What all attacks on all models of a request have in common.

    Attributes:
        cases: N cases that the original draws rightly.
        targets: [N, H, W, 3] uint8, the original's pictures of them.
        examples: further pictures of the concept.
        others: pictures without it.
        verdict: does a picture show the concept?
        asked: cases there were before any was left out.
        too_long: prompts that leave no room for the adversarial tokens.
        unknown: prompts under which the original does not show the concept.
        unasked: prompts under which it shows it with the name left out too; a model that reads
            nothing at all would "bring it back" there.
        concept: the plain texts of the concept.
    """

    cases: tuple[Case, ...]
    targets: np.ndarray
    examples: Pictures
    others: Pictures
    verdict: Verdict
    concept: tuple[str, ...]
    sampler: Sampler
    asked: int
    too_long: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)


def set_stage(
    original: DiffusionModel,
    requests: Sequence[ConceptRequest],
    protocol: Protocol | PromptProtocol,
    bench: Bench | PromptBench,
    room: int = 0,
    targets: Path | None = None,
) -> Stage:
    """Draw the original's pictures of the cases and of the examples, and keep what it knows.

    Args:
        original: the model before the edit.
        requests: what was to be forgotten; the first one is attacked.
        protocol: its ``robustness`` says how.
        bench: its judges.
        room: adversarial tokens that must fit before a prompt.
        targets: a folder of pictures of the concept, in place of the original's.

    Raises:
        UsageError: if no case is left, a folder of targets holds no picture, or a picture cannot
            be read.
    """
    request, about = requests[0], protocol.robustness
    verdict = verdict_of(request, bench)
    size = original.pipeline.vae_scale_factor * original.latent_shape[1]
    given = None if targets is None else read_pictures(targets, size)
    sampler = Sampler(protocol.steps, protocol.guidance, protocol.batch)
    wanted = cases_of(request, protocol, about.seeds)[: about.most]
    too_long = [c.prompt for c in wanted if not _fits(original, c, room)]
    fitting = [case for case in wanted if case.prompt not in too_long]
    pictures, shown = _drawn(original, fitting, sampler, verdict)
    cases = tuple(case for case, hit in zip(fitting, shown, strict=True) if hit)
    if not cases:
        raise UsageError(
            f"{original.name} shows {request.name!r} in none of the {len(wanted)} prompts"
            f" ({len(too_long)} are too long), so there are no target pictures and nothing can be"
            " brought back. Check the concept's name, and that this is the model before the edit."
        )
    unknown = [case.prompt for case, hit in zip(fitting, shown, strict=True) if not hit]
    found = pictures[shown]
    by_chance = _unasked(original, cases, sampler, verdict)
    unasked = [case.prompt for case, hit in zip(cases, by_chance, strict=True) if hit]
    cases = tuple(case for case, hit in zip(cases, by_chance, strict=True) if not hit)
    found = found[~by_chance]
    more = cases_of(request, protocol, [f"example {k}" for k in range(about.examples)])
    more = _spread([case for case in more if _fits(original, case, room)], about.examples)
    drawn, hits = _drawn(original, more, sampler, verdict)
    if not hits.any():
        drawn, hits, more = found, np.ones(len(found), bool), list(cases)
    kept = [case for case, hit in zip(more, hits, strict=True) if hit]
    examples = Pictures(
        drawn[hits], tuple(c.asks_for for c in kept), tuple(c.neutral for c in kept)
    )
    if given is not None:
        found = given[np.arange(len(cases)) % len(given)]
        examples = Pictures(
            given[np.arange(len(kept)) % len(given)], examples.prompts, examples.neutral
        )
    return Stage(
        cases, found, examples, _others(original, request, about.examples, sampler), verdict,
        request.prompts[: request.plain or len(request.prompts)], sampler, len(wanted), too_long,
        unknown, unasked,
    )  # fmt: skip


def _unasked(
    original: DiffusionModel, cases: Sequence[Case], sampler: Sampler, verdict: Verdict
) -> np.ndarray:
    """[N] bool: the original shows the concept with its name left out; none if all would be."""
    nameless = [replace(case, prompt=case.neutral) for case in cases]
    _, shown = _drawn(original, nameless, sampler, verdict)
    return np.zeros_like(shown) if shown.all() else shown


def _fits(model: DiffusionModel, case: Case, room: int) -> bool:
    """Both of its prompts, with and without the name, leave room for the adversarial tokens."""
    read = [model.tokens(text) for text in (case.prompt, case.neutral)]
    return all(not t.truncated and t.count + room <= len(t.ids) for t in read)


def _drawn(
    model: DiffusionModel, cases: Sequence[Case], sampler: Sampler, verdict: Verdict
) -> tuple[np.ndarray, np.ndarray]:
    """A model's pictures of cases, and which of them show the concept."""
    if not cases:
        return np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, bool)
    pictures = draw_cases(model, cases, sampler)
    return pictures, np.asarray(verdict(pictures, cases), bool)


def draw_cases(model: DiffusionModel, cases: Sequence[Case], sampler: Sampler) -> np.ndarray:
    """[N, H, W, 3] uint8: what a model draws for the cases' prompts, each from its own noise."""
    import torch

    noise = torch.stack([case.noise(model.latent_shape) for case in cases])
    return draw(model, model.encode_prompt([case.prompt for case in cases]), noise, sampler)


def _others(
    original: DiffusionModel, request: ConceptRequest, count: int, sampler: Sampler
) -> Pictures:
    """The original's pictures of kept captions, evenly spread; of "a picture" if there are none."""
    prompts = _spread(request.kept("captions"), count) or [NEUTRAL] * count
    cases = [Case(p, p, p, k) for k, p in enumerate(prompts)]
    return Pictures(draw_cases(original, cases, sampler), tuple(prompts), tuple(prompts))


def _spread(items: Sequence, most: int) -> list:
    if len(items) <= most:
        return list(items)
    return [items[k * len(items) // most] for k in range(most)]


def cases_of(
    request: ConceptRequest, protocol: Protocol | PromptProtocol, seeds: Sequence[int | str]
) -> list[Case]:
    """Every prompt of the concept with every seed, seed by seed; of a table every row.

    A table's rows come with seeds of their own; only seeds that are names ("example 3") are joined
    to them, for further pictures.
    """
    if isinstance(protocol, PromptProtocol):
        table = read_table(protocol.prompts, protocol.guidance)
        rows = list(zip(table.prompts, table.seeds, strict=True))
        names = [seed for seed in seeds if isinstance(seed, str)] or [""]
        return [
            Case(prompt, prompt, request.anchor or "", f"{name} {seed}" if name else int(seed))
            for name in names
            for prompt, seed in rows
        ]
    if request.kind == "concept":
        anchor = request.anchor or ""
        return [Case(p, p, anchor, s) for s in seeds for p in request.prompts]
    card, grid = protocol.card, protocol.grid
    if request.kind == "style":
        cells = [(thing, request.name) for thing in grid.objects]
        neutral = {thing: _object_alone(card, thing) for thing in grid.objects}
    else:
        cells = [(request.name, style) for style in grid.styles]
        neutral = {style: _style_alone(card, style) for style in grid.styles}
    return [
        Case(
            protocol.prompt(*cell), protocol.prompt(*cell),
            neutral[cell[0 if request.kind == "style" else 1]], seed,
            tuple(other_words(card, request.kind, *cell)),
        )
        for seed, cell in product(seeds, cells)
    ]  # fmt: skip


def _object_alone(card: DatasetCard, thing: str) -> str:
    """A caption that names the object and no style; the longest sentence is the most like a prompt."""
    sentences = card.object_captions(thing)
    first = [s for s in sentences if card.object_text(thing) in s]
    return max(first, key=len, default=card.object_text(thing))


def _style_alone(card: DatasetCard, style: str) -> str:
    sentences = card.style_captions(style)
    first = [s for s in sentences if card.style_text(style) in s]
    return max(first, key=len, default=f"{card.style_text(style)} style")


def verdict_of(request: ConceptRequest, bench: Bench | PromptBench) -> Verdict:
    """The protocol's judge as a yes or no; CLIP for a concept in free words.

    Raises:
        UsageError: if the judge has no class of this name (the nearest is suggested), or there is
            no CLIP.
    """
    if isinstance(bench, PromptBench):
        return lambda pictures, cases: bench.detector.shown(pictures)
    if request.kind == "concept":
        return _clip_verdict(request, bench)
    judge = bench.judges[request.kind]
    (column,) = judge.columns([request.name], request.kind)

    def shows(pictures: np.ndarray, cases: Sequence[Case]) -> np.ndarray:
        return judge.predict(pictures).argmax(axis=1) == column

    return shows


def _clip_verdict(request: ConceptRequest, bench: Bench) -> Verdict:
    if bench.clip is None:
        raise UsageError(
            f"A request in free words is judged by CLIP, and {bench.protocol.name} has none; set"
            " `clip` in the protocol."
        )
    texts = bench.texts([request.prompts[0], request.anchor or NEUTRAL])
    texts = clip_metrics.normalised(texts)

    def shows(pictures: np.ndarray, cases: Sequence[Case]) -> np.ndarray:
        cosines = clip_metrics.normalised(bench.clip.image_features(pictures)) @ texts.T
        return cosines[:, 0] > cosines[:, 1]

    return shows


def read_pictures(folder: Path, size: int) -> np.ndarray:
    """[N, size, size, 3] uint8: all pictures of a folder, in the order of their names.

    Raises:
        UsageError: if there is no such folder, no picture in it, or one cannot be read.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"There is no folder of target pictures {folder}.")
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_FILES)
    if not paths:
        raise UsageError(
            f"{folder} holds no target picture; put some .png or .jpg files there that show the"
            " concept, or leave --targets out to use the original's own."
        )
    pictures = []
    for path in paths:
        pixels = Image.fromarray(read_picture(path))
        pictures.append(np.asarray(pixels.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(pictures)
