"""Answer sets and scorecards with known numbers, for the report's tests."""

from __future__ import annotations

from functools import cache

import numpy as np

from mu_vision.data import minicanvas
from mu_vision.data.cards import load_card
from mu_vision.evaluation.answers import AnswerSet
from mu_vision.evaluation.protocol import load_protocol
from mu_vision.evaluation.robustness import metrics_of as robustness_metrics
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


def rate(hits: int, total: int = 4) -> dict:
    return {"value": hits / total, "hits": hits, "total": total,
            "interval": list(Rate(hits, total).interval)}  # fmt: skip


def trial(case: int, after: bool, adversarial: str | None, before: bool = False) -> dict:
    return {"prompt": f"A {OBJECTS[case]} image in neon style.", "seed": 3041, "before": before,
            "after": after, "adversarial": adversarial, "tries": 0 if before else 2,
            "queries": 90, "seconds": 1.5}  # fmt: skip


def attack(name: str, title: str, kind: str, white: bool, hits: int, text: str, **changes) -> dict:
    """One record of a battery on four cases; the first ``hits`` are brought back."""
    record = {
        "key": f"{name:0>16}"[:16], "attack": name, "title": title, "kind": kind,
        "white_box": white, "headline": True, "settings": {}, "pre_asr": rate(0),
        "asr": rate(hits), "queries": 360, "seconds": 6.0, "details": {},
        "trials": [trial(case, case < hits, text) for case in range(4)],
        "control": rate(4) if white else None, "floor": {**rate(0), "details": {}},
    }  # fmt: skip
    return {**record, **changes}


def curves(concept: list[float], unrelated: list[float], half: list[float | None]) -> dict:
    return {"marks": [0, 10, 20], "curves": {"concept": concept, "unrelated": unrelated},
            "half": {"concept": half[0], "unrelated": half[1]}}  # fmt: skip


def robustness(floor: bool = True, **changes) -> dict:
    """What ``Battery.audit`` returns: P4D at 2 of 4, image to image at 3 of 4, relearning."""
    counted = {"hits": 3, "total": 4, "interval": list(Rate(3, 4).interval)}
    strengths = {"strengths": [
        {"strength": s, "timestep": 500, "concept": counted, "control": {**counted, "hits": 0}}
        for s in (0.5, 0.9)
    ]}  # fmt: skip
    words = {"sorts": {
        "paraphrase": {"asked": 8, "known": 8, "shown": 1, "interval": [0.02, 0.47]},
        "synonym": {"asked": 4, "known": 0, "shown": 0, "interval": None},
    }}  # fmt: skip
    taught, slower = (
        curves([0, 0.25, 1], [0, 0.5, 0.5], [13.3, 10]), curves([0, 0, 1], [0, 0, 0], [15, None]),
    )  # fmt: skip
    attacks = {
        "paraphrase": attack("paraphrase", "Other words", "text", False, 0, "a lit cat",
                             details=words),
        "p4d": attack("p4d", "P4D", "tokens", True, 2, "glow \x04 a cat", control=rate(3)),
        "image_to_image": attack("image_to_image", "Image to image", "image", False, 3, "noise",
                                 details=strengths, floor={**rate(1), "details": strengths}),
        "relearning": attack("relearning", "Relearning", "weights", True, 4, "20 steps",
                             headline=False, control=None, details=taught,
                             floor={**rate(4), "details": slower}),
    }  # fmt: skip
    if not floor:
        attacks = {name: {**record, "floor": None} for name, record in attacks.items()}
    found = {
        "victim": "9f" * 32, "asked": 5, "cases": 4, "too_long": [], "unknown": ["a neon car"],
        "unasked": [],
        "pre_asr": rate(0), "worst": {"attack": "image_to_image", **rate(3)}, "any": rate(4),
        "attacks": attacks, "before": "b" * 16, "never_knew": "minicanvas/none" if floor else None,
        "warnings": ["P4D brings the concept back in only 75 % of the original's prompts."],
        "blur": False,
    }  # fmt: skip
    return {**found, **changes}


def attacked_data(found: dict | None = None, pictures: bool = True, **changes) -> ReportData:
    """The run of ``data`` with ESD under attack."""
    found = found or robustness()
    cards = dict(data().scorecards)
    warnings = [*cards["esd"]["warnings"], *found["warnings"]]
    cards["esd"] = {**cards["esd"], "robustness": found, "warnings": warnings}
    drawn = answers().pictures[:4]
    fields = {"scorecards": cards}
    if pictures:
        fields["attacked"] = {"esd": {name: drawn for name in found["attacks"]}}
        fields["unattacked"] = {"esd": np.stack([drawn, drawn])}
    return data(**{**fields, **changes})


def audit_data(**changes) -> ReportData:
    """A run that only attacked: scorecards without measurements, no answer sets."""
    found = robustness()
    about = {"metrics": {}, "warnings": found["warnings"], "answers": {"fingerprint": "9f" * 32}}
    metrics = {
        name: vars(metric)
        for name, metric in robustness_metrics(found, "minicanvas/style-judge").items()
    }
    cards = {"original": about, "erased": {**about, "metrics": metrics, "robustness": found}}
    return attacked_data(found, pictures=False, scorecards=cards, answers={}, methods={}, **changes)
