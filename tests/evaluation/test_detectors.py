from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import STEP, STYLES, judge

from mu_vision.data import minicanvas
from mu_vision.errors import UsageError
from mu_vision.evaluation.detectors import Classifier, NudeNet, load_detector
from mu_vision.evaluation.prompts import (
    NUDE,
    NUDENET_CLASSES,
    PUBLISHED,
    ClassifierJudge,
    NudeNetJudge,
)  # fmt: skip


class Boxes:
    """Finds one breast a picture, as sure as its upper left pixel is red, and always a foot."""

    def __init__(self):
        self.sizes: list[int] = []

    def detect_batch(self, pictures, batch_size):
        self.sizes.append(len(pictures))
        found = []
        for picture in pictures:
            red = int(picture[0, 0, 2])  # blue comes first
            boxes = [{"class": "FEET_EXPOSED", "score": 0.9, "box": [0, 0, 1, 1]}]
            if red:
                boxes.append({"class": "FEMALE_BREAST_EXPOSED", "score": red / 255, "box": []})
            found.append(boxes)
        return found


def reds(*levels: int) -> np.ndarray:
    pictures = np.zeros((len(levels), 8, 8, 3), np.uint8)
    pictures[..., 0] = np.array(levels)[:, None, None]
    return pictures


def styles(*places: int) -> np.ndarray:
    return reds(*(place * STEP + 5 for place in places))


def test_nudenet_counts_by_class_and_threshold():
    pictures = reds(0, 51, 102, 153, 255)
    nude = NudeNet(0.4, NUDE, Boxes())
    assert nude.shown(pictures).tolist() == [False, False, True, True, True]
    assert NudeNet(0.6, NUDE, Boxes()).shown(pictures).sum() == 2
    # bare feet alone make every picture count in the published code
    assert NudeNet(0.4, PUBLISHED, Boxes()).shown(pictures).all()
    found = nude.detections(pictures)
    assert found[1] == [("FEET_EXPOSED", 0.9), ("FEMALE_BREAST_EXPOSED", 51 / 255)]
    assert nude.verdicts(found).dtype == bool and nude.verdicts([]).shape == (0,)
    assert nude.detections(pictures[:0]) == []


def test_other_thresholds_look_at_the_same_boxes():
    one, two = NudeNet(0.4, NUDE, Boxes(), "x"), NudeNet(0.6, NUDE, Boxes(), "x")
    three = NudeNet(0.4, tuple(reversed(NUDE)), Boxes(), "x")
    assert one.source == two.source and one.fingerprint != two.fingerprint
    assert one.fingerprint == three.fingerprint
    assert one.fingerprint != NudeNet(0.4, NUDE, Boxes(), "y").fingerprint


def test_published_classes_are_the_nine_exposed_ones():
    exposed = {name for name in NUDENET_CLASSES if name.endswith("EXPOSED")}
    assert set(PUBLISHED) == exposed and len(PUBLISHED) == 9
    assert NudeNetJudge().classes == NUDE and len(NUDE) == 5
    assert NudeNetJudge(published_classes=True).classes == PUBLISHED


def test_nudenet_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'mu-vision\[nudity\]'"):
        load_detector(NudeNetJudge())


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A portrait that ships with matplotlib."""
    import matplotlib
    from PIL import Image

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_installed_nudenet(photo, tmp_path):
    nudenet = pytest.importorskip("nudenet", reason="the extra nudity is not installed")
    from nudenet import nudenet as module
    from PIL import Image

    assert tuple(vars(module)["__labels"]) == NUDENET_CLASSES
    detector = load_detector(NudeNetJudge(threshold=0.4, counted=("FACE_FEMALE",)))
    assert detector.name == "NudeNet, 1 classes from 0.4" and len(detector.source) == 64
    pictures = np.stack([photo, np.zeros_like(photo), photo[:, ::-1], photo // 2, photo])
    assert detector.shown(pictures).tolist() == [True, False, True, True, True]
    one = detector.detections(pictures, batch=1)
    many = detector.detections(pictures, batch=5)
    for a, b in zip(one, many, strict=True):
        assert [label for label, _ in a] == [label for label, _ in b]
        assert np.allclose([s for _, s in a], [s for _, s in b], atol=1e-5)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    from_file = nudenet.NudeDetector().detect(str(tmp_path / "photo.png"))
    assert [(b["class"], b["score"]) for b in from_file] == one[0]
    assert not load_detector(NudeNetJudge()).shown(pictures).any()


def test_classifier_says_its_top_classes():
    pictures = styles(0, 3, 5, 3)
    detector = Classifier(judge("style"), (STYLES[3],))
    assert detector.shown(pictures).tolist() == [False, True, False, True]
    (label, score), = detector.detections(pictures)[1]  # fmt: skip
    assert label == STYLES[3] and score == pytest.approx(1, abs=1e-6)
    # ties after the first go by place: the fake's other classes have equal probability
    second = Classifier(judge("style"), (STYLES[0],), top=2)
    assert second.shown(pictures).tolist() == [True, True, True, True]
    assert [len(row) for row in second.detections(pictures)] == [2] * 4
    assert detector.source != second.source
    assert detector.source == Classifier(judge("style"), (STYLES[1],)).source


def test_classifier_does_not_depend_on_batches():
    pictures = styles(*range(8))
    detector = Classifier(judge("style"), STYLES[2:4])
    assert detector.detections(pictures, batch=3) == detector.detections(pictures, batch=8)
    assert detector.shown(pictures).sum() == 2


def test_classifier_of_other_classes():
    with pytest.raises(UsageError, match="Did you mean 'neon'"):
        Classifier(judge("style"), ("neom",))
    with pytest.raises(UsageError, match="8 classes, so each of them is among its first 8"):
        Classifier(judge("style"), ("neon",), top=8)


def test_embedded_judge_as_detector():
    pictures = minicanvas.load([0], "painting")
    spec = ClassifierJudge(kind="classifier", model="minicanvas/style-judge", shows=("neon",))
    shown = load_detector(spec).shown(pictures.pixels)
    truth = np.array([STYLES[s] == "neon" for s in pictures.styles])
    assert truth.sum() == 10 and (shown == truth).mean() > 0.95
