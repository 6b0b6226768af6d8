"""AdvUnlearn: its losses at the start, its special cases, what trains and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.loop import Objective
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.diffusion.advunlearn import AdvUnlearn, AdvUnlearnObjective
from mu_vision.unlearn.diffusion.esd import ESD
from mu_vision.unlearn.diffusion.selectors import select_text

NEON = ConceptRequest(
    kind="style", name="neon", prompts=("neon style",), anchor="photo style",
    keep=("a cat", "a tree", "mosaic"),
)  # fmt: skip
TRIAL = {
    "sampler_steps": 4, "steps": 3, "lr": 1e-3, "pool": 8, "retain_pool": 6, "retain_batch": 2,
    "clean_steps": 0, "attack_steps": 2, "trajectories": 2,
}  # fmt: skip


def settings(**changes) -> AdvUnlearn:
    return AdvUnlearn(**{**TRIAL, **changes})


def objective(model, requests=(NEON,), **changes) -> AdvUnlearnObjective:
    made = AdvUnlearnObjective(settings(**changes), model, requests)
    made.prepare(torch.device("cpu"))
    return made


def losses(made: AdvUnlearnObjective, step: int = 0) -> dict[str, torch.Tensor]:
    with seeding.seeded("test", step):
        return made.loss(step)


def shift(model, names, size=0.05) -> None:
    """Move a student off the teacher."""
    with torch.no_grad(), seeding.seeded("shift"):
        for name in names:
            parameter = model.named_parameters()[name]
            parameter.add_(size * torch.randn_like(parameter))


class TextESD(ESD):
    """ESD on the tensors of AdvUnlearn; the published ``text`` variant has the embeddings too."""

    def trained(self, model):
        return select_text(model)


def test_without_attack_and_retain_it_is_esd_bit_for_bit(sd):
    TextESD.name = "text-esd"
    common = {"sampler_steps": 4, "steps": 4, "lr": 1e-3, "pool": 8, "batch": 2, "seed": 3}
    plain = TextESD(**common, variant="text", rollout="teacher").unlearn(sd, NEON)
    ours = AdvUnlearn(**common, attack="none", gamma=0).unlearn(sd, NEON)
    # a clean phase that never ends is the same thing
    clean = AdvUnlearn(**common, clean_steps=4, gamma=0).unlearn(sd, NEON)
    assert ours.trained == plain.trained and ours.report == plain.report
    for name, tensor in plain.model.named_parameters().items():
        assert torch.equal(tensor, ours.model.named_parameters()[name]), name
        assert torch.equal(tensor, clean.model.named_parameters()[name]), name


@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_the_first_esd_loss_has_its_closed_form(sd, eta):
    made = objective(sd, attack="none", eta=eta, batch=4)
    with seeding.seeded("test", 0):
        state = made._draw()
    d = sd.predict_noise(state["x"], state["t"], sd.encode_prompt(["neon style"]))
    d = d - sd.predict_noise(state["x"], state["t"], sd.null_text())
    found = losses(objective(sd, attack="none", eta=eta, batch=4))["esd_loss"]
    assert found.item() == pytest.approx((1 + eta) ** 2 * d.square().mean().item(), rel=2e-4)


def test_with_eta_minus_one_the_target_is_e_c_and_the_loss_zero(sd):
    chosen = settings(attack="none", gamma=0).model_copy(update={"eta": -1.0})
    made = AdvUnlearnObjective(chosen, sd, (NEON,))
    made.prepare(torch.device("cpu"))
    assert losses(made)["esd_loss"].item() == pytest.approx(0, abs=1e-10)
    torch.testing.assert_close(made.pool["y"], made.pool["e_0"] + made.pool["d"])


def test_the_retain_loss_and_its_gradient_are_zero_at_the_start(sd):
    made = objective(sd, attack="none", gamma=2.0, retain_batch=4)
    loss = losses(made)["retain_loss"]
    assert loss.item() == pytest.approx(0, abs=1e-10)
    slopes = torch.autograd.grad(loss, list(made.parameters().values()))
    assert max(slope.abs().max().item() for slope in slopes) < 1e-4
    shift(made.student, made.names)
    loss = losses(made)["retain_loss"]
    assert loss > 1e-4
    # gamma is a factor of the mean squared error on the drawn states
    twice = objective(sd, attack="none", gamma=4.0, retain_batch=4)
    shift(twice.student, twice.names)
    assert losses(twice)["retain_loss"].item() == pytest.approx(2 * loss.item(), rel=1e-5)


def test_the_losses_are_those_of_separate_passes(sd):
    """Both student branches go through the network as one batch."""
    made = objective(sd, batch=3, gamma=0.5)
    shift(made.student, made.names)
    drawn, inner = {}, made.retain.draw
    made.retain.draw = lambda n: drawn.setdefault("kept", inner(n))
    found = losses(made)
    with seeding.seeded("test", 0):
        state = made._draw()
    s, kept = made.student, drawn["kept"]
    with torch.no_grad():
        text = s.encode_embeddings(s.insert(["neon style"] * 3, made.delta.expand(3, -1, -1)))
        esd = (s.predict_noise(state["x"], state["t"], text) - state["y"]).square().mean()
        text = s.encode_prompt(kept["prompts"])
        retain = (s.predict_noise(kept["x"], kept["t"], text) - kept["eps"]).square().mean()
    assert found["esd_loss"].item() == pytest.approx(esd.item(), rel=1e-4)
    assert found["retain_loss"].item() == pytest.approx(0.5 * retain.item(), rel=1e-4)
    assert set(found) == {"esd_loss", "retain_loss", "attack_error"}


def golden(layers: int) -> list[str]:
    text = (Path(__file__).parent / "golden_sd.txt").read_text().split()
    names = [name for name in text if name.startswith("text_encoder.") and "embeddings" not in name]
    if not layers:
        return names
    return [
        n
        for n in names
        if n.split(".")[1:3] == ["encoder", "layers"] and int(n.split(".")[3]) < layers
    ]


@pytest.mark.parametrize(("layers", "count"), [(1, 16), (2, 32), (0, 34)])
def test_trained_names_are_the_golden_list(sd, layers, count):
    assert settings(layers=layers).trained(sd) == select_text(sd, layers) == golden(layers)
    assert len(golden(layers)) == count


def test_layers_of_both_encoders_and_never_more_than_there_are(sd, sdxl):
    names = select_text(sdxl, 1)
    assert {name.split(".")[0] for name in names} == {"text_encoder", "text_encoder_2"}
    assert not any("text_projection" in name or "embeddings" in name for name in select_text(sdxl))
    with pytest.raises(
        UsageError, match=r"layers=3, but the text encoder of .* has 2 layers; give 1"
    ):
        settings(layers=3).trained(sd)
    with pytest.raises(UsageError, match=r"layers=1 chooses layers .* variant=x trains the U-Net"):
        settings(layers=1, variant="x").trained(sd)


def test_the_published_number_of_parameters():
    """CLIP ViT-L/14's text encoder: 12 layers and the final norm, 85,056,000 numbers."""
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, projection_dim=768,
        num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77,
    )  # fmt: skip
    with torch.device("meta"):
        encoder = CLIPTextModel(config)

    class Big:
        name = "big"

        def named_parameters(self):
            return {f"text_encoder.{n}": p for n, p in encoder.named_parameters()}

    sizes = {n: p.numel() for n, p in Big().named_parameters().items()}
    assert sum(sizes[name] for name in select_text(Big())) == 85_056_000
    for layers in range(1, 13):
        names = select_text(Big(), layers)
        assert sum(sizes[name] for name in names) == layers * 7_087_872
        # "layers.1" is no prefix of "layers.10" here
        assert {n.split(".layers.")[1].split(".")[0] for n in names} == {
            str(k) for k in range(layers)
        }


