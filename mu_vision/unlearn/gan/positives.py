"""Positives only: the game goes on with the pictures that the oracle did not mark.

    min_G max_D  E_{x in S_p} log D(x) + E_z log(1 - D(G(z)))

Stage 2 of Adapt-then-Unlearn (Tiwary et al., TMLR 2025) without its repulsion: the ablation that
every comparison with it needs.
"""

from __future__ import annotations

from typing import ClassVar

from ...registry import Paper, register
from .base import GanUnlearner


@register("method", "positives")
class Positives(GanUnlearner):
    """Fine-tune the GAN on its own pictures without the target."""

    title: ClassVar[str] = "Positives only"
    paper: ClassVar[Paper] = Paper(
        title="Adapt then Unlearn: Exploring Parameter Space Semantics for Unlearning in GANs",
        authors="P. Tiwary, A. Guha, S. Panda, Prathosh A.P.",
        arxiv="2309.14054",
        venue="TMLR 2025",
        repository="https://github.com/atriguha/Adapt_Unlearn",
        deviations=("An ablation of the paper's stage 2; the paper has no row of its own for it.",),
        cost="a step of each network, and `samples` pictures drawn once",
    )
