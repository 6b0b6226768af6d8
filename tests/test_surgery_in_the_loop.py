"""Gradient surgery in the training loop: against plain trainers, with micro-batches and processes."""

from __future__ import annotations

import pytest
import torch
from processes import run_in_two_processes

from mu_vision import seeding
from mu_vision.errors import Diverged
from mu_vision.gradient_surgery import Gradients, Surgery, descend
from mu_vision.loop import LoopConfig, Objective, train


class Pair(Objective):
    """Two quadratics with rows of noise; ``surgery`` None is the plain trainer."""

    def __init__(self, surgery: Surgery | None, part: slice = slice(None), third: bool = False):
        self.surgery, self.share, self.third, self.micro = surgery, part, third, 0

    def prepare(self, device):
        self.w = torch.nn.Parameter(torch.tensor([[0.3, -0.2, 0.1]]))
        self.v = torch.nn.Parameter(torch.tensor([0.5, 0.5]))
        self.gradients = Gradients(self.parameters().values(), 3 if self.third else 2)

    def parameters(self):
        return {"w": self.w, "v": self.v}

    def rows(self, step, name):
        return seeding.noise((8, 5), "rows", step, name)[self.share]

    def one(self, step, name="a"):
        x = self.rows(step, name) + (1.0 if name == "a" else -1.0)
        error = (x[:, :3] - self.w).square().sum(1) + (x[:, 3:] - self.v).square().sum(1)
        return {f"{name}_loss": error.mean()}

    def two(self, step):
        return self.one(step, "b")

    def three(self, step):
        return self.one(step, "c")

    def loss(self, step):
        return {**self.one(step), **self.two(step)}

    def step(self, step, run):
        if self.surgery is None:
            return super().step(step, run)
        parts = [self.one, self.two, *([self.three] if self.third else [])]
        return descend(run, self.surgery, self.gradients, run.optimizers["main"], parts, step)


class Micro(Pair):
    """The same rows in as many micro-batches as ``accumulation`` says."""

    def rows(self, step, name):
        full = seeding.noise((8, 5), "rows", step, name)
        turn, self.micro = self.micro // 2 % 4, self.micro + 1
        return full[2 * turn : 2 * turn + 2]


def fit(objective, folder=None, **changes):
    history = train(
        objective, LoopConfig(**{"steps": 6, "lr": 0.05, "log_every": 1, **changes}), folder
    ).history
    return torch.cat([objective.w.detach().flatten(), objective.v.detach()]), history


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_no_surgery_is_the_plain_trainer_bit_for_bit(optimizer, clip):
    settings = {"optimizer": optimizer, "clip": clip, "weight_decay": 0.01}
    plain, logged = fit(Pair(None), **settings)
    ours, found = fit(Pair(Surgery(mode="none")), **settings)
    assert torch.equal(plain, ours)
    for before, after in zip(logged, found):
        assert {name: after[name] for name in before} == before
        assert set(after) == {*before, "gradient_cosine", "conflict_share"}


@pytest.mark.parametrize("mode", ["protect", "pcgrad", "reference", "mgda"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_micro_batches_equal_the_joint_batch(mode, scope):
    surgery = Surgery(mode=mode, scope=scope)
    joint, _ = fit(Pair(surgery), clip=0.5)
    parts, _ = fit(Micro(surgery), clip=0.5, accumulation=4)
    assert torch.allclose(joint, parts, atol=1e-5)
    assert not torch.allclose(joint, fit(Pair(None), clip=0.5)[0], atol=1e-3)


def test_three_losses_resume_in_the_same_random_order(tmp_path):
    surgery = Surgery(mode="pcgrad")
    whole, history = fit(Pair(surgery, third=True))
    fit(Pair(surgery, third=True), tmp_path, steps=3)
    resumed, again = fit(Pair(surgery, third=True), tmp_path)
    assert torch.equal(whole, resumed) and history == again
    assert not torch.equal(whole, fit(Pair(surgery, third=True), seed=1)[0])


def test_a_small_step_spares_the_protected_loss_which_a_plain_one_raises():
    objective = Pair(Surgery())
    objective.prepare(torch.device("cpu"))
    with torch.no_grad():
        objective.w.fill_(0.5)
        objective.v.fill_(-0.5)
    state = objective.gradients
    for row, loss in enumerate((objective.one, objective.two)):
        state.add(row, torch.autograd.grad(next(iter(loss(0).values())), state.parameters))
    assert state.rows[0] @ state.rows[1] < 0
    protected, _ = state.combine(Surgery())
    assert protected.norm() > 0.1 * state.rows[0].norm()

    def rise(direction: torch.Tensor) -> float:
        """What a step of 1e-3 along it adds to the protected loss."""
        moved = Pair(None)
        moved.w, moved.v = (
            p.detach() - 1e-3 * d for p, d in zip(state.parameters, state.views(direction))
        )
        return float((moved.two(0)["b_loss"] - objective.two(0)["b_loss"]).detach())

    assert rise(state.rows[0]) > 1e-3
    assert rise(protected) < 1e-4


def test_a_loss_that_is_not_finite_stops_the_run():
    class Broken(Pair):
        def two(self, step):
            return {"b_loss": self.w.sum() * float("nan")}

    with pytest.raises(Diverged, match="became nan at step 1"):
        fit(Broken(Surgery()))


def test_only_the_given_parameters_get_gradients():
    class Other(Pair):
        def prepare(self, device):
            super().prepare(device)
            self.critic = torch.nn.Parameter(torch.ones(1))

        def one(self, step, name="a"):
            return {f"{name}_loss": super().one(step, name)[f"{name}_loss"] * self.critic.sum()}

    objective = Other(Surgery())
    fit(objective)
    assert objective.critic.grad is None


TWO = """
import os
import sys
import torch
from test_surgery_in_the_loop import Pair
from mu_vision.gradient_surgery import Surgery
from mu_vision.loop import LoopConfig, train

rank = int(os.environ["RANK"])
os.makedirs(sys.argv[1], exist_ok=True)
half = Pair(Surgery(mode=sys.argv[2], scope="tensor"), slice(4 * rank, 4 * rank + 4))
train(half, LoopConfig(steps=6, lr=0.05, clip=0.5), sys.argv[1])
torch.save({"w": half.w.detach(), "v": half.v.detach()}, f"{sys.argv[1]}/rank{rank}.pt")
"""


def test_two_processes_with_half_the_batch_equal_one_with_the_whole(tmp_path):
    run_in_two_processes(TWO, tmp_path / "two.py", str(tmp_path / "run"), "protect")
    first, second = (torch.load(tmp_path / "run" / f"rank{r}.pt") for r in (0, 1))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
    whole, _ = fit(Pair(Surgery(scope="tensor")), clip=0.5)
    assert torch.allclose(torch.cat([first["w"].flatten(), first["v"]]), whole, atol=1e-6)
