"""UNSIR: error-maximising noise, the impair and the repair pass, and that D_f is never shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from labelled import few_digits
from steps import SAMPLES, THREES, method, prepared, result, same, tensors

from mu_vision.data.selectors import Selector, in_turn
from mu_vision.errors import UsageError
from mu_vision.unlearn.samples import check_request

FEW = few_digits()
BOTH = in_turn(THREES, Selector(kind="class", of="5").select(FEW))


def loss_of(model, noise, penalty):
    losses = -F.cross_entropy(model.network(noise.x), noise.y, reduction="none")
    return losses + penalty * noise.x.square().flatten(1).sum(1)


def test_noise_descends_its_own_loss_and_is_wrong_about_the_class(digit_net):
    before, print_before = prepared("unsir", digit_net, THREES, noise_steps=0), tensors(digit_net)
    for penalty in (0.0, 0.1):
        after = prepared("unsir", digit_net, THREES, noise_steps=25, penalty=penalty)
        start, end = (loss_of(digit_net, o.noise, penalty) for o in (before, after))
        assert (end < start).all()
    free = prepared("unsir", digit_net, THREES, noise_steps=25, penalty=0.0).noise
    assert (digit_net.logits(free.x).softmax(1)[:, 3] < 1e-3).all()
    assert same(tensors(digit_net), print_before)


def test_noise_is_that_of_adam_on_the_mean_loss_of_the_paper(digit_net):
    """Adam does not mind the scale of a loss, so a mean over pictures gives the same noise."""
    found = prepared("unsir", digit_net, THREES, noise_steps=5).noise
    n = prepared("unsir", digit_net, THREES, noise_steps=0).noise.x.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([n], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss = -F.cross_entropy(digit_net.network(n), found.y)
        (loss + 0.1 * n.square().sum((1, 2, 3)).mean()).backward()
        optimizer.step()
    torch.testing.assert_close(found.x, n.detach(), atol=1e-4, rtol=1e-4)


def test_noise_of_several_classes_is_as_if_each_were_alone(digit_net):
    both = prepared("unsir", digit_net, BOTH, noise_steps=3).noise
    assert both.y.tolist() == [3] * 4 + [5] * 4
    alone = prepared("unsir", digit_net, THREES, noise_steps=3).noise
    torch.testing.assert_close(both.x[:4], alone.x)


def test_an_impair_pass_shows_every_noise_picture_and_then_comes_a_repair_pass(digit_net):
    objective = prepared(
        "unsir", digit_net, THREES, pictures=5, copies=3, batch=16, repair_batch=50
    )
    impair, repair = objective.passes(0)
    assert (impair.name, impair.batch, repair.name, repair.batch) == ("impair", 16, "repair", 50)
    assert [name for name, *_ in dict.fromkeys((s.name,) for _, s, _ in objective.plan)] == [
        "impair", "repair"
    ]  # fmt: skip
    noise, rest = impair.data.take(range(15)), impair.data.take(range(15, len(impair.data)))
    assert noise.y.tolist() == [3] * 15
    counts = torch.unique(noise.x, dim=0, return_counts=True)[1]
    assert counts.tolist() == [3] * 5
    assert torch.equal(rest.x, repair.data.x) and torch.equal(rest.y, THREES.retain.y)


def test_no_more_than_so_many_samples_of_each_kept_class_are_shown(digit_net):
    some = prepared("unsir", digit_net, THREES, per_class=7).some
    assert torch.bincount(some.y, minlength=10).tolist() == [0 if c == 3 else 7 for c in range(10)]
    kept = {x.numpy().tobytes() for x in THREES.retain.x}
    assert all(x.numpy().tobytes() in kept for x in some.x)


def test_of_the_forget_set_only_the_class_matters(digit_net):
    spoiled = FEW.train.x.clone()
    spoiled[list(THREES.rows)] = 0.5
    other = replace(THREES, splits=replace(FEW, train=replace(FEW.train, x=spoiled)))
    assert same(result("unsir", digit_net, THREES), result("unsir", digit_net, other))


def test_a_class_is_forgotten_and_the_others_are_kept(digit_net):
    done = method("unsir", lr=3e-3, noise_steps=25, pictures=16, copies=10, epochs=2)
    after = done.unlearn(digit_net, THREES).model
    share = [
        float((after.logits(data.x).argmax(1) == data.y).float().mean())
        for data in (THREES.forget, THREES.retain)
    ]
    assert share[0] < 0.1 and share[1] > 0.8


def test_samples_that_are_no_whole_class_are_refused(digit_net):
    said = r"unsir forgets whole classes alone, and given samples leaves samples of class \d; ask"
    with pytest.raises(UsageError, match=said):
        method("unsir").unlearn(digit_net, SAMPLES)
    half = Selector(kind="class", of="3", share=0.5).select(FEW)
    with pytest.raises(UsageError, match=r"and 50 % of class 3 leaves samples of class 3; ask"):
        method("unsir").unlearn(digit_net, half)
    check_request(method("unsir"), BOTH)
    check_request(method("finetune"), SAMPLES)
    with pytest.raises(UsageError, match="50 % of class 5 leaves samples of class 5"):
        check_request(
            method("unsir"), in_turn(THREES, Selector(kind="class", of="5", share=0.5).select(FEW))
        )
