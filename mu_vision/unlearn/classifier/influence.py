"""IU, influence unlearning: one Newton-like step (Koh & Liang 2017; WoodFisher, Singh & Alistarh 2020).

    v       = n_f / N (g_f - g_r),   g_f, g_r mean gradients of CE over D_f and D_r at theta_o
    H       = I + 1/N_w sum over j of g_j g_j^T,   g_j gradients of N_w single samples of D_r
    theta_u = theta_o + alpha H^-1 v

v climbs the loss of D_f and descends that of D_r. H^-1 v comes from conjugate gradients on products
with all g_j at once, none of which is ever stored.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from ...data.labelled import Labelled
from ...models.classifier import Classifier
from ...models.predictor import PREFIX
from ...registry import Paper, register
from ..per_sample import LossVector, Tensors, conjugate_gradients
from .base import OneShotUnlearner


@register("method", "influence")
class InfluenceUnlearning(OneShotUnlearner):
    """Undo the forget set's influence by an inverse-Hessian step."""

    title: ClassVar[str] = "IU"
    stochastic: ClassVar[bool] = True
    paper: ClassVar[Paper] = Paper(
        title="WoodFisher: Efficient Second-Order Approximation for Neural Network Compression",
        authors="S. P. Singh, D. Alistarh",
        arxiv="2004.14340",
        venue="NeurIPS 2020",
        deviations=(
            "H^-1 v is solved exactly; the published unlearning code repeats the first sample's"
            " gradient in every step of its recursion.",
        ),
        cost="two passes over the data, and a few over N_w samples",
    )
    trial: ClassVar[dict[str, Any]] = {"alpha": 5.0, "samples": 16}
    idle: ClassVar[dict[str, Any] | None] = {"alpha": 0.0}

    alpha: float = Field(5.0, ge=0, description="step; published: 1 to 20")
    samples: int = Field(1000, ge=1, description="N_w, samples of D_r in H")
    tolerance: float = Field(1e-5, gt=0, description="of the solver's residual")

    def change(self, model, request) -> dict[str, Any]:
        device = model.device
        forget, retain = request.forget.to(device), request.retain.to(device)
        model.network.eval()
        g_f, g_r = mean_gradient(model, forget), mean_gradient(model, retain)
        share = len(forget) / (len(forget) + len(retain))
        v = {name: share * (g_f[name] - g_r[name]) for name in g_f}
        some = retain.take(torch.randperm(len(retain))[: self.samples])
        step, iterations = inverse_hessian_product(model, some, v, self.tolerance)
        for name, parameter in model.named_parameters().items():
            parameter.add_(self.alpha * step[name.removeprefix(f"{PREFIX}.")])
        return {"solver_steps": iterations}


def mean_gradient(model: Classifier, data: Labelled, batch: int = 1024) -> Tensors:
    """Mean gradient of CE over the data, in eval mode, by the network's own parameter names."""
    total: Tensors = {}
    for rows in torch.arange(len(data)).split(batch):
        part = data.take(rows)
        for name, grad in LossVector(model, part).mean_gradient().items():
            grad = grad * (len(part) / len(data))
            total[name] = total[name] + grad if name in total else grad
    return total


def inverse_hessian_product(
    model: Classifier, data: Labelled, v: Tensors, tolerance: float = 1e-5
) -> tuple[Tensors, int]:
    """(I + G^T G / N)^-1 v for the gradients G of N samples, and the solver's steps."""
    losses = LossVector(model, data)

    def hessian(x: Tensors) -> Tensors:
        product = losses.backward(losses.forward(x) / losses.count)
        return {name: x[name] + product[name] for name in x}

    return conjugate_gradients(hessian, v, tolerance)
