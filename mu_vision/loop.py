"""The one training loop: device, precision, progress, checkpoints, resume, time and memory.

Whatever is trained here (an eraser, a judge, the embedded pipeline) is an ``Objective``. It gives
named parameters and a dict of losses; the loop sums the keys that end in ``_loss``, logs the rest
and owns everything else. Step n draws its randomness from (seed, n, micro-batch, process) alone,
so a run that was killed at any step and resumed ends with the same weights, bit for bit on CPU.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from . import seeding
from .checkpoint import restore, save
from .errors import Diverged, RunError, UsageError
from .progress import track


class Objective:
    """What the loop trains. Subclasses give ``parameters`` and ``loss``; the rest is optional.

    An adversarial method that owns several optimisers overrides ``optimizers`` and ``step``.

    Attributes:
        part: name of its optimiser, where objectives share a run.
    """

    part: str = "main"

    def prepare(self, device: torch.device) -> None:
        """Move to the device and compute once what is frozen. Called before the first step."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Exactly the tensors that may move, by full name."""
        raise NotImplementedError

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        """Losses of one micro-batch: keys ending in ``_loss`` are summed, others only logged."""
        raise NotImplementedError

    def optimizers(self, config: LoopConfig) -> dict[str, torch.optim.Optimizer]:
        return {self.part: config.optimizer_of(list(self.parameters().values()))}

    def step(self, step: int, run: Run) -> dict[str, torch.Tensor]:
        """One optimiser step; gives what is to be logged. The default: accumulate ``loss``, clip."""
        logged: dict[str, torch.Tensor] = {}
        for micro in range(run.config.accumulation):
            with run.randomness(step, micro):
                losses = self.loss(step)
            run.backward(summed(losses) / run.config.accumulation, step)
            note(logged, losses, run.config.accumulation)
        run.apply(run.optimizers[self.part], self.parameters().values())
        return logged

    def after_step(self, step: int) -> None:
        """Called after every optimiser step (moving averages, projections)."""

    def finished(self) -> bool:
        """True once no further step would help: the loop ends there."""
        return False

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors beyond the parameters that an exact resume needs (pools, moving averages)."""
        return {}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what ``state`` gave."""


def summed(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of what ends in ``_loss``.

    Raises:
        RunError: if nothing does.
    """
    chosen = [value for name, value in losses.items() if name.endswith("_loss")]
    if not chosen:
        raise RunError(f"No loss to descend: none of {sorted(losses)} ends in '_loss'.")
    return sum(chosen)


def note(logged: dict[str, torch.Tensor], values: dict[str, torch.Tensor], parts: int) -> None:
    """Add one of ``parts`` micro-batches to the means that are logged."""
    for name, value in values.items():
        logged[name] = logged.get(name, 0.0) + value.detach().float() / parts


@dataclass(frozen=True)
class LoopConfig:
    """Settings of one training run.

    Attributes:
        steps: optimiser steps.
        lr: learning rate at the top of its schedule.
        momentum: of SGD.
        schedule: ``constant``, ``cosine`` down to 2 % of ``lr``, or ``step``: a tenth after half of
            the steps, and a hundredth after three quarters; all after ``warmup`` steps.
        clip: largest gradient norm, 0 for no clipping.
        accumulation: micro-batches an optimiser step.
        precision: ``no`` (float32), ``bf16`` or ``fp16`` autocast; weights stay float32.
        checkpoint_every: steps between checkpoints, 0 for none but the last.
        tracker: an accelerate tracker, e.g. ``tensorboard`` (an extra).
    """

    steps: int
    lr: float
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["constant", "cosine", "step"] = "constant"
    warmup: int = 0
    clip: float = 0.0
    accumulation: int = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    checkpoint_every: int = 0
    log_every: int = 10
    tracker: str | None = None

    def optimizer_of(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimiser of the chosen kind."""
        shared = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=self.momentum, **shared)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimizer]
        return kind(parameters, **shared)

    def lr_at(self, step: int) -> float:
        ramp = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return self.lr * ramp
        done = step / max(self.steps, 1)
        if self.schedule == "step":
            return self.lr * ramp * 0.1 ** ((done >= 0.5) + (done >= 0.75))
        return self.lr * ramp * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass
