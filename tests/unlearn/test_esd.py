from __future__ import annotations

import pytest
import tiny
import torch

from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.diffusion.esd import ESD, ESDObjective, ladder, levels, target

NEON = ConceptRequest(kind="style", name="neon", prompts=("neon style",), anchor="photo style")
TRIAL = {"sampler_steps": 5, "steps": 3, "lr": 1e-3}


def objective(model, requests=(NEON,), **settings) -> ESDObjective:
    made = ESDObjective(ESD(**{**TRIAL, **settings}), model, requests)
    made.prepare(torch.device("cpu"))
    return made


def draw(made: ESDObjective, seed: int = 0) -> dict[str, torch.Tensor]:
    with seeding.seeded("test", seed):
        return made._draw()


def test_target_algebra():
    e_0, e_c = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert torch.allclose(target(e_c, e_c, e_0, 2.0), target(e_0, e_c, e_0, 1.0), atol=1e-6)
    assert torch.equal(target(e_0, e_c, e_0, 0.0), e_0)
    first, second, third = (target(e_0, e_c, e_0, eta) for eta in (0.0, 1.0, 2.0))
    assert torch.allclose(second - first, third - second, atol=1e-6)
    assert torch.allclose(target(e_0, e_c, e_0, 1.0) - e_0, e_0 - e_c, atol=1e-6)


@pytest.mark.parametrize("which", ["sd", "sdxl"])
@pytest.mark.parametrize("eta", [1.0, 3.0])
def test_the_first_loss_has_its_closed_form(which, eta, request):
    model = request.getfixturevalue(which)
    for base, factor in (("null", (1 + eta) ** 2), ("concept", eta**2)):
        made = objective(model, eta=eta, base=base, batch=3)
        with seeding.seeded("test"):
            losses = made.loss(0)
        x, t = made.pool["x"][:3], made.pool["t"][:3]
        c = model.encode_prompt(["neon style"])
        d = model.predict_noise(x, t, c) - model.predict_noise(x, t, model.null_text())
        assert losses["esd_loss"].item() == pytest.approx(
            factor * d.square().mean().item(), rel=2e-4
        )
        assert losses["concept_cosine"].item() == pytest.approx(1, abs=1e-4)


def test_the_target_may_start_from_the_anchor(sd):
    made = objective(sd, base="from", eta=0.0)
    state = draw(made)
    e_f = sd.predict_noise(state["x"], state["t"], sd.encode_prompt(["photo style"]))
    assert torch.allclose(state["y"], e_f, atol=1e-5)
    other = draw(objective(sd, base="from", eta=0.0, erase_from="a cat"))
    e_f = sd.predict_noise(other["x"], other["t"], sd.encode_prompt(["a cat"]))
    assert torch.allclose(other["y"], e_f, atol=1e-5)


