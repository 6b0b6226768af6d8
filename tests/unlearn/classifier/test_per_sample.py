"""Per-sample gradients, and the one-shot methods that read them: SSD, FF, IU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from labelled import few_digits
from steps import SAMPLES, THREES, method, near, same, tensors
from torch import nn

from mu_vision.data.labelled import Labelled
from mu_vision.data.selectors import forget_rows
from mu_vision.errors import RunError
from mu_vision.models.classifier import Classifier
from mu_vision.unlearn.classifier.influence import inverse_hessian_product, mean_gradient
from mu_vision.unlearn.per_sample import (
    conjugate_gradients,
    fisher_diagonal,
    mean_square_gradients,
)

FEW = SAMPLES.retain.take(range(12))


def gradient(model, x, y, loss=F.cross_entropy):
    """By autograd, of one batch; a copy keeps the original frozen."""
    twin = model.clone()
    twin.network.eval()
    names, parameters = zip(*twin.network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss(twin.network(x), y), parameters)
    return dict(zip(names, found, strict=True))


def rows(data):
    return [(data.x[n : n + 1], data.y[n : n + 1]) for n in range(len(data))]


def linear(double: bool = True) -> Classifier:
    """Multinomial logistic regression on 8x8 pictures."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Classifier(network.double() if double else network, few_digits().classes)


def doubled(data: Labelled) -> Labelled:
    return Labelled(data.x.double(), data.y, data.classes)


def test_the_importance_over_one_sample_is_its_squared_gradient(digit_net):
    one = FEW.take([3])
    squared = {name: g.square() for name, g in gradient(digit_net, one.x, one.y).items()}
    near(mean_square_gradients(digit_net, one), squared)


def test_importances_are_means_over_samples_whatever_the_chunk(digit_net):
    squares = [gradient(digit_net, x, y) for x, y in rows(FEW)]
    expected = {n: sum(g[n].square() for g in squares) / len(FEW) for n in squares[0]}
    for chunk in (1, 7, 12):
        near(mean_square_gradients(digit_net, FEW, chunk), expected)


def test_the_fisher_information_is_that_of_a_loop_over_samples_and_classes(digit_net):
    few = FEW.take([0, 5, 9])
    expected = {name: torch.zeros_like(p) for name, p in digit_net.network.named_parameters()}
    for x, _ in rows(few):
        p = F.softmax(digit_net.network(x), 1)[0]
        for label in range(10):
            for name, g in gradient(digit_net, x, torch.tensor([label])).items():
                expected[name] += p[label] * g.square() / len(few)
    for chunk in (1, 2, 3):
        near(fisher_diagonal(digit_net, few, chunk), expected)


def own(*layers: nn.Module) -> Classifier:
    torch.manual_seed(0)
    for layer in layers:
        for module in layer.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return Classifier(nn.Sequential(*layers), ("a", "b", "c"))


def tied() -> Classifier:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return own(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, 3))


