"""What all searches before the prompt have in common: noise, order, cost, room."""

from __future__ import annotations

from dataclasses import replace

import pytest
import scenes
import torch

from mu_vision import registry
from mu_vision.attack.base import Case, Sampler
from mu_vision.attack.p4d import P4D
from mu_vision.attack.tokens import check_room, decoded, gradient
from mu_vision.attack.unlearndiffatk import UnlearnDiffAtk
from mu_vision.errors import UsageError

SEARCHES = [UnlearnDiffAtk, P4D]
BUDGET = {"tokens": 2, "timesteps": 2, "iterations": 2}


@pytest.fixture(scope="module")
def victim(sd):
    return scenes.edited(sd)


def test_the_ladder_is_the_middles_of_equal_slices():
    assert UnlearnDiffAtk(timesteps=4).ladder() == [125, 375, 625, 875]
    assert UnlearnDiffAtk(timesteps=2, lowest=200, highest=400).ladder() == [250, 350]
    assert UnlearnDiffAtk(timesteps=1000).ladder() == list(range(1000))


def spied(attack, monkeypatch):
    """Record the noise that an attack draws, by case."""
    drawn: dict[str, list[torch.Tensor]] = {}
    inner = type(attack).aim

    def aim(self, scene, rows, x_t, t, noise):
        for row, n in zip(rows, noise.unflatten(0, (len(rows), -1)), strict=True):
            drawn.setdefault(scene.cases[row].asks_for, []).append(n.clone())
        return inner(self, scene, rows, x_t, t, noise)

    monkeypatch.setattr(type(attack), "aim", aim)
    return drawn


@pytest.mark.parametrize("cls", SEARCHES)
def test_noise_depends_on_the_case_alone(cls, victim, sd, monkeypatch):
    """Not on the other cases, their order, the batch, the pictures drawn, or the judge."""
    attack = cls(**BUDGET, restarts=2)
    drawn = spied(attack, monkeypatch)
    first = attack.run(scenes.scene(victim, sd))
    one = {name: torch.stack(noise) for name, noise in drawn.items()}
    drawn.clear()
    attack.model_copy(update={"batch": 2}).run(
        scenes.scene(victim, sd, cases=scenes.CASES[::-1], sampler=Sampler(3, 1.0, 1))
    )
    assert len(one) == 3 and all(len(noise) == 4 for noise in one.values())
    for name, noise in one.items():
        assert torch.equal(noise, torch.stack(drawn[name])), name
    drawn.clear()
    target = scenes.pixels(3, 1)[1:2]
    alone = attack.run(scenes.scene(victim, sd, cases=scenes.CASES[1:2], targets=target))
    assert list(drawn) == ["a car, neon"]
    assert torch.equal(one["a car, neon"], torch.stack(drawn["a car, neon"]))
    assert alone.trials[0].adversarial == first.trials[1].adversarial
    # no noise comes twice: not in the next step, not at the next timestep, not in a restart
    everything = torch.stack(list(one.values())).flatten(0, 2).flatten(1)
    assert len(everything.unique(dim=0)) == 3 * 4 * 2


@pytest.mark.parametrize("cls", SEARCHES)
def test_a_case_that_is_found_leaves_and_the_others_go_on(cls, victim, sd, monkeypatch):
    attack = cls(**BUDGET)
    drawn = spied(attack, monkeypatch)
    tried = []

    def verdict(pictures, cases):
        tried.append([case.seed for case in cases])
        return torch.tensor([case.seed == 2 and len(tried) > 1 for case in cases]).numpy()

    result = attack.run(scenes.scene(victim, sd, verdict))
    assert {name: len(noise) for name, noise in drawn.items()} == {
        "a cat, neon": 4, "a car, neon": 2, "a sun, neon": 4
    }  # fmt: skip
    assert tried[:2] == [[1, 2, 3], [1, 2, 3]]
    assert all(2 not in seeds for seeds in tried[2:])
    assert [trial.after for trial in result.trials] == [False, True, False]
    done = result.trials[1]
    assert (done.tries, done.queries) == (1, 2 + 4)
    found = attack.run(scenes.scene(victim, sd, scenes.always))
    assert all(t.before and t.after and not t.queries and not t.tries for t in found.trials)


def test_the_gradient_of_a_case_does_not_feel_the_others(victim, sd):
    scene = scenes.scene(victim, sd)
    table = victim.vocabulary.detach()
    e = table[torch.tensor([[[5, 9]], [[30, 2]]])].requires_grad_(True)
    x, y = torch.randn(2, 2, *sd.latent_shape, generator=torch.Generator().manual_seed(0))
    both = gradient(scene, [0, 2], e, x, 400, y)
    for k, row in enumerate((0, 2)):
        alone = gradient(scene, [row], e[k : k + 1], x[k : k + 1], 400, y[k : k + 1])
        torch.testing.assert_close(both[k : k + 1], alone, rtol=1e-3, atol=1e-5)
    assert victim.vocabulary.grad is None and e.grad is None
    # against a finite difference of the mean squared error
    direction = torch.randn(e.shape, generator=torch.Generator().manual_seed(1))

    def error(shift):
        moved = (e + shift * direction)[0].detach()
        text = victim.encode_embeddings(victim.insert([scene.cases[0].prompt], moved))
        return (victim.predict_noise(x[:1], 400, text) - y[:1]).double().square().mean()

    with torch.no_grad():
        slope = (error(5e-4) - error(-5e-4)) / 1e-3
    assert (both[0] * direction[0]).sum().item() == pytest.approx(slope.item(), rel=0.02)


@pytest.mark.parametrize("name", ["unlearndiffatk", "p4d", "random_prefix", "concept_inversion"])
def test_a_prompt_without_room_is_refused_before_any_work(name, victim, sd):
    long = Case("x" * 45, "x" * 45, "x" * 45, 1)
    scene = scenes.scene(victim, sd, cases=(scenes.CASES[0], long))
    attack = registry.get("attack", name)(tokens=2)
    calls = []
    hook = victim.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(
        UsageError, match=r"has 47 tokens, begin and end included, and 2 more do not"
    ):
        attack.run(scene)
    hook.remove()
    assert not calls
    check_room(scene, 1)  # 48 tokens are just what the encoder reads


def test_what_is_judged_is_the_text_that_a_user_would_type(victim, sd):
    read = victim.tokens("neon")
    text = decoded(victim, read.ids[1 : read.count - 1], "a cat")
    # byte tokens that end a word are followed by a space
    assert text.split() == ["neon", "a", "cat"]
    end = victim.pipeline.tokenizer.eos_token_id
    assert decoded(victim, [end, *read.ids[1:5]], "a cat") == text
    scene = scenes.scene(victim, sd, cases=scenes.CASES[:1])
    result = UnlearnDiffAtk(**BUDGET).run(replace(scene, before=scene.before))
    (trial,) = result.trials
    noise = scene.noise([0])
    latents = victim.sample(victim.encode_prompt([trial.adversarial]), noise, 2, 2.0)
    assert (victim.decode(latents) == result.pictures).all()
    assert trial.adversarial.replace(" ", "").endswith("acat,neon")
