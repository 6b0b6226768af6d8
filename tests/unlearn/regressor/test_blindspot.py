"""Blindspot: the loss per sample, attention maps, the frozen B, and what it does on small data."""

from __future__ import annotations

import pytest
import torch
from measured import digit_values, low_digits
from torch import nn

from mu_vision import registry
from mu_vision.data.selectors import forget_rows
from mu_vision.errors import UsageError
from mu_vision.loop import LoopConfig, Objective, train
from mu_vision.models.regressor import Regressor
from mu_vision.unlearn.regressor.blindspot import Blindspot, attention_map

CPU = torch.device("cpu")


def ready(model, request=None, **settings):
    """The objective after B has learnt, before the first step of M."""
    objective = Blindspot(blind_epochs=1, **settings).objective(model, [request or low_digits()])
    objective.prepare(CPU)
    return objective


def batch(objective, rows):
    rows = torch.as_tensor(rows)
    return objective.mixed.x[rows], objective.mixed.y[rows], rows


def imitate(objective, rows):
    if objective.told is None:
        objective.loss(objective.exposure)  # B tells once, before the first step of M
    return objective.imitate(*batch(objective, rows))["blindspot_loss"]


def gradients(objective, loss):
    return torch.autograd.grad(loss, list(objective.parameters().values()), allow_unused=True)


@pytest.mark.parametrize("forget", [0, 3, 8])
def test_the_loss_is_the_published_mean_of_both_parts_of_a_batch(value_net, forget):
    objective = ready(value_net, lam=50.0)
    objective.student.network.eval()  # a batch norm would mix the parts
    first = len(objective.forget)
    rows = [*range(forget), *range(first, first + 8 - forget)]
    x, y, _ = batch(objective, rows)
    with objective.student.listening(objective.layers) as heard:
        out = objective.student.values(x)
    imitate(objective, rows)
    told, c = objective.told.at(torch.arange(forget)), forget / 8
    expected = torch.zeros(())
    if forget:
        attention = sum(
            (attention_map(heard[j][:forget]) - told.maps[j]).square().mean() for j in heard
        )
        expected = c * ((out[:forget] - told.answers).abs().mean() + 50.0 * attention)
    if forget < 8:
        expected = expected + (1 - c) * (out[forget:] - y[forget:]).abs().mean()
    torch.testing.assert_close(imitate(objective, rows), expected)


