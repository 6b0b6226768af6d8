"""CA, "Ablating Concepts in Text-to-Image Diffusion Models" (Kumari et al., ICCV 2023).

    model-based   L = E_{z, t, eps} mean( (eps_theta(z_t, c*, t) - sg eps_theta(z_t, c, t))^2 )
    noise-based   L = E_{z, t, eps} mean( (eps_theta(z_t, c*, t) - eps)^2 )
    regulariser   L_reg = E mean( (eps_theta(z'_t', c', t') - eps')^2 )

c* is a prompt of the concept, c its anchor, z the latent of a picture that the original drew of c.
The target comes from the network as it is now, without a gradient (sg), or from the frozen original
(teacher: frozen). The regulariser is the ordinary diffusion loss on anchor pictures under their own
prompts; it is needed where the name of the concept holds the anchor ("grumpy cat" and "cat").

Pictures of objects are shown at other sizes (``resizing.py``): the mean is then over the part of the
canvas that holds the picture, and c* says how large it is ("a far away ...", "close up ...").
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
from ..base import Erasure, GradientUnlearner
from ..saliency import restore
from .pictures import Pictures, predicted, rewritings, some
from .resizing import WORDS, Resizing, check, masked_mean
from .selectors import select, select_embedding
from .start_token import start_token_detached


@register("method", "concept_ablation")
class ConceptAblation(GradientUnlearner):
    """Teach the prompts of the concept to draw their anchors. Defaults are the paper's."""

    title: ClassVar[str] = "CA"
    family: ClassVar[str] = "diffusion"
    paper: ClassVar[Paper] = Paper(
        title="Ablating Concepts in Text-to-Image Diffusion Models",
        authors="N. Kumari, B. Zhang, S. Wang, E. Shechtman, R. Zhang, J. Zhu",
        arxiv="2303.13516",
        venue="ICCV 2023",
        repository="https://github.com/nupurkmr9/concept-ablation",
        licence="MIT",
        deviations=(
            "Prompts and anchors are the request's; no captions are fetched or written by a model.",
            "Pictures are drawn by DDIM without noise (eta 0) and kept as latents.",
            "The masked loss is a plain mean (the published sum is a multiple of it by the number of"
            " channels).",
            "The picture of the regulariser is not resized. Latents of resized pictures are the"
            " posterior's mean, and show three latent cells or more.",
            "Networks that predict velocity are compared in noise.",
            "The regulariser is on by itself where an anchor is part of the concept's name.",
        ),
        cost="1 target and 1 student pass a step, and `pictures` pictures drawn once; resized ones"
        " are kept as pixels and encoded a batch a step",
    )
    trial: ClassVar[dict[str, Any]] = {
        "steps": 2, "lr": 1e-3, "batch": 2, "pictures": 3, "sampler_steps": 2,
    }  # fmt: skip
    idle: ClassVar[dict[str, Any] | None] = {"lr": 0.0}

    steps: int = Field(100, ge=1, description="optimiser steps; paper: 100, whole network 400")
    lr: float = Field(1.6e-5, ge=0, description="learning rate; whole network: 2e-6")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw", description="optimiser")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of the optimiser")
    variant: Literal["x-strict", "x", "full", "embedding"] = Field(
        "x-strict",
        description="tensors that train: keys and values of cross-attention, all of it, the whole"
        " U-Net, or the embeddings of the concept's own tokens",
    )
    target: Literal["model", "noise"] = Field(
        "model", description="what c* learns: the prediction under c, or the noise"
    )
    teacher: Literal["self", "frozen"] = Field(
        "self",
        description="who predicts under c: the network as it is now (paper), or the original",
    )
    states: int = Field(
        1024, ge=1, description="most noisy latents whose frozen targets are computed beforehand"
    )
    reg: Literal["auto", "on", "off"] = Field(
        "auto", description="the regulariser; auto: where an anchor is part of the concept's name"
    )
    reg_weight: float = Field(0.2, ge=0, description="weight of the regulariser")
    texts: Literal["all", "names", "captions"] = Field(
        "all", description="which of the request's prompts to ablate"
    )
    augment: Literal["auto", "on", "off"] = Field(
        "auto", description="show anchor pictures at other sizes; auto: if only objects are erased"
    )
    size_words: Literal["concept", "both", "none"] = Field(
        "concept",
        description="prompts that say how large a resized picture is: c* (published), c too, none",
    )
    batch: int = Field(8, ge=1, description="latents in a step, and as many of the regulariser")
    pictures: int = Field(1000, ge=1, description="anchor pictures that the original draws")
    sampler_steps: int = Field(50, ge=1, description="DDIM steps of these pictures")
    guidance: float = Field(6.0, ge=0, description="guidance of these pictures")

    def trained(self, model: DiffusionModel) -> list[str]:
        if self.variant == "embedding":
            return select_embedding(model)
        return select(model, self.variant)

    def objective(self, model: DiffusionModel, requests: Sequence[ConceptRequest]) -> Erasure:
        return ConceptAblationObjective(self, model, requests)


