"""Concept Ablation: its losses, what trains, and that it moves a prompt to its anchor."""

from __future__ import annotations

import pytest
import tiny
import torch

from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.diffusion import concept_ablation, resizing
from mu_vision.unlearn.diffusion.concept_ablation import (
    ConceptAblation,
    ConceptAblationObjective,
    overlapping,
    own_tokens,
)

NEON = ConceptRequest(
    kind="style", name="neon", anchor="photo style", prompts=("neon style", "a cat in neon style"),
    anchors=("photo style", "a cat in photo style"), plain=1, keep=("a cat", "mosaic"),
)  # fmt: skip
CAT = ConceptRequest(kind="object", name="cat", prompts=("cat", "a cat"), anchors=("dog", "a dog"))
TRIAL = {"steps": 3, "lr": 1e-3, "batch": 4, "pictures": 4, "sampler_steps": 2}


def objective(model, requests=(NEON,), **changes) -> ConceptAblationObjective:
    made = ConceptAblationObjective(ConceptAblation(**{**TRIAL, **changes}), model, requests)
    made.prepare(torch.device("cpu"))
    return made


def losses(made, step: int = 0) -> dict[str, torch.Tensor]:
    with seeding.seeded("test", step):
        return made.loss(step)


def gradients(made, name="ablation_loss") -> list[torch.Tensor]:
    return torch.autograd.grad(losses(made)[name], list(made.parameters().values()))


@pytest.mark.parametrize("which", ["sd", "sdxl"])
def test_the_first_loss_has_its_closed_form(which, request):
    model = request.getfixturevalue(which)
    made = objective(model)
    found = losses(made)
    with seeding.seeded("test", 0):
        state = made.pictures.noised(4, model.alphas_cumprod)
    eps = [
        model.predict_noise(state["x"], state["t"], model.encode_prompt(texts)[state["which"]])
        for texts in (list(NEON.prompts), list(NEON.anchors))
    ]
    assert set(found) == {"ablation_loss"}
    expected = (eps[0] - eps[1]).square().mean().item()
    assert found["ablation_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_a_prompt_that_reads_like_its_anchor_has_no_loss_by_the_model_and_the_usual_one_by_noise(
    sd,
):
    made = objective(sd)
    made.texts = made.texts[torch.tensor([2, 3, 2, 3])]
    assert losses(made)["ablation_loss"] == 0
    assert all(g.abs().max() == 0 for g in gradients(made))
    noisy = objective(sd, target="noise")
    noisy.texts = made.texts
    with seeding.seeded("test", 0):
        state = noisy.pictures.noised(4, sd.alphas_cumprod)
    eps = sd.predict_noise(state["x"], state["t"], sd.encode_prompt(NEON.anchors)[state["which"]])
    usual = (eps - state["eps"]).square().mean().item()
    assert losses(noisy)["ablation_loss"].item() == pytest.approx(usual, rel=1e-4)


def test_the_target_is_a_constant(sd):
    made = objective(sd)
    with seeding.seeded("test", 0):
        state = made._states()
    assert not state["y"].requires_grad
    made._states = lambda: state
    found = losses(made)["ablation_loss"]
    text = made.texts[state["which"]]
    expected = (made.student.predict_noise(state["x"], state["t"], text) - state["y"]).square()
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    assert all(p.grad is None for p in sd.named_parameters().values())


