"""The attacker inside AdvUnlearn: the insertion, the steps, their order and their state."""

from __future__ import annotations

import pytest
import torch
from test_advunlearn import NEON, losses, objective, settings, shift

from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.diffusion.advunlearn import AdvUnlearnObjective, _AttackStep


def fixed(made, monkeypatch=None, n=2):
    """A state that every attack step meets."""
    with seeding.seeded("state"):
        made._draw()
        rows = torch.arange(n)
    state = {name: tensor[rows] for name, tensor in made.pool.items() if name != "cursor"}
    if monkeypatch:
        monkeypatch.setattr(AdvUnlearnObjective, "_draw_for_attack", lambda self: state)
    return state


def attacked(made, seed=0):
    with seeding.seeded("attack", seed):
        return made._attack(torch.device("cpu"))


def start_of(made, seed=0):
    """delta_0 as the attack draws it."""
    table, s = made.student.vocabulary.detach(), made.settings
    with seeding.seeded("attack", seed):
        return table[torch.randint(len(table), (s.prefixes, s.tokens))]


def slope(made, delta, state):
    delta = delta.clone().requires_grad_(True)
    return torch.autograd.grad(made.attack_error(delta, state), delta)[0]


def test_only_positions_of_the_prefix_depend_on_it_and_the_concept_is_whole(sd):
    made = objective(sd, tokens=2)
    which = torch.zeros(1, dtype=torch.long)
    read = sd.tokens("neon style")
    own = sd.vocabulary.detach()[torch.tensor(read.ids)]
    delta = seeding.noise((1, 2, own.shape[1]), "delta").requires_grad_(True)
    inserted = made.student.insert(["neon style"], delta)
    assert inserted.shape == (1, *own.shape)
    assert torch.equal(inserted[0, 0], own[0])
    assert torch.equal(inserted[0, 1:3], delta[0])
    # all tokens of a concept of several, the end of text, and padding less the last two
    assert read.count > 4
    assert torch.equal(inserted[0, 3:], own[1:-2])
    moved = made.student.insert(["neon style"], delta + 0.1)
    changed = (moved - inserted).abs().amax((0, 2)) > 0
    assert changed.nonzero().flatten().tolist() == [1, 2]
    assert made.student.vocabulary.grad_fn is None
    states = made._attacked_text(which, delta)
    states.states.sum().backward()
    assert made.student.vocabulary.grad is None and sd.vocabulary.grad is None
    assert delta.grad.abs().sum() > 0


def test_the_attack_error_is_its_closed_form(sd):
    made = objective(sd)
    shift(made.student, made.names)
    state, delta = fixed(made), start_of(made)
    s = made.student
    e_c = sd.predict_noise(state["x"], state["t"], sd.encode_prompt(["neon style"]))
    with torch.no_grad():
        text = s.encode_embeddings(s.insert(["neon style"] * 2, delta.expand(2, -1, -1)))
        expected = (s.predict_noise(state["x"], state["t"], text) - e_c).square().mean()
        assert made.attack_error(delta, state).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["adam", "sign"])
def test_on_a_fixed_state_more_steps_have_less_error(sd, monkeypatch, kind):
    errors = []
    for steps in (1, 4, 16):
        made = objective(sd, attack=kind, attack_steps=steps, attack_lr=2e-3)
        shift(made.student, made.names)
        state = fixed(made, monkeypatch)
        delta, _ = attacked(made)
        with torch.no_grad():
            errors.append(made.attack_error(delta, state).item())
            first = made.attack_error(start_of(made), state).item()
    assert first >= errors[0] >= errors[1] >= errors[2]
    assert errors[2] < first


def test_one_signed_step_is_exact_and_the_last_iterate_is_returned(sd, monkeypatch):
    made = objective(sd, attack="sign", attack_steps=1, attack_lr=0.01)
    shift(made.student, made.names)
    state, start = fixed(made, monkeypatch), start_of(made)
    delta, error = attacked(made)
    assert torch.equal(delta, start - 0.01 * slope(made, start, state).sign())
    assert error.item() == pytest.approx(made.attack_error(start, state).item())
    # three steps, each with the gradient at the place where it stands
    made = objective(sd, attack="sign", attack_steps=3, attack_lr=0.01)
    shift(made.student, made.names)
    expected = start
    for _ in range(3):
        expected = expected - 0.01 * slope(made, expected, state).sign()
    assert torch.equal(attacked(made)[0], expected)


def test_adam_is_torchs_own_with_fresh_moments(sd, monkeypatch):
    made = objective(sd, attack_steps=3, attack_lr=0.01)
    state, start = fixed(made, monkeypatch), start_of(made)
    expected = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([expected], lr=0.01)
    for _ in range(3):
        expected.grad = slope(made, expected.detach(), state)
        adam.step()
    first, _ = attacked(made)
    attacked(made, seed=1)
    again, _ = attacked(made)
    assert torch.equal(first, expected.detach())
    assert torch.equal(first, again)  # no state is left from call to call
    assert not first.requires_grad


