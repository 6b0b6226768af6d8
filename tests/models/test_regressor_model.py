"""Regressors: built by name, a function of the seed, written and read, listened to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mu_vision.errors import UsageError
from mu_vision.models.regressor import Regressor, allcnn


def test_the_papers_allcnn_has_its_widths():
    network = allcnn()
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [96, 96] + [192] * 6
    x = torch.zeros(2, 3, 32, 32)
    with torch.no_grad():
        shapes = [x.shape for k in range(8) if (x := network[k](x)) is not None]
    assert [s[2] for s in shapes] == [32, 32, 16, 16, 16, 8, 8, 8]
    assert network[8:](x).shape == (2, 1)


@pytest.mark.parametrize(
    ("architecture", "shape", "blocks"),
    [
        ("small_allcnn", (3, 32, 32), 8),
        ("small_cnn", (1, 8, 8), 3),
        ("mlp", (10,), 2),
        ("pair_lstm", (5, 2, 10), 4),
        ("test_resnet", (3, 64, 64), 5),
        ("test_vit", (3, 160, 160), 6),
    ],
)
def test_networks_are_built_saved_and_listened_to(architecture, shape, blocks, tmp_path):
    moments = ([0.5] * shape[0], [2.0] * shape[0])
    model = Regressor.build(architecture, shape[0], 3, moments, len(shape) - 1)
    x = torch.randn(4, *shape)
    assert model.predict(x).shape == (4,)
    torch.testing.assert_close(model.predict(x, batch=1), model.predict(x), atol=1e-4, rtol=1e-4)
    loaded = Regressor.load(model.save(tmp_path / "model"))
    assert loaded.fingerprint() == model.fingerprint()
    torch.testing.assert_close(loaded.predict(x), model.predict(x))
    again = Regressor.build(architecture, shape[0], 3, moments, len(shape) - 1)
    assert again.fingerprint() == model.fingerprint()
    assert Regressor.build(architecture, shape[0], 4).fingerprint() != model.fingerprint()
    layers = model.check_layers(())
    with model.listening(layers) as heard:
        model.network(x)
    assert set(heard) == set(layers) and len(layers) == blocks
    assert all(len(out) == 4 for out in heard.values())
    assert not any(m._forward_hooks for m in model.network.modules())
    fresh = model.clone().reset(seed=1)
    assert fresh.fingerprint() != model.fingerprint()


def test_the_head_starts_at_the_mean_of_the_targets():
    model = Regressor.build("mlp", 4).centre(torch.tensor([1.0, 2.0, 6.0]))
    assert float(model.network.get_submodule(model.layers()[-1]).bias) == 3.0


def test_samples_of_another_shape_are_refused():
    with pytest.raises(
        UsageError, match=r"mlp cannot read the samples of shapes, which are \[6\]: "
    ):
        Regressor.build("mlp", 4).check_reads("shapes", torch.zeros(3, 6))
    two = Regressor(nn.Linear(6, 2), name="two")
    with pytest.raises(UsageError, match=r"two gives \[1, 2\] for one sample of shapes, not one"):
        two.check_reads("shapes", torch.zeros(3, 6))


def test_unknown_names_and_other_folders_are_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"There is no regressor 'alcnn'\. Known: allcnn, small_allcnn"
    ):
        Regressor.build("alcnn")
    with pytest.raises(
        UsageError, match=r"is no regressor folder: regressor.json and model.safetensors"
    ):
        Regressor.load(tmp_path)
    own = Regressor(nn.Linear(2, 1), name="mine")
    with pytest.raises(UsageError, match=r"only models that Regressor\.build made can be saved"):
        own.save(tmp_path / "model")
