"""Count what a step of DoCo costs here against the plain way, for the same gradients.

The plain way is the published code's: a second U-Net predicts the anchors' side again in every step;
the student runs on both halves as one batch, in the head start too and with a graph; the gradients
of both losses are then taken through that one graph, which is kept for the second of them.

    python benchmarks/distribution_erasers.py               # on the embedded model, < 1 min
    python benchmarks/distribution_erasers.py --steps 10 batch=16
    python benchmarks/distribution_erasers.py --model tiny  # a random-weight pipeline, in seconds

A U-Net row is one latent through the network once, forward or backward. The memory of activations is
the peak of what autograd keeps, without weights, each storage once: it is the same on every machine.
Both ways run in turns, on the same states; the gradients of the two losses of the first step are
compared. Frozen predictions are made once here: their rows are spread over ``steps``, as
``head_start`` steps and the rest are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml

from mu_vision.errors import MuVisionError, UsageError
from mu_vision.loop import Run
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.diffusion.doco import DoCo, DoCoObjective
from mu_vision.unlearn.diffusion.pictures import some

DEFAULTS: dict[str, Any] = {"pictures": 8, "sampler_steps": 2, "lr": 1e-5}


@dataclass
class Cost:
    """U-Net rows, seconds, and the peak memory of activations, while the context is open."""

    forward: int = 0
    backward: int = 0
    calls: int = 0
    seconds: float = 0.0
    peak: int = 0
    weights: set[int] = field(default_factory=set)
    held: dict[int, list[int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.forward + self.backward

    def __enter__(self) -> Cost:
        plain = self.plain = DiffusionModel.predict_noise

        def counted(model, x, t, text):
            out = plain(model, x, t, text)
            self.forward, self.calls = self.forward + len(x), self.calls + 1
            if out.requires_grad:
                out.register_hook(lambda gradient: self._back(len(gradient)))
            return out

        DiffusionModel.predict_noise = counted
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept.tensor)
        self.hooks.__enter__()
        self.started = time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        self.seconds += time.perf_counter() - self.started
        self.hooks.__exit__(*_)
        DiffusionModel.predict_noise = self.plain

    def _back(self, rows: int) -> None:
        self.backward += rows

    def _keep(self, tensor: torch.Tensor) -> _Kept:
        return _Kept(tensor, self)


class _Kept:
    """A tensor that autograd keeps; its storage counts while one such tensor lives."""

    def __init__(self, tensor: torch.Tensor, cost: Cost):
        # a saved output would hold its own graph
        self.tensor, self.cost = tensor.detach(), cost
        self.place = tensor.untyped_storage().data_ptr()
        entry = cost.held.setdefault(self.place, [0, tensor.untyped_storage().nbytes()])
        entry[0] += 1
        live = sum(size for place, (_, size) in cost.held.items() if place not in cost.weights)
        cost.peak = max(cost.peak, live)

    def __del__(self) -> None:
        entry = self.cost.held[self.place]
        entry[0] -= 1
        if not entry[0]:
            del self.cost.held[self.place]


class PlainObjective(DoCoObjective):
    """The published way to the same two gradients and the same sides."""

    def prepare(self, device: torch.device) -> None:
        super().prepare(device)
        unet = [name for name in self.teacher.named_parameters() if name.startswith("unet.")]
        self.shadow = self.teacher.clone(unet).freeze()

    def joint(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """L_adv and L_pre of one pass over both halves; the sides are noted."""
        state = some(self.frozen, self.settings.batch)
        kept = self.pictures.noised(self.settings.batch, self.teacher.alphas_cumprod)
        x, t = torch.cat([state["x"], kept["x"]]), torch.cat([state["t"], kept["t"]])
        text = type(self.c).cat([self.c[state["which"]], self.a[kept["which"]]])
        eps, eps_pre = self._student(x, t, text).chunk(2)
        with torch.no_grad():
            anchor = self.shadow.predict_noise(state["x"], state["t"], self.a[state["which"]])
        fake = self._clean(state, eps)
        self.sides.append((self._clean(state, anchor), fake.detach()))
        adversarial = F.softplus(self.discriminator(fake)).mean()
        return adversarial, (eps_pre - kept["eps"]).square().mean()

    def step(self, step: int, run: Run) -> dict[str, torch.Tensor]:
        self.sides.clear()
        gradients = self.gradients
        with run.randomness(step):
            adversarial, preserving = self.joint(step)
        if step >= self.settings.head_start:
            gradients.clear()
            parameters = gradients.parameters
            gradients.add(1, torch.autograd.grad(preserving, parameters, retain_graph=True))
            gradients.add(0, torch.autograd.grad(adversarial, parameters))
            combined, _ = gradients.combine(self.settings.rule)
            for parameter, view in zip(parameters, gradients.views(combined), strict=True):
                parameter.grad = view
            run.apply(run.optimizers["main"], parameters)
        del adversarial, preserving
        return {"discriminator_loss": self._discriminate(step, run)}


class PlainDoCo(DoCo):
    """DoCo the plain way; losses, surgery and settings are the same."""

    def objective(self, model: DiffusionModel, requests: Sequence[ConceptRequest]):
        return PlainObjective(self, model, requests)


class Way:
    """One way under the stopwatch."""

    def __init__(self, settings: DoCo, model: DiffusionModel, request: ConceptRequest):
        self.settings: DoCo = settings
        self.phases: dict[str, Cost] = {}
        self.objective = settings.objective(model, (request,))
        self.run = Run(settings.loop_config(), self.objective, None)

    def walk(self, phase: str, step: int) -> None:
        """One step, of the head start or of the joint phase."""
        cost = self.phases.setdefault(phase, Cost())
        objective = self.objective
        everything = [*objective.student.named_parameters().values()]
        everything += [*objective.discriminator.parameters()]
        cost.weights = {p.untyped_storage().data_ptr() for p in everything}
        with cost:
            objective.step(step, self.run)

    def gradients(self) -> torch.Tensor:
        """Gradients of L_adv and L_pre [2, N] of the last step."""
        return self.objective.gradients.rows.clone()


def compare(
    ways: dict[str, DoCo], model: DiffusionModel, request: ConceptRequest, steps: int
) -> list[list[str]]:
    """Rows of the table; both ways start from the same weights and see the same states."""
    made = {
        name: Way(way.model_copy(update={"pool": 64}), model, request) for name, way in ways.items()
    }
    plain, ours = made["plain"], made["mu-vision"]
    start = ours.settings.head_start
    for step in range(steps):
        for way in (ours, plain):
            way.walk("head start", min(step, start - 1))
    for way in (plain, ours):
        way.walk("joint", start)
    a, b = plain.gradients(), ours.gradients()
    difference = ((a - b).norm(dim=1) / a.norm(dim=1)).tolist()
    for step in range(1, steps):
        for way in (ours, plain):
            way.walk("joint", start + step)

    rows: list[list[str]] = []

    def line(what: str, values: Sequence[float], form: str) -> None:
        ratio = f"{values[0] / values[1]:.2f}" if values[1] else ""
        rows.append([what, *(format(value, form) for value in values), ratio])

    each = {}
    for phase in ("head start", "joint"):
        costs = [way.phases[phase] for way in (plain, ours)]
        each[phase] = [cost.rows / steps for cost in costs]
        line(f"{phase}: U-Net rows forward", [cost.forward / steps for cost in costs], ".1f")
        line(f"{phase}: U-Net rows backward", [cost.backward / steps for cost in costs], ".1f")
        line(f"{phase}: U-Net rows, all", each[phase], ".1f")
        line(f"{phase}: activations, MB", [cost.peak / 1e6 for cost in costs], ".2f")
        line(f"{phase}: seconds a step", [cost.seconds / steps for cost in costs], ".3f")
    s = ways["mu-vision"]
    once = [0, 2 * s.pool]
    line("frozen predictions, rows once", once, "d")
    whole = [
        s.head_start * each["head start"][i] + (s.steps - s.head_start) * each["joint"][i] + once[i]
        for i in (0, 1)
    ]
    line(f"a run of {s.steps} steps: U-Net rows", whole, ".0f")
    worst = "{:.1e} (L_adv), {:.1e} (L_pre)".format(*difference)
    rows.append(["relative difference of the gradients", "", worst, ""])
    return rows


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of the two ways."""
    rows = [["a step of DoCo", "plain", "mu-vision", "ratio"], *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def load(name: str, folder: str) -> DiffusionModel:
    if name == "tiny":
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        import tiny

        return DiffusionModel.load(tiny.tiny_sd(Path(folder) / "tiny"))
    return DiffusionModel.load(name)


def both_ways(settings: Sequence[str]) -> dict[str, DoCo]:
    """The two methods with the same settings.

    Raises:
        UsageError: for a wrong setting, or one for which the plain way is not written.
    """
    given: dict[str, Any] = {}
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"{text!r} is not a setting: type key=value, e.g. batch=8.")
        given[key] = yaml.safe_load(value)
    ours = DoCo.from_settings({**DEFAULTS, **given})
    fixed = {"surgery": "project", "gamma": 0, "preserve_weight": 0, "accumulation": 1}
    for key, value in {**fixed, "anchor_model": None, "precision": "no"}.items():
        if (found := getattr(ours, key)) != value:
            raise UsageError(f"{key}={found}: the plain way is written for {key}={value}.")
    if not ours.head_start:
        raise UsageError("head_start=0: the plain way is written for a head start.")
    return {"plain": PlainDoCo(**ours.model_dump()), "mu-vision": ours}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", help="settings of DoCo, e.g. batch=8 scope=global")
    parser.add_argument("--model", default="minicanvas/sd")
    parser.add_argument("--style", default="sketch")
    parser.add_argument("--steps", type=int, default=4, help="steps of each phase that run")
    options = parser.parse_args()
    try:
        if options.steps < 1:
            raise UsageError("--steps: give a number of at least 1.")
        ways = both_ways(options.settings)
        with tempfile.TemporaryDirectory() as folder:
            model = load(options.model, folder)
            request = concept_request("style", options.style)
            print(table(compare(ways, model, request, options.steps)))
            print(f"{torch.get_num_threads()} threads on {model.device.type}")
    except MuVisionError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
