"""DoCo, "Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept Preserving
Gradient" (Wu et al., AAAI 2025).

    u = X(eps*(z_t, c, t)),   v = X(eps_theta(z_t, c*, t)),   X(e) = (z_t - b e) / a

    L_D   = mean softplus(D(u)) + mean softplus(-D(v))                   descended by D
    L_adv = mean softplus(D(v))                                          descended by theta
    L_pre = mean( (eps_theta(z'_t', c', t') - eps')^2 )                  protected

c* is a prompt of the concept, c its anchor, z the latent of a picture of c that the original drew.
D tells predicted clean latents under anchors (logits below 0) from those under prompts of the concept
(above 0). theta follows the gradient of L_adv without what conflicts with that of L_pre (gradient
surgery), so what is learned holds for the distribution and not prompt by prompt.

The frozen side u, and v before theta has moved, are computed once as a pool. L_adv and L_pre live on
halves of their own, so each is differentiated before the next is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from ... import seeding
from ...errors import UsageError
from ...gradient_surgery import Gradients, Scope, Surgery, descend
from ...loop import LoopConfig, Run
from ...models import maths
from ...models.diffusion import DiffusionModel
from ...models.text import TextStates
from ...registry import Paper, register
from ...request import ConceptRequest
from ..base import AdversarialUnlearner, Erasure
from .patchgan import PatchGAN, blocks_for
from .pictures import Pictures, predicted, rewritings, some
from .retain import RetainPool, kept_prompts
from .selectors import Variant, select
from .start_token import start_token_detached

# A discriminator loss below LOW for WINDOW steps together is called a collapse.
LOW, WINDOW = 0.02, 100


@register("method", "doco")
class DoCo(AdversarialUnlearner):
    """Make concept and anchor one domain to a discriminator. Defaults are the README's for styles."""

    title: ClassVar[str] = "DoCo"
    family: ClassVar[str] = "diffusion"
    paper: ClassVar[Paper] = Paper(
        title="Unlearning Concepts in Diffusion Model via Concept Domain Correction and Concept"
        " Preserving Gradient",
        authors="Y. Wu, S. Zhou, M. Yang, L. Wang, H. Chang, W. Zhu, X. Hu, X. Zhou, X. Yang",
        arxiv="2405.15304",
        venue="AAAI 2025",
        repository="https://github.com/yongliang-wu/DoCo",
        deviations=(
            "The surgery is a projection; the published rule leaves out the factor |a| and turns"
            " small gradients round (surgery: reference).",
            "The discriminator's gradients of the student's turn are cleared; the published code"
            " adds them to its next step.",
            "The combined gradient is clipped once; the published code clips both before the"
            " surgery (so does surgery: reference).",
            "Frozen predictions come from a pool of `pool` states, made once.",
            "Latents below 64 x 64 get fewer halving blocks in the discriminator, so that its last"
            " map is never 1 x 1 before BatchNorm; below 16 x 16 it has one block and no BatchNorm.",
            "The head start is exactly head_start steps; the published code runs one more.",
            "Prompts, anchors and pictures as in concept_ablation, without augmentation.",
        ),
        cost="2 student passes a step after the head start, 1 without surgery; `pool` frozen"
        " predictions of each side and `pictures` pictures, once",
    )
    trial: ClassVar[dict[str, Any]] = {
        "steps": 2, "lr": 1e-3, "batch": 2, "pictures": 3, "sampler_steps": 2, "head_start": 1,
        "pool": 6,
    }  # fmt: skip
    idle: ClassVar[dict[str, Any] | None] = {"lr": 0.0}

    steps: int = Field(2000, ge=1, description="steps, those of the head start included")
    lr: float = Field(4.8e-5, ge=0, description="learning rate of the model")
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        "adamw", description="optimiser of the model"
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay of the model's optimiser")
    clip: float = Field(1.0, ge=0, description="largest gradient norm, 0 for no clipping")
    variant: Variant = Field("x-strict", description="tensors that train, x-strict for K and V")
    batch: int = Field(8, ge=1, description="latents in each half of a step")
    head_start: int = Field(
        1000, ge=0, description="first steps, in which the discriminator alone learns"
    )
    discriminator_lr: float = Field(
        5e-4, gt=0, description="rate of its Adam (betas 0.5, 0.999); objects 1e-4"
    )
    surgery: Literal["project", "none", "reference"] = Field(
        "project", description="take the conflict with L_pre out, do not, or the published rule"
    )
    scope: Scope = Field(
        "tensor", description="conflicts are found by tensor, or over all together"
    )
    lamb: float = Field(1.0, ge=0, description="lambda, how much of the conflict is taken out")
    preserve_weight: float = Field(
        0.0, ge=0, description="weight with which L_pre is descended too; published: 0"
    )
    gamma: float = Field(
        0.0, ge=0, description="weight of prompts to retain in L_pre; published: anchors alone"
    )
    retain: tuple[str, ...] | None = Field(
        None, description="these prompts; default the request's, without any that names the concept"
    )
    retain_batch: int = Field(8, ge=1, description="retain prompts in a step")
    retain_pool: int = Field(1024, ge=1, description="states of retain prompts, made once")
    anchor_model: str | None = Field(
        None,
        description="name or path of the original that draws and predicts anchors, when the model"
        " to edit was edited before; default the model itself",
    )
    timesteps: tuple[int, int] = Field(
        (0, 999), description="lowest and highest timestep at which clean latents are predicted"
    )
    pool: int = Field(2048, ge=1, description="states with their frozen predictions, made once")
    texts: Literal["all", "names", "captions"] = Field(
        "all", description="which of the request's prompts to unlearn"
    )
    pictures: int = Field(1000, ge=1, description="anchor pictures that the original draws")
    sampler_steps: int = Field(25, ge=1, description="DDIM steps of these pictures")
    guidance: float = Field(6.0, ge=0, description="guidance of these pictures")

    def trained(self, model: DiffusionModel) -> list[str]:
        return select(model, self.variant)

    def objective(self, model: DiffusionModel, requests: Sequence[ConceptRequest]) -> Erasure:
        return DoCoObjective(self, model, requests)

    @property
    def rule(self) -> Surgery:
        """The surgery in the terms of ``gradient_surgery``."""
        if self.surgery == "reference":
            return Surgery("reference", self.scope, self.lamb, self.clip)
        descends = "protect_and_descend" if self.preserve_weight else "protect"
        return Surgery("none" if self.surgery == "none" else descends, self.scope, self.lamb)


