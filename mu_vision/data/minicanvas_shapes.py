"""The ten objects of MiniCanvas as polygons.

An object is a list of parts, painted back to front. A part is ``(role, points)``: the role names
an entry of the palette, the points are (x, y) pairs in the object's own square [-1, 1]^2 with y
pointing down. Only ``random.Random`` and ``math`` are used, and the renderer rounds every point
to a whole pixel, so that a picture has the same bytes on every machine.
"""

from __future__ import annotations

import colorsys
import math
from random import Random

Point = tuple[float, float]
Part = tuple[str, list[Point]]
Colour = tuple[int, int, int]


def ellipse(cx, cy, rx, ry, tilt=0.0, start=0.0, stop=360.0, n=28) -> list[Point]:
    """Points on an elliptic arc; angles and tilt in degrees, clockwise on screen."""
    cos_tilt, sin_tilt = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    points = []
    for k in range(n + 1):
        angle = math.radians(start + (stop - start) * k / n)
        x, y = rx * math.cos(angle), ry * math.sin(angle)
        points.append((cx + x * cos_tilt - y * sin_tilt, cy + x * sin_tilt + y * cos_tilt))
    return points


def rectangle(x0, y0, x1, y1) -> list[Point]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def ring(cx, cy, outer, inner, start=0.0, stop=360.0) -> list[Point]:
    """A band between two concentric arcs."""
    back = ellipse(cx, cy, inner, inner, 0, start, stop)[::-1]
    return ellipse(cx, cy, outer, outer, 0, start, stop) + back


def strip(path: list[Point], width: float) -> list[Point]:
    """A ribbon of constant width along a path."""
    left, right = [], []
    for k, (x, y) in enumerate(path):
        x0, y0 = path[max(k - 1, 0)]
        x1, y1 = path[min(k + 1, len(path) - 1)]
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
        left.append((x + nx, y + ny))
        right.append((x - nx, y - ny))
    return left + right[::-1]


