"""Gauges: rendered pictures of instruments, each with the value in [0, 100] that it shows.

A sibling of MiniCanvas for regression. An instrument (the subject) has a kind (dial, thermometer or
clock), a face and proportions of its own; a picture of it has a value, a pose, a background, light
and noise. Like MiniCanvas, only whole-number drawing and look-ups touch a pixel, so a picture has
the same bytes on every machine.

Values are 100 Beta(2, 2): mean 50, standard deviation 22.4, 21.6 % below 30, few at either end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
import torch
from PIL import Image, ImageDraw

from .measured import Measured
from .minicanvas_shapes import Colour, Part, ellipse, hsv, rectangle, ring, strip
from .samples import Splits

SIZE, SCALE = 32, 4
BIG = SIZE * SCALE
# case, plate, scale and hand
FACES: dict[str, tuple[Colour, Colour, Colour, Colour]] = {
    "white": ((70, 74, 82), (244, 244, 240), (60, 62, 70), (206, 40, 34)),
    "night": ((150, 152, 160), (24, 26, 36), (196, 200, 210), (255, 196, 40)),
    "brass": ((150, 110, 44), (246, 226, 176), (96, 66, 24), (24, 40, 96)),
    "blueprint": ((230, 238, 250), (30, 74, 150), (220, 232, 250), (255, 255, 255)),
}


def dial(value: float, shape: Random) -> list[Part]:
    """A needle over a scale that is open at the bottom; where it begins is the instrument's own."""
    half = shape.uniform(120, 150)
    start, length = 270 - half, shape.uniform(0.62, 0.8)
    angle = start + 2 * half * value / 100
    parts = [("case", ellipse(0, 0, 1, 1)), ("plate", ellipse(0, 0, 0.9, 0.9))]
    parts.append(("scale", ring(0, 0, 0.84, 0.76, start, start + 2 * half)))
    parts += [("scale", _ray(start + half * k / 2, 0.62, 0.84, 0.07)) for k in range(5)]
    return [*parts, ("hand", _ray(angle, -0.15, length, 0.14)), ("case", ellipse(0, 0, 0.14, 0.14))]


def thermometer(value: float, shape: Random) -> list[Part]:
    """A column in a tube above a bulb."""
    wide, bulb = shape.uniform(0.2, 0.3), shape.uniform(0.3, 0.38)
    low, high = 0.46, -0.88
    top = low + (high - low) * value / 100
    parts = [
        ("case", rectangle(-0.62, -1, 0.62, 1)),
        ("plate", rectangle(-0.54, -0.93, 0.54, 0.93)),
    ]
    for k in range(5):
        y = low + (high - low) * k / 4
        parts.append(("scale", rectangle(wide / 2 + 0.06, y - 0.03, 0.46, y + 0.03)))
    parts.append(("case", rectangle(-wide / 2 - 0.05, -0.9, wide / 2 + 0.05, low + 0.1)))
    parts.append(("plate", rectangle(-wide / 2, -0.88, wide / 2, low + 0.1)))
    parts.append(("hand", ellipse(0, low + 0.16, bulb * 0.75, bulb * 0.75)))
    return [*parts, ("hand", rectangle(-wide / 2, top, wide / 2, low + 0.1))]


def clock(value: float, shape: Random) -> list[Part]:
    """A hand that goes nearly once around from the top, and sweeps out a sector."""
    inner, length = shape.uniform(0.3, 0.5), shape.uniform(0.68, 0.84)
    angle = 270 + 345 * value / 100
    parts = [("case", rectangle(-0.96, -0.96, 0.96, 0.96)), ("plate", ellipse(0, 0, 0.92, 0.92))]
    parts += [("scale", _ray(270 + 90 * k, 0.74, 0.9, 0.1)) for k in range(4)]
    parts.append(("scale", ring(0, 0, inner, inner - 0.1, 270, angle)))
    return [*parts, ("hand", _ray(angle, -0.1, length, 0.16))]


def _ray(angle: float, near: float, far: float, width: float) -> list[tuple[float, float]]:
    """A straight ribbon from the centre outwards; degrees, clockwise on screen."""
    x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return strip([(near * x, near * y), (far * x, far * y)], width)


KINDS: dict[str, Callable[[float, Random], list[Part]]] = {
    "dial": dial, "thermometer": thermometer, "clock": clock,
}  # fmt: skip
SUBJECTS = tuple(f"{kind}-{face}-{n}" for kind in KINDS for face in FACES for n in (1, 2))
TRAIN, TEST = range(96), range(100_000, 100_032)


def render(subject: str, index: int) -> tuple[np.ndarray, float]:
    """Picture ``index`` of an instrument, and its value.

    Returns:
        [32, 32, 3] uint8 RGB, the same bytes on every machine, and a number in [0, 100].

    Raises:
        KeyError: if the instrument is not one of ``SUBJECTS``.
    """
    kind, face, _ = subject.split("-")
    rng = Random(f"gauges/{subject}/{index}")
    value = 100 * rng.betavariate(2, 2)
    parts = KINDS[kind](value, Random(f"gauges/{subject}"))
    colours = dict(zip(("case", "plate", "scale", "hand"), FACES[face], strict=True))
    picture = Image.new("RGB", (BIG, BIG), hsv(rng, (0, 360), (0.1, 0.5), (0.4, 0.95)))
    draw = ImageDraw.Draw(picture)
    floor = round(BIG * rng.uniform(0.55, 0.9))
    draw.rectangle((0, floor, BIG, BIG), fill=hsv(rng, (0, 360), (0.1, 0.5), (0.3, 0.8)))
    size, tilt = BIG * rng.uniform(0.4, 0.47), math.radians(rng.uniform(-6, 6))
    cx, cy = BIG * rng.uniform(0.47, 0.53), BIG * rng.uniform(0.47, 0.53)
    across, down = size * math.cos(tilt), size * math.sin(tilt)
    for role, points in parts:
        placed = [
            (round(cx + x * across - y * down), round(cy + x * down + y * across))
            for x, y in points
        ]
        draw.polygon(placed, fill=colours[role])
    light, grain = rng.randint(200, 280), np.random.RandomState(rng.randrange(2**31))
    pixels = np.asarray(picture.reduce(SCALE), np.int64) * light >> 8
    pixels += grain.randint(-14, 15, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8), value


@cache
def load() -> Splits:
    """24 instruments, 96 training and 32 test pictures each; painted once a process."""
    return Splits("gauges", _part(TRAIN), _part(TEST))


def _part(indices: range) -> Measured:
    found = [(*render(name, index), k) for k, name in enumerate(SUBJECTS) for index in indices]
    pixels, values, subjects = zip(*found, strict=True)
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return Measured(x.contiguous(), torch.tensor(values), torch.tensor(subjects), SUBJECTS)
