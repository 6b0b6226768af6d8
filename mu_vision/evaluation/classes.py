"""Evaluate a label-conditional model, class by class.

UA is the share of pictures of the forgotten class that the judge does not see as such, IRA the
share of the others that it sees rightly. Frechet distance, Inception Score, precision and recall are
of the classes that stay, on both sides. The real pictures are scaled to the model's size first, so
that a sharper data set is no fault of the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from ..data import minicanvas
from ..environment import environment
from ..errors import RunError, UsageError, unknown
from ..metrics.frechet import frechet_from_features
from ..metrics.inception import inception_score
from ..metrics.manifold import precision_recall
from ..metrics.rates import Rate, confusion, paired_change
from ..models.denoiser import to_pictures, to_pixels
from ..progress import track
from .answers import AnswerSet, batches, generate
from .class_protocol import ClassProtocol
from .judges import ClipModel, Judge, load_clip, load_judge
from .marks import read_arrays, write_arrays
from .plan import class_plan
from .protocol import digest
from .quality import UNCOMPARED, collapse, moved
from .scorecard import Metric, Scorecard

if TYPE_CHECKING:
    from ..models.denoiser import Denoiser
    from ..request import ConceptRequest


class ClassBench:
    """The judge and CLIP of a protocol, and what they say of the real pictures.

    Raises:
        UsageError: if a file is missing, or the judge lacks a class.
    """

    def __init__(self, protocol: ClassProtocol, device: Any = "cpu"):
        protocol.check_files()
        self.protocol = protocol
        self.judge: Judge = load_judge(protocol.judge, protocol.card.object_names, device)
        self.columns = self.judge.columns(protocol.names, "object")
        self.clip: ClipModel = load_clip(protocol.clip, device)
        self._real: dict[str, np.ndarray] | None = None

    def key(self) -> str:
        """Name of what this bench says: other weights, other key."""
        judge = [self.judge.fingerprint, list(self.judge.classes)]
        return digest("class bench 1", judge, self.clip.fingerprint)

    def look(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """``logits`` [N, K] of the judge and ``features`` [N, D] of CLIP."""
        found: dict[str, list[np.ndarray]] = {"logits": [], "features": []}
        for block in track(batches(pictures), "judging", 0, -(-len(pictures) // 64)):
            found["logits"].append(self.judge.predict(block))
            found["features"].append(self.clip.image_features(block))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def mark(self, answers: AnswerSet, folder: Path | str | None) -> dict[str, np.ndarray]:
        """What they say of an answer set, or said before."""
        where = None
        if folder is not None:
            where = Path(folder) / answers.key[:16] / f"classes-{self.key()[:16]}.npz"
        return _kept(where, lambda: self.look(answers.pictures))

    def real(self, folder: Path | str | None) -> dict[str, np.ndarray]:
        """``features`` [M, D], ``logits`` [M, K] and ``classes`` [M] of the real pictures.

        Raises:
            RunError: if the judge does not know them at this size.
        """
        if self._real is None:
            protocol = self.protocol
            where = None
            if folder is not None:
                about = [protocol.dataset, protocol.names, protocol.size]
                key = digest("real classes 1", about, protocol.real.model_dump(), self.key())
                where = Path(folder) / f"reference-{key[:16]}.npz"
            self._real = _kept(where, self._look_at_real)
            right = self._real["logits"].argmax(1) == self.columns[self._real["classes"]]
            if right.mean() < protocol.minimum.judge:
                raise RunError(
                    f"The protocol {protocol.name} is void: its judge {self.judge.name} names"
                    f" {100 * right.mean():.1f} % of the real pictures rightly at {protocol.size}"
                    f" pixels, and {100 * protocol.minimum.judge:g} % are needed."
                )
        return self._real

    def _look_at_real(self) -> dict[str, np.ndarray]:
        protocol, size = self.protocol, (self.protocol.size, self.protocol.size)
        indices = list(protocol.card.split(protocol.real.split))[: protocol.real.per_cell]
        wanted = {*protocol.names, *(protocol.real.styles or minicanvas.STYLES)}
        others = [n for n in (*minicanvas.OBJECTS, *minicanvas.STYLES) if n not in wanted]
        pictures = minicanvas.load(indices, "painting the reference pictures", others)
        small = to_pictures(to_pixels(pictures.pixels, size))
        places = [protocol.names.index(minicanvas.OBJECTS[place]) for place in pictures.objects]
        return {
            **self.look(small),
            "classes": np.array(places),
        }


def _kept(where: Path | None, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    found = read_arrays(where)
    if found is None:
        found = make()
        if where is not None:
            write_arrays(where, **found)
    return found


@lru_cache(maxsize=2)
def _bench(protocol: str, device: str) -> ClassBench:
    return ClassBench(ClassProtocol.model_validate_json(protocol), device)


def open_class_bench(protocol: ClassProtocol, device: Any = "cpu") -> ClassBench:
    """The bench of a protocol; it stays loaded for the next model."""
    return _bench(protocol.model_dump_json(), str(device))


def check_class_requests(protocol: ClassProtocol, requests: Sequence[ConceptRequest]) -> list[str]:
    """Names of the classes that are to be forgotten.

    Raises:
        UsageError: if a request is not for a class of the protocol, or nothing would be kept.
    """
    for request in requests:
        if request.kind == "style":
            raise UsageError(
                f"The protocol {protocol.name} judges objects; evaluate the style"
                f" {request.name!r} by a protocol of styles, e.g. minicanvas."
            )
        if request.name not in protocol.names:
            raise unknown(f"class in the protocol {protocol.name}", request.name, protocol.names)
    targets = [request.name for request in requests]
    if targets and len(set(targets)) == len(protocol.names):
        raise UsageError("The requests forget everything that the protocol draws.")
    return targets


@dataclass
class ClassSubject:
    """A model under the protocol."""

    answers: AnswerSet
    seen: np.ndarray
    metrics: dict[str, Metric]


def evaluate_classes(
    model: Denoiser | AnswerSet,
    protocol: ClassProtocol,
    requests: Sequence[ConceptRequest] = (),
    original: Denoiser | AnswerSet | None = None,
    folder: Path | str | None = None,
    original_folder: Path | str | None = None,
    method: str | None = None,
    batch: int | None = None,
) -> Scorecard:
    """Measure a model by a protocol of classes; arguments as ``evaluate.evaluate``.

    Raises:
        UsageError: for an answer set instead of a model, one that reads text or draws another size,
            or a request that does not fit.
        RunError: if the judge, or the original on its own pictures, is below the minimum.
    """
    for given in (model, original):
        _check_model(given, protocol)
    targets = check_class_requests(protocol, requests)
    bench = open_class_bench(protocol, model.device)
    keep = folder if original_folder is None else original_folder
    is_original = original is model or (original is None and not requests)
    own = original is not None and original.fingerprint() == model.fingerprint()
    before = None
    if original is not None and not own:
        before = _subject(original, bench, targets, keep, batch)
        _check_original(before, protocol, original.name)
    subject = _subject(model, bench, targets, keep if is_original or own else folder, batch)
    if is_original or own:
        _check_original(subject, protocol, model.name)
        before = subject if own else None
    if before is not None:
        _pair(subject, before, bench, targets)
    flags, said = moved(subject.answers, None if is_original or before is None else before.answers)
    ruined: list[str] = []
    if not is_original:
        if before is None:
            said.append(UNCOMPARED)
        ruined = collapse(subject.metrics, before and before.metrics, protocol.collapse)
    flags["collapsed"] = bool(ruined)
    return _scorecard(subject, bench, requests, targets, said + ruined, flags, method, model.name)


def _check_model(model: Any, protocol: ClassProtocol) -> None:
    if model is None:
        return
    if isinstance(model, AnswerSet):
        raise UsageError(
            f"{protocol.name} judges pictures of classes that it draws itself: give the model, not"
            " an answer set."
        )
    missing = [name for name in protocol.names if name not in model.classes]
    if missing:
        knows = f"knows {', '.join(model.classes)}" if model.classes else "is asked with text"
        raise UsageError(
            f"{protocol.name} asks for the class {missing[0]!r} and {model.name} {knows}; choose"
            " another protocol."
        )
    if model.picture_size != (protocol.size, protocol.size):
        height, width = model.picture_size
        raise UsageError(
            f"{protocol.name} judges pictures of {protocol.size} x {protocol.size} pixels and"
            f" {model.name} draws {height} x {width}; set `size` to what it draws."
        )


def _check_original(subject: ClassSubject, protocol: ClassProtocol, name: str) -> None:
    accuracy, least = subject.metrics["object_accuracy"].value, protocol.minimum.original
    if accuracy < least:
        raise RunError(
            f"The protocol {protocol.name} is void: the judge finds the class right in"
            f" {100 * accuracy:.1f} % of the pictures of the original {name}, and {100 * least:g} %"
            " are needed, so forgetting could not be told from never having known."
        )


def _subject(
    model: Denoiser,
    bench: ClassBench,
    targets: Sequence[str],
    folder: Path | str | None,
    batch: int | None,
) -> ClassSubject:
    """Draw, look, measure."""
    protocol = bench.protocol
    answers = generate(model, protocol, folder, batch, class_plan(protocol))
    started = time.perf_counter()
    marks = bench.mark(answers, folder)
    seconds = time.perf_counter() - started
    chances = softmax(marks["logits"].astype(np.float64), axis=1)
    seen, asked = chances.argmax(1), answers.objects
    right, wanted = (
        seen == bench.columns[asked],
        chances[np.arange(len(asked)), bench.columns[asked]],
    )
    forgotten = np.isin(asked, [protocol.names.index(name) for name in targets])
    by, n, each = bench.judge.name, len(answers), protocol.per_class
    kept_n = (len(protocol.names) - len(set(targets))) * each
    found = [Metric.of_rate("object_accuracy", Rate.of(right), protocol.pictures(), by, seconds)]
    if targets:
        lost = Rate.of(right[forgotten]).complement
        share = float(wanted[forgotten].mean())
        found[:0] = [
            Metric.of_rate("ua", lost, n - kept_n, by, seconds),
            Metric.of_rate("ira", Rate.of(right[~forgotten]), kept_n, by, seconds),
            Metric(
                "target_probability", share, n - kept_n, lost.total, None, by, seconds, "share"
            ),
        ]  # fmt: skip
    found += _spread(bench, marks["features"], chances, forgotten, targets, kept_n, folder)
    steps = model.evaluations(protocol.steps, protocol.guidance)
    rate = n / max(answers.seconds, 1e-9)
    found += [
        Metric("evaluations", float(steps), n, n),
        Metric("pictures_per_second", rate, n, n, None, "", answers.seconds),
        Metric("sampling_seconds", answers.seconds, n, n, None, "", answers.seconds, "s"),
        Metric("sampling_memory_gb", answers.peak_memory_gb, n, n, None, "", 0.0, "GB"),
    ]
    return ClassSubject(answers, seen, {metric.name: metric for metric in found})


def _spread(bench, features, chances, forgotten, targets, expected, folder) -> list[Metric]:
    """Distances to real pictures of the classes that stay."""
    protocol, real = bench.protocol, bench.real(folder)
    stays = ~np.isin(real["classes"], [protocol.names.index(name) for name in targets])
    theirs, mine = real["features"][stays], features[~forgotten]
    by, used = bench.clip.name, len(mine)
    details = {"reference_pictures": len(theirs), "dimensions": mine.shape[1]}
    distance = frechet_from_features(mine, theirs)
    precision, recall = precision_recall(theirs, mine, protocol.neighbours)
    score = inception_score(chances[~forgotten], protocol.splits, protocol.seed)
    return [
        Metric("fid_clip", distance, expected, used, None, by, 0.0, "distance", details),
        Metric("inception_score", score, expected, used, None, bench.judge.name),
        Metric.of_rate("precision", precision, expected, by, 0.0),
        Metric.of_rate("recall", recall, len(theirs), by, 0.0),
    ]


def _pair(
    subject: ClassSubject, before: ClassSubject, bench: ClassBench, targets: Sequence[str]
) -> None:
    """Changes against the original's pictures, which started from the same latents."""
    protocol, asked = bench.protocol, subject.answers.objects
    forgotten = np.isin(asked, [protocol.names.index(name) for name in targets])
    old, new = (one.seen == bench.columns[asked] for one in (before, subject))
    for name, mask in (("paired_target_change", forgotten), ("paired_ira_change", ~forgotten)):
        if mask.any():
            value, interval = paired_change(old[mask], new[mask])
            used = int(mask.sum())
            subject.metrics[name] = Metric(
                name, value, used, used, interval, bench.judge.name, 0.0, "share"
            )


