"""A colour on a page means one thing: a model, or in bars side by side a forget set."""

from __future__ import annotations

import re

import pytest

from mu_vision.report.gan import GanData, gan_context
from mu_vision.report.lab import LabData, lab_context, write_lab
from mu_vision.report.views import colours

TITLES = {"ssd": "SSD", "salun": "SalUn", "scrub": "SCRUB"}
METHODS = {"class": ("ssd", "salun"), "random": ("scrub", "ssd"), "worst": ("salun", "scrub")}
NUMBERS = {"ua": 0.4, "ra": 0.9, "ta": 0.9, "mia": 0.3, "gap": 0.1, "mia_gap": 0.1}


def lab_data(**changes) -> LabData:
    """Three forget sets, and no method in all of them."""
    table = [
        {"group": group, "method": method, "failed": 0, "seconds": 1.0, **NUMBERS,
         "gap_half": 0.02, "mia_gap_half": 0.02}
        for group, methods in METHODS.items()
        for method in ("original", "retrain", *methods)
    ]  # fmt: skip
    rows = [{key: value for key, value in line.items() if key != "failed"} for line in table]
    about = {"of": 100, "samples": 10, "dataset": "digits", "whole": []}
    closer = {
        group: {
            method: {"confidences": {"members": [0.5, 0.5]}, "confusion": [[9, 1], [1, 9]]}
            for method in ("original", "retrain", *methods)
        }
        for group, methods in METHODS.items()
    }
    scores = {
        "table": table, "rows": [{**line, "seed": 0} for line in rows], "seeds": [0],
        "requests": {group: {**about, "name": group} for group in METHODS}, "closer": closer,
        "classes": ["a", "b"], **changes,
    }  # fmt: skip
    return LabData("lab", scores)


def test_colours_come_again_but_never_those_that_are_kept_for_one():
    names = ["original", *"abcdefgh", "retrain", "a"]
    assert list(colours(names).values()) == [0, 1, 2, 3, 4, 5, 6, 1, 2, 3]
    kept = colours(names, {"retrain": 2})
    assert kept["original"] == 0 and kept["retrain"] == 2
    assert [kept[name] for name in "abcdefgh"] == [1, 3, 4, 5, 6, 1, 3, 4]


def test_a_method_has_one_colour_in_every_group_and_drawing_of_a_lab():
    axis = {"name": "sparsity", "places": {"class": 0.0, "random": 0.5, "worst": 0.9}}
    context = lab_context(lab_data(axis=axis))
    seen: dict[str, set[int]] = {}
    for block in context["blocks"]:
        for bars in block["bars"].values():
            for bar in bars:
                seen.setdefault(bar.title, set()).add(bar.colour)
        for mark in block["plot"].marks:
            seen.setdefault(mark.point.label, set()).add(mark.point.colour)
        for model in block["confidences"]:
            seen.setdefault(model["title"], set()).add(model["colour"])
    for _, plot in context["across"]["lines"]["plots"]:
        for line in plot.lines:
            seen[line.curve.label].add(line.curve.colour)
            assert not line.curve.dashed
    assert seen == {"Original": {0}, "Retrain": {2}, "SSD": {1}, "SalUn": {3}, "SCRUB": {4}}


def test_lines_are_dashed_where_a_colour_comes_again():
    several = [f"m{k}" for k in range(7)]
    groups = {"a": 0.0, "b": 0.5, "c": 0.9}
    table = [
        {"group": group, "method": method, "failed": 0, **NUMBERS, "gap_half": None,
         "mia_gap_half": None}
        for group in groups for method in ("original", "retrain", *several)
    ]  # fmt: skip
    closer = {group: {} for group in groups}
    about = {"of": 9, "samples": 1, "dataset": "digits", "whole": [], "name": "x"}
    axis = {"name": "sparsity", "places": groups}
    data = lab_data(
        table=table, rows=[], axis=axis, closer=closer, requests=dict.fromkeys(groups, about)
    )
    _, plot = lab_context(data)["across"]["lines"]["plots"][0]
    told = [(line.curve.colour, line.curve.dashed) for line in plot.lines]
    assert told[0] == (0, False) and len(set(told)) == 8
    assert [dashed for _, dashed in told] == [False] * 6 + [True] * 2


def test_bars_side_by_side_have_the_colour_and_place_of_their_forget_set(tmp_path):
    page = write_lab(lab_data(), tmp_path / "report.html").read_text(encoding="utf-8")
    legend = re.findall(r'<span class="c(\d)"><i class="dot"></i>(\w+)</span>', page)
    painted = {name: number for number, name in legend}
    bars = re.findall(
        r'<g class="c(\d)"><rect x="140" y="([\d.]+)"[^>]*><title>([\w -]+), (\w+): 40.0<', page
    )
    assert {(method, group) for _, _, method, group in bars} == {
        (method, group)
        for group, methods in METHODS.items()
        for method in ("Original", "Retrain", *map(TITLES.get, methods))
    }
    assert len(painted) == 3
    row = 10 * len(METHODS) + 8
    for colour, y, _, group in bars:
        assert colour == painted[group]
        assert float(y) % row == 4 + 10 * list(METHODS).index(group)


@pytest.mark.parametrize("without", ["first", "second"])
def test_a_gan_has_one_colour_in_every_group(without):
    known = {
        "first": ["original", "retrained", "positives", "ewc"],
        "second": ["original", "retrained", "ewc"],
    }
    known[without].remove("retrained")
    table = [
        {"group": group, "method": method, "pul": 50.0, "pul_gap": 1.0, "fid_ratio": 1.0}
        for group, methods in known.items()
        for method in methods
    ]
    rows = [{**line, "seed": 0, "counts": [1]} for line in table]
    scores = {
        "groups": {group: {"target": "a"} for group in known}, "table": table, "rows": rows,
        "seeds": [0], "classes": ["a"], "latents": 9,
    }  # fmt: skip
    looks = [block["models"] for block in gan_context(GanData("gan", scores))["blocks"]]
    for method in set(known["first"]) & set(known["second"]):
        assert looks[0][method]["colour"] == looks[1][method]["colour"]
    assert looks[0]["original"]["colour"] == 0
    painted = {m: look["colour"] for block in looks for m, look in block.items()}
    assert len(set(painted.values())) == len(painted) == 4
