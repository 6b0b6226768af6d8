"""SalUn for diffusion, "Empowering Machine Unlearning via Gradient-based Weight Saliency in Both
Image Classification and Generation" (Fan et al., ICLR 2024).

    m_S     = 1[ |grad over theta of E over D_f of l_MSE| at theta_o is among the largest d P of P ]
    theta_u = m_S (theta_o + delta) + (1 - m_S) theta_o
    L       = E mean( (eps_u(x_t, c, t) - sg eps_u(x_t, c', t))^2 ) + alpha E over D_r of l_MSE

D_f are pictures of the concept under their texts c, D_r pictures of what is kept under theirs; the
original draws both. c' is another text, l_MSE the mean squared error of the predicted noise. Both
predictions of a pair are at the same x_t. Weights outside the mask stay theta_o bit for bit: they
are restored after every step, because momentum and weight decay move them without a gradient.

Only the verbs of a model are used, so a model of labels is edited as one of prompts is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from ... import seeding
from ...models.diffusion import DiffusionModel
from ...registry import Paper, register
from ...request import ConceptRequest
from ..base import Erasure, GradientUnlearner
from ..saliency import restore, salient
from .pictures import Pictures, predicted, rewritings, some
from .retain import kept_prompts
from .selectors import Variant, select


@register("method", "salun")
class SalUn(GradientUnlearner):
    """Give the concept another text's prediction, on the weights that matter for it.

    Defaults are the README's for classes.
    """

    title: ClassVar[str] = "SalUn"
    family: ClassVar[str] = "diffusion"
    paper: ClassVar[Paper] = Paper(
        title="SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image"
        " Classification and Generation",
        authors="C. Fan, J. Liu, Y. Zhang, E. Wong, D. Wei, S. Liu",
        arxiv="2310.12508",
        venue="ICLR 2024",
        repository="https://github.com/OPTML-Group/Unlearn-Saliency",
        licence="MIT",
        deviations=(
            "The pictures of both sets are the original's own; for nudity the published code does"
            " so too.",
            "Both predictions of a pair are at the same noisy latent; the published code encodes"
            " each picture twice.",
            "Batches count by their size in the saliency; the published sum counts them alike.",
            "The saliency is that of the paper's loss; the published code reads it under guidance"
            " 8.5 (mask_guidance=8.5).",
            "The mask ranks the tensors that train, not the whole network.",
            "Frozen weights are restored after every step (published code does since 2026).",
        ),
        cost="a gradient over D_f; then 1 target pass and 1 student pass with retain rows a step;"
        " 2 x `pictures` pictures drawn once",
    )
    trial: ClassVar[dict[str, Any]] = {
        "steps": 2, "lr": 1e-3, "batch": 2, "pictures": 4, "sampler_steps": 2,
    }  # fmt: skip
    idle: ClassVar[dict[str, Any] | None] = {"lr": 0.0}

    steps: int = Field(500, ge=1, description="optimiser steps")
    variant: Variant = Field("full", description="tensors that train; the paper also has x")
    density: float = Field(0.5, gt=0, le=1, description="share of their weights that may change")
    mask_guidance: float = Field(
        1.0, ge=0, description="guidance under which the saliency is read; published code 8.5"
    )
    relabel: Literal["anchor", "random"] = Field(
        "anchor", description="c': the request's anchor (paper: one fixed text), or any kept text"
    )
    teacher: Literal["self", "frozen"] = Field(
        "self",
        description="who predicts under c': the network as it is now (paper), or the original",
    )
    states: int = Field(
        1024, ge=1, description="most noisy latents whose frozen targets are computed beforehand"
    )
    antithetic: bool = Field(
        False,
        description="noise half of a batch (of the states, if the teacher is frozen) at T - 1 - t of"
        " the other half's t; published for class-conditional models",
    )
    alpha: float = Field(
        0.5, ge=0, description="weight of the loss on D_r; nudity 0.1, 0 for no such loss"
    )
    retain: tuple[str, ...] | None = Field(
        None, description="texts of D_r; default the request's, without any that names the concept"
    )
    texts: Literal["all", "names", "captions"] = Field(
        "all", description="which of the request's prompts to unlearn"
    )
    batch: int = Field(8, ge=1, description="pictures of each set in a step")
    pictures: int = Field(800, ge=1, description="pictures that the original draws of each set")
    sampler_steps: int = Field(50, ge=1, description="DDIM steps of these pictures")
    guidance: float = Field(7.5, ge=0, description="guidance of these pictures")

    def trained(self, model: DiffusionModel) -> list[str]:
        return select(model, self.variant)

    def objective(self, model: DiffusionModel, requests: Sequence[ConceptRequest]) -> Erasure:
        return SalUnObjective(self, model, requests)


class SalUnObjective(Erasure):
    """Losses of SalUn, and its mask.

    Attributes:
        prompts: texts of D_f, then as many anchors, then texts of D_r.
        saliency: {parameter: bool}, True where it may change.
    """

    def __init__(self, settings: SalUn, model: DiffusionModel, requests: Sequence[ConceptRequest]):
        super().__init__(settings, model, requests)
        concepts, anchors = rewritings(requests, settings.texts)
        needed = settings.alpha or settings.relabel == "random"
        kept = kept_prompts(model, requests, settings.retain) if needed else []
        self.pairs, self.prompts = len(concepts), [*concepts, *anchors, *kept]

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        s, teacher, n = self.settings, self.teacher, self.pairs
        self.texts = teacher.encode_prompt(self.prompts)

        def draw(rows: range) -> Pictures:
            text = self.texts[torch.tensor(rows)]
            return Pictures.draw(teacher, text, s.pictures, s.sampler_steps, s.guidance, s.seed)

        self.forget = draw(range(n))
        if s.alpha:
            self.kept = draw(range(2 * n, len(self.prompts)))
        with seeding.seeded("salun", s.seed):
            self.saliency = salient(self._gradients(), s.density)
            if s.teacher == "frozen":
                size = min(s.states, s.steps * s.batch * s.accumulation)
                self.frozen = self._relabelled(size)
                text = self.texts[self.frozen["to"]]
                self.frozen["y"] = predicted(teacher, self.frozen, text)

    def _gradients(self) -> dict[str, torch.Tensor]:
        """Gradient of the denoising loss over D_f, the mean over pictures, at one t of each."""
        s, parameters = self.settings, self.parameters()
        abar, null = self.teacher.alphas_cumprod, self.teacher.null_text()
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for rows in torch.arange(len(self.forget.z)).split(s.batch):
            state = self.forget.at(rows, abar)
            text = self.texts[state["which"]]
            eps = self.student.guided_noise(state["x"], state["t"], text, null, s.mask_guidance)
            loss = (eps - state["eps"]).square().mean() * len(rows) / len(self.forget.z)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(total, found, strict=True):
                if gradient is not None:
                    total[name] += gradient
        return total

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        s, state = self.settings, self._states()
        x, t, which = state["x"], state["t"], state["which"]
        if s.alpha:
            kept = self.kept.noised(s.batch, self.teacher.alphas_cumprod, antithetic=s.antithetic)
            x, t = torch.cat([x, kept["x"]]), torch.cat([t, kept["t"]])
            which = torch.cat([which, 2 * self.pairs + kept["which"]])
        # the student's branches go through the network as one batch
        eps = self.student.predict_noise(x, t, self.texts[which])
        eps, eps_r = eps.tensor_split([len(state["x"])])
        losses = {"forget_loss": (eps - state["y"]).square().mean()}
        if s.alpha:
            losses["retain_loss"] = s.alpha * (eps_r - kept["eps"]).square().mean()
        return losses

    def _states(self) -> dict[str, torch.Tensor]:
        """A batch of noised pictures of D_f with ``y``, the prediction under c'."""
        if self.settings.teacher == "frozen":
            return some(self.frozen, self.settings.batch)
        state = self._relabelled(self.settings.batch)
        text = self.texts[state["to"]]
        with torch.no_grad():
            return {**state, "y": self.student.predict_noise(state["x"], state["t"], text)}

    def _relabelled(self, n: int) -> dict[str, torch.Tensor]:
        """N noised pictures of D_f with ``to``, the position of c' among the prompts."""
        abar, antithetic = self.teacher.alphas_cumprod, self.settings.antithetic
        state = self.forget.noised(n, abar, antithetic=antithetic)
        if self.settings.relabel == "anchor":
            return {**state, "to": state["which"] + self.pairs}
        to = torch.randint(2 * self.pairs, len(self.prompts), (n,))
        return {**state, "to": to.to(state["which"].device)}

    def after_step(self, step: int) -> None:
        initial = self.teacher.named_parameters()
        restore(self.student.named_parameters(), self.saliency, initial)
        super().after_step(step)
