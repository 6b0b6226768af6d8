"""UnlearnDiffAtk: the simplex, the straight-through gradient, the tokens that it finds."""

from __future__ import annotations

import pytest
import scenes
import torch

from mu_vision import seeding
from mu_vision.attack.base import Case
from mu_vision.attack.tokens import gradient
from mu_vision.attack.unlearndiffatk import UnlearnDiffAtk, project


def bisected(row: torch.Tensor) -> torch.Tensor:
    """clip(a - mu, 0, 1) with the mu that makes it sum to 1, found by halving."""
    low, high = row.min() - 1, row.max()
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if (row - mu).clamp(0, 1).sum() > 1 else (low, mu)
    return (row - mu).clamp(0, 1)


def random_rows(n=50, size=23, scale=1.0):
    rng = torch.Generator().manual_seed(0)
    return scale * torch.randn(n, size, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_projection_equals_bisection_and_is_idempotent(scale):
    rows = random_rows(scale=scale)
    found = project(rows)
    assert (found >= 0).all()
    assert torch.allclose(found.sum(-1), torch.ones(len(rows), dtype=found.dtype), atol=1e-12)
    assert torch.allclose(found, torch.stack([bisected(row) for row in rows]), atol=1e-10)
    assert torch.allclose(project(found), found, atol=1e-12)


def test_the_projection_is_the_nearest_point_of_the_simplex():
    rows = random_rows(20, 6)
    nearest = (project(rows) - rows).norm(dim=-1)
    rng = torch.Generator().manual_seed(1)
    others = -torch.rand(2000, 6, generator=rng, dtype=torch.float64).log()
    others = others / others.sum(-1, keepdim=True)
    assert (nearest[:, None] <= (rows[:, None] - others).norm(dim=-1) + 1e-12).all()


def test_points_of_the_simplex_stay_and_ties_are_shared():
    corner, middle = torch.eye(5, dtype=torch.float64), torch.full((1, 5), 0.2, dtype=torch.float64)
    inside = torch.tensor([[0.5, 0.25, 0.25, 0.0, 0.0]], dtype=torch.float64)
    points = torch.cat([corner, middle, inside])
    assert torch.allclose(project(points), points, atol=1e-15)
    assert torch.allclose(project(torch.full((1, 4), 7.0)), torch.full((1, 4), 0.25))
    assert project(torch.tensor([3.0, 3.0, -1.0])).tolist() == [0.5, 0.5, 0.0]
    assert project(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx([1 / 3] * 3 + [0])
    batch = random_rows(6).reshape(2, 3, -1)
    assert torch.equal(project(batch)[1, 2], project(batch[1, 2]))


def started(victim, cases=scenes.CASES, **settings):
    attack = UnlearnDiffAtk(**settings)
    scene = scenes.toy_scene(victim, cases=cases)
    generators = scene.generators(attack.name)
    return attack, scene, generators, attack.start(scene, generators)


def test_the_forward_pass_reads_whole_rows_of_the_vocabulary():
    victim = scenes.ToyVictim(40, 6, 0, best=3)
    _, _, _, found = started(victim, tokens=5, restarts=2)
    e = found.embeddings([0, 2])
    assert e.shape == (2, 2, 5, 6) and e.requires_grad and e.is_leaf
    distance = (e.detach()[..., None, :] - victim.vocabulary).abs().amax(-1)
    assert (distance.amin(-1) == 0).all()


def test_a_uniform_u_samples_tokens_uniformly():
    words = 16
    victim = scenes.ToyVictim(words, 4, 0, best=3)
    _, _, _, found = started(victim, tokens=50, restarts=4)
    assert torch.equal(found.u, torch.full_like(found.u, 1 / words))
    drawn = torch.cat([found._sample(0).flatten() for _ in range(40)])
    counts = torch.bincount(drawn, minlength=words).double()
    expected = len(drawn) / words
    chi_square = ((counts - expected).square() / expected).sum()
    assert chi_square < 37.7  # 99.9 % of 15 degrees of freedom


def test_a_random_u_lies_on_the_simplex():
    _, _, _, found = started(scenes.ToyVictim(12, 4, 0, 3), tokens=2, initial="random")
    assert (found.u >= 0).all()
    assert torch.allclose(found.u.sum(-1), torch.ones(found.u.shape[:-1]), atol=1e-6)
    assert not torch.equal(found.u[0], found.u[1])


def test_the_gradient_goes_straight_through_and_is_clipped():
    victim = scenes.ToyVictim(12, 4, 0, best=3)
    settings = {"lr": 0.03, "weight_decay": 0.2}
    _, scene, _, found = started(victim, tokens=2, **settings)
    start = found.u.clone()
    e = found.embeddings([1])
    x_t = torch.randn(1, *victim.latent_shape, generator=torch.Generator().manual_seed(0))
    slope = gradient(scene, [1], e, x_t, 500, torch.zeros_like(x_t))
    assert not slope[:, :, 1].any()  # the toy looks at the first token alone
    for scale in (1.0, 100.0):
        _, _, _, found = started(victim, tokens=2, **settings)
        found.update([1], scale * slope)
        expected = (scale * slope[0] @ victim.vocabulary.T).clamp(-1, 1)
        assert torch.equal(found.parts[1].grad, expected)
        assert (expected.abs().max() == 1) == (scale > 1)
        # one step of torch's own Adam, then the projection
        u = torch.nn.Parameter(start[1].clone())
        adam = torch.optim.Adam([u], **settings)
        u.grad = expected
        adam.step()
        assert torch.allclose(found.parts[1], project(u.detach()), atol=1e-7)
        # the other cases did not move
        assert torch.equal(found.parts[0], start[0]) and torch.equal(found.parts[2], start[2])
    assert torch.allclose(found.parts[1].sum(-1), torch.ones(1, 2), atol=1e-5)


def test_the_tokens_of_a_linear_toy_are_the_brute_force_minimiser():
    for best in (3, 8):
        victim = scenes.ToyVictim(12, 8, best, best)
        assert victim.errors().argmin() == best
        attack, scene, generators, found = started(victim, tokens=1, lr=0.02)
        x_0 = torch.zeros(3, *victim.latent_shape)
        for step in range(150):
            attack._step(scene, found, [0, 1, 2], x_0, 10 + step, generators)
        assert found.ids([0, 1, 2]).flatten().tolist() == [best] * 3
        # what leaves the batch stays as it is
        before = found.parts[0].detach().clone()
        attack._step(scene, found, [1], x_0, 500, generators)
        assert torch.equal(found.parts[0], before)


def test_what_is_aimed_at_is_the_noise():
    noise = seeding.noise((2, 4, 2, 2), "aim")
    assert UnlearnDiffAtk().aim(None, [0, 1], noise, 5, noise) is noise


def test_the_defaults_are_the_papers():
    attack = UnlearnDiffAtk()
    assert attack.ladder() == list(range(10, 1000, 20))
    values = (attack.tokens, attack.iterations, attack.lr, attack.weight_decay, attack.initial)
    assert values == (3, 40, 0.01, 0.1, "uniform")


def test_a_case_is_a_function_of_prompt_and_seed():
    case = Case("plain", "a cat, neon", "a cat", 4)
    shape = (4, 8, 8)
    assert torch.equal(case.noise(shape), Case("x", "a cat, neon", "", 4).noise(shape))
    assert not torch.equal(case.noise(shape), Case("plain", "a cat, neon", "a cat", 5).noise(shape))