def check(s: DoCo, model: DiffusionModel) -> None:
    """Refuse settings that cannot work on a model, or that contradict one another.

    Raises:
        UsageError: in one sentence.
    """
    blocks_for(*model.latent_shape[1:])
    if s.head_start >= s.steps:
        raise UsageError(
            f"method doco: steps={s.steps} ends within the head start of {s.head_start} steps,"
            " in which the discriminator alone learns; raise steps or lower head_start."
        )
    low, high = s.timesteps
    levels = model.alphas_cumprod
    if not (0 <= low <= high < len(levels)) or levels[high] == 0:
        last = int((levels > 0).sum()) - 1
        raise UsageError(
            f"method doco: no clean latent can be predicted at all timesteps {low} to {high} of"
            f" {model.name}; give two numbers from 0 to {last}, the lower one first."
        )
    if s.gamma and s.surgery == "none" and not s.preserve_weight:
        raise UsageError(
            f"method doco: gamma={s.gamma:g} asks for prompts to retain, but with surgery=none and"
            " preserve_weight=0 nothing is protected; use surgery=project, or leave gamma out."
        )
    if s.surgery == "reference" and s.preserve_weight:
        raise UsageError(
            "method doco: the published rule (surgery=reference) does not descend L_pre; leave"
            " preserve_weight out, or use surgery=project."
        )


