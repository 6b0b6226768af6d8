"""Pictures of a report: which cells to show, and each one as a ``data:`` URI."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

LARGEST = 192


def data_uri(pixels: np.ndarray) -> str:
    """``[H, W, 3] uint8`` -> ``data:image/webp;base64,...``.

    Small pictures are kept exactly (lossless); larger ones are shrunk to ``LARGEST`` pixels,
    since a report shows, and the answer set keeps.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    exact = max(image.size) <= 64
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", lossless=exact, quality=75 if exact else 86, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Shown:
    """One picture of a grid."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Wall:
    """A grid of pictures: a row a model, a column a cell, the same latents down each column.

    Attributes:
        columns: what each column shows: (text, smaller text below it).
        rows: (model key, pictures).
    """

    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[Shown]]]


Cell = tuple[str, str, int]


def wall(
    cells: Sequence[Cell],
    columns: Sequence[tuple[str, str]],
    titles: Mapping[str, str],
    lookup: Mapping[str, Mapping[Cell, np.ndarray]],
) -> Wall:
    """Lay out the same cells of every model.

    Args:
        cells: (style, object, seed) of each column, or (prompt, "", seed).
        columns: the one or two texts over each column.
        titles: model key -> its name, in the order of the rows.
        lookup: model key -> cell -> pixels.
    """
    rows = []
    for key, title in titles.items():
        shown = [
            Shown(
                data_uri(lookup[key][cell]),
                f"{title}: {', '.join(filter(None, text))}, seed {cell[2]}",
            )
            for cell, text in zip(cells, columns, strict=True)
            if cell in lookup[key]
        ]
        if len(shown) == len(cells):
            rows.append((key, shown))
    return Wall(list(columns), rows)


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most this many of the items, evenly spread over the list."""
    if len(items) <= most:
        return list(items)
    if most <= 1:
        return list(items[:1])
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


def target_cells(
    kind: str, names: Sequence[str], styles: Sequence[str], objects: Sequence[str], seed: int,
    most: int = 10,
) -> tuple[list[Cell], list[tuple[str, str]]]:  # fmt: skip
    """Cells that show what is to be forgotten, and their column texts."""
    if kind == "style":
        pairs = [(name, thing) for name in names for thing in spread(objects, most // len(names))]
    else:
        pairs = [(style, name) for name in names for style in spread(styles, most // len(names))]
    cells = [(style, thing, seed) for style, thing in pairs]
    return cells, [(thing, style) for style, thing in pairs]


def kept_cells(
    kind: str, names: Sequence[str], styles: Sequence[str], objects: Sequence[str], seed: int,
    most: int = 10,
) -> tuple[list[Cell], list[tuple[str, str]]]:  # fmt: skip
    """Cells without the target: every other style (or object) once, the other label in turn."""
    styles = [s for s in styles if kind != "style" or s not in names]
    objects = [o for o in objects if kind != "object" or o not in names]
    count = min(most, max(len(styles), len(objects)))
    style_list, object_list = spread(styles, most), spread(objects, most)
    pairs = [
        (style_list[k % len(style_list)], object_list[k % len(object_list)]) for k in range(count)
    ]
    return [(style, thing, seed) for style, thing in pairs], [(o, s) for s, o in pairs]
