"""DoCo: the discriminator, the two players' turns, what is precomputed, and the surgery."""

from __future__ import annotations

import math
import warnings

import pytest
import tiny
import torch
from diffusers import DDPMScheduler

from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.loop import Run
from mu_vision.models import maths
from mu_vision.models.diffusion import DiffusionModel
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.diffusion import doco
from mu_vision.unlearn.diffusion.doco import DoCo, DoCoObjective
from mu_vision.unlearn.diffusion.patchgan import PatchGAN

NEON = ConceptRequest(
    kind="style", name="neon", anchor="photo style", prompts=("neon style", "a cat in neon style"),
    anchors=("photo style", "a cat in photo style"), plain=1, keep=("a cat", "a tree", "mosaic"),
)  # fmt: skip
TRIAL = {
    "steps": 6, "lr": 1e-3, "batch": 4, "pictures": 4, "sampler_steps": 2, "head_start": 2,
    "pool": 12, "retain_pool": 6, "retain_batch": 2,
}  # fmt: skip


def settings(**changes) -> DoCo:
    return DoCo(**{**TRIAL, **changes})


def objective(model, requests=(NEON,), **changes) -> DoCoObjective:
    made = DoCoObjective(settings(**changes), model, requests)
    made.prepare(torch.device("cpu"))
    return made


def running(model, requests=(NEON,), **changes) -> tuple[DoCoObjective, Run]:
    made = DoCoObjective(settings(**changes), model, requests)
    return made, Run(settings(**changes).loop_config(), made, None)


def weights_of(made) -> list[torch.Tensor]:
    return [p.detach().clone() for p in made.parameters().values()]


def still(made, before) -> bool:
    return all(torch.equal(a, b) for a, b in zip(made.parameters().values(), before))


# The discriminator ----------------------------------------------------------------------------


def test_latents_too_small_for_a_block_are_refused(sd, monkeypatch):
    with pytest.raises(UsageError, match=r"Latents of 2 x 8 are too small for the discriminator"):
        PatchGAN(4, 2, 8)
    monkeypatch.setattr(DiffusionModel, "latent_shape", (4, 2, 2))
    with pytest.raises(UsageError, match=r"smallest form reads 4 x 4; take a model with larger"):
        settings().unlearn(sd, NEON)


def test_losses_of_an_undecided_discriminator_and_the_signs_of_the_game(sd):
    made = objective(sd)
    with torch.no_grad():
        for parameter in made.discriminator.parameters():
            parameter.zero_()
    real, fake = torch.randn(2, 3, *sd.latent_shape)
    assert made.discriminator_loss(real, fake).item() == pytest.approx(2 * math.log(2), abs=1e-6)
    with seeding.seeded("test"):
        loss = made.adversarial(0)["adversarial_loss"].item()
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    logits = {}

    def told(network, inputs, out):
        out.retain_grad()
        logits[len(logits)] = out

    hook = made.discriminator.register_forward_hook(told)
    made.discriminator_loss(real, fake).backward()
    with seeding.seeded("test"):
        made.adversarial(0)["adversarial_loss"].backward()
    hook.remove()
    assert (logits[0].grad > 0).all(), "anchors go below 0"
    assert (logits[1].grad < 0).all(), "the concept goes above 0"
    assert (logits[2].grad > 0).all(), "the student goes to the anchors' side"


def test_equal_sides_cannot_be_told_apart(sd):
    made = objective(sd)
    same = torch.randn(4, *sd.latent_shape)
    for _ in range(20):
        loss = made.discriminator_loss(same, same)
        assert loss.item() >= 2 * math.log(2) - 1e-5
        slopes = torch.autograd.grad(loss, list(made.discriminator.parameters()))
        with torch.no_grad():
            for p, g in zip(made.discriminator.parameters(), slopes):
                p -= 0.1 * g


