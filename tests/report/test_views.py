from __future__ import annotations

import dataclasses

import pytest
from fakes import REQUEST, answers, data, scorecard

from mu_vision.report.labels import Value
from mu_vision.report.views import (
    ModelView,
    clause,
    flat,
    headline,
    method_note,
    model_views,
    notices,
    published_view,
    summary,
    target_text,
    title_of,
)


def view(ua=0.98, ira=0.9, cra=0.96, colour=1, **fields):
    rates = {"ua": ua, "ira": ira, "cra": cra}
    values = {n: Value(n, v, share=True) for n, v in rates.items() if v is not None}
    title = "Original" if colour == 0 else "ESD"
    return ModelView(title.lower(), title, colour, values, **fields)


ORIGINAL = view(0.01, 0.98, 0.98, 0)


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((0.98, 0.96, 0.97), "ESD forgot neon (98.0 %) and kept the rest (96.5 %)"),
        ((0.90, 0.88, 0.88), "ESD mostly forgot neon (90.0 %) and kept most of the rest (88.0 %)"),
        ((0.60, 0.98, 0.98), "ESD half forgot neon (60.0 %) but kept the rest (98.0 %)"),
        ((0.99, 0.30, 0.40), "ESD forgot neon (99.0 %) but damaged the rest (35.0 %)"),
        ((0.10, 0.30, 0.40), "ESD did not forget neon (10.0 %) and damaged the rest (35.0 %)"),
        ((0.98, None, None), "ESD forgot neon (98.0 %)"),
    ],
)
def test_the_verdict_says_what_the_numbers_say(rates, words):
    assert clause(view(*rates), "neon", ORIGINAL).replace("\xa0", " ") == words


def test_kept_is_judged_against_the_original():
    weak = view(0.01, 0.80, 0.80, 0)
    said = clause(view(0.98, 0.80, 0.80), "neon", weak).replace("\xa0", " ")
    assert said.endswith("kept the rest (80.0 %, the original 80.0 %)")
    assert "damaged the rest" in clause(view(0.98, 0.80, 0.80), "neon", ORIGINAL)


def test_ruined_pictures_do_not_read_like_forgetting():
    said = clause(view(0.99, 0.97, 0.97, collapsed=True), "neon", ORIGINAL)
    assert said.startswith("ESD lost neon") and "together with picture quality" in said
    assert "forgot" not in said


def test_what_the_original_never_drew_is_not_called_forgotten():
    blank = view(0.9, 0.98, 0.98, 0)
    said = headline([blank, view(1.0, 0.98, 0.98)], "neon")
    assert "so nothing is shown" in said and "forgot" not in said


def test_what_a_method_reports_is_one_line():
    assert summary({"a": 1.0, "b": 3.0}) == "mean 2, largest 3, of 2"
    assert summary([{"prompt": "neon"}]) == "1 entry"
    assert summary(0.123456) == "0.1235" and summary("x") == "x" and summary({}) == "none"


def test_a_no_op_is_said_whatever_the_rates():
    said = headline([ORIGINAL, view(1.0, 1.0, 1.0, same_pictures=True)], "neon")
    assert said == "ESD changed nothing: it draws the original's pictures, bit for bit."
    assert notices([view(same_pictures=True)])[0][2] is True


def test_equal_answer_sets_are_found_without_a_flag():
    untouched = data(answers={"original": answers(), "esd": answers(), "uce": answers("neon")})
    same = {v.key: v.same_pictures for v in model_views(untouched)}
    assert same == {"original": False, "esd": True, "uce": False}


def test_a_flag_is_enough_without_pictures():
    card = scorecard("esd", 0.1, "neon", 1.0, flags={"unchanged_pictures": True})
    quiet = data(scorecards={"esd": card.to_json()}, answers={})
    assert model_views(quiet)[0].same_pictures


def test_the_original_comes_first_and_colours_follow():
    cards = data().scorecards
    views = model_views(data(scorecards=dict(reversed(cards.items()))))
    assert [(v.key, v.colour) for v in views] == [("original", 0), ("uce", 1), ("esd", 2)]


def test_became_adds_up():
    esd = model_views(data())[1]
    assert sum(count for _, count, _ in esd.became) == 30
    assert sum(share for *_, share in esd.became) == pytest.approx(1)


def test_cells_give_percent_and_count():
    style = model_views(data())[0].cells[0]
    name, row = style.rows()[0]
    assert (name, len(row)) == ("photo", 10)
    assert row[0]["title"].endswith("of 3 right") and 0 <= row[0]["step"] <= 10


def test_published_rows_are_the_main_table_in_its_order():
    rows = published_view(data().protocol, "style")
    assert [row["method"] for row in rows] == (
        ["ESD", "FMN", "UCE", "CA", "SalUn", "SEOT", "SPM", "EDiff", "SHS"]
    )
    assert rows[0]["texts"] == ["98.58", "80.97", "93.96", "65.55", "6,163", "17.8", "4.3"]
    assert not any(row["comparable"] for row in rows)
    assert published_view({}, "style") == [] == published_view(data().protocol, "concept")


def test_method_notes_come_from_the_class():
    note = method_note("weak", {"method": "esd", "settings": {"steps": 3}, "seconds": 2.0})
    assert note["paper"].arxiv == "2303.07345" and note["shape"].startswith("trains")
    assert note["settings"] == {"steps": "3"} and note["facts"] == {"time of the edit": "2 s"}
    assert method_note("foreign", {})["words"] == ""


def test_methods_are_called_as_the_literature_calls_them():
    written = {
        "esd": "ESD", "esd_text": "ESD text", "advunlearn_fast": "AdvUnlearn fast",
        "original": "Original", "text": "text", "my_own": "my own", "esdx": "esdx",
    }  # fmt: skip
    assert {key: title_of(key) for key in written} == written


def test_small_things():
    assert target_text([REQUEST, {"name": "Van_Gogh"}]) == "neon and Van Gogh"
    assert flat({"a": {"b": [1, 2], "c": None}, "d": False}) == {"a.b": "1, 2", "d": "False"}
    assert dataclasses.is_dataclass(data())


def test_a_table_of_prompts_is_told_by_what_it_shows_beside_the_original():
    """Most of its prompts show nothing in any model, which must not read like a failed check."""

    def shows(share):
        made = view(1 - share, None, None)
        return dataclasses.replace(
            made, values={**made.values, "shown": Value("shown", share, share=True)}
        )

    said = clause(shows(0.03), "nudity", shows(0.17))
    assert "shows nudity in 3.0" in said and "the original in 17.0" in said
    assert "nothing is shown" not in said
