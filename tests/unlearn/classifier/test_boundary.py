"""Boundary Shrink and Boundary Expanding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from labelled import few_digits
from steps import SAMPLES, method, prepared, same, tensors
from torch import nn

from mu_vision.errors import UsageError
from mu_vision.models.classifier import Classifier
from mu_vision.unlearn.classifier.boundary_shrink import fgsm


def test_the_moved_pictures_stay_within_the_bound_and_in_range(digit_net):
    x, y = SAMPLES.forget.x, SAMPLES.forget.y
    moved = fgsm(digit_net, x, y, 0.1)
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(moved.min()) and float(moved.max()) <= 1
    before, after = (F.cross_entropy(digit_net.network(p), y) for p in (x, moved))
    assert after > before
    assert not any(p.requires_grad or p.grad is not None for p in digit_net.network.parameters())


def test_the_moved_pictures_do_not_depend_on_the_batch(digit_net):
    x, y = SAMPLES.forget.x, SAMPLES.forget.y
    torch.testing.assert_close(fgsm(digit_net, x, y, 0.1, batch=3), fgsm(digit_net, x, y, 0.1))


def test_a_step_goes_up_the_gradient_of_the_loss(digit_net):
    x, y = SAMPLES.forget.x.clamp(0.3, 0.7).requires_grad_(True), SAMPLES.forget.y
    gradient = torch.autograd.grad(F.cross_entropy(digit_net.network(x), y), x)[0]
    moved = fgsm(digit_net, x.detach(), y, 0.25)
    torch.testing.assert_close(moved, x.detach() + 0.25 * gradient.sign())


def test_without_a_bound_the_labels_are_what_the_original_says(digit_net):
    objective = prepared("boundary_shrink", digit_net, bound=0.0)
    assert torch.equal(objective.nearest, digit_net.logits(SAMPLES.forget.x).argmax(1))


def test_the_labels_stay_while_the_student_moves(digit_net):
    objective = prepared("boundary_shrink", digit_net, bound=0.3, epochs=3)
    before = objective.nearest.clone()
    wanted = digit_net.logits(fgsm(digit_net, SAMPLES.forget.x, SAMPLES.forget.y, 0.3)).argmax(1)
    assert torch.equal(before, wanted)
    with torch.no_grad():
        for parameter in objective.student.network.parameters():
            parameter.add_(1.0)
    objective.loss(objective.length() - 1)
    assert torch.equal(objective.nearest, before)


def test_every_sample_is_shown_with_its_own_label(digit_net):
    objective = prepared("boundary_shrink", digit_net, bound=0.3, batch=64)
    objective.student.network.eval()
    loss = objective.loss(0)["forget_loss"].detach()
    logits = digit_net.network(SAMPLES.forget.x)
    torch.testing.assert_close(loss, F.cross_entropy(logits, objective.nearest))


def test_one_output_is_added_and_the_first_say_what_they_said(digit_net):
    objective = prepared("boundary_expanding", digit_net)
    wide = objective.student.logits(SAMPLES.forget.x)
    assert wide.shape == (len(SAMPLES.rows), 11)
    torch.testing.assert_close(wide[:, :10], digit_net.logits(SAMPLES.forget.x))
    assert objective.student.named_parameters()["network.9.weight"].requires_grad
    assert digit_net.logits(SAMPLES.forget.x).shape[1] == 10
    assert objective.loss(0)["forget_loss"].isfinite()


def test_what_is_forgotten_is_taught_the_extra_class_and_the_output_is_dropped(digit_net):
    objective = prepared("boundary_expanding", digit_net)
    objective.student.network.eval()
    logits = objective.student.network(SAMPLES.forget.x)
    extra = torch.full((len(SAMPLES.rows),), 10)
    torch.testing.assert_close(objective.loss(0)["forget_loss"], F.cross_entropy(logits, extra))
    objective.finish()
    assert objective.student.logits(SAMPLES.forget.x).shape == (len(SAMPLES.rows), 10)
    assert same(tensors(objective.student), tensors(digit_net))


def test_the_unlearned_network_has_as_many_outputs_as_before_and_can_be_saved(digit_net, tmp_path):
    done = method("boundary_expanding", epochs=3).unlearn(digit_net, SAMPLES).model
    assert tensors(done).keys() == tensors(digit_net).keys()
    assert done.logits(SAMPLES.forget.x).shape[1] == 10
    again = Classifier.load(done.save(tmp_path / "expanded"))
    assert torch.equal(again.logits(SAMPLES.forget.x), done.logits(SAMPLES.forget.x))


def test_a_head_without_bias_is_widened_too():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    model = Classifier(network, few_digits().classes)
    done = method("boundary_expanding").unlearn(model, SAMPLES).model
    assert done.network[1].bias is None and done.network[1].weight.shape == (10, 64)


def test_a_head_that_is_no_linear_layer_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(
        UsageError, match=r"method boundary_expanding: the last layer of convnet is not linear\."
    ):
        method("boundary_expanding").unlearn(
            Classifier(network, few_digits().classes, name="convnet"), SAMPLES
        )