def test_without_forget_rows_and_attention_it_is_plain_training(value_net):
    objective = ready(value_net, lam=0.0)
    first = len(objective.forget)
    rows = range(first, first + 6)
    loss = imitate(objective, rows)
    x, y, _ = batch(objective, rows)
    plain = (objective.student.values(x) - y).abs().mean()
    torch.testing.assert_close(loss, plain)
    for found, expected in zip(
        gradients(objective, loss), gradients(objective, plain), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_nothing_is_forgotten_from_oneself(value_net):
    objective = ready(value_net)
    objective.blind.network.load_state_dict(objective.student.network.state_dict())
    objective.student.network.eval()
    # the whole forget set, as it was told: other batches round otherwise, and |a - b| has no small slope
    loss = imitate(objective, range(len(objective.forget)))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert all(g is None or float(g.abs().max()) < 1e-6 for g in gradients(objective, loss))


def test_attention_maps_are_unit_vectors_that_do_not_mind_scale_or_channels():
    a, b = torch.randn(2, 4, 6, 5, 3).unbind()
    one, other = attention_map(a), attention_map(b)
    assert one.shape == (4, 15)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(attention_map(-3 * a), one)
    torch.testing.assert_close(attention_map(a[:, torch.randperm(6)]), one)
    assert float((one - other).square().sum(1).max()) <= 2
    assert float((one - other).square().mean(1).max()) <= 2 / 15
    assert attention_map(torch.zeros(2, 3, 4, 4)).abs().max() == 0


def test_attention_maps_of_vectors_and_sequences_are_not_constant():
    vectors = torch.randn(3, 7)
    assert attention_map(vectors).shape == (3, 7)
    assert float((attention_map(vectors) - attention_map(vectors.flip(0))).abs().max()) > 0.01
    sequences = torch.randn(3, 5, 7)
    assert attention_map(sequences).shape == (3, 5)  # over time, not over units
    torch.testing.assert_close(
        attention_map(sequences[:, :, torch.randperm(7)]), attention_map(sequences)
    )
    with pytest.raises(UsageError, match=r"shape \[2, 3, 4, 5, 6\] have no attention map"):
        attention_map(torch.zeros(2, 3, 4, 5, 6))


def test_half_precision_does_not_overflow():
    large = torch.full((1, 2, 2, 2), 3e4, dtype=torch.float16)
    torch.testing.assert_close(attention_map(large), torch.full((1, 4), 0.5))


def test_b_gets_no_gradient_and_keeps_its_statistics_while_m_moves_its_own(value_net):
    objective = ready(value_net)
    imitate(objective, range(4))
    before = {n: b.clone() for n, b in objective.blind.network.named_buffers()}
    own = {n: b.clone() for n, b in objective.student.network.named_buffers()}
    weights = objective.blind.fingerprint()
    imitate(objective, [0, 1, len(objective.forget), len(objective.forget) + 1]).backward()
    assert all(p.grad is None for p in objective.blind.network.parameters())
    assert all(p.grad is not None for p in objective.student.network.parameters())
    assert all(torch.equal(b, before[n]) for n, b in objective.blind.network.named_buffers())
    assert objective.blind.fingerprint() == weights
    assert not all(torch.equal(b, own[n]) for n, b in objective.student.network.named_buffers())
    assert not objective.blind.network.training


def test_b_is_new_and_never_sees_the_forget_set(value_net):
    asked, seen = low_digits(), []
    method = Blindspot(blind_epochs=2, epochs=1, lr=0.0)
    objective = method.objective(value_net, [asked])
    learn = objective.exposed.task_loss

    def watch(x, y, rows):
        seen.append(y)
        return learn(x, y, rows)

    objective.exposed.task_loss = watch
    objective.prepare(CPU)
    start = objective.blind.fingerprint()
    assert start != value_net.fingerprint()
    for step in range(objective.exposure):
        objective.exposed.loss(step)
    assert torch.cat(seen).min() > 2 and len(torch.cat(seen)) == 2 * len(asked.retain)
    assert objective.length() == objective.exposure + -(-240 // 64)


def test_b_after_all_epochs_is_retrain(value_net):
    asked = low_digits()
    retrain = registry.get("method", "retrain", "regressor")(
        epochs=2, lr=0.01, schedule="constant"
    ).unlearn(value_net, asked)
    blind = Blindspot(blind_epochs=2, lam=0.0, epochs=1).objective(value_net, [asked])
    train(blind, LoopConfig(steps=blind.exposure, lr=1e-3))
    assert blind.blind.fingerprint() == retrain.model.fingerprint()


def test_m_comes_to_answer_as_b_on_the_forget_set(value_net):
    method = Blindspot(blind_epochs=3, epochs=12, lr=3e-3, lam=0.0)
    objective = method.objective(value_net, [low_digits()])
    train(objective, method.loop_config(objective.length()))
    x, told = objective.forget.x, objective.told.answers
    before, after = (
        float((model.predict(x) - told).abs().mean())
        for model in (value_net, objective.student.freeze())
    )
    assert after < before / 3


@pytest.mark.parametrize("of_m", [False, True])
def test_a_run_that_was_killed_goes_on_in_either_phase(value_net, tmp_path, monkeypatch, of_m):
    method = Blindspot(blind_epochs=1, epochs=1, lr=0.01, schedule="cosine", checkpoint_every=1)
    whole = method.unlearn(value_net, low_digits())
    exposure = method.objective(value_net, [low_digits()]).exposure
    last = exposure + 1 if of_m else exposure - 1
    plain = Objective.after_step

    def killed(self, step):
        plain(self, step)
        if step == last and self.part == "main":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            method.unlearn(value_net, low_digits(), tmp_path)
    resumed = method.unlearn(value_net, low_digits(), tmp_path)
    assert resumed.model.fingerprint() == whole.model.fingerprint()


def test_augmented_batches_ask_b_anew(value_net):
    few = digit_values()
    asked = forget_rows(type(few)("few", few.train, few.test, augment=True), range(30))
    objective = ready(value_net, asked)
    losses = objective.loss(objective.exposure)
    assert objective.told is None and torch.isfinite(losses["blindspot_loss"])


def test_a_layer_that_does_not_exist_is_refused_with_the_nearest(value_net):
    with pytest.raises(UsageError, match=r"no layer of .* '0\.22'\. Did you mean '0\.2'"):
        Blindspot(layers=("0.22",)).unlearn(value_net, low_digits())
    plain = Regressor(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    with pytest.raises(
        UsageError, match=r"does not say which layers to compare.*layers=\[\.\.\.\]: 0, 1"
    ):
        Blindspot().unlearn(plain, low_digits())
    named = Blindspot(layers=("1",), blind_epochs=1).unlearn(plain, low_digits())
    assert named.report["changed_tensors"] == 2


def test_a_table_is_forgotten_by_an_mlp(value_net):
    from measured import table

    asked = forget_rows(table(), range(8))
    model = Regressor.build("mlp", 5)
    objective = ready(model, asked)
    assert objective.layers == ("1", "2")
    loss = imitate(objective, range(8))
    without = ready(model, asked, lam=0.0)
    assert float(loss.detach()) > float(imitate(without, range(8)).detach())


def test_data_with_classes_is_refused(value_net):
    from labelled import few_digits

    with pytest.raises(UsageError, match="few_digits has a class a sample, and a regressor"):
        registry.get("method", "finetune", "regressor")().unlearn(
            value_net, forget_rows(few_digits(), range(5))
        )
