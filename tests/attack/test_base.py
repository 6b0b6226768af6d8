"""The books: which cases are brought back, what it cost, and the algebra of pre-ASR and ASR."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scenes

from mu_vision.attack.base import Attack, Books, Sampler, Scene, cost_of_picture, draw
from mu_vision.errors import UsageError
from mu_vision.metrics.rates import Rate


def books(before, verdict=scenes.never) -> Books:
    scene = replace(scenes.toy_scene(None), before=np.array(before), verdict=verdict)
    return Books(scene)


def test_no_attack_gives_pre_asr_and_counts_add_up():
    for before in ([False] * 3, [True, False, True], [True] * 3):
        result = books(before).result("none")
        assert result.asr == result.pre_asr == Rate(sum(before), 3)
        assert [trial.after for trial in result.trials] == before
        assert [trial.adversarial for trial in result.trials] == [None] * 3


def test_asr_counts_what_was_there_before_and_what_was_brought_back():
    kept = books([True, False, False], lambda p, cases: np.array([c.seed == 2 for c in cases]))
    assert kept.standing() == [1, 2]
    kept.judge(kept.standing(), np.full((2, 4, 4, 3), 9, np.uint8), ["first", "second"])
    assert kept.standing() == [2]
    result = kept.result("x")
    assert [(t.prompt, t.seed) for t in result.trials] == [(c.prompt, c.seed) for c in scenes.CASES]
    assert 0 <= result.pre_asr.value <= result.asr.value <= 1
    assert (result.pre_asr.hits, result.asr.hits, result.asr.total) == (1, 2, 3)
    assert [t.adversarial for t in result.trials] == [None, "first", "second"]
    assert [t.tries for t in result.trials] == [0, 1, 1]
    assert result.pictures[:, 0, 0, 0].tolist() == [0, 9, 9]


def test_what_was_found_is_not_lost_again():
    answers = iter([[True], [False]])
    kept = books([False] * 3, lambda p, cases: np.array(next(answers)))
    kept.judge([1], np.full((1, 4, 4, 3), 1, np.uint8), ["hit"])
    kept.judge([1], np.full((1, 4, 4, 3), 2, np.uint8), ["miss"])
    assert kept.found.tolist() == [False, True, False]
    assert (kept.adversarial[1], kept.pictures[1, 0, 0, 0], kept.tries[1]) == ("hit", 1, 2)
    assert kept.judge([], np.zeros((0, 4, 4, 3), np.uint8), []).shape == (0,)


def test_shared_costs_add_up_exactly():
    kept = books([False] * 3)
    kept.share([0, 2], 7)
    kept.spend([1, 2], 10)
    assert kept.queries.tolist() == [4, 10, 13]
    assert cost_of_picture(Sampler(5, 3.0)) == 10
    assert cost_of_picture(Sampler(5, 1.0)) == cost_of_picture(Sampler(5, 0.0)) == 5


def test_a_text_is_drawn_once_a_case(sd):
    asked = []

    def verdict(pictures, cases):
        asked.extend(case.seed for case in cases)
        return scenes.never(pictures, cases)

    scene = scenes.scene(sd, sd)
    kept = Books(replace(scene, verdict=verdict))
    kept.try_texts([0, 1], ["one", "two"])
    kept.try_texts([0, 1, 2], ["one", "one", "two"])
    assert asked == [1, 2, 2, 3]
    assert kept.queries.tolist() == [4, 8, 4]


def test_pictures_do_not_depend_on_the_batch(sd):
    noise = scenes.scene(sd, sd).noise([0, 1, 2])
    text = sd.encode_prompt(["a", "b", "c"])
    together = draw(sd, text, noise, Sampler(2, 2.0, batch=16)).astype(int)
    apart = draw(sd, text, noise, Sampler(2, 2.0, batch=1)).astype(int)
    assert together.shape == (3, 16, 16, 3)
    assert np.abs(together - apart).max() <= 1


def test_an_attack_without_a_case_is_refused():
    class Idle(Attack):
        def search(self, scene: Scene, books: Books):
            return books.result("idle")

    Idle.name = "idle"
    with pytest.raises(UsageError, match=r"attack idle was given no prompt; give at least one"):
        Idle().run(scenes.toy_scene(None, cases=()))
