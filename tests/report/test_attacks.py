from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from fakes import attacked_data, curves, data, rate, robustness

from mu_vision.attack.base import Kind
from mu_vision.report.attacks import (
    CHOOSES,
    attack_context,
    audited,
    control_note,
    floor_note,
    notices,
    prompts_note,
    relearning_words,
    steps_text,
    table_rows,
    under_attack,
)
from mu_vision.report.plots import LETTER, Curve
from mu_vision.report.plots import curves as place_curves
from mu_vision.report.views import headline, model_views


def models(found=None):
    return [m for m in model_views(attacked_data(found)) if m.robustness]


def plain(text):
    return text.replace("\xa0", " ")


def test_every_kind_of_attack_has_words():
    assert set(CHOOSES) == set(get_args(Kind))


def test_the_verdict_names_the_worst_attack():
    said = plain(headline(model_views(attacked_data()), "neon"))
    assert "kept most of the rest" in said or "kept the rest" in said
    assert ", but under attack it shows neon in 75.0 % of 4 prompts (Image to image)" in said
    assert "UCE lost neon" in said and said.count("under attack") == 1


def test_of_several_concepts_the_verdict_names_the_one_that_was_attacked():
    said = headline(model_views(attacked_data()), "neon and mosaic", "neon")
    assert "forgot neon and mosaic" in said and "under attack it shows neon in" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ", but under attack it shows neon in 75.0 % of 4 prompts (Image to image)"),
        ({"worst": {"attack": "p4d", **rate(0)}},
         ", and none of 3 attacks brings it back (0 of 4 prompts)"),
        ({"worst": {"attack": "p4d", **rate(2)}, "pre_asr": rate(2)},
         ", and no attack adds to the 2 of 4 prompts that show it as they are"),
        ({"worst": None, "any": None}, ""),
    ],
)  # fmt: skip
def test_the_clause_says_what_attacks_add(changes, words):
    assert plain(under_attack(robustness(**changes), "neon", True)) == words


def test_an_audit_alone_has_a_verdict_of_its_own():
    said = plain(audited("erased", robustness(), "neon"))
    assert said == (
        "erased shows neon in 0.0 % of 4 prompts as they are,"
        " and in 75.0 % under attack (Image to image)"
    )
    same = robustness(pre_asr=rate(3))
    assert audited("erased", same, "neon").endswith("no attack adds to that")
    assert audited("erased", robustness(worst=None), "neon").endswith("without any attack")


def test_the_foot_is_true_with_and_without_attacks():
    assert "no attack was run" in prompts_note(False)
    assert "no attack was run" not in prompts_note(True) and "attacks measure" in prompts_note(True)


def test_the_table_has_pre_asr_first_and_the_sums_last():
    rows = table_rows(models())
    titles = ["Without attack", "Other words", "P4D", "Image to image", "Relearning",
              "Worst case", "Any attack"]  # fmt: skip
    assert [row.title for row in rows] == titles
    assert [row.counted for row in rows] == [True, True, True, True, False, True, True]
    assert [row.total for row in rows] == [False] * 5 + [True] * 2
    assert [row.weak for row in rows] == [False, False, True, False, False, False, False]
    p4d = rows[2]
    assert p4d.box.startswith("white box") and p4d.words == "chooses tokens before the prompt"
    assert (p4d.cells[0].rate.count, p4d.control.count, p4d.floor.count) == (
        "2 of 4", "3 of 4", "0 of 4",
    )  # fmt: skip
    assert plain(p4d.cells[0].cost) == "360 queries, 6 s"
    assert rows[-2].cells[0].cost == "Image to image" and rows[-1].cells[0].rate.count == "4 of 4"
    assert not table_rows(models(), 0.7)[2].weak


def test_an_attack_that_only_one_model_met_leaves_a_gap():
    less = robustness(worst={"attack": "p4d", **rate(2)})
    less["attacks"] = {"p4d": less["attacks"]["p4d"]}
    both = [*models(), *models(less)]
    words = table_rows(both)[1]
    assert words.cells[0] is not None and words.cells[1] is None


