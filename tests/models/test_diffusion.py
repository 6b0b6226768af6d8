from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from mu_vision.errors import UsageError
from mu_vision.models.diffusion import DiffusionModel, TextStates
from mu_vision.models.loading import quiet

PROMPTS = ["neon style", "a cat"]


def latents(model, n=2, seed=0):
    return torch.randn(n, *model.latent_shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("which", ["sd", "sdxl"])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_sampling_equals_plain_diffusers(which, guidance, request):
    model = request.getfixturevalue(which)
    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(
            request.getfixturevalue(f"{which}_folder"), dtype=torch.float32
        )
    pipeline.set_progress_bar_config(disable=True)
    x = latents(model)
    options = {"num_inference_steps": 6, "guidance_scale": guidance}
    theirs = pipeline(PROMPTS, latents=x.clone(), output_type="latent", **options).images
    ours = model.sample(model.encode_prompt(PROMPTS), x, steps=6, guidance=guidance)
    assert torch.allclose(ours, theirs, atol=1e-4)
    pictures = pipeline(PROMPTS, latents=x.clone(), output_type="np", **options).images
    assert np.abs(model.decode(ours) / 255 - pictures).max() < 1.01 / 255


def test_a_picture_does_not_depend_on_its_batch(sd):
    x, text = latents(sd, 8), sd.encode_prompt(PROMPTS * 4)
    together = sd.sample(text, x, steps=4)
    alone = torch.cat([sd.sample(text[[i]], x[[i]], steps=4) for i in range(8)])
    assert torch.allclose(together, alone, atol=1e-4)
    order = [3, 1, 7, 0, 2, 6, 5, 4]
    assert torch.allclose(sd.sample(text[order], x[order], steps=4), together[order], atol=1e-4)


def test_text_states_do_not_depend_on_their_neighbours_and_are_remembered(sd_folder):
    model = DiffusionModel.load(sd_folder, "cpu")
    calls = []
    model.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    both = model.encode_prompt(PROMPTS)
    assert torch.equal(model.encode_prompt(PROMPTS[1:]).states, both.states[1:])
    assert len(calls) == 2
    with torch.no_grad():
        next(model.pipeline.text_encoder.parameters()).mul_(1.5)
    assert not torch.equal(model.encode_prompt(PROMPTS).states, both.states)


def test_text_changes_the_noise(sd, sdxl):
    for model in (sd, sdxl):
        x = latents(model)
        first, second = (model.predict_noise(x, 500, model.encode_prompt([p])) for p in PROMPTS)
        assert (first - second).std() > 0.05 * first.std()


def test_null_text_is_what_the_pipeline_uses(sd, sdxl):
    assert torch.equal(sd.null_text().states, sd.encode_prompt([""]).states)
    null = sdxl.null_text()
    assert not null.states.any()
    assert not null.pooled.any()
    assert sdxl.encode_prompt([""]).states.any()


def test_branches_of_weight_zero_are_not_evaluated(sd):
    rows = []
    hook = sd.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    text, null = sd.encode_prompt(PROMPTS), sd.null_text()
    one, zero, three = (sd.guided_noise(latents(sd), 9, text, null, g) for g in (1, 0, 3))
    hook.remove()
    assert rows == [2, 2, 4]
    assert torch.allclose(three, zero + 3 * (one - zero), atol=1e-5)


def test_rows_may_have_their_own_timestep(sd):
    x, text = latents(sd), sd.encode_prompt(PROMPTS)
    mixed = sd.predict_noise(x, torch.tensor([10, 900]), text)
    assert torch.allclose(mixed[:1], sd.predict_noise(x[:1], 10, text[0]), atol=1e-5)
    assert torch.allclose(mixed[1:], sd.predict_noise(x[1:], 900, text[1]), atol=1e-5)


def test_a_velocity_network_gives_noise(tmp_path, sd):
    model = DiffusionModel.load(tiny.tiny_sd(tmp_path / "v", prediction_type="v_prediction"), "cpu")
    x, text, t = latents(sd), sd.encode_prompt(PROMPTS), 321
    v = model.unet(x, t, text.states).sample
    abar = model.alphas_cumprod[t]
    expected = abar.sqrt() * v + (1 - abar).sqrt() * x
    assert torch.allclose(model.predict_noise(x, t, text), expected, atol=1e-5)
    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(PROMPTS, latents=x.clone(), output_type="latent", num_inference_steps=5)
    ours = model.sample(text, x, 5, 7.5)
    assert torch.allclose(ours, theirs.images, atol=1e-3)


def test_a_network_that_predicts_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="predicts 'sample'"):
        DiffusionModel.load(tiny.tiny_sd(tmp_path / "x0", prediction_type="sample"))


