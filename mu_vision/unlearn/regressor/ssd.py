"""SSD, selective synaptic dampening (Foster, Schoepf & Brintrup, AAAI 2024), on a regressor.

    I_D, I_f = E over D (the whole training set), over D_f of (d d(f(x), y) / d theta)^2
    theta_i <- min(l I_D / I_f, 1) theta_i   where I_f > a I_D

The slope of an absolute error has the same size for every sample, so its importances need no
targets: they are E of (d f / d theta)^2.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from ...registry import Paper, register
from ..per_sample import dampen, mean_square_gradients
from .base import OneShotRegressorUnlearner


@register("method", "ssd")
class SSD(OneShotRegressorUnlearner):
    """Dampen the weights that matter more for the forget set than for all data."""

    paper: ClassVar[Paper] = Paper(
        title="Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
        authors="J. Foster, S. Schoepf, A. Brintrup",
        arxiv="2308.07707",
        venue="AAAI 2024",
        repository="https://github.com/if-loops/selective-synaptic-dampening",
        deviations=(
            "The error of a regressor takes the place of cross-entropy.",
            "Importances are of single samples; the published squares of batch means depend on the"
            " batch size.",
        ),
        cost="one gradient a sample of D and of D_f",
    )
    trial: ClassVar[dict[str, Any]] = {"alpha": 0.5}
    idle: ClassVar[dict[str, Any] | None] = {"alpha": 1e12}

    alpha: float = Field(3.0, ge=0, description="a, selects; it has a sharp threshold")
    lam: float = Field(1.0, ge=0, description="l, dampens")
    chunk: int = Field(64, ge=1, description="samples whose gradients are held at once")

    def change(self, model, request) -> dict[str, Any]:
        whole = mean_square_gradients(model, request.known.to(model.device), self.chunk)
        forget = mean_square_gradients(model, request.forget.to(model.device), self.chunk)
        return dampen(model, whole, forget, self.alpha, self.lam)