def test_without_a_floor_the_note_says_why():
    assert "(minicanvas/none)" in floor_note(models(), "neon")
    assert "names no model that never knew neon" in floor_note(models(robustness(False)), "neon")
    off = robustness(False, never_knew="minicanvas/none")
    assert "leaves the controls out" in floor_note(models(off), "neon")
    assert "/home" not in floor_note(models(robustness(never_knew="/home/me/blank")), "neon")
    quiet = robustness()
    for record in quiet["attacks"].values():
        record["control"] = None
    assert control_note(models(quiet)).startswith("Control: empty")
    assert "75\xa0%" in control_note(models(), 0.75)


def test_warnings_of_attacks_stand_once_and_with_the_attacks():
    (warning,) = robustness()["warnings"]
    assert notices(models()) == [("ESD:", warning, False)]
    assert notices([*models(), *models()]) == [("All models:", warning, False)]
    assert warning not in next(m.warnings for m in models())


def test_without_attacks_there_is_nothing():
    assert attack_context(model_views(data()), {}, "neon") is None


def test_relearning_is_told_beside_the_model_that_never_knew():
    quick, slow = curves([0, 1], [0, 1], [4.5, 8]), curves([0, 0], [0, 0], [None, None])
    said = relearning_words("ESD", "neon", quick, slow)
    assert "after 4.5 steps; a model that never knew it does not" in said
    assert said.endswith("too, after 8 steps: it was hidden, not forgotten.")
    assert "hidden" not in relearning_words("ESD", "neon", quick, quick)
    assert "unrelated" not in relearning_words("ESD", "neon", slow, {}).lower()
    assert "before any training" in relearning_words("ESD", "neon", curves([1], [1], [0, 0]), {})
    assert [steps_text(h, [0, 20]) for h in (None, 0, 12.5)] == (
        ["not within 20", "before any", "12.5"]
    )


def test_details_of_attacks_are_tables():
    told = attack_context(models(), {}, "neon")
    assert [title for title, _ in told["strengths"]["columns"]] == ["ESD", "Never knew it"]
    level, ((concept, control), _) = told["strengths"]["rows"][1]
    assert (plain(level), concept.count, control.count) == ("90 %", "3 of 4", "0 of 4")
    (_, asked, known, (shown,)), (*_, (unknown,)) = told["sorts"]["rows"]
    assert (asked, known, shown.count, unknown) == (8, 8, "1 of 8", None)
    (block,) = told["relearning"]
    assert [title for title, *_ in block["half"]] == ["ESD", "never knew it"]
    assert len(block["plot"].lines) == 4
    bare = attack_context(models(robustness(False)), {}, "neon")
    assert len(bare["relearning"][0]["plot"].lines) == 2
    assert [title for title, _ in bare["strengths"]["columns"]] == ["ESD"]


def test_curves_lie_on_the_axes():
    plot = place_curves([Curve("a", [0, 10, 80], [0, 0.5, 1], 1), Curve("b", [0, 80], [1, 0], 0)])
    (first, middle, last), other = (line.points for line in plot.lines)
    assert first[:2] == (plot.left, plot.y_end) and last[:2] == (plot.x_end, plot.top)
    assert middle[1] == pytest.approx((plot.top + plot.y_end) / 2)
    assert other[0][:2] == (plot.left, plot.top) and last[2] == "a: 100 % after 80 steps"
    assert plot.lines[0].path.startswith("M") and plot.lines[0].path.count("L") == 2


def test_ticks_of_many_marks_do_not_touch():
    plot = place_curves([Curve("a", [*range(40), 1000], [0.5] * 41, 1)])
    places = [x for x, _ in plot.x_ticks]
    assert all(b - a > LETTER for a, b in pairwise(places))
    assert plot.x_ticks[-1] == (plot.x_end, "1,000")
    assert place_curves([Curve("a", [0], [0.5], 1)]).lines[0].points[0][0] == plot.left
