"""Distil a diffusion model into a one-step generator without data: Score identity Distillation.

Three networks start from the same weights: phi, the frozen teacher; theta, the generator, one step
of the teacher from noise of one level; and psi, which learns the score of what theta draws:

    x_g     = G(z, c) = (b0 z - b0 eps_theta(b0 z, t_init, c)) / a0
    L_psi   = |eps_psi(x_t, t, c) - e|^2                          x_g detached
    L_theta = sigma_t^2 <d, r - alpha d> / omega,   d = eps_psi - eps_phi,   r = e - eps_phi
    omega   = max(sigma_t mean|r|, 1e-5), detached                x_t = a_t x_g + b_t e

Sums run over a picture, means over the batch. L_theta is <f_phi - f_psi, (f_phi - x_g) - alpha
(f_phi - f_psi)> / omega with f the predicted pictures, without its divisions by a_t. Its gradient
reaches theta only through x_t *inside* both frozen networks. With a perfect psi its value is
(1 - alpha) E|f_phi - f_psi|^2, so it is no measure of progress; ``gap``, the mean of d^2, is one.

Diff-Instruct (Luo et al., NeurIPS 2023, arXiv 2305.18455) takes f_phi and f_psi for constants, which
leaves the gradient (f_psi - f_phi) / omega of x_g, and needs no pass back through the frozen networks.

Source: Zhou et al., "Score identity Distillation", ICML 2024, arXiv 2404.04057. A second set of
rows may be drawn under one condition and led to another, as ``unlearn/diffusion/sfd.py`` does:
psi and theta are asked for what is to be forgotten, the teacher for what takes its place. Both
sets are one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field

from .errors import UsageError
from .loop import LoopConfig, Objective, Run, note, summed
from .models import maths
from .models.denoiser import Denoiser, Generator
from .models.weights import MovingAverage


class ScoreSettings(BaseModel):
    """Settings that distilling and forgetting while distilling share."""

    batch: int = Field(128, ge=1, description="pictures of each set in a step")
    alpha: float = Field(1.2, ge=0, description="weight of the biased term of the generator's loss")
    gradient: Literal["sid", "diff_instruct"] = Field(
        "sid", description="through the frozen networks' inputs, or past them (Diff-Instruct)"
    )
    sigma_init: float = Field(2.5, gt=0, description="noise level that the generator starts from")
    sigma_range: tuple[float, float] = Field(
        (0.137, 13.0), description="noise levels (sigma = b / a) at which scores are compared"
    )
    generator_steps: int = Field(1, ge=1, description="evaluations a picture when it is drawn")
    psi_ratio: float = Field(3.0, gt=0, description="learning rate of psi, in units of lr")
    psi_warmup: int | None = Field(
        None, ge=0, description="steps of psi alone; default 0, or 200 with a distilled start"
    )
    clip_value: float = Field(1.0, gt=0, description="largest absolute value of a gradient's entry")
    average: float = Field(
        0.9999, ge=0, lt=1, description="share that the moving average of theta keeps of itself"
    )
    weights: Literal["ema", "raw"] = Field(
        "ema", description="result: the moving average of theta, or theta itself"
    )
    guidance: float = Field(1.0, ge=0, description="guidance of the teacher")
    fake_guidance: float = Field(1.0, ge=0, description="guidance of psi, in both losses")
    drop: float = Field(
        0.1, ge=0, lt=1, description="share of null conditions in psi's loss, if psi is guided"
    )
    negative: str = Field(
        "", description="text in place of the null text in the teacher's guidance"
    )
    fake_negative: bool = Field(False, description="use it in psi's guidance too")
    start: str | None = Field(
        None, description="folder of a distilled generator that theta starts from"
    )


@dataclass(frozen=True)
class Conditions:
    """What the networks are asked for.

    Attributes:
        retain: [n] conditions that all three networks share.
        forget: [m] conditions of generator and psi in the second set; None without one.
        safe: [m], what the teacher is asked in their place.
        psi_weight: weight (lambda) of the second set in psi's loss.
        theta_weight: its weight (mu) in theta's.
    """

    retain: Any
    forget: Any = None
    safe: Any = None
    psi_weight: float = 0.0
    theta_weight: float = 0.0


def generator_loss(
    eps_phi: torch.Tensor, eps_psi: torch.Tensor, e: torch.Tensor, abar: torch.Tensor, alpha: float
) -> torch.Tensor:
    """[B], L_theta of every row.

    Args:
        eps_phi: [B, C, h, w], the teacher's prediction at x_t.
        eps_psi: [B, C, h, w], psi's.
        e: [B, C, h, w], the noise in x_t.
        abar: [B], the levels.
        alpha: 1 for the unbiased loss.
    """
    d, r, sigma = eps_psi - eps_phi, e - eps_phi, maths.sigmas(abar)
    omega = (sigma * r.detach().abs().flatten(1).mean(1)).clamp_min(1e-5)
    return sigma.square() * (d * (r - alpha * d)).flatten(1).sum(1) / omega


def timestep_at(sigma: float, model: Denoiser) -> int:
    """The timestep of the model's schedule whose noise level is nearest to sigma, by ratio.

    Raises:
        UsageError: if the schedule does not come near it.
    """
    levels = maths.sigmas(model.alphas_cumprod).log()
    target = torch.tensor(sigma, device=levels.device).log()
    t = int((levels - target).abs().argmin())
    if abs(float(levels[t] - target)) > 0.25:
        low, high = levels[[0, -1]].exp().tolist()
        raise UsageError(
            f"The noise of {model.name} goes from sigma {low:.3g} to {high:.3g}, so there is no"
            f" level {sigma:g}; change sigma_init or sigma_range."
        )
    return t


class Distillation(Objective):
    """The losses of the three networks, and two optimisers: psi's step, then theta's.

    Args:
        settings: with ``lr``, beside those of ``ScoreSettings``.
        teacher: phi.
        names: tensors that theta and psi train.
        conditions: makes them once the teacher is on its device.

    Attributes:
        student: theta.
        fake: psi.

    Raises:
        UsageError: if the teacher is a generator itself, or a level is not in its schedule.
    """

    def __init__(
        self,
        settings: Any,
        teacher: Denoiser,
        names: Sequence[str],
        conditions: Callable[[Denoiser], Conditions],
    ):
        if teacher.generator is not None:
            raise UsageError(
                f"{teacher.name} is a generator that was distilled already; give the diffusion"
                " model that it was made from, and the generator as `start`."
            )
        self.settings, self.teacher, self.names = settings, teacher, list(names)
        self._conditions = conditions
        self.t_init = timestep_at(settings.sigma_init, teacher)
        low, high = (timestep_at(sigma, teacher) for sigma in settings.sigma_range)
        if low > high:
            raise UsageError(f"sigma_range must rise, not go from {low} to {high}.")
        self.t_range = (low, high + 1)
        self.warmup = settings.psi_warmup
        if self.warmup is None:
            self.warmup = 200 if settings.start else 0

    def prepare(self, device: torch.device) -> None:
        teacher, s = self.teacher.to(device), self.settings
        self.student, self.fake = teacher.clone(self.names), teacher.clone(self.names)
        if s.start:
            self._start_from(s.start)
        self.conditions = self._conditions(teacher)
        null = teacher.null_text()
        self.null = teacher.encode_prompt([s.negative]) if s.negative else null
        self.fake_null = self.null if s.fake_negative else null
        self.average = MovingAverage(self.parameters(), s.average)

    def _start_from(self, folder: str) -> None:
        from .models.zoo import load_model

        other = load_model(folder, self.teacher.device)
        if other.generator is None or other.generator.t_init != self.t_init:
            raise UsageError(
                f"start: {folder} is no generator distilled at sigma_init"
                f" {self.settings.sigma_init:g}; make one first, or leave `start` out."
            )
        theirs, mine = other.named_parameters(), self.student.named_parameters()
        for name in self.names:
            if name not in theirs or theirs[name].shape != mine[name].shape:
                raise UsageError(
                    f"start: {folder} has another architecture than {self.teacher.name} ({name})."
                )
            mine[name].data.copy_(theirs[name])

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        everything = self.student.named_parameters()
        return {name: everything[name] for name in self.names}

    def fake_parameters(self) -> dict[str, torch.nn.Parameter]:
        everything = self.fake.named_parameters()
        return {name: everything[name] for name in self.names}

    def optimizers(self, config: LoopConfig) -> dict[str, torch.optim.Optimizer]:
        """Adam without momentum for each: an alternating game rotates with it."""
        sides = {"psi": self.fake_parameters(), "theta": self.parameters()}
        scale = {"psi": self.settings.psi_ratio, "theta": 1.0}
        return {
            side: torch.optim.Adam(
                [{"params": list(tensors.values()), "lr_scale": scale[side]}],
                lr=config.lr * scale[side],
                betas=(0.0, 0.999),
                weight_decay=config.weight_decay,
            )
            for side, tensors in sides.items()
        }

    def step(self, step: int, run: Run) -> dict[str, torch.Tensor]:
        logged = self._descend("psi", self.fake_parameters(), self.fake_loss, step, run)
        if step >= self.warmup:
            for parameter in self.fake_parameters().values():
                parameter.requires_grad_(False)
            logged |= self._descend("theta", self.parameters(), self.loss, step, run)
            for parameter in self.fake_parameters().values():
                parameter.requires_grad_(True)
            self.average.update(self.parameters(), step - self.warmup)
        return logged

    def _descend(self, side, parameters, loss, step: int, run: Run) -> dict[str, torch.Tensor]:
        micros, logged = run.config.accumulation, {}
        for micro in range(micros):
            with run.randomness(step, 2 * micro + (side == "theta")):
                found = loss(step)
            run.backward(summed(found) / micros, step)
            note(logged, found, micros)
        run.accelerator.clip_grad_value_(list(parameters.values()), self.settings.clip_value)
        run.apply(run.optimizers[side], parameters.values())
        return logged

    def fake_loss(self, step: int) -> dict[str, torch.Tensor]:
        """The loss of psi: denoise what theta draws, under the condition that made it."""
        made, _, weight = self._rows(self.conditions.psi_weight)
        with torch.no_grad():
            x_t, t, e = self._noised(self._draw(made))
        s = self.settings
        if s.fake_guidance != 1 and s.drop:
            dropped = (torch.rand(len(made)) < s.drop).to(x_t.device)
            place = torch.arange(len(made), device=x_t.device).masked_fill(dropped, len(made))
            made = made.cat([made, self.fake_null])[place]
        eps = self.fake.guided_noise(x_t, t, made, self.fake_null, s.fake_guidance)
        per_row = (eps - e).square().flatten(1).sum(1)
        return {"fake_loss": (weight * per_row).sum() / s.batch}

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        """The loss of theta; psi is frozen."""
        s, n = self.settings, self.settings.batch
        made, asked, weight = self._rows(self.conditions.theta_weight)
        x = self._draw(made)
        x_t, t, e = self._noised(x)
        abar = self.teacher.alphas_cumprod[t]
        with torch.set_grad_enabled(s.gradient == "sid"):
            eps_phi = self.teacher.guided_noise(x_t, t, asked, self.null, s.guidance)
            eps_psi = self.fake.guided_noise(x_t, t, made, self.fake_null, s.fake_guidance)
        if s.gradient == "diff_instruct":
            # with f_phi constant, f_phi - x_g = sigma r moves with x_g alone
            a, b = maths.coefficients(abar, x)
            e = e - (x - x.detach()) * a / b
        per_row = generator_loss(eps_phi, eps_psi, e, abar, s.alpha)
        gap = (eps_psi - eps_phi).detach().square().flatten(1).mean(1)
        found = {"generator_loss": (weight * per_row).sum() / n, "gap": gap[:n].mean()}
        if len(gap) > n:
            found["forget_gap"] = gap[n:].mean()
        return found

    def _rows(self, weight: float) -> tuple[Any, Any, torch.Tensor]:
        """Conditions of generator and psi, and of the teacher, and the weight of each row."""
        kept, n, device = self.conditions, self.settings.batch, self.teacher.device
        made = asked = kept.retain[torch.randint(len(kept.retain), (n,)).to(device)]
        weights = torch.ones(n, device=device)
        if kept.forget is not None:
            which = torch.randint(len(kept.forget), (n,)).to(device)
            made = made.cat([made, kept.forget[which]])
            asked = asked.cat([asked, kept.safe[which]])
            weights = torch.cat([weights, torch.full_like(weights, weight)])
        return made, asked, weights

    def _draw(self, made: Any) -> torch.Tensor:
        """x_g of fresh noise, one evaluation of theta."""
        z = torch.randn(len(made), *self.teacher.latent_shape).to(self.teacher.device)
        _, b = maths.coefficients(self.teacher.alphas_cumprod[self.t_init], z)
        return self.student.predict_x0(b * z, self.t_init, made)

    def _noised(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        t = torch.randint(*self.t_range, (len(x),)).to(x.device)
        e = torch.randn(x.shape).to(x.device)
        return maths.add_noise(x, e, self.teacher.alphas_cumprod[t]), t, e

    def state(self) -> dict[str, torch.Tensor]:
        fake = {f"fake.{name}": p.detach() for name, p in self.fake_parameters().items()}
        return {**fake, **{f"average.{name}": v for name, v in self.average.values.items()}}

    @torch.no_grad()
    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.fake_parameters().items():
            parameter.copy_(state[f"fake.{name}"])
        self.average.load({name: state[f"average.{name}"] for name in self.names})

    @torch.no_grad()
    def result(self) -> Denoiser:
        """The generator, with averaged or raw weights, that knows how it draws."""
        made = self.student.clone(self.names)
        if self.settings.weights == "ema":
            tensors = made.named_parameters()
            for name, value in self.average.values.items():
                tensors[name].copy_(value)
        return made.drawing_by(Generator(self.t_init, self.settings.generator_steps))
