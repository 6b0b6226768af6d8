"""Ring-A-Bell: the misfit, the genetic search, and texts that serve every victim."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import scenes
import torch

from mu_vision import seeding
from mu_vision.attack import ring_a_bell
from mu_vision.attack.ring_a_bell import RingABell
from mu_vision.errors import UsageError
from mu_vision.models.text import TextStates


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch):
    monkeypatch.setattr(ring_a_bell, "_FOUND", {})


def padded(sd, ids):
    words = sd.pipeline.tokenizer
    row = [words.bos_token_id, *ids, words.eos_token_id]
    return row + [words.pad_token_id] * (sd.encode_prompt([""]).states.shape[1] - len(row))


def test_the_misfit_of_the_goal_itself_is_zero_and_of_others_a_sum_of_squares(sd):
    attack = RingABell(tokens=4)
    ids = torch.tensor([[10, 20, 30, 40], [1, 2, 3, 4]])
    with torch.no_grad():
        rows = torch.tensor([padded(sd, row) for row in ids.tolist()])
        states = sd.pipeline.text_encoder(rows).last_hidden_state
        found = attack._misfit(sd, ids, states[0])
    assert found[0] == pytest.approx(0, abs=1e-8)
    assert found[1].item() == pytest.approx((states[1] - states[0]).square().sum().item(), rel=1e-5)


def test_a_prompt_of_that_many_tokens_has_no_misfit(sd):
    """The rows that are built are those of the tokenizer."""
    tokens = sd.tokens("neon")
    ids = torch.tensor([tokens.ids[1 : tokens.count - 1]])
    goal = sd.encode_prompt(["neon"]).states[0]
    with torch.no_grad():
        assert RingABell(tokens=4)._misfit(sd, ids, goal).item() == pytest.approx(0, abs=1e-8)


def test_the_best_of_the_population_never_gets_worse(sd, monkeypatch):
    seen = []
    inner = RingABell._misfit

    def misfit(self, model, ids, goal):
        found = inner(self, model, ids, goal)
        seen.append(found)
        return found

    monkeypatch.setattr(RingABell, "_misfit", misfit)
    attack = RingABell(tokens=3, population=12, generations=15)
    goal = sd.encode_prompt(["neon style"]).states[0]
    text = attack._evolve(sd, goal, seeding.generator("test"))
    assert len(seen) == 16 and len(seen[0]) == 12 and all(len(part) == 6 for part in seen[1:])
    population, means, bests = seen[0], [], []
    for children in seen[1:]:
        survivors = population.sort().values[:6]
        means.append(survivors.mean().item())
        bests.append(survivors[0].item())
        population = torch.cat([survivors, children])
    bests.append(population.min().item())
    assert means == sorted(means, reverse=True)
    assert bests == sorted(bests, reverse=True)
    assert bests[-1] < bests[0]
    assert text == attack._evolve(sd, goal, seeding.generator("test"))
    assert text != attack._evolve(sd, goal, seeding.generator("other"))


def test_children_are_copies_crossed_or_mutated():
    attack = RingABell(tokens=5, crossover=0.0, mutation=0.0)
    parents = torch.arange(20).reshape(4, 5)
    rng = seeding.generator("children")
    copies = attack._children(parents, 30, 99, rng)
    assert all(any(torch.equal(c, p) for p in parents) for c in copies)
    crossed = attack.model_copy(update={"crossover": 1.0})._children(parents, 30, 99, rng)
    assert torch.equal(crossed % 5, torch.arange(5).expand(30, 5))  # genes keep their places
    for child in crossed // 5:
        assert len(child.unique_consecutive()) <= 2  # one cut
    mutated = attack.model_copy(update={"mutation": 1.0})._children(parents + 100, 30, 99, rng)
    assert ((mutated < 99).sum(1) == 1).all()


def test_texts_are_found_once_and_serve_every_victim(sd, monkeypatch):
    calls = []
    inner = RingABell._evolve
    monkeypatch.setattr(
        RingABell, "_evolve", lambda self, *args: calls.append(1) or inner(self, *args)
    )
    attack = RingABell(**RingABell.trial)
    one, two = (attack.run(scenes.scene(scenes.edited(sd, k), sd)) for k in (0, 1))
    assert len(calls) == 3
    assert [t.adversarial for t in one.trials] == [t.adversarial for t in two.trials]
    assert one.details == two.details and one.details["direction_norm"] > 0
    attack.run(scenes.scene(sd, sd, seed=1))
    assert len(calls) == 6
    other = tuple(type(c)(c.prompt, c.asks_for, c.neutral, c.seed + 9) for c in scenes.CASES)
    attack.run(scenes.scene(sd, sd, cases=other))
    assert len(calls) == 9


def test_more_tokens_than_the_encoder_reads_are_refused(sd):
    with pytest.raises(
        UsageError, match=r"tokens=47 do not fit, since the text encoder of .* reads 48"
    ):
        RingABell(tokens=47).run(scenes.scene(sd, sd))


def test_a_prompt_is_begin_tokens_end_and_padding():
    """Padding may be another token than the end, as in Stable Diffusion 2."""
    words = SimpleNamespace(pad_token_id=0, bos_token_id=7, eos_token_id=8)
    model = SimpleNamespace(
        pipeline=SimpleNamespace(tokenizer=words),
        vocabulary=torch.arange(9.0)[:, None],
        encode_embeddings=lambda embeddings: TextStates(embeddings),
    )
    goal = torch.tensor([7.0, 3, 4, 8, 0, 0])[:, None]
    found = RingABell(tokens=2)._misfit(model, torch.tensor([[3, 4], [3, 6]]), goal)
    assert found.tolist() == [0, 4]


def test_the_goal_is_the_prompt_moved_along_the_mean_direction(sd, monkeypatch):
    goals = []
    monkeypatch.setattr(
        RingABell, "_evolve", lambda self, model, goal, rng: goals.append(goal) or "text"
    )
    RingABell(**{**RingABell.trial, "eta": 2.5}).run(scenes.scene(sd, sd))
    named, neutral = (
        sd.encode_prompt([getattr(case, key) for case in scenes.CASES]).states
        for key in ("prompt", "neutral")
    )
    expected = named + 2.5 * (named - neutral).mean(0)
    assert torch.allclose(torch.stack(goals), expected, atol=1e-5)
