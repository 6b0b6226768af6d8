"""IL2, NL2 and EL2 against closed forms, distances, extrapolation and elastic weight consolidation."""

from __future__ import annotations

import pytest
import torch
from gans import tiny_gan

from mu_vision.errors import RunError, UsageError
from mu_vision.unlearn.gan.adapt_then_unlearn import Repulsion
from mu_vision.unlearn.gan.adaptation import load_adapted, weights_of
from mu_vision.unlearn.gan.consolidation import Consolidation, ConsolidationSettings, fisher
from mu_vision.unlearn.gan.extrapolation import extrapolated

KINDS = ["il2", "nl2", "el2"]


def tensors(seed: int, scale: float = 1.0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (2,), ()]
    return [scale * torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]


def squared(a, b) -> torch.Tensor:
    return sum((x - y).square().sum() for x, y in zip(a, b, strict=True))


def repulsion(kind="el2", many=1, gamma=0.7, alpha=1.3, **changes) -> Repulsion:
    adapted = [tensors(k + 1) for k in range(many)]
    return Repulsion(tensors(0), adapted, kind, gamma, alpha, **changes)


@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize("distance", ["relative", "sum", "reference"])
def test_the_distance_in_all_its_units(distance, many):
    found = repulsion(many=many, distance=distance)
    theta, adapted = tensors(9), [tensors(k + 1) for k in range(many)]
    mean = sum(squared(theta, a) for a in adapted) / many
    start = sum(squared(tensors(0), a) for a in adapted) / many
    per_tensor = [(t - a[k]).square().mean() for a in adapted for k, t in enumerate(theta)]
    expected = {
        "relative": mean / start,
        "sum": many * mean,
        "reference": many**2 / 2 * torch.stack(per_tensor).mean(),
    }[distance]
    torch.testing.assert_close(found.measure(theta), expected, rtol=1e-10, atol=0)


def test_equal_adapted_models_in_the_reference_units():
    same = tensors(1)
    found = Repulsion(tensors(0), [same] * 4, "nl2", 1.0, distance="reference")
    mse = torch.stack([(t - s).square().mean() for t, s in zip(tensors(9), same)]).mean()
    torch.testing.assert_close(found.measure(tensors(9)), 16 / 2 * mse)


