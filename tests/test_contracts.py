"""What every registered method promises. A new one is found here without an edit."""

from __future__ import annotations

import json

import gans
import pytest
import torch
from labelled import few_digits
from measured import digit_values
from states import same, surroundings, tensors

from mu_vision import registry
from mu_vision.data.selectors import Selector, forget_rows
from mu_vision.errors import RunError, UsageError
from mu_vision.export.delta import apply_delta, save_delta
from mu_vision.export.folder import export
from mu_vision.loop import Objective
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.base import GradientUnlearner

METHODS = [f"{cls.family}/{cls.name}" for cls in registry.classes("method")]
MODELS = {
    "diffusion": ["sd", "sdxl"],
    "classifier": ["digit_net"],
    "regressor": ["value_net"],
    "gan": ["digit_gan"],
}


def find(name: str) -> type:
    """The class of ``family/name``."""
    family, _, method = name.partition("/")
    return registry.get("method", method, family)


CASES = [
    pytest.param(name, model, id=f"{name}-{model}")
    for name in METHODS
    for model in MODELS[find(name).family]
    if not (model == "sdxl" and find(name).one_encoder)
]
REQUEST = ConceptRequest(
    kind="style",
    name="neon",
    prompts=("neon style", "a cat in neon style"),
    anchor="photo style",
    anchors=("photo style", "a cat in photo style"),
    keep=("a cat", "mosaic style"),
)


OTHER = ConceptRequest(kind="object", name="boat", prompts=("boat",), anchor="fish", keep=("tree",))
SAMPLES = forget_rows(few_digits(), range(0, 40, 2))
OTHERS = forget_rows(few_digits(), range(1, 25, 2))
CLASSES = tuple(Selector(kind="class", of=of).select(few_digits()) for of in ("3", "5"))
VALUES = tuple(forget_rows(digit_values(), rows) for rows in (range(0, 40, 2), range(1, 25, 2)))
ASKED = {
    "diffusion": (REQUEST, OTHER),
    "classifier": (SAMPLES, OTHERS),
    "regressor": VALUES,
    "gan": (gans.VERY_LEFT, gans.RIGHT),
}


def family(name: str) -> str:
    return name.partition("/")[0]


def asked_of(name: str) -> tuple:
    """Two requests that the method takes."""
    return CLASSES if find(name).class_wise else ASKED[family(name)]


@pytest.fixture
def model(request):
    """The first model of the method's family."""
    name = request.node.callspec.params["name"]
    return request.getfixturevalue(MODELS[family(name)][0])


def build(name: str, **changes):
    cls = find(name)
    return cls.from_settings({**cls.trial, **changes})


@pytest.mark.parametrize("name", METHODS)
def test_every_field_is_documented_and_has_a_default(name):
    cls = find(name)
    for field, info in cls.model_fields.items():
        assert info.description, f"{name}.{field} has no description"
        assert not info.is_required(), f"{name}.{field} has no default"
    assert f"{cls.family}/{cls.name}" == name
    assert cls.family in MODELS
    assert cls.paper.title
    assert cls.paper.arxiv
    assert cls.paper.cost
    assert cls.__doc__
    assert cls.__module__.rsplit(".", 1)[-1] == cls.name


@pytest.mark.parametrize("name", METHODS)
def test_what_is_constructed_is_what_is_saved(name):
    method = build(name)
    saved = json.loads(json.dumps(method.model_dump(mode="json")))
    assert find(name).from_settings(saved) == method


@pytest.mark.parametrize("name", METHODS)
def test_unknown_settings_are_refused_with_the_nearest(name):
    field = next(iter(find(name).model_fields))
    with pytest.raises(UsageError, match=f"Did you mean '{field}'"):
        build(name, **{f"{field}s": 1})
    with pytest.raises(UsageError, match=f"method {find(name).name}: 'seed'"):
        build(name, seed="many")