TWICE = nn.Linear(64, 64)
NETWORKS = {
    "strides and holes": lambda: own(
        nn.Conv2d(1, 4, 3, 2, 2, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)
    ),
    "groups": lambda: own(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(128, 3)
    ),
    "valid": lambda: own(nn.Conv2d(1, 4, 3, padding="valid"), nn.Flatten(), nn.Linear(144, 3)),
    "mirrored": lambda: own(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(256, 3)
    ),
    "norm without statistics": lambda: own(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(),
        nn.Linear(144, 3),
    ),
    "norm without weights": lambda: own(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(144, 3)
    ),
    "tokens": lambda: own(
        nn.Flatten(2), nn.Linear(64, 8), nn.LayerNorm(8), nn.Flatten(), nn.Linear(8, 3)
    ),
    "rows": lambda: own(nn.Flatten(1, 2), nn.Linear(8, 4), nn.Flatten(), nn.Linear(32, 3)),
    "a layer twice": lambda: own(nn.Flatten(), TWICE, nn.ReLU(), TWICE, nn.Linear(64, 3)),
    "tied weights": tied,
    "norms that activate": lambda: Classifier.build("test_byobnet", ("a", "b", "c"), 1),
    "residual": lambda: Classifier.build("test_resnet", ("a", "b", "c"), 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_squared_gradients_are_those_of_a_loop_in_any_network(kind):
    model = NETWORKS[kind]()
    # networks of timm halve their pictures five times
    pictures = torch.rand(3, 1, 32, 32) if model.architecture else FEW.x[:3]
    data = Labelled(pictures, torch.tensor([0, 2, 1]), model.classes)
    names = [name for name, _ in model.network.named_parameters()]
    empirical = {name: 0.0 for name in names}
    fisher = {name: 0.0 for name in names}
    for x, y in rows(data):
        p = F.softmax(model.network(x), 1)[0]
        for label in range(3):
            square = {
                n: g.square() / 3 for n, g in gradient(model, x, torch.tensor([label])).items()
            }
            for name in names:
                fisher[name] = fisher[name] + p[label] * square[name]
                empirical[name] = empirical[name] + (label == y.item()) * square[name]
    for found, expected in (
        (mean_square_gradients(model, data, 2), empirical),
        (fisher_diagonal(model, data, 2), fisher),
    ):
        assert list(found) == names
        for name in names:
            size = float(expected[name].abs().max())
            torch.testing.assert_close(
                found[name], expected[name], atol=1e-5 * size + 1e-10, rtol=1e-4
            )


def test_squared_gradients_leave_the_network_as_it_was(digit_net):
    twin = digit_net.clone()
    twin.network.train()
    before = tensors(twin)
    mean_square_gradients(twin, FEW)
    fisher_diagonal(twin, FEW)
    assert twin.network.training and same(tensors(twin), before)
    assert all(p.grad is None for p in twin.network.parameters())
    assert not any(m._forward_hooks for m in twin.network.modules())


def test_the_fisher_information_of_a_linear_model_has_a_closed_form():
    model, few = linear(), doubled(FEW)
    fisher = fisher_diagonal(model, few)
    p = F.softmax(model.network(few.x), 1)
    # sum over y of p_y (1[y = c] - p_c)^2 = p_c (1 - p_c)
    torch.testing.assert_close(fisher["1.bias"], (p * (1 - p)).mean(0))
    x = few.x.flatten(1)
    expected = torch.einsum("nc,nd->cd", p * (1 - p), x.square()) / len(few)
    torch.testing.assert_close(fisher["1.weight"], expected)


def dampened(model, **settings):
    done = method("ssd", **settings).unlearn(model, THREES)
    return tensors(done.model), done.report


def test_ssd_dampens_the_selected_weights_by_the_ratio_and_leaves_the_others(digit_net):
    alpha, lam = 2.0, 0.5
    whole = mean_square_gradients(digit_net, THREES.splits.train)
    forget = mean_square_gradients(digit_net, THREES.forget)
    after, report = dampened(digit_net, alpha=alpha, lam=lam)
    dampened_ones = 0
    for name, before in digit_net.network.named_parameters():
        selected = forget[name] > alpha * whole[name]
        dampened_ones += int(selected.sum())
        assert torch.equal(after[name][~selected], before[~selected])
        factor = (lam * whole[name] / forget[name])[selected]
        assert (factor < lam / alpha).all() and (factor >= 0).all()
        torch.testing.assert_close(after[name][selected], (before[selected] * factor))
    assert report["dampened"] == dampened_ones > 0
    assert report["of"] == sum(p.numel() for p in digit_net.network.parameters())


def test_ssd_never_amplifies(digit_net):
    after, _ = dampened(digit_net, alpha=0.1, lam=4.0)
    kept = 0
    for name, before in digit_net.network.named_parameters():
        assert (after[name].abs() <= before.abs()).all()
        kept += int((after[name] == before).sum())
    assert 0 < kept < 21482


def test_ssd_with_a_huge_alpha_moves_nothing(digit_net):
    with pytest.raises(RunError, match=r"ssd moved no weight: .* \(a no-op\)\."):
        method("ssd", alpha=1e12).unlearn(digit_net, THREES)


def test_ssd_does_not_mind_the_scale_of_the_importances(digit_net, monkeypatch):
    """Both importances times a constant give the same edit."""
    plain, _ = dampened(digit_net, alpha=2.0)
    real = mean_square_gradients
    for scale in (2.0**-10, 2.0**10):
        monkeypatch.setattr(
            "mu_vision.unlearn.classifier.ssd.mean_square_gradients",
            lambda *given, scale=scale: {n: scale * t for n, t in real(*given).items()},
        )
        scaled, report = dampened(digit_net, alpha=2.0)
        near(scaled, plain)
        assert report["dampened"] > 0


def test_ssd_forgets_the_class_and_keeps_the_others(digit_net):
    done = method("ssd", alpha=5.0).unlearn(digit_net, THREES).model
    before, after = (
        {
            part: float((m.logits(data.x).argmax(1) == data.y).float().mean())
            for part, data in (("forget", THREES.forget), ("retain", THREES.retain))
        }
        for m in (digit_net, done)
    )
    assert before["forget"] > 0.6 and after["forget"] < 0.1
    assert after["retain"] > before["retain"] - 0.1


def test_ssd_counts_as_all_data_what_was_not_forgotten_before(digit_net):
    later = forget_rows(few_digits(), range(120)).then(forget_rows(few_digits(), range(120, 130)))
    left = forget_rows(
        type(few_digits())("left", few_digits().train.take(range(120, 240)), few_digits().test),
        range(10),
    )
    near(
        tensors(method("ssd", alpha=1.0).unlearn(digit_net, later).model),
        tensors(method("ssd", alpha=1.0).unlearn(digit_net, left).model),
    )


def test_ff_has_the_variance_of_a_hand_made_fisher_information():
    m = method("fisher", alpha=2.0)
    fisher = torch.tensor([[0.0, 1.0], [0.5, 0.02]])
    # 1/F is at most 1e3 (1e2 in the output layer), then averaged over the inputs of a unit
    hidden = 2.0 * torch.tensor([[1e3 + 1], [2 + 50]]) / 2
    torch.testing.assert_close(m.variance(fisher, False), hidden.expand(2, 2))
    output = 10 * 2.0 * torch.tensor([[1e2 + 1], [2 + 50]]) / 2
    torch.testing.assert_close(m.variance(fisher, True), output.expand(2, 2))
    vector = torch.tensor([0.0, 4.0])
    torch.testing.assert_close(m.variance(vector, False), torch.tensor([2e4, 5.0]))
    torch.testing.assert_close(m.variance(vector, True), torch.tensor([2e3, 5.0]))
    kernels = torch.full((3, 2, 2, 2), 0.1)
    kernels[0, 0] = 1e-6
    told = m.variance(kernels, False)
    torch.testing.assert_close(told[0, :, 0, 0], torch.full((2,), 2.0 * (1e3 + 10) / 2))
    torch.testing.assert_close(told[1], torch.full((2, 2, 2), 20.0))


def test_ff_noise_has_the_variance_that_was_asked_for(digit_net):
    m = method("fisher", alpha=1e-6)
    fisher = fisher_diagonal(digit_net, SAMPLES.retain)
    after, before = tensors(m.unlearn(digit_net, SAMPLES).model), tensors(digit_net)
    for name in ("4.weight", "9.weight"):
        v = m.variance(fisher[name], name.startswith("9"))
        z = (after[name] - before[name]) / v.sqrt()
        assert float(z.mean()) == pytest.approx(0, abs=0.1)
        assert float(z.std()) == pytest.approx(1, abs=0.1)


def test_ff_without_alpha_moves_nothing_even_for_a_whole_class(digit_net):
    for request in (SAMPLES, THREES):
        with pytest.raises(RunError, match=r"fisher moved no weight: .* \(a no-op\)\."):
            method("fisher", alpha=0.0).unlearn(digit_net, request)


def test_ff_wipes_the_output_row_of_a_whole_class_and_of_no_part_of_it(digit_net):
    before = tensors(digit_net)["9.weight"]
    after = tensors(method("fisher", alpha=1e-12).unlearn(digit_net, THREES).model)["9.weight"]
    others = [row for row in range(10) if row != 3]
    torch.testing.assert_close(after[others], before[others], atol=1e-3, rtol=0)
    assert float(after[3].mean()) == pytest.approx(0, abs=2e-3)
    assert 0.005 < float(after[3].std()) < 0.05
    part = forget_rows(few_digits(), THREES.rows[1:])
    after = tensors(method("fisher", alpha=1e-12).unlearn(digit_net, part).model)["9.weight"]
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)


def flat(tensors_):
    return torch.cat([t.flatten() for t in tensors_.values()])


@pytest.mark.parametrize("double", [True, False])
def test_the_inverse_hessian_product_is_that_of_a_dense_solve(double):
    model = linear(double)
    data = doubled(SAMPLES.retain) if double else SAMPLES.retain
    v = mean_gradient(model, data.take(range(7)))
    g = torch.stack([flat(gradient(model, x, y)) for x, y in rows(data)]).double()
    dense = torch.eye(g.shape[1], dtype=g.dtype) + g.T @ g / len(data)
    expected = torch.linalg.solve(dense, flat(v).double())
    found, steps = inverse_hessian_product(model, data, v, 1e-10 if double else 1e-6)
    error = (flat(found).double() - expected).norm() / expected.norm()
    assert float(error) < (1e-9 if double else 1e-5)
    assert steps < 100
    assert float((flat(v).double() - expected).norm() / expected.norm()) > 0.1


def test_the_inverse_hessian_product_of_a_convolutional_net_is_that_of_woodbury():
    """V - G^T (N I + G G^T)^-1 G v, with the gradients of a loop."""
    model = Classifier.build("small_cnn", few_digits().classes, 1)
    data = SAMPLES.retain.take(range(16))
    v = mean_gradient(model, SAMPLES.forget)
    g = torch.stack([flat(gradient(model, x, y)) for x, y in rows(data)]).double()
    b = flat(v).double()
    inner = len(data) * torch.eye(len(data), dtype=g.dtype) + g @ g.T
    expected = b - g.T @ torch.linalg.solve(inner, g @ b)
    found, _ = inverse_hessian_product(model, data, v, 1e-7)
    assert float((flat(found).double() - expected).norm() / expected.norm()) < 1e-4


def test_conjugate_gradients_stop_at_once_where_nothing_is_asked():
    found, steps = conjugate_gradients(lambda x: x, {"w": torch.zeros(3)})
    assert steps == 0 and not found["w"].any()
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    found, steps = conjugate_gradients(lambda x: {"w": matrix @ x["w"]}, {"w": torch.ones(2)})
    torch.testing.assert_close(found["w"], torch.linalg.solve(matrix, torch.ones(2)))
    assert steps == 2


def test_mean_gradients_are_those_of_all_samples_whatever_the_batch(digit_net):
    data = SAMPLES.retain.take(range(30))
    expected = gradient(digit_net, data.x, data.y)
    for batch in (7, 30, 1024):
        near(mean_gradient(digit_net, data, batch), expected)


def test_influence_takes_the_step_of_the_dense_solve():
    model = linear(False)
    m = method("influence", alpha=3.0, samples=1000, tolerance=1e-7)
    after = m.unlearn(model, SAMPLES).model
    g_f, g_r = (
        flat(gradient(model, part.x, part.y)).double() for part in (SAMPLES.forget, SAMPLES.retain)
    )
    g = torch.stack([flat(gradient(model, x, y)) for x, y in rows(SAMPLES.retain)]).double()
    dense = torch.eye(g.shape[1], dtype=g.dtype) + g.T @ g / len(g)
    step = 3.0 * torch.linalg.solve(dense, 20 / 240 * (g_f - g_r))
    moved = flat(tensors(after)).double() - flat(tensors(model)).double()
    assert float((moved - step).norm() / step.norm()) < 1e-4


def test_influence_climbs_the_loss_of_what_is_forgotten(digit_net):
    done = method("influence", alpha=20.0, samples=100).unlearn(digit_net, THREES)
    before, after = (
        F.cross_entropy(m.logits(THREES.forget.x), THREES.forget.y) for m in (digit_net, done.model)
    )
    assert after > before
    assert 0 < done.report["solver_steps"] < 200


def test_influence_without_alpha_moves_nothing(digit_net):
    with pytest.raises(RunError, match=r"influence moved no weight: .* \(a no-op\)\."):
        method("influence", alpha=0.0).unlearn(digit_net, SAMPLES)


def test_one_shot_methods_leave_running_statistics_alone(digit_net):
    for name in ("ssd", "fisher", "influence"):
        after = tensors(method(name).unlearn(digit_net, SAMPLES).model)
        before = tensors(digit_net)
        running = [n for n in before if "running" in n or "batches" in n]
        assert same({n: before[n] for n in running}, {n: after[n] for n in running})
