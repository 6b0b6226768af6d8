"""The report of GANs that forgot: tables, pictures of the same latents, the walk, the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import views
from .build import write_page
from .pictures import Shown, Wall, data_uri
from .plots import Curve, curves

RETRAINED = "retrained"
HEADINGS = {
    "pul": "PUL", "pul_gap": "to retrained", "negatives": "shown, %", "fid": "FID", "ret_fid": "Ret-FID",
    "fid_ratio": "FID ratio", "found": "found, %", "balance": "balance, %", "moved": "moved, %",
    "path": "path", "r": "r", "seconds": "seconds",
}  # fmt: skip
SHARES = ("negatives", "found", "balance", "moved")
DECIMALS = {"fid": 1, "ret_fid": 1, "fid_ratio": 2, "path": 0, "r": 1, "seconds": 0}
WITHIN = 1.5  # times the original's FID: what counts as kept
LARGER = 3  # small pictures are enlarged by whole pixels


@dataclass
class GanData:
    """What the page is made from.

    Attributes:
        scores: the content of ``scores.json``.
        pictures: group -> arrays of the first seed's ``pictures/*.npz``; may be missing.
        about: group -> what the run noted of these pictures.
    """

    name: str
    scores: Mapping[str, Any]
    pictures: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""


def write_gan(data: GanData, path: Path | str) -> Path:
    """Write the report of a ``gan`` recipe as one HTML file."""
    return write_page("gan.html.j2", data, gan_context(data), path)


def title_of(key: str) -> str:
    """The name of a row."""
    return "Retrained" if key == RETRAINED else views.title_of(key)


def cell(line: Mapping[str, Any], key: str) -> tuple[str, str]:
    """A value of the table as text, and its spread over seeds."""
    value, half = line.get(key), line.get(f"{key}_half")
    if value is None:
        return "–", ""
    scale, decimals = (100, 1) if key in SHARES else (1, DECIMALS.get(key, 1))
    text = f"{scale * value:.{decimals}f}"
    return text, "" if half is None else f"± {scale * half:.{decimals}f}"


def gan_context(data: GanData) -> dict[str, Any]:
    """Everything that the template needs, already worded."""
    scores, blocks = data.scores, []
    colours = views.colours(line["method"] for line in scores["table"])
    for group, about in scores["groups"].items():
        lines = [line for line in scores["table"] if line["group"] == group]
        rows = [row for row in scores["rows"] if row["group"] == group]
        first = [row for row in rows if row["seed"] == scores["seeds"][0]]
        looks = {
            line["method"]: {"title": title_of(line["method"]), "colour": colours[line["method"]]}
            for line in lines
        }
        shown = [key for key in HEADINGS if any(line.get(key) is not None for line in lines)]
        pictures = data.pictures.get(group, {})
        blocks.append(
            {
                "group": group,
                "about": about,
                "headings": [HEADINGS[key] for key in shown],
                "rows": [_row(line, first, shown) for line in lines],
                "failed": [row for row in rows if "failed" in row],
                "stopped": [row for row in rows if row.get("stopped")],
                "models": looks,
                "wall": _wall(pictures, looks, data.about.get(group, {})),
                "walk": _walk(pictures, data.about.get(group, {})),
                "progress": _progress(first, looks),
                "search": _search(first, looks),
                "counts": _counts(first, scores["classes"], about["target"]),
                "verdict": _verdict(lines),
            }
        )
    return {"blocks": blocks, "seeds": len(scores["seeds"]), "latents": scores["latents"]}


def _row(
    line: Mapping[str, Any], first: Sequence[Mapping[str, Any]], shown: Sequence[str]
) -> dict[str, Any]:
    mine = next((row for row in first if row["method"] == line["method"]), {})
    cells = []
    for key in shown:
        text, half = cell(line, key)
        interval = mine.get(f"{key}_interval")
        if not half and interval and key in ("pul", "negatives"):
            scale = 100 if key in SHARES else 1
            half = f"{scale * interval[0]:.1f} to {scale * interval[1]:.1f}"
        cells.append((text, half))
    plain = line["method"] in (views.ORIGINAL, RETRAINED)
    return {"title": title_of(line["method"]), "cells": cells, "plain": plain}


def _shown(pixels: np.ndarray, alt: str) -> Shown:
    if max(pixels.shape[:2]) <= 64:
        pixels = pixels.repeat(LARGER, 0).repeat(LARGER, 1)
    return Shown(data_uri(pixels), alt)


def _wall(
    pictures: Mapping[str, np.ndarray], looks: Mapping[str, Any], about: Mapping[str, Any]
) -> Wall | None:
    """The same latents of every GAN, those that showed the target first."""
    rows = []
    for label, look in looks.items():
        if (found := pictures.get(f"grid.{label}")) is not None:
            named = enumerate(found, 1)
            rows.append((label, [_shown(x, f"{look['title']}, latent {k}") for k, x in named]))
    if not rows:
        return None
    shown = about.get("shown", 0)
    columns = [("target" if k < shown else "other", "before") for k in range(len(rows[0][1]))]
    return Wall(columns, rows)


def _walk(pictures: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a latent, a column a step along theta_N - theta_G."""
    steps = about.get("walk", [])
    if not steps or "walk.0" not in pictures:
        return []
    return [
        {
            "s": f"{s:g}",
            "share": f"{100 * share:.1f}",
            "pictures": [_shown(x, f"s = {s:g}") for x in pictures[f"walk.{number}"]],
        }
        for number, (s, share) in enumerate(steps)
    ]


