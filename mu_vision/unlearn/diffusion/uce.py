"""UCE, "Unified Concept Editing in Diffusion Models" (Gandikota et al., WACV 2024), closed form.

For every cross-attention key and value matrix W (old value W0), concepts c_i with guides c_i*,
and preserved texts c_j:

    min_W  alpha sum_i |W c_i - W0 c_i*|^2 + beta sum_j |W c_j - W0 c_j|^2 + lambda |W - W0|_F^2

    W = W0 T,   T = I + alpha (C* - C) C^T A^{-1},   A = lambda I + alpha C C^T + beta P P^T

T does not depend on the layer, so one float64 Cholesky solve serves all matrices. No U-Net forward
pass is needed. The columns c are last hidden states of the text encoder at chosen positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from ...errors import UsageError
from ...models.diffusion import DiffusionModel
from ...registry import Paper, register
from ...request import ConceptRequest
from ..base import ClosedFormUnlearner, concept_texts
from .selectors import select

Columns = Literal["last", "span", "all"]


@register("method", "uce")
class UCE(ClosedFormUnlearner):
    """Unified Concept Editing: solve once for all cross-attention keys and values.

    alpha, beta and lambda default to the published code's.
    """

    family: ClassVar[str] = "diffusion"
    paper: ClassVar[Paper] = Paper(
        title="Unified Concept Editing in Diffusion Models",
        authors="R. Gandikota, H. Orgad, Y. Belinkov, J. Materzynska, D. Bau",
        arxiv="2308.14761",
        venue="WACV 2024",
        repository="https://github.com/rohitgandikota/unified-concept-editing",
        licence="MIT",
        deviations=(
            "The null prompt is among the preserved texts (the newer published code leaves it"
            " out; preserve_null=false).",
            "One solve in float64 by Cholesky in place of an inverse in float32 for each matrix.",
        ),
        cost="the text states of all prompts, one solve; no U-Net forward pass",
    )
    trial: ClassVar[dict[str, Any]] = {}
    idle: ClassVar[dict[str, Any] | None] = {"erase_scale": 0.0}

    erase_scale: float = Field(1.0, ge=0, description="alpha, weight of the concepts to erase")
    preserve_scale: float = Field(1.0, ge=0, description="beta, weight of the texts to preserve")
    lamb: float = Field(0.5, gt=0, description="lambda, weight of staying at the old matrices")
    columns: Columns = Field(
        "last",
        description="text positions that are edited: the last real token (newer published code),"
        " from it to the end of the sequence (paper-time code), or all",
    )
    texts: Literal["all", "names", "captions"] = Field(
        "all", description="which of the request's prompts to erase"
    )
    keep: Literal["all", "names", "captions", "none"] = Field(
        "all", description="which of the request's texts to preserve"
    )
    preserve_columns: Literal["same", "last", "all"] = Field(
        "same",
        description="text positions that are preserved: as the published code does for `columns`"
        " (the last real token for last, else all), or one of the two whatever is edited",
    )
    preserve: tuple[str, ...] = Field((), description="further texts to preserve")
    preserve_null: bool = Field(True, description="preserve the null prompt too")
    guide: str | None = Field(
        None, description="one text in place of the request's anchors; '' is the null prompt"
    )
    probe: tuple[str, ...] = Field((), description="texts whose drift is only reported")

    def trained(self, model: DiffusionModel) -> list[str]:
        return [name for name in select(model, "x-strict") if name.endswith(".weight")]

    def edit(self, model: DiffusionModel, requests: Sequence[ConceptRequest]) -> dict[str, Any]:
        pairs, kept = concept_texts(requests, self.texts, self.keep)
        if self.guide is not None:
            pairs = [(prompt, self.guide) for prompt, _ in pairs]
        kept = list(dict.fromkeys([*([""] if self.preserve_null else []), *kept, *self.preserve]))
        edits = [concept_columns(model, prompt, guide, self.columns) for prompt, guide in pairs]
        c, c_star = (torch.cat(parts, 1) for parts in zip(*edits, strict=True))
        where = self.columns if self.preserve_columns == "same" else self.preserve_columns
        p = torch.cat([preserved_columns(model, text, where) for text in kept] or [c[:, :0]], 1)
        delta = solve(c, c_star, p, self.erase_scale, self.preserve_scale, self.lamb)
        parameters = model.named_parameters()
        gram = torch.zeros(len(c), len(c), dtype=torch.float64)
        for name in self.trained(model):
            w_0 = parameters[name].double().cpu()
            if w_0.shape[1] != len(c):
                raise UsageError(f"{name} does not read the text states, so UCE cannot edit it.")
            gram += w_0.T @ w_0
            parameters[name].copy_(w_0 + w_0 @ delta)
        return self._report(model, pairs, edits, kept, delta, gram)

    def _report(
        self,
        model: DiffusionModel,
        pairs: list[tuple[str, str]],
        edits: list[tuple[torch.Tensor, torch.Tensor]],
        kept: list[str],
        delta: torch.Tensor,
        gram: torch.Tensor,
    ) -> dict[str, Any]:
        """Residuals |W c - v*| / |v*| and drifts |W c - W0 c| / |W0 c|, over all matrices."""
        concepts = [
            {
                "prompt": prompt,
                "guide": guide,
                "columns": c.shape[1],
                "residual_before": _ratio(gram, c - c_star, c_star),
                "residual": _ratio(gram, c + delta @ c - c_star, c_star),
            }
            for (prompt, guide), (c, c_star) in zip(pairs, edits, strict=True)
        ]

        def drift(texts: Sequence[str]) -> dict[str, float]:
            columns = {text: preserved_columns(model, text, "all") for text in texts}
            return {text: _ratio(gram, delta @ c, c) for text, c in columns.items()}

        return {"concepts": concepts, "preserved_drift": drift(kept), "drift": drift(self.probe)}


def solve(
    c: torch.Tensor,
    c_star: torch.Tensor,
    p: torch.Tensor,
    alpha: float,
    beta: float,
    lamb: float,
) -> torch.Tensor:
    """T - I [d, d] in float64, so that the edited matrices are W0 + W0 (T - I).

    Args:
        c: columns to edit [d, n].
        c_star: their targets [d, n].
        p: columns to preserve [d, m], m may be 0.
        alpha: weight of the edit.
        beta: weight of the preservation.
        lamb: ridge towards the old matrices, above 0.
    """
    c, c_star, p = c.double(), c_star.double(), p.double()
    a = lamb * torch.eye(len(c), dtype=torch.float64) + alpha * c @ c.T + beta * p @ p.T
    return torch.cholesky_solve(alpha * c @ (c_star - c).T, torch.linalg.cholesky(a)).T


def concept_columns(
    model: DiffusionModel, prompt: str, guide: str, columns: Columns
) -> tuple[torch.Tensor, torch.Tensor]:
    """Aligned text states of a concept and its guide, [d, n] each, in float64.

    ``last``: the last real token of each. ``span``: from there to the end of the sequence.
    ``all``: the tokens with which both texts begin are mapped to themselves, and the others are
    aligned at the last real token; where the concept has more tokens than the guide, the rest of
    them goes to the guide's first token that differs.
    """
    h, h_star = (_states(model, text) for text in (prompt, guide))
    a, b = model.tokens(prompt), model.tokens(guide)
    if columns == "last":
        return h[:, [a.last]], h_star[:, [b.last]]
    after = min(len(a.ids) - a.last, len(b.ids) - b.last)
    here = list(range(a.last, a.last + after))
    there = list(range(b.last, b.last + after))
    if columns == "all":
        same = 0
        while same < min(a.last, b.last) and a.ids[same] == b.ids[same]:
            same += 1
        before = range(same, a.last)
        here = [*range(same), *before, *here]
        there = [*range(same), *(max(same, k - a.last + b.last) for k in before), *there]
    return h[:, here], h_star[:, there]


def preserved_columns(model: DiffusionModel, text: str, columns: Columns) -> torch.Tensor:
    """Text states to preserve [d, n]: the last real token, or every position."""
    h = _states(model, text)
    return h[:, [model.tokens(text).last]] if columns == "last" else h


def _states(model: DiffusionModel, text: str) -> torch.Tensor:
    """All text states [d, L] of one text, in float64 on the CPU."""
    return model.encode_prompt([text]).states[0].T.double().cpu()


def _ratio(gram: torch.Tensor, difference: torch.Tensor, whole: torch.Tensor) -> float:
    """|W0 difference| / |W0 whole| over all matrices, from their sum of W0^T W0."""

    def norm(x: torch.Tensor) -> float:
        return max(float(torch.einsum("in,ij,jn->", x, gram, x)), 0.0) ** 0.5

    return norm(difference) / max(norm(whole), 1e-300)
