"""The three example files of CONTRIBUTING.md work as they stand there."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import test_contracts as contracts
import torch

from mu_vision import registry, resources
from mu_vision.data.cards import load_card
from mu_vision.evaluation.protocol import load_protocol

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


def example(path: str) -> str:
    """The code block that follows "The file `path`:"."""
    found = re.search(
        rf"^The file `{re.escape(path)}`:\n\n```\w+\n(.*?)^```$",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    assert found, f"CONTRIBUTING.md shows no file {path}"
    return found[1]


@pytest.fixture(scope="module")
def redirect():
    """The example method, registered while these tests run."""
    registry.names("method")
    name = "mu_vision.unlearn.diffusion.redirect"
    module = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    sys.modules[name] = module
    code = compile(example("mu_vision/unlearn/diffusion/redirect.py"), "redirect.py", "exec")
    exec(code, module.__dict__)
    yield module.Redirect
    registry._TABLE["method"].pop("redirect")
    del sys.modules[name]


def test_the_method_keeps_the_contracts(redirect, sd, request, tmp_path):
    contracts.test_every_field_is_documented_and_has_a_default("diffusion/redirect")
    contracts.test_what_is_constructed_is_what_is_saved("diffusion/redirect")
    contracts.test_unknown_settings_are_refused_with_the_nearest("diffusion/redirect")
    contracts.test_only_selected_tensors_move_and_the_original_stays(
        "diffusion/redirect", "sd", request
    )
    contracts.test_the_same_seed_gives_the_same_tensors("diffusion/redirect", sd)
    contracts.test_what_was_saved_is_reloaded("diffusion/redirect", "sd", request, tmp_path)


def test_the_method_brings_the_concept_to_its_anchor(redirect, sd):
    settings = {"steps": 60, "lr": 3e-3, "pictures": 8, "sampler_steps": 4, "log_every": 1}
    done = redirect.from_settings(settings).unlearn(sd, contracts.REQUEST)
    losses = [row["redirect_loss"] for row in done.history]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    x = torch.randn(8, *sd.latent_shape, generator=torch.Generator().manual_seed(0))
    prompt, anchor = contracts.REQUEST.prompts[0], contracts.REQUEST.anchors[0]
    c, a = sd.encode_prompt([prompt]).expand(8), sd.encode_prompt([anchor]).expand(8)
    wanted = sd.predict_noise(x, 500, a)
    before = (sd.predict_noise(x, 500, c) - wanted).square().mean()
    after = (done.model.predict_noise(x, 500, c) - wanted).square().mean()
    assert after < 0.5 * before


def test_the_card_loads(tmp_path):
    path = tmp_path / "doodles.md"
    path.write_text(example("datasets_cards/doodles.md"), encoding="utf-8")
    card = load_card(path)
    assert card.prompt("Dogs", "Red_Pen") == "A Dogs image in Red Pen style."
    assert card.captions("Dogs", "Red_Pen", held_out=True)
    assert card.body.startswith("# Doodles")


def test_the_protocol_loads(tmp_path):
    path = tmp_path / "minicanvas_glance.yaml"
    path.write_text(example("eval/minicanvas_glance.yaml"), encoding="utf-8")
    assert load_protocol(path).pictures() == 24


def test_no_example_is_a_file_of_the_project_already():
    assert "doodles" not in resources.names("card")
    assert "minicanvas_glance" not in resources.names("protocol")
