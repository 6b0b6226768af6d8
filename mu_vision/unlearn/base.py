"""The three shapes of an unlearner; whatever is not the method itself is here or in the loop.

A method's class holds its settings: its fields are its constructor, what a recipe may say, and
what is saved beside the model. ``unlearn`` never changes the model that it is given.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ..errors import RunError, UsageError
from ..jobs import claim, what_matters
from ..loop import LoopConfig, Objective, peak_memory_gb, train
from ..registry import Paper
from ..request import ConceptRequest
from ..validation import validated


@dataclass(frozen=True)
class Unlearned:
    """What an unlearner gives back.

    Attributes:
        model: the edited model; it shares every untouched tensor with the original.
        seconds: wall time of the edit, over all parts of a resumed run.
        peak_memory_gb: largest memory use in 10^9 bytes, of the process (CPU) or the GPU.
        trained: full names of the tensors that the method may move.
        report: what the method has to say about its edit.
        history: logged losses, a dict each.
    """

    model: Any
    seconds: float
    peak_memory_gb: float
    trained: list[str]
    report: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class Unlearner(BaseModel):
    """Settings of a method, and ``unlearn``.

    Attributes:
        name: set by ``registry.register``.
        title: the name as the literature writes it; empty where capitals do.
        family: ``diffusion``, ``gan``, ``classifier`` or ``regressor``.
        paper: where the method comes from.
        trial: settings of a run that takes a second on a tiny model (contract tests use them).
        idle: settings, on top of ``trial``, under which no weight can move; None if there are none.
        stochastic: False if the seed changes nothing.
        one_encoder: True if it refuses a model with two text encoders (SDXL) by its defaults.
        class_wise: True if it forgets whole classes of a classifier alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    name: ClassVar[str]
    title: ClassVar[str] = ""
    family: ClassVar[str]
    paper: ClassVar[Paper]
    trial: ClassVar[dict[str, Any]] = {}
    idle: ClassVar[dict[str, Any] | None] = None
    stochastic: ClassVar[bool] = True
    one_encoder: ClassVar[bool] = False
    class_wise: ClassVar[bool] = False

    seed: int = Field(0, ge=0, description="seed of all randomness of the method")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Unlearner:
        """Build from what a user wrote.

        Raises:
            UsageError: for an unknown key (with the nearest one), a wrong type or range.
        """
        return validated(cls, dict(settings), f"method {cls.name}")

    def trained(self, model: Any) -> list[str]:
        """Full names of the tensors that the method may move, in the model's order."""
        raise NotImplementedError

    def unlearn(
        self,
        model: Any,
        request: Any,
        folder: Path | str | None = None,
    ) -> Unlearned:
        """Edit a copy of the model so that it forgets.

        Args:
            model: the original; it is not changed.
            request: a ``ConceptRequest`` or ``ForgetRequest``, or several to be forgotten together.
            folder: where checkpoints go, so that a killed run goes on; None for none.

        Raises:
            UsageError: if the settings do not fit the model or the request.
            RunError: if no weight moved (a no-op), or the loss diverged.
        """
        requests = tuple(request) if isinstance(request, list | tuple) else (request,)
        if not requests:
            raise UsageError("Nothing was asked to be forgotten: give at least one request.")
        if model.family != self.family:
            raise UsageError(
                f"The method {self.name} works on a {self.family} model; {model.name} is a"
                f" {model.family} model."
            )
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        done = self._run(model, requests, Path(folder) if folder else None)
        done.model.freeze()
        changes = changed(model, done.model)
        if not changes:
            raise RunError(
                f"{self.name} moved no weight: the result is the original model (a no-op)."
                f" {self._hint()}"
            )
        moved = {"changed_tensors": len(changes), "selected_tensors": len(done.trained)}
        done.report.update(moved, relative_change=_relative_change(model, done.model, changes))
        return done

    def _run(self, model: Any, requests: tuple[ConceptRequest, ...], folder: Path | None):
        raise NotImplementedError

    def _hint(self) -> str:
        return "Check its settings and the request."


class Erasure(Objective):
    """The objective of a gradient method: a frozen teacher, and a student that shares with it.

    Only the selected tensors are copied; everything else is one object in memory for both.

    Attributes:
        teacher: the original model.
        student: the model that learns; made by ``prepare``.
    """

    def __init__(self, settings: Any, model: Any, requests: Sequence[ConceptRequest]):
        self.settings, self.teacher, self.requests = settings, model, tuple(requests)
        self.names = settings.trained(model)

    def prepare(self, device: torch.device) -> None:
        self.teacher.to(device)
        self.student = self.teacher.clone(self.names)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        everything = self.student.named_parameters()
        return {name: everything[name] for name in self.names}


