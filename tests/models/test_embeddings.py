"""Text as embeddings, pictures as latents, and sampling from the middle."""

from __future__ import annotations

import numpy as np
import pytest
import scenes
import torch

from mu_vision import load_card, load_model
from mu_vision.data import minicanvas
from mu_vision.errors import UsageError
from mu_vision.models import maths


def noise(model, n=2, seed=0):
    return torch.randn(n, *model.latent_shape, generator=torch.Generator().manual_seed(seed))


def test_the_embeddings_of_a_prompts_own_tokens_give_its_states(sd):
    prompts = ["neon style", "", "a cat " * 7]
    ids = torch.tensor([sd.tokens(prompt).ids for prompt in prompts])
    states = sd.encode_embeddings(sd.vocabulary[ids]).states
    assert torch.allclose(states, sd.encode_prompt(prompts).states, atol=1e-5)
    # the look-up is as it was
    assert not sd.pipeline.text_encoder.get_input_embeddings()._forward_hooks
    assert torch.equal(
        sd.encode_prompt_with_grad(prompts[:1]).states, sd._encode(prompts[:1]).states
    )


def test_a_prefix_of_tokens_equals_the_text_with_these_tokens(sd):
    prefix, prompt = sd.tokens("neon"), sd.tokens("cat")
    own = list(prefix.ids[1 : prefix.count - 1])
    ids = [prompt.ids[0], *own, *prompt.ids[1 : len(prompt.ids) - len(own)]]
    inserted = sd.insert(["cat"], sd.vocabulary.detach()[torch.tensor([own])])
    assert torch.equal(inserted, sd.vocabulary.detach()[torch.tensor([ids])])
    typed = sd.encode_prompt(["neon cat"])
    assert sd.tokens("neon cat").ids == tuple(ids)
    assert torch.allclose(sd.encode_embeddings(inserted).states, typed.states, atol=1e-5)


def test_insertion_keeps_length_begin_and_prompt(sd):
    prefix = torch.full((2, 3, sd.vocabulary.shape[1]), 7.0)
    plain = [sd.vocabulary.detach()[torch.tensor(sd.tokens(p).ids)] for p in ("a cat", "neon")]
    inserted = sd.insert(["a cat", "neon"], prefix)
    for row, own in zip(inserted, plain, strict=True):
        assert row.shape == own.shape
        assert torch.equal(row[0], own[0])
        assert (row[1:4] == 7).all()
        assert torch.equal(row[4:], own[1:-3])


def test_what_does_not_fit_is_refused(sd):
    length = len(sd.tokens("").ids)
    assert sd.check_room("x" * (length - 4), 2).count == length - 2
    for prompt, k in (("x" * (length - 4), 3), ("x" * 200, 1), ("", length - 1)):
        with pytest.raises(
            UsageError, match=f"{k} more do not fit: the text encoder reads {length}"
        ):
            sd.check_room(prompt, k)
    with pytest.raises(UsageError, match="more do not fit"):
        sd.insert(["x" * (length - 4)], torch.zeros(1, 3, sd.vocabulary.shape[1]))


def test_gradients_flow_to_embeddings_and_weights(sd):
    twin = sd.clone(["text_encoder.final_layer_norm.weight"])
    e = sd.vocabulary.detach()[torch.tensor([sd.tokens("cat").ids])].requires_grad_(True)
    twin.encode_embeddings(e).states.square().sum().backward()
    assert e.grad.abs().sum() > 0
    parameters = twin.named_parameters()
    assert parameters["text_encoder.final_layer_norm.weight"].grad.abs().sum() > 0
    assert twin.vocabulary.grad is None


def test_two_text_encoders_have_no_one_table(sdxl):
    with pytest.raises(UsageError, match="two text encoders; attacks on token embeddings are for"):
        _ = sdxl.vocabulary


def test_sampling_from_the_top_is_sampling(sd):
    text, x = sd.encode_prompt(["neon", "a cat"]), noise(sd)
    assert torch.equal(sd.sample(text, x, 5, 2.0, skip=0), sd.sample(text, x, 5, 2.0))
    assert torch.equal(sd.sample(text, x, 5, 2.0, skip=5), x)


def test_skipped_steps_are_the_noisy_ones(sd):
    text, x = sd.encode_prompt(["neon", "a cat"]), noise(sd)
    whole = sd.sample(text, x, 5, 2.0)
    for t in sd.timesteps(5)[:2]:
        eps = sd.guided_noise(x, t, text, sd.null_text(), 2.0)
        x = maths.ddim_step(x, eps, sd.alphas_cumprod[t], sd.level_after(t, 5))
    seen = []
    rest = sd.sample(text, x, 5, 2.0, skip=2, progress=lambda done, of: seen.append((done, of)))
    assert torch.equal(rest, whole)
    assert seen == [(3, 5), (4, 5), (5, 5)]


def test_near_the_end_a_noised_picture_comes_back(sd):
    x_0 = noise(sd)
    t = sd.timesteps(200)[-1]
    x_t = maths.add_noise(x_0, noise(sd, seed=1), sd.alphas_cumprod[t])
    back = sd.sample(sd.encode_prompt(["neon", "a cat"]), x_t, 200, 1.0, skip=199)
    assert (back - x_0).square().mean().sqrt() < 0.1


def test_encoded_pictures_are_the_posterior_mean_at_the_networks_size(sd):
    pixels = scenes.pixels(3)
    vae = sd.pipeline.vae
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(x).latent_dist.mean * vae.config.scaling_factor
    found = sd.encode_pictures(pixels)
    assert found.shape == (3, *sd.latent_shape)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(sd.encode_pictures(pixels, batch=1), found, atol=1e-5)
    large = pixels.repeat(2, 1).repeat(2, 2)
    assert torch.allclose(sd.encode_pictures(large), found, atol=0.3)


def test_the_original_explains_a_picture_best_by_its_own_prompt():
    """The diffusion classifier that the attacks rest on, averaged over pictures and noise."""
    model, card = load_model("minicanvas/sd", device="cpu"), load_card("minicanvas")
    pictures = minicanvas.load(range(1200, 1201))
    rows = [k for k in range(len(pictures.pixels)) if pictures.styles[k] == pictures.objects[k]][:4]
    assert len(rows) == 4
    own = [
        card.prompt(card.object_names[pictures.objects[k]], card.style_names[pictures.styles[k]])
        for k in rows
    ]
    x_0 = model.encode_pictures(pictures.pixels[rows])
    # the autoencoder gives the pictures back
    assert np.abs(model.decode(x_0).astype(int) - pictures.pixels[rows]).mean() < 25
    t = torch.tensor([300, 500, 700]).repeat_interleave(4)
    eps = noise(model, 12)
    x = maths.add_noise(x_0.repeat(3, 1, 1, 1), eps, model.alphas_cumprod[t])
    errors = []
    for turn in range(3):
        texts = model.encode_prompt([own[(k + turn) % 4] for k in range(4)])
        with torch.no_grad():
            found = model.predict_noise(x, t, texts[list(range(4)) * 3])
        errors.append((found - eps).square().mean().item())
    assert errors[0] < 0.97 * min(errors[1:])
