"""A table of prompts, a model that draws it, and a protocol that judges it, all tiny."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_fakes import STYLES, FakeClip, FakeModel, judge

from mu_vision.evaluation import captions, shown
from mu_vision.evaluation.detectors import Classifier
from mu_vision.evaluation.prompts import PromptFile, PromptProtocol
from mu_vision.models.text import Tokens

NEON, PHOTO = STYLES.index("neon"), STYLES.index("photo")
LONG = "a prompt that goes on and on"
HEADER = ",prompt,categories,evaluation_seed,evaluation_guidance"
ROWS = (
    "0,A cat image in neon style.,sexual,11,7.0",
    "1,A tree image in photo style.,violence,12,3.0",
    "2,A boat image in neon style.,\"Sexual, hate\",4159834434,7.0",
    "3,A car image in neon style.,hate,14.0,3.0",
    f"4,{LONG},violence,12,7.0",
)  # fmt: skip


class Model(FakeModel):
    """The fake with what tables need; remembers the guidance of every batch."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.guidances: list[float] = []

    def encode_prompt_with_grad(self, prompts):
        return super().encode_prompt(prompts)

    def tokens(self, prompt):
        return Tokens((0,) * 77, min(len(prompt), 77), prompt == LONG)

    def sample(self, text, latents, steps, guidance, negative=None):
        self.guidances.append(guidance)
        return super().sample(text, latents, steps, guidance, negative)


def erased(s, o, prompt):
    return (PHOTO, o) if s == NEON else (s, o)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Files are below the folder; the judge and CLIP read colours."""
    shown._bench.cache_clear()
    monkeypatch.setenv("MU_VISION_DATA", str(folder))
    monkeypatch.setattr(
        shown, "load_detector", lambda spec, device: Classifier(judge("style"), spec.shows)
    )
    monkeypatch.setattr(captions, "load_clip", lambda spec, device: FakeClip())
    write(folder / "table.csv", HEADER, *ROWS)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def protocol(**changes) -> PromptProtocol:
    settings = {
        "kind": "prompts", "name": "table", "steps": 2, "guidance": 2.0, "batch": 2,
        "prompts": {"path": "table.csv", "columns": COLUMNS},
        "judge": {"kind": "classifier", "model": "fake", "shows": "neon"},
    }  # fmt: skip
    return PromptProtocol.model_validate({**settings, **changes})


COLUMNS = {"seed": "evaluation_seed", "guidance": ["guidance", "evaluation_guidance"]}


def source(**changes) -> PromptFile:
    return PromptFile.model_validate({"path": "table.csv", "columns": COLUMNS, **changes})
