"""Blindspot unlearning (Tarun, Chundawat, Mandal & Kankanhalli, ICML 2023).

A blindspot model B, new and trained on D_r alone for a few epochs, shows M what not to know:

    L(i) = (1 - l_i) d(M(x_i), y_i) + l_i (d(M(x_i), B(x_i)) + lambda L_attn(i)),   l_i = 1 on D_f
    L_attn(i) = sum over layers j of mean over positions p of (a_j^M(x_i)[p] - a_j^B(x_i)[p])^2
    min over theta of M, from theta_o,   mean over mixed batches of D_f and D_r of L(i)

a_j is the attention map of layer j: the mean of squares over channels, of unit length over
positions. B is frozen then; what it says of D_f is computed once unless batches are augmented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from ...data.selectors import ForgetRequest
from ...errors import UsageError
from ...models.regressor import Regressor
from ...passes import Losses, Pass
from ...registry import Paper, register
from .base import RegressorErasure, RegressorUnlearner, deep_regression
from .retrain import Retrain, RetrainObjective


@register("method", "blindspot")
class Blindspot(RegressorUnlearner):
    """Answer as a model that hardly saw anything but the retain set, where D_f is asked."""

    title: ClassVar[str] = "Blindspot"
    paper: ClassVar[Paper] = deep_regression(
        "blind_epochs over D_r, one pass of B over D_f, epochs over D_f and D_r",
        (
            "The loss is per sample; the published mean over the forget and the retain part of a"
            " batch is the same number.",
            "The attention map of a vector is taken over its units; published, it is the constant 1"
            " and its loss 0. That of a sequence is taken over time, not over its units.",
        ),
    )
    trial: ClassVar[dict[str, Any]] = {"epochs": 1, "lr": 0.01, "blind_epochs": 1}

    epochs: int = Field(1, ge=1, description="E_u, epochs over D_f and D_r (paper's code: 1)")
    lr: float = Field(1e-3, ge=0, description="lr_u, learning rate of M")
    blind_epochs: int = Field(2, ge=1, description="E_b, epochs of B over D_r")
    blind_lr: float = Field(0.01, gt=0, description="lr_b, learning rate of B")
    blind_schedule: Literal["constant", "cosine", "step"] = Field(
        "constant", description="course of blind_lr (paper: constant in so few epochs)"
    )
    lam: float = Field(50.0, ge=0, description="lambda, weight of the attention loss")
    layers: tuple[str, ...] = Field(
        (), description="layers whose attention is compared; empty: the blocks of the network"
    )

    def objective(self, model: Regressor, requests: Sequence[ForgetRequest]) -> BlindspotObjective:
        return BlindspotObjective(self, model, requests)


class BlindspotObjective(RegressorErasure):
    """First B learns D_r, then M learns from B and from D_r; both within one run.

    Attributes:
        exposed: the training of B, a Retrain that is stopped early.
        exposure: steps of it, before the first of M.
        told: B's answers [N_f] on D_f and, by layer, its attention maps [N_f, P].
    """

    def __init__(self, settings: Blindspot, model: Regressor, requests: Sequence[ForgetRequest]):
        super().__init__(settings, model, requests)
        self.layers = model.check_layers(settings.layers) if settings.lam else ()
        retrain = Retrain(
            epochs=settings.blind_epochs, lr=settings.blind_lr, schedule=settings.blind_schedule,
            batch=settings.batch, seed=settings.seed,
        )  # fmt: skip
        self.exposed = RetrainObjective(retrain, model, requests)
        self.exposed.part = "blind"
        self.exposure = self.exposed.length()
        self.blind_course = retrain.loop_config(self.exposure)
        self.mixed = self.everything()
        self.told: Told | None = None

    def length(self) -> int:
        return self.exposure + super().length()

    def start(self) -> None:
        self.exposed.prepare(self.teacher.device)
        self.mixed = self.mixed.to(self.teacher.device)

    @property
    def blind(self) -> Regressor:
        """B."""
        return self.exposed.student

    def passes(self, epoch: int) -> list[Pass]:
        return [self.sweep("mixed", self.mixed, self.imitate)]

    def optimizers(self, config):
        return {**super().optimizers(config), **self.exposed.optimizers(config)}

    def step(self, step, run):
        if step >= self.exposure:
            # the course of lr is that of M alone
            own = replace(run.config, steps=run.config.steps - self.exposure)
            _set_rate(run.optimizers[self.part], own.lr_at(step - self.exposure))
            return super().step(step, run)
        _set_rate(run.optimizers[self.exposed.part], self.blind_course.lr_at(step))
        logged = self.exposed.step(step, run)
        self.exposed.after_step(step)
        return {"blind_loss": logged["error_loss"]}

    def loss(self, step: int) -> Losses:
        if self.told is None:
            self.blind.freeze()
            parts = [self.tell(x) for x in self.forget.x.split(512)] if not self.augment else []
            self.told = Told.joined(parts)
        return super().loss(step - self.exposure)

    @torch.no_grad()
    def tell(self, x: torch.Tensor) -> Told:
        """What B makes of a batch."""
        with self.blind.listening(self.layers) as heard:
            answers = self.blind.values(x)
        return Told(answers, {name: attention_map(heard[name]) for name in self.layers})

    def imitate(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor) -> Losses:
        """L(i), without a branch on what the batch holds."""
        with self.student.listening(self.layers) as heard:
            answers = self.student.values(x)
        # retain rows read a row that is then passed over
        told = self.tell(x) if self.augment else self.told.at(rows.clamp(max=len(self.forget) - 1))
        attention = sum(
            (attention_map(heard[name]) - told.maps[name]).square().mean(1) for name in self.layers
        )
        forget = self.errors(answers, told.answers) + self.settings.lam * attention
        losses = torch.where(rows < len(self.forget), forget, self.errors(answers, y))
        return {"blindspot_loss": losses.mean()}

    def state(self) -> dict[str, torch.Tensor]:
        blind = {f"blind.{n}": t.cpu() for n, t in self.blind.network.state_dict().items()}
        return {**super().state(), **blind}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        super().load_state(state)
        blind = {n.removeprefix("blind."): t for n, t in state.items() if n.startswith("blind.")}
        self.blind.network.load_state_dict(blind)


def _set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@dataclass(frozen=True)
class Told:
    """Answers [N] of B and, by layer, its attention maps [N, P]."""

    answers: torch.Tensor
    maps: dict[str, torch.Tensor]

    @classmethod
    def joined(cls, parts: Sequence[Told]) -> Told | None:
        """One after the other; None of none."""
        if not parts:
            return None
        maps = {name: torch.cat([part.maps[name] for part in parts]) for name in parts[0].maps}
        return cls(torch.cat([part.answers for part in parts]), maps)

    def at(self, rows: torch.Tensor) -> Told:
        return Told(self.answers[rows], {name: a[rows] for name, a in self.maps.items()})


def attention_map(activation: torch.Tensor) -> torch.Tensor:
    """The attention map [B, P] of activations: mean of squares over channels, of length 1.

    Positions are pixels of [B, C, H, W], times of [B, T, D], and the units of [B, D] themselves.

    Raises:
        UsageError: if the activations have another number of axes.
    """
    squares = activation.float().square()  # half precision would overflow
    if squares.ndim == 4:
        squares = squares.mean(1).flatten(1)
    elif squares.ndim == 3:
        squares = squares.mean(2)
    elif squares.ndim != 2:
        raise UsageError(
            f"Activations of shape {list(squares.shape)} have no attention map; name layers that give"
            " [B, C, H, W], [B, T, D] or [B, D]."
        )
    return F.normalize(squares, dim=1)
