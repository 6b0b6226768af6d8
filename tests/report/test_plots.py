from __future__ import annotations

import itertools

import pytest

from mu_vision.report.plots import FONT, LETTER, Curve, Point, curves, tradeoff
from mu_vision.report.views import published_view

PROTOCOL = {"name": "x", "dataset": "minicanvas", "seeds": [1], "steps": 1, "guidance": 1,
            "judges": {"style": "a", "object": "b"}, "published": "unlearncanvas"}  # fmt: skip


def box(mark):
    width = LETTER * len(mark.label.text)
    left = mark.label.x - {"start": 0, "middle": width / 2, "end": width}[mark.label.anchor]
    return left, mark.label.y - 0.8 * FONT, left + width, mark.label.y + 0.25 * FONT


def test_the_published_rows_and_ours_have_labels_that_do_not_collide():
    from mu_vision.report.build import published_points

    ours = [Point("ESD", 0.98, 0.91, "ours", 1, (0.93, 0.994)), Point("UCE", 0.9, 0.88, "ours", 2)]
    plot = tradeoff([*ours, *published_points(published_view(PROTOCOL, "style"))])
    assert len(plot.marks) == 11
    for a, b in itertools.combinations([box(mark) for mark in plot.marks], 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (a, b)


def test_the_corners_of_the_plot_are_0_and_100_percent():
    plot = tradeoff([Point("a", 0.0, 0.0, "ours", 1), Point("b", 1.0, 1.0, "ours", 2)])
    (a, b) = plot.marks
    assert (a.x, a.y) == (plot.left, plot.y_end)
    assert (b.x, b.y) == (plot.x_end, plot.top)
    assert [text for _, text in plot.x_ticks] == ["0", "20", "40", "60", "80", "100"]


def test_all_points_lie_inside_whatever_they_are():
    points = [Point("p", x / 7, y / 7, "ours") for x in range(8) for y in range(8)]
    for mark in tradeoff(points).marks:
        assert 0 <= mark.x <= 680 and 0 <= mark.y <= 460


def test_a_band_goes_around_the_intervals_and_stays_inside():
    line = Curve("a", [0, 50, 95], [0.1, 0.2, 0.05], 1, halves=[0.02, 0.5, 0.1])
    plot = curves([line], most=0.4, said=lambda share, n: f"{share} at {n}")
    (drawn,) = plot.lines
    span = plot.y_end - plot.top
    upper, lower = drawn.edge[:3], drawn.edge[3:]
    assert [x for x, _ in upper] == [x for x, _ in reversed(lower)]
    assert upper[0][1] == pytest.approx(plot.y_end - 0.12 / 0.4 * span)
    assert lower[-1][1] == pytest.approx(plot.y_end - 0.08 / 0.4 * span)
    assert upper[1][1] == plot.top and lower[1][1] == lower[0][1] == plot.y_end
    assert drawn.band.endswith("Z") and drawn.points[1][2] == "a: 0.2 at 50"
    assert [text for _, text in plot.y_ticks] == ["0", "10", "20", "30", "40"]
    assert curves([Curve("a", [0], [0.5], 1)]).lines[0].band == ""
