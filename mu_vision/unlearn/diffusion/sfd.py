"""SFD, "Score Forgetting Distillation" (Chen et al., ICLR 2025): forget while distilling.

    L_psi   = E_{c_r} |eps_psi(x_t, t, c_r) - e|^2 + lambda E |eps_psi(x_t, t, c_f) - e|^2
    L_theta = E_{c_r} ell(c_r, c_r) + mu E ell(c_o, c_f)

A teacher phi becomes a one-step generator theta; psi follows the score of what theta draws
(``distillation.py`` has the losses). On what is to be forgotten, theta and psi are asked for c_f
and the teacher for the safe condition c_o, so theta learns to draw c_o where c_f is asked for. c_r
are the classes that stay, or prompts without the concept. No picture is read.

The result draws in one evaluation of the network. phi is always the original model, also when theta
starts from a distilled generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from ...distillation import Conditions, Distillation, ScoreSettings
from ...errors import UsageError
from ...models.denoiser import Denoiser
from ...registry import Paper, register
from ...request import ConceptRequest
from ..base import AdversarialUnlearner, Unlearned, concept_texts
from .retain import kept_classes, kept_prompts
from .selectors import select


@register("method", "sfd")
class SFD(ScoreSettings, AdversarialUnlearner):
    """Score Forgetting Distillation: a one-step generator that draws a safe class instead.

    Defaults are those of the published label-conditional code.
    """

    title: ClassVar[str] = "SFD"
    family: ClassVar[str] = "diffusion"
    paper: ClassVar[Paper] = Paper(
        title="Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning in"
        " Diffusion Models",
        authors="T. Chen, S. Zhang, M. Zhou",
        arxiv="2409.11219",
        venue="ICLR 2025",
        repository="https://github.com/tqch/score-forgetting-distillation",
        deviations=(
            "The teacher stays the original model when theta starts from a distilled generator;"
            " the published code puts the fake score network in its place.",
            "psi alone is trained for a while when theta starts distilled.",
            "The moving average has a warm-up; without one it is mostly the teacher for thousands"
            " of steps, and hides what was forgotten.",
            "Noise levels are stated as sigma and looked up in the model's schedule.",
            "The losses are in terms of noise, equal in value and gradient, and both sets of rows"
            " go through each network as one batch.",
            "No network runs with dropout; weights stay float32.",
        ),
        cost="about 11 evaluations' worth of the network a row and step, backward passes included",
    )
    trial: ClassVar[dict[str, Any]] = {"steps": 2, "lr": 1e-3, "batch": 2}
    idle: ClassVar[dict[str, Any] | None] = {"lr": 0.0}

    steps: int = Field(50_000, ge=1, description="steps, each of psi and then of theta")
    lr: float = Field(1e-5, ge=0, description="learning rate of theta")
    optimizer: Literal["adam"] = Field("adam", description="Adam with beta1 0, for both networks")
    psi_weight: float = Field(0.01, ge=0, description="lambda: weight of c_f in psi's loss")
    theta_weight: float = Field(0.01, ge=0, description="mu: weight of c_f in theta's loss")
    texts: Literal["all", "names", "captions"] = Field(
        "all", description="which of the request's prompts are c_f (text-to-image)"
    )
    retain: tuple[str, ...] = Field(
        (), description="c_r of text-to-image; default the request's kept texts, or objects' names"
    )

    def trained(self, model: Denoiser) -> list[str]:
        return select(model, "full")

    def objective(self, model: Denoiser, requests: Sequence[ConceptRequest]) -> Distillation:
        pairs, kept = self.asked(model, requests)

        def conditions(teacher: Denoiser) -> Conditions:
            retain = teacher.encode_prompt(kept)
            if self.psi_weight == self.theta_weight == 0:
                return Conditions(retain)
            forget, safe = (teacher.encode_prompt(side) for side in zip(*pairs, strict=True))
            return Conditions(retain, forget, safe, self.psi_weight, self.theta_weight)

        return Distillation(self, model, self.trained(model), conditions)

    def asked(
        self, model: Denoiser, requests: Sequence[ConceptRequest]
    ) -> tuple[list[tuple[str, str]], list[str]]:
        """The pairs (c_f, c_o), and the conditions c_r to keep.

        Raises:
            UsageError: if a concept is its own safe one, or nothing is left to keep.
        """
        pairs, _ = concept_texts(requests, self.texts)
        if model.classes:
            pairs = [(model.class_of(p) or "", model.class_of(a) or "") for p, a in pairs]
            pairs = list(dict.fromkeys(pairs))
            erased = {forget for forget, _ in pairs}
            kept = kept_classes(model, requests)
        else:
            erased = {forget for forget, safe in pairs if forget == safe}
            kept = kept_prompts(model, requests, self.retain or None)
        for forget, safe in pairs:
            if safe in erased:
                raise UsageError(
                    f"method sfd: {safe!r} is to take the place of {forget!r} and is to be forgotten"
                    " itself; give a safe class or text as the request's anchor."
                )
        if not kept:
            raise UsageError("method sfd: every class is to be forgotten, so none is left to draw.")
        return pairs, kept

    def _trained(self, objective: Distillation, config, model, requests, folder: Path | None):
        done: Unlearned = super()._trained(objective, config, model, requests, folder)
        report = {
            **done.report,
            "t_init": objective.t_init,
            "timesteps": list(objective.t_range),
            "retained": len(objective.conditions.retain),
            "evaluations": self.generator_steps,
        }
        return replace(done, model=objective.result(), report=report)
