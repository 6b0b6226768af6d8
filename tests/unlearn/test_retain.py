"""What is held on to: the filter of prompts, and the pool of states."""

from __future__ import annotations

import pytest
import torch

from mu_vision import seeding
from mu_vision.data.cards import load_card
from mu_vision.errors import UsageError
from mu_vision.models import maths
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.diffusion.advunlearn import AdvUnlearn
from mu_vision.unlearn.diffusion.retain import (
    RetainPool,
    _trajectories,
    default_prompts,
    retain_prompts,
)

CAT = ConceptRequest(
    kind="object", name="black_cat", prompts=("cat", "a cat drawn"), plain=1, synonyms=("Kitten", "a.b")
)  # fmt: skip


def test_whole_words_are_left_out_whatever_their_case():
    kept = ["a category", "concatenate", "tomcats", "a kit", "a boat", "axb"]
    out = ["A CAT, asleep", "cat", "the cat's ear", "a black cat", "kitten?", "my KITTEN", "a.b"]
    assert retain_prompts([CAT], [*kept, *out, "a boat"]) == kept


def test_every_request_filters():
    boat = ConceptRequest(kind="object", name="boat", prompts=("boat",))
    assert retain_prompts([CAT, boat], ["a boat", "a cat", "a tree"]) == ["a tree"]


@pytest.mark.parametrize("kind", ["style", "object"])
def test_no_prompt_that_a_card_keeps_names_the_concept(kind):
    card = load_card("minicanvas")
    known = card.styles if kind == "style" else card.objects
    for name in known:
        request = concept_request(kind, name)
        kept = retain_prompts([request], request.keep)
        words = [w.lower() for w in (*known[name].names, *known[name].held_out)]
        assert len(kept) > 20
        for prompt in kept:
            text = f" {prompt.lower().replace('.', ' ').replace(',', ' ')} "
            assert not any(f" {word} " in text for word in words), (name, prompt)


def test_when_none_is_left_the_sentence_says_what_to_give():
    with pytest.raises(
        UsageError,
        match=r"No retain prompt is left that does not name 'black cat' \(2 were given\)",
    ):
        retain_prompts([CAT], ["a cat", "Kitten"])


PROMPTS = ["a tree", "a car", "a boat"]


def make(sd, size, steps=4, guidance=2.0, **more) -> RetainPool:
    with seeding.seeded("pool"):
        return RetainPool.make(sd, PROMPTS, size, steps, guidance, **more)


def test_the_pool_holds_the_teachers_own_predictions(sd):
    pool = make(sd, 18)
    assert len(pool.x) == len(pool.t) == len(pool.eps) == len(pool.which) == 18
    assert set(pool.which.tolist()) == {0, 1, 2}
    assert set(pool.t.tolist()) <= set(sd.timesteps(4))
    text = sd.encode_prompt([PROMPTS[i] for i in pool.which.tolist()])
    eps = sd.predict_noise(pool.x, pool.t, text)
    torch.testing.assert_close(pool.eps, eps, rtol=1e-4, atol=1e-4)
    assert not pool.x.requires_grad and not pool.eps.requires_grad


@pytest.mark.parametrize("each", [1, 3, 4])
def test_the_states_lie_on_guided_trajectories_of_their_prompts(sd, each):
    with seeding.seeded("pool"):
        rank, x, t, eps, which = _trajectories(sd, PROMPTS, torch.tensor([1]), 4, 2.0, each)
    assert which.tolist() == [1] * each and sorted(rank.tolist()) == list(range(each))
    assert len(set(t.tolist())) == each
    with seeding.seeded("pool"):
        state = torch.randn(1, *sd.latent_shape)
    text, met = sd.encode_prompt([PROMPTS[1]]), 0
    for step in sd.timesteps(4):
        for row in (t == step).nonzero().flatten():
            torch.testing.assert_close(x[row], state[0], rtol=1e-3, atol=1e-3)
            own = sd.predict_noise(state, step, text)[0]
            torch.testing.assert_close(eps[row], own, rtol=1e-3, atol=1e-3)
            met += 1
        guided = sd.guided_noise(state, step, text, sd.null_text(), 2.0)
        state = maths.ddim_step(state, guided, sd.alphas_cumprod[step], sd.level_after(step, 4))
    assert met == each


@pytest.mark.parametrize("size", [1, 3, 4, 7, 12, 30])
def test_every_prompt_has_its_turn_and_as_many_states_as_the_others(sd, size):
    pool = make(sd, size, batch=2)
    assert len(pool.x) == len(pool.t) == len(pool.eps) == len(pool.which) == size
    counts = torch.bincount(pool.which, minlength=3)
    # a prompt's further trajectories take it beyond the 4 states of one
    assert counts.max() - counts.min() <= (1 if size <= 12 else 4)


def test_more_states_of_a_trajectory_cost_no_evaluation(sd, monkeypatch):
    rows, inner = [], type(sd).predict_noise
    monkeypatch.setattr(
        type(sd), "predict_noise", lambda *a, **k: (rows.append(len(a[1])), inner(*a, **k))[1]
    )
    make(sd, 12)
    assert sum(rows) == 2 * 3 * 4


def test_a_draw_gives_rows_that_belong_together(sd):
    pool = make(sd, 8)
    with seeding.seeded("draw"):
        kept = pool.draw(20)
    assert len(kept["x"]) == 20
    for x, t, eps, prompt in zip(kept["x"], kept["t"], kept["eps"], kept["prompts"], strict=True):
        rows = [k for k in range(8) if torch.equal(pool.x[k], x) and pool.t[k] == t]
        assert rows
        assert any(torch.equal(pool.eps[k], eps) for k in rows)
        assert {PROMPTS[pool.which[k]] for k in rows} == {prompt}


def test_a_concept_of_no_data_set_keeps_photos_of_everyday_things_but_its_own(sd):
    """Nobody should have to invent a retain set to erase "nudity"."""
    request = concept_request("concept", "cat")
    objective = AdvUnlearn(**AdvUnlearn.trial).objective(sd, (request,))
    objective.prepare(sd.device)
    kept = objective.retain.prompts
    assert len(kept) == len(default_prompts()) - 1
    assert "a photo of an airplane" in kept and "a photo of a cat" not in kept
