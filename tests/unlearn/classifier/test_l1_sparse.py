"""l1-sparse: the penalty, its gradient and its course."""

from __future__ import annotations

import pytest
import torch
from steps import SAMPLES, method, prepared, result, same


def test_without_gamma_it_is_finetuning_bit_for_bit(digit_net):
    settings = {"epochs": 2}
    plain = result("finetune", digit_net, **settings)
    assert same(result("l1_sparse", digit_net, gamma=0.0, **settings), plain)
    assert same(result("l1_sparse", digit_net, gamma=0.1, plain_epochs=2, **settings), plain)
    assert not same(result("l1_sparse", digit_net, gamma=1e-3, **settings), plain)


def test_the_gradient_of_the_penalty_is_gamma_times_the_sign_and_zero_at_zero(digit_net):
    objective = prepared("l1_sparse", digit_net, gamma=0.25)
    parameters = objective.student.named_parameters()
    with torch.no_grad():
        parameters["network.9.weight"][0, :5] = 0.0
    loss = objective.loss(0)["l1_loss"]
    size = sum(float(p.detach().abs().sum()) for p in parameters.values())
    assert float(loss.detach()) == pytest.approx(0.25 * size, rel=1e-5)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for parameter, grad in zip(parameters.values(), gradients, strict=True):
        assert torch.equal(grad, 0.25 * parameter.detach().sign())
    assert (gradients[-2][0, :5] == 0).all()


def course(**settings) -> list[float]:
    return [method("l1_sparse", gamma=1.0, **settings).gamma_at(e) for e in range(10)]


def test_gamma_falls_linearly_from_all_of_it_and_never_to_zero():
    assert course(epochs=10) == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_the_last_epochs_can_be_without_penalty():
    falling = [1 - e / 7 for e in range(7)]
    assert course(epochs=10, plain_epochs=3) == pytest.approx([*falling, 0, 0, 0])
    assert course(epochs=10, plain_epochs=10) == [0] * 10
    assert course(epochs=10, plain_epochs=12) == [0] * 10


def test_gamma_can_grow_or_stay():
    growing = course(epochs=10, decline="growing")
    assert growing == pytest.approx([e / 10 for e in range(10)])
    assert course(epochs=10, decline="constant", plain_epochs=2) == [1.0] * 8 + [0.0] * 2


def test_every_epoch_has_its_own_gamma(digit_net):
    objective = prepared("l1_sparse", digit_net, gamma=0.1, epochs=4, plain_epochs=1)
    size = sum(float(p.abs().sum()) for p in digit_net.network.parameters())
    told = [objective.loss(step).get("l1_loss") for step in range(0, 16, 4)]
    shares = [0.0 if t is None else float(t.detach()) / size for t in told]
    assert shares == pytest.approx([0.1, 0.2 / 3, 0.1 / 3, 0.0], rel=1e-5)


def test_a_stronger_penalty_leaves_smaller_weights(digit_net):
    sizes = []
    for gamma in (0.0, 1e-3, 5e-3):
        done = method("l1_sparse", gamma=gamma, epochs=3).unlearn(digit_net, SAMPLES).model
        sizes.append(sum(float(p.abs().sum()) for p in done.named_parameters().values()))
    assert sizes[0] > sizes[1] > sizes[2]