class LoopResult:
    """What a run cost and how its losses went.

    Attributes:
        seconds: wall time over all parts of the run, resumed ones too.
        peak_memory_gb: largest resident memory (CPU) or allocated memory (GPU), in 10^9 bytes.
        history: one dict every ``log_every`` steps, with ``step`` and the logged values.
    """

    steps: int
    seconds: float
    peak_memory_gb: float
    history: list[dict[str, float]] = field(default_factory=list)


class Run:
    """What an ``Objective.step`` may use of the loop."""

    def __init__(
        self, config: LoopConfig, objective: Objective, folder: Path | None, label: str = "training"
    ):
        self.config, self.label = config, label
        self.accelerator = _accelerator(config, folder)
        objective.prepare(self.accelerator.device)
        _check_parameters(objective.parameters())
        self.optimizers: dict[str, Any] = {
            name: self.accelerator.prepare_optimizer(optimizer)
            for name, optimizer in objective.optimizers(config).items()
        }

    def randomness(self, step: int, micro: int = 0):
        """Seed torch's global generators for this step, micro-batch and process."""
        return seeding.seeded("step", self.config.seed, step, micro, self.accelerator.process_index)

    def autocast(self):
        return self.accelerator.autocast()

    def backward(self, loss: torch.Tensor, step: int) -> None:
        """Gradients of a scalar loss.

        Raises:
            Diverged: if the loss is NaN or infinite.
        """
        self._check(loss, step)
        self.accelerator.backward(loss)

    def gradients(
        self, loss: torch.Tensor, parameters: list[torch.nn.Parameter], step: int
    ) -> tuple[torch.Tensor | None, ...]:
        """This process's gradients of a scalar loss, times ``scale``; no ``.grad`` is touched.

        Raises:
            Diverged: if the loss is NaN or infinite.
        """
        self._check(loss, step)
        scaler = self.accelerator.scaler
        loss = scaler.scale(loss) if scaler else loss
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    def _check(self, loss: torch.Tensor, step: int) -> None:
        if not torch.isfinite(loss.detach()):
            raise Diverged(
                f"The loss became {float(loss.detach()):g} at step {step + 1} of {self.label}. Lower the"
                f" learning rate (lr={self.config.lr:g}), or use precision=no."
            )

    @property
    def scale(self) -> float:
        """Factor on losses under fp16, which the optimiser takes out again; else 1."""
        scaler = self.accelerator.scaler
        return scaler.get_scale() if scaler else 1.0

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean over processes."""
        if self.accelerator.num_processes == 1:
            return tensor
        return self.accelerator.reduce(tensor, reduction="mean")

    def apply(
        self, optimizer: Any, parameters: Any, clip: float | None = None, averaged: bool = False
    ) -> None:
        """Average gradients over processes, clip them, take one optimiser step, clear them.

        Args:
            optimizer: one of ``optimizers``.
            parameters: its parameters.
            clip: largest gradient norm, 0 for no clipping; default the setting.
            averaged: the gradients are means over processes already.
        """
        parameters = [p for p in parameters if p.grad is not None]
        for parameter in () if averaged else parameters:
            parameter.grad = self.average(parameter.grad)
        clip = self.config.clip if clip is None else clip
        if clip:
            self.accelerator.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _accelerator(config: LoopConfig, folder: Path | None) -> Accelerator:
    if config.tracker and folder is None:
        raise UsageError(f"The tracker {config.tracker} needs a folder to write to.")
    # One process may train several times, with another precision each time.
    AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(
            mixed_precision=config.precision,
            log_with=config.tracker,
            project_dir=str(folder) if config.tracker else None,
        )
    except ValueError as error:
        AcceleratorState._reset_state()
        raise UsageError(
            f"precision={config.precision}, tracker={config.tracker}: {error}"
        ) from error
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("precision=fp16 needs a GPU; use precision=bf16 or precision=no.")
    if config.tracker and not accelerator.log_with:
        raise UsageError(
            f"The tracker {config.tracker} is not installed: pip install {config.tracker}."
        )
    return accelerator


def _check_parameters(parameters: dict[str, torch.nn.Parameter]) -> None:
    if not parameters:
        raise UsageError("No parameter was selected for training, so nothing could be learned.")
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if frozen:
        raise RunError(f"{len(frozen)} selected parameters do not require grad, e.g. {frozen[0]}.")


def peak_memory_gb() -> float:
    """Largest memory use so far: allocated on the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def train(
    objective: Objective,
    config: LoopConfig,
    folder: Path | str | None = None,
    label: str = "training",
    on_checkpoint: Callable[[int], None] | None = None,
) -> LoopResult:
    """Run the loop, going on from the folder's checkpoint if there is one.

    Args:
        objective: what to train; its parameters are changed in place.
        config: the settings; a checkpoint made with other settings is refused.
        folder: where checkpoints and ``log.jsonl`` go; None for neither.
        label: what it is, for the progress bar and errors ("unlearning with esd").
        on_checkpoint: called with the number of finished steps after each checkpoint.

    Raises:
        Diverged: if a loss becomes NaN or infinite; the last good checkpoint is kept.
        UsageError: if the folder holds a checkpoint of a run with other settings.
    """
    folder = Path(folder) if folder else None
    run = Run(config, objective, folder, label)
    if config.tracker:
        run.accelerator.init_trackers("mu_vision", config=asdict(config))
    done, seconds = restore(run, objective, folder)
    history = _restore_log(run, folder, done)
    result = LoopResult(done, seconds, 0.0, history)
    started = time.perf_counter()
    try:
        for step in track(range(done, config.steps), label, done, config.steps):
            if objective.finished():
                break
            for optimizer in run.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = config.lr_at(step) * group.get("lr_scale", 1.0)
            with run.autocast():
                logged = objective.step(step, run)
            objective.after_step(step)
            finished = step + 1
            last = finished == config.steps or objective.finished()
            if finished % config.log_every == 0 or last:
                _log(run, result, folder, {"step": finished, **logged})
            every = config.checkpoint_every
            result.steps = finished
            if folder and ((every and finished % every == 0) or last):
                _check_finite(objective, finished, label)
                spent = seconds + time.perf_counter() - started
                save(run, objective, folder, finished, spent)
                if on_checkpoint and run.accelerator.is_main_process:
                    on_checkpoint(finished)
    finally:
        if config.tracker:
            run.accelerator.end_training()
    _check_finite(objective, config.steps, label)
    run.accelerator.wait_for_everyone()  # nobody leaves, or reads, before the last file is written
    result.seconds = seconds + time.perf_counter() - started
    result.peak_memory_gb = peak_memory_gb()
    return result


def _check_finite(objective: Objective, step: int, label: str) -> None:
    """A finite loss can have an infinite gradient: never keep or return ruined weights."""
    for name, parameter in objective.parameters().items():
        if not torch.isfinite(parameter).all():
            raise Diverged(
                f"The weights {name} became NaN or infinite by step {step} of {label}. Lower the"
                " learning rate, set clip, or use precision=no."
            )


def _restore_log(run: Run, folder: Path | None, done: int) -> list[dict[str, float]]:
    """Rows that were logged up to the checkpoint; later ones, which are made again, are dropped."""
    path = folder / "log.jsonl" if folder else None
    if path is None or not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break  # the line that was being written when the run was killed
        if row["step"] <= done:
            rows.append(row)
    if run.accelerator.is_main_process:
        partial = path.with_name("log.jsonl.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(partial, path)
    return rows


def _log(run: Run, result: LoopResult, folder: Path | None, row: dict[str, Any]) -> None:
    row = {"step": row["step"], **{k: float(v) for k, v in row.items() if k != "step"}}
    result.history.append(row)
    if run.config.tracker:
        run.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
    if folder and run.accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
