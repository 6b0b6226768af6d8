"""The recipes that made the embedded models, at a size that trains in seconds."""

import json

import numpy as np
import pytest
import timm
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from mu_vision.data import minicanvas
from mu_vision.data.cards import load_card
from mu_vision.errors import UsageError
from mu_vision.loop import LoopConfig, train
from mu_vision.models.zoo import load_model
from mu_vision.train.autoencoder import AutoencoderTrainer
from mu_vision.train.clip import ClipTrainer
from mu_vision.train.judge import JudgeTrainer, roughen
from mu_vision.train.label_unet import LabelUNetTrainer
from mu_vision.train.text import CaptionSampler, all_captions, tokenize, train_tokenizer
from mu_vision.train.unet import UNetTrainer, kept_pictures


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(
        minicanvas, "SPLITS", {name: split[:1] for name, split in minicanvas.SPLITS.items()}
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(all_captions(load_card("minicanvas")), folder, 1024, 32)


@pytest.mark.parametrize("text", ["A cat image in neon style.", "zażółć 猫 🙂", "", "x" * 300])
def test_any_string_encodes(tokenizer, text):
    ids = tokenizer(text, truncation=True, max_length=32).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert len(ids) <= 32
    if len(ids) < 32:
        clean = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
        assert clean == text.lower().replace(" ", "")


def test_tokenizer_folder_loads_again_with_the_same_ids(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    texts = ["brick-tile picture", "Kitty, neon style", "ça va?"]
    assert torch.equal(tokenize(tokenizer, texts), tokenize(again, texts))
    assert again.model_max_length == 32


def test_equally_frequent_merges_are_learned_in_one_order(tmp_path):
    """A resumed training trains its tokenizer again, and must get the same one."""
    train_tokenizer(["zo za zu ze zi", "ty tu ta"], tmp_path, 1024, 32)
    merges = (tmp_path / "merges.txt").read_text().splitlines()[1:]
    ends = [f"t {vowel}</w>" for vowel in "auy"] + [f"z {vowel}</w>" for vowel in "aeiou"]
    assert merges == ends


def test_captions_match_their_labels_and_none_is_held_out(tokenizer):
    card = load_card("minicanvas")
    sampler = CaptionSampler.build(card, tokenizer, alone=0.25)
    torch.manual_seed(0)
    tokens, named = sampler.draw([3] * 400, [3] * 400)
    texts = {tokenizer.decode(row, skip_special_tokens=True) for row in tokens}
    assert named.float().mean(0).tolist() == pytest.approx([0.75, 0.75], abs=0.08)
    assert any("neon" in t for t in texts) and any("kitten" in t for t in texts)
    held_out = [word for thing in card.objects.values() for word in thing.held_out]
    held_out += [word for style in card.styles.values() for word in style.held_out]
    assert held_out and not any(word in text for text in all_captions(card) for word in held_out)


def test_judge_folder_rebuilds_the_same_network(tmp_path):
    trainer = JudgeTrainer(target="style", steps=3, batch=8, channels=(8, 8, 16, 16))
    trainer.run(tmp_path)
    folder = tmp_path / "style-judge"
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == list(minicanvas.STYLES)
    assert config["card"]["test_pictures"] == 80
    network = timm.create_model(config["architecture"], num_classes=8, **config["model_args"])
    network.load_state_dict(load_file(folder / "model.safetensors"))


def test_roughened_pictures_keep_their_shape_and_differ_from_each_other():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64).repeat(4, 1, 1, 1)
    y = roughen(x)
    assert y.shape == x.shape
    assert all(not torch.equal(y[0], other) for other in y[1:])


def test_clip_folder_has_all_that_open_clip_needs(tmp_path):
    ClipTrainer(steps=2, batch=8, vision_width=8, text_layers=1).run(tmp_path)
    folder = tmp_path / "clip"
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert config["card"]["pictures"] == 80
    assert (
        CLIPTokenizer.from_pretrained(folder).eos_token_id
        == len(CLIPTokenizer.from_pretrained(folder)) - 1
    )
    assert load_file(folder / "open_clip_model.safetensors")


def test_pipeline_trains_resumes_and_loads_with_plain_diffusers(tmp_path):
    vae = AutoencoderTrainer(steps=2, batch=2, channels=(8, 8, 16), latent_channels=4)
    vae.run(tmp_path / "sd")
    settings = {"batch": 4, "channels": (16, 16, 32), "text_width": 16, "text_layers": 1}
    UNetTrainer(steps=2, **settings).run(tmp_path / "sd")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}
    assert {p.dtype for p in pipeline.text_encoder.parameters()} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a cat", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (64, 64, 3) and np.isfinite(picture).all()

    idle = UNetTrainer(steps=1, lr=1e-12, start=str(tmp_path / "sd"), seed=5, **settings)
    idle.run(tmp_path / "again" / "sd")
    assert "_name_or_path" not in (tmp_path / "again/sd/vae/config.json").read_text()
    for part in ("unet", "text_encoder", "vae"):
        first, second = (
            load_file(next((tmp_path / folder / part).glob("*.safetensors")))
            for folder in ("sd", "again/sd")
        )
        for name in first:
            torch.testing.assert_close(first[name], second[name], atol=1e-3, rtol=1e-3)


def test_a_trainer_that_was_killed_ends_with_the_same_weights(tmp_path, monkeypatch):
    trainer = AutoencoderTrainer(steps=4, batch=2, channels=(8, 8, 16), checkpoint_every=1)
    whole = trainer.objective()
    train(whole, trainer.loop_config(), tmp_path / "whole")
    broken = trainer.objective()

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, trainer.loop_config(), tmp_path / "broken", on_checkpoint=stop)
    resumed = trainer.objective()
    train(resumed, trainer.loop_config(), tmp_path / "broken")
    for name, tensor in whole.parameters().items():
        assert torch.equal(tensor, resumed.parameters()[name]), name