def test_the_published_quirks_sum_gradients_and_drop_the_last_step(sd, monkeypatch):
    made = objective(sd, attack="sign", attack_steps=3, attack_lr=0.01, attack_compat="published")
    shift(made.student, made.names)
    state, start = fixed(made, monkeypatch), start_of(made)
    one = slope(made, start, state)
    second = start - 0.01 * one.sign()
    expected = second - 0.01 * (one + slope(made, second, state)).sign()
    assert torch.equal(attacked(made)[0], expected)  # two updates of three
    alone = objective(sd, attack="sign", attack_steps=1, attack_compat="published")
    assert torch.equal(attacked(alone)[0], start)  # "Fast AT" as it was published: a random token


@pytest.mark.parametrize("kind", ["adam", "sign"])
def test_the_radius_is_an_l2_ball_around_the_start(sd, kind):
    start = seeding.noise((3, 2, 5), "start")
    step = _AttackStep(settings(attack=kind, attack_lr=0.1, radius=0.25), start)
    for k in range(6):
        step.step(seeding.noise((3, 2, 5), "slope", k))
        norm = (step.delta - start).flatten(1).norm(dim=1)
        assert (norm <= 0.25 + 1e-6).all()
    assert torch.allclose(norm, torch.full((3,), 0.25), atol=1e-5)
    free = _AttackStep(settings(attack="sign", attack_lr=1e-3, radius=9.0), start)
    free.step(torch.ones(3, 2, 5))
    assert torch.allclose(free.result(), start - 1e-3, atol=1e-7)


def test_where_the_prefix_starts(sd):
    made = objective(sd, initial="latest", attack_lr=1e-9, attack_steps=1)
    losses(made, 0)
    first = made.delta.clone()
    table = sd.vocabulary.detach()
    assert min((first[0, 0] - row).abs().max() for row in table) < 1e-6
    losses(made, 1)
    assert (made.delta - first).abs().max() < 1e-6
    random = objective(sd, attack_lr=1e-9, attack_steps=1)
    seen = []
    for step in range(4):
        losses(random, step)
        seen.append(random.delta)
    assert len(torch.cat(seen).flatten(1).unique(dim=0)) > 1


def test_the_attack_waits_for_the_clean_steps(sd):
    made = objective(sd, clean_steps=2)
    assert ["attack_error" in losses(made, step) for step in range(4)] == [False, False, True, True]


def test_every_prefix_is_attacked_on_its_own_rows_and_trained_on(sd, monkeypatch):
    made = objective(
        sd, prefixes=3, batch=1, attack="sign", attack_steps=1, attack_lr=0.01, gamma=0
    )
    shift(made.student, made.names)
    state, start = fixed(made, monkeypatch, n=3), start_of(made)
    delta, _ = attacked(made)
    for m in range(3):
        mine = {name: tensor[[m]] for name, tensor in state.items()}
        expected = start[[m]] - 0.01 * slope(made, start[[m]], mine).sign()
        agree = (delta[[m]] - expected).abs() < 1e-7
        assert agree.float().mean() > 0.9  # but for signs of slopes next to zero
    rows = []
    hook = sd.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    losses(made)
    hook.remove()
    assert rows == [3, 3]


def test_passes_of_a_step(sd):
    """K + 1 passes of the network; nothing is sampled once the pools are there."""
    made = objective(sd, attack_steps=3, batch=2)
    losses(made)
    rows = []
    hook = sd.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    losses(made, 1)
    hook.remove()
    assert rows == [2, 2, 2, 2 + 2]


def test_the_attack_lowers_the_error_of_a_model_in_training(sd):
    done = settings(steps=6, lr=5e-3, attack_steps=8, attack_lr=0.05, log_every=1).unlearn(sd, NEON)
    assert all(row["attack_error"] > 0 for row in done.history)
    assert done.report["steps"] == 6


@pytest.mark.parametrize(
    ("prompts", "tokens", "words"),
    [
        (("x" * 46,), 1, r"has 48 tokens, begin and end included, and 1 more do not fit"),
        (("neon",), 43, r"has 6 tokens, begin and end included, and 43 more do not fit"),
        (("x" * 99,), 1, r"has more than 48 tokens"),
        (("  ",), 1, r"The prompt '  ' has no token, so there is nothing to erase"),
    ],
)
def test_prompts_that_leave_no_room_are_refused(sd, prompts, tokens, words):
    request = ConceptRequest(kind="concept", name="x", prompts=prompts, keep=("a tree",))
    with pytest.raises(UsageError, match=words):
        settings(tokens=tokens).unlearn(sd, request)
