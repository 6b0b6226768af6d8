from __future__ import annotations

import json
from unittest import mock

import numpy as np
import open_clip
import pytest
import timm
import tiny
import torch
from evaluation_fakes import OBJECTS, STYLES, protocol
from pytorch_fid import inception
from safetensors.torch import save_file, save_model

from mu_vision import resources
from mu_vision.errors import UsageError
from mu_vision.evaluation import marks
from mu_vision.evaluation.evaluate import evaluate
from mu_vision.evaluation.features import PytorchFid, UnlearnCanvasInception
from mu_vision.evaluation.judges import load_clip, load_judge
from mu_vision.evaluation.protocol import ClipFile, JudgeFile
from mu_vision.models.diffusion import DiffusionModel

ARGS = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)


def write_judge(folder, classes, accuracy=0.99, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model("resnet18", num_classes=len(classes), **ARGS).eval()
    folder.mkdir(parents=True)
    config = {
        "architecture": "resnet18", "num_classes": len(classes), "classes": list(classes),
        "input_size": [3, 16, 16], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        "model_args": ARGS, "card": {"test_accuracy": accuracy},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_model(network.half(), str(folder / "model.safetensors"))
    return network.float()


def write_clip(folder, seed=0):
    words = tiny.tokenizer()
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 8, "head_width": 4},
        "text_cfg": {
            "context_length": tiny.LENGTH, "vocab_size": len(words), "width": 8, "heads": 2,
            "layers": 1, "hf_tokenizer_name": "local",
        },
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = open_clip.CLIP(**config).eval()
    folder.mkdir(parents=True)
    about = {
        "model_cfg": config,
        "preprocess_cfg": {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    weights = {name: value.half() for name, value in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    words.save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder of random embedded models: judges and CLIP."""
    folder = tmp_path_factory.mktemp("zoo")
    write_judge(folder / "style-judge", STYLES)
    write_judge(folder / "object-judge", OBJECTS, seed=1)
    write_clip(folder / "clip")
    return folder


def test_judge_folder(zoo, monkeypatch):
    network = write_judge(zoo / "other", STYLES, accuracy=0.97, seed=5)
    judge = load_judge(zoo / "other")
    assert judge.classes == tuple(STYLES) and judge.test_accuracy == 0.97
    x = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = network(x).numpy()
    np.testing.assert_allclose(judge.predict(PICTURES), expected, atol=1e-4)
    assert judge.predict(PICTURES).dtype == np.float32
    big = PICTURES.repeat(2, 1).repeat(2, 2)
    assert judge.predict(big).shape == (5, 8)
    monkeypatch.setattr(resources, "EMBEDDED", zoo)
    assert load_judge("minicanvas/style-judge").name == "minicanvas/style-judge"
    with pytest.raises(UsageError, match="Did you mean 'minicanvas/style-judge'"):
        load_judge("minicanvas/style-juge")


def test_judge_faults(tmp_path, zoo):
    with pytest.raises(UsageError, match="no model folder"):
        load_judge(tmp_path / "none")
    folder = tmp_path / "judge"
    write_judge(folder, STYLES)
    config = json.loads((folder / "config.json").read_text())
    for change, said in (
        ({"classes": STYLES[:3]}, "8 outputs and 3 names"),
        ({"num_classes": 3, "classes": STYLES[:3]}, "do not fit the network"),
        ({"architecture": "resnet0"}, "cannot build the judge 'resnet0'"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UsageError, match=said):
            load_judge(folder)
    (folder / "config.json").write_text('{"num_classes": 8}')
    with pytest.raises(UsageError, match="lacks 'architecture'"):
        load_judge(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        load_judge(folder)
    (folder / "config.json").write_text(json.dumps(config))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"model\.safetensors is damaged"):
        load_judge(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="no weights file"):
        load_judge(folder)
    with pytest.raises(UsageError, match=r"that the judge .* knows called 'cow'"):
        load_judge(zoo / "object-judge").columns(["cow"], "object")


class Trap:
    """What a pickle could do."""

    def __reduce__(self):
        return print, ("a pickle ran",)


def test_published_judge_file(tmp_path, capsys):
    """A vision transformer in a .pth file under a key, as UnlearnCanvas publishes its judges."""
    size = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32}
    build = timm.create_model

    def small(name, **arguments):
        assert name == "vit_large_patch16_224.augreg_in21k" and arguments["pretrained"] is False
        return build("vit_tiny_patch16_224", **{**arguments, **size})

    path = tmp_path / "style50.pth"
    torch.save({"model_state_dict": small("vit_large_patch16_224.augreg_in21k", pretrained=False,
                                          num_classes=51).state_dict()}, path)  # fmt: skip
    spec = JudgeFile(
        path=str(path), architecture="vit_large_patch16_224.augreg_in21k", input_size=32,
        state_key="model_state_dict",
    )  # fmt: skip
    names = [f"c{k}" for k in range(51)]
    with mock.patch.object(timm, "create_model", small):
        judge = load_judge(spec, names)
        assert judge.predict(PICTURES).shape == (5, 51) and judge.test_accuracy is None
        with pytest.raises(UsageError, match="no entry 'weights'"):
            load_judge(spec.model_copy(update={"state_key": "weights"}), names)
        with pytest.raises(UsageError, match="names of its classes"):
            load_judge(spec)
        torch.save({"model_state_dict": Trap()}, path)
        with pytest.raises(UsageError, match="nothing in it was run"):
            load_judge(spec, names)
    assert "a pickle ran" not in capsys.readouterr().out


def test_clip_folder(zoo, tmp_path):
    network, clip = write_clip(tmp_path / "clip", seed=3), load_clip(tmp_path / "clip")
    x = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = network.encode_image(x).numpy()
    np.testing.assert_allclose(clip.image_features(PICTURES), expected, atol=1e-2)
    texts = ["A cat image in neon style.", "ein Kätzchen", ""]
    assert clip.text_features(texts).shape == (3, 8)
    one = clip.text_features(texts[:1])
    np.testing.assert_allclose(clip.text_features(texts)[:1], one, atol=1e-5)
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-2)
    words = tiny.tokenizer()(texts, padding="max_length", max_length=tiny.LENGTH).input_ids
    assert clip.tokenizer(texts).tolist() == words


def test_clip_without_a_tokenizer_name_still_uses_its_own(tmp_path):
    write_clip(tmp_path / "clip")
    path = tmp_path / "clip" / "open_clip_config.json"
    about = json.loads(path.read_text())
    del about["model_cfg"]["text_cfg"]["hf_tokenizer_name"]
    path.write_text(json.dumps(about))
    assert load_clip(tmp_path / "clip").text_features(["a cat"]).shape == (1, 8)


def test_clip_faults(tmp_path):
    with pytest.raises(UsageError, match="no model folder"):
        load_clip(tmp_path / "none")
    write_clip(tmp_path / "clip")
    weights = tmp_path / "clip" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_clip(tmp_path / "clip")
    weights.unlink()
    with pytest.raises(UsageError, match="no weights file"):
        load_clip(tmp_path / "clip")
    with pytest.raises(UsageError, match="no weights file"):
        load_clip(ClipFile(path=str(weights), architecture="ViT-L-14"))


def test_pytorch_fid_features_from_a_local_file(tmp_path):
    """Weights come from the given file, and nothing of pytorch-fid stays changed."""
    untouched = inception.load_state_dict_from_url
    with mock.patch.object(inception.torchvision.models.Inception3, "load_state_dict"), \
            mock.patch.object(inception, "load_state_dict_from_url"):  # fmt: skip
        network = inception.fid_inception_v3()
    path = tmp_path / "fid.pth"
    torch.save(network.state_dict(), path)
    extractor = PytorchFid(path)
    found = extractor.features(PICTURES[:2])
    assert found.shape == (2, 2048) and extractor.name == "fid"
    assert inception.load_state_dict_from_url is untouched
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="does not hold pytorch-fid's Inception weights"):
        PytorchFid(path)


def test_unlearncanvas_inception_is_prepared_as_its_script_does(tmp_path):
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    path = tmp_path / "torchvision.pth"
    torch.save(network.state_dict(), path)
    extractor = UnlearnCanvasInception(path)
    assert extractor.name == "fid_unlearncanvas"
    seen = []
    with mock.patch.object(extractor.network, "_transform_input", lambda x: seen.append(x) or x):
        found = extractor.features(PICTURES[:1])
    assert found.shape == (1, 2048) and seen[0].shape == (1, 3, 299, 299)
    assert seen[0].min() < -0.5 and seen[0].max() <= 1
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="does not hold torchvision's Inception weights"):
        UnlearnCanvasInception(path)


def test_from_pipeline_to_scorecard(zoo, sd_folder, monkeypatch, tmp_path):
    """The real loaders, a real pipeline, everything tiny and random."""
    monkeypatch.setattr(resources, "EMBEDDED", zoo)
    marks._bench.cache_clear()
    few = protocol(
        judges={"style": "minicanvas/style-judge", "object": "minicanvas/object-judge"},
        clip="minicanvas/clip", styles=("photo", "neon"), objects=("cat", "car"),
        minimum={"judge": 0.95, "original": 0.0}, guidance=2.0,
    )  # fmt: skip
    model = DiffusionModel.load(sd_folder, device="cpu")
    edited = model.clone(["unet.conv_in.weight"])
    with torch.no_grad():
        edited.named_parameters()["unet.conv_in.weight"].mul_(1.5)
    from evaluation_fakes import request

    card = evaluate(edited, few, request(), model, tmp_path, method="scaled")
    assert card["ua"].used == 4 and card["fid_clip"].details["reference_pictures"] == 2
    assert card["paired_pixel_change"].value > 0 and not card.flags["no_op"]
    assert 0 < card["changed_gb"].value < card["model_gb"].value
    same = evaluate(model.clone(["unet.conv_in.weight"]), few, request(), model, tmp_path)
    assert same.flags["no_op"] and same["paired_pixel_change"].value == 0
    marks._bench.cache_clear()
