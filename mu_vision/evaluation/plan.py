"""What is to be drawn for a protocol: prompts, cells, and the latent that each picture starts from.

The first latent of a picture is made on the CPU, from its seed and its cell alone, so batches,
order, a resume or several processes cannot change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import seeding
from .protocol import Protocol, digest

if TYPE_CHECKING:
    from ..request import ConceptRequest
    from .class_protocol import ClassProtocol
    from .prompt_table import PromptTable
    from .prompts import PromptProtocol


@dataclass(frozen=True)
class Plan:
    """What is to be drawn: one row a picture.

    Attributes:
        prompts: [N] texts.
        styles: [N] positions in ``style_names``; -1 for pictures outside the grid.
        objects: [N] positions in ``object_names``.
        seeds: [N].
        latent_parts: [N], what ``seeding.noise`` makes each first latent of.
        settings: the sampler's settings, a part of the answer set's key.
        guidances: [N], where rows have their own; None takes the protocol's.
        sizes: [N] (height, width) in pixels, where rows have their own; None for the protocol's.
        remember: keep the states of every text; not for tables of thousands of texts.
    """

    prompts: tuple[str, ...]
    styles: np.ndarray
    objects: np.ndarray
    seeds: np.ndarray
    style_names: tuple[str, ...]
    object_names: tuple[str, ...]
    latent_parts: tuple[tuple[str | int, ...], ...]
    settings: dict[str, Any]
    guidances: tuple[float, ...] | None = None
    sizes: tuple[tuple[int, int], ...] | None = None
    remember: bool = True
    _streams: dict[Any, list[torch.Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.prompts)

    def key(self, fingerprint: str) -> str:
        """Name of the answer set of a model: other pictures, other key."""
        return digest("answers 1", fingerprint, self.settings, self.prompts, self.latent_parts)

    def alike(self, rows: Sequence[int]) -> list[tuple[list[int], float | None, Any]]:
        """(places in ``rows``, guidance, size) of those that can be drawn as one batch."""
        groups: dict[Any, list[int]] = {}
        for place, row in enumerate(rows):
            guidance = self.guidances[row] if self.guidances else None
            size = self.sizes[row] if self.sizes else None
            groups.setdefault((guidance, size), []).append(place)
        return [(places, *kind) for kind, places in groups.items()]

    def latents(self, rows: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
        """First latents [len(rows), C, h, w], float32 on the CPU."""
        return torch.stack([self._latent(self.latent_parts[row], shape) for row in rows])

    def _latent(self, parts: tuple[str | int, ...], shape: tuple[int, int, int]) -> torch.Tensor:
        if parts[0] == "shared":
            generator = torch.Generator().manual_seed(parts[1])
            return torch.randn(shape, generator=generator)
        if parts[0] == "stream":
            _, seed, place = parts
            return self._stream(seed, shape)[place]
        return seeding.noise(shape, *parts)

    def _stream(self, seed: int, shape: tuple[int, int, int]) -> list[torch.Tensor]:
        """Latents of all cells of a seed, drawn one after the other as a sampler's loop does."""
        if (seed, shape) not in self._streams:
            generator = torch.Generator().manual_seed(seed)
            cells = len(self.style_names) * len(self.object_names)
            self._streams[seed, shape] = [
                torch.randn(shape, generator=generator) for _ in range(cells)
            ]
        return self._streams[seed, shape]


def grid_plan(protocol: Protocol) -> Plan:
    """Every style x object x seed, in this order."""
    grid = protocol.grid
    shape = (len(grid.styles), len(grid.objects), len(protocol.seeds))
    styles, objects, seeds = np.indices(shape).reshape(3, -1)
    prompts, parts = [], []
    for s, o, r in zip(styles.tolist(), objects.tolist(), seeds.tolist(), strict=True):
        prompts.append(protocol.prompt(grid.objects[o], grid.styles[s]))
        parts.append(cell_latent(protocol, s, o, protocol.seeds[r]))
    return Plan(
        tuple(prompts), styles, objects, np.array(protocol.seeds)[seeds],
        grid.styles, grid.objects, tuple(parts), settings_of(protocol),
    )  # fmt: skip


def cell_latent(protocol: Protocol, s: int, o: int, seed: int) -> tuple[str | int, ...]:
    """What the first latent of a cell is made of, by the protocol's ``noise``.

    Args:
        protocol: of a grid.
        s: position of the style in the grid.
        o: position of the object in the grid.
        seed: of the picture.
    """
    grid, card = protocol.grid, protocol.card
    if protocol.noise == "shared":
        return ("shared", seed)
    if protocol.noise == "stream":
        return ("stream", seed, s * len(grid.objects) + o)
    # positions in the card: a lite protocol draws the same pictures
    place = (card.style_names.index(grid.styles[s]), card.object_names.index(grid.objects[o]))
    return ("latent", seed, *place)


def concept_plan(protocol: Protocol, requests: Sequence[ConceptRequest]) -> Plan:
    """Pictures for requests in free words: their prompts in turn, each from a latent of its own."""
    prompts: list[str] = []
    for request in requests:
        for k in range(protocol.concept_pictures):
            prompts.append(request.prompts[k % len(request.prompts)])
    seeds = np.arange(len(prompts)) % protocol.concept_pictures
    outside = np.full(len(prompts), -1)
    parts = tuple(("latent", "concept", int(k)) for k in seeds)
    return Plan(tuple(prompts), outside, outside, seeds, (), (), parts, settings_of(protocol))


def table_plan(protocol: PromptProtocol, table: PromptTable) -> Plan:
    """The rows of a table, each from the latent that a CPU generator draws with the row's seed.

    Rows of one size and guidance stand together, so that whole batches go through the network.
    """
    table = table.pick(table.order)
    settings = {**settings_of(protocol), "guidances": list(table.guidances)}
    if table.sizes is not None:
        settings["sizes"] = [list(size) for size in table.sizes]
    outside = np.full(len(table), -1)
    return Plan(
        table.prompts, outside, outside, np.array(table.seeds), (), (),
        tuple(("shared", seed) for seed in table.seeds), settings, table.guidances, table.sizes,
        remember=False,
    )  # fmt: skip


def class_plan(protocol: ClassProtocol) -> Plan:
    """``per_class`` pictures of every class, in this order; the prompt is the class's name."""
    each, names, known = protocol.per_class, protocol.names, protocol.card.object_names
    objects, numbers = np.indices((len(names), each)).reshape(2, -1)
    # positions in the card: a protocol of some classes draws the same pictures of them
    parts = [
        ("class", protocol.seed, known.index(names[o]), k)
        for o, k in zip(objects.tolist(), numbers.tolist(), strict=True)
    ]
    return Plan(
        tuple(names[o] for o in objects), np.full(len(objects), -1), objects, numbers, (), names,
        tuple(parts), settings_of(protocol),
    )  # fmt: skip


def settings_of(protocol: Protocol | PromptProtocol | ClassProtocol) -> dict[str, Any]:
    """The sampler's settings, a part of an answer set's key."""
    names = ("steps", "guidance", "negative", "size", "precision", "jpeg_quality")
    return {name: getattr(protocol, name) for name in names}
