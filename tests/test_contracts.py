"""What every registered method promises. A new method is found here without an edit."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest
import torch

from mu_vision import registry
from mu_vision.errors import RunError, UsageError
from mu_vision.export.delta import apply_delta, save_delta
from mu_vision.export.folder import export
from mu_vision.loop import Objective
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.base import GradientUnlearner

METHODS = registry.names("method")
MODELS = {"diffusion": ["sd", "sdxl"]}
CASES = [
    pytest.param(name, model, id=f"{name}-{model}")
    for name in METHODS
    for model in MODELS[registry.get("method", name).family]
]
REQUEST = ConceptRequest(
    kind="style",
    name="neon",
    prompts=("neon style", "a cat in neon style"),
    anchor="photo style",
    anchors=("photo style", "a cat in photo style"),
    keep=("a cat", "mosaic style"),
)


def build(name: str, **changes):
    cls = registry.get("method", name)
    return cls.from_settings({**cls.trial, **changes})


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters().items()}


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", METHODS)
def test_every_field_is_documented_and_has_a_default(name):
    cls = registry.get("method", name)
    for field, info in cls.model_fields.items():
        assert info.description, f"{name}.{field} has no description"
        assert not info.is_required(), f"{name}.{field} has no default"
    assert cls.name == name
    assert cls.family in MODELS
    assert cls.paper.title
    assert cls.paper.arxiv
    assert cls.paper.cost
    assert cls.__doc__
    assert cls.__module__.rsplit(".", 1)[-1] == name


@pytest.mark.parametrize("name", METHODS)
def test_what_is_constructed_is_what_is_saved(name):
    method = build(name)
    saved = json.loads(json.dumps(method.model_dump(mode="json")))
    assert registry.get("method", name).from_settings(saved) == method


@pytest.mark.parametrize("name", METHODS)
def test_unknown_settings_are_refused_with_the_nearest(name):
    field = next(iter(registry.get("method", name).model_fields))
    with pytest.raises(UsageError, match=f"Did you mean '{field}'"):
        build(name, **{f"{field}s": 1})
    with pytest.raises(UsageError, match=f"method {name}: 'seed'"):
        build(name, seed="many")


@pytest.mark.parametrize(("name", "which"), CASES)
def test_only_selected_tensors_move_and_the_original_stays(name, which, request):
    model = request.getfixturevalue(which)
    before, print_before = tensors(model), model.fingerprint()
    method = build(name)
    done = method.unlearn(model, REQUEST)
    after = done.model.named_parameters()
    selected = method.trained(model)
    assert done.trained == selected
    assert set(selected) <= set(before)
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert moved
    assert set(moved) <= set(selected)
    assert done.report["changed_tensors"] == len(moved)
    assert done.report["relative_change"] > 0
    assert same(before, tensors(model))
    assert model.fingerprint() == print_before
    shared = model.named_parameters()
    for key, tensor in after.items():
        assert not tensor.requires_grad
        assert tensor.grad is None
        if key not in selected:
            assert tensor.data_ptr() == shared[key].data_ptr(), f"{key} was copied"
    assert not any(tensor.requires_grad for tensor in shared.values())
    assert done.seconds > 0
    assert done.peak_memory_gb > 0


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_tensors(name, sd):
    first, again, other = (
        tensors(build(name, seed=seed).unlearn(sd, REQUEST).model) for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert same(first, other) != registry.get("method", name).stochastic


@pytest.mark.parametrize("name", METHODS)
def test_several_requests_are_forgotten_together(name, sd):
    second = ConceptRequest(kind="object", name="boat", prompts=("boat",), anchor="fish")
    first, other, both = (
        tensors(build(name).unlearn(sd, asked).model)
        for asked in (REQUEST, second, [REQUEST, second])
    )
    assert not (same(both, first) and same(both, other))
    assert not same(first, other)
    with pytest.raises(UsageError, match="at least one request"):
        build(name).unlearn(sd, [])


@pytest.mark.parametrize(("name", "which"), CASES)
def test_what_was_saved_is_reloaded(name, which, request, tmp_path):
    model = request.getfixturevalue(which)
    method = build(name)
    done = method.unlearn(model, REQUEST)
    folder = export(done, REQUEST, method, tmp_path / "erased", model)
    assert DiffusionModel.load(folder, "cpu").fingerprint() == done.model.fingerprint()
    facts = json.loads((folder / "mu_vision.json").read_text())
    assert facts["method"] == name
    assert facts["sha256"] == done.model.fingerprint()
    assert facts["base"]["sha256"] == model.fingerprint()
    assert ConceptRequest(**facts["requests"][0]) == REQUEST
    assert registry.get("method", name).from_settings(facts["settings"]) == method
    delta = tmp_path / "delta.safetensors"
    assert set(save_delta(model, done.model, delta, name, [REQUEST])) <= set(done.trained)
    assert apply_delta(delta, model).fingerprint() == done.model.fingerprint()


def surroundings() -> dict[str, object]:
    backends = torch.backends
    return {
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "cudnn": (backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.enabled),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


@pytest.mark.parametrize("name", METHODS)
def test_nothing_global_is_changed(name, sd, tmp_path):
    before = surroundings()
    build(name).unlearn(sd, REQUEST, tmp_path)
    after = surroundings()
    before["environment"].pop("PYTEST_CURRENT_TEST", None)
    after["environment"].pop("PYTEST_CURRENT_TEST", None)
    assert before == after
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", METHODS)
def test_a_no_op_is_caught(name, sd):
    idle = registry.get("method", name).idle
    if idle is None:
        pytest.skip(f"{name} has no settings under which nothing moves")
    with pytest.raises(RunError, match=rf"{name} moved no weight.*\(a no-op\)"):
        build(name, **idle).unlearn(sd, REQUEST)


GRADIENT = [n for n in METHODS if issubclass(registry.get("method", n), GradientUnlearner)]


@pytest.mark.parametrize("name", GRADIENT)
def test_a_killed_run_ends_with_the_same_weights(name, sd, tmp_path, monkeypatch):
    method = build(name, steps=5, checkpoint_every=1, log_every=1)
    whole = method.unlearn(sd, REQUEST, tmp_path / "whole")

    def killed(self, step):
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            method.unlearn(sd, REQUEST, tmp_path / "parts")
    resumed = method.unlearn(sd, REQUEST, tmp_path / "parts")
    assert same(tensors(whole.model), tensors(resumed.model))
    assert whole.history == resumed.history


@pytest.mark.parametrize("name", GRADIENT)
def test_another_job_does_not_go_on_from_the_checkpoint(name, sd, tmp_path):
    build(name).unlearn(sd, REQUEST, tmp_path)
    other = REQUEST.model_copy(update={"prompts": ("mosaic style",), "anchors": ()})
    with pytest.raises(UsageError, match="checkpoint of another job"):
        build(name).unlearn(sd, other, tmp_path)


def test_unknown_methods_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'esd'"):
        registry.get("method", "esdd")
