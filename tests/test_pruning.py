"""Pruning: counts, magnitudes, SynFlow's laws, and masks that every method keeps."""

from __future__ import annotations

import pytest
import torch
from labelled import few_digits
from torch import nn

from mu_vision import pruning, registry
from mu_vision.data.labelled import Labelled, Splits
from mu_vision.data.selectors import Selector, forget_rows
from mu_vision.errors import UsageError
from mu_vision.models.classifier import Classifier
from mu_vision.pruning import Pruning, pruned_masks, sparsity_of, synflow_scores
from mu_vision.train.classifier import ClassifierTrainer
from mu_vision.validation import validated

HOW = ("omp", "imp", "synflow", "random")
QUICK = ClassifierTrainer(epochs=2, batch=80)
CONVOLUTIONS = ("network.0.weight", "network.4.weight")
SIZE = 32 * 9 + 64 * 32 * 9
METHODS = registry.names("method", "classifier")


def untrained(seed: int = 0) -> Classifier:
    return Classifier.build("small_cnn", few_digits().classes, 1, seed)


def alive(masks: dict[str, torch.Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


@pytest.fixture(scope="module")
def sparse() -> Classifier:
    return Pruning(how="random", sparsity=0.8).prune(None, few_digits(), QUICK)


@pytest.mark.parametrize("how", HOW)
def test_the_share_that_was_asked_for_is_pruned(how):
    start = untrained()
    before = start.fingerprint()
    model = Pruning(how=how, sparsity=0.9, rounds=20).prune(start, few_digits(), QUICK)
    assert set(model.mask) == set(CONVOLUTIONS)
    assert all(mask.dtype == torch.bool for mask in model.mask.values())
    assert alive(model.mask) == round(0.1 * SIZE)
    for name, weight in model.named_parameters().items():
        if name in model.mask:
            assert torch.equal(weight != 0, model.mask[name])
        assert not weight.requires_grad
        assert not torch.equal(weight, start.named_parameters()[name])
    assert sparsity_of(model) == pytest.approx(0.9, abs=1 / SIZE)
    assert not any("_orig" in n or "_mask" in n for n in model.network.state_dict())
    assert start.fingerprint() == before
    assert not start.mask
    again = Pruning(how=how, sparsity=0.9, rounds=20).prune(None, few_digits(), QUICK)
    assert again.fingerprint() == model.fingerprint()


@pytest.mark.parametrize("how", HOW)
def test_at_rate_0_the_dense_model_is_trained(how):
    model = Pruning(how=how, sparsity=0).prune(None, few_digits(), QUICK)
    assert model.fingerprint() == QUICK.fit(few_digits())[0].fingerprint()
    assert alive(model.mask) == SIZE
    assert sparsity_of(model) == 0


@pytest.mark.parametrize("kept", [0, 1, 1000, SIZE])
def test_the_largest_magnitudes_of_all_layers_together_are_kept(kept):
    model = untrained()
    before = model.fingerprint()
    masks = pruned_masks(model, kept)
    assert alive(masks) == kept
    assert model.fingerprint() == before
    weights = model.named_parameters()
    stays = torch.cat([weights[n][masks[n]].abs() for n in CONVOLUTIONS])
    goes = torch.cat([weights[n][~masks[n]].abs() for n in CONVOLUTIONS])
    if 0 < kept < SIZE:
        assert stays.min() >= goes.max()
        assert alive({"": masks[CONVOLUTIONS[0]]}) != round(kept * 288 / SIZE)  # not layer by layer


def test_omp_trains_from_the_first_weights_under_the_mask_of_the_trained_ones():
    start = QUICK.untrained(few_digits())
    dense = QUICK.fit(few_digits())[0]
    start.mask = pruned_masks(dense, round(0.25 * SIZE))
    expected = QUICK.fit(few_digits(), model=start)[0]
    found = Pruning(how="omp", sparsity=0.75).prune(None, few_digits(), QUICK)
    assert found.fingerprint() == expected.fingerprint()
    assert all(torch.equal(found.mask[n], start.mask[n]) for n in CONVOLUTIONS)


def test_imp_keeps_four_fifths_a_round():
    for rounds in (1, 3, 7):
        counts = Pruning(how="imp", sparsity=1 - 0.8**rounds).kept_by_round(untrained())
        assert len(counts) == rounds
        for k, count in enumerate(counts, 1):
            assert abs(count - SIZE * 0.8**k) <= 1
    first = Pruning(how="imp", sparsity=0.2).prune(None, few_digits(), QUICK)
    second = Pruning(how="imp", sparsity=0.3).prune(None, few_digits(), QUICK)
    assert alive(second.mask) == round(0.7 * SIZE)  # the last round prunes what is missing
    for name in CONVOLUTIONS:
        assert not (second.mask[name] & ~first.mask[name]).any()


def test_rewinding_begins_at_the_weights_of_an_epoch():
    steady = ClassifierTrainer(epochs=3, batch=80, schedule="constant")
    start = untrained()
    whole = pruning._fit(steady, start, few_digits(), rewind=6)
    two = ClassifierTrainer(epochs=2, batch=80, schedule="constant").fit(few_digits(), model=start)
    assert whole.kept.fingerprint() == two[0].fingerprint()
    assert whole.student.fingerprint() != whole.kept.fingerprint()
    late = pruning._fit(steady, whole.kept, few_digits(), first=9)
    assert late.student.fingerprint() == whole.kept.fingerprint()
    for how in ("omp", "imp"):
        early, later = (
            Pruning(how=how, sparsity=0.3, rewind_epochs=epochs).prune(start, few_digits(), steady)
            for epochs in (0, 2)
        )
        assert early.fingerprint() != later.fingerprint()
        assert alive(later.mask) == round(0.7 * SIZE)
    # one epoch of small steps after rewinding stays near the weights rewound to
    name = CONVOLUTIONS[1]
    kept, mask = whole.kept.named_parameters()[name], later.mask[name]
    there, far = ((w - kept)[mask].norm() for w in (later.named_parameters()[name],
                                                    early.named_parameters()[name]))  # fmt: skip
    assert there < far


# SynFlow


def chain() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 8, 3, bias=False), nn.ReLU(),
            nn.Conv2d(8, 5, 3, bias=False), nn.Flatten(), nn.Linear(20, 10, bias=False),
        )  # fmt: skip
    return Classifier(network, few_digits().classes)


