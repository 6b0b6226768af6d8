"""Pictures that erasers by distribution train on, their pairs of texts, and the start token."""

from __future__ import annotations

import pytest
import torch

from mu_vision import seeding
from mu_vision.data.cards import load_card
from mu_vision.errors import UsageError
from mu_vision.models import maths
from mu_vision.request import ConceptRequest, concept_request
from mu_vision.unlearn.diffusion.pictures import Pictures, predicted, rewritings, some
from mu_vision.unlearn.diffusion.selectors import keys_and_values
from mu_vision.unlearn.diffusion.start_token import start_token_detached


def draw(sd, size=5, batch=16, seed=0) -> Pictures:
    return Pictures.draw(sd, sd.encode_prompt(["a cat", "a boat"]), size, 3, 2.0, seed, batch)


def test_a_picture_depends_on_its_text_its_number_and_the_seed_alone(sd):
    whole, parts, fewer = draw(sd), draw(sd, batch=2), draw(sd, size=3)
    torch.testing.assert_close(parts.z, whole.z)
    torch.testing.assert_close(fewer.z, whole.z[:3])
    assert whole.which.tolist() == [0, 1, 0, 1, 0]
    assert not torch.allclose(draw(sd, seed=1).z, whole.z)
    noise = seeding.noise((1, *sd.latent_shape), "unused", 0)
    assert not torch.allclose(whole.z[:1], noise) and not whole.z.requires_grad
    again = seeding.noise(sd.latent_shape, "picture", 0, 3).unsqueeze(0)
    alone = sd.sample(sd.encode_prompt(["a boat"]), again, 3, 2.0)
    torch.testing.assert_close(alone[0], whole.z[3], rtol=1e-4, atol=1e-4)


def test_noised_pictures_are_what_they_say(sd):
    pictures = draw(sd)
    with seeding.seeded("noised"):
        state = pictures.noised(40, sd.alphas_cumprod, (100, 200))
    assert state["t"].min() >= 100 and state["t"].max() <= 200
    z = maths.eps_to_x0(state["x"], state["eps"], sd.alphas_cumprod[state["t"]])
    for row, which in zip(z, state["which"]):
        near = [k for k in range(5) if torch.allclose(row, pictures.z[k], atol=1e-4)]
        assert near and pictures.which[near[0]] == which
    with seeding.seeded("noised"):
        everything = pictures.noised(400, sd.alphas_cumprod)["t"]
    assert everything.min() < 50 and everything.max() > 950


@pytest.mark.parametrize("n", [6, 7])
def test_antithetic_noise_levels_sum_to_the_ends_of_their_range(sd, n):
    with seeding.seeded("noised"):
        t = draw(sd).noised(n, sd.alphas_cumprod, antithetic=True)["t"]
        inner = draw(sd).noised(n, sd.alphas_cumprod, (100, 300), antithetic=True)["t"]
    assert (t[:3] + t[3:6]).tolist() == [999] * 3 and len(t) == n
    assert (inner[:3] + inner[3:6]).tolist() == [400] * 3 and inner.min() >= 100


def test_predictions_do_not_depend_on_how_they_are_batched(sd):
    with seeding.seeded("noised"):
        state = draw(sd).noised(7, sd.alphas_cumprod)
    text = sd.encode_prompt(["a cat", "a boat"])[state["which"]]
    whole = predicted(sd, state, text)
    torch.testing.assert_close(predicted(sd, state, text, batch=3), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sd.predict_noise(state["x"], state["t"], text), whole)
    with seeding.seeded("some"):
        rows = some({**state, "y": whole}, 20)
    for x, y in zip(rows["x"], rows["y"]):
        assert any(torch.equal(x, state["x"][k]) and torch.equal(y, whole[k]) for k in range(7))


def test_pairs_keep_their_order():
    request = concept_request("style", "sketch")
    prompts, anchors = rewritings([request])
    assert list(zip(prompts, anchors)) == request.pairs()
    assert rewritings([request], "names") == tuple(map(list, zip(*request.pairs("names"))))


@pytest.mark.parametrize("kind", ["style", "object"])
def test_every_concept_of_the_card_has_anchors_that_do_not_name_it(kind):
    card = load_card("minicanvas")
    for name in card.style_names if kind == "style" else card.object_names:
        prompts, anchors = rewritings([concept_request(kind, name)])
        assert len(prompts) == len(anchors) > 5


def ask(anchor: str, *prompts: str, **more) -> ConceptRequest:
    prompts = prompts or ("cat",)
    return ConceptRequest(kind="object", name="cat", prompts=prompts, anchor=anchor, **more)


def test_an_anchor_that_is_the_concept_or_names_it_is_refused():
    with pytest.raises(UsageError, match=r"The prompt 'cat' is its own anchor, so nothing in it"):
        rewritings([ask("cat")])
    with pytest.raises(
        UsageError, match=r"anchor 'a black Cat' is to take the place of 'cat', but"
    ):
        rewritings([ask("a black Cat")])
    with pytest.raises(UsageError, match=r"but names it \('kitten'\)"):
        rewritings([ask("a kitten", synonyms=("kitten",))])
    assert rewritings([ask("a category")]) == (["cat"], ["a category"])
    assert rewritings([ask("")]) == (["cat"], [""])


def test_a_prompt_with_nothing_to_rewrite_is_named():
    request = ask("", "a cat", "a boat", anchors=("a dog", "a boat"), plain=1)
    with pytest.raises(UsageError, match=r"The prompt 'a boat' is its own anchor.*'cat'"):
        rewritings([request])
    assert rewritings([request], "names") == (["a cat"], ["a dog"])


def test_a_narrower_concept_may_go_to_its_kind():
    request = concept_request("concept", "grumpy cat", anchor="cat")
    assert rewritings([request]) == (["grumpy cat"], ["cat"])


# The start token ------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["sd", "sdxl"])
def test_detaching_the_start_token_changes_no_value(which, request):
    model = request.getfixturevalue(which)
    x, text = torch.randn(2, *model.latent_shape), model.encode_prompt(["a cat", "boat"])
    plain = model.predict_noise(x, 500, text)
    with start_token_detached(model):
        assert torch.equal(model.predict_noise(x, 500, text), plain)
    assert not any(module._forward_hooks for module in keys_and_values(model))
    assert len(keys_and_values(model)) == {"sd": 8, "sdxl": 16}[which]


def test_no_gradient_flows_through_text_position_0(sd):
    names = [n for n in sd.named_parameters() if ".attn2.to_k" in n or ".attn2.to_v" in n]
    student = sd.clone(names)
    x, text = torch.randn(1, *sd.latent_shape), sd.encode_prompt(["a cat"])
    alone = type(text)(torch.cat([text.states[:, :1], 0 * text.states[:, 1:]], 1))
    parameters = [student.named_parameters()[name] for name in names]

    def gradients(text):
        loss = student.predict_noise(x, 500, text).square().sum()
        return torch.autograd.grad(loss, parameters)

    assert all(g.abs().max() > 0 for g in gradients(alone))
    with start_token_detached(student):
        assert all(g.abs().max() == 0 for g in gradients(alone))
        assert all(g.abs().max() > 0 for g in gradients(text))


def test_the_hooks_come_off_when_something_fails(sd):
    with pytest.raises(KeyError), start_token_detached(sd):
        raise KeyError
    assert not any(module._forward_hooks for module in keys_and_values(sd))