def test_tokens_are_counted_in_tokens(sd):
    assert sd.tokens("").last == 0
    assert sd.tokens("neon style").last == 9
    assert sd.tokens("neon style").count == 11
    assert not sd.tokens("neon").truncated
    with pytest.warns(UserWarning, match="reads only the beginning"):
        sd.encode_prompt(["very " * 30])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sd.encode_prompt(["very " * 30])


def test_a_clone_shares_all_but_the_trained_tensors(sd):
    names = [name for name in sd.named_parameters() if name.endswith("attn2.to_k.weight")]
    twin = sd.clone(names)
    before, after = sd.named_parameters(), twin.named_parameters()
    assert list(before) == list(after)
    for name, parameter in after.items():
        assert (parameter.data_ptr() != before[name].data_ptr()) == (name in names)
        assert parameter.requires_grad == (name in names)
        assert not before[name].requires_grad
    assert twin.pipeline.text_encoder is sd.pipeline.text_encoder
    assert twin.pipeline.unet is not sd.pipeline.unet
    assert twin.fingerprint() == sd.fingerprint()
    with torch.no_grad():
        after[names[0]].add_(1)
    assert twin.fingerprint() != sd.fingerprint()
    with pytest.raises(KeyError, match=r"unet\.nothing"):
        sd.clone(["unet.nothing"])


def test_save_and_load_keep_the_fingerprint(tmp_path, sd, sdxl):
    for model in (sd, sdxl):
        folder = model.save(tmp_path / model.name)
        again = model.save(folder)
        assert DiffusionModel.load(again, "cpu").fingerprint() == model.fingerprint()
    assert sd.fingerprint() != sdxl.fingerprint()
    assert not list(tmp_path.glob(".*"))


def test_save_refuses_a_folder_of_someone_else(tmp_path, sd):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not a model folder that was written here"):
        sd.save(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_half_precision_files_are_read_as_float32(tmp_path, sd_folder):
    folder = shutil.copytree(sd_folder, tmp_path / "half")
    for file in folder.rglob("*.safetensors"):
        save_file({k: v.half() for k, v in load_file(file).items()}, file, {"format": "pt"})
    model = DiffusionModel.load(folder, "cpu")
    assert {p.dtype for p in model.named_parameters().values()} == {torch.float32}


def broken(folder, tmp_path, fault):
    copy = shutil.copytree(folder, tmp_path / "broken")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    index = copy / "model_index.json"
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "empty":
        weights.write_bytes(b"")
    elif fault == "pickle":
        weights.rename(weights.with_suffix(".bin"))
    elif fault == "missing":
        weights.unlink()
    elif fault == "no index":
        index.unlink()
    elif fault == "bad index":
        index.write_text("{")
    elif fault == "other pipeline":
        index.write_text(json.dumps({"_class_name": "FluxPipeline"}))
    elif fault == "other shape":
        config = json.loads((copy / "unet" / "config.json").read_text())
        (copy / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 5}))
    return copy


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("truncated", r"diffusion_pytorch_model\.safetensors is cut off or damaged"),
        ("empty", "is cut off or damaged"),
        ("pickle", "holds only a pickle"),
        ("missing", "not complete"),
        ("no index", r"no model_index\.json"),
        ("bad index", "does not name a pipeline"),
        ("other pipeline", "holds a FluxPipeline; the pipelines read here are"),
        ("other shape", "cannot be read as a pipeline"),
    ],
)
def test_damaged_folders_are_named(sd_folder, tmp_path, fault, message):
    with pytest.raises(UsageError, match=message):
        DiffusionModel.load(broken(sd_folder, tmp_path, fault))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/at/all", "There is no model folder nowhere/at/all"),
        ("minicanvas/sdd", "There is no embedded model 'minicanvas/sdd'"),
        ("someone/something", "There is no folder someone/something, and a model of this name"),
        ("weights.ckpt", "is a pickle"),
        ("weights.safetensors", "is not a folder"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(UsageError, match=message):
        DiffusionModel.load(name)


def test_text_states_expand_only_one(sd):
    text = TextStates(torch.zeros(2, 3, 4))
    assert len(text.expand(2)) == 2
    assert text[0].expand(5).states.shape == (5, 3, 4)
    with pytest.raises(ValueError, match="2 texts cannot serve a batch of 3"):
        text.expand(3)


def test_reading_leaves_the_libraries_as_they_were(sd_folder):
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    before = [(log.is_progress_bar_enabled(), log.get_verbosity()) for log in (ours, theirs)]
    DiffusionModel.load(sd_folder)
    after = [(log.is_progress_bar_enabled(), log.get_verbosity()) for log in (ours, theirs)]
    assert before == after
