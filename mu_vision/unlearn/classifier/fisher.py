"""FF, Fisher forgetting (Golatkar, Achille & Soatto, CVPR 2020): noise where D_r does not mind.

    F_i      = E over D_r of sum over y of p(y | x) (d log p(y | x) / d theta_i)^2
    theta_i <- theta_i + sqrt(v_i) n,   v_i = alpha min(1 / (F_i + 1e-8), 1e3),   n normal

v is at most 1e2 in the output layer, is averaged over the inputs of a unit, and counts tenfold in
vectors and in the output layer. A class that is forgotten whole loses its row of the output layer.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from ...models.predictor import PREFIX
from ...registry import Paper, register
from ..per_sample import fisher_diagonal
from .base import OneShotUnlearner


@register("method", "fisher")
class FisherForgetting(OneShotUnlearner):
    """Gaussian noise on the weights, scaled by the inverse Fisher information of the retain set."""

    title: ClassVar[str] = "FF"
    stochastic: ClassVar[bool] = True
    paper: ClassVar[Paper] = Paper(
        title="Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
        authors="A. Golatkar, A. Achille, S. Soatto",
        arxiv="1911.04933",
        venue="CVPR 2020",
        deviations=(
            "The Fisher information is of single samples, so alpha does not carry over from code"
            " that squares batch means.",
            "A class's output row is wiped if none of its samples is kept; published code guesses it"
            " from the number of samples.",
        ),
        cost="one gradient for each class and sample of D_r",
    )
    trial: ClassVar[dict[str, Any]] = {"alpha": 1e-4}
    idle: ClassVar[dict[str, Any] | None] = {"alpha": 0.0}

    alpha: float = Field(1e-7, ge=0, description="scale of the variance")
    chunk: int = Field(64, ge=1, description="samples whose gradients are held at once")

    def change(self, model, request) -> dict[str, Any]:
        fisher = fisher_diagonal(model, request.retain.to(model.device), self.chunk)
        head, size = f"{model.layers()[-1]}.", 0.0
        wiped = [request.splits.classes.index(name) for name in request.whole]
        for name, parameter in model.named_parameters().items():
            own = name.removeprefix(f"{PREFIX}.")
            output = own.startswith(head)
            v = self.variance(fisher[own], output)
            if output and wiped and self.alpha:
                parameter[wiped], v[wiped] = 0.0, 1e-4
            # drawn on the CPU: the same noise on every device
            noise = torch.randn(parameter.shape).to(parameter.device)
            parameter.add_(v.sqrt() * noise)
            size += float(v.sum())
        return {"noise_norm": size**0.5}

    def variance(self, fisher: torch.Tensor, output: bool) -> torch.Tensor:
        """The variance v of one parameter's Fisher information, of its shape."""
        v = (1 / (fisher + 1e-8)).clamp(max=1e2 if output else 1e3) * self.alpha
        if v.ndim > 1:
            v = v.mean(1, keepdim=True).expand_as(v)
        return (10 * v if output or v.ndim == 1 else v).clone()
