from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
import workshop

import mu_vision
from mu_vision.errors import UsageError


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    return workshop.protocol(tmp_path_factory.mktemp("protocol"))


def test_importing_imports_nothing_heavy():
    code = (
        "import sys, mu_vision\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'pandas', 'pydantic', 'typer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(mu_vision.__all__) <= set(dir(mu_vision))\n"
        "mu_vision.load_model\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    for name in mu_vision.__all__:
        assert getattr(mu_vision, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'erace'"):
        _ = mu_vision.erace


def test_five_lines(sd_folder, protocol, tmp_path):
    model = mu_vision.load_model(sd_folder)
    request = mu_vision.concept_request("style", "neon")
    erased = mu_vision.erase(model, request, method="esd", **workshop.ESD)
    card = mu_vision.evaluate(erased, protocol, request)
    mu_vision.save(erased, tmp_path / "erased")

    assert "ua" in str(card) and card.to_row()["ua"] == card["ua"].value
    again = mu_vision.load_model(tmp_path / "erased")
    assert again.fingerprint() == erased.model.fingerprint() != model.fingerprint()
    # the request and the original come from what was erased, or are given
    assert mu_vision.evaluate(erased, protocol).metrics["ua"].value == card["ua"].value
    assert card.method == erased.unlearner.name and card.value("seconds") > 0
    other = mu_vision.evaluate(tmp_path / "erased", protocol, request, original=sd_folder)
    assert other.metrics["ira"].value == card["ira"].value


def test_erase_leaves_the_model_alone_and_keeps_its_settings(sd_folder, tmp_path):
    model = mu_vision.load_model(sd_folder)
    before = model.fingerprint()
    requests = [mu_vision.concept_request("style", name) for name in ("neon", "mosaic")]
    erased = mu_vision.erase(model, requests, method="uce", erase_scale=2)
    assert model.fingerprint() == before
    assert erased.unlearner.erase_scale == 2 and erased.original is model
    assert [r.name for r in erased.request] == ["neon", "mosaic"]
    erased.save(tmp_path / "both")
    assert "mosaic" in (tmp_path / "both" / "README.md").read_text()
    assert mu_vision.methods() == sorted(mu_vision.methods()) and "uce" in mu_vision.methods()


def test_a_stopped_erasure_goes_on(sd_folder, tmp_path, monkeypatch):
    from mu_vision.unlearn.diffusion.esd import ESDObjective

    model = mu_vision.load_model(sd_folder)
    request = mu_vision.concept_request("object", "cat")
    settings = {**workshop.ESD, "checkpoint_every": 0}
    whole = mu_vision.erase(model, request, folder=tmp_path / "a", **settings)
    inner = ESDObjective.loss

    def loss(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return inner(self, step)

    monkeypatch.setattr(ESDObjective, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        mu_vision.erase(model, request, folder=tmp_path / "b", **settings)
    monkeypatch.undo()
    # checkpoints are written although the settings ask for none
    assert (tmp_path / "b" / "checkpoint.pt").is_file()
    resumed = mu_vision.erase(model, request, folder=tmp_path / "b", **settings)
    assert resumed.model.fingerprint() == whole.model.fingerprint()


def test_render_depends_on_prompt_and_seed_alone(sd_folder):
    model = mu_vision.load_model(sd_folder)
    both = mu_vision.render(model, ["a cat", "a boat"], seed=1, steps=2)
    alone = mu_vision.render(model, "a boat", seed=1, steps=2)
    difference = np.abs(np.asarray(both[1], int) - np.asarray(alone[0], int))
    assert difference.max() <= 1
    other = mu_vision.render(model, "a boat", seed=2, steps=2)[0]
    assert np.asarray(other).tolist() != np.asarray(alone[0]).tolist()


def test_run_and_report(sd_folder, protocol, tmp_path):
    import yaml

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(workshop.recipe(sd_folder, protocol, methods={"uce": {}})))
    result = mu_vision.run(path, tmp_path / "r", ["seed=1"])
    assert set(result.scorecards) == {"original", "uce"}
    result.report.unlink()
    # the verb has the name of a package, and stays callable after that is imported
    importlib.import_module("mu_vision.report.build")
    assert mu_vision.report(tmp_path / "r") == result.report
    assert result.report.is_file()
    with pytest.raises(UsageError, match="There is no run folder"):
        mu_vision.report(tmp_path / "nothing")
