"""Score distillation against closed forms, and the flow of its gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mu_vision import seeding
from mu_vision.distillation import Conditions, Distillation, generator_loss, timestep_at
from mu_vision.errors import UsageError
from mu_vision.loop import LoopConfig, Run, train
from mu_vision.models import maths
from mu_vision.models.denoiser import Generator
from mu_vision.models.labels import LabelModel
from mu_vision.train.distill import DistillTrainer
from mu_vision.unlearn.diffusion.sfd import SFD

ALPHAS = [0.5, 1.0, 1.2]


def gaussian_eps(x_t, mean, spread, abar):
    """The exact noise prediction for data N(mean, spread^2)."""
    a, b = maths.coefficients(abar, x_t)
    return b * (x_t - a * mean) / (a**2 * spread**2 + b**2)


def test_no_network_denoises_a_gaussian_better_than_the_exact_prediction():
    """The oracle of the others here: E|eps - e|^2 = n a^2 s^2 / V, the least there is."""
    mean, spread, n = 1.5, 0.7, 3
    abar = torch.full((200_000,), 0.3, dtype=torch.float64)
    with seeding.seeded("optimum"):
        x0, e = mean + spread * rows(len(abar), n), rows(len(abar), n)
    x_t = maths.add_noise(x0, e, abar)

    def error(prediction: torch.Tensor) -> float:
        return (prediction - e).square().sum(1).mean().item()

    exact = gaussian_eps(x_t, mean, spread, abar)
    least = n * 0.3 * spread**2 / (0.3 * spread**2 + 0.7)
    assert error(exact) == pytest.approx(least, rel=0.01)
    others = (1.05 * exact, 0.95 * exact, exact + 0.1, gaussian_eps(x_t, mean, 0.8, abar))
    for other in others:
        assert error(other) > error(exact)


def omega_of(eps_phi, e, abar):
    return (maths.sigmas(abar) * (e - eps_phi).abs().flatten(1).mean(1)).clamp_min(1e-5).detach()


def rows(n: int, *shape: int) -> torch.Tensor:
    return torch.randn(n, *shape, dtype=torch.float64)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_loss_in_noise_equals_the_loss_in_pictures(alpha):
    with seeding.seeded("forms"):
        x_g, e = rows(4, 3, 2, 2), rows(4, 3, 2, 2)
        weights = rows(2, 3, 3)
    abar = torch.tensor([0.9, 0.5, 0.1, 0.006], dtype=torch.float64)
    found = []
    for form in ("noise", "pictures"):
        x = x_g.clone().requires_grad_()
        x_t = maths.add_noise(x, e, abar)
        eps_phi, eps_psi = (torch.einsum("oc,bchw->bohw", w, x_t).tanh() for w in weights)
        if form == "noise":
            loss = generator_loss(eps_phi, eps_psi, e, abar, alpha)
        else:
            f_phi, f_psi = (maths.eps_to_x0(x_t, eps, abar) for eps in (eps_phi, eps_psi))
            omega = (f_phi - x).abs().flatten(1).mean(1).clamp_min(1e-5).detach()
            inner = (f_phi - f_psi) * ((f_phi - x) - alpha * (f_phi - f_psi))
            loss = inner.flatten(1).sum(1) / omega
        loss.sum().backward()
        found.append((loss.detach(), x.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-10)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_generator_at_the_wrong_place_is_pulled_by_k_squared(alpha):
    """The gradient is k^2 (theta - m), k = b^2 / V, with psi the score of the generator."""
    m, spread = 1.5, 0.7
    abar = torch.full((64,), 0.3, dtype=torch.float64)
    with seeding.seeded("translation"):
        z, e = rows(64, 1), rows(64, 1)
    theta = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    x_t = maths.add_noise(theta + spread * z, e, abar)
    eps_phi = gaussian_eps(x_t, m, spread, abar)
    eps_psi = gaussian_eps(x_t, theta.item(), spread, abar)
    loss = generator_loss(eps_phi, eps_psi, e, abar, alpha) * omega_of(eps_phi, e, abar)
    loss.mean().backward()
    k = 0.7 / (0.3 * spread**2 + 0.7)
    assert theta.grad.item() == pytest.approx(k**2 * (theta.item() - m), rel=1e-9)


def test_a_generator_of_the_wrong_width_is_pulled_towards_the_teachers():
    spread_g, spread_p, a2 = 0.6, 1.1, 0.4
    abar = torch.full((400_000,), a2, dtype=torch.float64)
    with seeding.seeded("width"):
        z, e = rows(len(abar), 1), rows(len(abar), 1)
    for alpha in (0.5, 1.0):
        width = torch.tensor(spread_g, dtype=torch.float64, requires_grad=True)
        x_t = maths.add_noise(width * z, e, abar)
        eps_phi = gaussian_eps(x_t, 0, spread_p, abar)
        eps_psi = gaussian_eps(x_t, 0, spread_g, abar)
        loss = generator_loss(eps_phi, eps_psi, e, abar, alpha) * omega_of(eps_phi, e, abar)
        loss.mean().backward()
        a = a2**0.5
        kp, kg = (a * s**2 / (a2 * s**2 + 1 - a2) for s in (spread_p, spread_g))
        expected = 2 * a * spread_g * (kp - kg) * (a * (kp - alpha * (kp - kg)) - 1)
        assert width.grad.item() == pytest.approx(expected, rel=0.05)
        assert expected < 0


def test_with_a_perfect_psi_the_value_is_one_minus_alpha_times_the_divergence():
    abar = torch.full((200_000,), 0.3, dtype=torch.float64)
    with seeding.seeded("projection"):
        x_g, e = 0.2 + 0.5 * rows(len(abar), 1), rows(len(abar), 1)
    x_t = maths.add_noise(x_g, e, abar)
    eps_phi, eps_psi = gaussian_eps(x_t, 1.0, 0.8, abar), gaussian_eps(x_t, 0.2, 0.5, abar)
    divergence = (maths.sigmas(abar)[:, None] * (eps_psi - eps_phi)).square().mean().item()
    for alpha in ALPHAS:
        loss = generator_loss(eps_phi, eps_psi, e, abar, alpha) * omega_of(eps_phi, e, abar)
        assert loss.mean().item() == pytest.approx((1 - alpha) * divergence, abs=0.01)


def test_omega_is_detached_clamped_and_one_value_a_row():
    abar = torch.tensor([0.5, 0.5])
    e = torch.randn(2, 3, 4, 4)
    eps_phi = e.clone()  # r = 0 everywhere, so omega is the least there is
    loss = generator_loss(eps_phi, eps_phi + 1e-3, e, abar, 1.0)
    assert loss.shape == (2,)
    assert torch.allclose(loss, torch.full((2,), -48 * 1e-6 / 1e-5), rtol=1e-2)


def test_levels_are_looked_up_in_the_schedule(label_model, sd):
    for model, expected in ((label_model, (38, 440, 711)), (sd, (20, 625, 979))):
        assert tuple(timestep_at(s, model) for s in (0.137, 2.5, 13.0)) == expected
    with pytest.raises(UsageError, match=r"goes from sigma 0\.01 to 157, so there is no level 900"):
        timestep_at(900, label_model)


def objective(model: LabelModel, forget: bool = True, **settings) -> Distillation:
    """Of the classes tree and boat; cat is to be drawn as boat."""

    def conditions(phi):
        retain = phi.encode_prompt(["tree", "boat"])
        if not forget:
            return Conditions(retain)
        return Conditions(retain, phi.encode_prompt(["cat"]), phi.encode_prompt(["boat"]), 0.5, 2.0)

    names = list(model.named_parameters())
    made = Distillation(SFD(batch=3, **settings), model, names, conditions)
    made.prepare(torch.device("cpu"))
    return made


def seeded_loss(made: Distillation, name: str = "loss") -> dict[str, torch.Tensor]:
    with seeding.seeded("loss"):
        return getattr(made, name)(0)


def watched_loss(made: Distillation) -> tuple:
    """Theta's loss, its conditions, x_g as a leaf, and (x_t, t, e)."""
    kept, draw, noised = [], made._draw, made._noised
    made._draw = lambda c: kept.extend([c, draw(c).detach().requires_grad_()]) or kept[1]
    made._noised = lambda x: kept.append(noised(x)) or kept[2]
    return seeded_loss(made)["generator_loss"], *kept


