from __future__ import annotations

import math

import pytest
import torch
from processes import run_in_two_processes

from mu_vision.errors import Diverged, RunError, UsageError
from mu_vision.loop import LoopConfig, Objective, train


class Line(Objective):
    """Fit w x to 3 x on random x; ``frozen`` must not move; ``noise`` is state beyond weights."""

    def __init__(self, batch: int = 4, stop_at: int | None = None, poison_at: int | None = None):
        self.batch, self.stop_at, self.poison_at = batch, stop_at, poison_at

    def prepare(self, device):
        self.w = torch.nn.Parameter(torch.zeros(3))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.pool = torch.zeros(3)

    def parameters(self):
        return {"w": self.w}

    def loss(self, step):
        if step == self.stop_at:
            raise KeyboardInterrupt
        x = torch.randn(self.batch, 3)
        self.pool = 0.5 * self.pool + x.mean(0)
        error = ((self.w * self.frozen - 3) * (x + 0.1 * self.pool)).square().mean()
        if step == self.poison_at:
            error = error * float("nan")
        return {"line_loss": error, "pool_size": self.pool.norm()}

    def state(self):
        return {"pool": self.pool}

    def load_state(self, state):
        self.pool = state["pool"]


def config(**changes) -> LoopConfig:
    return LoopConfig(**{"steps": 12, "lr": 0.1, "log_every": 1, **changes})


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("killed", [1, 5, 11])
def test_resume_is_exact_after_a_kill_at_any_step(tmp_path, killed, optimizer):
    settings = config(
        checkpoint_every=2, schedule="cosine", warmup=3, clip=1.0, optimizer=optimizer
    )
    whole = Line()
    straight = train(whole, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=killed), settings, tmp_path / "parts")
    resumed = Line()
    result = train(resumed, settings, tmp_path / "parts")
    assert torch.equal(resumed.w, whole.w)
    assert torch.equal(resumed.pool, whole.pool)
    assert result.history == straight.history
    assert [row["step"] for row in result.history] == list(range(1, 13))
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_finished_run_is_not_run_again(tmp_path):
    first = Line()
    train(first, config(), tmp_path)
    again = Line(stop_at=0)
    train(again, config(), tmp_path)
    assert torch.equal(first.w, again.w)


def test_only_keys_that_end_in_loss_are_summed():
    class Two(Line):
        def loss(self, step):
            gauge = (self.w - 100).square().sum()
            return {"a_loss": (self.w - 1).square().sum(), "loss_of_b": gauge, "c": gauge}

    objective = Two()
    result = train(objective, config(steps=200))
    assert torch.allclose(objective.w, torch.ones(3), atol=0.05)
    assert set(result.history[0]) == {"step", "a_loss", "loss_of_b", "c"}


def test_without_a_loss_key_there_is_a_clear_error():
    class Nothing(Line):
        def loss(self, step):
            return {"los": self.w.sum()}

    with pytest.raises(RunError, match="none of \\['los'\\] ends in '_loss'"):
        train(Nothing(), config())


def test_accumulation_equals_one_big_batch():
    class Rows(Line):
        def __init__(self, parts):
            self.parts, self.seen = parts, 0

        def loss(self, step):
            part = torch.arange(12.0).reshape(self.parts, -1, 3)[self.seen % self.parts]
            self.seen += 1
            return {"line_loss": ((self.w - 3) * part).square().mean()}

    big, small = Rows(1), Rows(4)
    one = train(big, config(steps=5))
    four = train(small, config(steps=5, accumulation=4))
    assert torch.allclose(big.w, small.w, atol=1e-6)
    assert one.history[-1]["line_loss"] == pytest.approx(four.history[-1]["line_loss"], rel=1e-5)


def test_a_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(
        Diverged, match=r"The loss became nan at step 8 of training\. Lower the learning rate"
    ):
        train(Line(poison_at=7), config(checkpoint_every=2), tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 6
    assert torch.isfinite(kept["parameters"]["w"]).all()


def test_ruined_weights_are_never_saved_nor_returned(tmp_path):
    class Steep(Line):
        def loss(self, step):
            root = (self.w * 1).sqrt().sum()  # its slope at 0 is infinite
            return {"line_loss": root if step == 5 else (self.w * 0).sum()}

    with pytest.raises(Diverged, match="weights w became NaN or infinite by step 6 of training"):
        train(Steep(), config(checkpoint_every=3), tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3
    with pytest.raises(Diverged, match=r"(?i)became nan"):
        train(Steep(), config())


def test_the_schedule_rises_and_falls():
    settings = config(steps=100, lr=2.0, schedule="cosine", warmup=10)
    assert settings.lr_at(0) == pytest.approx(0.2)
    assert settings.lr_at(9) == pytest.approx(2.0, rel=0.03)
    assert settings.lr_at(50) == pytest.approx(2.0 * (0.02 + 0.98 * 0.5))
    last = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * 0.99))
    assert settings.lr_at(99) == pytest.approx(2.0 * last)
    flat = config(steps=100, lr=2.0)
    assert {flat.lr_at(step) for step in range(100)} == {2.0}


