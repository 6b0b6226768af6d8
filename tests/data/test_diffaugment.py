"""Differentiable augmentation: what each change does, and that gradients go back through it."""

from __future__ import annotations

import pytest
import torch

from mu_vision.data.diffaugment import POLICIES, augment, cutout, translation


@pytest.mark.parametrize("policy", list(POLICIES))
def test_gradients_go_back_through_every_change(policy):
    x = torch.randn(6, 3, 8, 8, requires_grad=True)
    torch.manual_seed(0)
    y = augment(x, [policy])
    assert y.shape == x.shape
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.abs().sum() > 0
    torch.manual_seed(0)
    assert torch.equal(y, augment(x, [policy]))


def test_none_gives_the_pictures_back():
    x = torch.randn(2, 1, 4, 4)
    assert augment(x, ()) is x


def test_translation_moves_by_whole_pixels():
    x = torch.arange(1.0, 65.0).view(1, 1, 8, 8).expand(50, -1, -1, -1)
    torch.manual_seed(0)
    moved = translation(x)
    known = {0.0, *range(1, 65)}
    assert set(moved.flatten().tolist()) <= known
    places = {tuple((m[0] == 28).nonzero().flatten().tolist()) for m in moved}
    assert len(places) == 9 and all(abs(r - 3) <= 1 and abs(c - 3) <= 1 for r, c in places)


def test_a_hole_is_a_rectangle_of_zeros():
    torch.manual_seed(0)
    y = cutout(torch.ones(200, 1, 8, 8))
    holes = (y == 0).sum((1, 2, 3))
    assert holes.max() == 16 and holes.min() >= 4
    hole = (y[int(holes.argmax())] == 0)[0]
    assert hole.any(0).sum() * hole.any(1).sum() == hole.sum()