class DoCoObjective(Erasure):
    """The two players of DoCo.

    Attributes:
        discriminator: D.
        frozen: the pool: ``x``, ``t``, ``which``, ``real`` (u) and ``fake`` (v at the start).
        sides: u and v of the micro-batches of this step.
    """

    def __init__(self, settings: DoCo, model: DiffusionModel, requests: Sequence[ConceptRequest]):
        super().__init__(settings, model, requests)
        s = settings
        self.concepts, self.anchors = rewritings(requests, s.texts)
        check(s, model)
        self.protects = s.surgery != "none" or s.preserve_weight > 0
        self.retain: RetainPool | None = None
        self.kept = kept_prompts(model, requests, s.retain) if s.gamma else []
        self.sides: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.highest, self.warned = torch.zeros(()), False

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        s, teacher = self.settings, self.teacher
        original = self._original(device)
        anchors = original.encode_prompt(self.anchors)
        self.c, self.a = teacher.encode_prompt(self.concepts), teacher.encode_prompt(self.anchors)
        self.pictures = Pictures.draw(
            original, anchors, s.pictures, s.sampler_steps, s.guidance, s.seed
        )
        with seeding.seeded("doco", s.seed):
            self.discriminator = PatchGAN(*teacher.latent_shape).to(device)
            frozen = self.pictures.noised(s.pool, teacher.alphas_cumprod, s.timesteps)
            if s.gamma:
                self.retain = RetainPool.make(
                    original, self.kept, s.retain_pool, s.sampler_steps, s.guidance
                )
        frozen["real"] = self._clean(frozen, predicted(original, frozen, anchors[frozen["which"]]))
        if s.head_start:
            eps = predicted(teacher, frozen, self.c[frozen["which"]])
            frozen["fake"] = self._clean(frozen, eps)
        self.frozen = frozen
        self.gradients = Gradients(self.parameters().values(), 1 + self.protects)

    def _original(self, device: torch.device) -> DiffusionModel:
        """Who draws and predicts anchors."""
        name, teacher = self.settings.anchor_model, self.teacher
        if name is None:
            return teacher
        original = type(teacher).load(name, device)
        if original.latent_shape != teacher.latent_shape or not torch.equal(
            original.alphas_cumprod, teacher.alphas_cumprod
        ):
            raise UsageError(
                f"The anchor model {name} has other latents or noise levels than {teacher.name};"
                f" give the original that {teacher.name} was made from."
            )
        return original

    def _clean(self, state: dict[str, torch.Tensor], eps: torch.Tensor) -> torch.Tensor:
        """X(eps), the predicted clean latents."""
        return maths.eps_to_x0(state["x"], eps, self.teacher.alphas_cumprod[state["t"]])

    def optimizers(self, config: LoopConfig) -> dict[str, torch.optim.Optimizer]:
        s, own = self.settings, list(self.discriminator.parameters())
        adam = torch.optim.Adam(own, lr=s.discriminator_lr, betas=(0.5, 0.999))
        adam.param_groups[0]["lr_scale"] = s.discriminator_lr / config.lr if config.lr else 0.0
        return {**super().optimizers(config), "discriminator": adam}

    def step(self, step: int, run: Run) -> dict[str, torch.Tensor]:
        s, logged = self.settings, {}
        self.sides.clear()
        if step < s.head_start:
            for micro in range(run.config.accumulation):
                with run.randomness(step, micro):
                    state = some(self.frozen, s.batch)
                self.sides.append((state["real"], state["fake"]))
        else:
            losses = [self.adversarial, self.preserving][: 1 + self.protects]
            self.discriminator.requires_grad_(False)
            logged = descend(run, s.rule, self.gradients, run.optimizers["main"], losses, step)
            self.discriminator.requires_grad_(True)
        loss = self._discriminate(step, run)
        if step >= s.head_start:
            self._watch(loss, step)
        return {**logged, "discriminator_loss": loss}

    def adversarial(self, step: int) -> dict[str, torch.Tensor]:
        """L_adv on a batch of the pool; both sides are noted for the discriminator."""
        state = some(self.frozen, self.settings.batch)
        eps = self._student(state["x"], state["t"], self.c[state["which"]])
        fake = self._clean(state, eps)
        self.sides.append((state["real"], fake.detach()))
        return {"adversarial_loss": F.softplus(self.discriminator(fake)).mean()}

    def preserving(self, step: int) -> dict[str, torch.Tensor]:
        """L_pre on anchor pictures, and on prompts to retain."""
        s = self.settings
        weight = s.preserve_weight or 1.0  # a projection does not depend on it
        kept = self.pictures.noised(s.batch, self.teacher.alphas_cumprod)
        x, t, y, text = kept["x"], kept["t"], kept["eps"], self.a[kept["which"]]
        if self.retain is not None:
            more = self.retain.draw(s.retain_batch)
            x, t = torch.cat([x, more["x"]]), torch.cat([t, more["t"]])
            text = TextStates.cat([text, self.teacher.encode_prompt(more["prompts"])])
        eps, eps_r = self._student(x, t, text).tensor_split([len(y)])
        losses = {"preserve_loss": weight * (eps - y).square().mean()}
        if self.retain is not None:
            losses["retain_loss"] = weight * s.gamma * (eps_r - more["eps"]).square().mean()
        return losses

    def _student(self, x: torch.Tensor, t: torch.Tensor, text: TextStates) -> torch.Tensor:
        with start_token_detached(self.student):
            return self.student.predict_noise(x, t, text)

    def discriminator_loss(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """L_D; the label of anchors is 0, that of the concept 1."""
        d = self.discriminator
        return F.softplus(d(real)).mean() + F.softplus(-d(fake)).mean()

    def _discriminate(self, step: int, run: Run) -> torch.Tensor:
        """The discriminator's step on the sides of this step, and its loss."""
        losses = []
        for real, fake in self.sides:
            losses.append(self.discriminator_loss(real, fake))
            run.backward(losses[-1] / len(self.sides), step)
        run.apply(run.optimizers["discriminator"], self.discriminator.parameters(), clip=0.0)
        return torch.stack(losses).detach().mean()

    def _watch(self, loss: torch.Tensor, step: int) -> None:
        """Say once that the discriminator has won for good."""
        self.highest = torch.maximum(self.highest.to(loss.device), loss)
        if (step + 1 - self.settings.head_start) % WINDOW:
            return
        if not self.warned and float(self.highest) < LOW:
            self.warned = True
            warnings.warn(
                f"The discriminator's loss stayed below {LOW} for {WINDOW} steps: it tells concept"
                " and anchor apart whatever the model does, so the model learns little from it."
                " Lower discriminator_lr or head_start, or raise lr.",
                stacklevel=2,
            )
        self.highest = torch.zeros_like(loss)

    def state(self) -> dict[str, torch.Tensor]:
        """The discriminator: its optimiser is kept by the loop."""
        return {name: tensor.cpu() for name, tensor in self.discriminator.state_dict().items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.discriminator.load_state_dict(state)
