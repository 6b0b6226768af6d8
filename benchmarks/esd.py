"""Time ESD as it is here against the plain way, for the same number of updates.

The plain way is the published code's: for every update one partial denoising of fresh noise, the
two guidance branches one after the other, then the teacher's two predictions one after the other.

    python benchmarks/esd.py                                # speed on the embedded model
    python benchmarks/esd.py --protocol minicanvas --style sketch steps=200 lr=1e-4 batch=4
    python benchmarks/esd.py --model tiny                   # a random-weight pipeline, in seconds

Both ways run in turns, ``--repeats`` times; the ratio is that of the median times. With
``--protocol`` the last model of each way is evaluated, and UA, IRA and CRA are printed too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from mu_vision.errors import MuVisionError, UsageError
from mu_vision.models import maths
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.base import Unlearned
from mu_vision.unlearn.diffusion.esd import ESD, ESDObjective


class PlainObjective(ESDObjective):
    """No pool: every draw is a partial denoising of its own, one branch at a time."""

    @torch.no_grad()
    def _draw(self) -> dict[str, torch.Tensor]:
        settings, n = self.settings, self.settings.batch
        depth, low, high = self.stops[int(torch.randint(len(self.stops), ()))]
        which = torch.randint(len(self.concepts), (1,)).expand(n).to(self.teacher.device)
        c, null, student = self.c[which], self.null.expand(n), self.student
        x = torch.randn(n, *self.teacher.latent_shape).to(self.teacher.device)
        for t in self.ladder[:depth]:
            e_null = student.predict_noise(x, t, null)
            e_cond = student.predict_noise(x, t, c)
            eps = maths.guided(e_null, e_cond, settings.start_guidance)
            after = student.level_after(t, settings.sampler_steps)
            x = maths.ddim_step(x, eps, student.alphas_cumprod[t], after)
        t = torch.randint(low, high + 1, (n,)).to(x.device)
        e_0 = self.teacher.predict_noise(x, t, null)
        e_c = self.teacher.predict_noise(x, t, c)
        if settings.base == "from":
            base = self.teacher.predict_noise(x, t, self.f[which])
        else:
            base = e_0 if settings.base == "null" else e_c
        y = base - settings.eta * (e_c - e_0)
        return {"x": x, "t": t, "which": which, "y": y, "e_0": e_0, "d": e_c - e_0}


class PlainESD(ESD):
    """ESD with the plain way to its starting states; the losses are the same."""

    def objective(self, model: DiffusionModel, requests: Sequence[ConceptRequest]):
        return PlainObjective(self, model, requests)


class Count:
    """Calls of the U-Net and rows in them, the student's and the teacher's together."""

    def __init__(self) -> None:
        self.calls = self.rows = 0

    def __enter__(self) -> Count:
        kind = DiffusionModel.predict_noise

        def counted(model, x, t, text):
            self.calls, self.rows = self.calls + 1, self.rows + len(x)
            return kind(model, x, t, text)

        self.kind, DiffusionModel.predict_noise = kind, counted
        return self

    def __exit__(self, *_) -> None:
        DiffusionModel.predict_noise = self.kind


def load(name: str, folder: str) -> DiffusionModel:
    if name == "tiny":
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        import tiny

        return DiffusionModel.load(tiny.tiny_sd(Path(folder) / "tiny"))
    return DiffusionModel.load(name)


def measure(
    ways: dict[str, ESD], model: DiffusionModel, request: ConceptRequest, repeats: int
) -> dict[str, Unlearned]:
    """Run the ways in turns and print what they cost; give the last result of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    done: dict[str, Unlearned] = {}
    for turn in range(repeats):
        for name, way in ways.items():
            with Count() as count:
                done[name] = way.unlearn(model, request)
            seconds[name].append(done[name].seconds)
            if turn == 0:
                print(
                    f"{name:8s} {count.calls / way.steps:7.1f} U-Net calls and"
                    f" {count.rows / way.steps:7.1f} rows an update"
                )
    for name, way in ways.items():
        each = 1000 * statistics.median(seconds[name]) / way.steps
        spread = ", ".join(f"{value:.1f}" for value in seconds[name])
        print(f"{name:8s} {each:9.1f} ms an update ({way.steps} updates: {spread} s)")
    plain, ours = (statistics.median(seconds[name]) for name in ("plain", "mu-vision"))
    print(f"ratio    {plain / ours:9.2f} times faster, {torch.get_num_threads()} threads")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", help="settings of ESD, e.g. steps=100 batch=4")
    parser.add_argument("--model", default="minicanvas/sd")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--style", default="sketch")
    group.add_argument("--object")
    parser.add_argument("--protocol", help="evaluate both results by this protocol")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    pairs = [text.partition("=") for text in options.settings]
    settings = {key: yaml.safe_load(value) for key, _, value in pairs}
    try:
        for key, sign, _ in pairs:
            if not sign:
                raise UsageError(f"{key!r} is not a setting: type key=value, e.g. steps=100.")
        settings = {"steps": 64, "lr": 1e-5, **settings}
        ways = {"plain": PlainESD.from_settings(settings), "mu-vision": ESD.from_settings(settings)}
        with tempfile.TemporaryDirectory() as folder:
            model = load(options.model, folder)
            kind, name = ("object", options.object) if options.object else ("style", options.style)
            request = concept_request(kind, name)
            done = measure(ways, model, request, options.repeats)
            if options.protocol:
                from mu_vision.evaluation.evaluate import evaluate

                for way, result in done.items():
                    card = evaluate(result.model, options.protocol, request, original=model)
                    values = {k: card.metrics[k].value for k in ("ua", "ira", "cra")}
                    shown = ", ".join(f"{k} {100 * v:.1f} %" for k, v in values.items())
                    print(f"{way:8s} {shown}")
    except MuVisionError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
