"""What an installed package holds: all that a user states in files, and the embedded models."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_everything_that_a_checkout_has(wheel):
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
    for folder, pattern in (
        ("pipelines", "*.yaml"),
        ("eval", "**/*.yaml"),
        ("eval", "published/*.csv"),
        ("datasets_cards", "*.md"),
    ):
        files = [path.relative_to(ROOT) for path in (ROOT / folder).glob(pattern)]
        assert files
        for file in files:
            assert f"mu_vision/share/{file.as_posix()}" in there
    for path in (ROOT / "mu_vision").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in there


def test_the_package_takes_at_most_40_megabytes(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert sum(member.file_size for member in archive.infolist()) <= 40e6
