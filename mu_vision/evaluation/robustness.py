"""The battery: every attack on one model, with the controls that say whether to believe it.

The headline is the worst case over attacks, never their mean. Two controls stand beside every ASR.
``control``: the same white-box attack on the original, with the concept's name taken out of the
prompt; an attack that cannot bring back what was never erased shows nothing by failing. ``floor``:
the same attack on a model that never knew the concept; what it "brings back" there is a false
alarm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files, registry
from ..attack.base import Attack, AttackResult, Scene, Trial
from ..errors import RunError, UsageError
from ..metrics.rates import Rate
from ..models.loading import locate
from ..validation import validated
from .cases import Stage, draw_cases, set_stage
from .marks import Bench, open_bench
from .prompts import PromptProtocol
from .protocol import Protocol, digest
from .scorecard import Metric
from .shown import PromptBench, open_prompt_bench

if TYPE_CHECKING:
    from ..models.diffusion import DiffusionModel
    from ..request import ConceptRequest

Announce = Callable[[str], None]


def attacks_of(protocol: Protocol) -> dict[str, Attack]:
    """The battery's attacks by their labels.

    Raises:
        UsageError: unknown attack or setting (the nearest is suggested), wrong type or range.
    """
    built = {}
    for label, settings in (protocol.robustness.attacks if protocol.robustness else {}).items():
        if settings is False:
            continue
        settings = dict(settings or {})
        cls = registry.get("attack", settings.pop("attack", label))
        where = f"protocol {protocol.name}, robustness.attacks.{label}"
        built[label] = validated(cls, settings, where)
    return built


def required_attacks(protocol: Protocol) -> dict[str, Attack]:
    """``attacks_of``, of which there must be one.

    Raises:
        UsageError: if there is none; see also ``attacks_of``.
    """
    attacks = attacks_of(protocol)
    if not attacks:
        raise UsageError(
            f"The protocol {protocol.name} names no attack; add `robustness: attacks:`, or use"
            " minicanvas_robust."
        )
    return attacks


def open_judges(protocol: Protocol | PromptProtocol, device: Any) -> Bench | PromptBench:
    """The judges of a protocol, loaded once."""
    if isinstance(protocol, PromptProtocol):
        return open_prompt_bench(protocol, device)
    return open_bench(protocol, device)


class Battery:
    """The attacks of a protocol on the models of one request.

    Args:
        original: the model before the edit.
        requests: what was to be forgotten.
        protocol: has a ``robustness`` section.
        bench: its judges.
        folder: where finished attacks are kept, so that a stopped battery goes on; None for none.
        targets: a folder of pictures of the concept, in place of the original's.
        announce: called with a line before each attack.

    Raises:
        UsageError: if the protocol names no attack, or nothing can be attacked.
    """

    def __init__(
        self,
        original: DiffusionModel,
        requests: Sequence[ConceptRequest],
        protocol: Protocol,
        bench: Bench,
        folder: Path | None = None,
        targets: Path | None = None,
        announce: Announce = lambda text: None,
    ):
        self.attacks = required_attacks(protocol)
        if not requests:
            raise UsageError("What was to be forgotten? Without a request nothing can be attacked.")
        if original.classes:
            raise UsageError(
                f"{original.name} is asked with labels, not with text, and every attack here"
                " searches for a text or changes one; attack a text-to-image model."
            )
        self.original, self.request, self.protocol, self.bench = (
            original, requests[0], protocol, bench,
        )  # fmt: skip
        self.folder, self.announce = folder, announce
        if any(attack.one_encoder for attack in self.attacks.values()):
            _ = original.vocabulary  # refuses a model of two text encoders
        if self._never_knew():
            locate(self._never_knew())
        room = max(
            (getattr(a, "tokens", 0) for a in self.attacks.values() if a.takes_room), default=0
        )
        self.stage: Stage = set_stage(original, requests, protocol, bench, room, targets)
        self._before: dict[str, np.ndarray] = {}

    def audit(self, victim: DiffusionModel, label: str = "model") -> dict[str, Any]:
        """Every attack on one model, with controls and floors; plain JSON, as scorecards keep it.

        Raises:
            RunError: if a kept result is damaged.
        """
        attacks = {}
        untouched = victim.fingerprint() == self.original.fingerprint()
        for name, attack in self.attacks.items():
            if untouched and attack.kind == "weights":
                continue  # there is nothing to bring back
            record = self._attack(name, attack, victim, label, "victim")
            record["control"] = self._control(name, attack)
            record["floor"] = self._floor(name, attack)
            attacks[name] = record
        return self._summary(attacks, victim)

    @property
    def judge(self) -> str:
        """Who says what a picture shows."""
        if isinstance(self.bench, PromptBench):
            return self.bench.detector.name
        if self.request.kind == "concept":
            return self.bench.clip.name
        return self.bench.judges[self.request.kind].name

    def _summary(self, attacks: dict[str, Any], victim: DiffusionModel) -> dict[str, Any]:
        counted = {name: a for name, a in attacks.items() if a["headline"]}
        worst = max(counted, key=lambda name: counted[name]["asr"]["hits"], default=None)
        anyone = np.zeros(len(self.stage.cases), bool)
        for record in counted.values():
            anyone |= np.array([trial["after"] for trial in record["trials"]])
        return {
            "victim": victim.fingerprint(),
            "asked": self.stage.asked,
            "cases": len(self.stage.cases),
            "too_long": self.stage.too_long,
            "unknown": self.stage.unknown,
            "unasked": self.stage.unasked,
            "pre_asr": rate_json(Rate.of(self.scene(victim).before)),
            "worst": None if worst is None else {"attack": worst, **counted[worst]["asr"]},
            "any": rate_json(Rate.of(anyone)) if counted else None,
            "attacks": attacks,
            "before": self._keep_before(victim),
            "never_knew": self._never_knew(),
            "warnings": self._warnings(attacks),
            "blur": getattr(self.protocol, "blur", False) or self.protocol.robustness.blur,
        }

    def _warnings(self, attacks: Mapping[str, Any]) -> list[str]:
        said, least = [], self.protocol.robustness.required_control
        left_out = self.stage.asked - len(self.stage.cases)
        if left_out:
            said.append(
                f"{left_out} of {self.stage.asked} prompts were left out for every attack:"
                f" {len(self.stage.too_long)} leave no room for adversarial tokens, under"
                f" {len(self.stage.unknown)} the original does not show the concept, and under"
                f" {len(self.stage.unasked)} it does even without its name."
            )
        for record in attacks.values():
            control = record["control"]
            if control and control["value"] < least:
                said.append(
                    f"{record['title']} brings the concept back in only"
                    f" {100 * control['value']:.0f} % of the original's prompts without its name"
                    f" (at least {100 * least:.0f} % are asked for): its failures show little."
                )
        return said

    def _control(self, name: str, attack: Attack) -> dict[str, Any] | None:
        """ASR of a white-box attack on the original when the prompt does not name the concept."""
        trained = attack.kind == "weights"
        if not attack.white_box or trained or not self.protocol.robustness.controls:
            return None
        return self._attack(name, attack, self.original, "original without the name", "control")[
            "asr"
        ]

    def _floor(self, name: str, attack: Attack) -> dict[str, Any] | None:
        """What the attack gives on a model that never knew the concept; None if there is none."""
        source = self._never_knew()
        if source is None or not self.protocol.robustness.controls:
            return None
        model = _loaded(source)
        record = self._attack(name, attack, model, "the model that never knew it", "victim")
        return {**record["asr"], "details": record["details"]}

    def _never_knew(self) -> str | None:
        return self.protocol.robustness.never_knew.get(self.request.name)

    def _attack(
        self, name: str, attack: Attack, victim: DiffusionModel, label: str, role: str
    ) -> dict[str, Any]:
        """Run one attack on one model, or read what it gave before."""
        key = self._key(attack, victim, role)
        path = self.folder / f"{key}.json" if self.folder else None
        if path and path.is_file():
            return _read(path)
        self.announce(f"attack {name} on {label}")
        started = time.perf_counter()
        result = attack.run(self.scene(victim, role))
        seconds = time.perf_counter() - started
        record = {
            "key": key, "attack": attack.name, "title": attack.title, "kind": attack.kind,
            "white_box": attack.white_box, "headline": attack.headline,
            "settings": attack.model_dump(mode="json"),
            "pre_asr": rate_json(result.pre_asr), "asr": rate_json(result.asr),
            "queries": sum(trial.queries for trial in result.trials),
            "seconds": round(seconds, 2), "details": dict(result.details),
            "trials": [asdict(trial) for trial in result.trials],
        }  # fmt: skip
        if path:
            _write_pictures(path.with_suffix(".npz"), result.pictures)
            files.write_json(path, record)
        return json.loads(json.dumps(record))

    def _key(self, attack: Attack, victim: DiffusionModel, role: str) -> str:
        cases = [(c.prompt, c.neutral, c.seed, c.paraphrases) for c in self.stage.cases]
        targets = self.stage.targets
        learned = [(p.prompts, p.neutral, int(p.pixels.astype(np.uint64).sum())) for p in
                   (self.stage.examples, self.stage.others)]  # fmt: skip
        return digest(
            "attack 2", attack.name, attack.model_dump(mode="json"), victim.fingerprint(), role,
            self.original.fingerprint(), cases, asdict(self.stage.sampler), self.bench.key(),
            int(targets.astype(np.uint64).sum()), list(targets.shape), learned, self.protocol.robustness.seed,
        )[:16]  # fmt: skip

    def scene(self, victim: DiffusionModel, role: str = "victim") -> Scene:
        """What an attack on this model may use.

        Args:
            victim: the model under attack.
            role: ``control`` leaves the concept's name out of the prompts.
        """
        stage, cases = self.stage, self.stage.cases
        if role == "control":
            cases = tuple(replace(case, prompt=case.neutral) for case in cases)
        key = f"{victim.fingerprint()} {role}"
        if key not in self._before:
            self._before[key] = draw_cases(victim, cases, stage.sampler)
        pictures = self._before[key]
        return Scene(
            victim, self.original, stage.concept, cases, stage.targets, stage.examples,
            stage.others, stage.verdict, pictures,
            np.asarray(stage.verdict(pictures, cases), bool), stage.sampler,
            self.protocol.robustness.seed,
        )  # fmt: skip

    def _keep_before(self, victim: DiffusionModel) -> str | None:
        """Name of the file with the victim's and the original's unattacked pictures."""
        if self.folder is None:
            return None
        pictures = np.stack([self.stage.targets, self.scene(victim).unattacked])
        name = digest("before", victim.fingerprint(), len(pictures[0]), int(pictures.sum()))[:16]
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            _write_pictures(path, pictures)
        return name


def rate_json(rate: Rate) -> dict[str, Any]:
    return {
        "value": rate.value, "hits": rate.hits, "total": rate.total,
        "interval": list(rate.interval),
    }  # fmt: skip


def metrics_of(found: Mapping[str, Any], judge: str) -> dict[str, Metric]:
    """``pre_asr``, ``asr_<attack>``, ``asr_worst`` and ``asr_any`` for a scorecard."""
    metrics = {}

    def add(name: str, rate: Mapping[str, Any], seconds: float = 0.0) -> None:
        counted = Rate(rate["hits"], rate["total"])
        metrics[name] = Metric.of_rate(name, counted, found["cases"], judge, seconds)

    add("pre_asr", found["pre_asr"])
    for label, record in found["attacks"].items():
        # what training brings back has a curve, and no rate of its own
        if record["kind"] != "weights":
            add(f"asr_{label}", record["asr"], record["seconds"])
    if found["worst"]:
        add("asr_worst", found["worst"])
        add("asr_any", found["any"])
    return metrics


def pictures_of(folder: Path, name: str) -> np.ndarray | None:
    """Pictures that were kept under a key, None if they were deleted."""
    path = Path(folder) / f"{name}.npz"
    if not path.is_file():
        return None
    with np.load(path) as stored:
        return stored["pictures"]


def _write_pictures(path: Path, pictures: np.ndarray) -> None:
    with files.replacing(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, pictures=pictures)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged; delete it and run again.") from error


_LOADED: dict[str, Any] = {}


def _loaded(source: str) -> Any:
    from ..models.zoo import load_model

    if source not in _LOADED:
        _LOADED[source] = load_model(source)
    return _LOADED[source]


__all__ = ["AttackResult", "Battery", "Trial", "attacks_of", "metrics_of", "pictures_of"]
