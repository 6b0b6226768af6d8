"""AdvUnlearn, "Defensive Unlearning with Adversarial Training" (Zhang et al., NeurIPS 2024), Eq. 3-7.

    attack   delta* = argmin over delta   mean( (eps_theta(x_t, TE_theta(c + delta), t) - e_c)^2 )
    l_esd    = mean( (eps_theta(x_t, TE_theta(c + delta*), t) - (e_0 - eta (e_c - e_0)))^2 )
    l_retain = mean( (eps_theta(x'_t, TE_theta(r), t') - eps*(x'_t, TE*(r), t'))^2 )
    L        = l_esd + gamma l_retain

c + delta: k adversarial token embeddings between the begin of text and the concept's tokens. e_c and
e_0 are the frozen model's predictions under the clean concept and the null prompt (the paper's
notation puts delta there too; its code does not). What is trained is the text encoder, so no
starting state and no frozen prediction depends on the training: they are made once, as pools. An
attack step is then one pass of the network where the published code denoises a picture first.
ESD with ``variant: text`` is the case ``attack: none, gamma: 0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from ... import seeding
from ...errors import UsageError
from ...models.diffusion import DiffusionModel
from ...models.text import TextStates
from ...registry import Paper, register
from ...request import ConceptRequest
from ..base import AdversarialUnlearner, Erasure
from .esd import ESD, ESDObjective
from .retain import RetainPool, kept_prompts
from .selectors import Variant, select_text


@register("method", "advunlearn")
class AdvUnlearn(ESD, AdversarialUnlearner):
    """ESD against an attacker that puts adversarial tokens before the concept. Paper's defaults."""

    title: ClassVar[str] = "AdvUnlearn"
    paper: ClassVar[Paper] = Paper(
        title="Defensive Unlearning with Adversarial Training for Robust Concept Erasure in"
        " Diffusion Models",
        authors="Y. Zhang, X. Chen, J. Jia, Y. Zhang, C. Fan, J. Liu, M. Hong, K. Ding, S. Liu",
        arxiv="2405.15234",
        venue="NeurIPS 2024",
        repository="https://github.com/OPTML-Group/AdvUnlearn",
        licence="MIT",
        deviations=(
            "The attack's gradient is cleared at every step and its last iterate is used"
            " (attack_compat: published sums gradients and drops the last step).",
            "The prompt is counted in tokens; the published code counts words and loses the end"
            " of concepts of several tokens.",
            "States, frozen predictions and retain states come from pools that are made once, and"
            " student passes are batched.",
            "Retain states have timesteps of their own, not that of the concept's state.",
            "layers=n trains exactly the first n layers; the published selector also takes"
            " layers 10 and 11.",
        ),
        cost="attack_steps + 1 passes with gradient a step, the last one with retain_batch more rows",
    )
    one_encoder: ClassVar[bool] = True
    trial: ClassVar[dict[str, Any]] = {
        "steps": 2, "lr": 1e-3, "sampler_steps": 4, "pool": 8, "clean_steps": 0, "attack_steps": 2,
        "retain_pool": 6, "retain_batch": 2,
    }  # fmt: skip

    variant: Variant = Field("text", description="tensors that train: text, or a U-Net variant")
    layers: int = Field(
        0,
        ge=0,
        description="train the first n layers of the text encoder alone; 0: all, and the norm",
    )
    rollout: Literal["student", "teacher"] = Field(
        "teacher", description="whose states to train on; student for U-Net variants (paper)"
    )
    gamma: float = Field(0.3, ge=0, description="weight of l_retain; paper: 0.3, style, object 0.5")
    retain: tuple[str, ...] | None = Field(
        None,
        description="prompts to keep; default the request's, without any that names the concept",
    )
    retain_batch: int = Field(5, ge=1, description="retain prompts in a step")
    retain_pool: int = Field(1024, ge=1, description="states of retain prompts, made once")
    attack: Literal["adam", "sign", "none"] = Field(
        "adam", description="K steps of Adam (AT), signed gradient steps (Fast AT: one), or none"
    )
    attack_steps: int = Field(30, ge=1, description="K")
    attack_lr: float = Field(1e-3, gt=0, description="alpha")
    tokens: int = Field(1, ge=1, description="k, adversarial token embeddings")
    prefixes: int = Field(1, ge=1, description="prefixes that are attacked side by side in a step")
    initial: Literal["random", "latest"] = Field(
        "random", description="start of delta: random tokens (paper), or the last delta"
    )
    radius: float = Field(0.0, ge=0, description="l2 ball around the start of delta; 0 for none")
    clean_steps: int = Field(200, ge=0, description="first steps without an attack (code only)")
    attack_compat: Literal["none", "published"] = Field(
        "none", description="published: sum gradients over attack steps and drop the last step"
    )

    def trained(self, model: DiffusionModel) -> list[str]:
        if self.variant == "text":
            return select_text(model, self.layers)
        if self.layers:
            raise UsageError(
                f"method {self.name}: layers={self.layers} chooses layers of the text encoder, but"
                f" variant={self.variant} trains the U-Net; leave one of the two out."
            )
        return super().trained(model)

    def objective(self, model: DiffusionModel, requests: Sequence[ConceptRequest]) -> Erasure:
        return AdvUnlearnObjective(self, model, requests)


