"""The embedded models are real ones: plain libraries load them, and they do what they are for."""

import json
import subprocess
import sys

import numpy as np
import open_clip
import timm
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from mu_vision import load_card, load_model, resources, seeding
from mu_vision.data import minicanvas
from mu_vision.evaluation.judges import load_judge
from mu_vision.models.labels import LabelModel


def test_plain_diffusers_loads_and_samples_the_pipeline_without_us(tmp_path):
    code = f"""
import sys, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained({str(resources.EMBEDDED / "sd")!r})
pipeline.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(0)
picture = pipeline("A cat image in neon style.", num_inference_steps=10, guidance_scale=3.0,
                   generator=generator).images[0]
assert not any(name.startswith("mu_vision") for name in sys.modules)
assert {{p.dtype for p in pipeline.unet.parameters()}} == {{torch.float32}}
picture.save({str(tmp_path / "cat.png")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    picture = np.asarray(Image.open(tmp_path / "cat.png"))[None]
    assert picture.shape == (1, 64, 64, 3)
    assert load_judge("minicanvas/style-judge").predict(picture).argmax() == 3


def test_the_pipeline_draws_what_it_is_asked_for():
    """A sample of the prompts; ``benchmarks/embedded_models.py`` measures all of them."""
    model, card = load_model("minicanvas/sd"), load_card("minicanvas")
    cells = [(k % 10, k % 8) for k in range(16)]
    prompts = [card.prompt(card.object_names[o], card.style_names[s]) for o, s in cells]
    shape = (len(cells), *model.latent_shape)
    latents = seeding.noise(shape, "test_embedded")
    text = model.encode_prompt(prompts)
    pictures = model.decode(model.sample(text, latents, steps=10, guidance=3.0))
    styles = load_judge("minicanvas/style-judge").predict(pictures).argmax(1)
    objects = load_judge("minicanvas/object-judge").predict(pictures).argmax(1)
    assert np.mean(styles == [s for _, s in cells]) >= 0.9
    assert np.mean(objects == [o for o, _ in cells]) >= 0.8


def test_any_text_encodes_and_does_not_change_the_length():
    model = load_model("minicanvas/sd")
    states = model.encode_prompt(["", "猫 🙂 zażółć", "neon " * 100]).states
    assert states.shape[:2] == (3, 32)
    assert torch.isfinite(states).all()


def test_judges_rebuild_with_plain_timm_and_mark_unseen_pictures():
    rows = {"style": minicanvas.STYLES, "object": minicanvas.OBJECTS}
    pictures = minicanvas.load(range(1200, 1202))
    truth = {"style": pictures.styles, "object": pictures.objects}
    for kind, classes in rows.items():
        folder = resources.EMBEDDED / f"{kind}-judge"
        config = json.loads((folder / "config.json").read_text())
        assert config["classes"] == list(classes)
        network = timm.create_model(
            config["architecture"], num_classes=len(classes), **config["model_args"]
        )
        network.load_state_dict(load_file(folder / "model.safetensors"))
        pixels = torch.from_numpy(pictures.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            marks = network.eval()(pixels).argmax(1).numpy()
        assert np.mean(marks == truth[kind]) >= 0.98


def test_plain_open_clip_reads_the_embedded_folder():
    where = f"local-dir:{resources.EMBEDDED / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(where)
    tokenizer = open_clip.get_tokenizer(where)
    texts = ["A cat image in neon style.", "A car image in photo style."]
    picture = Image.fromarray(minicanvas.render("car", "photo", 1201))
    with torch.no_grad():
        image = model.eval().encode_image(preprocess(picture)[None], normalize=True)
        scores = image @ model.encode_text(tokenizer(texts), normalize=True).T
    assert scores.argmax().item() == 1


def test_the_label_conditional_model_draws_its_classes_and_loads_part_by_part():
    """A sample; its card says what ``eval/minicanvas_objects.yaml`` measures."""
    folder = resources.EMBEDDED / "objects"
    assert UNet2DModel.from_pretrained(folder / "unet").config.num_class_embeds == 11
    assert "_name_or_path" not in json.loads((folder / "model_index.json").read_text())
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 6_000_000
    model = load_model("minicanvas/objects")
    assert isinstance(model, LabelModel) and model.classes == minicanvas.OBJECTS
    assert model.picture_size == (32, 32) and model.generator is None
    names = [name for name in model.classes for _ in range(3)]
    noise = seeding.noise((len(names), *model.latent_shape), "test_embedded")
    drawn = model.decode(model.sample(model.encode_prompt(names), noise, steps=20, guidance=1.0))
    judge = load_judge("minicanvas/object-judge")
    seen = [judge.classes[k] for k in judge.predict(drawn).argmax(1)]
    assert np.mean([a == b for a, b in zip(seen, names, strict=True)]) >= 0.8


def test_the_gans_draw_what_they_were_trained_on():
    from mu_vision.evaluation.oracles import Scorer
    from mu_vision.models.gan import Gan

    gan = Gan.load("minicanvas/gan")
    pictures = gan.pictures(gan.latents(200, "test_embedded"))
    assert pictures.shape == (200, 3, 32, 32)
    judge = Scorer.of_judge(load_judge("minicanvas/style-judge"))
    styles = judge.chances(pictures).argmax(1)
    known = [judge.classes.index(name) for name in ("photo", "sketch", "neon")]
    assert np.mean(np.isin(styles, known)) >= 0.8
    assert all((styles == place).sum() >= 20 for place in known)
    digits = Gan.load("minicanvas/gan-digits")
    assert digits.pictures(digits.latents(2, "test_embedded")).shape == (2, 1, 16, 16)


def test_the_gans_take_at_most_6_megabytes_together():
    folders = [path.parent for path in resources.EMBEDDED.glob("*/gan.json")]
    sizes = [p.stat().st_size for folder in folders for p in folder.rglob("*") if p.is_file()]
    assert len(folders) >= 3 and sum(sizes) <= 6e6
