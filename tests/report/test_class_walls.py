"""Pictures of a report about a model that is asked for labels: no styles, one row of pictures a model."""

from __future__ import annotations

import numpy as np

from mu_vision.evaluation.answers import AnswerSet
from mu_vision.report.build import _class_walls, _lookup
from mu_vision.report.views import ModelView

CLASSES = ("cat", "boat", "tree")


def answers(each: int = 12) -> AnswerSet:
    objects, numbers = np.indices((len(CLASSES), each)).reshape(2, -1)
    shade = (40 * objects + numbers).astype(np.uint8)
    pictures = np.broadcast_to(shade[:, None, None, None], (len(shade), 8, 8, 3))
    outside = np.full(len(objects), -1)
    names = tuple(CLASSES[o] for o in objects)
    return AnswerSet(pictures, outside, objects, numbers, (), CLASSES, names, "f", "k")


def test_a_wall_of_the_target_and_one_of_every_other_class():
    lookup = {"original": _lookup(answers()), "sfd": _lookup(answers())}
    shown = {"original": "Original", "sfd": "SFD"}
    walls = _class_walls(["cat"], CLASSES, shown, lookup)
    assert [text for text, _ in walls["target"].columns] == ["cat"] * 10
    assert [text for text, _ in walls["kept"].columns] == ["boat", "tree"]
    assert [key for key, _ in walls["target"].rows] == ["original", "sfd"]
    assert walls["target"].rows[1][1][0].alt == "SFD: cat, picture 1, seed 0"
    assert _class_walls([], CLASSES, shown, lookup)["target"] is None


def test_kept_is_ira_where_there_is_no_other_label():
    from mu_vision.report.labels import Value

    view = ModelView(
        "sfd", "SFD", 1, {"ua": Value("ua", 1.0), "ira": Value("ira", 0.9)}, [], [], []
    )
    assert view.kept == 0.9 and view.kept_is == "IRA"
    both = {**view.values, "cra": Value("cra", 0.7)}
    view = ModelView("esd", "ESD", 1, both, [], [], [])
    assert view.kept == 0.8 and view.kept_is == "mean of IRA and CRA"
