"""CF-k and EU-k: what is before the last k layers stays as it is."""

from __future__ import annotations

import pytest
import torch
from labelled import few_digits
from steps import CPU, SAMPLES, method, prepared, result, same, tensors
from torch import nn

from mu_vision.errors import UsageError
from mu_vision.loop import train
from mu_vision.models.classifier import Classifier

BEHIND = {
    1: {"9.weight", "9.bias"},
    2: {"4.weight", "5.weight", "5.bias", "9.weight", "9.bias"},
    3: {"0.weight", "1.weight", "1.bias", "4.weight", "5.weight", "5.bias", "9.weight", "9.bias"},
}
RUNNING = {
    1: set(),
    2: {"5.running_mean", "5.running_var"},
    3: {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"},
}


@pytest.mark.parametrize("name", ["cf_k", "eu_k"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_last_layers_move_and_nothing_before_them(name, k, digit_net):
    assert method(name, k=k).trained(digit_net) == [
        n for n in digit_net.named_parameters() if n.removeprefix("network.") in BEHIND[k]
    ]
    before, after = tensors(digit_net), result(name, digit_net, k=k, epochs=2)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert {n for n in moved if "batches" not in n} == BEHIND[k] | RUNNING[k]


def test_all_layers_are_finetuning(digit_net):
    assert same(result("cf_k", digit_net, k=3), result("finetune", digit_net))


def test_all_layers_anew_are_retraining(digit_net):
    settings = {"epochs": 2, "lr": 0.05}
    anew = result("eu_k", digit_net, k=3, **settings)
    assert same(anew, result("retrain", digit_net, schedule="constant", **settings))


def test_more_layers_than_there_are_are_refused(digit_net):
    with pytest.raises(UsageError, match=r"method cf_k: k=4, but small_cnn has 3 layers\."):
        method("cf_k", k=4).unlearn(digit_net, SAMPLES)
    with pytest.raises(UsageError, match=r"method eu_k: k=4, but small_cnn has 3 layers\."):
        method("eu_k", k=4).unlearn(digit_net, SAMPLES)


def test_all_layers_of_a_transformer_are_its_tokens_too():
    model = Classifier.build("test_vit", ("a", "b"), 1)
    everything = list(model.named_parameters())
    assert method("cf_k", k=len(model.layers())).trained(model) == everything
    behind = method("cf_k", k=1).trained(model)
    assert behind == ["network.head.weight", "network.head.bias"]


def test_new_weights_are_drawn_once_before_the_first_step(digit_net):
    objective = prepared("eu_k", digit_net, k=1, epochs=3)
    fresh = tensors(objective.student)
    assert not torch.equal(fresh["9.weight"], tensors(digit_net)["9.weight"])
    assert torch.equal(fresh["0.weight"], tensors(digit_net)["0.weight"])
    resets = []
    objective.student.reset = lambda *_: resets.append(1)
    for step in range(objective.length()):
        objective.loss(step)
        objective.after_step(step)
    objective.finish()
    assert not resets
    for name, parameter in objective.student.network.named_parameters():
        assert torch.equal(parameter.detach(), fresh[name]), name


def test_new_last_layers_do_not_depend_on_the_old_ones(digit_net):
    other = digit_net.clone().freeze()
    with torch.no_grad():
        other.network[9].weight.fill_(7.0)
        other.network[5].running_mean.fill_(7.0)
    assert same(result("eu_k", digit_net, k=2), result("eu_k", other, k=2))
    assert not same(result("cf_k", digit_net, k=2), result("cf_k", other, k=2))


def test_dropout_and_norms_without_weights_do_as_the_layer_before_them():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(144, 32), nn.BatchNorm1d(32, affine=False), nn.Dropout(0.5), nn.Linear(32, 10),
    )  # fmt: skip
    model = Classifier(network, few_digits().classes)
    m = method("cf_k", k=2)
    objective = m.objective(model, (SAMPLES,))
    objective.prepare(CPU)
    modes = [module.training for module in objective.student.network]
    assert modes == [False, False, False, False, True, True, True, True]
    assert objective.student.network.training
    train(objective, m.loop_config(objective.length()))
    after = objective.student.network
    assert torch.equal(after[1].running_mean, network[1].running_mean)
    assert not torch.equal(after[5].running_mean, network[5].running_mean)


def test_whatever_learns_is_in_train_mode(digit_net):
    objective = prepared("finetune", digit_net)
    assert all(module.training for module in objective.student.network.modules())
    assert not any(module.training for module in digit_net.network.modules())
