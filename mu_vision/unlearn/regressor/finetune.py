"""FT, fine-tuning: train on what is to be kept, and hope that the rest fades.

    min over theta, from theta_o,   E over D_r of d(f_theta(x), y)

The baseline of Deep Regression Unlearning (Tarun et al., ICML 2023).
"""

from __future__ import annotations

from typing import ClassVar

from ...registry import Paper, register
from .base import RegressorUnlearner, deep_regression


@register("method", "finetune")
class FineTune(RegressorUnlearner):
    """Fine-tune on the retain set."""

    title: ClassVar[str] = "FT"
    paper: ClassVar[Paper] = deep_regression("epochs over D_r")
