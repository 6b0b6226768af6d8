"""Is the protocol worth anything, did the edit do anything, and did it ruin the pictures?

UA rewards any wrong label, noise included: in UnlearnCanvas's table UCE forgets 98 % of a style at
an FID of 182. The rule here, with the limits of the protocol's ``collapse``: the pictures count as
ruined if, against the original under the same latents,

1. on the cells of the target the *other* judge is right less often by more than ``drop``
   (forgetting a style must leave the object),
2. on these cells the other judge's largest probability fell by more than ``drop``,
3. the mean of IRA and CRA fell by more than ``drop``, or
4. a Frechet distance is more than ``fid_ratio`` times the original's.

Without an original only 1 can be said, against a share of 1 - 2 ``drop``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import RunError, UsageError, unknown
from .marks import JUDGES, Bench
from .protocol import Collapse
from .scorecard import Metric

if TYPE_CHECKING:
    from ..request import ConceptRequest
    from .answers import AnswerSet


NO_OP = "The edit is a no-op: weights and pictures equal the original's, bit for bit."
UNCHANGED = "The weights moved, but not one picture did: they equal the original's."
UNCOMPARED = "No original was given, so nothing says how much of this was so before the edit."


def check_requests(bench: Bench, requests: Sequence[ConceptRequest]) -> str | None:
    """The kind of all requests, None if there is none.

    Raises:
        UsageError: if kinds are mixed, a name or data set is not the protocol's, the request
            would leave nothing to keep, or free words come without CLIP.
    """
    if not requests:
        return None
    protocol, grid = bench.protocol, bench.protocol.grid
    kinds = {request.kind for request in requests}
    if len(kinds) > 1:
        raise UsageError(
            "These requests are of several kinds; evaluate the styles and the objects one after"
            " the other."
        )
    kind = kinds.pop()
    if kind == "concept":
        if bench.clip is None:
            raise UsageError(
                f"A request in free words is judged by CLIP, and {protocol.name} has none;"
                " set `clip` in the protocol."
            )
        return kind
    names = grid.styles if kind == "style" else grid.objects
    for request in requests:
        if request.dataset not in (None, protocol.dataset):
            raise UsageError(
                f"The request is from {request.dataset} and the protocol {protocol.name} judges"
                f" {protocol.dataset}; choose a protocol of the request's data set."
            )
        if request.name not in names:
            raise unknown(f"{kind} in the protocol {protocol.name}", request.name, names)
        if kind == "style" and request.name == grid.seed_theme and not grid.include_seed_theme:
            raise UsageError(
                f"The protocol {protocol.name} does not score its photo style {request.name!r};"
                " set include_seed_theme: true."
            )
    target = grid.target_mask(kind, [request.name for request in requests])
    if not (grid.scored_mask() & ~target).any():
        raise UsageError("The requests forget everything that the protocol scores.")
    return kind


def check_judges(bench: Bench) -> list[str]:
    """Refuse judges that are too weak; a warning for each that does not say how good it is.

    Raises:
        RunError: if a judge's stated accuracy is below the protocol's minimum.
    """
    warnings = []
    least = bench.protocol.minimum.judge
    for kind in JUDGES:
        judge = bench.judges[kind]
        if judge.test_accuracy is None:
            warnings.append(
                f"The {kind} judge {judge.name} does not state its accuracy on held-out pictures,"
                f" so nobody has checked that it reaches {100 * least:g} %."
            )
        elif judge.test_accuracy < least:
            raise RunError(
                f"The protocol {bench.protocol.name} is void: its {kind} judge {judge.name} names"
                f" {100 * judge.test_accuracy:.1f} % of held-out real pictures rightly and"
                f" {100 * least:g} % are needed. Train a better judge."
            )
    return warnings


def check_original(bench: Bench, metrics: Mapping[str, Metric], model: str) -> None:
    """Refuse an original that cannot draw what it is asked for.

    Raises:
        RunError: if it is below the protocol's minimum in a label.
    """
    least = bench.protocol.minimum.original
    for kind in JUDGES:
        accuracy = metrics[f"{kind}_accuracy"].value
        if accuracy < least:
            raise RunError(
                f"The protocol {bench.protocol.name} is void: the judge finds the {kind} right in"
                f" {100 * accuracy:.1f} % of the pictures of the original {model}, and"
                f" {100 * least:g} % are needed, so forgetting could not be told from never"
                " having known. If this is an edited model, give its original too."
            )


def moved(answers: AnswerSet, original: AnswerSet | None) -> tuple[dict[str, bool], list[str]]:
    """Did the edit move anything? Flags, and what has to be said; nothing without an original."""
    if original is None:
        return {"no_op": False, "unchanged_pictures": False}, []
    same_weights = answers.fingerprint == original.fingerprint
    same_pictures = answers.digest == original.digest
    if same_weights and same_pictures:
        said = [NO_OP]
    else:
        said = [UNCHANGED] if same_pictures else []
    flags = {"no_op": said == [NO_OP], "unchanged_pictures": said == [UNCHANGED]}
    return flags, said


def collapse(
    metrics: Mapping[str, Metric], original: Mapping[str, Metric] | None, limits: Collapse
) -> list[str]:
    """Sentences that say how the pictures are ruined; none if they are not."""

    def fell(name: str) -> tuple[float, float] | None:
        """(now, before) if it fell by more than the limit."""
        if name not in metrics:
            return None
        now = metrics[name].value
        before = original[name].value if original else 1 - limits.drop
        return (now, before) if now < before - limits.drop else None

    found = []
    beside = f"UA is {metrics['ua'].text}, but " if "ua" in metrics else ""
    if pair := fell("target_cross_accuracy"):
        against = f" (original {100 * pair[1]:.1f} %)" if original else ""
        found.append(
            f"{beside}the pictures of the target are ruined: the other judge is right in"
            f" {100 * pair[0]:.1f} % of them{against}."
        )
    if original is None:
        return found
    if pair := fell("target_cross_confidence"):
        found.append(
            f"{beside}the other judge's confidence on the pictures of the target fell from"
            f" {100 * pair[1]:.1f} to {100 * pair[0]:.1f} %."
        )
    if "ira" in metrics and "cra" in metrics:
        now = (metrics["ira"].value + metrics["cra"].value) / 2
        before = (original["ira"].value + original["cra"].value) / 2
        if now < before - limits.drop:
            found.append(
                f"{beside}the rest is damaged: the mean of IRA and CRA fell from"
                f" {100 * before:.1f} to {100 * now:.1f} %."
            )
    for name, metric in metrics.items():
        if metric.unit == "distance" and name in original:
            before = original[name].value
            if metric.value > limits.fid_ratio * before:
                found.append(
                    f"{beside}the pictures moved away from real ones: {name} is {metric.text},"
                    f" the original's {original[name].text}."
                )
    return found
