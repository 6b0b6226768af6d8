from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MU_VISION_QUIET", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only waits
sys.path.insert(0, str(Path(__file__).parent))

import tiny

# a file runs on one worker: what takes longest must not be what is left at the end
FIRST = ("test_notebooks.py", "test_runner.py", "test_contracts.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)  # stable: the rest stays in order


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory) -> Path:
    """A tiny StableDiffusionPipeline folder; do not write into it."""
    return tiny.tiny_sd(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory) -> Path:
    """A tiny StableDiffusionXLPipeline folder; do not write into it."""
    return tiny.tiny_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl")


@pytest.fixture(scope="session")
def sd(sd_folder):
    """The tiny Stable Diffusion model; do not change its weights."""
    from mu_vision.models.diffusion import DiffusionModel

    return DiffusionModel.load(sd_folder, "cpu")


@pytest.fixture(scope="session")
def sdxl(sdxl_folder):
    """The tiny SDXL model; do not change its weights."""
    from mu_vision.models.diffusion import DiffusionModel

    return DiffusionModel.load(sdxl_folder, "cpu")


@pytest.fixture(scope="session")
def labels_folder(tmp_path_factory) -> Path:
    """A tiny LabelPipeline folder of tree, cat and boat; do not write into it."""
    return tiny.tiny_labels(tmp_path_factory.mktemp("tiny") / "labels")


@pytest.fixture(scope="session")
def label_model(labels_folder):
    """The tiny label-conditional model; do not change its weights."""
    from mu_vision.models.labels import LabelModel

    return LabelModel.load(labels_folder, "cpu")


@pytest.fixture(scope="session")
def digit_net():
    """A small classifier of digits, trained for a moment; do not change its weights."""
    from labelled import trained_net

    return trained_net()


@pytest.fixture(scope="session")
def value_net():
    """A small regressor of the digits' values, trained for a moment; do not change its weights."""
    from measured import trained_regressor

    return trained_regressor()


@pytest.fixture(scope="session")
def digit_gan():
    """A tiny GAN; do not change its weights."""
    from gans import tiny_gan

    return tiny_gan()
