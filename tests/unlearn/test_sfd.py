"""SFD: what is asked of whom, what is refused, and that it forgets a class without any data."""

from __future__ import annotations

import builtins

import pytest
import torch
from PIL import Image

import mu_vision
from mu_vision import seeding
from mu_vision.data import minicanvas
from mu_vision.errors import Diverged, UsageError
from mu_vision.models.denoiser import Generator
from mu_vision.models.labels import LabelModel
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.diffusion.sfd import SFD

from tiny import tiny_labels  # isort: skip


def forget(name: str, anchor: str | None = "boat") -> ConceptRequest:
    return ConceptRequest(kind="object", name=name, prompts=(name,), anchor=anchor)


def conditions(model, requests, **settings):
    made = SFD(batch=2, **settings).objective(model, requests)
    made.prepare(torch.device("cpu"))
    return made, made.conditions


def test_the_teacher_is_asked_for_the_safe_class(label_model):
    made, asked = conditions(label_model, [forget("cat")], psi_weight=0.5, theta_weight=2.0)
    assert (asked.forget.ids.tolist(), asked.safe.ids.tolist()) == ([1], [2])
    assert asked.retain.ids.tolist() == [0, 2]
    assert (asked.psi_weight, asked.theta_weight) == (0.5, 2.0)
    with seeding.seeded("rows"):
        rows = [made._rows(2.0) for _ in range(20)]
    for cond, teacher, weight in rows:
        assert 1 not in cond.ids[:2].tolist() and cond.ids[2:].tolist() == [1, 1]
        assert torch.equal(teacher.ids[:2], cond.ids[:2]) and teacher.ids[2:].tolist() == [2, 2]
        assert weight.tolist() == [1, 1, 2, 2]


def test_several_classes_go_each_to_its_own(label_model):
    both = [forget("cat"), forget("tree")]
    _, asked = conditions(label_model, both)
    assert (asked.forget.ids.tolist(), asked.safe.ids.tolist()) == ([1, 0], [2, 2])
    assert asked.retain.ids.tolist() == [2]


def test_requests_of_the_card_become_one_class(label_model):
    request = concept_request("object", "cat", "minicanvas", anchor="boat")
    _, asked = conditions(label_model, [request])
    assert (asked.forget.ids.tolist(), asked.safe.ids.tolist()) == ([1], [2])


def test_without_weights_what_is_forgotten_changes_nothing(label_model):
    """With lambda = mu = 0 it is plain distillation of the classes that stay: bit for bit."""
    settings = {"steps": 2, "batch": 2, "lr": 1e-3, "psi_weight": 0, "theta_weight": 0}
    ends = [
        mu_vision.erase(label_model, forget("cat", anchor), "sfd", **settings).model.fingerprint()
        for anchor in ("boat", "tree")
    ]
    assert ends[0] == ends[1]


def test_the_result_draws_in_one_evaluation_and_is_saved_so(label_model, tmp_path):
    erased = mu_vision.erase(label_model, forget("cat"), "sfd", steps=2, batch=2, lr=1e-3)
    assert erased.model.generator == Generator(440, 1)
    assert label_model.generator is None
    report = erased.unlearned.report
    assert (report["t_init"], report["timesteps"], report["retained"]) == (440, [38, 712], 2)
    assert report["evaluations"] == 1
    folder = erased.save(tmp_path / "erased")
    again = mu_vision.load_model(folder)
    assert again.generator == Generator(440, 1)
    assert "from mu_vision.models.labels import LabelPipeline" in (folder / "README.md").read_text()
    picture = mu_vision.render(again, ["boat"], seed=3)[0]
    assert picture.tobytes() == mu_vision.render(erased, ["boat"], seed=3)[0].tobytes()


def test_average_and_raw_weights_can_be_chosen(label_model):
    ends = {
        weights: mu_vision.erase(
            label_model, forget("cat"), "sfd", steps=3, batch=2, lr=1e-3, weights=weights
        ).model.fingerprint()
        for weights in ("ema", "raw")
    }
    assert ends["ema"] != ends["raw"]


