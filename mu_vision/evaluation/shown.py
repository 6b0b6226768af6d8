"""Evaluate a model by a protocol of prompts: how often does it still show what was forgotten?

``shown`` is the share of pictures in which the detector finds something that counts, ``ua`` the
rest. ``detections`` counts every finding, as ESD's figure does. Against the original, on the same
latents: ``shown_change`` and ``detections_change`` = (n - n_original) / n_original, the percentages
that ESD prints, and ``paired_shown_change``, the difference of the shares with its interval.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from ..environment import environment
from ..errors import RunError, UsageError
from ..metrics.rates import Rate, paired_change
from ..models.loading import quiet
from ..progress import track
from .answers import AnswerSet, batches, generate
from .captions import CaptionBench, Drawn
from .detectors import Detector, Found, NudeNet, load_detector
from .plan import table_plan
from .prompt_table import read_table
from .prompts import PUBLISHED, PromptProtocol
from .protocol import digest
from .quality import UNCOMPARED, collapse, moved
from .scorecard import Metric, Scorecard

if TYPE_CHECKING:
    from ..models.diffusion import DiffusionModel
    from ..request import ConceptRequest


@dataclass
class PromptBench:
    """A protocol with its detector and the networks of its captions, loaded once."""

    protocol: PromptProtocol
    detector: Detector
    captions: CaptionBench | None

    def key(self) -> str:
        """Name of what this bench says: another detector or threshold, another key."""
        return digest("prompt bench 1", self.detector.fingerprint)


@lru_cache(maxsize=2)
def _bench(protocol: str, device: str) -> PromptBench:
    read = PromptProtocol.model_validate_json(protocol)
    detector = load_detector(read.judge, device)
    captions = CaptionBench(read, device) if read.captions else None
    return PromptBench(read, detector, captions)


def open_prompt_bench(protocol: PromptProtocol, device: Any = "cpu") -> PromptBench:
    """The bench of a protocol; it stays loaded for the next model.

    Raises:
        UsageError: if a file or package is missing, or the judge lacks a class.
    """
    protocol.check_files()
    return _bench(protocol.model_dump_json(), str(device))


@dataclass
class Subject:
    """A model under the protocol.

    Attributes:
        found: of each picture what the detector saw, with raw scores.
        ids: names of the table's rows, in the order of the pictures.
        cut: how many prompts are longer than the text encoder reads.
    """

    model: DiffusionModel
    answers: AnswerSet
    found: list[Found]
    ids: tuple[str, ...]
    cut: int
    metrics: dict[str, Metric] = field(default_factory=dict)
    drawn: Drawn | None = None


def evaluate_prompts(
    model: DiffusionModel | AnswerSet,
    protocol: PromptProtocol,
    requests: Sequence[ConceptRequest] = (),
    original: DiffusionModel | AnswerSet | None = None,
    folder: Path | str | None = None,
    original_folder: Path | str | None = None,
    method: str | None = None,
    batch: int | None = None,
) -> Scorecard:
    """Measure a model by a protocol of prompts; arguments as ``evaluate.evaluate``.

    The requests are noted on the scorecard; what counts as forgotten is the judge's matter.

    Raises:
        UsageError: for an answer set instead of a model, or something that is missing.
    """
    for given in (model, original):
        if isinstance(given, AnswerSet):
            raise UsageError(
                f"{protocol.name} judges pictures of a table of prompts that it draws itself: give"
                " the model, not an answer set."
            )
    bench = open_prompt_bench(protocol, model.device)
    keep = folder if original_folder is None else original_folder
    is_original = original is model or (original is None and not requests)
    own = original is not None and original.fingerprint() == model.fingerprint()
    before = None
    if original is not None and not own:
        before = _subject(original, bench, keep, batch)
    subject = _subject(model, bench, keep if is_original or own else folder, batch)
    if own:
        before = subject
    warnings, flags = _cut(subject, protocol), {"no_op": False, "unchanged_pictures": False}
    if before is not None:
        warnings += _compare(subject, before, bench.detector)
        if not is_original:
            flags, said = moved(subject.answers, before.answers)
            warnings = said + warnings
    ruined: list[str] = []
    if not is_original:
        warnings += _unmeasured(before, bench)
        ruined = collapse(
            subject.metrics, before.metrics if before else None, protocol.collapse
        )  # fmt: skip
    flags["collapsed"] = bool(ruined)
    return _scorecard(subject, bench, requests, warnings + ruined, flags, method)


def _subject(
    model: DiffusionModel, bench: PromptBench, folder: Path | str | None, batch: int | None
) -> Subject:
    """Draw, look, measure."""
    protocol = bench.protocol
    table = read_table(protocol.prompts, protocol.guidance)
    plan = table_plan(protocol, table)
    ids = tuple(table.ids[row] for row in table.order)
    answers = generate(model, protocol, folder, batch, plan)
    found, seconds = detect(answers, bench.detector, folder)
    with quiet():  # the tokenizer would warn of each
        cut = {prompt: model.tokens(prompt).truncated for prompt in dict.fromkeys(plan.prompts)}
    subject = Subject(model, answers, found, ids, sum(cut[p] for p in plan.prompts))
    metrics = list(_shown(subject, bench, len(plan), seconds))
    if bench.captions is not None:
        more, subject.drawn = bench.captions.measure(model, folder, batch)
        metrics += more
    spent = answers.seconds + (subject.drawn.seconds if subject.drawn else 0.0)
    total = len(answers) + (len(subject.drawn.prompts) if subject.drawn else 0)
    metrics.append(Metric("sampling_seconds", spent, total, total, None, "", spent, "s"))
    memory = answers.peak_memory_gb
    metrics.append(
        Metric("sampling_memory_gb", memory, total, total, None, "", answers.seconds, "GB")
    )
    subject.metrics = {metric.name: metric for metric in metrics}
    return subject


def detect(
    answers: AnswerSet, detector: Detector, folder: Path | str | None = None
) -> tuple[list[Found], float]:
    """What the detector sees in each picture, and the seconds it took; kept beside the pictures.

    Raw scores are kept, so another threshold or other classes need no second look.

    Raises:
        RunError: if what was kept is damaged.
    """
    path = None
    if folder is not None:
        path = Path(folder) / answers.key[:16] / f"detections-{detector.source[:16]}.json"
        if path.is_file():
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                found = [[(str(n), float(s)) for n, s in row] for row in kept["detections"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path} is damaged; delete it and run again.") from error
            if len(found) == len(answers):
                return found, float(kept["seconds"])
    started, found = time.perf_counter(), []
    blocks = -(-len(answers) // 64)
    for block in track(batches(answers.pictures), "looking for what counts", 0, blocks):
        found += detector.detections(block)
    seconds = time.perf_counter() - started
    # of several processes the first one writes
    if path is not None and int(os.environ.get("RANK", 0)) == 0:
        files.write_json(path, {"detections": found, "seconds": round(seconds, 3)})
    return found, seconds


def _shown(subject: Subject, bench: PromptBench, expected: int, seconds: float):
    """``shown``, ``ua`` and ``detections`` of one model alone."""
    detector, found = bench.detector, subject.found
    verdicts = detector.verdicts(found)
    rate = Rate.of(verdicts)
    details = {
        "hits": rate.hits,
        "counted": list(detector.counted),
        "classes": class_counts(found, getattr(detector, "threshold", 0.0)),
        "prompts_cut": subject.cut,
        "ids": [name for name, hit in zip(subject.ids, verdicts, strict=True) if hit],
    }
    if isinstance(detector, NudeNet):
        details["threshold"] = detector.threshold
    by = detector.name
    yield Metric(
        "shown", rate.value, expected, rate.total, rate.interval, by, seconds, "rate", details
    )
    yield Metric.of_rate("ua", rate.complement, expected, by, seconds)
    count = sum(detector.counts(*one) for row in found for one in row)
    yield Metric("detections", float(count), expected, len(found), None, by, seconds)
    if isinstance(detector, NudeNet) and set(detector.counted) != set(PUBLISHED):
        # what the published code would have counted in the same boxes
        wide = NudeNet(detector.threshold, PUBLISHED, detector.network, detector.source)
        published = Rate.of(wide.verdicts(found))
        yield Metric.of_rate("shown_published", published, expected, wide.name, seconds)


def class_counts(found: Sequence[Found], threshold: float = 0.0) -> dict[str, dict[str, int]]:
    """By class: pictures and detections of all that reach the threshold, most pictures first."""
    counts: dict[str, dict[str, int]] = {}
    for row in found:
        labels = [label for label, score in row if score >= threshold]
        for label in labels:
            counts.setdefault(label, {"pictures": 0, "detections": 0})["detections"] += 1
        for label in set(labels):
            counts[label]["pictures"] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1]["pictures"], item[0])))


def _compare(subject: Subject, before: Subject, detector: Detector) -> list[str]:
    """Add the metrics against the original; what has to be said."""
    total = len(subject.answers)
    new, old = (detector.verdicts(one.found) for one in (subject, before))
    value, interval = paired_change(old, new)
    found = [
        Metric("paired_shown_change", value, total, new.size, interval, detector.name, 0.0, "share")
    ]
    said = []
    if not old.any():
        said.append(
            f"The original shows it in none of {total:,} pictures, so nothing here says that"
            " anything was forgotten."
        )
    counts = (
        ("shown_change", int(new.sum()), int(old.sum())),
        ("detections_change", *(int(s.metrics["detections"].value) for s in (subject, before))),
    )
    for name, now, then in counts:
        if then:
            details = {"count": now, "original": then}
            change = (now - then) / then
            found.append(
                Metric(name, change, total, total, None, detector.name, 0.0, "share", details)
            )
    pairs = zip(batches(subject.answers.pictures), batches(before.answers.pictures), strict=True)
    apart = [np.abs(a.astype(np.int16) - b).mean(axis=(1, 2, 3)) / 255 for a, b in pairs]
    apart = np.concatenate(apart)
    found.append(
        Metric(
            "paired_pixel_change", float(apart.mean()), total, apart.size, None, "", 0.0, "share"
        )
    )
    subject.metrics.update((metric.name, metric) for metric in found)
    return said


def _cut(subject: Subject, protocol: PromptProtocol) -> list[str]:
    if not subject.cut:
        return []
    return [
        f"{subject.cut:,} of {len(subject.answers):,} prompts are longer than the text encoder"
        " reads; it reads their beginning. They are drawn and counted like the others."
    ]


def _unmeasured(before: Subject | None, bench: PromptBench) -> list[str]:
    said = []
    if before is None:
        said.append(UNCOMPARED)
    if bench.captions is None:
        said.append(
            f"{bench.protocol.name} draws no captions, so nothing says whether the pictures are"
            " still worth looking at: noise shows nothing either."
        )
    return said


def _scorecard(
    subject: Subject,
    bench: PromptBench,
    requests: Sequence[ConceptRequest],
    warnings: list[str],
    flags: dict[str, bool],
    method: str | None,
) -> Scorecard:
    asked: Any = [request.model_dump(mode="json") for request in requests]
    answers = subject.answers
    known = {
        "key": answers.key,
        "fingerprint": answers.fingerprint,
        "sha256": answers.digest,
        "pictures": len(answers),
    }
    judges = {"detector": bench.detector.fingerprint}
    if bench.captions is not None:
        known["captions"] = len(subject.drawn.prompts)
        judges["captions"] = bench.captions.key
    return Scorecard(
        model=subject.model.name,
        method=method,
        request=(asked[0] if len(asked) == 1 else asked) or None,
        protocol=bench.protocol.name,
        metrics=subject.metrics,
        warnings=warnings,
        flags=flags,
        answers=known,
        settings={**bench.protocol.model_dump(mode="json"), "judge_fingerprints": judges},
        environment=environment(),
    )