# Predicted clean latents ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_clean_latents_are_the_schedulers_own_row_by_row(kind):
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type=kind,
    )  # fmt: skip
    z, eps, out = seeding.noise((3, 5, 4, 8, 8), "clean", 0).double()
    t = torch.tensor([0, 3, 400, 800, 999])
    abar = scheduler.alphas_cumprod[t].double()
    x = maths.add_noise(z, eps, abar)
    predicted = maths.v_to_eps(x, out, abar) if kind == "v_prediction" else out
    clean = maths.eps_to_x0(x, predicted, abar)
    for row in range(5):
        step = scheduler.step(out[row : row + 1], t[row], x[row : row + 1])
        torch.testing.assert_close(
            clean[row : row + 1], step.pred_original_sample, rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(maths.eps_to_x0(x, eps, abar), z, rtol=1e-9, atol=1e-9)


def test_the_pool_holds_what_both_sides_are_before_the_first_step(sd):
    made = objective(sd)
    state = made.frozen
    for name, texts in (("real", NEON.anchors), ("fake", NEON.prompts)):
        eps = sd.predict_noise(state["x"], state["t"], sd.encode_prompt(texts)[state["which"]])
        clean = maths.eps_to_x0(state["x"], eps, sd.alphas_cumprod[state["t"]])
        torch.testing.assert_close(state[name], clean, rtol=1e-3, atol=1e-3)
        assert not state[name].requires_grad
    assert "fake" not in objective(sd, head_start=0).frozen


def test_a_velocity_network_predicts_the_same_clean_latents(tmp_path):
    model = DiffusionModel.load(tiny.tiny_sd(tmp_path / "v", prediction_type="v_prediction"), "cpu")
    made = objective(model, timesteps=(0, 700))
    state, text = made.frozen, model.encode_prompt(NEON.anchors)
    raw = model.unet(state["x"], state["t"], text[state["which"]].states).sample
    clean = maths.v_to_x0(state["x"], raw, model.alphas_cumprod[state["t"]])
    torch.testing.assert_close(state["real"], clean, rtol=1e-3, atol=1e-3)
    assert settings().unlearn(model, NEON).report["changed_tensors"] > 0


# The turns ------------------------------------------------------------------------------------


def test_in_the_head_start_only_the_discriminator_learns_and_no_network_runs(sd):
    made, run = running(sd, head_start=3)
    before, calls = weights_of(made), []
    hooks = [
        net.register_forward_pre_hook(lambda *_: calls.append(1))
        for net in (sd.unet, made.student.unet)
    ]
    for step in range(3):
        critic = [p.detach().clone() for p in made.discriminator.parameters()]
        logged = made.step(step, run)
        assert set(logged) == {"discriminator_loss"}
        assert any(not torch.equal(a, b) for a, b in zip(critic, made.discriminator.parameters()))
    assert still(made, before) and not calls
    logged = made.step(3, run)
    assert not still(made, before)
    assert set(logged) == {
        "discriminator_loss", "adversarial_loss", "preserve_loss", "gradient_cosine", "conflict_share",
    }  # fmt: skip
    for hook in hooks:
        hook.remove()
    assert len(calls) == 2, "two passes of the student, none of a teacher"


def test_neither_player_gets_gradients_of_the_others_turn(sd):
    made, run = running(sd, head_start=0)
    found = {}

    def apply(optimizer, parameters, clip=None, averaged=False):
        turn = "student" if optimizer is run.optimizers["main"] else "critic"
        found[turn] = (
            [p.grad is not None for p in made.parameters().values()],
            [p.grad is not None and bool(p.grad.abs().max() > 0) for p in made.discriminator.parameters()],
        )  # fmt: skip
        Run.apply(run, optimizer, parameters, clip, averaged)

    run.apply = apply
    made.step(0, run)
    student, critic = found["student"], found["critic"]
    assert all(student[0]) and not any(student[1])
    assert not any(critic[0]) and any(critic[1])
    assert all(p.requires_grad for p in made.discriminator.parameters())
    assert all(p.grad is None for p in sd.named_parameters().values())
    assert all(not real.requires_grad and not fake.requires_grad for real, fake in made.sides)


def test_the_sides_of_the_discriminators_turn_are_from_before_the_students_step(sd):
    made, run = running(sd, head_start=0)
    before = weights_of(made)
    made.step(0, run)
    with run.randomness(0), torch.no_grad():
        for parameter, value in zip(made.parameters().values(), before):
            parameter.copy_(value)
        made.adversarial(0)
    (real, fake), (real_again, fake_again) = made.sides
    assert torch.equal(real, real_again)
    torch.testing.assert_close(fake, fake_again)


def test_both_halves_apart_give_the_gradients_of_one_joint_pass(sd):
    made = objective(sd, head_start=0)
    parameters = list(made.parameters().values())
    with seeding.seeded("halves"):
        a = torch.autograd.grad(made.adversarial(0)["adversarial_loss"], parameters)
        b = torch.autograd.grad(made.preserving(0)["preserve_loss"], parameters)
    with seeding.seeded("halves"):
        state = doco.some(made.frozen, 4)
        kept = made.pictures.noised(4, sd.alphas_cumprod)
    x, t = torch.cat([state["x"], kept["x"]]), torch.cat([state["t"], kept["t"]])
    text = type(made.c).cat([made.c[state["which"]], made.a[kept["which"]]])
    eps, eps_pre = made._student(x, t, text).chunk(2)
    fake = made.discriminator(made._clean(state, eps))
    joint_a = torch.nn.functional.softplus(fake).mean()
    joint_b = (eps_pre - kept["eps"]).square().mean()
    for ours, loss in ((a, joint_a), (b, joint_b)):
        for mine, theirs in zip(ours, torch.autograd.grad(loss, parameters, retain_graph=True)):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_the_discriminator_and_its_optimiser_are_in_the_checkpoint(sd, tmp_path):
    settings(checkpoint_every=1).unlearn(sd, NEON, tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(kept["optimizers"]) == {"main", "discriminator"}
    assert set(kept["state"]) == set(PatchGAN(*sd.latent_shape).state_dict())
    group = kept["optimizers"]["discriminator"]["param_groups"][0]
    assert tuple(group["betas"]) == (0.5, 0.999) and group["lr"] == pytest.approx(5e-4)


def test_micro_batches_reach_both_players(sd):
    made, run = running(sd, accumulation=3, head_start=1)
    for step in (0, 1):
        made.step(step, run)
        assert len(made.sides) == 3


# Surgery and what is protected ----------------------------------------------------------------


def test_the_rules_and_their_names():
    assert settings().rule == doco.Surgery("protect", "tensor", 1.0, 0.0)
    assert settings(scope="global", lamb=0.5).rule == doco.Surgery("protect", "global", 0.5, 0.0)
    assert settings(preserve_weight=0.1).rule.mode == "protect_and_descend"
    assert settings(surgery="reference").rule == doco.Surgery("reference", "tensor", 1.0, 1.0)
    assert settings(surgery="none").rule.mode == "none"


@pytest.mark.parametrize("surgery", ["project", "none", "reference"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_every_rule_runs(sd, surgery, scope):
    done = settings(surgery=surgery, scope=scope, log_every=1).unlearn(sd, NEON)
    assert ("conflict_share" in done.history[-1]) == (surgery != "none")
    assert ("preserve_loss" in done.history[-1]) == (surgery != "none")


def test_a_protected_run_ends_elsewhere_and_a_weight_adds_the_second_gradient(sd):
    found = [
        settings(seed=3, **more).unlearn(sd, NEON).model.named_parameters()
        for more in ({}, {"surgery": "none"}, {"preserve_weight": 1.0}, {"surgery": "none", "preserve_weight": 1.0})
    ]  # fmt: skip
    names = settings().trained(sd)
    for i in range(4):
        for j in range(i):
            assert any(not torch.equal(found[i][n], found[j][n]) for n in names), (i, j)


def test_prompts_to_retain_join_what_is_protected(sd):
    made = objective(sd, gamma=0.5)
    assert made.retain.prompts == ["a cat", "a tree", "mosaic"]
    with seeding.seeded("test"):
        losses = made.preserving(0)
    assert set(losses) == {"preserve_loss", "retain_loss"}
    assert losses["retain_loss"].item() == pytest.approx(0, abs=1e-6), "the student is the original"
    with torch.no_grad():
        for parameter in made.parameters().values():
            parameter.mul_(1.5)
    with seeding.seeded("test"):
        assert made.preserving(0)["retain_loss"] > 1e-4
    alone = objective(sd)
    with seeding.seeded("test"):
        assert set(alone.preserving(0)) == {"preserve_loss"}


def test_a_model_of_labels_protects_its_other_classes(label_model):
    cat = concept_request("object", "cat", anchor="tree")
    made = objective(label_model, (cat,), variant="full", gamma=0.5)
    assert made.retain.prompts == [name for name in label_model.classes if name != "cat"]


def test_what_cannot_be_done_is_said_in_a_sentence(sd):
    with pytest.raises(UsageError, match=r"No retain prompt is left that does not name 'neon'"):
        settings(gamma=1.0, retain=("neon light", "a Neon cat")).unlearn(sd, NEON)
    with pytest.raises(UsageError, match=r"No retain prompt is left .*\(0 were given\)"):
        settings(gamma=1.0, retain=()).unlearn(sd, NEON)
    with pytest.raises(UsageError, match=r"steps=6 ends within the head start of 6 steps"):
        settings(head_start=6).unlearn(sd, NEON)
    with pytest.raises(
        UsageError, match=r"gamma=1 asks for prompts to retain, but with surgery=none"
    ):
        settings(gamma=1.0, surgery="none").unlearn(sd, NEON)
    with pytest.raises(UsageError, match=r"published rule \(surgery=reference\) does not descend"):
        settings(preserve_weight=1.0, surgery="reference").unlearn(sd, NEON)
    for wrong in ((5, 2), (0, 1000)):
        with pytest.raises(
            UsageError, match=r"give two numbers from 0 to 999, the lower one first"
        ):
            settings(timesteps=wrong).unlearn(sd, NEON)
    with pytest.raises(
        UsageError, match=r"The anchor 'a neon sign' is to take the place of 'neon'"
    ):
        settings().unlearn(sd, concept_request("concept", "neon", anchor="a neon sign"))


def test_a_schedule_that_ends_in_pure_noise_is_refused_there(sd):
    made = sd.clone([])
    made.alphas_cumprod = sd.alphas_cumprod.clone()
    made.alphas_cumprod[-1] = 0
    with pytest.raises(UsageError, match=r"give two numbers from 0 to 998"):
        settings().unlearn(made, NEON)
    settings(timesteps=(0, 998)).objective(made, (NEON,))


def test_several_concepts_are_unlearned_in_one_run(sd):
    boat = ConceptRequest(kind="object", name="boat", prompts=("boat",), anchor="fish")
    made = objective(sd, (NEON, boat), pool=60, pictures=6)
    assert made.concepts == [*NEON.prompts, "boat"]
    assert set(made.frozen["which"].tolist()) == {0, 1, 2}
    done = settings(precision="bf16").unlearn(sd, (NEON, boat))
    assert {p.dtype for p in done.model.named_parameters().values()} == {torch.float32}


def test_a_second_run_draws_its_anchors_with_the_original(sd, sd_folder, tmp_path):
    first = settings(lr=0.05).unlearn(sd, NEON)
    boat = ConceptRequest(kind="object", name="boat", prompts=("boat",), anchor="photo style")
    made = objective(first.model, (boat,), anchor_model=str(sd_folder))
    alone, fresh = objective(first.model, (boat,)), objective(sd, (boat,))
    assert torch.equal(made.pictures.z, fresh.pictures.z)
    torch.testing.assert_close(made.frozen["real"], fresh.frozen["real"])
    assert not torch.allclose(made.frozen["real"], alone.frozen["real"], atol=1e-4)
    assert made.teacher is first.model
    done = settings(anchor_model=str(sd_folder)).unlearn(first.model, boat)
    assert done.report["changed_tensors"] > 0
    with pytest.raises(UsageError, match="There is no model folder"):
        settings(anchor_model=str(tmp_path / "none")).unlearn(first.model, boat)


def test_an_anchor_model_that_does_not_fit_is_refused(sd, tmp_path):
    folder = tiny.tiny_sd(tmp_path / "other")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("0.012", "0.02"))
    with pytest.raises(UsageError, match="has other latents or noise levels than"):
        settings(anchor_model=str(folder)).unlearn(sd, NEON)


def test_a_discriminator_that_has_won_is_told_once(sd, monkeypatch):
    monkeypatch.setattr(doco, "WINDOW", 2)
    monkeypatch.setattr(doco, "LOW", 100.0)
    with pytest.warns(UserWarning, match="loss stayed below 100.0 for 2 steps") as told:
        settings(steps=9).unlearn(sd, NEON)
    assert len([w for w in told if "discriminator" in str(w.message)]) == 1
    monkeypatch.setattr(doco, "LOW", 0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings().unlearn(sd, NEON)


def test_the_game_moves_the_concept_to_its_anchor(sd):
    """The discriminator's loss falls in its head start and rises towards 2 ln 2 after it."""
    done = settings(
        steps=150, head_start=110, lr=3e-3, batch=8, pool=256, discriminator_lr=1e-3, log_every=1
    ).unlearn(sd, NEON)
    losses = [row["discriminator_loss"] for row in done.history]
    start, before, end = (sum(losses[i : i + 20]) / 20 for i in (0, 90, 130))
    assert before < start - 0.05
    assert before < end < 2 * math.log(2) + 0.15
    shares = [row["conflict_share"] for row in done.history[110:]]
    assert 0.1 < sum(shares) / len(shares) < 0.9
    x = seeding.noise((8, *sd.latent_shape), "test", 1)

    def apart(model):
        """The prediction under the concept from the original's under the anchor."""
        eps = model.predict_noise(x, 500, model.encode_prompt(["neon style"]))
        anchor = sd.predict_noise(x, 500, sd.encode_prompt(["photo style"]))
        return float((eps - anchor).square().mean())

    assert apart(done.model) < 0.5 * apart(sd)
