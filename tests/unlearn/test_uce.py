from __future__ import annotations

import pytest
import torch

from mu_vision.errors import RunError, UsageError
from mu_vision.models.text import TextStates
from mu_vision.request import ConceptRequest
from mu_vision.unlearn.diffusion.uce import UCE, concept_columns, solve

D, M = 6, 5
NEON = ConceptRequest(
    kind="style", name="neon", prompts=("neon style",), anchor="photo style", keep=("a cat",)
)


def problem(n=2, kept=3):
    rng = torch.Generator().manual_seed(0)

    def made(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    return made(D, n), made(D, n), made(D, kept), made(M, D)


def edited(c, c_star, p, w_0, alpha=1.0, beta=1.0, lamb=0.5):
    return w_0 + w_0 @ solve(c, c_star, p, alpha, beta, lamb)


def test_the_gradient_of_the_objective_is_zero_at_the_solution():
    c, c_star, p, w_0 = problem()
    w = edited(c, c_star, p, w_0, 0.7, 1.3, 0.4).requires_grad_()
    objective = (
        0.7 * (w @ c - w_0 @ c_star).square().sum()
        + 1.3 * (w @ p - w_0 @ p).square().sum()
        + 0.4 * (w - w_0).square().sum()
    )
    (slope,) = torch.autograd.grad(objective, w)
    assert slope.abs().max() < 1e-10


def test_least_squares_on_the_stacked_system_agrees():
    c, c_star, p, w_0 = problem()
    alpha, beta, lamb = 0.7, 1.3, 0.4
    rows = torch.cat([alpha**0.5 * c.T, beta**0.5 * p.T, lamb**0.5 * torch.eye(D).double()])
    wanted = torch.cat([alpha**0.5 * c_star.T @ w_0.T, beta**0.5 * p.T @ w_0.T, lamb**0.5 * w_0.T])
    w = torch.linalg.lstsq(rows, wanted).solution.T
    assert torch.allclose(edited(c, c_star, p, w_0, alpha, beta, lamb), w, atol=1e-10)


def test_only_ratios_of_the_weights_matter():
    c, c_star, p, w_0 = problem()
    first = edited(c, c_star, p, w_0, 0.7, 1.3, 0.4)
    assert torch.allclose(first, edited(c, c_star, p, w_0, 7.0, 13.0, 4.0), atol=1e-12)


def test_the_order_of_concepts_does_not_matter():
    c, c_star, p, w_0 = problem()
    turned = edited(c.flip(1), c_star.flip(1), p.flip(1), w_0)
    assert torch.allclose(edited(c, c_star, p, w_0), turned, atol=1e-12)


def test_nothing_to_do_changes_nothing():
    c, c_star, p, w_0 = problem()
    assert torch.equal(edited(c, c, p, w_0), w_0)
    assert torch.equal(edited(c, c_star, p, w_0, alpha=0.0), w_0)
    assert torch.equal(edited(c[:, :0], c_star[:, :0], p, w_0), w_0)
    assert torch.allclose(edited(c, c_star, p, w_0, lamb=1e14), w_0, atol=1e-11)


def test_one_edit_interpolates():
    c, c_star, p, w_0 = problem(1, 0)
    size = c.square().sum()
    w = edited(c, c_star, p, w_0, 2.0, 1.0, 0.5)
    mixed = (0.5 * w_0 @ c + 2.0 * size * w_0 @ c_star) / (0.5 + 2.0 * size)
    assert torch.allclose(w @ c, mixed, atol=1e-12)


def test_woodbury_agrees():
    c, c_star, p, w_0 = problem()
    alpha, beta, lamb = 0.7, 1.3, 0.4
    u = torch.cat([alpha**0.5 * c, beta**0.5 * p], 1)
    inner = torch.linalg.inv(lamb * torch.eye(u.shape[1]).double() + u.T @ u)
    inverse = (torch.eye(D).double() - u @ inner @ u.T) / lamb
    w = w_0 + alpha * w_0 @ (c_star - c) @ c.T @ inverse
    assert torch.allclose(edited(c, c_star, p, w_0, alpha, beta, lamb), w, atol=1e-10)


def test_residuals_fall_with_their_weight():
    c, c_star, p, w_0 = problem()

    def erased(alpha):
        return (edited(c, c_star, p, w_0, alpha) @ c - w_0 @ c_star).norm()

    def kept(beta):
        return (edited(c, c_star, p, w_0, 1.0, beta) @ p - w_0 @ p).norm()

    scales = (0.01, 0.1, 1.0, 10.0, 100.0)
    for residual in (erased, kept):
        values = [residual(scale) for scale in scales]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.5 * values[0]


def test_the_rank_of_the_change_is_at_most_the_number_of_columns():
    c, c_star, p, w_0 = problem(2)
    assert torch.linalg.matrix_rank(edited(c, c_star, p, w_0) - w_0, rtol=1e-9) == 2


def test_directions_off_all_columns_are_untouched():
    c, c_star, p, w_0 = problem(2, 2)
    basis = torch.linalg.svd(torch.cat([c, p], 1), full_matrices=True).U[:, 4:]
    assert torch.allclose(edited(c, c_star, p, w_0) @ basis, w_0 @ basis, atol=1e-12)


@pytest.mark.parametrize("which", ["sd", "sdxl"])
def test_editing_the_matrices_is_editing_the_text_states(which, request):
    """U-Net(edited, h) equals U-Net(original, T h): the map does not depend on the layer."""
    model = request.getfixturevalue(which)
    method = UCE(columns="all")
    done = method.unlearn(model, NEON)
    c, c_star = concept_columns(model, "neon style", "photo style", "all")
    p = torch.cat([model.encode_prompt([text]).states[0].T.double() for text in ("", "a cat")], 1)
    t_map = torch.eye(len(c)).double() + solve(c, c_star, p, 1.0, 1.0, 0.5)
    text = model.encode_prompt(["a house in neon style", "a cat"])
    mapped = TextStates((text.states.double() @ t_map.T).float(), text.pooled)
    x = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = done.model.predict_noise(x, 400, text), model.predict_noise(x, 400, mapped)
    assert torch.allclose(ours, theirs, atol=2e-5)
    assert not torch.allclose(ours, model.predict_noise(x, 400, text), atol=1e-3)


def test_only_keys_and_values_of_cross_attention_change_and_no_unet_pass_is_made(sd):
    def forbidden(*_):
        raise AssertionError("the U-Net was run")

    hook = sd.unet.register_forward_pre_hook(forbidden)
    done = UCE().unlearn(sd, NEON)
    hook.remove()
    before, after = sd.named_parameters(), done.model.named_parameters()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {
        name for name in before if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }


def test_the_report(sd):
    done = UCE(probe=("a dog",)).unlearn(sd, NEON)
    concept = done.report["concepts"][0]
    assert concept["prompt"] == "neon style"
    assert concept["guide"] == "photo style"
    assert concept["residual"] < concept["residual_before"]
    assert set(done.report["preserved_drift"]) == {"", "a cat"}
    assert set(done.report["drift"]) == {"a dog"}
    w = sd.named_parameters()
    names = [name for name in w if name in done.trained]
    old = torch.cat([w[name].double() for name in names])
    new = torch.cat([done.model.named_parameters()[name].double() for name in names])
    c, c_star = concept_columns(sd, "neon style", "photo style", "last")
    expected = (new @ c - old @ c_star).norm() / (old @ c_star).norm()
    assert concept["residual"] == pytest.approx(expected.item(), rel=1e-4)


def test_preserving_the_null_prompt_keeps_it(sd):
    drifts = [
        UCE(preserve_null=keep, columns="span", preserve_scale=50.0, probe=("",))
        .unlearn(sd, NEON)
        .report["drift"][""]
        for keep in (True, False)
    ]
    assert drifts[0] < drifts[1]


def test_a_guide_that_is_the_concept_is_a_no_op(sd):
    same = NEON.model_copy(update={"anchor": "neon style"})
    with pytest.raises(RunError, match="no-op"):
        UCE().unlearn(sd, same)


def test_an_anchor_that_is_to_be_erased_is_refused(sd):
    photo = ConceptRequest(kind="style", name="photo", prompts=("photo style",), anchor="cat")
    with pytest.raises(UsageError, match="'photo style' is to take the place of 'neon style'"):
        UCE().unlearn(sd, [NEON, photo])


def test_what_one_request_erases_no_other_keeps(sd):
    cat = ConceptRequest(kind="object", name="cat", prompts=("a cat",), anchor="a dog")
    report = UCE().unlearn(sd, [NEON, cat]).report
    assert set(report["preserved_drift"]) == {""}


def test_columns(sd):
    """The tiny tokenizer has a token a letter; position 0 is the begin-of-text token."""

    def rows(columns, prompt="a neon b", guide="a ink b"):
        c, c_star = concept_columns(sd, prompt, guide, columns)
        h, h_star = (sd.encode_prompt([text]).states[0].double() for text in (prompt, guide))

        def places(found, states):
            return [int((states - column).abs().sum(1).argmin()) for column in found.T]

        return places(c, h), places(c_star, h_star)

    assert rows("last") == ([6], [5])
    here, there = rows("span")
    assert (here[:3], there[:3]) == ([6, 7, 8], [5, 6, 7])
    assert len(here) == 48 - 6
    here, there = rows("all")
    assert here[:9] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert there[:9] == [0, 1, 2, 2, 3, 4, 5, 6, 7]
    c, c_star = concept_columns(sd, "neon", "", "last")
    assert c.shape == c_star.shape == (16, 1)
    assert torch.equal(c_star[:, 0], sd.encode_prompt([""]).states[0, 0].double())
