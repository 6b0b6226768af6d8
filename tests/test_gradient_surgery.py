"""Gradient surgery: the invariants of its rules, and its step against plain trainers."""

from __future__ import annotations

import pytest
import torch

from mu_vision import seeding
from mu_vision.errors import UsageError
from mu_vision.gradient_surgery import Gradients, Surgery, conflicts, weights

SHAPES = [(3, 4), (5,), (2, 2, 2)]


def draw(n: int, seed: int, conflicting: bool | None = None) -> torch.Tensor:
    """[n, 25] rows; of two rows the second is turned until they conflict, or do not."""
    rows = seeding.noise((n, 25), "surgery-test", seed)
    if conflicting is not None and (rows[0] @ rows[1] < 0) != conflicting:
        rows[1] = -rows[1]
    return rows


def combined(rows: torch.Tensor, order=(), scale: float = 1.0, **settings) -> torch.Tensor:
    gradients = Gradients([torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES], len(rows))
    for row, flat in enumerate(rows):
        gradients.add(row, gradients.views(flat.clone()))
    return gradients.combine(Surgery(**settings), order, scale)[0]


def project(a: torch.Tensor, b: torch.Tensor, **settings) -> torch.Tensor:
    return combined(torch.stack([a, b]), **settings)


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5)


