"""What every registered attack promises. A new one is found here without an edit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import scenes
from diffusers import UNet2DConditionModel
from states import same, surroundings, tensors
from torch.nn.modules.module import register_module_forward_pre_hook

from mu_vision import registry
from mu_vision.attack import ring_a_bell
from mu_vision.attack.base import Attack
from mu_vision.errors import UsageError

ATTACKS = registry.names("attack")


def attack_of(name: str, **changes) -> Attack:
    cls = registry.get("attack", name)
    return cls.from_settings({**cls.trial, **changes})


@pytest.fixture(scope="module")
def victim(sd):
    return scenes.edited(sd)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(ring_a_bell, "_FOUND", {})


@pytest.mark.parametrize("name", ATTACKS)
def test_every_field_of_an_attack_is_documented_and_has_a_default(name):
    cls = registry.get("attack", name)
    for field, info in cls.model_fields.items():
        assert info.description, f"{name}.{field} has no description"
        assert not info.is_required(), f"{name}.{field} has no default"
    assert cls.name == name and cls.title and cls.__doc__
    assert cls.kind in ("text", "tokens", "embedding", "states", "image", "weights")
    assert cls.paper.title and cls.paper.arxiv and cls.paper.cost
    assert cls.__module__.rsplit(".", 1)[-1] == cls.name
    assert attack_of(name).takes_room == (cls.kind in ("tokens", "embedding", "states"))
    saved = json.loads(json.dumps(attack_of(name).model_dump(mode="json")))
    assert cls.from_settings(saved) == attack_of(name)


@pytest.mark.parametrize("name", ATTACKS)
def test_unknown_settings_of_an_attack_are_refused_with_the_nearest(name):
    fields = list(registry.get("attack", name).model_fields)
    if not fields:
        with pytest.raises(UsageError, match=f"attack {name}: unknown key 'tokens'"):
            attack_of(name, tokens=1)
        return
    with pytest.raises(UsageError, match=f"attack {name}: unknown key .* Did you mean"):
        attack_of(name, **{f"{fields[0][:-1]}": 1})
    with pytest.raises(UsageError, match=f"attack {name}: '{fields[0]}.*' must be"):
        attack_of(name, **{fields[0]: "many"})


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_leaves_models_and_surroundings_as_they_were(name, victim, sd):
    before, print_before = tensors(victim), (victim.fingerprint(), sd.fingerprint())
    around = surroundings()
    result = attack_of(name).run(scenes.scene(victim, sd))
    assert surroundings() == around
    assert same(before, tensors(victim))
    assert (victim.fingerprint(), sd.fingerprint()) == print_before
    for model in (victim, sd):
        for parameter in model.named_parameters().values():
            assert parameter.grad is None and not parameter.requires_grad
    assert result.attack == name
    assert [t.prompt for t in result.trials] == [case.prompt for case in scenes.CASES]
    assert result.pictures.shape == (3, 16, 16, 3) and result.pictures.dtype == np.uint8
    assert 0 <= result.pre_asr.value <= result.asr.value <= 1
    assert json.loads(json.dumps(dict(result.details))) is not None


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seed_gives_the_same_trials(name, victim, sd):
    first, again = (attack_of(name).run(scenes.scene(victim, sd, seed=5)) for _ in range(2))
    told = [
        [(t.before, t.after, t.adversarial, t.tries, t.queries) for t in result.trials]
        for result in (first, again)
    ]
    assert told[0] == told[1]
    assert np.array_equal(first.pictures, again.pictures)
    assert first.details == again.details


@pytest.mark.parametrize("name", ATTACKS)
def test_the_cost_of_an_attack_is_the_rows_through_the_victims_network(name, victim, sd):
    scene, rows = scenes.scene(victim, sd, scenes.bright(255)), []

    def count(module, inputs):
        if isinstance(module, UNet2DConditionModel) and module is not sd.unet:
            rows.append(len(inputs[0]))

    hook = register_module_forward_pre_hook(count)
    result = attack_of(name).run(scene)
    hook.remove()
    if name != "paraphrase":  # its words are not known to an original that draws nothing right
        assert sum(rows) > 0
    assert sum(trial.queries for trial in result.trials) == sum(rows)
    assert all(trial.seconds >= 0 for trial in result.trials)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_counts_what_needed_none_and_what_it_brought_back(name, victim, sd):
    attack = attack_of(name)
    known = attack.run(scenes.scene(victim, sd, scenes.always))
    assert known.pre_asr == known.asr and known.asr.value == 1
    back = attack.run(scenes.scene(victim, sd, scenes.always, before=np.zeros(3, bool)))
    assert (back.pre_asr.hits, back.asr.hits) == (0, 3)
    assert all(trial.adversarial and trial.tries == 1 for trial in back.trials)
    with pytest.raises(UsageError, match=f"attack {name} was given no prompt"):
        attack.run(replace(scenes.scene(victim, sd), cases=()))


@pytest.mark.parametrize("name", [n for n in ATTACKS if registry.get("attack", n).one_encoder])
def test_an_attack_on_token_embeddings_refuses_two_text_encoders(name, sdxl):
    with pytest.raises(UsageError, match="attacks on token embeddings are for models with one"):
        attack_of(name).run(scenes.scene(sdxl, sdxl))


def test_unknown_attacks_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"There is no attack 'p4dd'. Did you mean 'p4d'"):
        registry.get("attack", "p4dd")
