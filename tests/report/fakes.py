"""Answer sets and scorecards with known numbers, for the report's tests."""

from __future__ import annotations

from functools import cache

import numpy as np

from mu_vision.data import minicanvas
from mu_vision.data.cards import load_card
from mu_vision.evaluation.answers import AnswerSet
from mu_vision.evaluation.protocol import load_protocol
from mu_vision.evaluation.scorecard import Metric, Scorecard
from mu_vision.metrics.rates import Grid, Rate, unlearning_rates
from mu_vision.report.build import ReportData, TableData

CARD = load_card("minicanvas")
STYLES, OBJECTS = tuple(CARD.style_names), tuple(CARD.object_names)
SEEDS = (188, 288, 588)
SHAPE = (len(STYLES), len(OBJECTS), len(SEEDS))
REQUEST = {"kind": "style", "name": "neon", "prompts": ["neon style"], "anchor": "photo style",
           "dataset": "minicanvas"}  # fmt: skip


@cache
def answers(target: str | None = None, became: str = "photo", noise: float = 0.0) -> AnswerSet:
    """Rendered pictures in place of drawn ones; the style ``target`` is painted as ``became``."""
    rng = np.random.default_rng(0)
    styles, objects, seeds = np.indices(SHAPE).reshape(3, -1)
    pictures = []
    for s, o, r in zip(styles.tolist(), objects.tolist(), seeds.tolist(), strict=True):
        style = became if STYLES[s] == target else STYLES[s]
        picture = minicanvas.render(OBJECTS[o], style, 1300 + 7 * r + o)
        grain = rng.normal(0, noise, picture.shape) if noise else 0
        pictures.append(np.clip(picture + grain, 0, 255).astype(np.uint8))
    prompts = tuple(CARD.prompt(OBJECTS[o], STYLES[s]) for s, o in zip(styles, objects))
    return AnswerSet(np.stack(pictures), styles, objects, np.array(SEEDS)[seeds], STYLES, OBJECTS,
                     prompts, "9f" * 32, "3a" * 32)  # fmt: skip


def right(wrong: float, seed: int, lost: str | None = None) -> np.ndarray:
    """[S, O, R] bool: wrong in this share of cells, and in the row of ``lost`` nearly always."""
    rng = np.random.default_rng(seed)
    table = rng.random(SHAPE) >= wrong
    if lost:
        table[STYLES.index(lost)] = rng.random(SHAPE[1:]) < 0.04
    return table


def scorecard(
    name: str, wrong: float, lost: str | None, fid: float, warnings=(), flags=None, request=REQUEST
) -> Scorecard:
    grid = Grid(STYLES, OBJECTS, "photo", True)
    tables = {"style": right(wrong, 1, lost), "object": right(wrong / 2, 2)}
    rates = unlearning_rates(grid, tables["style"], tables["object"], "style", ["neon"])
    style, thing = "minicanvas/style-judge", "minicanvas/object-judge"
    chosen = {"ua": (rates["ua"], style), "ira": (rates["ira"], style),
              "cra": (rates["cra_all"], thing), "cra_retain": (rates["cra_retain"], thing),
              "style_accuracy": (Rate.of(tables["style"]), style),
              "object_accuracy": (Rate.of(tables["object"]), thing)}  # fmt: skip
    metrics = {n: Metric.of_rate(n, r, r.total, j, 0.4) for n, (r, j) in chosen.items()}
    pictures = int(np.prod(SHAPE))
    metrics["fid_clip"] = Metric("fid_clip", fid, pictures, pictures, None, "minicanvas/clip", 1.0,
                                 "distance")  # fmt: skip
    metrics["clip_score"] = Metric("clip_score", 0.2931, pictures, pictures, (0.2903, 0.2959))
    metrics["target_cross_accuracy"] = Metric.of_rate("target_cross_accuracy", Rate.of(
        tables["object"][STYLES.index("neon")]), 30, thing, 0.4)  # fmt: skip
    metrics["paired_ira_change"] = Metric("paired_ira_change", -0.043, 210, 210, (-0.08, -0.01),
                                          style, 0.1, "share")  # fmt: skip
    metrics["seconds"] = Metric("seconds", 61.28, 1, 1, unit="s")
    hits = {judge: table.sum(axis=2).tolist() for judge, table in tables.items()}
    gone = int(tables["style"][STYLES.index("neon")].sum())
    total = len(OBJECTS) * len(SEEDS)
    became = {"photo": total - gone - 3, "neon": gone, "woodcut": 2, "mosaic": 1}
    return Scorecard(
        name, None if name == "original" else name, request, "minicanvas", metrics,
        list(warnings), flags or {},
        cells={j: {"styles": list(STYLES), "objects": list(OBJECTS), "hits": h, "total": len(SEEDS)}
               for j, h in hits.items()},
        became=became if lost else {"neon": gone, "mosaic": total - gone},
        answers={"key": "3a" * 32, "fingerprint": "9f" * 32, "sha256": "c4" * 32,
                 "pictures": pictures},
    )  # fmt: skip


def data(**changes) -> ReportData:
    """A run that forgot neon by two methods."""
    warning = "UA may come from ruined pictures: the object judge's confidence fell by 31 points."
    cards = {
        "original": scorecard("original", 0.02, None, 11.42),
        "esd": scorecard("esd", 0.07, "neon", 13.9),
        "uce": scorecard("uce", 0.3, "neon", 41.7, [warning], {"collapsed": True}),
    }
    fields = {
        "name": "quickstart",
        "request": REQUEST,
        "scorecards": {key: card.to_json() for key, card in cards.items()},
        "answers": {
            "original": answers(),
            "esd": answers("neon", "photo", 6.0),
            "uce": answers("neon", "watercolor", 40.0),
        },
        "recipe": "name: quickstart\nkind: erase\nmodel: minicanvas/sd\nmethods:\n  esd: {steps: 200}\n",
        "environment": {"mu_vision": "0.1.0", "packages": {"torch": "2.15.0"}, "cores": 2},
        "methods": {
            "esd": {"settings": {"variant": "x", "steps": 200, "lr": 1e-5}, "seconds": 61.28},
            "uce": {"settings": {"erase_scale": 1.0}, "seconds": 0.21},
        },
        "protocol": load_protocol("minicanvas").model_dump(mode="json"),
        "model": "minicanvas/sd",
    }
    return ReportData(**{**fields, **changes})


def table(**changes) -> TableData:
    """Three styles and two objects by two methods."""
    rows = []
    for k, (kind, request) in enumerate(
        [("style", "neon"), ("style", "mosaic"), ("style", "blueprint"), ("object", "cat"),
         ("object", "boat")]
    ):  # fmt: skip
        for method, ua, ira, cra in (
            ("original", 2.0 + k, 98.0, 97.5),
            ("esd", 97.0 - k, 91.0 - 2 * k, 93.0),
            ("uce", 92.5 + k, 80.0 - 3 * k, 88.5),
        ):
            rows.append(
                {"group": f"{kind}s", "request": request, "method": method, "kind": kind, "ua": ua,
                 "ira": ira, "cra": cra, "fid_clip": 12.25 + k, "clip_score": 29.5,
                 "seconds": None if method == "original" else 40.0 + k}
            )  # fmt: skip
    fields = {
        "name": "minicanvas_baselines",
        "rows": rows,
        "protocol": load_protocol("minicanvas").model_dump(mode="json"),
        "model": "minicanvas/sd",
        "recipe": "name: minicanvas_baselines\n",
    }
    return TableData(**{**fields, **changes})