def test_at_first_only_what_is_to_be_forgotten_pulls(label_model):
    """As psi equals phi, their difference under equal conditions is 0, and so is its gradient."""
    plain = objective(label_model, forget=False)
    found = seeded_loss(plain)
    assert found["generator_loss"].item() == 0 and found["gap"].item() == 0
    found["generator_loss"].backward()
    assert not any(p.grad.any() for p in plain.parameters().values() if p.grad is not None)
    assert "forget_gap" not in found
    both = seeded_loss(objective(label_model))
    assert both["generator_loss"].item() != 0
    assert both["gap"].item() == 0 and both["forget_gap"].item() > 0


def test_the_gradient_reaches_theta_through_both_frozen_networks(label_model):
    gradients = []
    for cut in (None, "teacher", "fake"):
        made = objective(label_model)
        for parameter in made.fake_parameters().values():
            parameter.requires_grad_(False)
        if cut:
            guided = getattr(made, cut).guided_noise
            setattr(made, cut, SimpleNamespace(
                guided_noise=torch.no_grad()(guided), generator=None,
                alphas_cumprod=label_model.alphas_cumprod, device=label_model.device,
                latent_shape=label_model.latent_shape,
            ))  # fmt: skip
        seeded_loss(made)["generator_loss"].backward()
        if not cut:
            for model in (made.teacher, made.fake):
                assert all(p.grad is None for p in model.named_parameters().values())
        grads = [p.grad.flatten() for p in made.parameters().values() if p.grad is not None]
        gradients.append(torch.cat(grads))
    whole, no_phi, no_psi = gradients
    assert whole.any()
    assert not torch.allclose(whole, no_phi) and not torch.allclose(whole, no_psi)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_diff_instruct_moves_a_picture_by_the_difference_of_the_scores(label_model, alpha):
    """-(f_phi - f_psi) / omega of each row, whatever alpha; the value is that of the whole loss."""
    values = []
    for gradient in ("sid", "diff_instruct"):
        made = objective(label_model, gradient=gradient, alpha=alpha)
        for parameter in made.fake_parameters().values():
            parameter.data.mul_(1.05)  # else f_psi = f_phi
        value, cond, x_g, (x_t, t, e) = watched_loss(made)
        values.append(value.item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    value.backward()
    abar = label_model.alphas_cumprod[t]
    asked = cond[:3].cat([cond[:3], label_model.encode_prompt(["boat"] * 3)])
    with torch.no_grad():
        eps_phi = label_model.predict_noise(x_t, t, asked)
        eps_psi = made.fake.predict_noise(x_t, t, cond)
        f_phi, f_psi = (maths.eps_to_x0(x_t, eps, abar) for eps in (eps_phi, eps_psi))
        shape = (-1, 1, 1, 1)
        weight = torch.tensor([1.0] * 3 + [2.0] * 3) / 3 / omega_of(eps_phi, e, abar)
        expected = weight.view(shape) * (f_psi - f_phi)
    assert expected.abs().max() > 1e-4
    assert torch.allclose(x_g.grad, expected, rtol=1e-3, atol=1e-6)


def test_psi_learns_without_touching_theta(label_model):
    made = objective(label_model)
    seeded_loss(made, "fake_loss")["fake_loss"].backward()
    assert all(p.grad is None for p in made.parameters().values())
    assert any(p.grad is not None and p.grad.any() for p in made.fake_parameters().values())


def test_both_sets_in_one_batch_equal_one_pass_for_each(label_model):
    made = objective(label_model)
    found, cond, _, (x_t, t, e) = watched_loss(made)
    assert cond.ids[3:].tolist() == [1, 1, 1] and 1 not in cond.ids[:3].tolist()
    total = 0.0
    for part, weight in ((slice(0, 3), 1.0), (slice(3, 6), 2.0)):
        asked = cond[part] if weight == 1 else label_model.encode_prompt(["boat"] * 3)
        eps_phi = label_model.predict_noise(x_t[part], t[part], asked)
        eps_psi = made.fake.predict_noise(x_t[part], t[part], cond[part])
        abar = label_model.alphas_cumprod[t[part]]
        total += weight * generator_loss(eps_phi, eps_psi, e[part], abar, 1.2).sum() / 3
    assert found.item() == pytest.approx(total.item(), rel=1e-4)


def test_psi_is_warmed_up_alone(label_model):
    made = objective(label_model, psi_warmup=2)
    start = {name: p.detach().clone() for name, p in made.parameters().items()}
    made.prepare = lambda device: None
    train(made, LoopConfig(2, 1e-3))
    assert all(torch.equal(start[name], p) for name, p in made.parameters().items())
    assert any(not torch.equal(start[name], p) for name, p in made.fake_parameters().items())
    train(made, LoopConfig(3, 1e-3))
    assert any(not torch.equal(start[name], p) for name, p in made.parameters().items())


def test_psi_takes_larger_steps_and_neither_has_momentum(label_model):
    made = objective(label_model, psi_ratio=4.0)
    found = made.optimizers(LoopConfig(1, 1e-3))
    groups = {side: optimizer.param_groups[0] for side, optimizer in found.items()}
    assert groups["psi"]["lr"] == pytest.approx(4e-3) and groups["theta"]["lr"] == 1e-3
    assert {group["betas"] for group in groups.values()} == {(0.0, 0.999)}


def test_entries_of_gradients_are_clipped_by_value(label_model):
    made = objective(label_model, clip_value=1e-4)
    seen = []
    made.prepare = lambda device: None
    run = Run(LoopConfig(1, 1e-3), made, None)
    run.apply = lambda optimizer, parameters: seen.extend(
        p.grad.abs().max().item() for p in parameters if p.grad is not None
    )
    made.step(0, run)
    assert max(seen) == pytest.approx(1e-4)


def test_guided_networks_see_the_null_label_too(label_model):
    made = objective(label_model, guidance=2.0, fake_guidance=2.0, drop=0.5)
    sizes = []
    hooks = [
        net.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
        for net in (made.teacher, made.fake)
    ]
    assert seeded_loss(made)["generator_loss"].isfinite()
    assert sizes == [12, 12]
    assert seeded_loss(made, "fake_loss")["fake_loss"].isfinite()
    for hook in hooks:
        hook.remove()


def test_distilling_alone_keeps_every_class(labels_folder, tmp_path):
    trainer = DistillTrainer(model=str(labels_folder), steps=2, batch=2, lr=1e-3)
    trainer.run(tmp_path / "run")
    made = LabelModel.load(tmp_path / "run" / "generator", "cpu")
    assert made.generator == Generator(440, 1)
    first = trainer.objective()
    first.prepare(torch.device("cpu"))
    assert sorted(first.conditions.retain.ids.tolist()) == [0, 1, 2]
    assert first.conditions.forget is None
    again = SFD(batch=2, start=str(tmp_path / "run" / "generator"))
    names = list(first.teacher.named_parameters())
    second = Distillation(
        again, first.teacher, names, lambda phi: Conditions(phi.encode_prompt(["tree"]))
    )
    second.prepare(torch.device("cpu"))
    mine, theirs = second.student.named_parameters(), made.named_parameters()
    assert all(torch.equal(mine[name], theirs[name]) for name in names)
    phi, psi = second.teacher.named_parameters(), second.fake.named_parameters()
    assert all(torch.equal(psi[name], phi[name]) for name in names)
    assert second.warmup == 200


def test_what_cannot_be_distilled_is_refused_in_a_sentence(label_model, labels_folder, sd_folder):
    with pytest.raises(UsageError, match="is a generator that was distilled already"):
        objective(label_model.drawing_by(Generator(440)))
    with pytest.raises(UsageError, match=r"is no generator distilled at sigma_init 2\.5"):
        objective(label_model, start=str(labels_folder))
    with pytest.raises(UsageError, match="sigma_range must rise"):
        objective(label_model, sigma_range=(5.0, 1.0))
    with pytest.raises(UsageError, match="reads any text: say which ones"):
        DistillTrainer(model=str(sd_folder)).objective()


def test_a_start_of_another_architecture_is_refused(label_model, sd, tmp_path):
    folder = label_model.drawing_by(Generator(625)).save(tmp_path / "other")
    settings = SFD(start=str(folder))
    made = Distillation(settings, sd, list(sd.named_parameters())[:3], lambda phi: None)
    with pytest.raises(UsageError, match="has another architecture than"):
        made.prepare(torch.device("cpu"))
