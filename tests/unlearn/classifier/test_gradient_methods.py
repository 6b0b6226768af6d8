"""FT, GA, NegGrad+, RL, Retrain: one is another at the ends of its settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from labelled import few_digits
from steps import (
    SAMPLES,
    THREES,
    method,
    near,
    prepared,
    pruned,
    request_of,
    result,
    same,
    tensors,
)

from mu_vision import registry, seeding
from mu_vision.data.selectors import forget_rows
from mu_vision.errors import RunError, UsageError
from mu_vision.models.classifier import Classifier
from mu_vision.unlearn.classifier.random_label import RandomLabelObjective

FEW = few_digits()


def plain_sgd(model, batches, lr=0.05, weight_decay=5e-4):
    """SGD with momentum as anybody would write it, over (x, y, sign) batches."""
    twin = model.clone()
    twin.network.train()
    optimizer = torch.optim.SGD(
        twin.network.parameters(), lr, momentum=0.9, weight_decay=weight_decay
    )
    for x, y, sign in batches:
        optimizer.zero_grad()
        (sign * F.cross_entropy(twin.network(x), y)).backward()
        optimizer.step()
    return tensors(twin)


def shuffled(data, name, epoch, batch, seed=0):
    order = torch.randperm(len(data), generator=seeding.generator("order", seed, epoch, name))
    return [(data.x[rows], data.y[rows]) for rows in order.split(batch)]


def test_finetuning_is_sgd_on_the_retain_set(digit_net):
    batches = [
        (x, y, 1.0) for epoch in range(2) for x, y in shuffled(SAMPLES.retain, "retain", epoch, 64)
    ]
    near(result("finetune", digit_net, epochs=2), plain_sgd(digit_net, batches))


def test_gradient_ascent_is_sgd_uphill_on_the_forget_set(digit_net):
    batches = [
        (x, y, -1.0) for epoch in range(2) for x, y in shuffled(SAMPLES.forget, "forget", epoch, 8)
    ]
    climbed = result("gradient_ascent", digit_net, epochs=2, batch=8, lr=0.01)
    near(climbed, plain_sgd(digit_net, batches, lr=0.01))


def test_gradient_ascent_raises_the_loss_of_the_forget_set(digit_net):
    done = method("gradient_ascent", epochs=5, lr=0.01).unlearn(digit_net, THREES).model
    loss = [F.cross_entropy(m.logits(THREES.forget.x), THREES.forget.y) for m in (digit_net, done)]
    assert loss[1] > 2 * loss[0]


def test_neggrad_with_alpha_one_is_finetuning_bit_for_bit(digit_net):
    assert same(
        result("neggrad", digit_net, alpha=1.0, epochs=2), result("finetune", digit_net, epochs=2)
    )


def test_neggrad_with_alpha_zero_is_gradient_ascent(digit_net):
    """A forget set of one batch is the same batch for both, whatever its order."""
    objective = prepared("neggrad", digit_net, alpha=0.0)
    steps = objective.length()
    assert set(objective.loss(0)) == {"forget_loss"}
    ascended = result("gradient_ascent", digit_net, epochs=steps, lr=0.01)
    near(result("neggrad", digit_net, alpha=0.0, lr=0.01), ascended, atol=1e-5)


def test_neggrad_weighs_its_two_losses(digit_net):
    objective = prepared("neggrad", digit_net, alpha=0.75)
    objective.student.network.eval()
    losses = objective.loss(0)
    x, y = shuffled(SAMPLES.retain, "retain", 0, 64)[0]
    retain = F.cross_entropy(digit_net.network(x), y)
    forget = F.cross_entropy(digit_net.network(SAMPLES.forget.x), SAMPLES.forget.y)
    torch.testing.assert_close(losses["retain_loss"].detach(), 0.75 * retain)
    torch.testing.assert_close(losses["forget_loss"].detach(), -0.25 * forget)


def test_a_random_label_is_never_the_true_one_and_any_other_as_often(digit_net):
    objective = prepared("random_label", digit_net)
    torch.manual_seed(0)
    y = torch.full((9000,), 9)
    drawn = objective.random_labels(y)
    counts = torch.bincount(drawn, minlength=10)
    assert counts[9] == 0 and len(counts) == 10
    assert ((counts[:9] - 1000).abs() < 150).all()
    torch.manual_seed(0)
    assert len(set(objective.random_labels(y).tolist())) == 9


def test_a_random_label_may_be_the_true_one_if_asked(digit_net):
    objective = prepared("random_label", digit_net, true_label=True)
    torch.manual_seed(0)
    counts = torch.bincount(objective.random_labels(torch.full((9000,), 3)), minlength=10)
    assert ((counts - 900).abs() < 150).all()


def test_random_labels_reach_the_last_of_many_classes():
    classes = [str(n) for n in range(100)]
    objective = RandomLabelObjective.__new__(RandomLabelObjective)
    objective.student = Classifier.build("small_cnn", classes, 1)
    objective.settings = method("random_label")
    drawn = objective.random_labels(torch.zeros(5000, dtype=torch.long))
    assert set(drawn.tolist()) == set(range(1, 100))


def test_random_labels_that_are_true_train_on_all_data(digit_net, monkeypatch):
    monkeypatch.setattr(RandomLabelObjective, "random_labels", lambda self, y: y)
    batches = [
        (x, y, 1.0)
        for epoch in range(2)
        for name in ("forget", "retain")
        for x, y in shuffled(getattr(SAMPLES, name), name, epoch, 64)
    ]
    near(result("random_label", digit_net, epochs=2), plain_sgd(digit_net, batches))


def test_random_labels_are_drawn_anew_for_every_batch(digit_net):
    objective = prepared("random_label", digit_net)
    torch.manual_seed(0)
    first, second = (objective.random_labels(torch.zeros(200).long()) for _ in range(2))
    assert not torch.equal(first, second)


def test_retraining_does_not_depend_on_the_weights_of_the_original(digit_net):
    stranger = Classifier.build("small_cnn", digit_net.classes, 1, seed=9)
    stranger.network[1].running_mean.fill_(5.0)
    assert same(result("retrain", digit_net), result("retrain", stranger))
    assert not same(result("retrain", digit_net), result("retrain", digit_net, seed=1))


def test_retraining_never_reads_the_forget_set(digit_net):
    """Other pictures and labels at the forgotten positions make no difference."""
    splits = few_digits()
    x, y = splits.train.x.clone(), splits.train.y.clone()
    rows = list(SAMPLES.rows)
    x[rows], y[rows] = 1 - x[rows], (y[rows] + 1) % 10
    train = type(splits.train)(x, y, splits.classes)
    spoiled = forget_rows(type(splits)("spoiled", train, splits.test), rows)
    assert same(result("retrain", digit_net), result("retrain", digit_net, spoiled))


def test_retraining_a_class_away_never_predicts_it(digit_net):
    done = method("retrain", epochs=3).unlearn(digit_net, THREES).model
    assert not (done.logits(THREES.forget.x).argmax(1) == 3).any()


GRADIENT = registry.names("method", "classifier")


@pytest.mark.parametrize("name", GRADIENT)
def test_pruned_weights_stay_zero(name, digit_net):
    """Momentum, weight decay, noise or new weights: what was pruned stays 0, the head's too."""
    sparse = pruned(digit_net)
    settings = (
        {"epochs": 2} if "epochs" in registry.get("method", name, "classifier").model_fields else {}
    )
    done = method(name, **settings).unlearn(sparse, request_of(name)).model
    assert set(done.mask) == set(sparse.mask)
    for key, mask in sparse.mask.items():
        after = done.named_parameters()[key]
        assert torch.equal(done.mask[key], mask)
        assert (after[~mask] == 0).all() and after.shape == mask.shape
        assert (after[mask] != 0).any()


