"""SalUn: the saliency mask, and weights outside it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from labelled import few_digits
from steps import SAMPLES, method, prepared, result, same, tensors

from mu_vision.data.labelled import Labelled, Splits
from mu_vision.data.selectors import forget_rows
from mu_vision.models.classifier import Classifier
from mu_vision.unlearn.saliency import largest, restore, salient, shrink


def mask_of(model, request=SAMPLES, **settings) -> torch.Tensor:
    saliency = prepared("salun", model, request, **settings).saliency
    return torch.cat([m.flatten() for m in saliency.values()])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weights_outside_the_mask_stay_bit_for_bit(optimizer, digit_net):
    """Momentum and weight decay move weights that have no gradient; here they do not."""
    settings = {"density": 0.3, "optimizer": optimizer, "weight_decay": 0.05, "lr": 0.01}
    m = method("salun", epochs=6, momentum=0.9, **settings)
    saliency = prepared("salun", digit_net, **settings).saliency
    done = m.unlearn(digit_net, SAMPLES)
    assert done.report["steps"] == 30
    after = done.model.named_parameters()
    for name, before in digit_net.named_parameters().items():
        assert torch.equal(after[name][~saliency[name]], before[~saliency[name]]), name
    moved = sum(
        int((after[n] != p)[saliency[n]].sum()) for n, p in digit_net.named_parameters().items()
    )
    assert moved > 0.9 * sum(int(m.sum()) for m in saliency.values())


def test_masked_gradients_alone_would_not_hold_a_weight():
    """Why weights are restored: without a gradient, decay takes a tenth of them in a usual run."""
    lr, decay, momentum, steps = 0.013, 5e-4, 0.9, 1760
    weights = {name: torch.nn.Parameter(torch.ones(2)) for name in ("masked", "restored")}
    for name, weight in weights.items():
        sgd = torch.optim.SGD([weight], lr, momentum, weight_decay=decay)
        for _ in range(steps):
            weight.grad = torch.zeros(2)
            sgd.step()
            if name == "restored":
                restore({"w": weight}, {"w": torch.tensor(False)}, {"w": torch.ones(2)})
    left = weights["masked"].detach()
    assert left[0].item() == pytest.approx((1 - lr * decay / (1 - momentum)) ** steps, rel=1e-3)
    assert left[0].item() == pytest.approx(0.892, abs=1e-3)
    assert torch.equal(weights["restored"], torch.ones(2))


def test_the_mask_does_not_depend_on_the_size_or_sign_of_the_loss():
    gradients = {"a": torch.randn(3, 4, generator=torch.manual_seed(0)), "b": torch.randn(7)}
    mask = salient(gradients, 0.4)
    for factor in (3.0, -1.0, -1e-3):
        scaled = salient({name: factor * g for name, g in gradients.items()}, 0.4)
        assert all(torch.equal(scaled[name], mask[name]) for name in mask)


def test_all_weights_in_the_mask_are_random_labels_step_for_step(digit_net):
    assert same(
        result("salun", digit_net, density=1.0, epochs=2),
        result("random_label", digit_net, epochs=2),
    )


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.77, 1.0])
def test_the_density_of_the_mask_is_exact(density, digit_net):
    mask = mask_of(digit_net, density=density)
    assert int(mask.sum()) == int(density * len(mask))


def test_the_density_is_exact_among_gradients_of_zero_too(digit_net):
    dead = digit_net.clone().freeze()
    with torch.no_grad():  # a norm that gives 0 for ever: nothing before it has a gradient
        dead.network[5].weight.zero_()
        dead.network[5].bias.fill_(-1.0)
    mask = mask_of(dead, density=0.9)
    assert int(mask.sum()) == int(0.9 * len(mask))


def test_equal_sizes_are_told_apart_by_their_place_and_masks_are_nested():
    size = torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 3.0])
    assert largest(size, 0.5).tolist() == [0, 1, 1, 1, 0, 0, 0, 1]
    masks = [largest(size, n / 8) for n in range(1, 9)]
    assert [int(m.sum()) for m in masks] == list(range(1, 9))
    for smaller, larger in pairwise(masks):
        assert (larger | ~smaller).all()
        assert size[smaller].min() >= size[~smaller].max()
    assert int(largest(size, 1e-6).sum()) == 1


def test_the_mask_is_of_the_largest_gradients_of_the_forget_set(digit_net):
    twin = digit_net.clone()
    loss = F.cross_entropy(twin.network.eval()(SAMPLES.forget.x), SAMPLES.forget.y)
    gradients = torch.autograd.grad(loss, list(twin.network.parameters()))
    size = torch.cat([g.abs().flatten() for g in gradients])
    mask = mask_of(digit_net, density=0.25)
    near = 1e-6 * float(size.max())
    assert size[mask].min() >= size[~mask].max() - near


def test_batches_and_order_of_the_forget_set_do_not_change_the_mask(digit_net):
    whole = mask_of(digit_net)
    train = few_digits().train
    order = torch.arange(len(train)).flip(0)
    flipped = Labelled(train.x[order], train.y[order], train.classes)
    splits = Splits("flipped", flipped, few_digits().test)
    other = forget_rows(splits, [len(train) - 1 - row for row in SAMPLES.rows])
    for mask in (mask_of(digit_net, batch=7), mask_of(digit_net, other)):
        assert (mask != whole).float().mean() < 1e-3


def test_the_saliency_of_a_linear_model_has_a_closed_form():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    model = Classifier(network, few_digits().classes)
    forget = SAMPLES.forget
    residual = F.softmax(network(forget.x), 1) - F.one_hot(forget.y, 10)
    size = (residual.T @ forget.x.flatten(1)).abs()
    objective = prepared("salun", model, density=0.2)
    chosen, bias = objective.saliency["network.1.weight"], objective.saliency["network.1.bias"]
    assert int(chosen.sum() + bias.sum()) == int(0.2 * 650)
    assert size[chosen].min() >= size[~chosen].max() - 1e-5


def test_reading_the_saliency_changes_nothing(digit_net):
    objective = prepared("salun", digit_net)
    assert same(tensors(objective.student), tensors(digit_net))
    assert all(p.grad is None for p in objective.student.network.parameters())
    assert objective.student.network.training


def test_the_soft_threshold_sends_exactly_as_many_weights_back_as_it_should():
    """And moves every other weight towards theta_o by one and the same tau >= 0."""
    torch.manual_seed(0)
    initial = {"a": torch.randn(7, 5), "b": torch.randn(40)}
    deltas = {name: torch.randn_like(tensor) for name, tensor in initial.items()}
    for count in (0, 1, 30, 74, 75):
        trained = {name: tensor + deltas[name] for name, tensor in initial.items()}
        shrink(trained, initial, count)
        left = torch.cat([(trained[n] - initial[n]).flatten() for n in initial])
        before = torch.cat([delta.flatten() for delta in deltas.values()])
        back = torch.cat([(trained[n] == initial[n]).flatten() for n in initial])
        assert int(back.sum()) == count
        if 0 < count < 75:
            assert before[back].abs().max() <= before[~back].abs().min()
            tau = (before - left)[~back].abs()
            torch.testing.assert_close(tau, before[back].abs().max().expand_as(tau))


def test_the_soft_threshold_ends_and_holds_what_changed_least_before_that(digit_net):
    made = prepared("salun", digit_net, mask="soft", density=0.3, epochs=2)
    total, steps = sum(p.numel() for p in made.initial.values()), made.length()
    held = [made.held(step) for step in range(steps)]
    assert held[0] == int(0.7 * (1 - 1 / steps) * total) and held[-1] == 0
    assert held == sorted(held, reverse=True)
    half = method("salun", mask="soft", density=0.3, epochs=2).unlearn(digit_net, SAMPLES)
    free = method("salun", mask="soft", density=1.0, epochs=2).unlearn(digit_net, SAMPLES)
    assert same(tensors(free.model), result("random_label", digit_net, epochs=2))

    def change(model):
        initial = digit_net.named_parameters()
        return sum(
            float((p - initial[n]).square().sum()) for n, p in model.named_parameters().items()
        )

    assert 0 < change(half.model) < change(free.model)
