"""Attacks without a gradient: other words, and random tokens."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import scenes

from mu_vision.attack.paraphrase import Paraphrase, spread
from mu_vision.attack.random_prefix import RandomPrefix


def test_only_words_that_the_original_knows_count(sd):
    """The judge says yes to whatever the original draws for cats and suns."""
    victim, states = scenes.edited(sd), {"drawing": sd}
    rows = []
    hooks = [
        model.unet.register_forward_pre_hook(
            lambda _, inputs, model=model: states.update(drawing=model)
        )
        for model in (sd, victim)
    ]

    def verdict(pictures, cases):
        rows.append((states["drawing"] is sd, [case.seed for case in cases]))
        if states["drawing"] is sd:
            return np.array([case.seed != 2 for case in cases])
        return np.array([case.seed == 3 and len(rows) > 1 for case in cases])

    result = Paraphrase().run(scenes.scene(victim, sd, verdict))
    for hook in hooks:
        hook.remove()
    assert rows[1:] == [(True, [1, 2, 3]), (False, [1, 3])]
    sorts = result.details["sorts"]
    assert (sorts["paraphrase"]["asked"], sorts["paraphrase"]["known"]) == (2, 1)
    assert sorts["paraphrase"]["shown"] == 0 and sorts["synonym"]["shown"] == 1
    assert [t.after for t in result.trials] == [False, False, True]
    assert result.trials[2].adversarial == "sun, glow"
    assert [t.tries for t in result.trials] == [1, 0, 1]


def test_without_other_words_nothing_is_tried(sd):
    cases = tuple(type(c)(c.prompt, c.asks_for, c.neutral, c.seed) for c in scenes.CASES)
    result = Paraphrase().run(scenes.scene(sd, sd, cases=cases))
    assert result.details["sorts"] == {} and result.asr == result.pre_asr
    assert sum(t.queries for t in result.trials) == 0


def test_sorts_that_the_original_never_knows_have_no_share(sd):
    result = Paraphrase().run(scenes.scene(scenes.edited(sd), sd, scenes.never))
    for sort in result.details["sorts"].values():
        assert (sort["known"], sort["shown"], sort["interval"]) == (0, 0, None)


def test_random_prefixes_are_as_many_as_asked_and_differ_by_case(sd):
    result = RandomPrefix(tokens=2, pictures=3).run(scenes.scene(scenes.edited(sd), sd))
    assert [t.tries for t in result.trials] == [3, 3, 3]
    prefixes = [t.adversarial.removesuffix(t.prompt) for t in result.trials]
    assert len(set(prefixes)) == 3
    more = RandomPrefix(tokens=2, pictures=3).run(scenes.scene(scenes.edited(sd), sd, seed=1))
    assert [t.adversarial for t in more.trials] != [t.adversarial for t in result.trials]
    found = RandomPrefix(pictures=3).run(
        scenes.scene(sd, sd, scenes.always, before=np.zeros(3, bool))
    )
    assert [t.tries for t in found.trials] == [1, 1, 1]


def test_a_larger_budget_never_finds_less(sd):
    """Searches are nested: the first prefixes of a longer one are those of a shorter one."""
    victim = scenes.edited(sd)
    every = RandomPrefix(tokens=2, pictures=4).run(scenes.scene(victim, sd))
    level = every.pictures.mean(axis=(1, 2, 3)).mean()
    found = [
        RandomPrefix(tokens=2, pictures=n)
        .run(scenes.scene(victim, sd, scenes.bright(level), before=np.zeros(3, bool)))
        .trials
        for n in (1, 2, 4)
    ]
    for less, more in pairwise(found):
        assert all(b.after or not a.after for a, b in zip(less, more, strict=True))
        assert all(
            a.adversarial == b.adversarial for a, b in zip(less, more, strict=True) if a.after
        )
    assert any(trial.after for trial in found[-1])


def test_the_texts_are_spread_over_all_there_are():
    texts = tuple(("paraphrase", str(k)) for k in range(10))
    assert spread(texts, 99) == list(texts)
    assert [text for _, text in spread(texts, 2)] == ["2", "7"]
    assert [text for _, text in spread(texts, 5)] == ["1", "3", "5", "7", "9"]
    assert spread((), 3) == []


def test_the_original_is_asked_once_for_all_victims_of_a_judge(sd):
    victims = [scenes.edited(sd, seed) for seed in (0, 1)]
    calls, counts = [], []
    hook = sd.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    for verdict in (scenes.bright(0), scenes.bright(0)):
        for victim in victims:
            scene = scenes.scene(victim, sd, verdict)
            calls.clear()
            Paraphrase().run(scene)
            counts.append(len(calls))
    hook.remove()
    assert counts[0] > 0 and counts == [counts[0], 0, counts[0], 0]
