"""Concept inversion: what is learned, what it is asked with, and what it starts from."""

from __future__ import annotations

import numpy as np
import pytest
import scenes
import torch

from mu_vision.attack.concept_inversion import ConceptInversion
from mu_vision.attack.state_inversion import StateInversion
from mu_vision.errors import UsageError


@pytest.fixture(scope="module")
def victim(sd):
    return scenes.edited(sd)


def test_the_first_start_is_the_concepts_own_tokens(sd):
    scene = scenes.scene(sd, sd)
    table = sd.vocabulary.detach()
    rng = torch.Generator().manual_seed(0)
    starts = ConceptInversion(tokens=6, restarts=3)._starts(scene, table, rng)
    own = sd.tokens("neon").ids[1:5]
    assert torch.equal(starts[0], table[torch.tensor([*own, *own[:2]])])
    assert starts.shape == (3, 6, table.shape[1])
    assert (starts[1:, :, None] == table).all(-1).any(-1).all()  # real tokens too


def test_learning_lowers_the_error_and_leaves_the_vocabulary_alone(victim, sd):
    scene = scenes.scene(victim, sd)
    table = victim.vocabulary.detach().clone()
    few, many = (
        ConceptInversion(steps=n, batch=8, restarts=2, lr=0.1)._learn(scene)[1] for n in (1, 20)
    )
    assert few.shape == many.shape == (2,)
    assert many.mean() < few.mean()
    assert torch.equal(victim.vocabulary, table) and victim.vocabulary.grad is None


def test_one_embedding_serves_all_cases_with_their_neutral_prompts(victim, sd, monkeypatch):
    asked = []
    inner = type(victim).insert

    def insert(self, prompts, prefix):
        asked.append((tuple(prompts), prefix.detach().clone()))
        return inner(self, prompts, prefix)

    monkeypatch.setattr(type(victim), "insert", insert)
    attack = ConceptInversion(tokens=2, steps=2, batch=3, restarts=2)
    result = attack.run(scenes.scene(victim, sd))
    drawn = asked[attack.steps :]
    assert [prompts for prompts, _ in drawn] == [("a cat", "a car", "a sun")] * 2
    for _, prefix in drawn:
        assert torch.equal(prefix, prefix[:1].expand_as(prefix))
    # the restart that explains the examples best is asked with first
    first = int(np.argmin(result.details["error"])) + 1
    assert result.trials[0].adversarial == f"<learned {3 - first}> a cat"
    examples = set(scenes.pictures(4, 2).neutral)
    assert all(set(prompts) <= examples for prompts, _ in asked[: attack.steps])
    found = attack.run(scenes.scene(victim, sd, scenes.always, before=np.zeros(3, bool)))
    assert {t.adversarial for t in found.trials} == {f"<learned {first}> a {x}" for x in
                                                     ("cat", "car", "sun")}  # fmt: skip
    assert [t.tries for t in found.trials] == [1, 1, 1]


def test_it_learns_nothing_when_nothing_stands(victim, sd):
    result = ConceptInversion(steps=3).run(scenes.scene(victim, sd, scenes.always))
    assert result.details["error"] == [] and sum(t.queries for t in result.trials) == 0


def test_learned_states_stand_in_the_last_places_behind_the_encoder(victim, sd):
    attack = StateInversion(tokens=2, steps=1, restarts=3)
    assert attack.takes_room and ConceptInversion().takes_room
    w = torch.full((2, 2, 16), 5.0)
    own = victim.encode_prompt(["a cat", "a car"]).states
    read = attack._read(victim, ["a cat", "a car"], w).states
    assert torch.equal(read[:, :-2], own[:, :-2]) and (read[:, -2:] == 5).all()
    starts = attack._starts(scenes.scene(victim, sd), victim.vocabulary.detach(), torch.Generator())
    concept = victim.encode_prompt(["neon"]).states[0, victim.tokens("neon").last]
    assert torch.equal(starts[0], concept.expand(2, -1))
    result = attack.run(scenes.scene(victim, sd))
    assert len(result.details["error"]) == 3 and [t.tries for t in result.trials] == [3, 3, 3]
    # the places must be padding: a prompt that fills the encoder would lose its own end
    long = scenes.Case("x" * 45, "x" * 45, "x" * 3, 1)
    with pytest.raises(UsageError, match="2 more do not fit"):
        attack.run(scenes.scene(victim, sd, cases=(long,)))


def test_learned_states_can_be_reached_by_descent(victim, sd):
    scene = scenes.scene(victim, sd)
    few, many = (
        StateInversion(steps=n, batch=8, restarts=1, lr=0.2)._learn(scene)[1] for n in (1, 30)
    )
    assert many.mean() < few.mean()