@pytest.mark.parametrize(
    "changes", [{}, {"layers": 1}, {"variant": "x", "rollout": "student"}], ids=str
)
def test_only_what_was_selected_trains(sd, changes):
    done = settings(**changes).unlearn(sd, NEON)
    after, before = done.model.named_parameters(), sd.named_parameters()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # keys of self-attention have no slope with respect to their bias
    left = {name for name in set(done.trained) - moved if not name.endswith("k_proj.bias")}
    assert moved <= set(done.trained) and not left
    unet = "variant" in changes
    assert all(name.startswith("unet." if unet else "text_encoder.") for name in done.trained)
    assert (done.model.unet is sd.unet) == (not unet)
    assert (done.model.pipeline.text_encoder is sd.pipeline.text_encoder) == unet
    assert all(
        p.grad is None for model in (sd, done.model) for p in model.named_parameters().values()
    )


def test_a_step_leaves_no_gradient_behind(sd):
    made = objective(sd)
    found = losses(made)
    assert all(p.grad is None for p in made.student.named_parameters().values())  # the attack's
    sum(value for name, value in found.items() if name.endswith("_loss")).backward()
    selected = select_text(sd)
    for name, parameter in made.student.named_parameters().items():
        assert (parameter.grad is not None) == (name in selected), name
    assert made.student.vocabulary.grad is None and sd.vocabulary.grad is None
    assert not made.delta.requires_grad
    assert not any(tensor.requires_grad for tensor in made.pool.values())


