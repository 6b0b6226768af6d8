"""Classifiers: build, copy, reset, features, files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mu_vision.errors import UsageError
from mu_vision.models.classifier import Classifier
from mu_vision.models.predictor import Normalize

CLASSES = ("cat", "dog", "fish")
X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
RGB = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small(**settings) -> Classifier:
    return Classifier.build("small_cnn", CLASSES, **{"channels": 1, **settings})


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in model.network.state_dict().items()}


def differ(first, second) -> set[str]:
    return {name for name in first if not torch.equal(first[name], second[name])}


def test_weights_are_a_function_of_the_seed_and_leave_the_global_one_alone():
    state = torch.random.get_rng_state()
    first, again, other = small(seed=1), small(seed=1), small(seed=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert not first.network.training
    assert not any(p.requires_grad for p in first.network.parameters())


@pytest.mark.parametrize(
    ("architecture", "x", "width"),
    [
        ("small_cnn", X, 256),
        ("resnet18_cifar", RGB, 512),
        ("test_vit", torch.rand(2, 1, 160, 160), 64),
        ("torchvision/shufflenet_v2_x0_5", RGB, 1024),
    ],
)
def test_every_family_of_names_builds_and_is_saved(architecture, x, width, tmp_path):
    model = Classifier.build(architecture, CLASSES, x.shape[1])
    logits = model.logits(x)
    assert logits.shape == (len(x), 3) and logits.dtype == torch.float32
    assert model.features(x).shape == (len(x), width)
    again = Classifier.load(model.save(tmp_path / "model"))
    assert again.fingerprint() == model.fingerprint()
    assert torch.equal(again.logits(x), logits)


@pytest.mark.parametrize(
    ("architecture", "channels", "message"),
    [
        (
            "resnet18_cifra", 3,
            r"There is no classifier 'resnet18_cifra'\. Known: small_cnn, resnet18_cifar,"
            r" torchvision/NAME, or a name of timm \(timm\.list_models\(\)\)\.",
        ),
        (
            "torchvision/resnet19", 3,
            r"torchvision has no classifier 'resnet19'; see torchvision\.models\.list_models",
        ),
        ("torchvision/fasterrcnn_resnet50_fpn", 3, r"has no classifier 'fasterrcnn_resnet50_fpn'"),
        (
            "torchvision/resnet18", 1,
            r"torchvision/resnet18 takes pictures of 3 channels, and these have 1; take small_cnn,",
        ),
    ],
)  # fmt: skip
def test_unknown_architectures_are_refused(architecture, channels, message):
    with pytest.raises(UsageError, match=message):
        Classifier.build(architecture, CLASSES, channels)


def test_normalisation_is_a_layer_of_the_network(tmp_path):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    plain = Classifier.build("small_cnn", CLASSES, 3)
    model = Classifier.build("small_cnn", CLASSES, 3, normalize=(mean, std))
    shown = (RGB - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(model.network[0](RGB), shown)
    torch.testing.assert_close(model.logits(RGB), plain.logits(shown))
    assert model.layers() == ["1.0", "1.4", "1.9"]
    again = Classifier.load(model.save(tmp_path / "model"))
    assert again.fingerprint() == model.fingerprint()
    assert torch.equal(again.logits(RGB), model.logits(RGB))
    assert model.reset(seed=4).network[0].std.flatten().tolist() == [0.5, 0.25, 2.0]


def test_a_saved_classifier_says_the_same_and_keeps_what_it_was_told(tmp_path):
    model = small(seed=3)
    model.network.train()(X)  # running statistics are part of it
    model.freeze()
    folder = model.save(tmp_path / "animals", {"data": "drawn"})
    again = Classifier.load(folder)
    assert torch.equal(again.logits(X), model.logits(X))
    assert again.fingerprint() == model.fingerprint()
    assert (again.classes, again.name, again.source) == (CLASSES, "animals", str(folder))
    assert again.architecture == "small_cnn" and not again.network.training
    facts = json.loads((folder / "classifier.json").read_text())
    assert facts["data"] == "drawn" and facts["channels"] == 1 and facts["normalize"] is None
    again.save(tmp_path / "animals")
    assert Classifier.load(folder).fingerprint() == model.fingerprint()


def test_a_saved_mask_is_loaded_and_applied(tmp_path):
    model = small()
    mask = torch.rand(model.network[4].weight.shape) > 0.5
    model.mask = {"network.4.weight": mask}
    model.apply_mask()
    again = Classifier.load(model.save(tmp_path / "sparse"))
    assert again.mask["network.4.weight"].dtype == torch.bool
    assert torch.equal(again.mask["network.4.weight"], mask)
    assert again.fingerprint() == model.fingerprint()
    twin = again.clone()
    with torch.no_grad():
        twin.network[4].weight.fill_(1.0)
    twin.apply_mask()
    assert torch.equal(twin.network[4].weight != 0, mask)
    assert not (again.reset(seed=5).network[4].weight[~mask] != 0).any()
    twin.mask.clear()
    assert again.mask


def test_a_network_without_a_name_cannot_be_saved(tmp_path):
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), CLASSES, name="mine")
    with pytest.raises(UsageError, match=r"mine was made from a network without a name; only"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def spoil_facts(folder, **changes):
    facts = json.loads((folder / "classifier.json").read_text())
    (folder / "classifier.json").write_text(json.dumps({**facts, **changes}))


def test_a_folder_of_other_classes_than_its_weights_is_refused(tmp_path):
    folder = small().save(tmp_path / "model")
    spoil_facts(folder, classes=["cat", "dog"])
    with pytest.raises(
        UsageError,
        match=r"model\.safetensors does not fit small_cnn with 2 classes: 9\.bias is \(3,\) there"
        r" and \(2,\) in the network\.",
    ):
        Classifier.load(folder)


def test_weights_that_are_missing_or_too_many_are_told(tmp_path):
    folder = small().save(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in weights.items() if n != "9.bias"}, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"9\.bias is None there and \(3,\) in the network"):
        Classifier.load(folder)
    save_file({**weights, "odd": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"odd is \(2,\) there and None in the network"):
        Classifier.load(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"architecture": [], "classes": 3}'])
def test_a_broken_description_is_told(text, tmp_path):
    folder = small().save(tmp_path / "model")
    (folder / "classifier.json").write_text(text)
    with pytest.raises(UsageError, match=r"model cannot be read \(.*\); write it again\."):
        Classifier.load(folder)


def test_broken_weights_and_missing_files_are_told(tmp_path):
    folder = small().save(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"model cannot be read \(.*\); write it again\."):
        Classifier.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UsageError,
        match=r"model is no classifier folder: classifier\.json and model\.safetensors must be",
    ):
        Classifier.load(folder)
    spoil_facts(small().save(folder), architecture="gone_net")
    with pytest.raises(UsageError, match=r"There is no classifier 'gone_net'"):
        Classifier.load(folder)


def test_a_clone_shares_nothing_that_train_mode_moves():
    model = small()
    before = tensors(model)
    twin = model.clone(["network.9.weight"])
    twin.network.train()(X)
    assert not differ(before, tensors(model)) and not model.network.training
    assert {"1.running_mean", "5.running_var"} <= differ(before, tensors(twin))
    mine, its = model.named_parameters(), twin.named_parameters()
    shared = {name for name in mine if mine[name].data_ptr() == its[name].data_ptr()}
    assert shared == set(mine) - {"network.9.weight"}
    assert [name for name, p in its.items() if p.requires_grad] == ["network.9.weight"]
    buffers = dict(model.network.named_buffers())
    assert all(b.data_ptr() != buffers[name].data_ptr() for name, b in twin.network.named_buffers())
    whole = model.clone().named_parameters()
    assert all(p.requires_grad and p.data_ptr() != mine[n].data_ptr() for n, p in whole.items())
    with pytest.raises(KeyError, match=r"no tensor 'network\.8\.weight' in small_cnn"):
        model.clone(["network.8.weight"])


def test_features_are_what_the_head_reads_and_logits_do_not_depend_on_the_batch():
    model = small()
    features = model.features(X)
    assert features.shape == (5, 256)
    torch.testing.assert_close(model.network[9](features), model.logits(X))
    torch.testing.assert_close(model.features(X, batch=2), features)
    torch.testing.assert_close(model.logits(X, batch=2), model.logits(X))
    assert not model.network[9]._forward_pre_hooks


def test_looking_leaves_the_mode_and_the_statistics_as_they_were():
    model = small()
    model.network.train()
    before = tensors(model)
    model.logits(X)
    model.features(X)
    assert model.network.training and not differ(before, tensors(model))


def test_layers_are_convolutions_and_linear_layers_in_order():
    assert small().layers() == ["0", "4", "9"]
    assert Classifier.build("resnet18_cifar", CLASSES).layers()[-1] == "fc"


@pytest.mark.parametrize(
    ("architecture", "channels"), [("small_cnn", 1), ("resnet18_cifar", 3), ("test_vit", 1)]
)
def test_a_reset_network_keeps_nothing(architecture, channels):
    """Tokens, positions and running statistics too: what was there before makes no difference."""
    one = Classifier.build(architecture, CLASSES, channels, seed=1)
    other = one.clone().freeze()
    with torch.no_grad():
        for tensor in other.network.state_dict().values():
            tensor.add_(1)
    assert not differ(tensors(one.reset(seed=4)), tensors(other.reset(seed=4)))
    assert differ(tensors(one.reset(seed=4)), tensors(other.reset(seed=5)))
    untrained = Classifier.build(architecture, CLASSES, channels, seed=2)
    reset = one.named_parameters()
    for name, built in untrained.named_parameters().items():
        if built.numel() > 100:  # drawn as a network that was built
            assert float(reset[name].std()) == pytest.approx(float(built.std()), rel=0.3), name


def test_chosen_layers_are_reset_and_no_other():
    model = small()
    before = tensors(model)
    model.reset(["9", "5"], seed=1)
    assert differ(before, tensors(model)) == {"9.weight", "9.bias"}
    model.network.train()(X)
    moved = tensors(model)
    model.reset(["5"], seed=1)
    assert {"5.running_mean", "5.running_var"} <= differ(moved, tensors(model))
    assert "1.running_mean" not in differ(moved, tensors(model))


def test_a_network_of_ones_own_is_reset_or_refused_if_a_part_cannot_be():
    own = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), CLASSES)
    before = tensors(own)
    assert differ(before, tensors(own.reset(seed=1))) == {"1.weight", "1.bias"}
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    odd = Classifier(nn.Sequential(layer, nn.Linear(8, 3)), CLASSES, name="mine")
    before = tensors(odd)
    with pytest.raises(
        UsageError,
        match=r"mine cannot be given new weights: its module 0\.self_attn \(MultiheadAttention\) has"
        r" no reset_parameters\(\), and there is no architecture to build it from\.",
    ):
        odd.reset()
    assert not differ(before, tensors(odd))


def test_normalize_needs_no_gradient_and_moves_with_the_network():
    layer = Normalize((0.5,), (2.0,))
    assert not list(layer.parameters()) and layer(torch.full((1, 1, 1, 1), 2.5)).item() == 1.0
    assert "Classifier('small_cnn', 3 classes)" == repr(small())
