"""Training GANs: a function of the seed, stopped and resumed, with classes left out."""

from __future__ import annotations

import json

import pytest
import torch
from labelled import few_digits

from mu_vision import registry
from mu_vision.data import labelled as data
from mu_vision.errors import UsageError
from mu_vision.models.gan import Gan
from mu_vision.train.gan import GanTrainer, kept_samples

TINY = {
    "model": {"channels": 1, "latent": 6, "widths": (8, 6), "critic_widths": (6, 6), "depth": 2},
    "steps": 4, "batch": 8, "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def only_few(monkeypatch):
    monkeypatch.setitem(data.DATASETS, "digits", lambda root: few_digits())


def fit(**changes) -> Gan:
    trainer = GanTrainer(**{**TINY, **changes})
    return trainer.fit(trainer.samples())[0]


def test_the_weights_are_a_function_of_the_seed():
    state = torch.random.get_rng_state()
    first, again, other = fit(seed=1), fit(seed=1), fit(seed=2)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert torch.equal(state, torch.random.get_rng_state())
    augmented = fit(seed=1, augment=("translation", "cutout", "color"))
    assert augmented.fingerprint() != first.fingerprint()


def test_a_killed_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    trainer = registry.get("trainer", "gan")(**TINY)
    whole = trainer.fit(trainer.samples())[0]

    def killed(self, step):
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mu_vision.loop.Objective.after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(trainer.samples(), tmp_path)
    resumed = trainer.fit(trainer.samples(), tmp_path)[0]
    assert resumed.fingerprint() == whole.fingerprint()


def test_a_run_writes_a_folder_that_loads(tmp_path):
    trainer = GanTrainer(**TINY, output="small", without=("3",), half=False)
    trainer.run(tmp_path / "model")
    gan = Gan.load(tmp_path / "model" / "small")
    assert gan.fingerprint() == trainer.fit(trainer.samples())[0].fingerprint()
    facts = json.loads((tmp_path / "model/small/gan.json").read_text())
    assert facts["trainer"]["without"] == ["3"]
    assert facts["pictures"] == int((few_digits().train.y != 3).sum())
    assert (tmp_path / "checkpoints/small/checkpoint.pt").is_file()


def test_samples_have_the_size_of_the_gan_and_lack_what_is_left_out():
    samples = few_digits().train
    kept = kept_samples(samples, ("3", "5"), 16)
    assert kept.x.shape[-1] == 16 and not {3, 5} & set(kept.y.tolist())
    assert kept.classes == samples.classes and 0 <= kept.x.min() <= kept.x.max() <= 1
    assert torch.equal(kept_samples(samples, (), 8).x, samples.x)
    with pytest.raises(UsageError, match="There is no class 'three'"):
        kept_samples(samples, ("three",), 8)
    with pytest.raises(UsageError, match="Every class is left out"):
        kept_samples(samples, samples.classes, 8)


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"1 channels, but the GAN draws 3; set model.channels=1"):
        fit(model={"widths": (8, 6), "critic_widths": (6, 6)})


def test_cells_of_minicanvas_are_named_by_style_and_object(monkeypatch):
    from mu_vision.data import minicanvas

    monkeypatch.undo()
    monkeypatch.setattr(minicanvas, "SPLITS", {"generator": range(2), "test": range(1200, 1201)})
    monkeypatch.setattr(data, "CELLS_TRAIN", 2)
    monkeypatch.setattr(data, "CELLS_TEST", 1)
    splits = data.load_splits("minicanvas_cells")
    assert splits.train.x.shape == (30, 3, 32, 32) and len(splits.test) == 15
    assert splits.classes[:2] == ("photo tree", "sketch tree")
    cats = kept_samples(splits.train, ("cat",), 32)
    assert len(cats) == 24
    real = torch.from_numpy(minicanvas.render("cat", "neon", 1)).permute(2, 0, 1).float() / 255
    place = splits.classes.index("neon cat") * 2 + 1
    small = torch.nn.functional.avg_pool2d(real[None], 2)[0]
    torch.testing.assert_close(splits.train.x[place], small)