def test_synflow_conserves_the_flow_through_a_chain():
    model = chain()
    scores = synflow_scores(model, (1, 8, 8))
    assert all((score >= 0).all() for score in scores.values())
    assert all(score.shape == model.named_parameters()[n].shape for n, score in scores.items())
    twin = model.clone().freeze()
    for weight in twin.named_parameters().values():
        weight.abs_()
    flow = float(twin.logits(torch.ones(1, 1, 8, 8)).sum())
    assert len(scores) == 3
    for score in scores.values():
        assert float(score.sum()) == pytest.approx(flow, rel=1e-5)
    sums = [float(score.sum()) for score in synflow_scores(untrained(), (1, 8, 8)).values()]
    assert sums[0] == pytest.approx(sums[1], rel=1e-10)


def test_synflow_sees_neither_data_nor_signs():
    few = few_digits()
    other = Splits("other", Labelled(1 - few.train.x, few.train.y, few.classes), few.test)
    settings = Pruning(how="synflow", sparsity=0.9, rounds=5)
    first, second = (settings.prune(None, data, QUICK) for data in (few, other))
    assert first.fingerprint() != second.fingerprint()
    assert all(torch.equal(first.mask[n], second.mask[n]) for n in CONVOLUTIONS)
    model = chain()
    negated = model.clone().freeze()
    for weight in negated.named_parameters().values():
        weight.neg_()
    before, after = (synflow_scores(m, (1, 8, 8)) for m in (model, negated))
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_synflow_prunes_by_a_geometric_schedule():
    counts = Pruning(how="synflow", sparsity=0.99).kept_by_round(untrained())
    assert len(counts) == 100
    assert counts[49] == pytest.approx(SIZE * 0.01**0.5, abs=1)
    assert counts[-1] == round(0.01 * SIZE)
    collapsed = Pruning(how="synflow", sparsity=0.99).prune(None, few_digits(), QUICK)
    assert all(mask.any() for mask in collapsed.mask.values())  # no layer is cut through


def test_random_masks_follow_the_seed():
    masks = [
        Pruning(how="random", sparsity=0.5, seed=seed).prune(None, few_digits(), QUICK).mask
        for seed in (0, 0, 1)
    ]
    name = CONVOLUTIONS[1]
    assert torch.equal(masks[0][name], masks[1][name])
    assert not torch.equal(masks[0][name], masks[2][name])
    assert masks[0][name].float().mean() == pytest.approx(0.5, abs=0.02)


# afterwards


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_pruned_weights_0(name, sparse):
    cls = registry.get("method", name, "classifier")
    request = forget_rows(few_digits(), range(0, 40, 2))
    if cls.class_wise:
        request = Selector(kind="class", of="3").select(few_digits())
    done = cls.from_settings(cls.trial).unlearn(sparse, request).model
    assert set(done.mask) == set(CONVOLUTIONS)
    for key, mask in done.mask.items():
        assert torch.equal(mask, sparse.mask[key])
        assert (done.named_parameters()[key][~mask] == 0).all()
    assert sparsity_of(done) == sparsity_of(sparse)


def test_a_sparse_model_is_saved_and_pruned_further(sparse, tmp_path):
    sparse.save(tmp_path / "sparse")
    loaded = Classifier.load(tmp_path / "sparse")
    assert sparsity_of(loaded) == sparsity_of(sparse)
    assert all(torch.equal(loaded.mask[n], sparse.mask[n]) for n in CONVOLUTIONS)
    further = Pruning(how="random", sparsity=0.9).prune(loaded, few_digits(), QUICK)
    assert alive(further.mask) == round(0.1 * SIZE)
    for name in CONVOLUTIONS:
        assert not (further.mask[name] & ~loaded.mask[name]).any()
    with pytest.raises(UsageError, match=r"fewer than sparsity=0.5 would keep"):
        Pruning(how="random", sparsity=0.5).prune(loaded, few_digits(), QUICK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, r"pruning: 'sparsity' must be less than 1, not 1.0"),
        ({"sparsity": -0.1}, r"pruning: 'sparsity' must be greater than or equal to 0, not -0.1"),
        ({"how": "omb"}, r"did you mean 'omp'"),
        ({"rewind_epochs": 2}, r"rewind_epochs=2 is not before the end of a training of 2 epochs"),
    ],
)
def test_bad_input_gets_a_sentence(settings, message):
    with pytest.raises(UsageError, match=message):
        validated(Pruning, settings, "pruning").prune(None, few_digits(), QUICK)


def test_a_network_without_convolutions_is_refused():
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), few_digits().classes)
    with pytest.raises(UsageError, match="model has no convolution"):
        Pruning().prune(model, few_digits(), QUICK)
    with pytest.raises(UsageError, match="model has no convolution"):
        sparsity_of(model)