class AdvUnlearnObjective(ESDObjective):
    """ESD's losses on the attacked prompt, and the retain term.

    Attributes:
        delta: [M, k, D], the prefixes of the last step.
    """

    def __init__(
        self, settings: AdvUnlearn, model: DiffusionModel, requests: Sequence[ConceptRequest]
    ):
        super().__init__(settings, model, requests)
        self.delta = torch.zeros(0)
        self.retain: RetainPool | None = None
        if settings.attack != "none":
            self._check_prompts(model)

    def _check_prompts(self, model: DiffusionModel) -> None:
        """See that a prefix fits before every prompt.

        Raises:
            UsageError: if the model reads labels or has two text encoders, or a prompt has no token.
        """
        if model.classes:
            raise UsageError(
                f"method {self.settings.name}: its attack puts tokens before a prompt, and"
                f" {model.name} reads labels; use attack=none, or another method."
            )
        _ = model.vocabulary  # refuses a model of two text encoders
        for prompt in self.concepts:
            if model.check_room(prompt, self.settings.tokens).count <= 2:
                raise UsageError(
                    f"The prompt {prompt!r} has no token, so there is nothing to erase; name the"
                    " concept in it."
                )

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        s = self.settings
        if s.gamma:
            prompts = kept_prompts(self.teacher, self.requests, s.retain)
            with seeding.seeded("retain-pool", s.seed):
                self.retain = RetainPool.make(
                    self.teacher, prompts, s.retain_pool, s.sampler_steps, s.start_guidance
                )

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        s, state, logged = self.settings, self._draw(), {}
        if s.attack != "none" and step >= s.clean_steps:
            # every prefix that was attacked is trained on
            rows = torch.arange(max(len(state["x"]), s.prefixes)) % len(state["x"])
            state = {name: tensor[rows.to(tensor.device)] for name, tensor in state.items()}
            self.delta, error = self._attack(state["which"].device)
            text = self._attacked_text(state["which"], self.delta)
            logged["attack_error"] = error
        else:
            text = self._student_text(state["which"], True)
        x, t = state["x"], state["t"]
        if self.retain is not None:
            kept = self.retain.draw(s.retain_batch)
            text = TextStates.cat([text, self._retain_text(kept)])
            x, t = torch.cat([x, kept["x"]]), torch.cat([t, kept["t"]])
        # both student branches go through the network as one batch
        eps, eps_r = self.student.predict_noise(x, t, text).tensor_split([len(state["x"])])
        losses = {"esd_loss": (eps - state["y"]).square().mean(), **logged}
        if self.retain is not None:
            losses["retain_loss"] = s.gamma * (eps_r - kept["eps"]).square().mean()
        return losses

    def _retain_text(self, kept: dict[str, Any]) -> TextStates:
        if self.settings.variant == "text":
            return self.student.encode_prompt_with_grad(kept["prompts"])
        return self.teacher.encode_prompt(kept["prompts"])

    def _attacked_text(self, which: torch.Tensor, delta: torch.Tensor) -> TextStates:
        """States of the prompts with prefix i mod M before prompt i."""
        rows = torch.arange(len(which), device=delta.device) % len(delta)
        prompts = [self.concepts[i] for i in which.tolist()]
        return self.student.encode_embeddings(self.student.insert(prompts, delta[rows]))

    def _attack(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """delta* [M, k, D] against the student as it is now, and its last error."""
        s = self.settings
        if s.initial == "latest" and len(self.delta):
            start = self.delta
        else:
            table = self.student.vocabulary.detach()
            start = table[torch.randint(len(table), (s.prefixes, s.tokens)).to(device)]
        optimizer = _AttackStep(s, start)
        for _ in range(s.attack_steps):
            state = self._draw_for_attack()
            error = self.attack_error(optimizer.delta, state)
            optimizer.step(torch.autograd.grad(error * s.prefixes, optimizer.delta)[0])
        return optimizer.result(), error.detach()

    def _draw_for_attack(self) -> dict[str, torch.Tensor]:
        """Fresh random states of the pool: an attack step never uses up the student's."""
        n = max(self.settings.batch, self.settings.prefixes)
        rows = torch.randint(len(self.pool["x"]), (n,)).to(self.teacher.device)
        return {name: tensor[rows] for name, tensor in self.pool.items() if name != "cursor"}

    def attack_error(self, delta: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """l_atk (Eq. 4): how far the student under c + delta is from the frozen model under c."""
        text = self._attacked_text(state["which"], delta)
        eps = self.student.predict_noise(state["x"], state["t"], text)
        return (eps - (state["e_0"] + state["d"])).square().mean()

    def state(self) -> dict[str, torch.Tensor]:
        """The pool, and the last prefixes, which ``initial: latest`` starts from."""
        return {**super().state(), "delta": self.delta.cpu()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        state = dict(state)
        self.delta = state.pop("delta").to(self.teacher.device)
        super().load_state(state)


class _AttackStep:
    """Moves delta against the attack's gradient, inside the ball if there is one."""

    def __init__(self, settings: AdvUnlearn, start: torch.Tensor):
        self.settings, self.start = settings, start.detach().clone()
        self.delta = self.start.clone().requires_grad_(True)
        self.before = self.start
        self.optimizer = torch.optim.Adam([self.delta], lr=settings.attack_lr)
        self.total = torch.zeros_like(self.start)

    @torch.no_grad()
    def step(self, gradient: torch.Tensor) -> None:
        s, self.before = self.settings, self.delta.detach().clone()
        if s.attack_compat == "published":
            gradient = self.total = self.total + gradient
        if s.attack == "sign":
            self.delta -= s.attack_lr * gradient.sign()
        else:
            self.delta.grad = gradient
            self.optimizer.step()
        if s.radius:
            moved = self.delta - self.start
            norm = moved.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1)
            self.delta.copy_(self.start + moved * (s.radius / norm).clamp(max=1))

    def result(self) -> torch.Tensor:
        last = self.before if self.settings.attack_compat == "published" else self.delta
        return last.detach()
