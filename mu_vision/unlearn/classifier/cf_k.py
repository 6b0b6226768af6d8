"""CF-k, "Towards Adversarial Evaluations for Inexact Machine Unlearning" (Goel et al., 2022).

    min over the last k layers, from theta_o,   E over D_r of CE(f_theta(x), y)

Layers are convolutions and linear layers, counted from the end; batch norms behind the first of them
learn too. Whatever is before stays as it is, running statistics included.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ...errors import UsageError
from ...models.classifier import Classifier
from ...models.predictor import PREFIX
from ...registry import Paper, register
from .base import ClassifierUnlearner


@register("method", "cf_k")
class CFk(ClassifierUnlearner):
    """Catastrophic forgetting of the last k layers: fine-tune them on the retain set."""

    title: ClassVar[str] = "CF-k"
    paper: ClassVar[Paper] = Paper(
        title="Towards Adversarial Evaluations for Inexact Machine Unlearning",
        authors="S. Goel, A. Prabhu, A. Sanyal, S.-N. Lim, P. Torr, P. Kumaraguru",
        arxiv="2201.06640",
        cost="epochs over D_r, backward through k layers",
    )

    k: int = Field(1, ge=1, description="layers, counted from the end")

    def last_layers(self, model: Classifier) -> list[str]:
        """Names of the modules with weights from the k-th last layer on.

        Raises:
            UsageError: if the network has fewer layers.
        """
        layers = model.layers()
        if self.k > len(layers):
            raise UsageError(
                f"method {self.name}: k={self.k}, but {model.name} has {len(layers)} layers."
            )
        modules = [n for n, m in model.network.named_modules() if m._parameters]
        # all layers are all of the network: tokens and norms before the first layer too
        first = 0 if self.k == len(layers) else modules.index(layers[-self.k])
        return modules[first:]

    def trained(self, model: Classifier) -> list[str]:
        inside = {f"{PREFIX}.{name}".rstrip(".") for name in self.last_layers(model)}
        return [name for name in model.named_parameters() if name.rpartition(".")[0] in inside]
