from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from evaluation_fakes import FakeModel, protocol

from mu_vision.errors import CountMismatch, RunError, UsageError
from mu_vision.evaluation.answers import TOLERANCE, AnswerSet, generate
from mu_vision.models.diffusion import DiffusionModel

FEW = {"styles": ("neon", "photo"), "objects": ("cat", "boat", "car"), "steps": 3, "guidance": 3.0}


@pytest.fixture(scope="module")
def tiny(sd_folder):
    return DiffusionModel.load(sd_folder, device="cpu")


def test_batch_size_does_not_change_the_pictures(tiny):
    few = protocol(**FEW)
    one, eight = generate(tiny, few, batch=1), generate(tiny, few, batch=8)
    assert one.pictures.shape == (12, 16, 16, 3) and one.key == eight.key
    apart = np.abs(one.pictures.astype(int) - eight.pictures)
    assert apart.max() <= TOLERANCE
    assert len({picture.tobytes() for picture in one.pictures}) == 12
    again = generate(tiny, few, batch=8)
    assert again.digest == eight.digest


def test_a_killed_job_goes_on_with_the_same_bytes(tiny, tmp_path):
    few = protocol(**FEW)
    whole = generate(tiny, few, batch=5)

    class Killed(Exception):
        pass

    class Dying:
        """The tiny model, until its second batch."""

        def __init__(self):
            self.calls = 0

        def __getattr__(self, name):
            return getattr(tiny, name)

        def sample(self, *args, **kwargs):
            self.calls += 1
            if self.calls == 2:
                raise Killed
            return tiny.sample(*args, **kwargs)

    with pytest.raises(Killed):
        generate(Dying(), few, tmp_path, batch=5)
    place = tmp_path / whole.key[:16]
    assert [p.name for p in place.iterdir()] == ["part-00000000-00000005.npz"]
    resumed = generate(tiny, few, tmp_path, batch=5)
    assert resumed.digest == whole.digest
    assert sorted(p.name for p in place.iterdir()) == ["answers.json", "pictures.npy"]


def test_drawn_once(tmp_path):
    model = FakeModel()
    first = generate(model, protocol(), tmp_path, batch=32)
    assert model.batches == [32] * 5 and len(model.encoded) == 80
    second = generate(model, protocol(), tmp_path)
    assert len(model.batches) == 5 and second.digest == first.digest
    assert second.prompts == first.prompts and second.style_names == first.style_names
    generate(FakeModel(name="other"), protocol(), tmp_path)
    generate(model, protocol(steps=3), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_another_batch_size_fills_the_gaps(tmp_path):
    model, few = FakeModel(), protocol(styles=("neon",))
    whole = generate(model, few)
    generate(model, few, tmp_path / "a", batch=4)
    place = tmp_path / "b" / whole.key[:16]
    place.mkdir(parents=True)
    np.savez(place / "part-00000006-00000010.npz", pictures=whole.pictures[6:10], seconds=1.0)
    model.batches.clear()
    found = generate(model, few, tmp_path / "b", batch=4)
    assert model.batches == [4, 2, 4, 4, 2] and found.digest == whole.digest
    assert found.seconds > 1


def test_processes_share_the_work(tmp_path):
    few, models = protocol(), [FakeModel(), FakeModel()]
    found: dict[int, AnswerSet] = {}

    def work(k):
        found[k] = generate(models[k], few, tmp_path, batch=16, share=(k, 2))

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    threads[0].start()
    while not list(tmp_path.glob("*/part-*")):
        time.sleep(0.01)
    threads[1].start()  # late: a part is there already
    for thread in threads:
        thread.join(60)
    assert [len(model.batches) for model in models] == [5, 5]
    assert found[0].digest == found[1].digest == generate(FakeModel(), few).digest
    with pytest.raises(UsageError, match="folder in common"):
        generate(FakeModel(), few, share=(0, 2))


def test_original_and_edited_start_from_the_same_latents():
    """The fake writes its latent into the blue channel."""
    one = generate(FakeModel(), protocol())
    two = generate(FakeModel(lambda s, o, p: (0, 0), "edited"), protocol(), batch=7)
    np.testing.assert_array_equal(one.pictures[..., 2], two.pictures[..., 2])
    assert one.grid.shape == (8, 10, 2, 8, 8, 3)
    neon, cat = one.style_names.index("neon"), one.object_names.index("cat")
    row = (one.styles == neon) & (one.objects == cat) & (one.seeds == 2)
    np.testing.assert_array_equal(one.grid[neon, cat, 1], one.pictures[row][0])


def test_files_named_as_unlearncanvas_names_them(tmp_path):
    few = protocol(styles=("neon", "photo"))
    answers = generate(FakeModel(), few)
    answers.export(tmp_path)
    assert (tmp_path / "neon_cat_seed2.png").is_file()
    back = AnswerSet.from_files(tmp_path, few)
    assert back.digest == answers.digest and back.seeds.tolist() == answers.seeds.tolist()
    (tmp_path / "neon_cat_seed2.png").unlink()
    with pytest.raises(CountMismatch, match=r"1 are missing, e\.g\. neon_cat_seed2"):
        AnswerSet.from_files(tmp_path, few)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="file name"):
        AnswerSet.from_files(tmp_path, few)


def test_damaged_files_are_named(tmp_path):
    model, few = FakeModel(), protocol(styles=("neon",))
    answers = generate(model, few)
    place = tmp_path / answers.key[:16]
    place.mkdir()
    (place / "part-00000000-00000008.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(RunError, match=r"part-00000000-00000008\.npz is damaged"):
        generate(model, few, tmp_path)
    answers.save(place)
    (place / "pictures.npy").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no whole answer set"):
        generate(model, few, tmp_path)
    np.save(place / "pictures.npy", answers.pictures[:3])
    with pytest.raises(CountMismatch, match="should hold 20 pictures and holds 3"):
        AnswerSet.load(place)


def test_jpeg_and_negative_prompt_reach_the_pictures(tiny):
    few = {**FEW, "objects": ("cat",)}
    plain = generate(tiny, protocol(**few))
    squeezed = generate(tiny, protocol(**few, jpeg_quality=75))
    negative = generate(tiny, protocol(**few, negative="blurry"))
    assert plain.digest != squeezed.digest and plain.digest != negative.digest
    assert len({plain.key, squeezed.key, negative.key}) == 3