def test_one_mean_stands_for_all_adapted_models():
    adapted, theta = [tensors(k) for k in (1, 2, 3)], tensors(9)
    mean = [torch.stack(parts).mean(0) for parts in zip(*adapted)]
    direct = sum(squared(theta, a) for a in adapted)
    through = 3 * squared(theta, mean) + sum(squared(a, mean) for a in adapted)
    torch.testing.assert_close(direct, through, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("many", [1, 3])
def test_values_and_gradients_are_the_closed_forms(kind, many):
    gamma, alpha = 0.7, 0.05
    found = repulsion(kind, many, gamma, alpha, distance="sum", r_max=1e9)
    adapted = [tensors(k + 1) for k in range(many)]
    theta = [t.requires_grad_(True) for t in tensors(9)]
    d = sum(squared(theta, a) for a in adapted)
    loss = found.loss(found.measure(theta))
    value = {"il2": gamma / d, "nl2": -gamma * d, "el2": gamma * torch.exp(-alpha * d)}[kind]
    torch.testing.assert_close(loss, value)
    slope = {
        "il2": -gamma / d**2, "nl2": -gamma, "el2": -gamma * alpha * torch.exp(-alpha * d)
    }[kind]  # fmt: skip
    mean = [torch.stack(parts).mean(0) for parts in zip(*adapted)]
    for own, gradient, m in zip(theta, torch.autograd.grad(loss, theta), mean):
        torch.testing.assert_close(gradient, 2 * many * slope * (own.detach() - m))
    assert torch.autograd.gradcheck(lambda *t: found.loss(found.measure(t)), tuple(theta))


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_step_moves_away(kind):
    found = repulsion(kind, gamma=1.0, r_max=1e9)
    theta = [t.requires_grad_(True) for t in tensors(0)]
    before = found.measure(theta)
    gradients = torch.autograd.grad(found.loss(before), theta)
    stepped = [t.detach() - 1e-3 * g for t, g in zip(theta, gradients)]
    assert found.measure(stepped) > before
    away = [t.detach() - a for t, a in zip(theta, tensors(1))]
    for gradient, direction in zip(gradients, away):
        assert (gradient * direction).sum() < 0


def test_il2_and_el2_fade_with_the_distance_and_nl2_is_linear_up_to_its_cap():
    d = torch.tensor([0.5, 1.0, 2.0, 3.0, 500.0])
    for kind in ("il2", "el2"):
        values = repulsion(kind).loss(d)
        assert (values.diff() < 0).all() and values[-1] < 0.01
    values = repulsion("nl2", gamma=2.0, r_max=4.0).loss(d)
    assert values.tolist() == [-1.0, -2.0, -4.0, -6.0, -8.0]
    far = torch.tensor(5.0, requires_grad=True)
    (slope,) = torch.autograd.grad(repulsion("nl2").loss(far), far)
    assert slope == 0
    assert repulsion("el2", gamma=0.5, distance="reference").loss(d)[0] == pytest.approx(
        100 * 2.718281828**-0.25
    )


@pytest.mark.parametrize("kind", KINDS)
def test_at_theta_n_there_is_no_direction(kind):
    found = repulsion(kind, distance="sum")
    theta = [t.requires_grad_(True) for t in tensors(1)]
    if kind == "il2":
        assert torch.isinf(found.loss(found.measure(theta)))
        return
    gradients = torch.autograd.grad(found.loss(found.measure(theta)), theta)
    assert all((gradient == 0).all() for gradient in gradients)


def test_forces_agree_at_the_start_where_the_weights_say_so():
    gamma, alpha = 1.0, 1.5
    d = torch.ones((), requires_grad=True)
    weights = {"nl2": gamma, "il2": gamma, "el2": gamma / (alpha * 2.718281828459045**-alpha)}
    slopes = [
        torch.autograd.grad(repulsion(k, gamma=w, alpha=alpha).loss(d), d)[0]
        for k, w in weights.items()
    ]
    assert [float(s) for s in slopes] == pytest.approx([-1.0] * 3)


def test_adapted_models_that_equal_the_original_give_no_direction():
    with pytest.raises(
        RunError, match="The adapted GANs equal the original, so there is no direction"
    ):
        Repulsion(tensors(0), [tensors(0)], "el2", 1.0)


def test_extrapolation_is_affine_in_s():
    model, adapted = tiny_gan(), tiny_gan(seed=1)
    assert all(map(torch.equal, weights_of(extrapolated(model, [adapted], 0.0)), weights_of(model)))
    one = weights_of(extrapolated(model, [adapted], 1.0))
    for found, wanted in zip(one, weights_of(adapted)):
        torch.testing.assert_close(found, wanted)
    back, twice, third = (weights_of(extrapolated(model, [adapted], s)) for s in (-1, -2, 0))
    for a, b, c in zip(back, twice, third):
        torch.testing.assert_close(2 * a, b + c, rtol=1e-4, atol=1e-4)
    two = weights_of(extrapolated(model, [adapted, tiny_gan(seed=2)], 1.0))
    middle = [(a + b) / 2 for a, b in zip(weights_of(adapted), weights_of(tiny_gan(seed=2)))]
    for found, wanted in zip(two, middle):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert model.fingerprint() == tiny_gan().fingerprint()


def test_an_adapted_model_of_another_architecture_is_refused(tmp_path):
    wide = tiny_gan(widths=(6, 6))
    wide.save(tmp_path / "wide")
    with pytest.raises(UsageError, match=r"The adapted GAN .*wide is of another architecture"):
        load_adapted(tmp_path / "wide", tiny_gan())
    tiny_gan(seed=1).save(tmp_path / "fine")
    assert (
        load_adapted(tmp_path / "fine", tiny_gan()).fingerprint() == tiny_gan(seed=1).fingerprint()
    )


class LinearGan:
    """D(G(z)) = sum of theta * z."""

    def __init__(self):
        self.generator = torch.nn.Linear(3, 1, bias=False)
        self.generator.anchored = lambda: ["weight"]
        forward = self.generator.forward
        self.generator.forward = lambda z, fresh=False: forward(z)
        self.discriminator = torch.nn.Flatten(0)
        self.device, self.name = torch.device("cpu"), "linear"
        self.config = type("Config", (), {"latent": 3})

    def clone(self, names):
        assert names == ["generator.weight"]
        return self


def test_fisher_of_a_linear_gan_is_the_mean_square_of_its_latents():
    from mu_vision import seeding

    found = fisher(LinearGan(), 6, seed=5)["weight"]
    drawn = []
    for start, count in ((0, 4), (4, 2)):
        with seeding.seeded("fisher", 5, start):
            drawn.append(torch.randn(count, 3))
    torch.testing.assert_close(found[0], torch.cat(drawn).square().mean(0))


def test_consolidation_pulls_back_to_an_anchor_of_its_own():
    gan = tiny_gan()
    held = Consolidation(gan, ConsolidationSettings(ewc=2.0, fisher_samples=5), 0)
    assert held.strength == pytest.approx(2.0 / held.mean_fisher)
    assert all((f >= 0).all() for f in held.weights.values())
    twin = gan.clone()
    loss = held.loss(twin.generator)
    loss.backward()
    own = dict(twin.generator.named_parameters())
    assert loss == 0 and all((own[n].grad == 0).all() for n in held.weights)
    with torch.no_grad():
        for parameter in own.values():
            parameter += 0.1
            parameter.grad = None
    held.loss(twin.generator).backward()
    for name, f in held.weights.items():
        torch.testing.assert_close(
            own[name].grad, held.strength * f * (own[name] - held.anchor[name])
        )
    assert own["constant"].grad is None
    published = ConsolidationSettings(ewc=5e8, ewc_scale="published", fisher_samples=4)
    assert Consolidation(gan, published, 0).strength == 5e8


def test_a_generator_that_its_discriminator_does_not_heed_cannot_be_held():
    deaf = tiny_gan().clone()
    with torch.no_grad():
        deaf.discriminator.head.weight.zero_()
    with pytest.raises(RunError, match=r"The Fisher information of tiny stylegan2 is 0.*set ewc=0"):
        Consolidation(deaf.freeze(), ConsolidationSettings(fisher_samples=4), 0)
