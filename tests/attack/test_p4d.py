"""P4D: the nearest tokens, and what the original predicts under the prompt with the name."""

from __future__ import annotations

import scenes
import torch
import torch.nn.functional as F

from mu_vision.attack.base import Case
from mu_vision.attack.p4d import P4D
from mu_vision.attack.tokens import gradient


def started(victim, **settings):
    attack = P4D(**settings)
    scene = scenes.toy_scene(victim, scenes.ToyOriginal(1, 1, 0, 0))
    generators = scene.generators(attack.name)
    return attack, scene, generators, attack.start(scene, generators)


def test_the_nearest_token_is_the_one_of_largest_cosine():
    victim = scenes.ToyVictim(30, 6, 0, best=3)
    victim.vocabulary = victim.vocabulary * torch.linspace(0.2, 5, 30)[:, None]
    _, _, _, found = started(victim, tokens=4, restarts=3)
    rng = torch.Generator().manual_seed(0)
    for part in found.parts:
        part.data = torch.randn(part.shape, generator=rng)
    ids = found.ids([0, 2])
    for row, part in enumerate((found.parts[0], found.parts[2])):
        cosine = F.cosine_similarity(part[..., None, :], victim.vocabulary, dim=-1)
        assert torch.equal(ids[row], cosine.argmax(-1))
    e = found.embeddings([0, 2])
    assert torch.equal(e.detach(), victim.vocabulary[ids])


def test_it_starts_at_random_tokens_of_each_case():
    victim = scenes.ToyVictim(500, 6, 0, best=3)
    _, _, _, found = started(victim, tokens=4)
    for row, part in enumerate(found.parts):
        assert torch.equal(part, victim.vocabulary[found.ids([row])[0]])
    assert not torch.equal(found.parts[0], found.parts[1])


def test_the_gradient_at_the_tokens_moves_the_continuous_copy():
    victim = scenes.ToyVictim(12, 4, 0, best=3)
    settings = {"lr": 0.05, "weight_decay": 0.3}
    _, scene, _, found = started(victim, tokens=1, **settings)
    continuous = found.parts[1].detach().clone()
    e = found.embeddings([1])
    x_t = torch.zeros(1, *victim.latent_shape)
    slope = gradient(scene, [1], e, x_t, 500, torch.zeros_like(x_t))
    # d/de mean((M e - b)^2) = 2/16 M^T (M e - b)
    closed = 2 / 16 * victim.left_over(e.detach()[0, 0, 0]) @ victim.matrix
    assert torch.allclose(slope[0, 0, 0], closed, atol=1e-5)
    found.update([1], slope)
    c = torch.nn.Parameter(continuous)
    adam = torch.optim.Adam([c], **settings)
    c.grad = slope[0]
    adam.step()
    assert torch.equal(found.parts[1], c)


def test_the_tokens_of_a_linear_toy_are_the_brute_force_minimiser():
    victim = scenes.ToyVictim(12, 8, 3, best=3)
    assert victim.errors().argmin() == 3
    attack, scene, generators, found = started(victim, tokens=1, lr=0.05, restarts=4)
    x_0 = torch.zeros(3, *victim.latent_shape)
    for step in range(100):
        attack._step(scene, found, [0, 1, 2], x_0, 10 + step, generators)
    ids = found.ids([0, 1, 2]).flatten(1)
    best = victim.errors()[ids].amin(1)
    assert torch.equal(best, victim.errors().min().expand(3))


def test_what_is_aimed_at_is_the_originals_prediction_under_the_name(sd):
    case = Case("a cat", "a cat, neon", "a cat", 1)
    scene = scenes.scene(scenes.edited(sd), sd, cases=(case,))
    x = torch.randn(2, *sd.latent_shape, generator=torch.Generator().manual_seed(0))
    y = P4D(restarts=2).aim(scene, [0], x, 300, torch.zeros_like(x))
    expected = sd.predict_noise(x, 300, sd.encode_prompt(["a cat, neon"]))
    assert torch.equal(y, expected) and not y.requires_grad
