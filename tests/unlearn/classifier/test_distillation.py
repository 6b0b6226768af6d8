"""KL, SCRUB and BadT."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from labelled import few_digits
from steps import CPU, SAMPLES, THREES, method, prepared, result, same, tensors

from mu_vision.data.labelled import digits
from mu_vision.errors import UsageError
from mu_vision.loop import train
from mu_vision.unlearn.classifier.base import kl
from mu_vision.unlearn.classifier.scrub import rewind_epoch


def logits(seed: int, rows: int = 6, classes: int = 5) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_zero_with_zero_gradient_where_both_agree(temperature):
    teacher = logits(0)
    student = teacher.clone().requires_grad_(True)
    value = kl(teacher, student, temperature)
    value.backward()
    assert abs(float(value.detach())) < 1e-6
    assert float(student.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_is_cross_entropy_minus_entropy_times_the_square_of_the_temperature(temperature):
    t, s = logits(0).double(), logits(1).double()
    p, q = (F.softmax(z / temperature, 1) for z in (t, s))
    expected = (-(p * q.log()).sum(1) + (p * p.log()).sum(1)).mean() * temperature**2
    torch.testing.assert_close(kl(t, s, temperature), expected)


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient():
    sizes = []
    for temperature in (20.0, 40.0, 80.0):
        student = logits(1).requires_grad_(True)
        kl(logits(0), student, temperature).backward()
        sizes.append(float(student.grad.norm()))
    assert max(sizes) / min(sizes) < 1.1


def test_kl_has_no_gradient_in_the_teacher():
    teacher, student = logits(0).requires_grad_(True), logits(1).requires_grad_(True)
    kl(teacher, student).backward()
    assert teacher.grad is None and student.grad is not None


def test_kl_stands_probabilities_of_zero():
    teacher, student = torch.tensor([[500.0, 0.0, -500.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    assert float(kl(teacher, student)) == pytest.approx(torch.tensor(3.0).log().item(), abs=1e-5)


def order_of(objective) -> list[tuple[int, str]]:
    """Epoch and pass, each once a run of steps."""
    told = [(epoch, sweep.name) for epoch, sweep, _ in objective.plan]
    return [one for n, one in enumerate(told) if n == 0 or told[n - 1] != one]


def test_the_first_epochs_climb_and_then_descend_and_later_ones_descend(digit_net):
    objective = prepared("scrub", digit_net, epochs=4, max_epochs=2)
    assert order_of(objective) == [
        (0, "forget"), (0, "retain"), (1, "forget"), (1, "retain"), (2, "retain"), (3, "retain")
    ]  # fmt: skip
    assert order_of(prepared("scrub", digit_net, epochs=2, max_epochs=0)) == [
        (0, "retain"), (1, "retain")
    ]  # fmt: skip


def test_scrub_without_max_passes_and_teacher_is_finetuning_bit_for_bit(digit_net):
    plain = result("scrub", digit_net, epochs=2, max_epochs=0, alpha=0.0, gamma=1.0)
    assert same(plain, result("finetune", digit_net, epochs=2))


def test_the_teacher_of_scrub_stays_while_the_student_leaves(digit_net):
    before = tensors(digit_net)
    m = method("scrub", epochs=3, max_epochs=2)
    objective = m.objective(digit_net, (SAMPLES,))
    train(objective, m.loop_config(objective.length()))
    assert objective.teacher is digit_net and not digit_net.network.training
    assert same(tensors(digit_net), before)
    assert not same(tensors(objective.student), before)
    assert torch.equal(objective.known["forget"], digit_net.logits(SAMPLES.forget.x))


def test_scrub_climbs_and_descends_the_losses_it_says(digit_net):
    objective = prepared("scrub", digit_net, alpha=0.3, gamma=0.7, temperature=2.0)
    student = objective.student.network.eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(0.9)
    r, f = SAMPLES.retain, SAMPLES.forget
    rows = torch.arange(30)
    losses = objective.descend(r.x[rows], r.y[rows], rows)
    told, said = digit_net.network(r.x[rows]), student(r.x[rows])
    torch.testing.assert_close(losses["ce_loss"], 0.7 * F.cross_entropy(said, r.y[rows]))
    torch.testing.assert_close(losses["kl_loss"], 0.3 * kl(told, said, 2.0))
    rows = torch.tensor([4, 1])
    climbed = objective.climb(f.x[rows], f.y[rows], rows)["forget_loss"]
    torch.testing.assert_close(climbed, -kl(digit_net.network(f.x[rows]), student(f.x[rows]), 2.0))


def test_an_augmented_batch_is_shown_to_the_teacher_as_well(digit_net):
    splits = replace(SAMPLES.splits, augment=True)
    objective = prepared("scrub", digit_net, replace(SAMPLES, splits=splits))
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(
        objective.teach("forget", x, torch.arange(3)), digit_net.network(x).detach()
    )


@pytest.mark.parametrize(
    ("errors", "reference", "epoch"),
    [([0.0, 0.4, 0.9], 0.5, 1), ([1.0, 0.9, 0.2], 0.0, 2), ([0.7], 0.0, 0), ([0.4, 0.6], 0.5, 1)],
)
def test_the_epoch_nearest_to_the_reference_is_chosen_and_of_equal_ones_the_last(
    errors, reference, epoch
):
    assert rewind_epoch(errors, reference) == epoch


HELD_OUT = replace(few_digits(), validation=digits().test.take(range(200, 320)))
KEPT, GONE = replace(SAMPLES, splits=HELD_OUT), replace(THREES, splits=HELD_OUT)
REWIND = {"epochs": 3, "max_epochs": 3, "lr": 0.02, "batch": 20, "rewind": True}


def run(model, request=KEPT, **settings):
    m = method("scrub", **{**REWIND, **settings})
    objective = m.objective(model, (request,))
    train(objective, m.loop_config(m.steps or objective.length()))
    return objective


def test_scrub_goes_back_to_the_epoch_of_the_nearest_error(digit_net):
    objective = run(digit_net, GONE)
    last = tensors(objective.student)
    assert len(objective.kept) == 3 and same(objective.kept[-1], last)
    errors = [objective._error(kept) for kept in objective.kept]
    objective.student.network.load_state_dict(last)
    held_out = HELD_OUT.validation
    threes = held_out.take((held_out.y == 3).nonzero().flatten())
    reference = float((objective.student.logits(threes.x).argmax(1) != 3).float().mean())
    assert objective._reference() == pytest.approx(reference)
    objective.finish()
    chosen = min(range(3), key=lambda n: (abs(errors[n] - reference), -n))
    assert same(tensors(objective.student), objective.kept[chosen])
    assert same(result("scrub", digit_net, GONE, **REWIND), objective.kept[chosen])


def test_the_test_set_is_no_part_of_the_choice(digit_net):
    wrong = replace(HELD_OUT.test, y=(HELD_OUT.test.y + 1) % 10)
    other = replace(KEPT, splits=replace(HELD_OUT, test=wrong))
    assert run(digit_net)._reference() == run(digit_net, other)._reference()
    assert same(
        result("scrub", digit_net, KEPT, **REWIND), result("scrub", digit_net, other, **REWIND)
    )


@pytest.mark.parametrize(("steps", "kept"), [(3, 1), (15, 2), (90, 7)])
def test_scrub_keeps_the_weights_after_each_epoch_whatever_the_steps(steps, kept, digit_net):
    """An epoch is 14 steps here, a plan 42; the last weights are always among what is kept."""
    objective = run(digit_net, steps=steps, lr=1e-4, batch=19)
    assert len(objective.plan) == 42
    assert len(objective.kept) == kept
    assert same(objective.kept[-1], tensors(objective.student))


def test_a_rewound_run_goes_on_with_what_it_kept(digit_net):
    objective = run(digit_net)
    fresh = method("scrub", **REWIND).objective(digit_net, (KEPT,))
    fresh.prepare(CPU)
    fresh.load_state(objective.state())
    assert all(same(a, b) for a, b in zip(objective.kept, fresh.kept, strict=True))


def test_classes_without_validation_samples_do_not_count_in_the_reference(digit_net):
    held_out = HELD_OUT.validation
    without = held_out.take((held_out.y != 3).nonzero().flatten())
    splits = replace(HELD_OUT, validation=without)
    objective = run(digit_net, replace(SAMPLES, splits=splits))
    assert 0 <= objective._reference() <= 1
    with pytest.raises(
        UsageError,
        match=r"method scrub: rewind=true compares with validation samples of the forgotten classes,"
        r" and few_digits has none; train the original with validation=0\.1\.",
    ):
        method("scrub", **REWIND).unlearn(digit_net, replace(THREES, splits=splits))
    with pytest.raises(UsageError, match="and few_digits has none"):
        method("scrub", **REWIND).unlearn(digit_net, SAMPLES)


def test_each_sample_has_the_teacher_of_its_set(digit_net):
    before = tensors(digit_net)
    objective = prepared("bad_teacher", digit_net, share=0.25)
    n, shown = len(SAMPLES.rows), round(0.25 * 220)
    x = objective.mixed.x
    assert len(x) == len(objective.targets) == n + shown
    assert torch.equal(x[:n], SAMPLES.forget.x)
    torch.testing.assert_close(objective.targets[:n], objective.incompetent.logits(x[:n]))
    torch.testing.assert_close(objective.targets[n:], digit_net.logits(x[n:]))
    kept = {picture.numpy().tobytes() for picture in SAMPLES.retain.x}
    assert all(picture.numpy().tobytes() in kept for picture in x[n:])
    rows = torch.tensor([n, 0, n + shown - 1, n - 1])
    torch.testing.assert_close(objective.target(x[rows], rows), objective.targets[rows])
    bad = tensors(objective.incompetent)
    assert not same(bad, before)
    train(objective, method("bad_teacher").loop_config(objective.length()))
    assert same(tensors(objective.incompetent), bad) and same(tensors(digit_net), before)


def test_the_loss_of_a_batch_reads_the_targets_of_its_rows(digit_net):
    objective = prepared("bad_teacher", digit_net)
    student = objective.student.network.eval()
    rows = torch.tensor([50, 3, 19, 20])
    x, y = objective.mixed.x[rows], objective.mixed.y[rows]
    expected = kl(objective.targets[rows], student(x))
    torch.testing.assert_close(objective.imitate(x, y, rows)["kl_loss"], expected)


def test_kept_samples_alone_give_an_untouched_student_no_gradient(digit_net):
    objective = prepared("bad_teacher", digit_net)
    student = objective.student.network.eval()
    rows = torch.arange(len(SAMPLES.rows), len(objective.mixed))
    loss = objective.imitate(objective.mixed.x[rows], objective.mixed.y[rows], rows)["kl_loss"]
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    assert abs(float(loss.detach())) < 1e-6
    assert max(float(g.abs().max()) for g in gradients) < 1e-6


def test_all_of_the_retain_set_can_be_shown(digit_net):
    objective = prepared("bad_teacher", digit_net, share=1.0)
    assert len(objective.mixed) == 240
    assert len({picture.numpy().tobytes() for picture in objective.mixed.x}) >= 239