class GradientUnlearner(Unlearner):
    """A method that descends a loss: give ``trained`` and ``objective``, the loop does the rest."""

    steps: int = Field(1000, ge=1, description="optimiser steps")
    lr: float = Field(1e-5, ge=0, description="learning rate")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimiser")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimiser")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    schedule: Literal["constant", "cosine", "step"] = Field(
        "constant", description="course of lr: constant, cosine, or a tenth at 1/2 and 3/4 (step)"
    )
    warmup: int = Field(0, ge=0, description="steps over which lr rises from 0")
    clip: float = Field(0.0, ge=0, description="largest gradient norm, 0 for no clipping")
    accumulation: int = Field(1, ge=1, description="micro-batches summed into one step")
    precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="autocast of the forward passes; weights stay float32"
    )
    checkpoint_every: int = Field(0, ge=0, description="steps between checkpoints, 0: at the end")
    log_every: int = Field(10, ge=1, description="steps between logged losses")
    tracker: str | None = Field(None, description="an accelerate tracker, e.g. tensorboard")

    def objective(self, model: Any, requests: Sequence[ConceptRequest]) -> Erasure:
        """The losses of this method on a model."""
        raise NotImplementedError

    def loop_config(self, steps: int | None = None) -> LoopConfig:
        return LoopConfig(
            steps=self.steps if steps is None else steps, lr=self.lr, optimizer=self.optimizer, clip=self.clip,
            weight_decay=self.weight_decay, momentum=self.momentum, schedule=self.schedule, warmup=self.warmup,
            accumulation=self.accumulation, precision=self.precision, seed=self.seed,
            checkpoint_every=self.checkpoint_every, log_every=self.log_every, tracker=self.tracker,
        )  # fmt: skip

    def _run(self, model: Any, requests: tuple[ConceptRequest, ...], folder: Path | None):
        objective = self.objective(model, requests)
        return self._trained(objective, self.loop_config(), model, requests, folder)

    def _trained(self, objective: Erasure, config: LoopConfig, model: Any, requests, folder):
        self.claim(folder, model, requests)
        result = train(objective, config, folder, f"unlearning with {self.name}")
        report = {"steps": result.steps}
        return Unlearned(
            objective.student, result.seconds, result.peak_memory_gb, objective.names, report,
            result.history,
        )  # fmt: skip

    def claim(self, folder: Path | None, model: Any, requests: Sequence[Any]) -> None:
        """Note the whole job beside its checkpoints, if there are any to be.

        Raises:
            UsageError: if they are of another job.
        """
        if folder:
            asked = [request.model_dump(mode="json") for request in requests]
            claim(folder, {
                "method": self.name, "settings": what_matters(self), "requests": asked,
                "base": model.fingerprint(),
            })  # fmt: skip

    def _hint(self) -> str:
        return f"Raise lr (now {self.lr:g}) or steps (now {self.steps}), and check the request."


class ClosedFormUnlearner(Unlearner):
    """A method without gradients: give ``trained`` and ``edit``."""

    stochastic: ClassVar[bool] = False

    def edit(self, model: Any, requests: Sequence[ConceptRequest]) -> dict[str, Any]:
        """Change the trained tensors of ``model`` in place and return a report."""
        raise NotImplementedError

    def _run(self, model: Any, requests: tuple[ConceptRequest, ...], folder: Path | None):
        started = time.perf_counter()
        names = self.trained(model)
        edited = model.clone(names).freeze()
        with torch.no_grad():
            report = self.edit(edited, requests)
        _check_finite(edited, names, self.name)
        seconds = time.perf_counter() - started
        return Unlearned(edited, seconds, peak_memory_gb(), names, report)


class AdversarialUnlearner(GradientUnlearner):
    """A method with an opponent: its ``objective`` attacks within ``loss``, or overrides ``step``."""


def concept_texts(
    requests: Sequence[ConceptRequest],
    texts: Literal["all", "names", "captions"] = "all",
    kept: Literal["all", "names", "captions", "none"] = "all",
) -> tuple[list[tuple[str, str]], list[str]]:
    """The (prompt, anchor) pairs of all requests together, and the texts to keep.

    What one request erases no other one keeps.

    Raises:
        UsageError: if the anchor of one request is to be erased by another.
    """
    pairs = list(dict.fromkeys(pair for r in requests for pair in r.pairs(texts)))
    erased = {prompt for request in requests for prompt in request.prompts}
    for prompt, anchor in pairs:
        if anchor != prompt and anchor in erased:
            raise UsageError(
                f"{anchor!r} is to take the place of {prompt!r}, but is to be erased itself;"
                " give another anchor."
            )
    keep = [] if kept == "none" else [text for r in requests for text in r.kept(kept)]
    return pairs, [text for text in dict.fromkeys(keep) if text not in erased]


def changed(original: Any, edited: Any) -> list[str]:
    """Names of the tensors that differ between two models of the same architecture."""
    before, after = original.named_parameters(), edited.named_parameters()
    return [
        name
        for name, tensor in after.items()
        if tensor.data_ptr() != before[name].data_ptr()
        and not torch.equal(tensor, before[name].to(tensor.device))
    ]


def _relative_change(original: Any, edited: Any, names: Sequence[str]) -> float:
    """|W' - W| / |W| in the Frobenius norm over the changed tensors together."""
    before, after = original.named_parameters(), edited.named_parameters()
    moved = sum(float((after[n].double() - before[n].double()).square().sum()) for n in names)
    size = sum(float(before[n].double().square().sum()) for n in names)
    return (moved / max(size, 1e-300)) ** 0.5


def _check_finite(model: Any, names: Sequence[str], method: str) -> None:
    parameters = model.named_parameters()
    broken = [name for name in names if not torch.isfinite(parameters[name]).all()]
    if broken:
        raise RunError(f"{method} gave NaN or infinite weights, e.g. in {broken[0]}.")
