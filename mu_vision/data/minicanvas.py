"""MiniCanvas: rendered pictures with two labels each, an object and a style.

A small sibling of UnlearnCanvas (Zhang et al. 2024, arXiv 2402.11846), made by this project:
10 objects x 8 styles, 64x64 RGB, every picture a pure function of (object, style, index). The
pose, shape and colours of picture ``index`` of an object are shared by all styles, so pictures
with the same index are the same drawing in different hands.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from ..progress import track
from . import minicanvas_shapes, minicanvas_styles
from .minicanvas_styles import BIG, SIZE, Drawing

OBJECTS = tuple(minicanvas_shapes.OBJECTS)
STYLES = tuple(minicanvas_styles.STYLES)


def render(object: str, style: str, index: int) -> np.ndarray:
    """Paint one picture.

    Returns:
        [64, 64, 3] uint8 RGB, the same bytes on every machine.

    Raises:
        KeyError: if the object or the style is not one of ``OBJECTS`` or ``STYLES``.
    """
    drawing = pose(object, index)
    rng = Random(f"minicanvas/{object}/{style}/{index}")
    picture = minicanvas_styles.STYLES[style](drawing, rng)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def pose(object: str, index: int) -> Drawing:
    """Draw picture ``index`` of an object: its shape, colours, place, size, tilt and mirror."""
    rng = Random(f"minicanvas/{object}/{index}")
    parts, palette = minicanvas_shapes.OBJECTS[object](rng)
    size = rng.uniform(0.33, 0.43) * BIG
    tilt = math.radians(rng.uniform(-9, 9))
    mirror = rng.choice((-1, 1))
    cx, cy = BIG * rng.uniform(0.45, 0.55), BIG * rng.uniform(0.46, 0.54)
    cos_tilt, sin_tilt = math.cos(tilt) * size, math.sin(tilt) * size
    placed = []
    for role, points in parts:
        turned = [
            (
                round(cx + mirror * x * cos_tilt - y * sin_tilt),
                round(cy + mirror * x * sin_tilt + y * cos_tilt),
            )
            for x, y in points
        ]
        placed.append((role, turned))
    labels = Image.new("L", (BIG, BIG))
    draw = ImageDraw.Draw(labels)
    for k, (_, points) in enumerate(placed, 1):
        draw.polygon(points, fill=k)
    return Drawing(placed, palette, labels, horizon=round(rng.uniform(0.6, 0.75) * SIZE))


# Judges, CLIP and the generator never see each other's pictures, and none of them sees ``test``;
# nothing at all is trained on ``reserve``.
SPLITS = {
    "generator": range(0, 400),
    "clip": range(400, 800),
    "judge": range(800, 1200),
    "test": range(1200, 1300),
    "reserve": range(1300, 1600),
}


@dataclass(frozen=True)
class Pictures:
    """Pictures with both labels, all in memory.

    Attributes:
        pixels: [N, 64, 64, 3] uint8.
        objects: [N] int64, positions in ``OBJECTS``.
        styles: [N] int64, positions in ``STYLES``.
    """

    pixels: np.ndarray
    objects: np.ndarray
    styles: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


def load(
    indices: Iterable[int], label: str = "painting MiniCanvas", without: Collection[str] = ()
) -> Pictures:
    """Render every object in every style for these indices, in the order object, style, index.

    Args:
        indices: of the pictures of each object and style.
        label: text before the progress bar.
        without: objects and styles that are left out.
    """
    indices = list(indices)
    cells = [
        (o, s)
        for o, object in enumerate(OBJECTS)
        for s, style in enumerate(STYLES)
        if object not in without and style not in without
    ]
    pixels = np.empty((len(cells) * len(indices), SIZE, SIZE, 3), np.uint8)
    for k, (o, s) in enumerate(track(cells, label)):
        for j, index in enumerate(indices):
            pixels[k * len(indices) + j] = render(OBJECTS[o], STYLES[s], index)
    objects, styles = np.repeat(np.array(cells, np.int64), len(indices), axis=0).T
    return Pictures(pixels, objects, styles)
