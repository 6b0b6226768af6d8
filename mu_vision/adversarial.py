"""A generator against a discriminator, under the one loop: what training and unlearning share.

    L_D = mean softplus(-D(x)) + mean softplus(D(G(z)))            x real, D a logit
    R1  = r1/2 E |grad_x D(x)|^2                                   every ``r1_every`` steps
    L_G = mean softplus(-D(G(z)))                                  non-saturating
    PL  = path E (|J_w' y| - a)^2,  y ~ N(0, I) / sqrt(H W)        every ``path_every`` steps

(Goodfellow et al. 2014; Mescheder et al. 2018, arXiv 1801.04406; Karras et al. 2020, arXiv
1912.04958.) The regularisers are lazy: a step of their own, weighted by their interval. The
generator that counts is the moving average of the trained one.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import nn

from .data.diffaugment import Policy, augment
from .loop import LoopConfig, Objective, Run, summed
from .models.gan import Gan

DECAY = 0.01  # of the running mean of path lengths


class GameSettings(BaseModel):
    """Settings of the game, for trainers and unlearners."""

    batch: int = Field(16, ge=1, description="real and generated pictures a step")
    r1: float = Field(10.0, ge=0, description="weight of R1")
    r1_every: int = Field(16, ge=1, description="steps between two R1 steps")
    path: float = Field(2.0, ge=0, description="weight of the path length regulariser")
    path_every: int = Field(4, ge=1, description="steps between two path length steps")
    mixing: float = Field(0.9, ge=0, le=1, description="share of batches with two styles a picture")
    average: float = Field(
        0.5 ** (32 / 10000), ge=0, lt=1, description="decay of the generator's moving average"
    )
    augment: tuple[Policy, ...] = Field((), description="differentiable augmentation, in order")


def critic_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Logistic loss of the discriminator from logits of real and generated pictures."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(logits: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of |grad_x D(x)|^2, summed over the pixels of a picture."""
    (gradient,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def path_lengths(pictures: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[B]: |J_w' y| of each picture, y random; mean over layers of the squared norms, rooted.

    Args:
        pictures: [B, C, H, W], drawn from ``w``.
        w: [B, layers, latent], requires grad.
    """
    y = torch.randn(pictures.shape).to(pictures.device) / math.sqrt(pictures[0, 0].numel())
    (gradient,) = torch.autograd.grad((pictures * y).sum(), w, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


class Game(Objective):
    """Trains both networks of ``self.student``; a subclass says what counts as real.

    Attributes:
        rules: the settings.
        student: the GAN that is trained.
        averaged: moving average of its generator.
        mean_path: running mean of path lengths.
    """

    rules: GameSettings
    student: Gan
    averaged: nn.Module
    mean_path: torch.Tensor

    def start(self) -> None:
        """Call once the student is on its device."""
        self.averaged = copy.deepcopy(self.student.generator).requires_grad_(False)
        self.mean_path = torch.zeros((), device=self.student.device)

    def real(self, count: int) -> torch.Tensor:
        """[count, C, S, S] pictures that count as real, on the device; global randomness."""
        raise NotImplementedError

    def critic_objective(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """What the discriminator descends, from real and generated pictures."""
        critic, policies = self.student.discriminator, self.rules.augment
        return critic_loss(critic(augment(real, policies)), critic(augment(fake, policies)))

    def extra_losses(self, step: int) -> dict[str, torch.Tensor]:
        """Further losses of the generator, on its adversarial step alone."""
        return {}

    def generated(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures with fresh noise, and the styles that they were drawn from."""
        generator, device = self.student.generator, self.student.device
        w = generator.map(torch.randn(count, generator.latent).to(device))
        if generator.layers > 1 and self.rules.mixing and float(torch.rand(())) < self.rules.mixing:
            other = generator.map(torch.randn(count, generator.latent).to(device))
            crossing = int(torch.randint(1, generator.layers, ()))
            w = torch.cat([w[:, :crossing], other[:, crossing:]], 1)
        if not w.requires_grad:  # a latent that no mapping network comes before
            w.requires_grad_(True)
        return generator.draw(w, fresh=True), w

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.student.named_parameters()

    def optimizers(self, config: LoopConfig) -> dict[str, torch.optim.Optimizer]:
        """Adam without momentum; rates and decay account for the lazy steps."""
        rules = self.rules
        lazy = {
            "generator": rules.path_every / (rules.path_every + 1) if rules.path else 1.0,
            "discriminator": rules.r1_every / (rules.r1_every + 1) if rules.r1 else 1.0,
        }
        made = {}
        for part, ratio in lazy.items():
            made[part] = config.optimizer_of(list(getattr(self.student, part).parameters()))
            for group in made[part].param_groups:
                group["lr_scale"] = ratio
                if "betas" in group:
                    group["betas"] = (0.0, 0.99**ratio)
        return made

    def step(self, step: int, run: Run) -> dict[str, float]:
        with run.randomness(step):
            self._turn("generator")
            # one batch serves both: the discriminator learns from it, then the generator
            pictures, _ = self.generated(self.rules.batch)
            logged = self._critic_steps(step, run, pictures.detach())
            logged |= self._generator_steps(step, run, pictures)
        return {name: float(value.detach()) for name, value in logged.items()}

    def _critic_steps(self, step: int, run: Run, fake: torch.Tensor) -> dict[str, torch.Tensor]:
        critic, rules = self._turn("discriminator"), self.rules
        loss = self.critic_objective(self.real(rules.batch), fake)
        self._apply(run, step, loss, "discriminator")
        if rules.r1 and step % rules.r1_every == 0:
            real = augment(self.real(rules.batch), rules.augment).requires_grad_(True)
            penalty = rules.r1 / 2 * rules.r1_every * r1_penalty(critic(real), real)
            self._apply(run, step, penalty, "discriminator")
        return {"critic_loss": loss}

    def _generator_steps(
        self, step: int, run: Run, pictures: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        self._turn("generator")
        rules, critic = self.rules, self.student.discriminator
        logged = {"generator_loss": F.softplus(-critic(augment(pictures, rules.augment))).mean()}
        logged |= self.extra_losses(step)
        self._apply(run, step, summed(logged), "generator")
        if rules.path and step % rules.path_every == 0:
            pictures, w = self.generated(max(1, rules.batch // 2))
            lengths = path_lengths(pictures, w)
            mean = self.mean_path + DECAY * (lengths.mean() - self.mean_path)
            penalty = rules.path * rules.path_every * (lengths - mean).square().mean()
            self.mean_path = mean.detach()
            self._apply(run, step, penalty, "generator")
        return logged

    def _turn(self, part: str) -> nn.Module:
        """Let one network learn, and no gradient reach the other."""
        for name in ("generator", "discriminator"):
            getattr(self.student, name).requires_grad_(name == part)
        return getattr(self.student, part)

    def _apply(self, run: Run, step: int, loss: torch.Tensor, part: str) -> None:
        run.backward(loss, step)
        run.apply(run.optimizers[part], getattr(self.student, part).parameters())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        super().after_step(step)
        mine = list(self.averaged.parameters())
        live = [p.detach() for p in self.student.generator.parameters()]
        torch._foreach_lerp_(mine, live, 1 - self.rules.average)

    def finished_model(self) -> Gan:
        """The student with the average as its generator."""
        self.student.generator.load_state_dict(self.averaged.state_dict())
        return self.student.freeze()

    def state(self) -> dict[str, torch.Tensor]:
        kept = {f"averaged.{n}": p.cpu() for n, p in self.averaged.named_parameters()}
        return {**kept, "mean_path": self.mean_path.cpu()}

    @torch.no_grad()
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.averaged.named_parameters():
            parameter.copy_(state[f"averaged.{name}"])
        self.mean_path.copy_(state["mean_path"])
