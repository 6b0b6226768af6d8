"""FT, fine-tuning: train on what is to be kept, and hope that the rest fades.

min over theta, from theta_o,   E over D_r of CE(f_theta(x), y)
"""

from __future__ import annotations

from typing import ClassVar

from ...registry import Paper, register
from .base import ClassifierUnlearner


@register("method", "finetune")
class FineTune(ClassifierUnlearner):
    """Fine-tune on the retain set (catastrophic forgetting)."""

    title: ClassVar[str] = "FT"
    paper: ClassVar[Paper] = Paper(
        title="Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
        authors="A. Golatkar, A. Achille, S. Soatto",
        arxiv="1911.04933",
        venue="CVPR 2020",
        cost="epochs over D_r",
    )
