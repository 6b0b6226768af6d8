"""GANs: latents to pictures, what noise and styles do, copies, files, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gans import TINY, tiny_gan
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from mu_vision.errors import UsageError
from mu_vision.models import stylegan2
from mu_vision.models.gan import CHUNK, Gan, GanConfig, to_uint8

BOTH = ["stylegan2", "dcgan"]


@pytest.mark.parametrize("architecture", BOTH)
def test_a_picture_is_a_function_of_its_latent_alone(architecture):
    gan = tiny_gan(architecture)
    z = gan.latents(10, "test")
    whole = gan.pictures(z)
    assert whole.shape == (10, 1, 8, 8) and whole.abs().max() <= 1
    torch.testing.assert_close(whole, gan.pictures(z, batch=3))
    torch.testing.assert_close(whole[4:5], gan.pictures(z[4:5]))
    assert not torch.allclose(whole[0], whole[1])
    assert torch.equal(z, gan.latents(10, "test")) and not torch.equal(z, gan.latents(10, "other"))


@pytest.mark.parametrize("architecture", BOTH)
def test_a_sheet_is_the_same_however_much_of_it_is_drawn(architecture):
    gan = tiny_gan(architecture)
    state = torch.random.get_rng_state()
    whole = gan.draw(CHUNK + 10, "sheet", 3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(whole[:7], gan.draw(7, "sheet", 3))
    assert torch.equal(whole[CHUNK:], gan.draw(10, "sheet", 3, start=CHUNK))
    assert not torch.equal(whole[:7], gan.draw(7, "sheet", 4))


@pytest.mark.parametrize("architecture", BOTH)
@pytest.mark.parametrize("sizes", [(8,), (8, 6), (8, 6, 4)])
def test_any_size_is_built(architecture, sizes):
    gan = tiny_gan(architecture, widths=sizes, critic_widths=sizes[::-1])
    x = gan.pictures(gan.latents(4, "test"))
    assert x.shape[-1] == gan.config.size == 4 * 2 ** (len(sizes) - 1)
    logits = gan.discriminator(x)
    assert logits.shape == (4,) and torch.isfinite(logits).all()


def test_scaling_a_demodulated_kernel_changes_nothing_but_the_distance():
    twin = tiny_gan().clone()
    z = twin.latents(4, "test")
    before = twin.pictures(z)
    weights = twin.generator.convs[1].conv.weight
    with torch.no_grad():
        weights *= 2
    torch.testing.assert_close(twin.pictures(z), before, atol=1e-4, rtol=0)
    assert (weights - tiny_gan().generator.convs[1].conv.weight).square().sum() > 1


def test_modulation_equals_a_kernel_of_its_own_for_every_sample():
    conv = stylegan2.ModulatedConv(3, 5, 3, 4)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    style = conv.modulation(w)
    for k in range(2):
        kernel = conv.weight * conv.scale * style[k][None, :, None, None]
        kernel = kernel * (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        alone = torch.nn.functional.conv2d(x[k : k + 1], kernel, padding=1)
        torch.testing.assert_close(conv(x, w)[k : k + 1], alone, atol=1e-5, rtol=1e-4)


def test_fresh_noise_counts_once_it_has_strength_and_kept_noise_stays():
    twin = tiny_gan().clone()
    z = twin.latents(2, "test")
    assert torch.equal(twin.generator(z, fresh=True), twin.generator(z))
    with torch.no_grad():
        twin.generator.first.strength.fill_(1.0)
    assert not torch.equal(twin.generator(z, fresh=True), twin.generator(z, fresh=True))
    assert torch.equal(twin.generator(z), twin.generator(z))


def test_two_styles_in_one_picture():
    gan = tiny_gan()
    w = gan.generator.map(gan.latents(2, "test"))
    assert w.shape == (2, gan.generator.layers, 6) and gan.generator.layers == 4
    mixed = torch.cat([w[:1, :2], w[1:, 2:]], 1)
    pictures = [gan.generator.draw(x) for x in (w[:1], w[1:], mixed)]
    assert not any(torch.allclose(pictures[2], other) for other in pictures[:2])


def test_the_deviation_is_that_of_the_group():
    x = torch.randn(8, 3, 2, 2)
    found = stylegan2.deviation(x)
    assert found.shape == (8, 1, 2, 2)
    for group in (x[:4], x[4:]):
        spread = (group.var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(stylegan2.deviation(group)[0, 0, 0, 0], spread)
    assert found[0, 0, 0, 0] != found[4, 0, 0, 0]
    assert torch.isfinite(stylegan2.deviation(x[:3])).all()
    assert float(stylegan2.deviation(x[:1]).abs().max()) < 1e-3


@pytest.mark.parametrize("architecture", BOTH)
def test_what_is_anchored_lies_in_convolutions_from_8_pixels_on(architecture):
    names = tiny_gan(architecture).generator.anchored()
    assert names and all(name.startswith("convs.") for name in names)
    assert "convs.0.conv.weight" in names or "convs.0.weight" in names


def test_a_copy_shares_what_does_not_train():
    gan = tiny_gan()
    twin = gan.clone(["generator.constant"])
    mine, theirs = twin.named_parameters(), gan.named_parameters()
    assert [n for n, p in mine.items() if p.requires_grad] == ["generator.constant"]
    shared = [n for n in mine if mine[n].data_ptr() == theirs[n].data_ptr()]
    assert set(shared) == set(mine) - {"generator.constant"}
    assert twin.generator.first.noise is gan.generator.first.noise
    with pytest.raises(KeyError, match=r"no tensor 'generator.nothing'"):
        gan.clone(["generator.nothing"])


@pytest.mark.parametrize("half", [False, True])
def test_what_was_saved_is_read_again(half, tmp_path):
    gan = tiny_gan(seed=3)
    gan.save(tmp_path / "gan", {"note": "a test"}, half)
    again = Gan.load(tmp_path / "gan")
    z = gan.latents(4, "test")
    assert again.config == gan.config
    assert (again.fingerprint() == gan.fingerprint()) != half
    torch.testing.assert_close(again.pictures(z), gan.pictures(z), atol=0.02 if half else 0, rtol=0)
    assert {p.dtype for p in again.named_parameters().values()} == {torch.float32}
    assert json.loads((tmp_path / "gan/gan.json").read_text())["note"] == "a test"


def test_folders_that_are_no_gan_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"There is no embedded GAN 'minicanvas/gam'"):
        Gan.load("minicanvas/gam")
    with pytest.raises(UsageError, match=r"is no GAN folder: gan.json and model.safetensors"):
        Gan.load(tmp_path)
    place = tiny_gan().save(tmp_path / "gan")
    (place / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"model.safetensors cannot be read"):
        Gan.load(place)
    tiny_gan().save(place)
    tensors = load_file(place / "model.safetensors")
    del tensors["generator.constant"]
    save_file(tensors, place / "model.safetensors")
    with pytest.raises(UsageError, match=r"of another architecture: constant is None there"):
        Gan.load(place)
    (place / "gan.json").write_text('{"config": {"width": [4]}}')
    with pytest.raises(UsageError, match=r"unknown key 'width'. Did you mean 'widths'"):
        Gan.load(place)
    (place / "gan.json").write_text("[]")
    with pytest.raises(UsageError, match="does not hold a description of a GAN"):
        Gan.load(place)
    (place / "gan.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        Gan.load(place)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValidationError):
        GanConfig(architecture="biggan")
    with pytest.raises(UsageError, match=r"widths has 2 entries and critic_widths 3"):
        Gan.build(GanConfig(**{**TINY, "critic_widths": (4, 4, 4)}))


def test_pictures_as_bytes():
    x = torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(1, 1, 2, 2)
    assert to_uint8(x)[0, :, :, 0].tolist() == [[0, 128], [255, 255]]
    assert to_uint8(x).shape == (1, 2, 2, 3) and to_uint8(x).dtype == np.uint8
    assert to_uint8(x.expand(-1, 3, -1, -1)).shape == (1, 2, 2, 3)