def test_a_retain_term_of_great_weight_keeps_the_prompts(sd):
    def drift(gamma: float) -> float:
        done = settings(steps=20, lr=2e-3, gamma=gamma, retain_batch=6, attack_steps=1)
        model = done.unlearn(sd, NEON).model
        texts = list(NEON.keep)
        moved = model.encode_prompt(texts).states - sd.encode_prompt(texts).states
        eps = [m.predict_noise(X, 500, m.encode_prompt(texts)) for m in (sd, model)]
        return (eps[1] - eps[0]).square().mean().item(), moved.square().mean().item()

    X = seeding.noise((3, *sd.latent_shape), "drift")
    free, held = drift(0.0), drift(1000.0)
    assert held[0] < 0.35 * free[0]
    assert held[1] < free[1]


def test_another_network_only_sees_the_plug_in_through_its_states(sd, tmp_path):
    """The encoder that was trained, in a pipeline with another U-Net of the same text width."""
    import tiny

    other = DiffusionModel.load(tiny.tiny_sd(tmp_path / "other", seed=9), "cpu")
    other.pipeline.text_encoder = sd.pipeline.text_encoder
    done = settings(lr=1e-2).unlearn(sd, NEON)
    plugged = other.clone([])
    plugged.pipeline.text_encoder = done.model.pipeline.text_encoder
    noise = seeding.noise((1, *sd.latent_shape), "plug-in")
    with_old = other.sample(other.encode_prompt(["neon style"]), noise, 2)
    new = plugged.sample(plugged.encode_prompt(["neon style"]), noise, 2)
    assert not torch.equal(with_old, new)
    # with the trained states, the null text's too, the untouched pipeline draws the same
    text, null = (done.model.encode_prompt([t]) for t in ("neon style", ""))
    assert torch.equal(other.sample(text, noise, 2, negative=null), new)


@pytest.mark.parametrize(
    "changes", [{}, {"initial": "latest"}, {"variant": "x", "rollout": "student"}], ids=str
)
def test_a_stopped_run_goes_on_as_if_it_had_not(sd, tmp_path, monkeypatch, changes):
    method = settings(steps=4, checkpoint_every=1, log_every=1, **changes)
    whole = method.unlearn(sd, NEON, tmp_path / "whole")

    def stop(self, step):
        if step == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            method.unlearn(sd, NEON, tmp_path / "parts")
    resumed = method.unlearn(sd, NEON, tmp_path / "parts")
    assert whole.history == resumed.history
    assert all("attack_error" in row for row in whole.history)
    again = resumed.model.named_parameters()
    assert all(torch.equal(p, again[n]) for n, p in whole.model.named_parameters().items())
