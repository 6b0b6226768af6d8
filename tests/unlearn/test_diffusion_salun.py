"""SalUn on diffusion models: the mask, its losses, and weights outside the mask."""

from __future__ import annotations

import pytest
import torch

from mu_vision import registry, seeding
from mu_vision.errors import UsageError
from mu_vision.models import maths
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.diffusion.salun import SalUn, SalUnObjective

NEON = ConceptRequest(
    kind="style", name="neon", anchor="photo style", prompts=("neon style", "a cat in neon style"),
    anchors=("photo style", "a cat in photo style"), plain=1, keep=("a cat", "a tree", "mosaic"),
)  # fmt: skip
TRIAL = {"steps": 3, "lr": 1e-3, "batch": 4, "pictures": 6, "sampler_steps": 2}


def objective(model, requests=(NEON,), **changes) -> SalUnObjective:
    made = SalUnObjective(SalUn(**{**TRIAL, **changes}), model, requests)
    made.prepare(torch.device("cpu"))
    return made


def losses(made, step: int = 0) -> dict[str, torch.Tensor]:
    with seeding.seeded("test", step):
        return made.loss(step)


def mask_of(made) -> torch.Tensor:
    return torch.cat([m.flatten() for m in made.saliency.values()])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weights_outside_the_mask_stay_bit_for_bit(sd, optimizer):
    changes = {"density": 0.3, "optimizer": optimizer, "weight_decay": 0.1, "lr": 0.01}
    saliency = objective(sd, **changes).saliency
    done = SalUn(**{**TRIAL, **changes, "steps": 6}).unlearn(sd, NEON)
    before, after = sd.named_parameters(), done.model.named_parameters()
    moved = 0
    for name, mask in saliency.items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
        moved += int((after[name] != before[name])[mask].sum())
    assert moved > 0.9 * int(mask_of(objective(sd, **changes)).sum())


def test_a_model_of_labels_forgets_one_and_keeps_the_others(label_model):
    cat = concept_request("object", "cat", anchor="tree")
    changes = {"variant": "full", "density": 0.3}
    made = objective(label_model, (cat,), **changes)
    others = [name for name in label_model.classes if name != "cat"]
    assert made.prompts[2 * made.pairs :] == others
    done = SalUn(**{**TRIAL, **changes}).unlearn(label_model, cat)
    before, after = label_model.named_parameters(), done.model.named_parameters()
    for name, mask in made.saliency.items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
        assert not mask.any() or not torch.equal(after[name][mask], before[name][mask]), name


@pytest.mark.parametrize("density", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("variant", ["full", "x"])
def test_the_density_is_exact_over_the_tensors_that_train(sd, density, variant):
    made = objective(sd, density=density, variant=variant)
    mask = mask_of(made)
    assert int(mask.sum()) == int(density * len(mask))
    assert list(made.saliency) == SalUn(variant=variant).trained(sd)


def test_masks_are_nested(sd):
    few, many = (mask_of(objective(sd, density=d)) for d in (0.2, 0.6))
    assert (many | ~few).all()


def test_the_mask_is_of_the_largest_gradients_of_the_forget_set(sd):
    made = objective(sd, density=0.25, batch=6)
    with seeding.seeded("salun", 0):
        state = made.forget.at(torch.arange(6), sd.alphas_cumprod)
    twin = sd.clone(made.names)
    text = sd.encode_prompt([NEON.prompts[i] for i in made.forget.which.tolist()])
    loss = (twin.predict_noise(state["x"], state["t"], text) - state["eps"]).square().mean()
    parameters = [twin.named_parameters()[name] for name in made.names]
    size = torch.cat([g.abs().flatten() for g in torch.autograd.grad(loss, parameters)])
    mask = mask_of(made)
    assert size[mask].min() >= size[~mask].max() - 1e-5 * float(size.max())


def test_batches_of_unequal_size_do_not_change_the_gradient(sd):
    """Size weighting: 6 pictures as 4 + 2 give the gradient of 6 (each at its own noise)."""
    made = objective(sd, batch=4)
    noised = made.forget.at(torch.arange(6), sd.alphas_cumprod)
    seen = []

    def at(rows, abar):
        seen.append(len(rows))
        return {name: tensor[rows] for name, tensor in noised.items()}

    made.forget.at = at
    parts = made._gradients()
    made.settings = made.settings.model_copy(update={"batch": 6})
    whole = made._gradients()
    assert seen == [4, 2, 6]
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-6)


def test_reading_the_saliency_changes_nothing(sd):
    made = objective(sd)
    for name, parameter in made.parameters().items():
        assert torch.equal(parameter, sd.named_parameters()[name])
        assert parameter.grad is None