def test_a_linear_network_reaches_the_nearest_minimiser():
    """eps(x, c) = A x + B c, null = 0, B trains: B' c = -eta B c, and B' v = B v for v off c."""
    rng = torch.Generator().manual_seed(0)
    a, b_0 = (torch.randn(4, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    c = torch.randn(4, generator=rng, dtype=torch.float64)
    eta, b = 1.5, b_0.clone().requires_grad_()
    for _ in range(400):
        x = torch.randn(8, 4, generator=rng, dtype=torch.float64)
        e_0, e_c = x @ a.T, x @ a.T + b_0 @ c
        y = target(e_0, e_c, e_0, eta)
        loss = (x @ a.T + b @ c - y).square().mean()
        (slope,) = torch.autograd.grad(loss, b)
        b = (b - 0.3 * slope).detach().requires_grad_()
    expected = b_0 - (1 + eta) * torch.outer(b_0 @ c, c) / c.dot(c)
    assert torch.allclose(b, expected, atol=1e-8)
    assert torch.allclose(b @ c, -eta * b_0 @ c, atol=1e-8)


def count_rows(module) -> tuple[list[int], object]:
    rows: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows, hook


def test_the_forward_passes_of_a_plain_step(sd):
    made = objective(sd, trajectories=1, refresh=1, batch=1)
    made.stops = [stop for stop in made.stops if stop[0] == 3]
    teacher, first = count_rows(sd.unet)
    student, second = count_rows(made.student.unet)
    with seeding.seeded("test"):
        made.loss(0)
    first.remove()
    second.remove()
    assert teacher == [2]
    assert student == [2, 2, 2, 1]


def test_trajectories_share_their_forward_passes_and_leave_when_done(sd):
    made = objective(sd, trajectories=4, refresh=8, batch=1)
    teacher, first = count_rows(sd.unet)
    student, second = count_rows(made.student.unet)
    for step in range(8):
        with seeding.seeded("test", step):
            made.loss(step)
    first.remove()
    second.remove()
    assert teacher == [8, 8]
    sampling, steps = student[:-8], student[-8:]
    assert steps == [1] * 8
    assert len(sampling) <= 4
    assert sampling == sorted(sampling, reverse=True)
    assert max(sampling) <= 8


def test_the_frozen_pool_is_made_once(sd):
    made = objective(sd, rollout="teacher", pool=10, trajectories=2)
    teacher, first = count_rows(sd.unet)
    student, second = count_rows(made.student.unet)
    calls = []
    for step in range(6):
        with seeding.seeded("test", step):
            made.loss(step)
        calls.append(len(teacher))
    first.remove()
    second.remove()
    assert set(calls) == {calls[0]}
    assert student == [1] * 6
    assert len(made.pool["x"]) == 10


@pytest.mark.parametrize("offset", ["none", "reference"])
def test_a_state_lies_at_its_level(sd, offset):
    """The state after n sampler steps is what diffusers' own scheduler gives after n steps."""
    made = objective(sd, timestep_offset=offset, trajectories=3, refresh=6, variant="text")
    starts: list[torch.Tensor] = []
    inner = made._sampler_step

    def spy(sampler, x, n, text, null):
        if n == 0:
            starts.append(x.clone())
        return inner(sampler, x, n, text, null)

    made._sampler_step = spy
    deepest = max(stop[0] for stop in made.stops)
    made.stops = [stop for stop in made.stops if stop[0] == deepest]
    with seeding.seeded("test"):
        made._fill(made.student, 6)
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(5)
    steps = scheduler.timesteps[offset == "reference" :]
    x, text = starts[0], sd.encode_prompt(["neon style"])
    for t in steps[:deepest]:
        eps = sd.guided_noise(x, t, text, sd.null_text(), 3.0)
        x = scheduler.step(eps, t, x).prev_sample
    for state in made.pool["x"]:
        assert min((state - row).abs().max() for row in x) < 1e-4
    told = {t for _, low, high in made.stops for t in range(low, high + 1)}
    assert set(made.pool["t"].tolist()) <= told
    if offset == "none":
        assert set(made.pool["t"].tolist()) == {int(scheduler.timesteps[deepest])}


def test_matching_timesteps(sd):
    settings = ESD()
    walk = ladder(settings, sd)
    assert walk[0] == 981
    assert walk[-1] == 1
    assert [walk[n] for n, _, _ in levels(settings, sd)] == [t for _, t, _ in levels(settings, sd)]
    assert len(levels(settings, sd)) == 50


def test_the_timesteps_of_the_published_code(sd):
    settings = ESD(timestep_offset="reference")
    walk, stops = ladder(settings, sd), levels(settings, sd)
    table = {
        0: (49, 0, 0, 19), 1: (49, 0, 20, 39), 2: (48, 1, 40, 59), 25: (25, 461, 500, 519),
        49: (1, 941, 980, 999),
    }  # fmt: skip
    assert walk[0] == 961
    for j, (steps, level, low, high) in table.items():
        assert stops[j] == (steps, low, high)
        assert ([*walk, 0][steps]) == level
    assert sum(steps for steps, _, _ in stops) / 50 == pytest.approx(25.48)


def test_a_range_of_timesteps(sd):
    made = objective(sd, sampler_steps=50, timesteps=(400, 600), refresh=30, trajectories=2)
    with seeding.seeded("test"):
        made._fill(made.student, 30)
    assert made.pool["t"].min() >= 400
    assert made.pool["t"].max() <= 600
    with pytest.raises(UsageError, match="no timestep of the sampler lies in 2 to 3; 50 steps"):
        objective(sd, sampler_steps=50, timesteps=(2, 3))


def test_no_gradient_flows_but_to_the_selected_tensors(sd):
    made = objective(sd, batch=2)
    with seeding.seeded("test"):
        made.loss(0)["esd_loss"].backward()
    assert not any(tensor.requires_grad for tensor in made.pool.values())
    for name, parameter in made.student.named_parameters().items():
        assert (parameter.grad is not None) == (name in made.names), name
    assert all(parameter.grad is None for parameter in sd.named_parameters().values())


@pytest.mark.parametrize(
    "settings",
    [
        {"variant": "text"},
        {"variant": "u", "precision": "bf16"},
        {"rollout": "teacher", "pool": 4},
        {"timestep_offset": "reference"},
        {"base": "from", "condition": "from"},
        {"batch": 3, "accumulation": 2},
    ],
    ids=str,
)
def test_options_run_and_stay_float32(sd, settings):
    done = ESD(**TRIAL, **settings).unlearn(sd, NEON)
    assert {p.dtype for p in done.model.named_parameters().values()} == {torch.float32}
    assert (done.model.unet is sd.unet) == (settings.get("variant") == "text")


def test_it_learns_to_point_away_from_the_concept(sd):
    done = ESD(
        sampler_steps=5, steps=40, lr=5e-3, batch=4, refresh=4, variant="full", log_every=1
    ).unlearn(sd, NEON)
    first, last = done.history[0], done.history[-1]
    assert first["concept_cosine"] == pytest.approx(1, abs=1e-3)
    assert last["concept_cosine"] < 0.2
    assert last["esd_loss"] < 0.5 * first["esd_loss"]


def test_every_prompt_of_every_request_is_drawn(sd):
    boat = ConceptRequest(kind="object", name="boat", prompts=("boat", "a boat"), plain=1)
    made = objective(sd, (NEON, boat), refresh=40, trajectories=20)
    assert made.concepts == ["neon style", "boat", "a boat"]
    assert made.origins == ["photo style", "", ""]
    with seeding.seeded("test"):
        made._fill(made.student, 40)
    assert set(made.pool["which"].tolist()) == {0, 1, 2}
    assert objective(sd, (NEON, boat), texts="captions").concepts == ["neon style", "a boat"]


def test_a_velocity_network_is_erased_in_noise_space(tmp_path):
    model = DiffusionModel.load(tiny.tiny_sd(tmp_path / "v", prediction_type="v_prediction"), "cpu")
    made = objective(model, eta=1.0)
    with seeding.seeded("test"):
        losses = made.loss(0)
    assert losses["esd_loss"].item() == pytest.approx(
        4 * made.pool["d"][:1].square().mean().item(), rel=1e-3
    )
