"""The eight styles of MiniCanvas.

A style turns a ``Drawing`` (which part of which object covers which pixel) into a 64x64 picture.
Shapes are painted at four times the size and averaged down. Nothing but whole-number drawing,
additions, products and table look-ups touches a pixel (no ``sin`` or ``exp`` on arrays, whose
last bit differs between processors), so a picture has the same bytes on every machine.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .minicanvas_shapes import Colour, Part

SIZE = 64
SCALE = 4
BIG = SIZE * SCALE


@dataclass
class Drawing:
    """One posed object, ready to be painted in any style.

    Attributes:
        parts: (role, [(x, y), ...]) in whole pixels of the [BIG, BIG] canvas, back to front.
        palette: colour of each role.
        labels: [BIG, BIG] uint8, 0 for background, k for ``parts[k - 1]``.
        horizon: height of the ground line in pixels of the final picture.
    """

    parts: list[Part]
    palette: dict[str, Colour]
    labels: Image.Image
    horizon: int

    def colours(self, background: Colour = (0, 0, 0)) -> np.ndarray:
        """[256, 3] uint8 look-up table: label -> colour."""
        table = np.zeros((256, 3), np.uint8)
        table[0] = background
        for k, (role, _) in enumerate(self.parts, 1):
            table[k] = self.palette[role]
        return table

    def outline(self, width: int) -> Image.Image:
        """[BIG, BIG] uint8: the visible outlines, labelled by part (0 where there is none)."""
        image = Image.new("L", (BIG, BIG))
        draw = ImageDraw.Draw(image)
        for k, (_, points) in enumerate(self.parts, 1):
            draw.polygon(points, fill=0)
            draw.line([*points, points[0]], fill=k, width=width)
        return image


def shrink(table: np.ndarray, index: Image.Image | np.ndarray) -> np.ndarray:
    """Look up [BIG, BIG] indices in a colour table and average down to [64, 64, C] float32."""
    big = Image.fromarray(table[np.asarray(index)])
    return np.asarray(big.reduce(SCALE), np.float32)


def coverage(index: Image.Image) -> np.ndarray:
    """[64, 64, 1] float32 in [0, 1]: the share of each pixel whose index is not 0."""
    mask = index.point([0] + [255] * 255)
    return np.asarray(mask.reduce(SCALE), np.float32)[..., None] / 255


def blur(picture: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a [64, 64, 3] picture in [0, 255] (Pillow's whole-number box blurs)."""
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)


