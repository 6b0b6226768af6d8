from __future__ import annotations

import pytest

from mu_vision.evaluation.scorecard import Metric
from mu_vision.metrics.rates import Rate
from mu_vision.report.labels import LABELS, MORE, grouped, number, quantity, value_of


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.29312, "0.2931"), (11.424, "11.42"), (6163, "6,163"), (61.283, "61.28"),
     (1e-5, "1e-05"), (12345.6, "12,346"), (4.0, "4")],
)  # fmt: skip
def test_numbers_have_four_digits(value, text):
    assert number(value) == text


def test_a_rate_shows_its_count_and_interval():
    metric = Metric.of_rate("ua", Rate(98, 100), 100, "judge", 0.1)
    value = value_of({**vars(metric), "interval": list(metric.interval)})
    assert (value.text, value.count) == ("98.0\N{NO-BREAK SPACE}%", "98 of 100")
    assert value.interval == "93.0 to 99.4\N{NO-BREAK SPACE}%"


def test_changes_are_signed_and_units_are_shown():
    change = Metric("paired_ira_change", -0.043, 9, 9, unit="share")
    assert value_of(vars(change)).text == "\N{MINUS SIGN}4.3\N{NO-BREAK SPACE}%"
    assert value_of(vars(Metric("seconds", 61.28, 1, 1, unit="s"))).text.endswith("61.28\xa0s")


def test_few_gigabytes_shrink():
    assert [quantity(v, "GB") for v in (1.002, 0.05, 5.12e-6, 0)] == (
        ["1.002\xa0GB", "50\xa0MB", "5.12\xa0kB", "0\xa0GB"]
    )


def test_no_metric_is_left_out_of_the_groups():
    names = ["model_gb", "ira", "a_new_metric", "ua"]
    groups = dict(grouped(names))
    assert groups[""] == ["ua", "ira"] and groups[MORE] == ["a_new_metric"]
    assert sorted(n for found in groups.values() for n in found) == sorted(names)


def test_attacks_have_a_group_whatever_a_protocol_calls_them():
    groups = dict(grouped(["ua", "asr_p4d_long", "pre_asr", "asr_worst", "other"]))
    assert groups["Attacks"] == ["pre_asr", "asr_worst", "asr_p4d_long"]
    assert groups[MORE] == ["other"]
    rate = Metric.of_rate("asr_p4d_long", Rate(1, 4), 4, "judge", 0.1)
    assert value_of({**vars(rate), "interval": list(rate.interval)}).label == "ASR, p4d long"


def test_every_column_of_an_attack_has_a_label():
    from mu_vision.columns import EACH_ATTACK, filled

    assert set(EACH_ATTACK) <= set(LABELS)
    row = {"ua": 1.0, "asr_worst": 2.0, "asr_p4d": 2.0}
    assert filled([row]) == ["ua", "asr_worst", "asr_p4d"]
    assert filled([row], each_attack=False) == ["ua", "asr_worst"]
