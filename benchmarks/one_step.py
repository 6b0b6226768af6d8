"""Time one-step sampling against the teacher's sampler, and SFD's joined batch against two passes.

    python benchmarks/one_step.py                           # the embedded label-conditional model
    python benchmarks/one_step.py --model FOLDER --steps 100 --pictures 128
    python benchmarks/one_step.py --model tiny              # random weights, in seconds

Sampling: the same network draws the same number of pictures by DDIM in ``--steps`` evaluations and
as a generator in one, decoding included. Training: SFD's update with retained and forgotten rows in
one batch, against a pass of each network for each. All ways run in turns, ``--repeats`` times; the
ratio is that of the median times. Weights change nothing about speed, so none is trained.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mu_vision import seeding
from mu_vision.distillation import Distillation
from mu_vision.errors import MuVisionError, UsageError
from mu_vision.loop import train
from mu_vision.models.denoiser import Denoiser, Generator
from mu_vision.models.zoo import load_model
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.diffusion.sfd import SFD


class SeparateDistillation(Distillation):
    """A pass of every network for the retained rows, and another one for the forgotten."""

    part = slice(None)

    def _rows(self, weight: float):
        rows = super()._rows(weight)
        return tuple(values[self.part] for values in rows)

    def _of_both(self, loss: Callable, step: int) -> dict[str, torch.Tensor]:
        n, found = self.settings.batch, {}
        for self.part in (slice(0, n), slice(n, None)):
            for name, value in loss(step).items():
                found[name] = found.get(name, 0.0) + value
        return found

    def fake_loss(self, step: int) -> dict[str, torch.Tensor]:
        return self._of_both(super().fake_loss, step)

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        return self._of_both(super().loss, step)


def load(name: str, folder: str) -> Denoiser:
    if name == "tiny":
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        import tiny

        return load_model(tiny.tiny_labels(Path(folder) / "tiny"))
    return load_model(name)


def in_turns(ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median of what each way returns, in seconds."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
    return {name: statistics.median(values) for name, values in found.items()}


def sampling(model: Denoiser, steps: int, pictures: int, repeats: int) -> None:
    one = model.drawing_by(Generator(len(model.alphas_cumprod) // 2))
    names = [model.classes[k % len(model.classes)] for k in range(pictures)]
    noise = seeding.noise((pictures, *model.latent_shape), "one_step")

    def drawn(way: Denoiser) -> Callable[[], float]:
        def once() -> float:
            started = time.perf_counter()
            way.decode(way.sample(way.encode_prompt(names), noise, steps=steps, guidance=1.0))
            return time.perf_counter() - started

        return once

    drawn(one)()  # the first call of a network is slower than the rest
    spent = in_turns({"teacher": drawn(model), "one step": drawn(one)}, repeats)
    for name, seconds in spent.items():
        print(
            f"{name:10s} {seconds:8.2f} s for {pictures} pictures, {pictures / seconds:.1f} a second"
        )
    print(
        f"sampling   {spent['teacher'] / spent['one step']:8.1f} times faster ({steps} steps to 1)"
    )


def updates(model: Denoiser, count: int, batch: int, repeats: int) -> None:
    forget, safe = model.classes[:2]
    request = ConceptRequest(kind="object", name=forget, prompts=(forget,), anchor=safe)
    method = SFD(steps=count, batch=batch, lr=1e-6)

    def trained(kind: type[Distillation]) -> Callable[[], float]:
        def once() -> float:
            objective = method.objective(model, [request])
            objective.__class__ = kind
            return train(objective, method.loop_config()).seconds / count

        return once

    spent = in_turns(
        {"joined": trained(Distillation), "separate": trained(SeparateDistillation)}, repeats
    )
    for name, seconds in spent.items():
        print(f"{name:10s} {1000 * seconds:8.1f} ms an update of {batch} + {batch} rows")
    print(f"updates    {spent['separate'] / spent['joined']:8.2f} times faster in one batch")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="minicanvas/objects")
    parser.add_argument("--steps", type=int, default=50, help="of the teacher's sampler")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = load(options.model, folder)
            if len(model.classes) < 2:
                raise UsageError(f"{options.model} is not a label-conditional model.")
            sampling(model, options.steps, options.pictures, options.repeats)
            updates(model, options.updates, options.batch, options.repeats)
        print(f"threads    {torch.get_num_threads()}")
    except MuVisionError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
