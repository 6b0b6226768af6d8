from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from mu_vision.models import maths

SD = DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
)
LINEAR = DDPMScheduler(beta_start=1e-4, beta_end=0.02)


@pytest.fixture
def xs():
    rng = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(3, 4, 8, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    return x0, eps, torch.tensor([0, 500, 999])


def test_noising_is_diffusers_and_the_edm_scale_rule(xs):
    x0, eps, t = xs
    abar = SD.alphas_cumprod[t].double()
    x = maths.add_noise(x0, eps, abar)
    assert torch.allclose(x, SD.add_noise(x0, eps, t), atol=1e-6)
    sigma = maths.sigmas(abar).reshape(-1, 1, 1, 1)
    assert torch.allclose(x * (1 + sigma**2).sqrt(), x0 + sigma * eps, atol=1e-9)


def test_conversions_round_trip_and_agree_with_the_velocity_of_diffusers(xs):
    x0, eps, t = xs
    abar = SD.alphas_cumprod[t].double()
    x = maths.add_noise(x0, eps, abar)
    v = maths.eps_to_v(x, eps, abar)
    assert torch.allclose(v, SD.get_velocity(x0, eps, t), atol=1e-5)
    assert torch.allclose(maths.eps_to_x0(x, eps, abar), x0, atol=1e-9)
    assert torch.allclose(maths.x0_to_eps(x, x0, abar), eps, atol=1e-9)
    assert torch.allclose(maths.v_to_eps(x, v, abar), eps, atol=1e-9)
    assert torch.allclose(maths.v_to_x0(x, v, abar), x0, atol=1e-9)
    assert torch.allclose(maths.x0_to_v(x, x0, abar), v, atol=1e-9)


def test_error_weights_between_parameterisations(xs):
    x0, eps, t = xs
    abar = SD.alphas_cumprod[t].double()
    x = maths.add_noise(x0, eps, abar)
    other = eps + 0.1
    sigma, (a, b) = maths.sigmas(abar).reshape(-1, 1, 1, 1), maths.coefficients(abar, x)
    gap_x0 = maths.eps_to_x0(x, other, abar) - x0
    gap_v = maths.eps_to_v(x, other, abar) - maths.eps_to_v(x, eps, abar)
    assert torch.allclose(gap_x0**2, sigma**2 * 0.01 + 0 * x0, rtol=1e-6)
    assert torch.allclose(gap_x0**2, b**2 * gap_v**2, rtol=1e-6)
    assert torch.allclose(a**2 * gap_v**2, 0.01 + 0 * x0, rtol=1e-6)


def test_x0_and_the_step_are_the_scheduler_s(xs):
    x0, eps, t = xs
    x = maths.add_noise(x0, eps, SD.alphas_cumprod[t].double()).float()
    SD.set_timesteps(50)
    for row, step in enumerate((1 * 20, 25 * 20, 49 * 20)):
        out = SD.step(eps[row : row + 1].float(), step, x[row : row + 1])
        here, e = SD.alphas_cumprod[step], eps[row : row + 1].float()
        before = SD.alphas_cumprod[step - 20]
        clean = maths.eps_to_x0(x[row : row + 1], e, here)
        assert torch.allclose(clean, out.pred_original_sample, atol=1e-4)
        stepped = maths.ddim_step(x[row : row + 1], e, here, before)
        assert torch.allclose(stepped, out.prev_sample, atol=1e-5)


def test_guidance_is_the_same_in_every_space(xs):
    x0, eps, t = xs
    abar = SD.alphas_cumprod[t].double()
    x, other = maths.add_noise(x0, eps, abar), eps.flip(0)
    mixed = maths.guided(eps, other, 7.5)
    for there, back in ((maths.eps_to_x0, maths.x0_to_eps), (maths.eps_to_v, maths.v_to_eps)):
        same = maths.guided(there(x, eps, abar), there(x, other, abar), 7.5)
        assert torch.allclose(back(x, same, abar), mixed, atol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "levels"),
    [
        (LINEAR, {0: 0.01, 20: 0.0794, 38: 0.13726, 250: 0.95803, 440: 2.50233, 500: 3.44297,
                  625: 7.23254, 711: 13.0128, 979: 128.86, 999: 157.407}),
        (SD, {0: 0.02917, 20: 0.13799, 250: 0.6958, 500: 1.61828, 625: 2.50171, 979: 12.9663,
              999: 14.6146}),
    ],
)  # fmt: skip
def test_anchor_values_of_the_noise_level(scheduler, levels):
    sigma = maths.sigmas(scheduler.alphas_cumprod)
    assert (sigma.diff() > 0).all()
    for t, value in levels.items():
        assert sigma[t] == pytest.approx(value, rel=1e-3)