@cache
def _grain(seed: int, cell: int) -> np.ndarray:
    """[128, 128, 1] float32 noise in [-1, 1] with blobs of about ``cell`` pixels, made once."""
    random = np.random.RandomState(seed)
    small = random.randint(0, 256, (128 // cell, 128 // cell)).astype(np.uint8)
    big = Image.fromarray(small).resize((128, 128), Image.Resampling.BILINEAR)
    return (np.asarray(big, np.float32)[..., None] - 127.5) / 127.5


def grain(rng: Random, cell: int) -> np.ndarray:
    """A random 64x64 window of the noise texture."""
    x, y = rng.randrange(64), rng.randrange(64)
    return _grain(cell, cell)[y : y + SIZE, x : x + SIZE]


def pastel(rng: Random, value=(0.86, 0.97), saturation=(0.1, 0.35), hue=(0, 360)) -> Colour:
    rgb = colorsys.hsv_to_rgb(
        rng.uniform(*hue) % 360 / 360, rng.uniform(*saturation), rng.uniform(*value)
    )
    return tuple(round(255 * channel) for channel in rgb)


def luminance(table: np.ndarray) -> np.ndarray:
    """[256] int: brightness 0..255 of a colour table."""
    return (table[:, 0].astype(int) * 77 + table[:, 1] * 150 + table[:, 2] * 29) >> 8


_ROWS = np.arange(SIZE, dtype=np.float32)[:, None, None]
_COLUMNS = np.arange(SIZE, dtype=np.float32)[None, :, None]


def scenery(drawing: Drawing, rng: Random) -> np.ndarray:
    """[64, 64, 3] sky and ground, each a vertical gradient."""
    sky = np.array(pastel(rng, (0.82, 1.0), (0.1, 0.5), (170, 250)), np.float32)
    haze = np.array(pastel(rng, (0.92, 1.0), (0.02, 0.2), (20, 220)), np.float32)
    near = np.array(pastel(rng, (0.45, 0.75), (0.2, 0.5), (25, 140)), np.float32)
    above = _ROWS / drawing.horizon
    below = (_ROWS - drawing.horizon) / (SIZE - drawing.horizon)
    ground = near * (1.12 - 0.3 * below)
    return np.where(_ROWS < drawing.horizon, sky + (haze - sky) * above, ground)


def flat_scenery(drawing: Drawing, rng: Random) -> tuple[Colour, Colour]:
    """Two pale, quiet colours, so that a coarse texture cannot swallow the object."""
    return pastel(rng, (0.93, 1.0), (0.04, 0.2)), pastel(rng, (0.72, 0.86), (0.12, 0.32))


def photo(drawing: Drawing, rng: Random) -> np.ndarray:
    back = scenery(drawing, rng)
    xs = [x for _, points in drawing.parts for x, _ in points]
    ys = [y for _, points in drawing.parts for _, y in points]
    centre, base, reach = (min(xs) + max(xs)) // 2, max(ys), (max(xs) - min(xs)) // 2
    shadow = Image.new("L", (BIG, BIG))
    ImageDraw.Draw(shadow).ellipse(
        (centre - reach, base - 20, centre + reach + 24, base + 14), fill=255
    )
    shadow = shadow.reduce(SCALE).filter(ImageFilter.GaussianBlur(1.5))
    back = back * (1 - 0.45 * np.asarray(shadow, np.float32)[..., None] / 255)
    light = rng.choice((-1, 1))
    across = (_COLUMNS - centre / SCALE) / 26 * light
    down = (_ROWS - (min(ys) + max(ys)) / 2 / SCALE) / 26
    shade = np.clip(1.02 - 0.16 * across - 0.2 * down, 0.62, 1.28)
    cover = coverage(drawing.labels)
    body = shrink(drawing.colours(), drawing.labels) * shade
    return body + back * (1 - cover) + 5 * grain(rng, 1)


def sketch(drawing: Drawing, rng: Random) -> np.ndarray:
    paper = np.array(pastel(rng, (0.93, 0.98), (0.02, 0.1), (30, 60)), np.float32)
    light = luminance(drawing.colours((255, 255, 255)))
    depth = np.asarray(drawing.labels)
    slant = 1 if rng.random() < 0.5 else 0
    strokes = _hatch(slant)[rng.randrange(16) :][:BIG]
    amount = np.where(light < 80, 9, np.where(light < 140, 6, np.where(light < 200, 4, 0)))
    amount[0] = 0
    shaded = (strokes % 16 < amount[depth]).astype(np.uint8) * 120
    ground = np.zeros((BIG, BIG), np.uint8)
    ground[drawing.horizon * SCALE :] = (
        _hatch(2)[drawing.horizon * SCALE : BIG] % 28 < 5
    ) * np.uint8(110)
    shaded = np.where(depth == 0, ground, shaded)
    lines = np.asarray(drawing.outline(6).point([0] + [225] * 255))
    graphite = Image.fromarray(np.maximum(shaded, lines)).reduce(SCALE)
    dark = np.asarray(graphite, np.float32)[..., None] / 255 * (0.95 + 0.12 * grain(rng, 1))
    ink = np.array((52, 50, 56), np.float32)
    return paper + (ink - paper) * np.clip(dark, 0, 1) + 3 * grain(rng, 2)


@cache
def _hatch(kind: int) -> np.ndarray:
    """[BIG + 16, BIG] int: a coordinate that runs across falling, rising or level strokes."""
    rows, columns = np.mgrid[0 : BIG + 16, 0:BIG]
    wobble = (np.asarray(_grain(3, 16)[:64, :64, 0] * 5).repeat(5, 0).repeat(4, 1)).astype(int)
    wobble = wobble[: BIG + 16, :BIG]
    across = {0: rows + columns, 1: rows - columns + BIG, 2: rows * 2}[kind]
    return across + (wobble if kind != 2 else 0)


def mosaic(drawing: Drawing, rng: Random) -> np.ndarray:
    sky, ground = flat_scenery(drawing, rng)
    table = drawing.colours(sky)
    big = table[np.asarray(drawing.labels)]
    below = np.asarray(drawing.labels)[drawing.horizon * SCALE :] == 0
    big[drawing.horizon * SCALE :][below] = ground
    big[np.asarray(drawing.outline(10)) > 0] //= 2
    tile_of, grout = _tiles()
    counts = np.bincount(tile_of.ravel(), minlength=tile_of.max() + 1)
    tiles = np.stack(
        [np.bincount(tile_of.ravel(), big[..., c].ravel()) / counts for c in range(3)], axis=1
    )
    glaze = np.array([rng.uniform(0.86, 1.14) for _ in range(64)], np.float32)
    tiles = tiles * glaze[np.arange(len(tiles)) * 7 % 64, None]
    picture = np.clip(tiles, 0, 255).astype(np.uint8)[tile_of]
    picture[grout] = (96, 88, 84)
    return np.asarray(Image.fromarray(picture).reduce(SCALE), np.float32)


@cache
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """Which tile covers each big pixel, and where the grout runs (tiles laid like bricks)."""
    rows, columns = np.mgrid[0:BIG, 0:BIG]
    height, width = 12, 16
    row = rows // height
    shifted = columns + (row % 2) * (width // 2)
    tile = row * (BIG // width + 2) + shifted // width
    grout = (rows % height < 2) | (shifted % width < 2)
    _, dense = np.unique(tile, return_inverse=True)
    return dense.reshape(BIG, BIG), grout


def neon(drawing: Drawing, rng: Random) -> np.ndarray:
    night = np.array(pastel(rng, (0.07, 0.15), (0.5, 0.9), (215, 300)), np.float32)
    hues = {}
    table = np.zeros((256, 3), np.uint8)
    for k, (role, _) in enumerate(drawing.parts, 1):
        if role not in hues:
            hues[role] = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.75, 1.0), 1.0)
        table[k] = [round(255 * channel) for channel in hues[role]]
    tube = drawing.outline(9)
    light = shrink(table, tube)
    core = coverage(drawing.outline(3))
    glow = blur(light * 1.6, 2.0) * 0.75 + blur(light * 2, 5.0) * 0.5
    fade = 1 - 0.5 * np.abs(_ROWS - 32) / 32
    return night * fade + glow * 0.85 + light * 0.8 + 110 * core


def watercolor(drawing: Drawing, rng: Random) -> np.ndarray:
    paper = np.array((250, 247, 240), np.float32)
    wash = np.array(pastel(rng, (0.85, 0.97), (0.2, 0.4)), np.float32)
    land = np.array(pastel(rng, (0.75, 0.92), (0.2, 0.45), (20, 150)), np.float32)
    blot, fine = grain(rng, 16), grain(rng, 4)
    sky = np.clip(0.55 + 0.5 * blot - 0.2 * (_ROWS / drawing.horizon), 0, 1)
    soft = np.clip((_ROWS - drawing.horizon) / 5 + 0.5 + 0.4 * fine, 0, 1)
    back = paper + (wash - paper) * sky * (1 - soft) + (land - paper) * soft * 0.8
    margin = np.minimum(np.minimum(_ROWS, 63 - _ROWS), np.minimum(_COLUMNS, 63 - _COLUMNS))
    back = paper + (back - paper) * np.clip((margin - 2 + 2.5 * fine) / 4, 0, 1)
    cover = coverage(drawing.labels)
    body = shrink(drawing.colours(), drawing.labels)
    body = blur(body + 250 * (1 - cover), 0.8)
    bleed = blur(np.repeat(cover * 255, 3, axis=2), 1.1)[..., :1] / 255
    rim = 4 * bleed * (1 - bleed)
    pigment = np.clip(0.78 + 0.22 * blot + 0.1 * fine, 0.35, 1) * (0.85 + 0.15 * rim)
    lines = coverage(drawing.outline(3)) * 0.35
    painted = (paper + (body - paper) * pigment) * (1 - 0.22 * rim) * (1 - lines)
    return back + (painted - back) * bleed


def pointillism(drawing: Drawing, rng: Random) -> np.ndarray:
    sky, ground = flat_scenery(drawing, rng)
    table = drawing.colours(sky)
    dot_of, inside, centres = _dots()
    labels = np.asarray(drawing.labels)[centres[:, 0], centres[:, 1]]
    dots = table[labels].astype(np.float32)
    dots[(labels == 0) & (centres[:, 0] >= drawing.horizon * SCALE)] = ground
    contour = np.asarray(drawing.outline(12))[centres[:, 0], centres[:, 1]] > 0
    dots[contour] *= 0.55
    jitter = _grain(7, 1).reshape(-1)[: len(dots) * 3].reshape(-1, 3)
    dots = np.clip(dots + 26 * jitter + 6, 0, 255).astype(np.uint8)
    picture = np.where(inside[..., None], dots[dot_of], np.uint8([238, 230, 212]))
    return np.asarray(Image.fromarray(picture).reduce(SCALE), np.float32)


@cache
def _dots() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest dot of each big pixel, whether the pixel lies inside it, and the dots' centres."""
    random = np.random.RandomState(11)
    pitch = 11
    count = BIG // pitch + 1
    cells = np.stack(np.mgrid[0:count, 0:count], axis=-1).reshape(-1, 2)
    offset = (cells[:, :1] % 2) * np.array([[0, pitch // 2]])
    centres = cells * pitch + offset + random.randint(-2, 3, cells.shape)
    centres = np.clip(centres, 0, BIG - 1)
    radii = random.randint(5, 8, len(cells))
    index = Image.new("I", (BIG, BIG))
    draw = ImageDraw.Draw(index)
    for k, ((y, x), r) in enumerate(zip(centres.tolist(), radii.tolist(), strict=True), 1):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=k)
    index = np.asarray(index)
    return np.maximum(index - 1, 0), index > 0, centres


def woodcut(drawing: Drawing, rng: Random) -> np.ndarray:
    paper = np.array(pastel(rng, (0.9, 0.96), (0.1, 0.22), (32, 48)), np.float32)
    ink = np.array((28, 24, 26), np.float32)
    light = luminance(drawing.colours((255, 255, 255)))
    labels = np.asarray(drawing.labels)
    slant = rng.randrange(2)
    cut = _hatch(slant)[rng.randrange(16) :][:BIG] % 20
    black = np.clip((228 - light) // 17, 0, 10)
    body = cut < black[labels]
    carved = (_hatch(2)[:BIG] + _wave()) % 36 < np.where(
        np.arange(BIG)[:, None] < drawing.horizon * SCALE, 6, 14
    )
    halo = np.asarray(drawing.labels.point([0] + [255] * 255).filter(ImageFilter.BoxBlur(5))) > 0
    wood = np.where(labels > 0, body, carved & ~halo)
    wood = wood | (np.asarray(drawing.outline(7)) > 0)
    dark = np.asarray(Image.fromarray(wood.astype(np.uint8) * 255).reduce(SCALE), np.float32)[
        ..., None
    ]
    return paper + (ink - paper) * dark / 255


@cache
def _wave() -> np.ndarray:
    """[BIG, BIG] int: the slow bend of the carved background lines."""
    columns = np.arange(BIG)
    arc = (columns % 128) * (128 - columns % 128) // 256 * np.where(columns < 128, 1, -1)
    return np.broadcast_to(arc // 2 + 64, (BIG, BIG))


def blueprint(drawing: Drawing, rng: Random) -> np.ndarray:
    blue = np.array(pastel(rng, (0.5, 0.68), (0.72, 0.88), (212, 224)), np.float32)
    grid = np.array(_grid(rng.randrange(8), rng.randrange(8)))
    cover = coverage(drawing.labels)
    lines = coverage(drawing.outline(5))
    white = np.array((232, 241, 255), np.float32)
    back = blue + (white - blue) * 0.2 * grid * (1 - 0.75 * cover)
    back = back * (1 - 0.22 * cover)
    xs = [x // SCALE for _, points in drawing.parts for x, _ in points]
    low = min(61, max(y for _, points in drawing.parts for _, y in points) // SCALE + 3)
    rule = np.zeros((SIZE, SIZE, 1), np.float32)
    left, right = max(min(xs), 0), min(max(xs), 63)
    rule[low, left : right + 1] = 0.7
    rule[low - 1 : low + 2, [left, right]] = 0.7
    return back + (white - back) * np.maximum(lines * 0.95, rule)


@cache
def _grid(x: int, y: int) -> np.ndarray:
    lines = np.zeros((SIZE, SIZE, 1), np.float32)
    lines[y::8] = 1
    lines[:, x::8] = 1
    return lines


STYLES: dict[str, Callable[[Drawing, Random], np.ndarray]] = {
    painter.__name__: painter
    for painter in (photo, sketch, mosaic, neon, watercolor, pointillism, woodcut, blueprint)
}
