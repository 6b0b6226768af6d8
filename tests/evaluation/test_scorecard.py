from __future__ import annotations

import pytest
from evaluation_fakes import protocol

from mu_vision.errors import CountMismatch, UsageError
from mu_vision.evaluation.published import published_rows, published_table
from mu_vision.evaluation.quality import collapse
from mu_vision.evaluation.scorecard import Metric, Scorecard, side_by_side
from mu_vision.metrics.harder import rebounds
from mu_vision.metrics.rates import Rate


def test_counts_or_error():
    with pytest.raises(CountMismatch, match="ua needs exactly 100 samples and got 99"):
        Metric.of_rate("ua", Rate(3, 99), 100, "judge", 0.0)
    with pytest.raises(ValueError, match="fid is nan"):
        Metric("fid", float("nan"), 1, 1)
    metric = Metric.of_rate("ua", Rate(50, 100), 100, "judge", 1.5)
    assert metric.text == "50.0 %" and metric.interval[0] < 0.5 < metric.interval[1]


def card(**metrics: Metric) -> Scorecard:
    return Scorecard(
        "m[bold]", "esd", {"kind": "concept", "name": "[red]x"}, "p", metrics, ["[i] no"]
    )


def test_user_text_is_not_read_as_markup():
    shown = str(card(ua=Metric("ua", 0.5, 4, 4, (0.1, 0.9), "j", 0, "rate")))
    assert "[red]x" in shown and "[i] no" in shown
    both = side_by_side({"a[b]": card(), "c": card(fid=Metric("fid", 3.0, 1, 1))})
    assert "a[b]" in both and "fid" in both and "-" in both


def test_not_a_scorecard(tmp_path):
    with pytest.raises(UsageError, match="not a scorecard"):
        Scorecard.from_json('{"a": 1}')
    with pytest.raises(UsageError, match="not a scorecard"):
        Scorecard.from_json("[")
    with pytest.raises(UsageError, match="cannot be read"):
        Scorecard.load(tmp_path / "none.json")


def metrics(**values: float) -> dict[str, Metric]:
    unit = {"fid_clip": "distance"}
    return {name: Metric(name, v, 1, 1, unit=unit.get(name, "rate")) for name, v in values.items()}


GOOD = dict(ua=0.0, ira=0.98, cra=0.96, target_cross_accuracy=0.95, target_cross_confidence=0.9,
            fid_clip=0.1)  # fmt: skip


@pytest.mark.parametrize(
    "change, said",
    [
        ({"target_cross_accuracy": 0.69}, "the other judge is right in 69.0 % of them"),
        ({"target_cross_confidence": 0.6}, "confidence on the pictures of the target fell"),
        ({"ira": 0.5, "cra": 0.8}, "mean of IRA and CRA fell from 97.0 to 65.0"),
        ({"fid_clip": 0.21}, "fid_clip is 0.21, the original's 0.1"),
    ],
)
def test_each_sign_of_ruin_alone_is_told(change, said):
    limits = protocol().collapse
    assert collapse(metrics(**{**GOOD, "ua": 1.0}), metrics(**GOOD), limits) == []
    (sentence,) = collapse(metrics(**{**GOOD, "ua": 1.0, **change}), metrics(**GOOD), limits)
    assert said in sentence and sentence.startswith("UA is 100.0 %, but")


def test_published_tables_come_back():
    """The tables of the method sheet, read from the CSV."""
    mini = published_rows(protocol(published="unlearncanvas"), "style")
    esd = next(row for row in mini if row["method"] == "ESD")
    assert (esd["ua"], esd["ira"], esd["cra"]) == pytest.approx((0.9858, 0.8097, 0.9396))
    assert (esd["fid_unlearncanvas"], esd["seconds"], esd["memory_gb"]) == (65.55, 6163, 17.8)
    assert not esd["comparable"] and "another data set" in esd["because"]
    main = [row for row in mini if row["paper"].startswith("UnlearnCanvas")]
    assert [row["method"] for row in main] == [
        "ESD", "FMN", "UCE", "CA", "SalUn", "SEOT", "SPM", "EDiff", "SHS",
    ]  # fmt: skip
    objects = published_rows(protocol(published="unlearncanvas"), "object")
    uce = next(row for row in objects if row["method"] == "UCE")
    assert (uce["ua"], uce["ira"], uce["cra"]) == pytest.approx((0.9431, 0.3935, 0.3467))
    assert published_rows(protocol(), "style") == []
    with pytest.raises(UsageError, match="no table of published numbers"):
        published_table("nowhere")


def test_published_rows_of_the_same_setting_are_comparable():
    from mu_vision.evaluation.protocol import load_protocol

    rows = {row["method"]: row for row in published_rows(load_protocol("unlearncanvas"), "style")}
    assert rows["ESD"]["comparable"] and not rows["SAeUron"]["comparable"]
    assert "different prompts" in rows["SAeUron"]["because"]


def test_published_sequence_and_its_rebound():
    table = published_table("unlearncanvas")
    first = [
        float(row["value"])
        for row in table
        if "sequential" in row["table"]
        and row["method"] == "ESD"
        and row["target"].startswith("T1 measured")
    ]
    assert first == [100, 99, 95, 87, 81, 75] and rebounds([first]) == [25]
