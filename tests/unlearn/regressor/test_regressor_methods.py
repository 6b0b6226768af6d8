"""Retrain, FT, GA, Gaussian-Amnesiac and SSD on regressors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from measured import digit_values, low_digits, table

from mu_vision import registry
from mu_vision.data.selectors import forget_rows
from mu_vision.models.regressor import Regressor
from mu_vision.unlearn.per_sample import mean_square_gradients
from mu_vision.unlearn.regressor.gaussian_amnesiac import drawn_targets

CPU = torch.device("cpu")


def method(name, **settings):
    return registry.get("method", name, "regressor")(**settings)


def prepared(name, model, request, **settings):
    objective = method(name, **settings).objective(model, [request])
    objective.prepare(CPU)
    return objective


def tensors(model):
    return {name: t.detach().clone() for name, t in model.network.state_dict().items()}


def test_drawn_targets_have_the_moments_of_the_targets_and_are_a_function_of_the_seed():
    y = 50 + 22 * torch.randn(500, generator=torch.Generator().manual_seed(1))
    drawn = drawn_targets(y, 4000, seed=3)
    assert torch.equal(drawn, drawn_targets(y, 4000, seed=3))
    assert not torch.equal(drawn, drawn_targets(y, 4000, seed=4))
    error = float(y.std()) / 4000**0.5
    assert float(drawn.mean()) == pytest.approx(float(y.mean()), abs=4 * error)
    assert float(drawn.std()) == pytest.approx(float(y.std()), abs=4 * error / 2**0.5)


def test_only_the_targets_of_the_forget_set_are_drawn_once(value_net):
    asked = low_digits()
    objective = prepared("gaussian_amnesiac", value_net, asked, seed=2)
    first = len(asked.forget)
    assert torch.equal(objective.mixed.y[first:], asked.retain.y)
    assert not torch.equal(objective.mixed.y[:first], asked.forget.y)
    assert torch.equal(objective.mixed.x[:first], asked.forget.x)
    before = objective.mixed.y.clone()
    for step in range(3):
        objective.loss(step)
    assert torch.equal(objective.mixed.y, before)
    every = digit_values().train.y
    expected = drawn_targets(every, first, 2)
    assert torch.equal(before[:first], expected)


def test_fine_tuning_is_adam_on_the_retain_set(value_net):
    asked = low_digits()
    done = method("finetune", epochs=1, lr=1e-3, seed=4).unlearn(value_net, asked)
    assert done.report["steps"] == -(-len(asked.retain) // 64)
    spoiled = asked.splits.train.x.clone()
    spoiled[list(asked.rows)] = 0.3
    splits = replace(asked.splits, train=replace(asked.splits.train, x=spoiled))
    other = method("finetune", epochs=1, lr=1e-3, seed=4).unlearn(
        value_net, forget_rows(splits, asked.rows)
    )
    assert other.model.fingerprint() == done.model.fingerprint()


def test_ascent_climbs_the_error_of_the_forget_set_alone(value_net):
    asked = low_digits()
    objective = prepared("gradient_ascent", value_net, asked)
    assert [len(p.data) for p in objective.passes(0)] == [len(asked.forget)]
    before = float(asked.forget.error(value_net.predict(asked.forget.x)).mean())
    done = method("gradient_ascent", epochs=3, lr=1e-3).unlearn(value_net, asked).model
    assert float(asked.forget.error(done.predict(asked.forget.x)).mean()) > before


def test_retrain_begins_anew_and_never_reads_the_forget_set(value_net):
    asked = low_digits()
    first = method("retrain", epochs=1, seed=1).unlearn(value_net, asked).model
    other = method("finetune", epochs=1).unlearn(value_net, asked).model
    again = method("retrain", epochs=1, seed=1).unlearn(other, asked).model
    assert again.fingerprint() == first.fingerprint()
    objective = prepared("retrain", value_net, asked)
    head = objective.student.network.get_submodule(objective.student.layers()[-1])
    assert float(head.bias.detach()) == pytest.approx(float(asked.retain.y.mean()))


@pytest.mark.parametrize("deviation", ["absolute", "squared"])
def test_importances_are_squared_slopes_of_the_error(deviation):
    few = replace(table().train.take(range(7)), deviation=deviation)
    model = Regressor(torch.nn.Sequential(torch.nn.Linear(5, 1)))
    found = mean_square_gradients(model, few, chunk=3)
    apart = model.predict(few.x) - few.y
    slope = apart.sign() if deviation == "absolute" else 2 * apart
    torch.testing.assert_close(found["0.weight"][0], (slope[:, None] * few.x).square().mean(0))
    torch.testing.assert_close(found["0.bias"][0], slope.square().mean())


def test_ssd_dampens_what_matters_more_for_the_forget_set(value_net):
    asked = low_digits()
    whole = mean_square_gradients(value_net, asked.splits.train)
    forget = mean_square_gradients(value_net, asked.forget)
    done = method("ssd", alpha=1.2, lam=1.0).unlearn(value_net, asked)
    after, chosen = tensors(done.model), 0
    for name, before in value_net.network.named_parameters():
        selected = forget[name] > 1.2 * whole[name]
        chosen += int(selected.sum())
        assert torch.equal(after[name][~selected], before[~selected])
        factor = whole[name][selected] / forget[name][selected]
        torch.testing.assert_close(after[name][selected], before[selected] * factor)
    assert done.report["dampened"] == chosen > 0
