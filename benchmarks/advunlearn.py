r"""Time AdvUnlearn as it is here against the plain way, for the same attack and update steps.

The plain way is the published algorithm, one step after the other: every attack step denoises fresh
noise down to a random sampler step (both guidance branches one after the other), asks the frozen
model for e_0 and e_c one by one, and moves the prefix once; every update samples such a state again,
and states of the retain prompts by trajectories of their own, at the same depth; the student runs on
the two separately. The losses, the attack (cleared gradients, last iterate) and the settings are
those of mu-vision's own class, so that the results can be compared. One cost of the published code is
left out, which makes the plain way here the faster one: in every attack step it also computes the
gradients of all weights, and throws them away.

    python benchmarks/advunlearn.py                         # speed on the embedded model, < 2 min
    python benchmarks/advunlearn.py --iterations 40 --protocol minicanvas_robust --style sketch \
        lr=1e-3 attack_steps=10 sampler_steps=20
    python benchmarks/advunlearn.py --model tiny            # a random-weight pipeline, in seconds

``--measured`` attacked iterations of the plain way run, each between two of ours. Pools are timed by
themselves, on a ``--part``-th of them (their cost is linear), and spread over ``--iterations``, the
length of a whole run (paper: 1000). CPU seconds are the better measure on a machine that others use
too. The depths of a plain iteration's trajectories are random and its rows vary by some 20 %, so its
seconds are brought to the mean depth. With ``--protocol`` both ways are trained for ``--iterations``
and evaluated, and attacked by UnlearnDiffAtk.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from mu_vision.errors import MuVisionError, UsageError
from mu_vision.loop import Run
from mu_vision.models import maths
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.models.text import TextStates
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.base import Erasure
from mu_vision.unlearn.diffusion.advunlearn import AdvUnlearn, AdvUnlearnObjective
from mu_vision.unlearn.diffusion.retain import kept_prompts

# the paper's settings; its warm-up without an attack is in the code only
PAPER = {"sampler_steps": 50, "attack_steps": 30, "batch": 1, "retain_batch": 5, "gamma": 0.3}
ATTACK = "unlearndiffatk"
DEFAULTS = {**PAPER, "clean_steps": 0, "lr": 1e-5}


class PlainObjective(AdvUnlearnObjective):
    """No pools: every state is a trajectory of its own, every prediction a pass of its own."""

    def prepare(self, device: torch.device) -> None:
        Erasure.prepare(self, device)
        self.c = self.teacher.encode_prompt(self.concepts)
        self.null = self.teacher.null_text()
        if self.settings.gamma:
            self.kept = kept_prompts(self.teacher, self.requests, self.settings.retain)

    @torch.no_grad()
    def denoise(self, text: TextStates, depth: int) -> torch.Tensor:
        """Latents [B, C, h, w] of B texts after ``depth`` guided sampler steps from fresh noise."""
        s, teacher = self.settings, self.teacher
        x = torch.randn(len(text), *teacher.latent_shape).to(teacher.device)
        for t in self.ladder[:depth]:
            e_null = teacher.predict_noise(x, t, self.null)
            e_cond = teacher.predict_noise(x, t, text)
            eps = maths.guided(e_null, e_cond, s.start_guidance)
            after = teacher.level_after(t, s.sampler_steps)
            x = maths.ddim_step(x, eps, teacher.alphas_cumprod[t], after)
        return x

    @torch.no_grad()
    def fresh(self, depth: int, t: int) -> dict[str, torch.Tensor]:
        """One batch of concept states with the frozen model's e_0 and e_c."""
        which = torch.randint(len(self.concepts), (1,)).expand(self.settings.batch)
        which = which.to(self.teacher.device)
        x = self.denoise(self.c[which], depth)
        e_0 = self.teacher.predict_noise(x, t, self.null)
        e_c = self.teacher.predict_noise(x, t, self.c[which])
        y = e_0 - self.settings.eta * (e_c - e_0)
        level = torch.full((len(x),), t, device=x.device)
        return {"x": x, "t": level, "which": which, "y": y, "e_0": e_0, "d": e_c - e_0}

    def stop(self) -> tuple[int, int]:
        """A random sampler step: how many steps to run, and the timestep there."""
        depth, low, high = self.stops[int(torch.randint(len(self.stops), ()))]
        return depth, int(torch.randint(low, high + 1, ()))

    def rows(self) -> float:
        """U-Net rows of an attacked iteration at the mean depth of its trajectories."""
        s, depth = self.settings, statistics.fmean(stop[0] for stop in self.stops)
        states = s.batch * (1 + (s.attack_steps if s.attack != "none" else 0))
        kept = min(s.retain_batch, len(self.kept)) if s.gamma else 0
        # both branches of the trajectory, e_0 and e_c (for retain states eps*), the student's pass
        return states * (2 * depth + 3) + kept * (2 * depth + 2)

    def _draw_for_attack(self) -> dict[str, torch.Tensor]:
        return self.fresh(*self.stop())

    def loss(self, step: int) -> dict[str, torch.Tensor]:
        s, logged = self.settings, {}
        attacked = s.attack != "none" and step >= s.clean_steps
        if attacked:
            self.delta, logged["attack_error"] = self._attack(self.teacher.device)
        depth, t = self.stop()
        state = self.fresh(depth, t)
        if attacked:
            text = self._attacked_text(state["which"], self.delta)
        else:
            text = self._student_text(state["which"], True)
        eps = self.student.predict_noise(state["x"], state["t"], text)
        losses = {"esd_loss": (eps - state["y"]).square().mean(), **logged}
        if s.gamma:
            rows = torch.randperm(len(self.kept))[: s.retain_batch].tolist()
            prompts = [self.kept[i] for i in rows]
            frozen = self.teacher.encode_prompt(prompts)
            x = self.denoise(frozen, depth)
            with torch.no_grad():
                target = self.teacher.predict_noise(x, t, frozen)
            text = self.student.encode_prompt_with_grad(prompts)
            eps = self.student.predict_noise(x, t, text)
            losses["retain_loss"] = s.gamma * (eps - target).square().mean()
        return losses