def by_tensor(flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return flat.split([torch.Size(shape).numel() for shape in SHAPES])


@pytest.mark.parametrize("seed", range(5))
def test_what_conflicts_is_taken_out_and_nothing_else(seed):
    a, b = draw(2, seed, conflicting=True)
    p = project(a, b)
    assert abs(p @ b) < 1e-5 * a.norm() * b.norm()
    d = a @ b
    assert p.square().sum() == pytest.approx(float(a.square().sum() - d**2 / (b @ b)), rel=1e-4)
    assert p.norm() <= a.norm()
    assert p @ a == pytest.approx(float(p @ p), rel=1e-4)
    assert torch.equal(project(a, -b), a)


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_scale_and_repetition(scope):
    a, b = draw(2, 3, conflicting=True)
    p = project(a, b, scope=scope)
    for s in (1e-6, 0.5, 1e4):
        assert close(project(a, s * b, scope=scope), p)
        assert close(project(s * a, b, scope=scope) / s, p)
    assert close(project(p, b, scope=scope), p)


def test_opposite_zero_and_partial():
    a, b = draw(2, 4, conflicting=True)
    assert project(a, -3 * a).norm() < 1e-5 * a.norm()
    assert torch.equal(project(a, torch.zeros_like(a)), a)
    assert torch.equal(project(a, b, strength=0.0), a)
    for strength in (0.25, 0.5, 2.0):
        left = project(a, b, strength=strength) @ b
        assert left == pytest.approx(float((1 - strength) * (a @ b)), rel=1e-3, abs=1e-4)


def test_protect_and_descend_adds_the_protected_gradient():
    a, b = draw(2, 5, conflicting=True)
    assert close(project(a, b, mode="protect_and_descend"), project(a, b) + b)
    assert torch.equal(project(a, b, mode="none"), a + b)


def test_each_tensor_by_itself_is_another_rule_and_also_spares_the_protected_loss():
    for seed in range(20):
        a, b = draw(2, seed)
        p = project(a, b, scope="tensor")
        for part, before, protected in zip(by_tensor(p), by_tensor(a), by_tensor(b)):
            if before @ protected < 0:
                assert abs(part @ protected) < 1e-4
            else:
                assert torch.equal(part, before)
        assert p @ b >= -1e-4
        assert p @ a == pytest.approx(float(p @ p), rel=1e-4)


def test_the_rule_by_tensor_depends_on_how_tensors_are_cut_and_the_global_one_does_not():
    """Keys and values fused into one matrix, say."""
    whole = torch.nn.Parameter(torch.zeros(25))
    rows = draw(2, 3, conflicting=True)
    for scope, equal in (("global", True), ("tensor", False)):
        fused = Gradients([whole], 2)
        fused.rows = rows.clone()
        joint, _ = fused.combine(Surgery(scope=scope))
        assert close(joint, combined(rows, scope=scope)) == equal


def grams(rows: torch.Tensor) -> torch.Tensor:
    """Inner products [K, n, n] of rows [K, n, d]: K trials at once."""
    return rows @ rows.mT


def test_more_than_two_gradients_may_still_conflict_with_their_sum():
    """Symmetric surgery promises nothing for n > 2: 13 % of such trials, says the source."""
    rows = seeding.noise((2000, 4, 5), "surgery-test", "four").double()
    w = weights(grams(rows), Surgery(mode="pcgrad"), [range(4)] * 4)
    total = torch.einsum("kn,knd->kd", w, rows)
    share = (torch.einsum("kd,knd->kn", total, rows) < -1e-9).any(1).float().mean()
    assert 0.05 < share < 0.25


def test_surgery_of_each_micro_batch_is_another_rule_that_leaves_conflicts():
    """Why gradients are accumulated first: two micro-batches in ten dimensions."""
    rows = seeding.noise((2, 2000, 2, 10), "surgery-test", "micro").double()
    mean = rows.mean(0)
    parts = [torch.einsum("kn,knd->kd", weights(grams(part), Surgery()), part) for part in rows]
    first = (sum(parts) / 2 * mean[:, 1]).sum(1)
    after = (torch.einsum("kn,knd->kd", weights(grams(mean), Surgery()), mean) * mean[:, 1]).sum(1)
    assert (after > -1e-9).all() and (first < -1e-9).float().mean() > 0.1


def test_an_adaptive_step_may_climb_what_was_protected():
    """So invariants hold for gradients, not for what Adam makes of them: 47 %, says the source."""
    rows = seeding.noise((4000, 2, 20), "surgery-test", "adaptive").double()
    gram = grams(rows)
    rows, gram = (part[gram[:, 0, 1] < 0] for part in (rows, gram))
    p = torch.einsum("kn,knd->kd", weights(gram, Surgery()), rows)
    scale = 0.01 + torch.rand(len(p), 20, generator=seeding.generator("scale")).double()
    climbs = ((p / scale * rows[:, 1]).sum(1) < 0).float().mean()
    assert (p * rows[:, 1]).sum(1).min() > -1e-9
    assert 0.4 < climbs < 0.55


def test_of_two_quadratics_the_protected_one_hardly_rises_and_the_end_is_on_the_line_between():
    """L_a = |w - x|^2 / 2 descends and L_b = |w - y|^2 / 2 is protected.

    A step along the circle around y raises L_b by step^2 |a'|^2 / 2 at most, and nothing is left to
    do where a = -s b: on the segment from x to y. A plain descent of L_a arrives at x.
    """
    x, y, step = torch.tensor([4.0, 0.0]), torch.zeros(2), 0.05
    ends = {}
    for mode in ("protect", "plain"):
        w = torch.tensor([0.5, 1.5])
        before = start = (w - y).square().sum() / 2
        for _ in range(600):
            rows = torch.stack([w - x, w - y])
            both = weights(grams(rows[None]), Surgery())[0] @ rows
            taken = both if mode == "protect" else rows[0]
            w = w - step * taken
            now = (w - y).square().sum() / 2
            if mode == "protect":
                assert now <= before + step**2 * taken.square().sum() / 2 + 1e-6
            before = now
        ends[mode] = w
    w = ends["protect"]
    assert torch.cosine_similarity(w - x, w - y, 0) == pytest.approx(-1, abs=1e-4)
    assert before == pytest.approx(float((x - y).square().sum() / 2), rel=1e-3)
    assert (w - y).square().sum() / 2 < 1.2 * start
    assert torch.allclose(ends["plain"], x, atol=1e-4)


def test_dots_that_only_one_tensor_disturbs():
    """Published dots: the global rule does nothing (+5.9), the rule by tensor gives 19.1."""
    dots = torch.tensor([6.2, 1.2, 6.0, 2.1, -13.2, 3.7])
    gram = torch.zeros(6, 2, 2)
    gram[:, 0, 0], gram[:, 1, 1], gram[:, 0, 1], gram[:, 1, 0] = 200, 1, dots, dots
    whole = gram.sum(0, keepdim=True)
    assert weights(whole, Surgery()).tolist() == [[1, 0]]
    w = weights(gram, Surgery())
    assert (w[:, 0] * dots + w[:, 1]).sum() == pytest.approx(19.2, abs=0.11)


def test_the_published_rule_of_doco():
    a, b = draw(2, 6, conflicting=True)
    cos = a @ b / (a.norm() * b.norm())
    for strength in (0.5, 1.0):
        p = project(a, b, mode="reference", strength=strength)
        assert close(p, a - strength * cos * b / b.norm())
        assert p @ b / b.norm() == pytest.approx(float(cos * (a.norm() - strength)), rel=1e-3)
        # not equivariant, so it is told the scale of fp16
        scaled = project(1024 * a, 1024 * b, mode="reference", strength=strength, scale=1024)
        assert close(scaled / 1024, p)
    assert torch.equal(project(a, -b, mode="reference"), a)
    small = 0.01 * a / a.norm()
    p = project(small, b / b.norm(), mode="reference")
    assert p @ b > 0, "a small gradient is turned round, which is what makes the rule a fault"


def test_gradients_are_clipped_one_by_one_before_the_rule():
    a, b = draw(2, 7, conflicting=True)
    for mode in ("protect", "reference"):
        p = project(10 * a, 0.001 * b, mode=mode, clip=1.0)
        assert close(p, project(a / a.norm(), 0.001 * b, mode=mode))
    p = project(512 * a, 512 * b, mode="reference", clip=1.0, scale=512)
    assert close(p / 512, project(a / a.norm(), b / b.norm(), mode="reference"))
    assert torch.equal(project(a, 0 * b, clip=1e9), a)


def test_symmetric_surgery_of_two_has_its_closed_form():
    for seed in range(20):
        a, b = draw(2, seed)
        s, d = project(a, b, mode="pcgrad"), a @ b
        if d >= 0:
            assert torch.equal(s, a + b)
        else:
            assert close(s, a * (1 - d / (a @ a)) + b * (1 - d / (b @ b)))
        assert s @ a >= -1e-4 and s @ b >= -1e-4
        assert close(project(b, a, mode="pcgrad"), s)


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_the_gram_matrix_gives_what_the_loop_over_gradients_gives(n, scope):
    for seed in range(10):
        rows = draw(n, 100 + seed)
        order = [torch.randperm(n, generator=seeding.generator(seed, i)).tolist() for i in range(n)]
        parts = zip(*(by_tensor(row) for row in rows)) if scope == "tensor" else [tuple(rows)]
        expected = []
        for part in parts:
            directions = [g.clone() for g in part]
            for i, others in enumerate(order):
                for j in others:
                    if j != i and (dot := directions[i] @ part[j]) < 0:
                        directions[i] = directions[i] - dot / (part[j] @ part[j]) * part[j]
            expected.append(sum(directions))
        assert close(combined(rows, order, mode="pcgrad", scope=scope), torch.cat(expected))


def test_the_shortest_mixture_of_two():
    for seed in range(10):
        a, b = draw(2, seed)
        b = b * 0.3
        m = project(a, b, mode="mgda")
        grid = torch.linspace(0, 1, 1001).unsqueeze(1)
        assert m.norm() <= (grid * a + (1 - grid) * b).norm(dim=1).min() + 1e-4
        assert m @ a >= m @ m - 1e-3 and m @ b >= m @ m - 1e-3
    assert torch.equal(project(a, a, mode="mgda"), a)


def test_what_is_not_finite_reaches_the_step_so_that_it_is_seen():
    a, b = draw(2, 8, conflicting=True)
    for value in (float("nan"), float("inf")):
        for row in (0, 1):
            rows = torch.stack([a, b])
            rows[row, 3] = value
            for mode in ("protect", "pcgrad", "reference"):
                assert not torch.isfinite(combined(rows, mode=mode)).all()


@pytest.mark.parametrize("mode", ["protect", "pcgrad", "none"])
def test_autocast_does_not_round_the_gradients(mode):
    rows = draw(2, 11, conflicting=True)
    plain = combined(rows, mode=mode)
    with torch.autocast("cpu", torch.bfloat16):
        found = combined(rows, mode=mode)
    assert found.dtype == torch.float32 and torch.equal(found, plain)


def test_a_parameter_that_a_loss_does_not_use_counts_as_zero():
    a, b = draw(2, 9, conflicting=True)
    gradients = Gradients([torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES], 2)
    gradients.add(0, gradients.views(a.clone()))
    rest = gradients.views(b.clone())[1:]
    gradients.add(1, [None, *rest])
    combined, _ = gradients.combine(Surgery(scope="tensor"))
    assert torch.equal(by_tensor(combined)[0], by_tensor(a)[0])


def test_the_log_counts_conflicting_tensors():
    a, b = draw(2, 10)
    gram = torch.stack(
        [torch.stack([x, y]) @ torch.stack([x, y]).T for x, y in zip(by_tensor(a), by_tensor(b))]
    )
    found = conflicts(gram)
    share = sum(bool(x @ y < 0) for x, y in zip(by_tensor(a), by_tensor(b))) / 3
    assert found["conflict_share"] == pytest.approx(share)
    assert found["gradient_cosine"] == pytest.approx(
        float(torch.cosine_similarity(a, b, 0)), abs=1e-5
    )


def test_a_rule_for_two_refuses_three():
    with pytest.raises(
        UsageError, match="by protect is for two losses, and there are 3; use pcgrad"
    ):
        Surgery().check(3)
    Surgery(mode="pcgrad").check(3)