def test_only_selected_parameters_move_and_their_state_is_restored():
    objective = Line()
    train(objective, config())
    assert torch.equal(objective.frozen, torch.ones(3))
    assert objective.frozen.grad is None
    assert not torch.equal(objective.w, torch.zeros(3))


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    train(Line(), config())
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_run_with_a_constant_rate_can_be_prolonged(tmp_path):
    train(Line(), config(steps=5), tmp_path)
    longer, whole = Line(), Line()
    train(longer, config(steps=9), tmp_path)
    train(whole, config(steps=9))
    assert torch.equal(longer.w, whole.w)


def test_other_settings_do_not_go_on_from_a_checkpoint(tmp_path):
    train(Line(), config(), tmp_path)
    with pytest.raises(UsageError, match="made with other settings"):
        train(Line(), config(lr=0.2), tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match=r"checkpoint\.pt cannot be read"):
        train(Line(), config(), tmp_path)


def test_nothing_selected_is_an_error():
    class Empty(Line):
        def parameters(self):
            return {}

    with pytest.raises(UsageError, match="No parameter was selected"):
        train(Empty(), config())


def test_precisions_can_follow_one_another_in_a_process():
    for precision in ("no", "bf16", "no"):
        objective = Line()
        train(objective, config(precision=precision))
        assert objective.w.dtype == torch.float32
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="fp16"):
            train(Line(), config(precision="fp16"))
    train(Line(), config())


def test_tensorboard_gets_the_losses(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Line(), config(tracker="tensorboard"), tmp_path)
    found = [path.parent for path in tmp_path.rglob("events.out*")]
    events = [EventAccumulator(str(folder)).Reload() for folder in found]
    scalars = [e.Scalars("line_loss") for e in events if "line_loss" in e.Tags()["scalars"]]
    assert [event.step for event in scalars[0]] == list(range(1, 13))


def test_a_tracker_needs_a_folder_and_a_known_name(tmp_path):
    with pytest.raises(UsageError, match="needs a folder"):
        train(Line(), config(tracker="tensorboard"))
    with pytest.raises(UsageError, match="tensorbord"):
        train(Line(), config(tracker="tensorbord"), tmp_path)


TWO = """
import sys
import torch
from mu_vision.loop import LoopConfig, Objective, train

class Part(Objective):
    def prepare(self, device):
        self.w = torch.nn.Parameter(torch.zeros(3))
    def parameters(self):
        return {"w": self.w}
    def loss(self, step):
        x = torch.randn(4, 3)
        return {"part_loss": ((self.w - 3) * x).square().mean()}

objective = Part()
train(objective, LoopConfig(steps=3, lr=0.1), sys.argv[1])
"""


def test_two_processes_average_their_gradients(tmp_path):
    run_in_two_processes(TWO, tmp_path / "two.py", str(tmp_path / "run"))
    got = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["parameters"]["w"]

    from mu_vision import seeding

    w = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([w], lr=0.1)
    for step in range(3):
        losses = []
        for process in range(2):
            with seeding.seeded("step", 0, step, 0, process):
                losses.append(((w - 3) * torch.randn(4, 3)).square().mean())
        (sum(losses) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(got, w.detach(), atol=1e-6)


class Early(Line):
    """Has enough after four steps."""

    taken = 0

    def after_step(self, step):
        self.taken = step + 1

    def finished(self):
        return self.taken >= 4

    def state(self):
        return {**super().state(), "taken": torch.tensor(self.taken)}

    def load_state(self, state):
        super().load_state(state)
        self.taken = int(state["taken"])


def test_an_objective_that_is_finished_ends_the_loop(tmp_path):
    first, again = Early(), Early()
    result = train(first, config(), tmp_path)
    assert result.steps == 4 and [row["step"] for row in result.history] == [1, 2, 3, 4]
    assert train(again, config(), tmp_path).steps == 4
    assert torch.equal(first.w, again.w)