def test_the_first_losses_have_their_closed_forms(sd):
    made = objective(sd, alpha=0.3)
    found = losses(made)
    with seeding.seeded("test", 0):
        state = made.forget.noised(4, sd.alphas_cumprod)
        kept = made.kept.noised(4, sd.alphas_cumprod)

    def predict(state, texts):
        return sd.predict_noise(state["x"], state["t"], sd.encode_prompt(texts)[state["which"]])

    forget = (predict(state, NEON.prompts) - predict(state, NEON.anchors)).square().mean()
    retain = 0.3 * (predict(kept, NEON.keep) - kept["eps"]).square().mean()
    assert found["forget_loss"].item() == pytest.approx(forget.item(), rel=1e-4)
    assert found["retain_loss"].item() == pytest.approx(retain.item(), rel=1e-4)
    assert set(losses(objective(sd, alpha=0.0))) == {"forget_loss"}


def test_a_text_that_reads_like_its_target_has_no_loss_and_no_gradient(sd):
    made = objective(sd, alpha=0.0)
    made.texts = made.texts[torch.tensor([2, 3, 2, 3])]
    loss = losses(made)["forget_loss"]
    assert loss == 0
    assert all(
        g.abs().max() == 0 for g in torch.autograd.grad(loss, list(made.parameters().values()))
    )


def test_the_gradient_flows_through_the_concept_alone(sd):
    made = objective(sd, alpha=0.0)
    with seeding.seeded("test", 0):
        state = made._states()
    assert not state["y"].requires_grad
    made._states = lambda: state
    text = made.texts[state["which"]]
    parameters = list(made.parameters().values())
    constant = (
        (made.student.predict_noise(state["x"], state["t"], text) - state["y"]).square().mean()
    )
    for ours, theirs in zip(
        torch.autograd.grad(losses(made)["forget_loss"], parameters),
        torch.autograd.grad(constant, parameters),
    ):
        torch.testing.assert_close(ours, theirs)


def test_noise_levels_of_a_batch_can_be_antithetic(sd):
    t = objective(sd, antithetic=True)._states()["t"]
    assert (t[:2] + t[2:]).tolist() == [999, 999]


def test_other_texts_are_drawn_at_random_or_are_the_anchors(sd):
    made = objective(sd)
    with seeding.seeded("test"):
        state = made._relabelled(40)
    assert torch.equal(state["to"], state["which"] + 2)
    made = objective(sd, relabel="random", alpha=0.0)
    with seeding.seeded("test"):
        state = made._relabelled(200)
    assert [made.prompts[i] for i in sorted(set(state["to"].tolist()))] == list(NEON.keep)


def test_frozen_targets_are_computed_once_and_are_the_originals(sd):
    made = objective(sd, teacher="frozen", states=5, alpha=0.0)
    state = made.frozen
    assert len(state["x"]) == 5
    eps = sd.predict_noise(state["x"], state["t"], sd.encode_prompt(made.prompts)[state["to"]])
    torch.testing.assert_close(state["y"], eps, rtol=1e-4, atol=1e-4)
    calls = []
    hook = sd.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    losses(made)
    hook.remove()
    assert not calls


def test_guidance_under_which_the_saliency_is_read(sd):
    plain, guided = (mask_of(objective(sd, mask_guidance=g)) for g in (1.0, 8.5))
    assert 0.5 < (plain == guided).float().mean() < 1


def test_pictures_of_both_sets_are_the_originals(sd):
    made = objective(sd)
    noise = torch.stack([seeding.noise(sd.latent_shape, "picture", 0, i) for i in range(6)])
    for pictures, texts in ((made.forget, NEON.prompts), (made.kept, NEON.keep)):
        text = sd.encode_prompt([texts[i % len(texts)] for i in range(6)])
        torch.testing.assert_close(pictures.z, sd.sample(text, noise, 2, 7.5), rtol=1e-3, atol=1e-3)
    state = made.kept.noised(3, sd.alphas_cumprod)
    clean = maths.eps_to_x0(state["x"], state["eps"], sd.alphas_cumprod[state["t"]])
    assert torch.isfinite(clean).all()


def test_the_name_is_shared_with_the_method_for_classifiers():
    assert registry.get("method", "salun", "diffusion") is SalUn
    with pytest.raises(UsageError, match="There is a method salun for classifier and diffusion"):
        registry.get("method", "salun")


def test_what_cannot_be_done_is_said_in_a_sentence(sd):
    request = NEON.model_copy(update={"keep": ("neon light",)})
    done = SalUn(**TRIAL, alpha=0.0).unlearn(sd, request)
    assert done.report["changed_tensors"] > 0
    with pytest.raises(UsageError, match="No retain prompt is left that does not name 'neon'"):
        SalUn(**TRIAL, retain=("neon light",)).unlearn(sd, request)
    with pytest.raises(UsageError, match="is its own anchor"):
        SalUn(**TRIAL).unlearn(
            sd, ConceptRequest(kind="style", name="a", prompts=("a",), anchor="a")
        )
