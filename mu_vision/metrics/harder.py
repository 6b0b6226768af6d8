"""UnlearnCanvas's finer-scale and sequential settings, from label tables (arXiv 2402.11846).

Finer scale: forget one (style, object) pair; its style and its object must survive elsewhere.
Sequential: requests T1..Tn one after the other, each applied to the model the last one left.
The paper releases no code for either, so both readings of UA are offered by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from .rates import Grid, Rate


def pair_masks(grid: Grid, style: str, object: str) -> dict[str, np.ndarray]:
    """Split the scored cells for a pair: ``UA``, ``SC``, ``OC``, ``UP``, each [S, O] bool.

    Over 50 styles and 20 objects they hold 1, 19, 49 and 931 cells.
    """
    by_style = grid.target_mask("style", [style])
    by_object = grid.target_mask("object", [object])
    scored = grid.scored_mask()
    return {
        "UA": by_style & by_object & scored,
        "SC": by_style & ~by_object & scored,
        "OC": ~by_style & by_object & scored,
        "UP": ~by_style & ~by_object & scored,
    }


def pair_rates(
    grid: Grid,
    style_right: np.ndarray,
    object_right: np.ndarray,
    style: str,
    object: str,
    ua: Literal["both_wrong", "either_wrong"] = "both_wrong",
) -> dict[str, Rate]:
    """UA of the pair, style consistency, object consistency, unrelated prompts.

    Args:
        grid: the names and what counts.
        style_right: [S, O, R] bool, what the style judge found right.
        object_right: [S, O, R] bool, what the object judge found right.
        style: style of the pair to be forgotten.
        object: object of the pair to be forgotten.
        ua: a picture counts as forgotten when both judges deny the pair, or when one does.
    """
    masks = pair_masks(grid, style, object)
    wrong = ~style_right & ~object_right if ua == "both_wrong" else ~style_right | ~object_right
    return {
        "UA": Rate.of(wrong[masks["UA"]]),
        "SC": Rate.of(style_right[masks["SC"]]),
        "OC": Rate.of(object_right[masks["OC"]]),
        "UP": Rate.of((style_right & object_right)[masks["UP"]]),
    }


def rebounds(ua: Sequence[Sequence[float]]) -> list[float]:
    """How much of each request came back by the end of a sequence.

    Args:
        ua: ``ua[i]`` holds UA of request i after request i, i+1, ..., n.

    Returns:
        ``UA_i(after i) - UA_i(after n)`` for each request.
    """
    return [row[0] - row[-1] for row in ua]


def collapses(retain: Sequence[float]) -> list[float]:
    """Loss of retained accuracy at each request: ``RA(after j - 1) - RA(after j)``, j >= 2."""
    return [before - after for before, after in itertools.pairwise(retain)]