class PlainAdvUnlearn(AdvUnlearn):
    """AdvUnlearn with the plain way to its states; losses, attack and settings are the same."""

    def objective(self, model: DiffusionModel, requests: Sequence[ConceptRequest]) -> Erasure:
        return PlainObjective(self, model, requests)


@dataclass
class Cost:
    """Rows and calls of the U-Net, and seconds: of the clock, and of this process's own work."""

    forward: int = 0
    backward: int = 0
    calls: int = 0
    turns: list[int] = field(default_factory=list)  # rows of each stretch that was timed
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.forward + self.backward


class Counted:
    """Counts what runs through a U-Net while the context is open, and times it."""

    def __init__(self, unet: torch.nn.Module, cost: Cost):
        self.unet, self.cost = unet, cost

    def __enter__(self) -> None:
        self.before = self.cost.rows
        self.hook = self.unet.register_forward_pre_hook(self._count)
        self.started, self.worked = time.perf_counter(), time.process_time()

    def _count(self, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        rows = len(arguments[0])
        self.cost.calls += 1
        # every pass with gradients here is followed by exactly one backward pass
        if torch.is_grad_enabled():
            self.cost.backward += rows
        else:
            self.cost.forward += rows

    def __exit__(self, *_) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.cost.turns.append(self.cost.rows - self.before)
        self.cost.seconds.append(time.perf_counter() - self.started)
        self.cost.cpu.append(time.process_time() - self.worked)
        self.hook.remove()


class Timed:
    """One way under the stopwatch: ``build`` once, then ``iterate``."""

    def __init__(self, way: AdvUnlearn, model: DiffusionModel, request: ConceptRequest, part: int):
        small = {"pool": -(-way.pool // part), "retain_pool": -(-way.retain_pool // part)}
        if way.gamma and not isinstance(way, PlainAdvUnlearn):
            # the states of a prompt depend on how many prompts share the pool
            small["retain"] = tuple(kept_prompts(model, (request,), way.retain)[::part])
        self.way, self.unet, self.part = way.model_copy(update=small), model.unet, part
        self.objective = self.way.objective(model, (request,))
        self.pools, self.each = Cost(), Cost()
        self.done = 0

    def build(self) -> None:
        with Counted(self.unet, self.pools):
            self.run = Run(self.way.loop_config(), self.objective, None)
            if not isinstance(self.objective, PlainObjective):
                with self.run.randomness(0):
                    self.objective._draw()  # the first draw makes the pool of concept states

    def iterate(self) -> None:
        """One attacked iteration."""
        with Counted(self.unet, self.each):
            self.objective.step(self.way.clean_steps + self.done, self.run)
        self.done += 1

    @property
    def rows(self) -> float:
        """Rows of an iteration in the mean: known for the plain way, always the same for ours."""
        if isinstance(self.objective, PlainObjective):
            return self.objective.rows()
        return self.each.rows / self.done


def speed(
    ways: dict[str, AdvUnlearn],
    model: DiffusionModel,
    request: ConceptRequest,
    turns: int,
    part: int,
) -> list[list[str]]:
    """Rows of the table of costs; the ways run in turns, so that a busy machine slows both."""
    plain, ours = (Timed(ways[name], model, request, part) for name in KINDS)
    for one in (plain, ours):
        one.build()
    for _ in range(turns):
        for one in (ours, plain, ours):
            one.iterate()
    return cost_rows(plain, ours, ways["plain"].steps)


def cost_rows(plain: Timed, ours: Timed, iterations: int) -> list[list[str]]:
    """An iteration of both ways: rows of the U-Net, then seconds, each without and with pools."""
    both, part = (plain, ours), ours.part
    pools = [o.pools.rows * part for o in both]
    lasting = [o.rows + p / iterations for o, p in zip(both, pools, strict=True)]

    def line(what: str, values: Sequence[float], form: str) -> list[str]:
        ratio = f"{values[0] / values[1]:.1f}" if values[1] and "once" not in what else ""
        return [what, *(format(value, form) for value in values), ratio]

    def timed(kind: str) -> tuple[list[float], list[float], list[float]]:
        """Median of an iteration, at the mean depth; its pools; an iteration with its share."""
        each = [
            statistics.median(
                value * o.rows / rows
                for value, rows in zip(getattr(o.each, kind), o.each.turns, strict=True)
            )
            for o in both
        ]
        once = [getattr(o.pools, kind)[0] * part for o in both]
        return each, once, [e + o / iterations for e, o in zip(each, once, strict=True)]

    spread = [f"{min(o.each.seconds):.3f} to {max(o.each.seconds):.3f}" for o in both]
    rows = [
        line("U-Net rows, forward only", [o.each.forward / o.done for o in both], ".1f"),
        line("U-Net rows, forward and backward", [o.each.backward / o.done for o in both], ".1f"),
        line("U-Net rows, all", [o.each.rows / o.done for o in both], ".1f"),
        line("U-Net rows, all, at the mean depth", [o.rows for o in both], ".1f"),
        line("U-Net calls", [o.each.calls / o.done for o in both], ".1f"),
        line("U-Net rows of the pools, once", pools, "d"),
        line(f"U-Net rows, all, with pools over {iterations}", lasting, ".1f"),
    ]
    kinds = {"seconds": "seconds", "cpu": "CPU seconds"}
    for kind, name in kinds.items():
        each, once, whole = timed(kind)
        rows.append(line(f"{name}, pools built", each, ".3f"))
        if kind == "seconds":
            rows.append(["as measured, from fastest to slowest", *spread, ""])
        rows.append(line(f"{name} of the pools, once", once, ".2f"))
        rows.append(line(f"{name}, with pools over {iterations}", whole, ".3f"))
    return rows


def quality(
    ways: dict[str, AdvUnlearn], model: DiffusionModel, request: ConceptRequest, protocol: str
) -> list[list[str]]:
    """Train both ways to the end, evaluate and attack them; rows of the table of results."""
    from mu_vision.evaluation.evaluate import evaluate
    from mu_vision.evaluation.protocol import load_protocol
    from mu_vision.evaluation.robustness import Battery, metrics_of, open_judges

    loaded = load_protocol(protocol)
    attacks = getattr(loaded.robustness, "attacks", {})
    if ATTACK not in attacks:
        raise UsageError(f"The protocol {protocol} does not name {ATTACK} among its attacks.")
    changes = {"attacks": {name: False for name in attacks if name != ATTACK}, "controls": False}
    loaded = loaded.changed({"robustness": changes}, f"the protocol {protocol}")
    battery = Battery(model, (request,), loaded, open_judges(loaded, model.device))
    columns = {}
    for name, way in ways.items():
        started = time.perf_counter()
        done = way.unlearn(model, request)
        seconds = time.perf_counter() - started
        card = evaluate(done.model, loaded, request, original=model)
        found = battery.audit(done.model, name)
        metrics = {**card.metrics, **metrics_of(found, battery.judge)}
        shown = {key.upper(): _with_interval(metrics[key]) for key in ("ua", "ira", "cra")}
        shown["pre-ASR"] = _with_interval(metrics["pre_asr"])
        shown["ASR, UnlearnDiffAtk"] = _with_interval(metrics[f"asr_{ATTACK}"])
        shown["seconds, with pools"] = f"{seconds:.0f}"
        columns[name] = shown
    return [[key, *(shown[key] for shown in columns.values()), ""] for key in shown]


def _with_interval(metric: Any) -> str:
    """A rate, its 95 % interval and how many pictures it is of."""
    low, high = (100 * end for end in metric.interval)
    return f"{metric.text} [{low:.1f}, {high:.1f}] of {metric.used}"


def table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of the two ways."""
    rows = [[title, "plain", "mu-vision", "ratio"], *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def load(name: str, folder: str) -> DiffusionModel:
    if name == "tiny":
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        import tiny

        return DiffusionModel.load(tiny.tiny_sd(Path(folder) / "tiny"))
    return DiffusionModel.load(name)


KINDS = {"plain": PlainAdvUnlearn, "mu-vision": AdvUnlearn}


def both_ways(settings: Sequence[str], iterations: int) -> dict[str, AdvUnlearn]:
    """The two methods with the same settings.

    Raises:
        UsageError: for a wrong setting, or a variant that trains the U-Net.
    """
    given: dict[str, Any] = {}
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"{text!r} is not a setting: type key=value, e.g. attack_steps=30.")
        given[key] = yaml.safe_load(value)
    given = {**DEFAULTS, **given, "steps": iterations}
    ways = {kind: cls.from_settings(given) for kind, cls in KINDS.items()}
    fixed = {"variant": "text", "rollout": "teacher", "base": "null", "condition": "concept"}
    for key, value in {**fixed, "prefixes": 1}.items():
        if (found := getattr(ways["plain"], key)) != value:
            raise UsageError(
                f"{key}={found}: the plain way is written for the paper's {key}={value}; leave it"
                " out."
            )
    return ways


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", help="settings of AdvUnlearn, e.g. attack_steps=10")
    parser.add_argument("--model", default="minicanvas/sd")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--style", default="sketch")
    group.add_argument("--object")
    parser.add_argument("--protocol", help="train both ways and evaluate them by this protocol")
    parser.add_argument("--iterations", type=int, default=1000, help="length of a whole run")
    parser.add_argument("--measured", type=int, default=1, help="iterations that are timed")
    parser.add_argument("--part", type=int, default=4, help="pools are timed on 1/N of themselves")
    options = parser.parse_args()
    try:
        if min(options.iterations, options.measured, options.part) < 1:
            raise UsageError("--iterations, --measured and --part: give numbers of at least 1.")
        ways = both_ways(options.settings, options.iterations)
        with tempfile.TemporaryDirectory() as folder:
            model = load(options.model, folder)
            kind, name = ("object", options.object) if options.object else ("style", options.style)
            request = concept_request(kind, name)
            rows = speed(ways, model, request, options.measured, options.part)
            threads = f"{torch.get_num_threads()} threads on {model.device.type}"
            print(table(f"an attacked iteration, {threads}", rows))
            if options.protocol:
                rows = quality(ways, model, request, options.protocol)
                print(table(f"{options.iterations} iterations, {kind} {name}", rows))
    except MuVisionError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