def test_both_teachers_agree_before_the_first_step_and_not_after_it(sd):
    own, frozen = objective(sd), objective(sd, teacher="frozen", states=4)
    state = {name: tensor.clone() for name, tensor in frozen.frozen.items()}
    text = own.texts[own.pairs + state["which"]]

    def target():
        with torch.no_grad():
            return own.student.predict_noise(state["x"], state["t"], text)

    torch.testing.assert_close(target(), state["y"], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for parameter in own.parameters().values():
            parameter.mul_(1.5)
    assert not torch.allclose(target(), state["y"], atol=1e-3)


def test_frozen_targets_are_computed_once(sd):
    made = objective(sd, teacher="frozen", states=6, steps=9)
    assert len(made.frozen["x"]) == len(made.frozen["y"]) == 6
    calls = []
    hook = sd.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    for step in range(3):
        losses(made, step)
    hook.remove()
    assert not calls
    assert len(objective(sd, teacher="frozen", steps=1).frozen["x"]) == 4


def test_the_regulariser_is_the_usual_loss_on_anchor_pictures(sd):
    made = objective(sd, reg="on", reg_weight=0.5)
    found = losses(made)
    with seeding.seeded("test", 0):
        made._states()
        kept = made.pictures.noised(4, sd.alphas_cumprod)
    eps = sd.predict_noise(kept["x"], kept["t"], sd.encode_prompt(NEON.anchors)[kept["which"]])
    expected = 0.5 * (eps - kept["eps"]).square().mean().item()
    assert found["reg_loss"].item() == pytest.approx(expected, rel=1e-4)
    alone = losses(objective(sd))["ablation_loss"].item()
    assert found["ablation_loss"].item() == pytest.approx(alone, rel=1e-4)


def test_the_regulariser_is_on_where_the_anchor_is_part_of_the_name(sd):
    grumpy = concept_request("concept", "grumpy cat", anchor="cat")
    assert overlapping(grumpy) and not overlapping(NEON)
    assert not overlapping(concept_request("concept", "grumpy cat"))
    assert objective(sd, (grumpy,)).regularised and objective(sd, (NEON, grumpy)).regularised
    assert not objective(sd, (grumpy,), reg="off").regularised
    assert not objective(sd, (NEON,)).regularised


@pytest.mark.parametrize("variant", ["x-strict", "x", "full"])
def test_only_the_variant_gets_gradients_and_the_start_token_none(sd, variant):
    made = objective(sd, variant=variant)
    losses(made)["ablation_loss"].backward()
    for name, parameter in made.student.named_parameters().items():
        assert (parameter.grad is not None) == (name in made.names), name
    made.texts = type(made.texts)(
        torch.cat([made.texts.states[:, :1], 0 * made.texts.states[:, 1:]], 1)
    )
    keys = [p for n, p in made.parameters().items() if ".attn2.to_k" in n or ".attn2.to_v" in n]
    assert len(keys) == 8
    with seeding.seeded("test", 0):
        state = made._states()
    made._states = lambda: {**state, "y": state["y"] + 1}  # out of reach: there is a slope
    for gradient in torch.autograd.grad(losses(made)["ablation_loss"], keys):
        assert gradient.abs().max() == 0


def test_no_hook_is_left_in_the_result(sd):
    done = ConceptAblation(**TRIAL).unlearn(sd, NEON)
    assert not any(module._forward_hooks for module in done.model.unet.modules())
    assert not any(module._forward_hooks for module in sd.unet.modules())


def test_the_embedding_variant_moves_the_rows_of_the_concepts_own_tokens(sd):
    settings = {**TRIAL, "variant": "embedding", "weight_decay": 0.1, "lr": 0.01}
    done = ConceptAblation(**settings).unlearn(sd, NEON)
    (name,) = done.trained
    before, after = (m.named_parameters()[name] for m in (sd, done.model))
    moved = (before != after).any(1).nonzero().flatten().tolist()
    assert moved == own_tokens(sd, NEON.prompts, NEON.anchors)
    words = {sd.pipeline.tokenizer.convert_ids_to_tokens(i).replace("</w>", "") for i in moved}
    assert words == {"n", "e"}, "a token a letter: those of neon that photo does not have"


def test_the_embedding_variant_says_what_it_cannot_do(sd, sdxl):
    with pytest.raises(UsageError, match="2 text encoders; the variant 'embedding' is for models"):
        ConceptAblation(**TRIAL, variant="embedding").unlearn(sdxl, NEON)
    with pytest.raises(UsageError, match=r"'ca' has none beside 'ca t'; give another anchor"):
        own_tokens(sd, ["ca"], ["ca t"])


@pytest.mark.parametrize("teacher", ["self", "frozen"])
def test_it_moves_the_concept_to_its_anchor(sd, teacher):
    x = seeding.noise((8, *sd.latent_shape), "test", 1)

    def apart(model):
        """The prediction under the concept from the original's under the anchor."""
        eps = model.predict_noise(x, 500, model.encode_prompt(["neon style"]))
        anchor = sd.predict_noise(x, 500, sd.encode_prompt(["photo style"]))
        return float((eps - anchor).square().mean())

    settings = {**TRIAL, "steps": 80, "lr": 3e-3, "batch": 8, "teacher": teacher}
    assert apart(ConceptAblation(**settings).unlearn(sd, NEON).model) < 0.4 * apart(sd)


def test_a_velocity_network_is_compared_in_noise(tmp_path):
    model = DiffusionModel.load(tiny.tiny_sd(tmp_path / "v", prediction_type="v_prediction"), "cpu")
    made = objective(model)
    with seeding.seeded("test", 0):
        state = made._states()
    eps = model.predict_noise(state["x"], state["t"], made.texts[state["which"]])
    expected = (eps - state["y"]).square().mean().item()
    assert losses(made)["ablation_loss"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "requests", [(NEON,), (concept_request("concept", "Van Gogh", anchor="painting"),)]
)
def test_several_sorts_of_concepts(sd, requests):
    done = ConceptAblation(**TRIAL, reg="on", precision="bf16").unlearn(sd, requests)
    assert {p.dtype for p in done.model.named_parameters().values()} == {torch.float32}


# Pictures at other sizes ---------------------------------------------------------------------


def test_pictures_are_resized_where_only_objects_are_erased(sd):
    assert objective(sd, (CAT,)).resized and not objective(sd, (NEON,)).resized
    assert not objective(sd, (CAT, NEON)).resized
    assert not objective(sd, (CAT,), augment="off").resized
    assert objective(sd, (NEON,), augment="on").resized


@pytest.mark.parametrize("told", ["none", "concept", "both"])
def test_prompts_say_how_large_a_resized_picture_is(sd, told, monkeypatch):
    made = objective(sd, (CAT,), size_words=told)
    seen, plain = [], resizing.Resizing.draw

    def draw(*parts):
        seen.append(plain(*parts))
        return seen[-1]

    monkeypatch.setattr(concept_ablation.Resizing, "draw", draw)
    with seeding.seeded("test"):
        state = made._noised(100)
    words = torch.cat([part.words for part in seen]).tolist()
    assert set(words) == {-1, 0, 1, 2, 3}
    assert torch.equal(state["mask"], torch.cat([part.mask(8) for part in seen]))
    for row, word in enumerate(words):
        text = "" if word < 0 else resizing.WORDS[word]
        which = int(state["which"][row])
        sides = (("c*", CAT.prompts, told != "none"), ("c", CAT.anchors, told == "both"))
        for side, prompts, worded in sides:
            found = made.prompts[int(state[side][row])]
            assert found == (text if worded else "") + prompts[which]


@pytest.mark.parametrize("teacher", ["self", "frozen"])
def test_the_loss_of_resized_pictures_counts_within_them_alone(sd, teacher):
    made = objective(sd, (CAT,), teacher=teacher, states=8)
    with seeding.seeded("test", 0):
        state = made._states()
    outside = state["mask"] == 0
    assert outside.any() and (state["mask"] == 1).any()
    texts = [[made.prompts[i] for i in state[side].tolist()] for side in ("c*", "c")]
    eps = [sd.predict_noise(state["x"], state["t"], sd.encode_prompt(text)) for text in texts]
    square = (eps[0] - eps[1]).square()
    expected = sum(row[:, m[0] == 1].mean() for row, m in zip(square, state["mask"])) / len(square)
    assert losses(made)["ablation_loss"].item() == pytest.approx(expected.item(), rel=1e-3)
    y = torch.where(outside, state["y"] + 5, state["y"])
    made._states = lambda: {**state, "y": y}
    assert losses(made)["ablation_loss"].item() == pytest.approx(expected.item(), rel=1e-3)
    made._states = lambda: {**state, "y": state["y"] + 5}
    assert losses(made)["ablation_loss"] > 1


def test_a_prompt_without_room_for_the_words_of_its_size_is_refused(sd):
    long = ConceptRequest(kind="object", name="cat", prompts=("cat" * 14,), anchor="dog")
    with pytest.raises(UsageError, match=r"With the words of its size, 'a far away catcat"):
        objective(sd, (long,))
    objective(sd, (long,), size_words="none")
    objective(sd, (long,), augment="off")


def test_a_model_of_labels_forgets_from_resized_pictures_too(label_model):
    cat = ConceptRequest(kind="object", name="cat", prompts=("cat",), anchor="boat")
    done = ConceptAblation(**TRIAL, variant="full", reg="on").unlearn(label_model, cat)
    assert done.report["changed_tensors"] > 0
    made = objective(label_model, (cat,), variant="full")
    assert made.resized
    state = made._noised(40)
    assert made.texts[state["c*"]].ids.tolist() == [1] * 40
    assert made.texts[state["c"]].ids.tolist() == [2] * 40
