"""What an erasure holds on to: prompts without the concept, and the frozen model's states of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import UsageError
from ...models import maths
from ...models.denoiser import Denoiser
from ...models.diffusion import DiffusionModel
from ...request import ConceptRequest
from ..base import concept_texts

# COCO's object classes (Lin et al. 2014, arXiv 1405.0312) but "person" and "tie": AdvUnlearn's filter
# puts harmless things in the place of people and clothes
COCO_OBJECTS = (
    "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "suitcase",
    "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove",
    "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife",
    "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog",
    "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)  # fmt: skip


def default_prompts() -> list[str]:
    """AdvUnlearn's retain set for a concept of no data set: "a photo of a bicycle", and so on."""
    return [f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in COCO_OBJECTS]


def words_of(requests: Sequence[ConceptRequest]) -> re.Pattern[str]:
    """Finds the names of the concepts and their synonyms in a text.

    Names are matched as whole words, whatever their case: "category" does not name a cat.
    """
    names = sorted({name for request in requests for name in request.all_names()}, key=len)
    return re.compile(r"(?<!\w)(" + "|".join(map(re.escape, names)) + r")(?!\w)", re.IGNORECASE)


def retain_prompts(requests: Sequence[ConceptRequest], prompts: Sequence[str]) -> list[str]:
    """The prompts that name none of the concepts, nor a synonym of one.

    Raises:
        UsageError: if none is left.
    """
    words = words_of(requests)
    kept = [prompt for prompt in dict.fromkeys(prompts) if not words.search(prompt)]
    if not kept:
        raise UsageError(
            f"No retain prompt is left that does not name {requests[0].all_names()[0]!r}"
            f" ({len(prompts)} were given); give others (retain: [...]), or gamma=0 for no retain term."
        )
    return kept


def kept_classes(model: Denoiser, requests: Sequence[ConceptRequest]) -> list[str]:
    """The classes of a label-conditional model that no prompt of the requests names."""
    erased = {model.class_of(prompt) for request in requests for prompt in request.prompts}
    return [name for name in model.classes if name not in erased]


def kept_prompts(
    model: Denoiser, requests: Sequence[ConceptRequest], given: Sequence[str] | None = None
) -> list[str]:
    """Prompts to keep: those given, else the requests' own, else everyday things.

    A label-conditional model keeps its other classes, since it reads nothing else.

    Raises:
        UsageError: if none is left that does not name the concept.
    """
    if given is None and model.classes:
        given = kept_classes(model, requests)
    elif given is None:
        given = concept_texts(requests)[1] or default_prompts()
    return retain_prompts(requests, given)


@dataclass
class RetainPool:
    """States of retain prompts under the frozen model, made once.

    Attributes:
        x: [n, C, h, w] latents on the way from noise to a picture.
        t: [n] their timesteps.
        eps: [n, C, h, w] the frozen model's prediction there.
        which: [n] positions in ``prompts``.
    """

    prompts: list[str]
    x: torch.Tensor
    t: torch.Tensor
    eps: torch.Tensor
    which: torch.Tensor

    @classmethod
    @torch.no_grad()
    def make(
        cls,
        teacher: DiffusionModel,
        prompts: Sequence[str],
        size: int,
        steps: int,
        guidance: float,
        batch: int = 16,
    ) -> RetainPool:
        """Run trajectories of the prompts in turn and keep as many states of every one as it takes.

        A state costs nothing more than its memory: the sampler computes the prediction there anyway.
        Every prompt has its turn if ``size`` allows: a prompt without a state is not kept.
        """
        prompts, parts = list(prompts), []
        each = min(steps, math.ceil(size / len(prompts)))
        count = max(math.ceil(size / each), min(size, len(prompts)))
        order = torch.randperm(len(prompts))
        for rows in torch.arange(count).split(batch):
            parts.append(
                _trajectories(teacher, prompts, order[rows % len(order)], steps, guidance, each)
            )
        rank, x, t, eps, which = (torch.cat(column) for column in zip(*parts, strict=True))
        # what is too much is taken from every trajectory alike
        chosen = rank.argsort(stable=True)[:size]
        x, t, eps = (column[chosen.to(x.device)] for column in (x, t, eps))
        which = which[chosen]
        return cls(prompts, x, t, eps, which)

    def draw(self, n: int) -> dict[str, Any]:
        """N random states: ``x``, ``t``, ``eps`` and the ``prompts`` they belong to."""
        rows = torch.randint(len(self.x), (n,)).to(self.x.device)
        names = [self.prompts[i] for i in self.which[rows].tolist()]
        return {"x": self.x[rows], "t": self.t[rows], "eps": self.eps[rows], "prompts": names}


def _trajectories(
    teacher: DiffusionModel,
    prompts: Sequence[str],
    which: torch.Tensor,
    steps: int,
    guidance: float,
    each: int,
) -> tuple[torch.Tensor, ...]:
    """rank, x, t, eps, which of ``each`` different states of a guided trajectory of every prompt.

    ``rank`` numbers the states of a trajectory from 0, in random order.
    """
    text = teacher.encode_prompt([prompts[i] for i in which.tolist()])
    null, ladder = teacher.null_text(), teacher.timesteps(steps)
    x = torch.randn(len(which), *teacher.latent_shape).to(teacher.device)
    stops = torch.rand(len(which), steps).argsort(1)[:, :each]
    found = []
    for n, t in enumerate(ladder[: int(stops.max()) + 1]):
        e_null, e_cond = teacher.noise_branches(x, t, text, null)
        here, rank = (stops == n).nonzero(as_tuple=True)
        level = torch.full((len(here),), t, device=x.device)
        found.append((rank, x[here], level, e_cond[here], which[here]))
        eps = maths.guided(e_null, e_cond, guidance)
        x = maths.ddim_step(x, eps, teacher.alphas_cumprod[t], teacher.level_after(t, steps))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))