@pytest.mark.parametrize("name", GRADIENT)
def test_a_model_of_other_classes_is_refused(name):
    two = Classifier.build("small_cnn", ("cat", "dog"), 1)
    with pytest.raises(UsageError, match=r"small_cnn tells 2 classes, but few_digits has 10\."):
        method(name).unlearn(two, request_of(name))


def test_samples_are_forgotten_together_only_from_one_training_set(digit_net):
    other = forget_rows(few_digits(100), range(5))
    with pytest.raises(
        UsageError,
        match=r"The forget set \(given samples\) was made on another training set \(few_digits, 100"
        r" samples\) than few_digits with 240\.",
    ):
        method("finetune").unlearn(digit_net, [SAMPLES, other])


def test_what_was_forgotten_before_is_neither_kept_nor_forgotten_again(digit_net):
    later = SAMPLES.then(forget_rows(few_digits(), range(1, 21, 2)))
    objective = prepared("random_label", digit_net, later)
    assert len(objective.forget) == 10 and len(objective.retain) == 240 - 20 - 10
    both = method("random_label").objective(digit_net, (SAMPLES, later))
    assert len(both.request.rows) == 30 and both.request.gone == ()


def test_a_step_too_large_is_told(digit_net):
    with pytest.raises(RunError, match=r"at step \d+ of unlearning with gradient_ascent\. Lower"):
        method("gradient_ascent", epochs=60, lr=1e4).unlearn(digit_net, SAMPLES)
    infinite = replace(FEW.train, x=FEW.train.x.clone())
    infinite.x[SAMPLES.kept_rows[0]] = float("nan")
    spoiled = replace(SAMPLES, splits=replace(FEW, train=infinite))
    said = r"The loss became nan at step \d+ of unlearning with finetune\. Lower the learning rate"
    with pytest.raises(RunError, match=said):
        method("finetune").unlearn(digit_net, spoiled)