@pytest.mark.parametrize(("name", "which"), CASES)
def test_only_selected_tensors_move_and_the_original_stays(name, which, request):
    model = request.getfixturevalue(which)
    before, print_before = tensors(model), model.fingerprint()
    method = build(name)
    done = method.unlearn(model, asked_of(name)[0])
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
def test_the_same_seed_gives_the_same_tensors(name, model):
    asked = asked_of(name)[0]
    first, again, other = (
        tensors(build(name, seed=seed).unlearn(model, asked).model) for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert same(first, other) != find(name).stochastic


@pytest.mark.parametrize("name", METHODS)
def test_several_requests_are_forgotten_together(name, model):
    one, two = asked_of(name)
    first, other, both = (
        tensors(build(name).unlearn(model, asked).model) for asked in (one, two, [one, two])
    )
    assert not (same(both, first) and same(both, other))
    assert not same(first, other)
    with pytest.raises(UsageError, match="at least one request"):
        build(name).unlearn(model, [])


@pytest.mark.parametrize("name", METHODS)
def test_a_model_of_another_family_is_refused(name, sd, digit_net):
    wrong = digit_net if family(name) == "diffusion" else sd
    with pytest.raises(
        UsageError, match=rf"{find(name).name} works on a {family(name)} model; .* is a "
    ):
        build(name).unlearn(wrong, asked_of(name)[0])


@pytest.mark.parametrize(("name", "which"), [c for c in CASES if c.values[1] in ("sd", "sdxl")])
def test_what_was_saved_is_reloaded(name, which, request, tmp_path):
    model = request.getfixturevalue(which)
    method = build(name)
    done = method.unlearn(model, REQUEST)
    folder = export(done, REQUEST, method, tmp_path / "erased", model)
    assert DiffusionModel.load(folder, "cpu").fingerprint() == done.model.fingerprint()
    facts = json.loads((folder / "mu_vision.json").read_text())
    assert facts["method"] == method.name
    assert facts["sha256"] == done.model.fingerprint()
    assert facts["base"]["sha256"] == model.fingerprint()
    assert ConceptRequest(**facts["requests"][0]) == REQUEST
    assert find(name).from_settings(facts["settings"]) == method
    logged = folder / "log.jsonl"
    assert logged.exists() == bool(done.history)
    if done.history:
        assert [json.loads(line) for line in logged.read_text().splitlines()] == done.history
    delta = tmp_path / "delta.safetensors"
    assert set(save_delta(model, done.model, delta, method.name, [REQUEST])) <= set(done.trained)
    assert apply_delta(delta, model).fingerprint() == done.model.fingerprint()


@pytest.mark.parametrize("name", METHODS)
def test_nothing_global_is_changed(name, model, tmp_path):
    before = surroundings()
    build(name).unlearn(model, asked_of(name)[0], tmp_path)
    after = surroundings()
    before["environment"].pop("PYTEST_CURRENT_TEST", None)
    after["environment"].pop("PYTEST_CURRENT_TEST", None)
    assert before == after
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", METHODS)
def test_a_no_op_is_caught(name, model):
    idle = find(name).idle
    if idle is None:
        pytest.skip(f"{name} has no settings under which nothing moves")
    with pytest.raises(RunError, match=rf"{find(name).name} moved no weight.*\(a no-op\)"):
        build(name, **idle).unlearn(model, asked_of(name)[0])


GRADIENT = [n for n in METHODS if issubclass(find(n), GradientUnlearner)]


@pytest.mark.parametrize("name", GRADIENT)
def test_a_killed_run_ends_with_the_same_weights(name, model, tmp_path, monkeypatch):
    asked = asked_of(name)[0]
    method = build(name, steps=5, checkpoint_every=1, log_every=1)
    whole = method.unlearn(model, asked, tmp_path / "whole")

    def killed(self, step):
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            method.unlearn(model, asked, tmp_path / "parts")
    resumed = method.unlearn(model, asked, tmp_path / "parts")
    assert same(tensors(whole.model), tensors(resumed.model))
    assert whole.history == resumed.history


@pytest.mark.parametrize("name", GRADIENT)
def test_another_job_does_not_go_on_from_the_checkpoint(name, model, tmp_path):
    one, other = asked_of(name)
    build(name).unlearn(model, one, tmp_path)
    with pytest.raises(UsageError, match="checkpoint of another job"):
        build(name).unlearn(model, other, tmp_path)


def test_unknown_methods_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'esd'"):
        registry.get("method", "esdd")


@pytest.mark.parametrize("name", [n for n in METHODS if find(n).one_encoder])
def test_a_method_for_one_text_encoder_refuses_two_before_any_work(name, sdxl):
    calls = []
    hook = sdxl.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(UsageError, match="reads a prompt through two text encoders"):
        build(name).unlearn(sdxl, REQUEST)
    hook.remove()
    assert not calls
