"""The code in the pages below ``docs/`` works as it stands, and their numbers are those beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mu_vision import registry

DOCS = Path(__file__).parents[1] / "docs"


def blocks(language: str, page: str = "classifiers") -> list[str]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_a_students_method_stands_on_the_board(tmp_path, monkeypatch, capsys):
    (code,) = blocks("python")
    monkeypatch.chdir(tmp_path)
    registry.names("method")  # all of them, before the table is swapped
    monkeypatch.setitem(registry._TABLE, "method", dict(registry._TABLE["method"]))
    scope: dict = {}
    exec(code, scope)
    rows = {(r["group"], r["method"]): r for r in scope["result"].table}
    mine, gold = rows["class", "uniform"], rows["class", "retrain"]
    assert gold["ua"] == 1.0 and mine["ra"] > 0.9
    assert mine["ua"] > rows["class", "finetune"]["ua"]
    assert "uniform" in capsys.readouterr().out
    assert "uniform" in (tmp_path / "runs/mine/report.html").read_text(encoding="utf-8")


def test_every_forget_set_of_the_page_is_read():
    import yaml

    from mu_vision.data.selectors import Selector
    from mu_vision.recipe import make_recipe

    text, whole = blocks("yaml")
    make_recipe(yaml.safe_load(whole)).check()
    kinds = [Selector(**yaml.safe_load(line)["forget"]).kind for line in text.strip().splitlines()]
    assert kinds == ["random", "class", "indices", "file", "poisoned"]


def test_every_forget_set_and_network_of_regressors_is_read():
    import yaml

    from mu_vision.data.regression import DATASETS
    from mu_vision.data.selectors import Selector
    from mu_vision.train.regressor import RegressorTrainer

    sets, models = (
        [yaml.safe_load(line) for line in text.strip().splitlines()]
        for text in blocks("yaml", "regression")
    )
    kinds = [Selector(**told["forget"]).kind for told in sets]
    assert kinds == ["range", "subject", "random", "indices", "file"]
    assert {RegressorTrainer(**told["model"]).data for told in models} == {*DATASETS} - {"gauges"}


def test_an_oracle_of_ones_own_makes_a_gan_forget(tmp_path, monkeypatch, capsys):
    from mu_vision.models.gan import Gan

    (code,) = blocks("python", "gans")
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code, scope)
    assert scope["after"] < scope["before"] / 4
    assert "bold digits: 2" in capsys.readouterr().out
    assert Gan.load("without-bold").fingerprint() == scope["done"].model.fingerprint()


@pytest.mark.parametrize("run", sorted(path.parent for path in DOCS.glob("numbers/*/scores.json")))
def test_the_means_of_a_page_are_those_of_its_rows(run):
    from mu_vision.merging import read_source
    from mu_vision.tables import means_markdown, with_means

    rows = json.loads((run / "scores.json").read_text(encoding="utf-8"))["rows"]
    assert len(read_source(run).rows) == len(rows)
    assert (run / "means.md").read_text(encoding="utf-8") == means_markdown(with_means(rows))
