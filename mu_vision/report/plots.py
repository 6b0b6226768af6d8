"""Geometry of the report's drawings; the templates paint them as inline SVG.

Drawing with the page's own colours keeps a plot readable in light and dark, and sharp at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Point:
    """One model in the trade-off plot; rates in [0, 1].

    Attributes:
        kind: ``ours``, ``original``, ``request`` (small, of a table) or ``published``.
        colour: number of the colour in the style sheet.
        x_interval: 95 % interval of ``x``, if there is one.
    """

    label: str
    x: float
    y: float
    kind: str
    colour: int = 0
    x_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Label:
    text: str
    x: float
    y: float
    anchor: str


@dataclass(frozen=True)
class Mark:
    """A point in the plot's own units (pixels of its view box), with its label."""

    point: Point
    x: float
    y: float
    label: Label
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its title, and the short name before a value."""

    title: str
    short: str


FORGOTTEN = Axis("forgotten: UA, %", "UA")
WITHSTOOD = Axis("withstood: 100 less the worst ASR, %", "withstood")
KEPT = Axis("kept: mean of IRA and CRA, %", "kept")


@dataclass(frozen=True)
class Plot:
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    y_ninety: float
    marks: list[Mark]
    x_axis: Axis
    y_axis: Axis

    @property
    def x_end(self) -> int:
        return self.width - self.right

    @property
    def y_end(self) -> int:
        return self.height - self.bottom


FONT = 12.5
LETTER = 0.56 * FONT
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 680, 460, 58, 24, 22, 52


def tradeoff(points: Sequence[Point], x_axis: Axis = FORGOTTEN, y_axis: Axis = KEPT) -> Plot:
    """Place points whose aim is the upper right corner, and labels that do not collide.

    x runs from 0 to 100 %, y from the fifth below the lowest point to 100 %. Labels are placed greedily, our points first, each at the first
    of twelve places around its mark that hits no earlier label or mark.
    """
    span_x, span_y = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    lowest = min(math.floor(5 * _clip(min(p.y for p in points)) - 0.1) / 5, 0.6)
    floor = max(0.0, lowest)

    def height(y: float) -> float:
        return TOP + (1 - (max(y, floor) - floor) / (1 - floor)) * span_y

    places = [(LEFT + _clip(point.x) * span_x, height(_clip(point.y))) for point in points]
    order = sorted(range(len(points)), key=lambda k: points[k].kind in ("published", "request"))
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for point, (_, y) in zip(points, places, strict=True):
        if point.x_interval is not None:
            low, high = (LEFT + _clip(value) * span_x for value in point.x_interval)
            taken.append((low, y - 2, high, y + 2))
    labels: dict[int, Label] = {}
    for k in order:
        # requests of a table lie close together: their names show when one points at them
        text = "" if points[k].kind == "request" else points[k].label
        labels[k], box = _place(text, *places[k], taken)
        taken.append(box)
    marks = []
    for k, (point, (x, y)) in enumerate(zip(points, places, strict=True)):
        whisker = None
        if point.x_interval is not None:
            low, high = (LEFT + _clip(value) * span_x for value in point.x_interval)
            whisker = (low, high)
        marks.append(Mark(point, x, y, labels[k], whisker))
    ticks = [k / 5 for k in range(6)]
    levels = [
        t for t in (k / 10 for k in range(11)) if t >= floor and (10 * t % 2 < 0.1 or floor > 0.3)
    ]
    return Plot(
        WIDTH,
        HEIGHT,
        LEFT,
        RIGHT,
        TOP,
        BOTTOM,
        [(LEFT + t * span_x, f"{100 * t:.0f}") for t in ticks],
        [(height(t), f"{100 * t:.0f}") for t in levels],
        height(0.9),
        marks,
        x_axis,
        y_axis,
    )


@dataclass(frozen=True)
class Curve:
    """Shares in [0, 1] over steps; ``dashed`` and hollow for the second of a pair.

    Attributes:
        halves: half of the interval of each share; None for none.
    """

    label: str
    steps: Sequence[float]
    shares: Sequence[float]
    colour: int
    dashed: bool = False
    halves: Sequence[float] | None = None


@dataclass(frozen=True)
class DrawnCurve:
    """A curve in the plot's own units: (x, y, what it says) of each of its points.

    Attributes:
        edge: the points around the band of its intervals; none without intervals.
    """

    curve: Curve
    points: list[tuple[float, float, str]]
    edge: list[tuple[float, float]] = field(default_factory=list)

    @property
    def path(self) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in self.points)

    @property
    def band(self) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in self.edge) + "Z" if self.edge else ""


@dataclass(frozen=True)
class LinePlot:
    width: int
    height: int
    left: int
    top: int
    x_end: int
    y_end: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[DrawnCurve]


def curves(
    lines: Sequence[Curve],
    width: int = 420,
    height: int = 270,
    most: float = 1.0,
    said: Callable[[float, float], str] = lambda share, step: (
        f"{100 * share:.0f} % after {step:,} steps"
    ),
) -> LinePlot:
    """Place curves over a common axis of steps; y runs from 0 to ``most``.

    Ticks stand at the curves' own steps, leaving out those that would touch the one before.

    Args:
        lines: at least one, with at least one step.
        width: of the whole plot, in pixels of its view box.
        height: the same.
        most: the share at the top; bands are cut off there.
        said: what a point says, of its share and its step.
    """
    left, top, x_end, y_end = 52, 14, width - 16, height - 48
    steps = sorted({step for line in lines for step in line.steps})
    last = max(steps[-1], 1)

    def place(step: float, share: float) -> tuple[float, float]:
        return left + step / last * (x_end - left), y_end - _clip(share / most) * (y_end - top)

    def draw(line: Curve) -> DrawnCurve:
        rows = list(zip(line.steps, line.shares, strict=True))
        points = [(*place(n, share), f"{line.label}: {said(share, n)}") for n, share in rows]
        if line.halves is None:
            return DrawnCurve(line, points)
        spread = [(n, share, half) for (n, share), half in zip(rows, line.halves, strict=True)]
        edge = [place(n, share + half) for n, share, half in spread]
        return DrawnCurve(line, points, edge + [place(n, s - h) for n, s, h in reversed(spread)])

    drawn = [draw(line) for line in lines]
    ticks: list[tuple[float, str]] = []
    for step in reversed(steps):
        x, text = place(step, 0)[0], f"{step:,.10g}"
        if not ticks or ticks[-1][0] - x > LETTER * len(text) + 10:
            ticks.append((x, text))
    levels = [(place(0, k * most / 4)[1], f"{25 * k * most:.0f}") for k in range(5)]
    return LinePlot(width, height, left, top, x_end, y_end, ticks[::-1], levels, drawn)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))


Box = tuple[float, float, float, float]


def _place(text: str, x: float, y: float, taken: list[Box]) -> tuple[Label, Box]:
    width = LETTER * len(text)
    tries = []
    for reach in (11, 24, 40):
        for dx, dy, anchor in (
            (reach, 4, "start"),
            (-reach, 4, "end"),
            (0, -reach, "middle"),
            (0, reach + 9, "middle"),
            (reach * 0.8, -reach * 0.8, "start"),
            (-reach * 0.8, -reach * 0.8, "end"),
            (reach * 0.8, reach * 0.8 + 8, "start"),
            (-reach * 0.8, reach * 0.8 + 8, "end"),
        ):
            start = x + dx - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (start, y + dy - FONT * 0.8, start + width, y + dy + FONT * 0.25)
            inside = box[0] >= LEFT + 2 and box[2] <= WIDTH - 2 and TOP - 8 <= box[1]
            inside = inside and box[3] <= HEIGHT - BOTTOM - 1
            clashes = sum(_overlap(box, other) for other in taken) + (0 if inside else 1e6)
            tries.append((clashes, len(tries), Label(text, x + dx, y + dy, anchor), box))
    _, _, label, box = min(tries, key=lambda entry: entry[:2])
    return label, box


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
