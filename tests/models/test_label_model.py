"""The label-conditional model: the same verbs as a text-to-image model, on class labels."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

import mu_vision
from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.models import maths
from mu_vision.models.denoiser import Generator
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.models.labels import LabelModel, LabelPipeline, Labels
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.diffusion.selectors import select

from tiny import OBJECTS, tiny_labels  # isort: skip

CAT = ConceptRequest(kind="object", name="cat", prompts=("cat",), anchor="boat", keep=("tree",))


def noise(model, n: int, *parts) -> torch.Tensor:
    return seeding.noise((n, *model.latent_shape), "test_labels", *parts)


def test_load_model_finds_out_which_kind_a_folder_holds(labels_folder, sd_folder):
    model = mu_vision.load_model(labels_folder)
    assert isinstance(model, LabelModel) and model.classes == OBJECTS
    assert model.family == "diffusion"
    assert (model.latent_shape, model.picture_size) == ((12, 8, 8), (16, 16))
    assert isinstance(mu_vision.load_model(sd_folder), DiffusionModel)
    assert not mu_vision.load_model(sd_folder).classes


def test_the_parts_load_with_the_classes_of_diffusers(labels_folder):
    network = UNet2DModel.from_pretrained(labels_folder / "unet")
    assert network.config.num_class_embeds == len(OBJECTS) + 1
    assert DDIMScheduler.from_pretrained(labels_folder / "scheduler").config.clip_sample is False
    pipeline = LabelPipeline.from_pretrained(labels_folder)
    assert pipeline.classes == OBJECTS


def test_conditions_index_join_and_repeat_like_text_states():
    labels = Labels(torch.tensor([2, 0, 1]))
    assert labels[1].ids.tolist() == [0]
    assert labels[torch.tensor([True, False, True])].ids.tolist() == [2, 1]
    assert labels.cat([labels[0].expand(2), labels]).ids.tolist() == [2, 2, 2, 0, 1]
    assert len(labels.to("cpu")) == 3
    with pytest.raises(ValueError, match="3 labels cannot serve a batch of 2"):
        labels.expand(2)


@pytest.mark.parametrize(
    ("text", "number"),
    [("cat", 1), ("A Cat image in neon style.", 1), ("boat", 2), ("", 3), ("  ", 3)],
)
def test_texts_are_read_for_the_class_they_name(label_model, text, number):
    assert label_model.encode_prompt([text]).ids.tolist() == [number]


def test_texts_that_name_no_class_or_several_are_refused(label_model):
    with pytest.raises(UsageError, match=r"no class of .* 'catt'. Did you mean 'cat'"):
        label_model.encode_prompt(["catt"])
    with pytest.raises(UsageError, match=r"names several classes \(boat, cat\)"):
        label_model.encode_prompt(["a cat in a boat"])


def test_predicted_noise_is_the_networks_and_guidance_is_affine(label_model):
    x, t = noise(label_model, 3, "eps"), torch.tensor([10, 500, 999])
    cond, null = label_model.encode_prompt(["cat", "tree", "boat"]), label_model.null_text()
    eps = label_model.predict_noise(x, t, cond)
    direct = label_model.unet(x, t, class_labels=torch.tensor([1, 0, 2])).sample
    assert torch.equal(eps, direct)
    e_null = label_model.predict_noise(x, t, null)
    guided = label_model.guided_noise(x, t, cond, null, 2.5)
    assert torch.allclose(guided, e_null + 2.5 * (eps - e_null), atol=1e-5)
    assert not torch.allclose(eps, e_null)
    expected = maths.eps_to_x0(x, eps, label_model.alphas_cumprod[t])
    assert torch.equal(label_model.predict_x0(x, t, cond), expected)


def test_velocity_networks_answer_in_noise(tmp_path):
    model = LabelModel.load(tiny_labels(tmp_path / "v", prediction_type="v_prediction"), "cpu")
    x, t = noise(model, 2, "v"), torch.tensor([100, 700])
    v = model.unet(x, t, class_labels=torch.tensor([0, 2])).sample
    expected = maths.v_to_eps(x, v, model.alphas_cumprod[t])
    found = model.predict_noise(x, t, model.encode_prompt(["tree", "boat"]))
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_lose_nothing(tmp_path, patch):
    model = LabelModel.load(tiny_labels(tmp_path / "patch", patch=patch), "cpu")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    latents = model.encode_pictures(pictures)
    assert tuple(latents.shape[1:]) == model.latent_shape
    assert latents.min() >= -1 and latents.max() <= 1
    assert np.array_equal(model.decode(latents), pictures)
    assert model.decode(5 * torch.ones(1, *model.latent_shape)).min() == 255
    bigger = pictures.repeat(2, axis=1).repeat(2, axis=2)
    assert model.decode(model.encode_pictures(bigger)).shape == pictures.shape


def test_a_picture_depends_on_its_own_noise_and_label_alone(label_model):
    latents, cond = noise(label_model, 3, "alone"), label_model.encode_prompt(["cat"] * 3)
    for model in (label_model, label_model.drawing_by(Generator(440, 3))):
        whole = model.sample(cond, latents, steps=3, guidance=2.0)
        one = model.sample(cond[1], latents[1:2], steps=3, guidance=2.0)
        assert torch.allclose(whole[1:2], one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
        assert model.decode(whole).shape == (3, 16, 16, 3)


def test_a_generator_takes_one_ddim_step_from_its_level(label_model):
    model = label_model.drawing_by(Generator(440))
    latents, cond = noise(model, 2, "one"), model.encode_prompt(["cat", "tree"])
    start = (1 - model.alphas_cumprod[440]).sqrt() * latents
    eps = label_model.predict_noise(start, 440, cond)
    clean = maths.ddim_step(start, eps, model.alphas_cumprod[440], model.final_alpha)
    assert torch.allclose(model.sample(cond, latents), clean, rtol=1e-4, atol=1e-4)
    calls = []
    hook = model.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    for steps in (1, 2, 4):
        drawn = label_model.drawing_by(Generator(440, steps))
        drawn.sample(cond, latents, steps=50, guidance=3.0)
        assert len(calls) == steps == drawn.evaluations(50, 3.0)
        calls.clear()
    hook.remove()
    assert label_model.evaluations(50, 3.0) == 100
    assert label_model.evaluations(50, 1.0) == 50


def test_a_generator_cannot_start_from_a_half_noised_picture(label_model):
    model = label_model.drawing_by(Generator(440))
    with pytest.raises(UsageError, match="draws from noise alone"):
        model.sample(model.null_text(), noise(model, 1), steps=4, skip=2)


def test_the_way_of_drawing_is_saved_and_part_of_the_fingerprint(label_model, sd, tmp_path):
    for number, model in enumerate((label_model, sd)):
        distilled = model.drawing_by(Generator(440, 2))
        assert distilled.fingerprint() != model.fingerprint()
        assert model.generator is None and model.pipeline.scheduler.config.get("generator") is None
        again = mu_vision.load_model(distilled.save(tmp_path / str(number)))
        assert again.generator == Generator(440, 2)
        assert again.fingerprint() == distilled.fingerprint()
        assert again.drawing_by(None).fingerprint() == model.fingerprint()


def test_the_pipeline_samples_by_itself(labels_folder):
    pipeline = LabelPipeline.from_pretrained(labels_folder)
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline(["cat", "boat"], num_inference_steps=2, generator=generator)
    assert [picture.size for picture in drawn.images] == [(16, 16), (16, 16)]
    latents = noise(LabelModel(pipeline), 1)
    (array,) = pipeline("tree", 2, latents=latents, output_type="np", return_dict=False)
    assert array.shape == (1, 16, 16, 3) and 0 <= array.min() <= array.max() <= 1


def test_save_writes_a_folder_that_loads_as_the_same_model(label_model, tmp_path):
    folder = label_model.save(tmp_path / "saved")
    assert mu_vision.load_model(folder).fingerprint() == label_model.fingerprint()
    with pytest.raises(UsageError, match=r"is the folder that .* was read from"):
        mu_vision.load_model(folder).save(folder)


def test_esd_erases_a_class(label_model):
    settings = {"variant": "full", "steps": 3, "lr": 1e-2, "sampler_steps": 4, "refresh": 2}
    erased = mu_vision.erase(label_model, CAT, "esd", **settings)
    assert erased.model.classes == OBJECTS
    assert erased.unlearned.report["changed_tensors"] > 0
    x, cond = noise(label_model, 1, "esd"), label_model.encode_prompt(["cat"])
    before, after = (m.predict_noise(x, 500, cond) for m in (label_model, erased.model))
    assert not torch.equal(before, after)


def test_a_request_of_the_card_is_understood(label_model):
    """Its captions name the object in a sentence."""
    request = concept_request("object", "cat", "minicanvas", anchor="boat")
    settings = {"variant": "u", "steps": 1, "lr": 1e-2, "sampler_steps": 2, "refresh": 1}
    assert mu_vision.erase(label_model, request, "esd", **settings).unlearned.trained


@pytest.mark.parametrize("variant", ["x", "text"])
def test_variants_that_need_text_are_refused(label_model, variant):
    with pytest.raises(UsageError, match=f"no tensors for the variant '{variant}', since it reads"):
        select(label_model, variant)


def test_an_attack_on_tokens_is_refused(label_model):
    request = concept_request("object", "cat", "minicanvas", anchor="boat")
    settings = {"variant": "full", "steps": 1, "sampler_steps": 2, "pool": 4}
    with pytest.raises(UsageError, match="puts tokens before a prompt, and labels reads labels"):
        mu_vision.erase(label_model, request, "advunlearn", **settings)


def test_a_folder_without_its_null_label_is_refused(labels_folder, tmp_path):
    pipeline = LabelPipeline.from_pretrained(labels_folder)
    broken = LabelPipeline(pipeline.unet, pipeline.scheduler, dict(enumerate("abcd")))
    broken.save_pretrained(tmp_path / "broken")
    with pytest.raises(UsageError, match="names 4 classes and its network has 4 label embeddings"):
        mu_vision.load_model(tmp_path / "broken")
    with pytest.raises(UsageError, match="holds a LabelPipeline; the pipelines read here are"):
        DiffusionModel.load(labels_folder)
    with pytest.raises(UsageError, match=r"holds a StableDiffusionPipeline; .* are LabelPipeline"):
        index = json.loads((labels_folder / "model_index.json").read_text())
        index["_class_name"] = "StableDiffusionPipeline"
        (tmp_path / "broken" / "model_index.json").write_text(json.dumps(index))
        LabelModel.load(tmp_path / "broken")


def test_a_cut_weights_file_is_refused(label_model, tmp_path):
    folder = label_model.save(tmp_path / "cut")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match="is cut off or damaged"):
        mu_vision.load_model(folder)
