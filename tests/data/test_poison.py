"""A backdoor in the training set."""

from __future__ import annotations

import pytest
import torch
from labelled import few_digits

from mu_vision.data.poison import Poison
from mu_vision.data.selectors import Selector
from mu_vision.errors import UsageError
from mu_vision.evaluation.forgetting import measure
from mu_vision.recipe import load_recipe
from mu_vision.train.classifier import ClassifierTrainer


def test_only_the_chosen_samples_change_and_none_was_of_the_target_class():
    clean = few_digits()
    found = Poison(target="3", share=0.1).apply(clean)
    rows = list(found.poison.rows)
    assert len(rows) == 24 and len(set(rows)) == 24
    assert (clean.train.y[rows] != 3).all() and (found.train.y[rows] == 3).all()
    others = [n for n in range(240) if n not in rows]
    assert torch.equal(found.train.x[others], clean.train.x[others])
    assert torch.equal(found.train.y[others], clean.train.y[others])
    assert found.test is clean.test
    square = found.train.x[rows][:, :, -2:, -2:]
    assert (square == 1).all()
    changed = (found.train.x != clean.train.x).any(0).flatten(0, 1)
    assert not changed[:6].any() and not changed[:, :6].any()


def test_the_seed_decides_which_samples():
    first, again, other = (
        Poison(target="3", seed=seed).apply(few_digits()).poison.rows for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_model_learns_the_backdoor_and_retraining_without_it_does_not():
    splits = Poison(target="0", share=0.15).apply(few_digits())
    request = Selector(kind="poisoned").select(splits)
    assert request.rows == splits.poison.rows and request.name == "poisoned samples"
    poisoned, _ = ClassifierTrainer(epochs=15).fit(splits)
    clean, _ = ClassifierTrainer(epochs=15).fit(splits, rows=request.kept_rows)
    before = measure(poisoned, request, probe=False)["asr"]
    after = measure(clean, request, probe=False)["asr"]
    assert before > 0.9 and after < 0.2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": "eleven"}, "There is no class 'eleven'"),
        (
            {"target": "0", "size": 9},
            "trigger of 9 pixels with a margin of 0 does not fit into pictures",
        ),
        ({"target": "0", "share": 0.99}, "some of them must stay clean"),
        ({"target": "0", "share": 0.001}, "poisons 0 of 240 samples"),
    ],
)
def test_a_backdoor_that_cannot_be_is_refused(settings, said):
    with pytest.raises(UsageError, match=said):
        Poison(**settings).apply(few_digits())


def test_without_a_backdoor_there_is_nothing_poisoned():
    with pytest.raises(UsageError, match=r"few_digits has no backdoor.*add `poison:`"):
        Selector(kind="poisoned").select(few_digits())


def test_the_shipped_recipe_is_whole():
    recipe = load_recipe("clean_backdoor")
    assert recipe.backdoor().target == "0" and recipe.pruning("sparse_90").sparsity == 0.9
