from __future__ import annotations

import json
import shutil
import warnings

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel
from typer.testing import CliRunner

import mu_vision
from mu_vision import commands
from mu_vision.cli import app
from mu_vision.errors import UsageError
from mu_vision.export.delta import apply_delta, save_delta
from mu_vision.export.encoder import apply_encoder, describe
from mu_vision.export.folder import export
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.models.loading import quiet
from mu_vision.unlearn.diffusion.advunlearn import AdvUnlearn
from mu_vision.unlearn.diffusion.esd import ESD

REQUEST = mu_vision.concept_request("style", "neon")
PROMPT = ["a cat in neon style"]


def tensors(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def method() -> AdvUnlearn:
    return AdvUnlearn.from_settings(AdvUnlearn.trial)


@pytest.fixture(scope="module")
def done(sd, method):
    return method.unlearn(sd, REQUEST)


@pytest.fixture(scope="module")
def donor(sd, done, method, tmp_path_factory):
    """What ``erase -m advunlearn`` writes; do not write into it."""
    return export(done, REQUEST, method, tmp_path_factory.mktemp("donor") / "robust", sd)


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    """Another U-Net behind the same text encoder: a fine-tuned relative of ``sd``."""
    pipeline = tiny.tiny_sd(tmp_path_factory.mktemp("relative") / "relative")
    file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({n: w * 1.1 for n, w in weights.items()}, file, {"format": "pt"})
    return DiffusionModel.load(pipeline, "cpu")


@pytest.fixture
def bare(donor, tmp_path):
    """A folder with the text encoder and nothing else; a copy, to be damaged."""
    return shutil.copytree(donor / "text_encoder", tmp_path / "bare")


def rewrite(file, **changes) -> None:
    """Change values of a JSON file."""
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def with_encoder(folder, **changes):
    """Write a text encoder with random weights and another shape."""
    config = tiny.text_config(tiny.tokenizer())
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(), quiet():
        CLIPTextModel(config).save_pretrained(folder)
    return folder


def test_only_the_text_encoder_is_put_in(relative, done, donor):
    before = {name: tensors(part) for name, part in relative.parts().items()}
    edited = apply_encoder(donor, relative)
    assert equal(tensors(edited.unet), before["unet"])
    assert equal(tensors(edited.pipeline.vae), tensors(relative.pipeline.vae))
    assert equal(tensors(edited.pipeline.text_encoder), tensors(done.model.pipeline.text_encoder))
    assert equal(tensors(relative.pipeline.text_encoder), before["text_encoder"])
    assert edited.pipeline.tokenizer is relative.pipeline.tokenizer
    assert not any(p.requires_grad for p in edited.named_parameters().values())


def test_pictures_change_through_the_text_states_alone(relative, done, donor):
    edited = apply_encoder(donor, relative)
    states = edited.encode_prompt(PROMPT)
    assert torch.equal(states.states, done.model.encode_prompt(PROMPT).states)
    assert not torch.equal(states.states, relative.encode_prompt(PROMPT).states)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = edited.sample(states, x, 3)
    assert not torch.equal(drawn, relative.sample(relative.encode_prompt(PROMPT), x, 3))
    # the other U-Net, read with the donor's states, draws the very same
    null = done.model.null_text()
    assert torch.equal(drawn, relative.sample(states, x, 3, negative=null))


def test_a_delta_a_folder_and_a_bare_encoder_give_the_same(sd, relative, done, donor, bare):
    path = bare.parent / "delta.safetensors"
    save_delta(sd, done.model, path, "advunlearn", [REQUEST])
    with pytest.warns(UserWarning, match="was made from other weights"):
        expected = apply_delta(path, relative)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing but the text encoder was trained
        for folder in (donor, str(bare), donor / "text_encoder"):
            found = mu_vision.apply_encoder(folder, relative)
            assert found.fingerprint() == expected.fingerprint()


def test_both_encoders_of_a_large_pipeline_are_taken(sdxl, tmp_path):
    other = tiny.tiny_sdxl(tmp_path / "other", seed=1)
    edited = apply_encoder(other, sdxl)
    theirs = DiffusionModel.load(other, "cpu").encode_prompt(PROMPT)
    states = edited.encode_prompt(PROMPT)
    assert torch.equal(states.states, theirs.states)
    assert torch.equal(states.pooled, theirs.pooled)
    assert equal(tensors(edited.unet), tensors(sdxl.unet))


def test_the_command_writes_a_folder_that_knows_its_making(relative, donor, done, tmp_path):
    out = tmp_path / "plugged"
    words = ["apply", str(donor), "--to", relative.source, "-o", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    plugged = DiffusionModel.load(out, "cpu")
    assert plugged.fingerprint() == apply_encoder(donor, relative).fingerprint()
    facts, made = (json.loads((f / "mu_vision.json").read_text()) for f in (out, donor))
    assert facts["requests"] == made["requests"] and facts["method"] == "advunlearn"
    assert facts["sha256"] == plugged.fingerprint()
    assert facts["base"]["source"] == relative.source
    assert facts["base"]["sha256"] == relative.fingerprint()
    assert facts["encoder"]["source"] == str(donor)
    assert facts["encoder"]["model_sha256"] == done.model.fingerprint()
    assert facts["trained"] == done.trained
    # evaluate and audit take from it what was forgotten, and the model to set beside it
    for kind in ("evaluate", "audit"):
        flags = (None, None, None, "minicanvas")
        asked = commands.evaluation_recipe(str(out), "minicanvas_robust", flags, "", (), kind)
        assert asked.request.name == "neon"
        assert asked.original == relative.source
        assert asked.models == {"advunlearn": str(out)}


def test_an_encoder_of_unknown_making_is_described_all_the_same(sd, relative, bare):
    facts = describe(bare, relative, apply_encoder(bare, relative))
    assert facts["requests"] == [] and facts["method"] is None
    assert len(facts["encoder"]["sha256"]) == 64


def test_changes_elsewhere_are_not_taken_along(sd, relative, donor, tmp_path):
    folder = shutil.copytree(donor, tmp_path / "robust")
    rewrite(folder / "mu_vision.json", trained=["unet.conv_in.bias", "text_encoder.x.weight"])
    with pytest.warns(UserWarning, match=r"\(1 tensors, e\.g\. unet\.conv_in\.bias\), and those"):
        apply_encoder(folder, relative)
    # the U-Net of an ESD model was edited and its text encoder was not
    esd = ESD.from_settings(ESD.trial)
    folder = export(esd.unlearn(sd, REQUEST), REQUEST, esd, tmp_path / "esd", sd)
    with (
        pytest.warns(UserWarning, match="was also edited outside its text encoder"),
        pytest.raises(UsageError, match=r"is the one that relative has already.*carried on as a"),
    ):
        apply_encoder(folder, relative)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": 32}, "it has a width of 32 and that of sd has one of 16"),
        ({"vocab_size": 600}, "it has a vocabulary size of 600 and that of sd has one of 514"),
        ({"max_position_embeddings": 77}, "it has a length of 77 and that of sd has one of 48"),
        ({"num_hidden_layers": 3}, "it has a number of layers of 3 and that of sd has one of 2"),
        ({"hidden_act": "gelu"}, "it has an activation of gelu and that of sd has one of quick"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(sd, tmp_path, changes, sentence):
    folder = with_encoder(tmp_path / "other", **changes)
    with pytest.raises(UsageError, match=sentence):
        apply_encoder(folder, sd)


def test_a_unet_that_reads_another_width_is_refused(donor, tmp_path):
    folder = tiny.tiny_sd(tmp_path / "odd")
    tiny.unet(cross_attention_dim=24).save_pretrained(folder / "unet")
    odd = DiffusionModel.load(folder, "cpu")
    with pytest.raises(UsageError, match=r"width 16, and the U-Net of odd reads a width of 24"):
        apply_encoder(donor, odd)


def test_pipelines_of_another_kind_are_refused(sd, sdxl, sd_folder, sdxl_folder):
    with pytest.raises(UsageError, match="gives one text encoder and sdxl has 2 text encoders"):
        apply_encoder(sd_folder, sdxl)
    with pytest.raises(UsageError, match="gives 2 text encoders and sd has one text encoder"):
        apply_encoder(sdxl_folder, sd)


def test_other_tokenizers_are_refused(sd, donor, tmp_path):
    folder = shutil.copytree(donor, tmp_path / "robust")
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"differ \(2 of 514 words have other numbers"):
        apply_encoder(folder, sd)
    file.write_text("{")
    with pytest.raises(UsageError, match=r"The tokenizer .* cannot be read"):
        apply_encoder(folder, sd)


def test_pickles_are_refused(sd, bare, donor, tmp_path):
    weights = bare / "model.safetensors"
    torch.save(load_file(weights), bare / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UsageError, match=r"holds only a pickle \(pytorch_model\.bin\)"):
        apply_encoder(bare, sd)
    folder = shutil.copytree(donor, tmp_path / "robust")
    shutil.rmtree(folder / "text_encoder")
    shutil.copytree(bare, folder / "text_encoder")
    with pytest.raises(UsageError, match=r"holds only a pickle \(pytorch_model\.bin\)"):
        apply_encoder(folder, sd)
    (bare / "config.json").unlink()
    with pytest.raises(UsageError, match="holds only a pickle"):
        apply_encoder(bare, sd)


def test_folders_that_hold_no_encoder_are_refused(sd, bare, donor, tmp_path):
    with pytest.raises(UsageError, match="There is no folder"):
        apply_encoder(tmp_path / "nowhere", sd)
    (bare / "config.json").rename(bare / "other.json")
    with pytest.raises(UsageError, match=r"neither a diffusers pipeline .* nor a text encoder"):
        apply_encoder(bare, sd)
    with pytest.raises(UsageError, match="a model of the type None; give one with a CLIPTextModel"):
        apply_encoder(donor / "unet", sd)
    (bare / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json is missing or damaged"):
        apply_encoder(bare, sd)


def test_damaged_weights_are_refused(sd, bare):
    file = bare / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({k: v for k, v in weights.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(UsageError, match="lacks 1 tensors of a CLIPTextModel"):
        apply_encoder(bare, sd)
    save_file({**weights, name: torch.zeros(3)}, file, {"format": "pt"})
    with pytest.raises(UsageError, match="cannot be read as a text encoder"):
        apply_encoder(bare, sd)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UsageError, match="cut off or damaged"):
        apply_encoder(bare, sd)


def test_the_model_that_has_it_already_is_told_so(sd, sd_folder):
    with pytest.raises(UsageError, match="is the one that sd has already: there is nothing"):
        apply_encoder(sd_folder, sd)
