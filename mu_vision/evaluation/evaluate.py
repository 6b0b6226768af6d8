"""One evaluator for all: draw the answer set, let the judges look once, measure, warn.

For a request in free words (kind ``concept``) no classifier knows the target, so UA is CLIP's:
``concept_pictures`` pictures are drawn from the request's own prompts, and one counts as forgotten
when CLIP finds the request's first prompt no more likely than its anchor ("a picture" if it has
none). Everything on the protocol's grid is to be kept then: IRA is the style accuracy over all of
it, CRA the object accuracy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..environment import environment
from ..errors import UsageError
from .answers import AnswerSet, generate
from .class_protocol import ClassProtocol
from .marks import Bench, Marks, open_bench
from .measure import Measured, Measurer
from .plan import Plan, concept_plan, grid_plan
from .prompts import PromptProtocol
from .protocol import Protocol, load_protocol
from .quality import (
    NO_OP,
    UNCHANGED,
    UNCOMPARED,
    check_judges,
    check_original,
    check_requests,
    collapse,
)
from .scorecard import Metric, Scorecard
from .wordings import wordings_metrics, wordings_plan

if TYPE_CHECKING:
    from ..models.denoiser import Denoiser
    from ..request import ConceptRequest

COSTS = {"seconds": "s", "peak_memory_gb": "GB", "storage_gb": "GB"}
_SHELF: OrderedDict[tuple[str, str], tuple[AnswerSet, Marks]] = OrderedDict()
_SHELF_SIZE = 2


def prepare(
    protocol: Protocol | PromptProtocol | ClassProtocol,
    asked: Iterable[Sequence[ConceptRequest]] = (),
    device: Any = "cpu",
) -> None:
    """Load the judges of a protocol now: a missing file should not stop a run after hours.

    Args:
        protocol: what models will be measured by.
        asked: the requests of each of these measurements.
        device: where the judges run.

    Raises:
        UsageError: if a file is missing, or the requests do not fit the protocol.
        RunError: if a judge is below the protocol's minimum.
    """
    if isinstance(protocol, PromptProtocol):
        from .shown import open_prompt_bench

        open_prompt_bench(protocol, device)
        return
    if isinstance(protocol, ClassProtocol):
        from .classes import check_class_requests, open_class_bench

        for requests in asked:
            check_class_requests(protocol, requests)
        open_class_bench(protocol, device)
        return
    bench = open_bench(protocol, device)
    check_judges(bench)
    for requests in asked:
        check_requests(bench, requests)


def evaluate(
    model: Denoiser | AnswerSet | str | Path,
    protocol: Protocol | PromptProtocol | ClassProtocol | str | Path = "minicanvas",
    request: ConceptRequest | Sequence[ConceptRequest] | None = None,
    original: Denoiser | AnswerSet | str | Path | None = None,
    folder: Path | str | None = None,
    *,
    original_folder: Path | str | None = None,
    method: str | None = None,
    cost: Mapping[str, float] | None = None,
    batch: int | None = None,
) -> Scorecard:
    """Measure a model by a protocol.

    Args:
        model: draws the pictures; or an answer set that was drawn elsewhere.
        protocol: a protocol, its name, or a YAML file (of prompts: see ``shown.py``; of
            classes: see ``classes.py``).
        request: what was to be forgotten; several of one kind for several at once; None measures
            accuracies only.
        original: the model before the edit. Its pictures start from the same latents. Give the
            model itself again to get the original's row for a request.
        folder: answer sets, marks and features of real pictures are kept below it under keys of
            their content, so a killed evaluation goes on, and models share a folder.
        original_folder: where the original's are kept, ``folder`` by default. In one process they
            are remembered in any case.
        method: name of the method that made the edit, for the scorecard.
        cost: of the edit: ``seconds``, ``peak_memory_gb``, ``storage_gb``.
        batch: pictures at once, the protocol's by default.

    Returns:
        The scorecard. ``ua``, ``ira`` and ``cra`` are there when there is a request.

    Raises:
        UsageError: if the request does not fit the protocol, or files are missing.
        RunError: if the protocol is void: a judge, or the original on its own answer set, is
            below the protocol's minimum.
        CountMismatch: if an answer set is not exactly the protocol's.
    """
    protocol = load_protocol(protocol)
    twice = isinstance(model, str | Path) and model == original
    model = _loaded(model)
    original = model if twice else _loaded(original)
    requests = _requests(request)
    if isinstance(protocol, PromptProtocol | ClassProtocol):
        places = (folder, original_folder)
        return _of_kind(model, protocol, requests, original, places, method, batch, cost)
    _check_reads_text(model, protocol)
    bench = open_bench(protocol, _device(model))
    warnings = check_judges(bench)
    keep = folder if original_folder is None else original_folder
    is_original = original is model or (original is None and not requests)
    measurer = Measurer(bench, requests, keep if is_original else folder)
    before = None
    if original is not None and _fingerprint(original) != _fingerprint(model):
        before = _Subject(original, measurer, keep, batch)
        check_original(bench, before.measured.metrics, _name(original))
    own = original is not None and before is None
    subject = _Subject(model, measurer, keep if own else folder, batch)
    if is_original or own:
        check_original(bench, subject.measured.metrics, _name(model))
        before = subject if own else None
    flags, said = _compare(measurer, subject, before, is_original)
    for metric in [*_storage(model, original), *_costs(cost)]:
        subject.measured.metrics[metric.name] = metric
    return _scorecard(_name(model), measurer, subject, warnings + said, flags, method)


def _check_reads_text(model: Any, protocol: Protocol) -> None:
    if classes := getattr(model, "classes", ()):
        raise UsageError(
            f"{model.name} is asked with labels ({classes[0]}, ...) and the protocol"
            f" {protocol.name} with sentences; measure it by a protocol of classes, e.g."
            " minicanvas_objects."
        )


def _of_kind(model, protocol, requests, original, places, method, batch, cost) -> Scorecard:
    if isinstance(protocol, ClassProtocol):
        from .classes import evaluate_classes as measured
    else:
        from .shown import evaluate_prompts as measured

    card = measured(model, protocol, requests, original, *places, method, batch)
    card.metrics.update((m.name, m) for m in [*_storage(model, original), *_costs(cost)])
    return card


def _compare(
    measurer: Measurer, subject: _Subject, before: _Subject | None, is_original: bool
) -> tuple[dict[str, bool], list[str]]:
    """Add the paired metrics; flags, and what has to be said."""
    metrics, flags = subject.measured.metrics, _flags(subject, before, is_original)
    if before is not None:
        found = measurer.pairs(subject.answers, subject.marks, before.answers, before.marks)
        if subject.wordings and before.wordings and not is_original:
            found += wordings_metrics(
                measurer.kind, measurer.bench, subject.sorts, subject.wordings, before.wordings
            )
        metrics.update((metric.name, metric) for metric in found)
    if is_original:
        return {**flags, "collapsed": False}, []
    said = _said(flags)
    if before is None:
        said.append(UNCOMPARED)
    ruined = collapse(
        metrics, before.measured.metrics if before else None, measurer.protocol.collapse
    )
    return {**flags, "collapsed": bool(ruined)}, said + ruined


class _Subject:
    """A model under the protocol: its pictures, what the judges say, what it measures."""

    def __init__(
        self,
        model: Denoiser | AnswerSet,
        measurer: Measurer,
        folder: Path | str | None,
        batch: int | None,
    ):
        bench, concept = measurer.bench, None
        self.wordings: tuple[AnswerSet, Marks] | None = None
        self.answers, self.marks = _shelved(model, bench, folder, batch)
        if measurer.kind == "concept":
            if isinstance(model, AnswerSet):
                raise UsageError(
                    "A request in free words needs pictures of its own prompts: give the model,"
                    " not its answer set."
                )
            concept = _extra(
                model, bench, concept_plan(bench.protocol, measurer.requests), folder, batch
            )
        elif measurer.kind and bench.protocol.wordings and not isinstance(model, AnswerSet):
            plan, self.sorts = wordings_plan(bench.protocol, measurer.requests)
            self.wordings = _extra(model, bench, plan, folder, batch)
        self.concept = concept
        self.measured: Measured = measurer.measure(self.answers, self.marks, concept)


def _extra(
    model: Denoiser, bench: Bench, plan: Plan, folder: Path | str | None, batch: int | None
) -> tuple[AnswerSet, Marks]:
    """Pictures of another plan than the grid, and what the judges say of them."""
    pictures = generate(model, bench.protocol, folder, batch, plan)
    return pictures, bench.mark(pictures, folder)


def _shelved(
    model: Denoiser | AnswerSet, bench: Bench, folder: Path | str | None, batch: int | None
) -> tuple[AnswerSet, Marks]:
    """Pictures and marks of a model; the last few are remembered, so an original is drawn once."""
    if isinstance(model, AnswerSet):
        return model, bench.mark(model, folder)
    key = (grid_plan(bench.protocol).key(model.fingerprint()), bench.key())
    if key not in _SHELF:
        answers = generate(model, bench.protocol, folder, batch)
        _SHELF[key] = (answers, bench.mark(answers, folder))
        while len(_SHELF) > _SHELF_SIZE:
            _SHELF.popitem(last=False)
    _SHELF.move_to_end(key)
    answers, marks = _SHELF[key]
    if folder is not None:
        place = Path(folder) / answers.key[:16]
        if not (place / "answers.json").is_file():
            answers.save(place)
    return answers, marks


def _flags(subject: _Subject, before: _Subject | None, is_original: bool) -> dict[str, bool]:
    """Did the edit move anything?"""
    if before is None or is_original:
        return {"no_op": False, "unchanged_pictures": False}
    same_weights = subject.answers.fingerprint == before.answers.fingerprint
    same_pictures = np.array_equal(subject.answers.pictures, before.answers.pictures)
    if subject.concept and before.concept:
        same_pictures &= np.array_equal(subject.concept[0].pictures, before.concept[0].pictures)
    return {
        "no_op": bool(same_weights and same_pictures),
        "unchanged_pictures": bool(same_pictures and not same_weights),
    }


def _said(flags: Mapping[str, bool]) -> list[str]:
    if flags["no_op"]:
        return [NO_OP]
    if flags["unchanged_pictures"]:
        return [UNCHANGED]
    return []


def _storage(model: Any, original: Any) -> list[Metric]:
    """Bytes of the weights, and of those that an edit changed, in 10^9."""
    if isinstance(model, AnswerSet):
        return []
    after = model.named_parameters()
    size = {name: p.numel() * p.element_size() for name, p in after.items()}
    found = {"model_gb": sum(size.values())}
    if original is not None and not isinstance(original, AnswerSet):
        earlier = original.named_parameters()
        found["changed_gb"] = sum(
            size[name]
            for name, p in after.items()
            if name not in earlier or not _equal(p, earlier[name])
        )
    return [
        Metric(name, value / 1e9, len(after), len(size), unit="GB") for name, value in found.items()
    ]


def _equal(one: Any, two: Any) -> bool:
    if one.shape != two.shape:
        return False
    return one.data_ptr() == two.data_ptr() or bool((one == two.to(one.device)).all())


def _costs(cost: Mapping[str, float] | None) -> list[Metric]:
    for name in cost or {}:
        if name not in COSTS:
            raise UsageError(f"An edit has no cost {name!r}; known: {', '.join(COSTS)}.")
    return [Metric(name, float(v), 1, 1, unit=COSTS[name]) for name, v in (cost or {}).items()]


def _scorecard(
    name: str,
    measurer: Measurer,
    subject: _Subject,
    warnings: list[str],
    flags: dict[str, bool],
    method: str | None,
) -> Scorecard:
    bench, answers, measured = measurer.bench, subject.answers, subject.measured
    asked: Any = [request.model_dump(mode="json") for request in measurer.requests]
    return Scorecard(
        model=name,
        method=method,
        request=(asked[0] if len(asked) == 1 else asked) or None,
        protocol=bench.protocol.name,
        metrics=measured.metrics,
        warnings=warnings,
        flags=flags,
        confusion=measured.confusion,
        cells=measured.cells,
        became=measured.became,
        answers={
            "key": answers.key,
            "fingerprint": answers.fingerprint,
            "sha256": answers.digest,
            "pictures": len(answers),
            **({"concept": subject.concept[0].key} if subject.concept else {}),
            **({"wordings": subject.wordings[0].key} if subject.wordings else {}),
        },
        settings={
            **bench.protocol.model_dump(mode="json"),
            "judge_fingerprints": {kind: j.fingerprint for kind, j in bench.judges.items()},
        },
        environment=environment(),
    )


def _requests(request: Any) -> tuple[ConceptRequest, ...]:
    if request is None:
        return ()
    return tuple(request) if isinstance(request, Sequence) else (request,)


def _loaded(model: Any) -> Any:
    if isinstance(model, str | Path):
        from ..models.zoo import load_model

        return load_model(model)
    return model


def _fingerprint(model: Any) -> str:
    return model.fingerprint if isinstance(model, AnswerSet) else model.fingerprint()


def _name(model: Any) -> str:
    return model.fingerprint[:12] if isinstance(model, AnswerSet) else model.name


def _device(model: Any) -> Any:
    if isinstance(model, AnswerSet):
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return model.device