def test_no_picture_and_no_data_set_is_opened(label_model, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("SFD read data")

    plain_open = builtins.open

    def watched(path, *args, **kwargs):
        if str(path).lower().endswith((".png", ".jpg", ".jpeg", ".npy", ".npz", ".webp")):
            refused()
        return plain_open(path, *args, **kwargs)

    monkeypatch.setattr(minicanvas, "load", refused)
    monkeypatch.setattr(minicanvas, "render", refused)
    monkeypatch.setattr(Image, "open", refused)
    monkeypatch.setattr(builtins, "open", watched)
    assert mu_vision.erase(label_model, forget("cat"), "sfd", steps=1, batch=2, lr=1e-3).model


def test_text_models_keep_prompts_that_do_not_name_the_concept(sd):
    request = ConceptRequest(
        kind="style", name="neon", prompts=("neon style",), anchor="photo style",
        keep=("a cat", "a NEON cat", "mosaic style"),
    )  # fmt: skip
    method = SFD()
    pairs, kept = method.asked(sd, [request])
    assert (pairs, kept) == ([("neon style", "photo style")], ["a cat", "mosaic style"])
    assert SFD(retain=("a dog", "neon dog")).asked(sd, [request])[1] == ["a dog"]
    free = ConceptRequest(kind="concept", name="a+b", prompts=("a+b",), anchor="")
    assert "a photo of a bicycle" in method.asked(sd, [free])[1]
    settings = {"guidance": 2.0, "fake_guidance": 2.0, "negative": "neon", "fake_negative": True}
    made, asked = conditions(sd, [request], **settings)
    assert torch.equal(made.null.states, sd.encode_prompt(["neon"]).states)
    assert made.fake_null is made.null and len(asked.retain) == 2
    with seeding.seeded("text"):
        assert made.loss(0)["generator_loss"].isfinite()
    apart, _ = conditions(sd, [request], **{**settings, "fake_negative": False})
    assert torch.equal(apart.fake_null.states, sd.null_text().states)


def test_velocity_teachers_are_distilled_too(tmp_path):
    model = LabelModel.load(tiny_labels(tmp_path / "v", prediction_type="v_prediction"), "cpu")
    erased = mu_vision.erase(model, forget("cat"), "sfd", steps=2, batch=2, lr=1e-3)
    z = seeding.noise((1, *model.latent_shape), "v")
    a, b = model.alphas_cumprod[440].sqrt(), (1 - model.alphas_cumprod[440]).sqrt()
    label = torch.tensor([2])
    v = erased.model.unet(b * z, torch.tensor([440]), class_labels=label).sample
    drawn = erased.model.sample(model.encode_prompt(["boat"]), z)
    assert torch.allclose(drawn, a * b * z - b * v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("requests", "settings", "message"),
    [
        ([forget("cat", "cat")], {}, "'cat' is to take the place of 'cat' and is to be forgotten"),
        ([forget("cat", "A cat image")], {}, "give a safe class or text as the request's anchor"),
        ([forget("cat"), forget("boat", "tree")], {}, "but is to be erased itself"),
        ([forget("cat", "")], {"sigma_range": (0.1, 500.0)}, "there is no level 500"),
        ([forget("dog")], {}, "There is no class of labels 'dog'"),
        ([forget(n, "") for n in ("cat", "tree", "boat")], {}, "every class is to be forgotten"),
        ([forget("cat")], {"precision": "fp16"}, "precision=fp16 needs a GPU"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(label_model, requests, settings, message):
    if "fp16" in settings.values() and torch.cuda.is_available():
        pytest.skip("half precision works on a GPU")
    method = SFD.from_settings({"steps": 1, "batch": 2, "lr": 1e-3, **settings})
    with pytest.raises(UsageError, match=message):
        method.unlearn(label_model, requests)


def test_a_text_that_is_its_own_safe_text_is_refused(sd):
    same = ConceptRequest(kind="concept", name="neon", prompts=("neon",), anchor="neon")
    with pytest.raises(UsageError, match="'neon' is to take the place of 'neon'"):
        SFD(steps=1, batch=2).unlearn(sd, same)


def test_divergence_is_told_with_its_cure(label_model):
    with pytest.raises(Diverged, match=r"Lower the learning rate"):
        mu_vision.erase(label_model, forget("cat"), "sfd", steps=60, batch=2, lr=1e12)
