"""ESD, "Erasing Concepts from Diffusion Models" (Gandikota et al., ICCV 2023), Eq. 6.

    target = base - eta (e_c - e_0)              base = e_0 in the paper
    L      = E_{t, x_t} mean( (eps_theta(x_t, c, t) - target)^2 )

e_c = eps*(x_t, c, t) and e_0 = eps*(x_t, null, t) are the frozen model's predictions under the
concept and under the null prompt. x_t is a partially denoised sample: the student's own sampler,
conditioned on c with guidance 3, stopped at a random step (on-policy). The student's prediction
under c is pushed to the side of e_0 that lies opposite to the concept.

Cost: a plain implementation denoises one latent for each update, over 90 % of its time. Here
several trajectories run as one batch, each gives several states, both guidance branches and the
teacher's pair are one forward pass, and nothing frozen is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from ... import seeding
from ...errors import UsageError
from ...models import maths
from ...models.denoiser import Denoiser
from ...models.text import TextStates
from ...registry import Paper, register
from ...request import ConceptRequest
from ..base import Erasure, GradientUnlearner, concept_texts
from .selectors import Variant, select


@register("method", "esd")
class ESD(GradientUnlearner):
    """Erased Stable Diffusion: fine-tune until the concept's prediction points away from it.

    Defaults are the paper's.
    """

    family: ClassVar[str] = "diffusion"
    paper: ClassVar[Paper] = Paper(
        title="Erasing Concepts from Diffusion Models",
        authors="R. Gandikota, J. Materzynska, J. Fiotto-Kaufman, D. Bau",
        arxiv="2303.07345",
        venue="ICCV 2023",
        repository="https://github.com/rohitgandikota/erasing",
        licence="MIT",
        deviations=(
            "The timestep given to the network is the latent's own; the published code is up to 58"
            " training steps off (timestep_offset=reference).",
            "Several states are taken from a trajectory, and trajectories are renewed every"
            " `refresh` steps (refresh=1, trajectories=batch: one trajectory an update).",
            "Weights stay float32; the newer published code trains in bfloat16, where most"
            " updates are rounded away.",
        ),
        cost="1 student step, and about 25 guided sampler steps shared by the states of a trajectory",
    )
    trial: ClassVar[dict[str, Any]] = {"steps": 2, "lr": 1e-3, "sampler_steps": 4, "refresh": 2}
    idle: ClassVar[dict[str, Any] | None] = {"lr": 0.0}

    variant: Variant = Field(
        "x", description="tensors that train: x for styles, u for objects and nudity (paper)"
    )
    eta: float = Field(1.0, ge=0, description="negative guidance: how far beyond the base to go")
    base: Literal["null", "concept", "from"] = Field(
        "null", description="what the target starts from: e_0 (paper), e_c, or e_f of the anchor"
    )
    condition: Literal["concept", "from"] = Field(
        "concept", description="text that the student is trained and sampled under: c (paper) or f"
    )
    erase_from: str | None = Field(
        None, description="the text f; default the anchor that the request pairs with each prompt"
    )
    texts: Literal["all", "names", "captions"] = Field(
        "all", description="which of the request's prompts to draw from; the paper uses names"
    )
    batch: int = Field(1, ge=1, description="latents in a step")
    start_guidance: float = Field(3.0, ge=0, description="guidance alpha of the starting states")
    sampler_steps: int = Field(50, ge=1, description="DDIM steps of a whole trajectory")
    timesteps: tuple[int, int] = Field(
        (0, 999), description="lowest and highest timestep that is trained on"
    )
    timestep_offset: Literal["none", "reference"] = Field(
        "none", description="give the network the latent's own timestep, or the published code's"
    )
    rollout: Literal["student", "teacher"] = Field(
        "student", description="whose states to train on: on-policy (paper), or a frozen pool"
    )
    trajectories: int = Field(4, ge=1, description="trajectories that run as one batch")
    refresh: int = Field(16, ge=1, description="steps between new trajectories (rollout student)")
    pool: int = Field(256, ge=1, description="states in the frozen pool (rollout teacher)")

    def trained(self, model: Denoiser) -> list[str]:
        return select(model, self.variant)

    def objective(self, model: Denoiser, requests: Sequence[ConceptRequest]) -> Erasure:
        return ESDObjective(self, model, requests)


def target(base: torch.Tensor, e_c: torch.Tensor, e_0: torch.Tensor, eta: float) -> torch.Tensor:
    """``base - eta (e_c - e_0)``, all [B, C, h, w] (Eq. 6 with base = e_0)."""
    return base - eta * (e_c - e_0)


def levels(settings: ESD, model: Denoiser) -> list[tuple[int, int, int]]:
    """Where a trajectory may stop: (sampler steps run, first and last timestep to give).

    The ladder of sampler timesteps is ``ladder(settings, model)``; a state after n steps lies at
    level ladder[n]. With ``timestep_offset="reference"`` the published code is followed: sampling
    starts one step late, stops at 20 (j - 2) + 1 of 1000 for j = 2..49 and is told a timestep of
    20 j to 20 j + 19.
    """
    steps, total = settings.sampler_steps, len(model.alphas_cumprod)
    if settings.timestep_offset == "reference":
        stride = total // steps
        stops = [
            (min(steps - j, steps - 1), stride * j, stride * j + stride - 1) for j in range(steps)
        ]
    else:
        stops = [(n, t, t) for n, t in enumerate(model.timesteps(steps))]
    low, high = settings.timesteps
    chosen = [stop for stop in stops if low <= stop[1] <= high]
    if not chosen:
        raise UsageError(
            f"method esd: no timestep of the sampler lies in {low} to {high};"
            f" {steps} steps give {stops[-1][1]} to {stops[0][1]}."
        )
    return chosen


def ladder(settings: ESD, model: Denoiser) -> list[int]:
    """Sampler timesteps that a trajectory walks down."""
    return model.timesteps(settings.sampler_steps)[settings.timestep_offset == "reference" :]


class ESDObjective(Erasure):
    """Losses of ESD, and the pool of starting states that it draws from.

    The pool holds, for n states: x, y (the target) and e_0, d = e_c - e_0 [n, C, h, w]; t [n];
    ``which`` prompt [n]; and ``cursor``, how many are used up.
    """

    def __init__(self, settings: ESD, model: Denoiser, requests: Sequence[ConceptRequest]):
        super().__init__(settings, model, requests)
        pairs, _ = concept_texts(requests, settings.texts)
        self.concepts = [prompt for prompt, _ in pairs]
        self.origins = [settings.erase_from or anchor for _, anchor in pairs]
        self.stops, self.ladder = levels(settings, model), ladder(settings, model)
        self.pool: dict[str, torch.Tensor] = {}

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        self.c = self.teacher.encode_prompt(self.concepts)
        self.f = self.teacher.encode_prompt(self.origins)
        self.null = self.teacher.null_text()

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        state = self._draw()
        which = state["which"]
        eps = self.student.predict_noise(state["x"], state["t"], self._student_text(which, True))
        towards = torch.cosine_similarity(
            (eps.detach() - state["e_0"]).flatten(1), state["d"].flatten(1)
        )
        return {"esd_loss": (eps - state["y"]).square().mean(), "concept_cosine": towards.mean()}

    def _draw(self) -> dict[str, torch.Tensor]:
        """A batch of states: the next of the student's pool, or random ones of the teacher's."""
        n = self.settings.batch
        if self.settings.rollout == "teacher":
            if not self.pool:
                with seeding.seeded("esd-pool", self.settings.seed):
                    self._fill(self.teacher, self.settings.pool)
            rows = torch.randint(len(self.pool["x"]), (n,))
        else:
            if not self.pool or int(self.pool["cursor"]) + n > len(self.pool["x"]):
                self._fill(self.student, self.settings.refresh * n)
            start = int(self.pool["cursor"])
            self.pool["cursor"] += n
            rows = torch.arange(start, start + n)
        rows = rows.to(self.teacher.device)
        return {name: tensor[rows] for name, tensor in self.pool.items() if name != "cursor"}

    @torch.no_grad()
    def _fill(self, sampler: Denoiser, size: int) -> None:
        """Make ``size`` new states with their targets."""
        batch = min(self.settings.trajectories, size)
        each = math.ceil(size / batch) if self.settings.rollout == "student" else 4
        parts = [
            self._rollout(sampler, batch, each) for _ in range(math.ceil(size / (batch * each)))
        ]
        keep = torch.randperm(sum(len(part["x"]) for part in parts))[:size]
        keep = keep.to(self.teacher.device)
        self.pool = {name: torch.cat([part[name] for part in parts])[keep] for name in parts[0]}
        self.pool["cursor"] = torch.zeros((), dtype=torch.long)

    def _rollout(self, sampler: Denoiser, batch: int, each: int) -> dict[str, torch.Tensor]:
        """Run ``batch`` trajectories as one and keep ``each`` states of every one."""
        device = self.teacher.device
        which = torch.randint(len(self.concepts), (batch,))
        stop = torch.tensor(self.stops)[torch.randint(len(self.stops), (batch, each))]
        depth, low, high = stop.unbind(-1)
        t = (low + (torch.rand(batch, each) * (high - low + 1)).long()).flatten().to(device)
        x = torch.randn(batch, *self.teacher.latent_shape).to(device)
        text = self._text_of(sampler, which)
        kept = x.unsqueeze(1).repeat(1, each, 1, 1, 1)
        null = sampler.null_text()
        for n in range(int(depth.max())):
            # Trajectories that need no deeper state leave the batch.
            active = (depth.amax(1) > n).nonzero().flatten()
            x[active] = self._sampler_step(sampler, x[active], n, text[active.to(device)], null)
            here = depth == n + 1
            kept[here] = x.unsqueeze(1).expand_as(kept)[here]
        which = which.repeat_interleave(each).to(device)
        return self._with_target(kept.flatten(0, 1), t, which, batch)

    def _sampler_step(
        self, sampler: Denoiser, x: torch.Tensor, n: int, text: TextStates, null: TextStates
    ) -> torch.Tensor:
        t, steps = self.ladder[n], self.settings.sampler_steps
        eps = sampler.guided_noise(x, t, text, null, self.settings.start_guidance)
        return maths.ddim_step(x, eps, sampler.alphas_cumprod[t], sampler.level_after(t, steps))

    def _with_target(
        self, x: torch.Tensor, t: torch.Tensor, which: torch.Tensor, batch: int
    ) -> dict[str, torch.Tensor]:
        """Add the frozen teacher's e_0, e_c (and e_f), evaluated as one batch, and the target."""
        rows = []
        for part in torch.arange(len(x), device=x.device).split(batch):
            texts = [self.null.expand(len(part)), self.c[which[part]]]
            if self.settings.base == "from":
                texts.append(self.f[which[part]])
            k = len(texts)
            eps = self.teacher.predict_noise(
                x[part].repeat(k, 1, 1, 1), t[part].repeat(k), self.null.cat(texts)
            )
            e_0, e_c, *e_f = eps.chunk(k)
            base = {"null": e_0, "concept": e_c, "from": e_f[0] if e_f else None}
            y = target(base[self.settings.base], e_c, e_0, self.settings.eta)
            rows.append((y, e_0, e_c - e_0))
        y, e_0, d = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return {"x": x, "t": t, "which": which, "y": y, "e_0": e_0, "d": d}

    def _student_text(self, which: torch.Tensor, with_grad: bool) -> TextStates:
        """States of the prompts under which the student is trained."""
        from_anchor = self.settings.condition == "from"
        if self.settings.variant != "text":
            return (self.f if from_anchor else self.c)[which]
        names = self.origins if from_anchor else self.concepts
        prompts = [names[i] for i in which.tolist()]
        if with_grad:
            return self.student.encode_prompt_with_grad(prompts)
        return self.student.encode_prompt(prompts)

    def _text_of(self, sampler: Denoiser, which: torch.Tensor) -> TextStates:
        if sampler is self.student:
            return self._student_text(which.to(self.teacher.device), False)
        states = self.f if self.settings.condition == "from" else self.c
        return states[which.to(self.teacher.device)]

    def state(self) -> dict[str, torch.Tensor]:
        """The pool: without it a resumed run would train on other states.

        Of several processes the main one's pool is kept, so only one process resumes exactly.
        """
        return {name: tensor.cpu() for name, tensor in self.pool.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        device = self.teacher.device
        self.pool = {n: v if n == "cursor" else v.to(device) for n, v in state.items()}