def _progress(rows: Sequence[Mapping[str, Any]], looks: Mapping[str, Any]) -> Any:
    """PUL over iterations, on the latents that the run itself looks at."""
    lines = []
    for row in rows:
        watched = row.get("watched") or []
        if len(watched) > 1 and watched[0][1] > 0:
            steps, shares = zip(*watched, strict=True)
            look = looks[row["method"]]
            values = [1 - share / shares[0] for share in shares]
            lines.append(Curve(look["title"], steps, values, look["colour"]))
    return curves(lines, 640, 300) if lines else None


def _search(rows: Sequence[Mapping[str, Any]], looks: Mapping[str, Any]) -> dict[str, Any] | None:
    """Share of starts from which the attack found the target, by budget."""
    found = [(row, row["search"]) for row in rows if row.get("search")]
    if not found:
        return None
    told = []
    for row, rates in found:
        cells = [f"{rate['hits']}/{rate['total']}" for rate in rates]
        told.append((looks[row["method"]]["title"], cells))
    return {"rows": told, "budgets": len(found[0][1])}


def _counts(
    rows: Sequence[Mapping[str, Any]], classes: Sequence[str], target: str
) -> dict[str, Any]:
    """How often the scorer saw each class: what was moved besides the target."""
    table = [(title_of(row["method"]), row["counts"]) for row in rows if "counts" in row]
    hit = [target == name or target in name.split() for name in classes]
    return {"classes": list(zip(classes, hit, strict=True)), "rows": table}


def _verdict(lines: Sequence[Mapping[str, Any]]) -> str:
    """What is best among those whose FID stays within 1.5 times the original's."""
    fine = [
        line for line in lines
        if line["method"] not in (views.ORIGINAL, RETRAINED) and line.get("pul") is not None
        and line["fid_ratio"] <= WITHIN
    ]  # fmt: skip
    if not fine:
        return f"No method keeps FID within {WITHIN} times the original's."
    start = f"Of those that keep FID within {WITHIN} times the original's,"
    most = max(fine, key=lambda line: line["pul"])
    text = f"{start} {title_of(most['method'])} removes most: PUL {most['pul']:.1f}."
    gold = next((line for line in lines if line["method"] == RETRAINED), None)
    if gold is None:
        return text
    near = min(fine, key=lambda line: line["pul_gap"])
    return (
        f"{text} Of them {title_of(near['method'])} comes nearest to the retrained GAN: PUL {near['pul']:.1f}"
        f" beside {gold['pul']:.1f}."
    )
