"""Turn what the judges said into the metrics of a scorecard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CountMismatch
from ..metrics import clip as clip_metrics
from ..metrics.frechet import frechet_from_features
from ..metrics.rates import Rate, confusion, paired_change, unlearning_rates
from .answers import AnswerSet
from .features import ClipExtractor
from .grid_tables import Tables, tabulate
from .marks import JUDGES, Bench, Marks
from .quality import check_requests
from .scorecard import Metric

if TYPE_CHECKING:
    from ..request import ConceptRequest

OTHER = {"style": "object", "object": "style"}
NEUTRAL = "a picture"


@dataclass
class Measured:
    """Metrics of one answer set, with the tables behind them."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    confusion: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Any] = field(default_factory=dict)
    became: dict[str, int] = field(default_factory=dict)

    def add(self, metric: Metric) -> None:
        self.metrics[metric.name] = metric


class Measurer:
    """Measures answer sets for one request.

    Args:
        bench: the judges, with what they need.
        requests: what is to be forgotten, all of one kind; none for accuracies only.
        folder: where features of the real pictures are kept.

    Raises:
        UsageError: if the requests do not fit the protocol.
    """

    def __init__(
        self,
        bench: Bench,
        requests: Sequence[ConceptRequest] = (),
        folder: Path | str | None = None,
    ):
        self.folder = folder
        self.bench, self.protocol, self.requests = bench, bench.protocol, tuple(requests)
        grid = self.grid = bench.protocol.grid
        self.kind: str | None = check_requests(bench, self.requests)
        self.targets = [request.name for request in self.requests]
        self.scored = grid.scored_mask()
        self.target = np.zeros_like(self.scored)
        if self.kind in JUDGES:
            self.target = grid.target_mask(self.kind, self.targets)
        self.kept = self.scored & ~self.target
        self.nearest = self._nearest() if self.protocol.nearest else []
        self.near = np.zeros_like(self.kept)
        if self.nearest:
            self.near = self.kept & grid.target_mask(self.kind, self.nearest)
        self.seeds = len(bench.protocol.seeds)

    def _nearest(self) -> list[str]:
        """The retained concepts whose real pictures CLIP finds most like the target's."""
        fid, kind = ClipExtractor.name, self.kind
        if kind not in JUDGES or fid not in [e.name for e in self.bench.extractors]:
            return []
        real = self.bench.reference(self.folder)
        names, labels = (getattr(of, f"{kind}s") for of in (self.grid, real))
        order = clip_metrics.nearest_classes(
            real.features[fid], labels, [names.index(name) for name in self.targets]
        )
        retained = self.kept.any(axis=1 if self.kind == "style" else 0)
        return [names[k] for k in order if retained[k]][: self.protocol.nearest]

    def measure(
        self, answers: AnswerSet, marks: Marks, concept: tuple[AnswerSet, Marks] | None = None
    ) -> Measured:
        """All metrics that one model alone gives.

        Args:
            answers: the grid's pictures.
            marks: what the judges say of them.
            concept: pictures and marks for requests in free words.
        """
        tables, found = tabulate(answers, marks, self.bench), Measured()
        self._rates(found, tables, marks)
        if self.kind == "concept" and concept is not None:
            self._concept(found, *concept)
        self._accuracies(found, tables, marks)
        if self.bench.clip:
            self._clip(found, tables, marks, answers)
        self._distances(found, tables, marks)
        self._tables(found, tables)
        seconds, memory = answers.seconds, answers.peak_memory_gb
        total = self.protocol.pictures()
        for name, value, unit in (
            ("sampling_seconds", seconds, "s"),
            ("sampling_memory_gb", memory, "GB"),
        ):
            found.add(Metric(name, value, total, len(answers), None, "", seconds, unit))
        return found

    def _rate(self, name: str, right: np.ndarray, mask: np.ndarray, judge: str, marks: Marks):
        expected = int(mask.sum()) * self.seeds
        by, seconds = self._judge(judge), marks.seconds.get(judge, 0.0)
        return Metric.of_rate(name, Rate.of(right[mask]), expected, by, seconds)

    def _mean(
        self, name: str, values: np.ndarray, mask: np.ndarray, judge: str, marks: Marks,
        unit: str = "share",
    ) -> Metric:  # fmt: skip
        picked, expected = values[mask], int(mask.sum()) * self.seeds
        return Metric(
            name, float(picked.mean()), expected, picked.size, None, self._judge(judge),
            marks.seconds.get(judge, 0.0), unit,
        )  # fmt: skip

    def _judge(self, judge: str) -> str:
        if judge == "clip":
            return self.bench.clip.name
        return self.bench.judges[judge].name

    def _rates(self, found: Measured, tables: Tables, marks: Marks) -> None:
        """UA, IRA, CRA, and what they hide about the cells of the target."""
        if self.kind not in JUDGES:
            return
        other, scope = OTHER[self.kind], self.protocol.cra_scope
        beside = "retain" if scope == "all" else "all"
        forgotten = self.target & self.scored
        rates = unlearning_rates(
            self.grid, tables.right["style"], tables.right["object"], self.kind, self.targets
        )
        masks = {"ua": forgotten, "ira": self.kept, "cra_all": self.scored, "cra_retain": self.kept}
        for name, key, judge in (
            ("ua", "ua", self.kind),
            ("ira", "ira", self.kind),
            ("cra", f"cra_{scope}", other),
            (f"cra_{beside}", f"cra_{beside}", other),
        ):
            expected = int(masks[key].sum()) * self.seeds
            seconds = marks.seconds.get(judge, 0.0)
            found.add(Metric.of_rate(name, rates[key], expected, self._judge(judge), seconds))
        if self.nearest:
            rate = self._rate("ira_nearest", tables.right[self.kind], self.near, self.kind, marks)
            found.add(replace(rate, details={**rate.details, "concepts": self.nearest}))
        right = tables.right[other]
        found.add(self._rate("target_cross_accuracy", right, forgotten, other, marks))
        for name, values, judge in (
            ("target_probability", tables.probability, self.kind),
            ("target_confidence", tables.confidence, self.kind),
            ("target_cross_confidence", tables.confidence, other),
        ):
            found.add(self._mean(name, values[judge], forgotten, judge, marks))
        classes = self.bench.judges[self.kind].classes
        counts = np.bincount(tables.seen[self.kind][forgotten].ravel(), minlength=len(classes))
        order = np.argsort(-counts, kind="stable")
        found.became = {classes[k]: int(counts[k]) for k in order if counts[k]}

    def _concept(self, found: Measured, answers: AnswerSet, marks: Marks) -> None:
        """UA of a request in free words, by CLIP; see ``evaluate.evaluate``."""
        started = time.perf_counter()
        expected = self.protocol.concept_pictures * len(self.requests)
        features = clip_metrics.normalised(marks.clip).reshape(
            len(self.requests), -1, marks.clip.shape[1]
        )
        chances = []
        for request, pictures in zip(self.requests, features, strict=True):
            texts = self.bench.texts([request.prompts[0], request.anchor or NEUTRAL])
            cosines = pictures @ clip_metrics.normalised(texts).T
            chances.append(
                1 / (1 + np.exp(self.bench.clip.logit_scale * (cosines[:, 1] - cosines[:, 0])))
            )
        chance = np.concatenate(chances)
        forgotten = chance <= 0.5
        seconds = marks.seconds.get("clip", 0.0) + time.perf_counter() - started
        by = self.bench.clip.name
        found.add(Metric.of_rate("ua", Rate.of(forgotten), expected, by, seconds))
        found.add(
            Metric(
                "target_probability", float(chance.mean()), expected, chance.size, None, by,
                seconds, "share",
            )
        )  # fmt: skip
        hits = int(forgotten.sum())
        first = self.requests[0]
        found.became = {first.anchor or NEUTRAL: hits, first.prompts[0]: chance.size - hits}
        found.became = {name: count for name, count in found.became.items() if count}

    def _accuracies(self, found: Measured, tables: Tables, marks: Marks) -> None:
        if self.kind == "concept":
            # nothing on the grid is to be forgotten, so all of it is to be kept
            for name, kind in (("ira", "style"), ("cra", "object")):
                found.add(self._rate(name, tables.right[kind], self.scored, kind, marks))
        for kind in JUDGES:
            found.add(self._rate(f"{kind}_accuracy", tables.right[kind], self.scored, kind, marks))
        for kind in JUDGES:
            values = tables.probability[kind]
            found.add(self._mean(f"{kind}_probability", values, self.scored, kind, marks))

    def _clip(self, found: Measured, tables: Tables, marks: Marks, answers: AnswerSet) -> None:
        """CLIP score of the kept cells and of the target's, zero-shot accuracy of both labels."""
        grid, images = self.grid, marks.clip[tables.order]
        shape = (len(grid.styles), len(grid.objects), self.seeds)
        texts = self.bench.texts([answers.prompts[row] for row in tables.order])
        scores = clip_metrics.clip_scores(images, texts).reshape(shape)
        kept = self.kept if self.kind in JUDGES else self.scored
        found.add(self._mean("clip_score", scores, kept, "clip", marks, "score"))
        if self.kind in JUDGES:
            target = self.target & self.scored
            found.add(self._mean("clip_score_target", scores, target, "clip", marks, "score"))
        prompts = texts.reshape(*shape, -1)[:, :, 0]
        styles, objects = clip_metrics.zero_shot_pairs(images, prompts)
        wanted = np.indices(shape)
        for kind, seen, asked in (("style", styles, wanted[0]), ("object", objects, wanted[1])):
            right = seen.reshape(shape) == asked
            found.add(self._rate(f"clip_{kind}_accuracy", right, self.scored, "clip", marks))

    def _distances(self, found: Measured, tables: Tables, marks: Marks) -> None:
        """Frechet distances to the real pictures, without the forgotten cells on both sides."""
        if not self.bench.extractors:
            return
        left_out = self.target if self.protocol.fid.exclude_target else np.zeros_like(self.target)
        real = self.bench.reference(self.folder)
        rows = tables.order.reshape(len(self.grid.styles), len(self.grid.objects), -1)[~left_out]
        kept = ~left_out[real.styles, real.objects]
        expected = int((~left_out).sum()) * self.seeds
        indices = self.protocol.card.split(self.protocol.fid.split)[: self.protocol.fid.per_cell]
        if int(kept.sum()) != int((~left_out).sum()) * len(indices):
            raise CountMismatch(
                f"The Frechet distance needs {len(indices)} real pictures of each of"
                f" {int((~left_out).sum())} cells and got {int(kept.sum())} in all."
            )
        named = {extractor.name: extractor.judge for extractor in self.bench.extractors}
        for name, features in marks.features.items():
            started = time.perf_counter()
            value = frechet_from_features(features[rows.ravel()], real.features[name][kept])
            seconds = marks.seconds.get(name, 0.0) + time.perf_counter() - started
            found.add(
                Metric(
                    name, value, expected, rows.size, None, named[name], seconds, "distance",
                    {"reference_pictures": int(kept.sum()), "dimensions": features.shape[1]},
                )
            )  # fmt: skip

    def _tables(self, found: Measured, tables: Tables) -> None:
        """What was asked for against what was seen, and right answers in every cell."""
        grid = self.grid
        names = {"style": grid.styles, "object": grid.objects}
        places = np.indices(tables.seen["style"].shape)
        for axis, kind in enumerate(JUDGES):
            classes = self.bench.judges[kind].classes
            counts = confusion(places[axis], tables.seen[kind], len(names[kind]), len(classes))
            found.confusion[kind] = {
                "rows": list(names[kind]),
                "columns": list(classes),
                "counts": counts.tolist(),
            }
            found.cells[kind] = {
                "styles": list(grid.styles),
                "objects": list(grid.objects),
                "hits": tables.right[kind].sum(axis=2).tolist(),
                "total": self.seeds,
            }

    def pairs(
        self, answers: AnswerSet, marks: Marks, original: AnswerSet, before: Marks
    ) -> list[Metric]:
        """Changes against the original's pictures, which started from the same latents."""
        new, old = tabulate(answers, marks, self.bench), tabulate(original, before, self.bench)
        kept = self.kept if self.kind in JUDGES else self.scored
        within = self.kind if self.kind in JUDGES else "style"
        found = []
        for name, kind, mask in (
            ("paired_target_change", within, self.target & self.scored),
            ("paired_ira_change", within, kept),
            ("paired_cra_change", OTHER[within], kept),
        ):
            if mask.any():
                value, interval = paired_change(old.right[kind][mask], new.right[kind][mask])
                expected, used = int(mask.sum()) * self.seeds, new.right[kind][mask].size
                found.append(
                    Metric(name, value, expected, used, interval, self._judge(kind), 0.0, "share")
                )
        changed = (new.seen["style"] != old.seen["style"]) | (
            new.seen["object"] != old.seen["object"]
        )
        expected = int(kept.sum()) * self.seeds
        rate = Rate.of(changed[kept])
        both = " and ".join(self._judge(kind) for kind in JUDGES)
        found.append(Metric.of_rate("paired_label_changes", rate, expected, both, 0.0))
        if self.bench.clip:
            alike = clip_metrics.image_similarity(marks.clip[new.order], before.clip[old.order])
            alike = alike.reshape(new.seen["style"].shape)
            for name, mask in (
                ("paired_clip_similarity", kept),
                ("paired_clip_similarity_nearest", self.near),
            ):
                if mask.any():
                    count = int(mask.sum()) * self.seeds
                    value, by = float(alike[mask].mean()), self.bench.clip.name
                    found.append(Metric(name, value, count, alike[mask].size, None, by))
        apart = [
            np.abs(answers.pictures[a].astype(np.int16) - original.pictures[b]).mean() / 255
            for a, b in zip(new.order, old.order, strict=True)
        ]
        total = self.protocol.pictures()
        found.append(
            Metric(
                "paired_pixel_change", float(np.mean(apart)), total, len(apart), None, "", 0.0,
                "share",
            )
        )  # fmt: skip
        return found