class ConceptAblationObjective(Erasure):
    """Losses of CA.

    Attributes:
        prompts: texts that name the concept, then as many anchors; if pictures are resized, the
            first ones again with each of ``WORDS`` before them, and so are the anchors where both
            say the size.
        own: token ids of the concept that no anchor has (variant embedding).
    """

    def __init__(
        self, settings: ConceptAblation, model: DiffusionModel, requests: Sequence[ConceptRequest]
    ):
        super().__init__(settings, model, requests)
        concepts, anchors = rewritings(requests, settings.texts)
        self.pairs, self.prompts = len(concepts), [*concepts, *anchors]
        self.regularised = settings.reg == "on" or (
            settings.reg == "auto" and any(overlapping(request) for request in requests)
        )
        self.resized = settings.augment == "on" or (
            settings.augment == "auto" and all(request.kind == "object" for request in requests)
        )
        if self.resized:
            told = {"none": [], "concept": [concepts], "both": [concepts, anchors]}
            sides = told[settings.size_words]
            more = [word + text for side in sides for word in WORDS for text in side]
            check(model, more)
            self.prompts += more
        if settings.variant == "embedding":
            self.own = own_tokens(model, concepts, anchors)

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        s, teacher = self.settings, self.teacher
        self.texts = teacher.encode_prompt(self.prompts)
        anchors = self.texts[torch.arange(self.pairs, 2 * self.pairs)]
        self.pictures = Pictures.draw(
            teacher, anchors, s.pictures, s.sampler_steps, s.guidance, s.seed
        )
        if self.resized:
            self.pixels = torch.from_numpy(teacher.decode(self.pictures.z))
        if s.variant == "embedding":
            table = self.teacher.named_parameters()[self.names[0]]
            self.mask = torch.zeros(len(table), 1, dtype=torch.bool, device=table.device)
            self.mask[self.own] = True
        if s.teacher == "frozen" and s.target == "model":
            size = min(s.states, s.steps * s.batch * s.accumulation)
            with seeding.seeded("concept-ablation", s.seed):
                self.frozen = self._noised(size)
            self.frozen["y"] = predicted(teacher, self.frozen, self.texts[self.frozen["c"]])

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        s, state = self.settings, self._states()
        x, t, rows = state["x"], state["t"], state["c*"]
        if self.regularised:
            kept = self.pictures.noised(s.batch, self.teacher.alphas_cumprod)
            x, t = torch.cat([x, kept["x"]]), torch.cat([t, kept["t"]])
            rows = torch.cat([rows, self.pairs + kept["which"]])
        text = self._text(rows)
        with start_token_detached(self.student):
            eps = self.student.predict_noise(x, t, text)
        eps, eps_reg = eps.tensor_split([len(state["x"])])
        square = (eps - state["y"]).square()
        mean = masked_mean(square, state["mask"]) if self.resized else square.mean()
        losses = {"ablation_loss": mean}
        if self.regularised:
            losses["reg_loss"] = s.reg_weight * (eps_reg - kept["eps"]).square().mean()
        return losses

    @torch.no_grad()
    def _states(self) -> dict[str, torch.Tensor]:
        """A batch of noised anchor pictures with ``y``, what is to be predicted there."""
        s = self.settings
        if s.target == "model" and s.teacher == "frozen":
            return some(self.frozen, s.batch)
        state = self._noised(s.batch)
        if s.target == "noise":
            return {**state, "y": state["eps"]}
        text = self._text(state["c"])
        return {**state, "y": self.student.predict_noise(state["x"], state["t"], text)}

    def _noised(self, n: int) -> dict[str, torch.Tensor]:
        """N noised anchor pictures with ``c*`` and ``c``, their prompts; resized ones with ``mask``."""
        if not self.resized:
            state = self.pictures.noised(n, self.teacher.alphas_cumprod)
            return {**state, "c*": state["which"], "c": self.pairs + state["which"]}
        parts = [self._resized(len(rows)) for rows in torch.arange(n).split(64)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _resized(self, n: int) -> dict[str, torch.Tensor]:
        pairs, told = self.pairs, self.settings.size_words
        size, cells = self.teacher.picture_size[0], self.teacher.latent_shape[1]
        rows, drawn = torch.randint(len(self.pixels), (n,)), Resizing.draw(n, size, size // cells)
        z = self.teacher.encode_pictures(drawn.show(self.pixels[rows]))
        pictures = Pictures(z, self.pictures.which[rows.to(z.device)])
        state = pictures.at(torch.arange(n), self.teacher.alphas_cumprod)
        which, words = state["which"], drawn.words.to(z.device)
        worded, silent = 2 * pairs + words * pairs + which, words < 0
        c_star = which if told == "none" else torch.where(silent, which, worded)
        c = pairs + which
        if told == "both":
            c = torch.where(silent, c, worded + len(WORDS) * pairs)
        return {**state, "mask": drawn.mask(cells).to(z.device), "c*": c_star, "c": c}

    def _text(self, rows: torch.Tensor) -> TextStates:
        """States of some of the prompts, as the student reads them."""
        if self.settings.variant != "embedding":
            return self.texts[rows]
        return self.student.encode_prompt_with_grad([self.prompts[i] for i in rows.tolist()])

    def after_step(self, step: int) -> None:
        if self.settings.variant == "embedding":
            masks = {self.names[0]: self.mask}
            restore(self.student.named_parameters(), masks, self.teacher.named_parameters())
        super().after_step(step)


def overlapping(request: ConceptRequest) -> bool:
    """True if the anchor is part of a text that names the concept: "cat" of "grumpy cat"."""
    anchor = (request.anchor or "").lower()
    return bool(anchor) and any(anchor in name.lower() for name in request.all_names())


def own_tokens(model: DiffusionModel, concepts: Sequence[str], anchors: Sequence[str]) -> list[int]:
    """Ids of the tokens that a prompt has and its anchor has not, in order.

    Raises:
        UsageError: if there are none.
    """
    found: set[int] = set()
    for prompt, anchor in zip(concepts, anchors, strict=True):
        here, there = model.tokens(prompt), model.tokens(anchor)
        found |= set(here.ids[: here.count]) - set(there.ids[: there.count])
    if not found:
        raise UsageError(
            f"The variant embedding trains tokens that a prompt has and its anchor has not, and"
            f" {concepts[0]!r} has none beside {anchors[0]!r}; give another anchor or variant."
        )
    return sorted(found)