def _scorecard(subject, bench, requests, targets, said, flags, method, name) -> Scorecard:
    protocol, answers, judge = bench.protocol, subject.answers, bench.judge
    asked: Any = [request.model_dump(mode="json") for request in requests]
    counts = confusion(answers.objects, subject.seen, len(protocol.names), len(judge.classes))
    became: dict[str, int] = {}
    if targets:
        rows = np.isin(answers.objects, [protocol.names.index(name) for name in targets])
        found = np.bincount(subject.seen[rows], minlength=len(judge.classes))
        order = np.argsort(-found, kind="stable")
        became = {judge.classes[k]: int(found[k]) for k in order if found[k]}
    table = {"rows": list(protocol.names), "columns": list(judge.classes)}
    fingerprints = {"object": judge.fingerprint, "clip": bench.clip.fingerprint}
    return Scorecard(
        model=name,
        method=method,
        request=(asked[0] if len(asked) == 1 else asked) or None,
        protocol=protocol.name,
        metrics=subject.metrics,
        warnings=said,
        flags=flags,
        confusion={"object": {**table, "counts": counts.tolist()}},
        became=became,
        answers={
            "key": answers.key,
            "fingerprint": answers.fingerprint,
            "sha256": answers.digest,
            "pictures": len(answers),
        },
        settings={**protocol.model_dump(mode="json"), "judge_fingerprints": fingerprints},
        environment=environment(),
    )
