from __future__ import annotations

import json

import pytest
import tiny
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mu_vision.errors import RunError, UsageError
from mu_vision.export.delta import apply_delta, read_metadata, save_delta
from mu_vision.export.folder import export, verify
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.models.loading import quiet
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.diffusion.uce import UCE

ODD = "<b>neon</b> | `style`\n# heading"
REQUEST = ConceptRequest(kind="concept", name=ODD, prompts=("neon style",), anchor="a cat")


@pytest.fixture(scope="module")
def done(sd):
    return UCE(columns="all").unlearn(sd, REQUEST)


@pytest.fixture
def delta(sd, done, tmp_path):
    path = tmp_path / "neon.safetensors"
    save_delta(sd, done.model, path, "uce", [REQUEST])
    return path


def test_plain_diffusers_draws_the_same_pictures(sd, done, tmp_path):
    folder = export(done, REQUEST, UCE(columns="all"), tmp_path / "erased", sd)
    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = pipeline("neon style", latents=x.clone(), num_inference_steps=4, output_type="latent")
    ours = done.model.sample(done.model.encode_prompt(["neon style"]), x, 4, 7.5)
    assert torch.allclose(ours, theirs.images, atol=1e-3)


def test_the_card_says_what_was_done_and_escapes_what_was_typed(sd, done, tmp_path):
    folder = export(done, REQUEST, UCE(columns="all"), tmp_path / "erased", sd)
    card = (folder / "README.md").read_text()
    assert "`columns=all`" in card
    assert "2308.14761" in card
    assert done.model.fingerprint() in card
    assert sd.fingerprint() in card
    assert "8 of 244" in card
    assert "<b>" not in card
    assert "\n# heading" not in card
    assert "{{" not in card
    facts = json.loads((folder / "mu_vision.json").read_text())
    assert facts["requests"][0]["name"] == ODD
    assert facts["versions"]["torch"]


def test_export_replaces_only_its_own_folder(sd, done, tmp_path):
    target = tmp_path / "erased"
    export(done, REQUEST, UCE(), target, sd)
    export(done, REQUEST, UCE(), target, sd)
    (target / "NOTES.txt").write_text("mine")
    with pytest.raises(UsageError, match="choose another output folder"):
        export(done, REQUEST, UCE(), target, sd)
    assert (target / "NOTES.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(UsageError, match="choose another output folder"):
        export(done, REQUEST, UCE(), tmp_path / "other", sd)


def test_a_folder_that_was_not_written_well_is_found(sd, done, tmp_path):
    folder = export(done, REQUEST, UCE(), tmp_path / "erased", sd)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.bias"] += 1e-6
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(RunError, match=r"conv_in\.bias differs"):
        verify(done.model, folder)


def test_the_delta_holds_only_what_changed(sd, done, delta):
    with safe_open(delta, framework="pt") as opened:
        assert sorted(opened.keys()) == sorted(done.trained)
    metadata = read_metadata(delta)
    assert metadata["method"] == "uce"
    assert metadata["base_sha256"] == sd.fingerprint()
    assert ConceptRequest(**json.loads(metadata["requests"])[0]) == REQUEST
    before = sd.fingerprint()
    assert apply_delta(delta, sd).fingerprint() == done.model.fingerprint()
    assert sd.fingerprint() == before


def test_another_base_of_the_same_architecture_gets_a_warning(delta, done, tmp_path):
    other = DiffusionModel.load(tiny.tiny_sd(tmp_path / "other", seed=1), "cpu")
    with pytest.warns(UserWarning, match="was made from other weights"):
        edited = apply_delta(delta, other)
    name = done.trained[0]
    assert torch.equal(edited.named_parameters()[name], done.model.named_parameters()[name])


def test_faulty_deltas(sd, sdxl, delta, done, tmp_path):
    with pytest.raises(UsageError, match="does not fit sdxl"):
        apply_delta(delta, sdxl)
    with pytest.raises(UsageError, match="no difference to save"):
        save_delta(sd, sd, tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="There is no delta file"):
        apply_delta(tmp_path / "nowhere.safetensors", sd)
    with pytest.raises(UsageError, match="is a pickle"):
        apply_delta(tmp_path / "delta.pt", sd)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(delta.read_bytes()[:-10])
    with pytest.raises(UsageError, match="cut off or damaged"):
        apply_delta(cut, sd)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(UsageError, match="is not a delta that was written here"):
        apply_delta(foreign, sd)
    name = done.trained[0]
    save_file({name: torch.zeros(1)}, foreign, read_metadata(delta))
    with pytest.raises(UsageError, match=r"there and \(1,\) in the file"):
        apply_delta(foreign, sd)
