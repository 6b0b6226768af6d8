"""Masks of single weights: which may change, and putting back those that may not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F


def largest(size: torch.Tensor, density: float) -> torch.Tensor:
    """[P] bool: exactly floor(density P) of the largest (at least 1); of equal ones the first."""
    count = max(1, int(density * len(size)))
    least = size.kthvalue(len(size) - count + 1).values
    chosen = size > least
    ties = (size == least).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def salient(gradients: Mapping[str, torch.Tensor], density: float) -> dict[str, torch.Tensor]:
    """{name: bool} of the largest absolute gradients, ranked over all tensors together."""
    chosen = largest(torch.cat([g.abs().flatten() for g in gradients.values()]), density)
    parts = chosen.split([g.numel() for g in gradients.values()])
    return {name: part.view_as(gradients[name]) for name, part in zip(gradients, parts)}


@torch.no_grad()
def restore(
    parameters: Mapping[str, torch.Tensor],
    masks: Mapping[str, torch.Tensor],
    initial: Mapping[str, torch.Tensor],
) -> None:
    """Give every weight that may not change its initial value, bit for bit.

    Momentum and weight decay move weights without a gradient, so masking gradients is not enough.

    Args:
        parameters: what was trained, changed in place.
        masks: {name: bool}, True where a weight may change; broadcast over the weights.
        initial: the values to go back to.
    """
    for name, mask in masks.items():
        parameters[name].copy_(torch.where(mask, parameters[name], initial[name]))


@torch.no_grad()
def shrink(
    parameters: Mapping[str, torch.Tensor], initial: Mapping[str, torch.Tensor], count: int
) -> None:
    """Soft threshold on the change of the weights: the ``count`` smallest changes become 0.

        theta = theta_o + sign(delta) max(|delta| - tau, 0),   tau the count-th smallest |delta|

    Args:
        parameters: what was trained, changed in place.
        initial: theta_o of each.
        count: weights that go back, over all tensors together; 0 changes nothing.
    """
    if count < 1:
        return
    deltas = {name: parameter - initial[name] for name, parameter in parameters.items()}
    sizes = torch.cat([delta.abs().flatten() for delta in deltas.values()])
    tau = float(sizes.kthvalue(min(count, len(sizes))).values)
    for name, delta in deltas.items():
        parameters[name].copy_(initial[name] + F.softshrink(delta, tau))
