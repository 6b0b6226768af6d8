"""Worst-case forget sets: the projection, the upper problem, the lower level, and digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from labelled import few_digits, trained_net
from scipy.optimize import brentq, minimize
from torch import nn

from mu_vision.data.labelled import Labelled, Splits, digits
from mu_vision.errors import UsageError
from mu_vision.models.classifier import Classifier
from mu_vision.selection import (
    LowerLevel,
    SignSGD,
    WorstCase,
    class_means,
    hyper_gradient,
    indicator,
    project_capped_simplex,
    sample_losses,
    upper_step,
)
from mu_vision.train.classifier import ClassifierTrainer
from mu_vision.validation import validated


def draw(n: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, generator=generator, dtype=torch.float64)


def plain_net(seed: int = 0) -> Classifier:
    """No batch norm: what a sample does to others goes through its gradient alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10))
    return Classifier(net, few_digits().classes, name="plain")


def weights_of(model: Classifier) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.named_parameters().values())


# the projection


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5, 1e17])
@pytest.mark.parametrize(("n", "m"), [(2, 1), (50, 1), (50, 17), (50, 49), (1000, 100)])
def test_the_projection_is_feasible_idempotent_and_equivariant(scale, n, m):
    a = draw(n, m, scale)
    w = project_capped_simplex(a, m)
    assert w.min() >= 0
    assert w.max() <= 1
    assert abs(float(w.sum()) - m) < 1e-9
    torch.testing.assert_close(project_capped_simplex(w, m), w, atol=1e-12, rtol=0)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(project_capped_simplex(a[order], m), w[order], atol=1e-12, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_is_the_one_of_bisection_and_of_a_quadratic_programme(seed):
    a, m = draw(40, seed, 1.5), 11
    values = a.numpy()
    mu = brentq(lambda t: np.clip(values - t, 0, 1).sum() - m, values.min() - 1, values.max())
    found = project_capped_simplex(a, m).numpy()
    np.testing.assert_allclose(found, np.clip(values - mu, 0, 1), atol=1e-9)
    few = values[:8]
    solved = minimize(
        lambda w: ((w - few) ** 2).sum(), np.full(8, 3 / 8), jac=lambda w: 2 * (w - few),
        bounds=[(0, 1)] * 8, constraints={"type": "eq", "fun": lambda w: w.sum() - 3},
        method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    np.testing.assert_allclose(project_capped_simplex(a[:8], 3).numpy(), solved.x, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_meets_the_kkt_conditions(seed):
    a = draw(200, seed, 0.7)
    w = project_capped_simplex(a, 60)
    free = (w > 0) & (w < 1)
    assert free.sum() > 1
    mu = (a - w)[free]
    assert mu.max() - mu.min() < 1e-12
    assert (a[w == 0] <= mu.max() + 1e-12).all()
    assert (a[w == 1] >= mu.min() + 1 - 1e-12).all()


def test_the_projection_of_ties_ends_and_sets():
    same = torch.full((8,), 3.0)
    torch.testing.assert_close(project_capped_simplex(same, 2), torch.full((8,), 0.25).double())
    two = project_capped_simplex(torch.tensor([1e17, 1e17, 0.0]), 1)
    assert two.tolist() == [0.5, 0.5, 0.0]
    a = draw(9)
    assert project_capped_simplex(a, 0).tolist() == [0] * 9
    assert project_capped_simplex(a, 9).tolist() == [1] * 9
    chosen = torch.tensor([1.0, 0, 0, 1, 1, 0])
    assert project_capped_simplex(chosen, 3).tolist() == chosen.tolist()


def test_what_cannot_be_projected_is_refused():
    with pytest.raises(UsageError, match=r"3 numbers in \[0, 1\] cannot have the sum 4"):
        project_capped_simplex(torch.zeros(3), 4)
    with pytest.raises(UsageError, match="must be finite"):
        project_capped_simplex(torch.tensor([0.0, float("nan")]), 1)


# the upper problem with fixed losses


def iterate(w, losses, m, step, gamma=0.0, times=10):
    for _ in range(times):
        w = upper_step(w, losses, m, step, gamma)
    return w


N, M = 10, 2
UNIFORM = torch.full((N,), M / N, dtype=torch.float64)
LOSSES = torch.linspace(0, 3, N, dtype=torch.float64)[
    torch.randperm(N, generator=torch.Generator().manual_seed(3))
]


@pytest.mark.parametrize(("step", "times"), [(1e-3, 4000), (1.0, 200), (1e3, 2)])
def test_from_a_uniform_start_any_step_finds_the_smallest_losses(step, times):
    w = iterate(UNIFORM, LOSSES, M, step, times=times)
    assert torch.equal(w, indicator(LOSSES, M))
    largest = iterate(UNIFORM, -LOSSES, M, step, times=times)
    assert set(largest.nonzero().flatten().tolist()) == set(LOSSES.topk(M).indices.tolist())


def test_a_small_step_never_leaves_a_set():
    start = torch.zeros(N, dtype=torch.float64)
    start[torch.randperm(N, generator=torch.Generator().manual_seed(0))[:M]] = 1
    assert not torch.equal(start, indicator(LOSSES, M))
    w = iterate(start, LOSSES, M, 0.01, times=20)
    assert set(w.topk(M).indices.tolist()) == set(start.nonzero().flatten().tolist())
    assert torch.equal(iterate(start, LOSSES, M, 1e3, times=2), indicator(LOSSES, M))


def test_with_gamma_the_fixed_point_is_a_projection():
    gamma = 2.0
    expected = project_capped_simplex(-LOSSES / (2 * gamma), M)
    assert ((expected > 0) & (expected < 1)).any()
    w = iterate(UNIFORM, LOSSES, M, 0.05, gamma, times=500)
    torch.testing.assert_close(w, expected, atol=1e-10, rtol=0)


def test_class_means_are_the_ones_of_a_loop():
    y = few_digits().train.y
    losses = draw(len(y)).abs()
    found = class_means(losses, y, few_digits().classes)
    for c in range(10):
        torch.testing.assert_close(found[c], losses[y == c].mean())
    with pytest.raises(UsageError, match="class 'none' has no training sample"):
        class_means(losses, y, (*few_digits().classes, "none"))


# the lower level


def test_a_sign_step_moves_each_weight_by_beta_or_not_at_all():
    beta = 2.0**-10
    start = torch.randint(-512, 512, (1000,), generator=torch.Generator().manual_seed(0)) / 1024
    slope = draw(1000).float()
    slope[::7] = 0
    moved = []
    for scale in (1.0, 1e-6, 1e6):
        weight = nn.Parameter(start.clone())
        weight.grad = scale * slope
        SignSGD([weight], lr=beta).step()
        moved.append(weight.detach())
    assert torch.equal(moved[0], start - beta * slope.sign())
    assert torch.equal((moved[0] - start).abs(), beta * (slope != 0))
    assert torch.equal(moved[0], moved[1])
    assert torch.equal(moved[0], moved[2])


def test_at_w_0_the_lower_level_trains_on_everything():
    splits, model = few_digits(), plain_net()
    settings = WorstCase(share=0.1, epochs=2, batch=240)
    found = settings.lower_level(model, splits, torch.zeros(240))
    net = model.clone().network
    for _ in range(2):
        loss = nn.functional.cross_entropy(net(splits.train.x), splits.train.y, reduction="sum")
        slopes = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for weight, slope in zip(net.parameters(), slopes, strict=True):
                weight -= settings.lr * slope.sign()
    torch.testing.assert_close(
        weights_of(found), nn.utils.parameters_to_vector(net.parameters()), atol=1e-7, rtol=0
    )
    assert not torch.equal(weights_of(found), weights_of(model))


def test_what_is_left_out_contributes_nothing():
    splits, model = few_digits(), plain_net()
    out = torch.arange(240) % 5 == 0
    x = splits.train.x.clone()
    x[out] = 1 - x[out]
    other = Splits("other", Labelled(x, splits.train.y, splits.classes), splits.test)
    settings = WorstCase(share=0.1, epochs=2, batch=64)
    first, second = (settings.lower_level(model, data, out.double()) for data in (splits, other))
    assert torch.equal(weights_of(first), weights_of(second))
    losses = sample_losses(first, splits), sample_losses(second, other)
    assert torch.equal(losses[0][~out], losses[1][~out])
    assert not torch.equal(losses[0][out], losses[1][out])


def test_every_lower_level_begins_at_the_original():
    splits, model = few_digits(), trained_net()
    before = model.fingerprint()
    w = torch.full((240,), 0.1)
    settings = WorstCase(share=0.1, epochs=1)
    first, again = (settings.lower_level(model, splits, w) for _ in range(2))
    assert first.fingerprint() == again.fingerprint() != before
    assert model.fingerprint() == before
    moved = (weights_of(first) - weights_of(model)).abs().max()
    assert 0 < moved <= settings.lr * 1.01  # one batch an epoch
    fresh = WorstCase(share=0.1, epochs=1, from_scratch=True).lower_level(model, splits, w)
    assert (weights_of(fresh) - weights_of(model)).abs().max() > 0.05


def test_pruned_weights_stay_0():
    model = plain_net().clone().freeze()
    name = "network.1.weight"
    model.mask = {name: draw(6 * 64).view(6, 64) > 0}
    model.apply_mask()
    done = WorstCase(share=0.1, epochs=1).lower_level(model, few_digits(), torch.zeros(240))
    assert (done.named_parameters()[name][~model.mask[name]] == 0).all()


def test_the_hyper_gradient_is_the_finite_difference():
    splits, model, gamma = few_digits(), plain_net(), 0.3
    settings = WorstCase(share=0.1, epochs=2, batch=240, gamma=gamma, solver="projected")
    w = torch.rand(240, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def objective(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Classifier]:
        theta = settings.lower_level(model, splits, w)
        losses = sample_losses(theta, splits)
        return (w * losses).sum() + gamma * w.square().sum(), losses, theta

    value, losses, theta = objective(w)
    slope, eps = hyper_gradient(w, losses, gamma), 1e-6
    for i in (0, 17, 101):
        ahead = w.clone()
        ahead[i] += eps
        further, _, same = objective(ahead)
        assert torch.equal(weights_of(theta), weights_of(same))
        torch.testing.assert_close((further - value) / eps, slope[i], atol=1e-4, rtol=1e-4)


# the selection


def fixed(monkeypatch, losses: torch.Tensor) -> None:
    """Lower levels that do nothing, and losses that do not change."""
    monkeypatch.setattr(WorstCase, "lower_level", lambda self, model, splits, w: model)
    monkeypatch.setattr("mu_vision.selection.sample_losses", lambda model, splits: losses)


@pytest.mark.parametrize("easiest", [False, True])
def test_both_solvers_agree_and_stop_once_the_set_stays(monkeypatch, easiest):
    losses = draw(240, 5).abs()
    fixed(monkeypatch, losses)
    both = [
        WorstCase(share=0.1, easiest=easiest, solver=solver).select(trained_net(), few_digits())
        for solver in ("projected", "topm")
    ]
    expected = losses.topk(24, largest=easiest).indices.sort().values
    for found in both:
        assert found.request.rows == tuple(expected.tolist())
        assert found.history == (1.0, 1.0)
        assert float(found.scores.sum()) == pytest.approx(24)
        assert found.request.name == ("easiest 10 %" if easiest else "worst case 10 %")
        assert found.request.whole == ()
        assert torch.equal(found.losses, losses)
        assert found.seconds > 0
    assert torch.equal(both[0].scores, both[1].scores)


@pytest.mark.parametrize("m", [1, 2])
def test_classes_are_chosen_whole(monkeypatch, m):
    y = few_digits().train.y
    fixed(monkeypatch, (y - 4).abs().double() + 0.1 * (y > 4))
    found = WorstCase(count=m, by="classes").select(trained_net(), few_digits())
    assert found.scores.shape == (10,)
    expected = torch.isin(y, torch.tensor([4, 3][:m])).nonzero().flatten()
    assert found.request.rows == tuple(expected.tolist())
    assert "4" in found.request.whole and len(found.request.whole) == m
    assert found.request.name == ("worst case class 4", "worst case classes 3, 4")[m - 1]


@pytest.mark.parametrize(("solver", "best"), [("projected", 1), ("topm", 7)])
@pytest.mark.parametrize("easiest", [False, True])
def test_if_the_search_does_not_settle_the_best_set_that_was_tried_is_returned(
    monkeypatch, solver, best, easiest
):
    y = few_digits().train.y
    sign = -1 if easiest else 1
    if_left_out = 2 + sign * (torch.arange(10) - 7).abs().double() / 10
    monkeypatch.setattr(WorstCase, "lower_level", lambda self, model, splits, w: w)
    # what is learned looks better than what is left out: projected steps go to and fro between the
    # first two classes, the running mean of topm visits all
    monkeypatch.setattr(
        "mu_vision.selection.sample_losses",
        lambda w, splits: torch.where(w == 1, if_left_out[y], (2 - sign) + 0.01 * sign * y),
    )
    settings = WorstCase(count=1, by="classes", outer=11, solver=solver, easiest=easiest)
    found = settings.select(trained_net(), few_digits())
    assert found.request.whole == (str(best),)
    assert torch.equal(found.scores, torch.eye(10, dtype=torch.float64)[best])
    assert float(found.losses[best]) == pytest.approx(float(if_left_out[best]))
    assert max(found.history) == 0


def test_every_sample_of_a_class_has_the_weight_of_its_class(monkeypatch):
    seen = []
    begin = LowerLevel.__init__

    def spied(self, settings, model, splits, weights):
        seen.append(weights)
        begin(self, settings, model, splits, weights)

    monkeypatch.setattr(LowerLevel, "__init__", spied)
    WorstCase(count=1, by="classes", outer=2, epochs=1).select(trained_net(), few_digits())
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], torch.full((240,), 0.1, dtype=torch.float64))
    classes = {int(c) for c in few_digits().train.y[seen[1] == 1]}
    assert len(classes) == 1
    assert int((seen[1] == 1).sum()) == int((few_digits().train.y == classes.pop()).sum())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.001}, r"share=0.001 of 240 samples is 0: a forget set needs at least 1"),
        ({"share": 0.999}, r"share=0.999 of 240 samples is 240: .* must leave at least 1"),
        ({"count": 240}, r"count=240 of 240 samples is 240: "),
        ({"count": 10, "by": "classes"}, r"count=10 of 10 classes is 10: "),
        ({"share": 1.0}, r"worst case: 'share' must be less than 1, not 1.0"),
        ({"share": 0.0}, r"worst case: 'share' must be greater than 0, not 0.0"),
        ({"count": 0}, r"worst case: 'count' must be greater than or equal to 1, not 0"),
        ({}, r"either as a share or as a count"),
        ({"share": 0.1, "count": 3}, r"either as a share or as a count"),
        ({"share": 0.1, "gamma": 0.1}, r"solver=topm .* use solver=projected, or gamma=0"),
        ({"shares": 0.1}, r"unknown key 'shares'. Did you mean 'share'"),
    ],
)
def test_bad_input_gets_a_sentence(settings, message):
    with pytest.raises(UsageError, match=message):
        validated(WorstCase, settings, "worst case").select(trained_net(), few_digits())


def test_a_model_of_other_classes_is_refused():
    model = Classifier.build("small_cnn", "abc", 1)
    with pytest.raises(UsageError, match="small_cnn tells 3 classes, but few_digits has 10"):
        WorstCase(share=0.1).select(model, few_digits())


def test_flipped_labels_are_easiest_and_never_worst():
    few = digits().train.take(range(300))
    generator = torch.Generator().manual_seed(0)
    flipped = torch.randperm(300, generator=generator)[:24]
    y = few.y.clone()
    y[flipped] = (y[flipped] + torch.randint(1, 10, (24,), generator=generator)) % 10
    splits = Splits("flipped", Labelled(few.x, y, few.classes), few_digits().test)
    model = ClassifierTrainer(epochs=15).fit(splits)[0]
    shared = {"share": 0.1, "epochs": 3, "outer": 6}
    wrong = set(flipped.tolist())
    for solver in ("topm", "projected"):
        worst = WorstCase(**shared, solver=solver).select(model, splits)
        easiest = WorstCase(**shared, solver=solver, easiest=True).select(model, splits)
        assert not wrong & set(worst.request.rows)
        assert len(wrong & set(easiest.request.rows)) >= 21