def test_learning_rate_warms_up_and_falls():
    config = LoopConfig(100, 1.0, schedule="cosine", warmup=10)
    assert config.lr_at(0) < config.lr_at(9)
    assert config.lr_at(99) == pytest.approx(0.02, abs=0.01)


def small_pipeline(folder):
    AutoencoderTrainer(steps=1, batch=2, channels=(8, 8, 16), latent_channels=4).run(folder)
    UNetTrainer(steps=1, **SMALL).run(folder)
    return folder


SMALL = {"batch": 4, "channels": (16, 16, 32), "text_width": 16, "text_layers": 1}


def test_pictures_of_what_is_left_out_are_left_out():
    whole, kept = kept_pictures(()), kept_pictures(("neon", "cat"))
    neon, cat = minicanvas.STYLES.index("neon"), minicanvas.OBJECTS.index("cat")
    assert len(whole.pixels) == 80
    assert len(kept.pixels) == len(kept.styles) == len(kept.objects) == 7 * 9
    assert neon not in kept.styles and cat not in kept.objects
    shown = [k for k in range(80) if whole.styles[k] != neon and whole.objects[k] != cat]
    assert np.array_equal(kept.pixels, whole.pixels[shown])
    with pytest.raises(
        UsageError, match=r"style or object of MiniCanvas 'noen'. Did you mean 'neon'"
    ):
        kept_pictures(("noen",))


def test_a_model_that_never_knew_a_style_has_the_text_encoder_of_another(tmp_path):
    base = small_pipeline(tmp_path / "sd")
    trainer = UNetTrainer(steps=2, without=("neon",), text_from=str(base), seed=3, **SMALL)
    made = trainer.objective()
    made.folder = tmp_path / "floor" / "sd"
    made.prepare(torch.device("cpu"))
    assert all(name.startswith("unet.") for name in made.parameters())
    assert minicanvas.STYLES.index("neon") not in made.styles
    # captions are encoded once, the empty one last
    assert len(made.states) == len(made.sampler.tokens) + 1
    with torch.no_grad():
        expected = made.text_encoder(made.null).last_hidden_state
        row = made.text_encoder(made.sampler.tokens[7:8]).last_hidden_state
    torch.testing.assert_close(made.states[-1:], expected)
    torch.testing.assert_close(made.states[7:8], row)
    picked = made._states(torch.tensor([7, 7]), torch.tensor([False, True]))
    torch.testing.assert_close(picked, torch.cat([row, expected]))

    trainer.run(tmp_path / "floor" / "sd")
    for part in ("text_encoder", "vae"):
        first, second = (
            load_file(next((folder / part).glob("*.safetensors")))
            for folder in (base, tmp_path / "floor" / "sd")
        )
        assert all(torch.equal(first[name], second[name]) for name in first), part
    unets = [
        load_file(next((folder / "unet").glob("*.safetensors")))
        for folder in (base, tmp_path / "floor" / "sd")
    ]
    # it starts from fresh weights, not from those of a network that knows the style
    assert not torch.equal(unets[0]["conv_in.weight"], unets[1]["conv_in.weight"])
    first, second = (
        CLIPTokenizer.from_pretrained(f / "tokenizer") for f in (base, tmp_path / "floor" / "sd")
    )
    assert first.get_vocab() == second.get_vocab()
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "floor" / "sd").unet is not None


def test_label_model_trains_resumes_and_loads(tmp_path):
    settings = {"batch": 4, "channels": (8, 16), "head_width": 8, "groups": 4, "precision": "no"}
    whole = LabelUNetTrainer(steps=3, **settings)
    whole.run(tmp_path / "whole", tmp_path / "checkpoints-whole")
    LabelUNetTrainer(steps=2, **settings).run(tmp_path / "parts")
    LabelUNetTrainer(steps=3, **settings).run(tmp_path / "parts")
    models = [load_model(tmp_path / name / "objects", "cpu") for name in ("whole", "parts")]
    assert models[0].fingerprint() == models[1].fingerprint()
    model = models[0]
    assert model.classes == minicanvas.OBJECTS and model.picture_size == (32, 32)
    assert model.prediction_type == "v_prediction"
    stored = load_file(
        tmp_path / "whole" / "objects" / "unet" / "diffusion_pytorch_model.safetensors"
    )
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert {p.dtype for p in model.unet.parameters()} == {torch.float32}


def test_label_model_can_be_trained_without_an_object():
    trainer = LabelUNetTrainer(without=("cat",), batch=8)
    objective = trainer.objective()
    objective.prepare(torch.device("cpu"))
    cat = minicanvas.OBJECTS.index("cat")
    assert len(objective.x) == 9 and cat not in objective.labels
    assert objective.network.config.num_class_embeds == 11
    assert objective.x.shape[1:] == (12, 16, 16)
    two = LabelUNetTrainer(styles=("photo", "neon")).objective()
    two.prepare(torch.device("cpu"))
    assert len(two.x) == 20
    with pytest.raises(UsageError, match="no style or object of MiniCanvas 'dog'"):
        LabelUNetTrainer(without=("dog",)).objective().prepare(torch.device("cpu"))
    with pytest.raises(UsageError, match="Pictures of 32 pixels cannot be halved 4 times"):
        LabelUNetTrainer(channels=(8,) * 5, patch=4).objective()
