"""Training classifiers: a function of the seed, stopped and resumed, written and read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from labelled import few_digits
from pydantic import ValidationError

from mu_vision import registry, seeding
from mu_vision.data import labelled as data
from mu_vision.errors import UsageError
from mu_vision.models.classifier import Classifier
from mu_vision.train.classifier import ClassifierTrainer

FEW = few_digits(130, 40)


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in model.network.state_dict().items()}


def same(first, second) -> bool:
    first, second = tensors(first), tensors(second)
    return all(torch.equal(first[name], second[name]) for name in first)


def fit(epochs=2, seed=0, splits=FEW, **settings):
    given = {k: settings.pop(k) for k in ("checkpoints", "model", "rows") if k in settings}
    return ClassifierTrainer(epochs=epochs, seed=seed, **settings).fit(splits, **given)[0]


def test_the_weights_are_a_function_of_the_seed():
    state = torch.random.get_rng_state()
    first, again, other = fit(seed=1), fit(seed=1), fit(seed=2)
    assert same(first, again) and not same(first, other)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not first.network.training
    assert not any(p.requires_grad for p in first.network.parameters())


def test_training_is_sgd_with_momentum_on_shuffled_batches():
    trainer = ClassifierTrainer(epochs=2, schedule="constant")
    model = trainer.untrained(FEW).clone()
    model.network.train()
    optimizer = torch.optim.SGD(model.network.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for epoch in range(2):
        order = torch.randperm(130, generator=seeding.generator("order", 0, epoch, "train"))
        for rows in order.split(64):
            optimizer.zero_grad()
            F.cross_entropy(model.network(FEW.train.x[rows]), FEW.train.y[rows]).backward()
            optimizer.step()
    fitted, result = trainer.fit(FEW)
    assert result.steps == 6
    torch.testing.assert_close(tensors(fitted), tensors(model))


def test_training_learns():
    few = few_digits()
    model = fit(epochs=12, splits=few, schedule="constant")
    assert (model.logits(few.test.x).argmax(1) == few.test.y).float().mean() > 0.7


def test_samples_that_are_left_out_make_no_difference():
    rows = range(0, 130, 2)
    spoiled = replace(FEW.train, x=FEW.train.x.clone())
    spoiled.x[1::2] = 0.5
    left = fit(rows=rows)
    assert same(left, fit(rows=rows, splits=replace(FEW, train=spoiled)))
    assert not same(left, fit())


def test_training_starts_from_a_given_model_and_does_not_change_it():
    start = Classifier.build("small_cnn", FEW.classes, 1, seed=7)
    before = start.fingerprint()
    first, other = fit(model=start), fit()
    assert start.fingerprint() == before and not same(first, other)


def test_pruned_weights_stay_zero():
    start = Classifier.build("small_cnn", FEW.classes, 1)
    mask = torch.rand(start.network[4].weight.shape) > 0.9
    start.mask = {"network.4.weight": mask}
    done = fit(model=start)
    assert torch.equal(done.network[4].weight != 0, mask)
    assert torch.equal(done.mask["network.4.weight"], mask)


def test_augmented_training_is_a_function_of_the_seed_too():
    splits = replace(FEW, augment=True)
    first, again = fit(epochs=1, splits=splits), fit(epochs=1, splits=splits)
    assert same(first, again) and not same(first, fit(epochs=1))


@pytest.mark.parametrize("augment", [False, True])
def test_a_training_that_was_killed_ends_with_the_same_weights(augment, tmp_path, monkeypatch):
    splits = replace(FEW, augment=augment)
    whole = fit(splits=splits)

    def killed(self, step):
        if step == 4:
            raise KeyboardInterrupt

    settings = {"splits": splits, "checkpoint_every": 1, "checkpoints": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr("mu_vision.train.classifier.Training.after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(**settings)
    assert (tmp_path / "checkpoint.pt").is_file()
    assert same(fit(**settings), whole)
    assert same(fit(**settings), whole)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.01}, {"batch": 32}, {"architecture": "resnet18_cifar"}, {"seed": 1},
        {"splits": few_digits(129, 40)}, {"rows": range(100)},
        {"model": Classifier.build("small_cnn", FEW.classes, 1, seed=7)},
        {"normalize": ((0.3,), (0.4,))},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_checkpoint_of_another_training_is_refused(change, tmp_path):
    """A checkpoint of another batch size, network or data may fit by its shapes."""
    fit(checkpoints=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(UsageError, match=r"holds the checkpoint of another job \(.*settings, data"):
        fit(checkpoints=tmp_path, **change)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    fit(checkpoints=tmp_path, checkpoint_every=1)  # how often is no matter


def test_only_a_constant_rate_lets_a_training_be_prolonged(tmp_path):
    fit(checkpoints=tmp_path / "a", schedule="constant")
    longer = fit(checkpoints=tmp_path / "a", schedule="constant", epochs=3)
    assert same(longer, fit(schedule="constant", epochs=3))
    fit(checkpoints=tmp_path / "b")
    with pytest.raises(UsageError, match=r"The checkpoint in .* was made with other settings"):
        fit(checkpoints=tmp_path / "b", epochs=3)


def test_a_checkpoint_that_nobody_claimed_is_refused(tmp_path):
    fit(checkpoints=tmp_path)
    for text in ("{", None):
        if text is None:
            (tmp_path / "job.json").unlink()
        else:
            (tmp_path / "job.json").write_text(text)
        with pytest.raises(UsageError, match="holds the checkpoint of another job"):
            fit(checkpoints=tmp_path)


def test_validation_pictures_are_held_out_of_every_class_before_training(only_few):
    whole, held = ClassifierTrainer().splits(), ClassifierTrainer(validation=0.2).splits()
    assert whole.validation is None and len(held.train) + len(held.validation) == 130
    counts = torch.bincount(whole.train.y, minlength=10)
    assert torch.bincount(held.validation.y, minlength=10).tolist() == [
        round(0.2 * count) for count in counts.tolist()
    ]
    sides = [{x.numpy().tobytes() for x in part.x} for part in (held.train, held.validation)]
    assert not sides[0] & sides[1] and held.test is whole.test
    assert held.train.fingerprint == ClassifierTrainer(validation=0.2).splits().train.fingerprint
    with pytest.raises(UsageError, match=r"validation=0\.001 of few_digits is no sample of any"):
        ClassifierTrainer(validation=0.001).splits()


@pytest.fixture
def only_few(monkeypatch):
    monkeypatch.setitem(data.DATASETS, "digits", lambda root: FEW)


def test_a_run_writes_a_folder_that_loads(tmp_path, only_few):
    trainer = registry.get("trainer", "classifier")(epochs=2, normalize=((0.3,), (0.4,)))
    result = trainer.run(tmp_path / "model")
    assert result.steps == 6
    folder = tmp_path / "model" / "classifier"
    model = Classifier.load(folder)
    fitted = trainer.fit(FEW)[0]
    assert same(model, fitted)
    assert torch.equal(model.logits(FEW.test.x), fitted.logits(FEW.test.x))
    facts = json.loads((folder / "classifier.json").read_text())
    assert facts["data"] == "digits"
    assert ClassifierTrainer(**facts["trainer"]) == trainer
    assert (tmp_path / "checkpoints" / "classifier" / "checkpoint.pt").is_file()


def test_a_run_goes_on_from_its_checkpoints(tmp_path, only_few):
    trainer = ClassifierTrainer(epochs=2, checkpoint_every=1)
    trainer.run(tmp_path / "model", tmp_path / "kept")
    first = Classifier.load(tmp_path / "model" / "classifier")
    trainer.run(tmp_path / "again", tmp_path / "kept")
    assert same(first, Classifier.load(tmp_path / "again" / "classifier"))


def test_the_card_gives_the_normalisation():
    model = ClassifierTrainer(data="cifar10", normalize="card").untrained(FEW)
    assert model.network[0].mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    with pytest.raises(UsageError, match="The card of digits has no normalisation; give normalize"):
        ClassifierTrainer(normalize="card").untrained(FEW)


def test_wrong_settings_are_refused():
    for settings in ({"epochs": 0}, {"lr": 0}, {"batch": 0}, {"schedule": "linear"}, {"epoch": 1}):
        with pytest.raises(ValidationError):
            ClassifierTrainer(**settings)
    with pytest.raises(UsageError, match=r"There is no data set 'digit'.* Did you mean 'digits'"):
        ClassifierTrainer(data="digit").run("nowhere")
    with pytest.raises(UsageError, match=r"There is no classifier 'huge_net'"):
        fit(architecture="huge_net")
