"""Boundary Expanding, "Boundary Unlearning" (Chen et al., CVPR 2023).

    f+ has one more output, the class of what is forgotten
    min over theta, from theta_o,   E over D_f of CE(f+_theta(x), K)

The extra output is dropped at the end; published ports keep it, and count what it takes as forgotten.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from ... import seeding
from ...errors import UsageError
from ...models.predictor import PREFIX
from ...registry import register
from .base import ClassifierErasure, ClassifierUnlearner
from .boundary_shrink import BOUNDARY


@register("method", "boundary_expanding")
class BoundaryExpanding(ClassifierUnlearner):
    """Move forgotten samples into a class of their own, then take that class away."""

    title: ClassVar[str] = "Boundary Expanding"
    paper: ClassVar = BOUNDARY

    lr: float = Field(1e-3, ge=0, description="learning rate")

    def objective(self, model, requests):
        return ExpandObjective(self, model, requests)


class ExpandObjective(ClassifierErasure):
    """Cross-entropy to the extra class."""

    def start(self) -> None:
        head = self._head()
        if not isinstance(head, nn.Linear):
            raise UsageError(
                f"method {self.settings.name}: the last layer of {self.student.name} is not linear."
            )
        with seeding.seeded("boundary-expanding", self.settings.seed):
            wide = nn.Linear(head.in_features, head.out_features + 1, head.bias is not None)
        wide = wide.to(head.weight.device)
        with torch.no_grad():
            wide.weight[:-1] = head.weight
            if head.bias is not None:
                wide.bias[:-1] = head.bias
        self._put(wide)
        # the extra row of a pruned head is alive
        for name, mask in self._head_masks().items():
            self.student.mask[name] = torch.cat([mask, torch.ones_like(mask[:1])])

    def _head(self) -> nn.Module:
        return self.student.network.get_submodule(self.student.layers()[-1])

    def _head_masks(self) -> dict[str, torch.Tensor]:
        start = f"{PREFIX}.{self.student.layers()[-1]}."
        return {name: m for name, m in self.student.mask.items() if name.startswith(start)}

    def _put(self, head: nn.Module) -> None:
        self.student.network.set_submodule(self.student.layers()[-1], head)

    def expand(self, x, y, rows):
        extra = torch.full_like(y, len(self.student.classes))
        return {"forget_loss": self.cross_entropy(x, extra, rows)["ce_loss"]}

    def passes(self, epoch):
        return [self.sweep("forget", self.forget, self.expand)]

    @torch.no_grad()
    def finish(self) -> None:
        wide = self._head()
        size = wide.in_features, wide.out_features - 1, wide.bias is not None
        head = nn.utils.skip_init(nn.Linear, *size)
        head = head.to(wide.weight.device)
        head.weight.copy_(wide.weight[:-1])
        if wide.bias is not None:
            head.bias.copy_(wide.bias[:-1])
        self._put(head)
        self.student.mask.update({name: mask[:-1] for name, mask in self._head_masks().items()})
