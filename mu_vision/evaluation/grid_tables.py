"""Arrange what the judges said as a grid, whatever the order of the pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import CountMismatch
from .answers import AnswerSet
from .marks import JUDGES, Bench, Marks
from .plan import grid_plan


@dataclass
class Tables:
    """An answer set as arrays over style x object x seed, [S, O, R].

    Attributes:
        right: judge -> bool.
        seen: judge -> position among the judge's classes.
        probability: judge -> its probability of what was asked for.
        confidence: judge -> its largest probability.
        order: [N], rows of the answer set in this order.
    """

    right: dict[str, np.ndarray]
    seen: dict[str, np.ndarray]
    probability: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
    order: np.ndarray


def grid_order(answers: AnswerSet, bench: Bench) -> np.ndarray:
    """Rows of the answer set in the order style, object, seed.

    Raises:
        CountMismatch: if it is not exactly one picture for every style, object and seed.
    """
    plan = grid_plan(bench.protocol)
    wanted = {
        (plan.style_names[s], plan.object_names[o], int(seed)): row
        for row, (s, o, seed) in enumerate(zip(plan.styles, plan.objects, plan.seeds, strict=True))
    }
    order = np.full(len(plan), -1)
    for row, (s, o, seed) in enumerate(
        zip(answers.styles, answers.objects, answers.seeds, strict=True)
    ):
        cell = (answers.style_names[s], answers.object_names[o], int(seed))
        place = wanted.get(cell)
        if place is None or order[place] >= 0:
            fault = "holds it twice" if place is not None else "does not ask for it"
            raise CountMismatch(
                f"The answer set has a picture of {cell}; {bench.protocol.name} {fault}."
            )
        order[place] = row
    if (order < 0).any():
        raise CountMismatch(
            f"{bench.protocol.name} needs {len(plan)} pictures and the answer set has"
            f" {int((order >= 0).sum())}."
        )
    return order


def tabulate(answers: AnswerSet, marks: Marks, bench: Bench) -> Tables:
    """Arrange the marks of an answer set as a grid, whatever the order of its pictures."""
    order, grid = grid_order(answers, bench), bench.protocol.grid
    shape = (len(grid.styles), len(grid.objects), -1)

    def arranged(values: np.ndarray) -> np.ndarray:
        return values[order].reshape(shape)

    seen = {kind: arranged(marks.labels[kind]) for kind in JUDGES}
    asked = {
        "style": bench.columns["style"][:, None, None],
        "object": bench.columns["object"][None, :, None],
    }
    return Tables(
        {kind: seen[kind] == asked[kind] for kind in JUDGES},
        seen,
        {kind: arranged(marks.true_probability[kind]) for kind in JUDGES},
        {kind: arranged(marks.confidence[kind]) for kind in JUDGES},
        order,
    )