def hsv(rng: Random, hue: tuple[float, float], sat=(0.55, 0.9), value=(0.6, 0.95)) -> Colour:
    """A random colour; hue in degrees, saturation and value in [0, 1]."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(*hue) % 360 / 360, rng.uniform(*sat), rng.uniform(*value))
    return tuple(round(255 * channel) for channel in rgb)


def tree(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    width = rng.uniform(0.1, 0.16)
    parts: list[Part] = [
        (
            "trunk",
            [(-width, 0.1), (width, 0.1), (width * 1.2, 0.8), (width * 1.9, 0.97),
             (-width * 1.9, 0.97), (-width * 1.2, 0.8)],
        )
    ]  # fmt: skip
    spread = rng.uniform(0.34, 0.46)
    crown = [
        (-spread, 0.0),
        (spread, 0.02),
        (0.0, 0.12),
        (-spread * 0.6, -0.4),
        (spread * 0.6, -0.38),
    ]
    for x, y in [*crown, (0.0, -0.6)]:
        size = rng.uniform(0.3, 0.38)
        parts.append(("leaf", ellipse(x, y, size, size * rng.uniform(0.88, 1.0))))
    parts.append(("leaf", ellipse(0.0, -0.22, 0.42, 0.4)))
    for _ in range(rng.randint(0, 5)):
        x, y = rng.uniform(-0.45, 0.45), rng.uniform(-0.6, 0.1)
        parts.append(("fruit", ellipse(x, y, 0.075, 0.075, n=14)))
    hue = (80, 150) if rng.random() < 0.7 else (15, 55)
    return parts, {
        "leaf": hsv(rng, hue, (0.5, 0.85), (0.45, 0.8)),
        "trunk": hsv(rng, (18, 32), (0.5, 0.7), (0.3, 0.5)),
        "fruit": hsv(rng, (340, 370), (0.75, 0.95), (0.8, 0.95)),
    }


def house(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    w, top = rng.uniform(0.6, 0.76), rng.uniform(-0.2, 0.0)
    peak = top - rng.uniform(0.55, 0.72)
    chimney = rng.choice((-1, 1)) * w * 0.55
    parts = [
        ("trim", rectangle(chimney - 0.1, peak + 0.08, chimney + 0.1, top - 0.1)),
        ("wall", rectangle(-w, top, w, 0.92)),
        ("roof", [(-w - 0.17, top + 0.06), (0, peak), (w + 0.17, top + 0.06)]),
    ]
    door = rng.choice((-1, 0, 1)) * w * 0.5
    parts.append(("door", rectangle(door - 0.15, 0.36, door + 0.15, 0.92)))
    for x in (-w * 0.5, 0.0, w * 0.5):
        if abs(x - door) > 0.2 and (abs(x) > 0.1 or abs(door) > 0.1):
            size = 0.15
            parts.append(("glass", rectangle(x - size, top + 0.2, x + size, top + 0.2 + 2 * size)))
    if rng.random() < 0.6:
        parts.append(("glass", ellipse(0, (top + peak) / 2 + 0.12, 0.1, 0.1, n=16)))
    return parts, {
        "wall": hsv(rng, (0, 360), (0.15, 0.5), (0.75, 0.98)),
        "roof": hsv(rng, (350, 385), (0.6, 0.9), (0.5, 0.85)),
        "door": hsv(rng, (0, 360), (0.5, 0.8), (0.3, 0.55)),
        "glass": hsv(rng, (45, 60), (0.4, 0.7), (0.95, 1.0)),
        "trim": hsv(rng, (5, 20), (0.4, 0.6), (0.45, 0.6)),
    }


def fish(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    height, tail = rng.uniform(0.4, 0.52), rng.uniform(0.36, 0.5)
    parts = [
        ("fin", [(0.45, 0.0), (0.98, -tail), (0.86, 0.0), (0.98, tail)]),
        ("fin", [(-0.3, -height * 0.8), (0.12, -height - 0.3), (0.4, -height * 0.55)]),
        ("fin", [(-0.1, height * 0.85), (0.16, height + 0.24), (0.3, height * 0.7)]),
        ("body", ellipse(-0.12, 0, 0.78, height)),
    ]
    for k in range(rng.randint(1, 3)):
        x = 0.0 + 0.23 * k
        reach = height * math.sqrt(max(0.0, 1 - ((x + 0.12) / 0.78) ** 2)) * 0.97
        parts.append(("band", rectangle(x - 0.055, -reach, x + 0.055, reach)))
    parts += [
        ("band", [(-0.2, 0.06), (0.06, 0.2), (-0.16, 0.3)]),
        ("white", ellipse(-0.55, -0.1, 0.14, 0.14, n=18)),
        ("dark", ellipse(-0.58, -0.1, 0.07, 0.07, n=12)),
    ]
    hue = rng.uniform(0, 360)
    return parts, {
        "body": hsv(rng, (hue, hue), (0.6, 0.9), (0.75, 0.98)),
        "fin": hsv(rng, (hue + 25, hue + 60), (0.6, 0.9), (0.6, 0.9)),
        "band": hsv(rng, (hue + 150, hue + 200), (0.3, 0.7), (0.85, 1.0)),
        "white": (250, 250, 245),
        "dark": (25, 25, 35),
    }


def cat(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    lift = rng.uniform(0.0, 0.3)
    tail = [(0.3, 0.82), (0.62, 0.84), (0.84, 0.66), (0.86, 0.36 - lift), (0.7, 0.14 - lift)]
    parts = [
        ("fur", strip(tail, 0.19)),
        ("fur", ellipse(0.02, 0.6, 0.46, 0.42)),
        ("belly", ellipse(0.0, 0.68, 0.24, 0.28)),
        ("fur", [(-0.55, -0.2), (-0.58, -0.95), (-0.08, -0.55)]),
        ("fur", [(0.55, -0.2), (0.58, -0.95), (0.08, -0.55)]),
        ("inner", [(-0.46, -0.42), (-0.48, -0.76), (-0.24, -0.56)]),
        ("inner", [(0.46, -0.42), (0.48, -0.76), (0.24, -0.56)]),
        ("fur", ellipse(0, -0.2, 0.6, 0.47)),
    ]
    if rng.random() < 0.6:
        for x in (-0.14, 0.0, 0.14):
            parts.append(("stripe", [(x - 0.045, -0.62), (x + 0.045, -0.62), (x, -0.4)]))
    look = rng.uniform(-0.03, 0.03)
    for side in (-1, 1):
        parts.append(("eye", ellipse(side * 0.25, -0.23, 0.13, 0.12, n=18)))
        parts.append(("dark", ellipse(side * 0.25 + look, -0.23, 0.05, 0.11, n=14)))
        for tilt in (-0.06, 0.06):
            whisker = [(side * 0.2, 0.0), (side * 0.78, 0.0 + tilt * 1.6)]
            parts.append(("dark", strip(whisker, 0.03)))
    parts += [
        ("inner", [(-0.08, -0.07), (0.08, -0.07), (0, 0.03)]),
        ("fur", ellipse(-0.18, 0.95, 0.16, 0.1, n=16)),
        ("fur", ellipse(0.18, 0.95, 0.16, 0.1, n=16)),
    ]
    coat = rng.choice(("ginger", "grey", "cream", "black", "brown"))
    fur = {
        "ginger": hsv(rng, (22, 34), (0.65, 0.85), (0.85, 0.97)),
        "grey": hsv(rng, (200, 240), (0.05, 0.2), (0.45, 0.7)),
        "cream": hsv(rng, (35, 48), (0.15, 0.3), (0.9, 1.0)),
        "black": hsv(rng, (230, 270), (0.1, 0.3), (0.18, 0.3)),
        "brown": hsv(rng, (20, 32), (0.4, 0.6), (0.4, 0.6)),
    }[coat]
    return parts, {
        "fur": fur,
        "belly": tuple(min(255, round(0.5 * c + 125)) for c in fur),
        "stripe": tuple(round(c * 0.55) for c in fur),
        "inner": (240, 160, 165),
        "eye": hsv(rng, (50, 200), (0.5, 0.9), (0.85, 1.0)),
        "dark": (30, 25, 30) if coat != "black" else (235, 235, 225),
    }


def flower(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    bend = rng.uniform(-0.2, 0.2)
    stem = [(0, -0.25), (bend * 0.6, 0.2), (bend, 0.55), (bend * 0.8, 0.98)]
    parts = [("stem", strip(stem, 0.11))]
    for side, y in ((-1, 0.55), (1, 0.72)):
        x = bend * 0.9
        leaf = ellipse(x + side * 0.28, y - 0.06, 0.28, 0.12, -28 * side)
        parts.append(("stem", leaf))
    petals, spin = rng.randint(5, 8), rng.uniform(0, 72)
    length, width = rng.uniform(0.26, 0.31), 1.05 / petals
    for k in range(petals):
        angle = math.radians(spin + 360 * k / petals)
        cx, cy = 0.38 * math.cos(angle), -0.33 + 0.38 * math.sin(angle)
        parts.append(("petal", ellipse(cx, cy, length, width, math.degrees(angle))))
    parts.append(("heart", ellipse(0, -0.33, 0.2, 0.2)))
    hue = rng.choice((0, 20, 275, 320, 345, 210, 50))
    return parts, {
        "petal": hsv(rng, (hue, hue + 15), (0.35, 0.85), (0.85, 1.0)),
        "heart": hsv(rng, (38, 52), (0.75, 0.95), (0.85, 1.0)) if hue != 50 else (110, 65, 30),
        "stem": hsv(rng, (95, 140), (0.5, 0.8), (0.4, 0.65)),
    }


def boat(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    mast, high = rng.uniform(-0.12, 0.08), rng.uniform(-0.95, -0.8)
    sail = rng.uniform(0.55, 0.72)
    parts = [
        ("mast", rectangle(mast - 0.035, high, mast + 0.035, 0.42)),
        ("sail", [(mast + 0.08, high + 0.08), (mast + 0.08, 0.22), (mast + 0.08 + sail, 0.22)]),
        (
            "jib",
            [(mast - 0.09, high + 0.25), (mast - 0.09, 0.22), (mast - 0.05 - sail * 0.8, 0.22)],
        ),
        (
            "flag",
            [(mast + 0.03, high - 0.03), (mast + 0.3, high + 0.03), (mast + 0.03, high + 0.1)],
        ),
        ("hull", [(-0.88, 0.34), (0.92, 0.34), (0.62, 0.76), (-0.6, 0.76)]),
        ("stripe", [(-0.83, 0.41), (0.87, 0.41), (0.81, 0.5), (-0.77, 0.5)]),
    ]
    for k in range(-2, 3):
        x = 0.42 * k
        parts.append(("wave", ellipse(x, 0.86, 0.25, 0.13, 0, 180, 360, 16)))
    return parts, {
        "hull": hsv(rng, (0, 360), (0.6, 0.9), (0.45, 0.8)),
        "stripe": (245, 240, 230),
        "sail": hsv(rng, (30, 60), (0.02, 0.2), (0.92, 1.0)),
        "jib": hsv(rng, (0, 360), (0.3, 0.8), (0.85, 1.0)),
        "flag": hsv(rng, (350, 370), (0.8, 0.95), (0.8, 0.95)),
        "mast": hsv(rng, (22, 32), (0.5, 0.7), (0.35, 0.5)),
        "wave": hsv(rng, (195, 220), (0.5, 0.8), (0.65, 0.9)),
    }


def mushroom(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    width, height = rng.uniform(0.78, 0.92), rng.uniform(0.75, 0.95)
    foot = rng.uniform(0.24, 0.34)
    parts = [
        ("stalk", [(-0.2, 0.05), (0.2, 0.05), (foot * 0.85, 0.6), (foot, 0.94), (-foot, 0.94),
                   (-foot * 0.85, 0.6)]),
        ("gill", ellipse(0, 0.08, width * 0.97, 0.16)),
        ("cap", ellipse(0, 0.08, width, height, 0, 180, 360)),
    ]  # fmt: skip
    for x, y, size in ((-0.45, 0.3, 0.12), (0.02, 0.55, 0.15), (0.45, 0.28, 0.13), (-0.05, 0.2, 0.1),
                       (-0.32, 0.68, 0.08), (0.36, 0.66, 0.08)):  # fmt: skip
        if rng.random() < 0.85:
            size *= rng.uniform(0.8, 1.15)
            parts.append(("spot", ellipse(x * width, 0.08 - y * height, size, size * 0.85, n=18)))
    hue = rng.choice((0, 0, 15, 30, 280, 205))
    return parts, {
        "cap": hsv(rng, (hue - 5, hue + 8), (0.65, 0.92), (0.6, 0.92)),
        "spot": hsv(rng, (40, 60), (0.02, 0.15), (0.95, 1.0)),
        "stalk": hsv(rng, (35, 50), (0.08, 0.25), (0.88, 0.98)),
        "gill": hsv(rng, (25, 40), (0.25, 0.4), (0.6, 0.75)),
    }


def star(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    inner, spin = rng.uniform(0.4, 0.47), rng.uniform(-16, 16) - 90
    tips = []
    for k in range(10):
        radius = 0.95 if k % 2 == 0 else inner
        angle = math.radians(spin + 36 * k)
        tips.append((radius * math.cos(angle), 0.06 + radius * math.sin(angle)))
    parts: list[Part] = [("face", tips)]
    for k in range(0, 10, 2):
        parts.append(("facet", [(0, 0.06), tips[k], tips[(k + 1) % 10]]))
    face = hsv(rng, rng.choice(((42, 56), (42, 56), (0, 360))), (0.6, 0.9), (0.88, 1.0))
    return parts, {"face": face, "facet": tuple(round(c * 0.72) for c in face)}


def cup(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    top, foot = rng.uniform(0.52, 0.62), rng.uniform(0.34, 0.48)
    rim = rng.uniform(-0.38, -0.25)
    parts = [
        ("plate", ellipse(-0.05, 0.84, 0.82, 0.13)),
        ("body", ring(top - 0.1, rim + 0.52, 0.36, 0.2, -80, 90)),
        ("body", [(-top, rim), (top, rim), (top * 0.96, rim + 0.5), (foot, 0.82), (-foot, 0.82),
                  (-top * 0.96, rim + 0.5)]),
        ("band", [(-top * 0.985, rim + 0.3), (top * 0.985, rim + 0.3), (top * 0.95, rim + 0.5),
                  (-top * 0.95, rim + 0.5)]),
        ("body", ellipse(0, rim, top, 0.16)),
        ("drink", ellipse(0, rim + 0.01, top * 0.84, 0.11)),
    ]  # fmt: skip
    for x in (-0.22, 0.05, 0.3)[: rng.randint(2, 3)]:
        path = [
            (x, rim - 0.2),
            (x + 0.08, rim - 0.32),
            (x - 0.06, rim - 0.44),
            (x + 0.05, rim - 0.58),
        ]
        parts.append(("steam", strip(path, 0.055)))
    hue = rng.uniform(0, 360)
    return parts, {
        "body": hsv(rng, (hue, hue), (0.25, 0.8), (0.75, 0.98)),
        "band": hsv(rng, (hue + 120, hue + 240), (0.4, 0.8), (0.7, 0.98)),
        "plate": hsv(rng, (hue, hue), (0.1, 0.35), (0.8, 0.95)),
        "drink": hsv(rng, (18, 30), (0.6, 0.8), (0.28, 0.45)),
        "steam": (225, 225, 230),
    }


def car(rng: Random) -> tuple[list[Part], dict[str, Colour]]:
    roof, back = rng.uniform(-0.52, -0.38), rng.uniform(-0.6, -0.48)
    front = rng.uniform(0.36, 0.5)
    parts = [
        ("paint", [(back - 0.08, 0.06), (back + 0.12, roof), (front - 0.2, roof), (front + 0.12, 0.06)]),
        ("glass", [(back + 0.07, 0.04), (back + 0.2, roof + 0.1), (-0.1, roof + 0.1), (-0.1, 0.04)]),
        ("glass", [(-0.02, 0.04), (-0.02, roof + 0.1), (front - 0.24, roof + 0.1), (front, 0.04)]),
        ("paint", [(-0.95, 0.1), (-0.9, 0.02), (front + 0.15, 0.02), (0.86, 0.14), (0.97, 0.3), (0.97, 0.5),
                   (-0.97, 0.5), (-0.97, 0.2)]),
        ("trim", rectangle(-0.97, 0.4, 0.97, 0.5)),
        ("light", ellipse(0.88, 0.27, 0.09, 0.08, n=14)),
        ("trim", rectangle(-0.06, 0.14, 0.1, 0.19)),
    ]  # fmt: skip
    for x in (-0.54, 0.54):
        parts.append(("tyre", ellipse(x, 0.52, 0.26, 0.26)))
        parts.append(("hub", ellipse(x, 0.52, 0.12, 0.12, n=18)))
    return parts, {
        "paint": hsv(rng, (0, 360), (0.55, 0.95), (0.6, 0.95)),
        "glass": hsv(rng, (190, 215), (0.2, 0.45), (0.8, 0.98)),
        "trim": hsv(rng, (200, 240), (0.05, 0.15), (0.3, 0.45)),
        "light": (255, 240, 160),
        "tyre": (35, 35, 42),
        "hub": (200, 202, 210),
    }


OBJECTS = {
    maker.__name__: maker
    for maker in (tree, house, fish, cat, flower, boat, mushroom, star, cup, car)
}
