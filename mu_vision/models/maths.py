"""Conversions between what diffusion networks predict, in the variance-preserving convention.

    x_t = a x0 + b eps,   a = sqrt(abar_t),  b = sqrt(1 - abar_t),   v = a eps - b x0,   sigma = b / a

x_t, x0, eps and v are [B, ...]; ``abar`` is a scalar tensor or [B] and is broadcast over the rest.
"""

from __future__ import annotations

import torch


def coefficients(abar: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(a, b), shaped to broadcast over ``like`` [B, ...], in its dtype and on its device."""
    abar = abar.to(like.device, like.dtype).reshape(-1, *(1,) * (like.ndim - 1))
    return abar.sqrt(), (1 - abar).sqrt()


def sigmas(abar: torch.Tensor) -> torch.Tensor:
    """Noise level in EDM units, sqrt((1 - abar) / abar)."""
    return ((1 - abar) / abar).sqrt()


def add_noise(x0: torch.Tensor, eps: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    a, b = coefficients(abar, x0)
    return a * x0 + b * eps


def eps_to_x0(x: torch.Tensor, eps: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    a, b = coefficients(abar, x)
    return (x - b * eps) / a


def x0_to_eps(x: torch.Tensor, x0: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    a, b = coefficients(abar, x)
    return (x - a * x0) / b


def eps_to_v(x: torch.Tensor, eps: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    a, b = coefficients(abar, x)
    return (eps - b * x) / a


def v_to_eps(x: torch.Tensor, v: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    a, b = coefficients(abar, x)
    return a * v + b * x


def v_to_x0(x: torch.Tensor, v: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    a, b = coefficients(abar, x)
    return a * x - b * v


def x0_to_v(x: torch.Tensor, x0: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    a, b = coefficients(abar, x)
    return (a * x - x0) / b


def guided(null: torch.Tensor, cond: torch.Tensor, guidance: float) -> torch.Tensor:
    """Classifier-free guidance; the weights sum to 1, so it holds for eps, x0 and v alike."""
    return null + guidance * (cond - null)


def ddim_step(
    x: torch.Tensor, eps: torch.Tensor, abar: torch.Tensor, abar_prev: torch.Tensor
) -> torch.Tensor:
    """One deterministic DDIM step (eta 0): a_prev x0_hat + b_prev eps."""
    return add_noise(eps_to_x0(x, eps, abar), eps, abar_prev)
