"""Tables of prompts: the protocol, its tables, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prompt_fakes import COLUMNS, HEADER, LONG, ROWS, Model, install, protocol, source, write

from mu_vision.errors import UsageError
from mu_vision.evaluation.answers import _fitted, generate
from mu_vision.evaluation.plan import table_plan
from mu_vision.evaluation.prompt_table import read_table
from mu_vision.evaluation.prompts import NUDE, PromptProtocol
from mu_vision.evaluation.protocol import load_protocol


@pytest.fixture(autouse=True)
def fakes(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path)


# The protocol --------------------------------------------------------------------------------


def test_shipped_protocol():
    found = load_protocol("i2p_nudity")
    assert isinstance(found, PromptProtocol) and found.judge.kind == "nudenet"
    assert found.judge.classes == NUDE and found.judge.threshold == 0.5 and found.blur
    assert found.captions.limit == 10_000 and found.prompts.count == 4703
    assert found.pictures() == 14_703  # before its files are there
    assert PromptProtocol.model_validate_json(found.model_dump_json()) == found
    assert load_protocol(found) is found


def test_missing_files_are_said_all_at_once(monkeypatch):
    from mu_vision.evaluation import prompts

    monkeypatch.setattr(prompts, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="i2p_nudity needs files that are not here") as caught:
        load_protocol("i2p_nudity").check_files()
    for part in ("unsafe-prompts4703.csv", "coco_30k.csv", "val2014", "pt_inception", "ViT-B/32",
                 "mu-vision[nudity]"):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "change, said",
    [
        ("kind: promts", "no kind of protocol 'promts'. Write kind: prompts"),
        ("stepz: 5", r"unknown key 'stepz'.*'steps'"),
        ("judge: {kind: nudnet}", "no kind of judge 'nudnet'. Did you mean 'nudenet'"),
        ("judge: {kind: nudenet, treshold: 1}", "unknown key 'treshold'.*'threshold'"),
        ("judge: {kind: nudenet, threshold: 0.1}", "'threshold' must be greater than or equal"),
        ("judge: {kind: nudenet, counted: [FEET_EXPOSE]}", "Did you mean 'FEET_EXPOSED'"),
        ("judge: {kind: classifier, model: a, shows: []}", "'shows' must not be empty"),
        ("prompts: {path: a.csv, columns: {width: w}}", "width and height belong together"),
        ("captions: {path: a.csv}", "captions need 'clip', 'fid' or both"),
        ("captions: {path: a.csv, fid: {clip: true, folder: {path: b}}}", "needs the captions'"),
        ("captions: {path: a.csv, fid: {folder: {path: b}}}", "'fid' names no features"),
        ("dataset: i2q", "Did you mean 'i2p'"),
    ],
)
def test_faults_in_a_protocol_file(tmp_path, change, said):
    base = {
        "kind": "kind: prompts", "name": "name: mine", "steps": "steps: 2", "guidance": "guidance: 3",
        "prompts": "prompts: {path: table.csv}", "judge": "judge: {kind: nudenet}",
    }  # fmt: skip
    base[change.split(":")[0]] = change
    with pytest.raises(UsageError, match=said):
        load_protocol(write(tmp_path / "mine.yaml", *base.values()))


def test_changes_reach_nested_values():
    found = load_protocol("i2p_nudity")
    fewer = found.changed({"captions": {"limit": 5}, "judge": {"threshold": 0.6}}, "here")
    assert fewer.captions.limit == 5 and fewer.captions.clip == found.captions.clip
    assert fewer.judge.threshold == 0.6 and fewer.judge.counted == found.judge.counted
    other = found.changed({"judge": {"kind": "classifier", "model": "a", "shows": "b"}}, "here")
    assert other.judge.shows == ("b",)
    assert found.changed({"captions": None}, "here").captions is None


# The table -----------------------------------------------------------------------------------


def test_table_is_read_row_by_row():
    table = read_table(source(), 2.0)
    assert table.seeds == (11, 12, 4159834434, 14, 12) and table.ids == ("0", "1", "2", "3", "4")
    assert table.guidances == (7, 3, 7, 3, 7) and table.sizes is None and table.pictures is None
    assert table.prompts[4] == LONG
    plain = read_table(source(columns={"seed": None}), 2.0)
    assert plain.seeds == (0, 1, 2, 3, 4) and plain.guidances == (2.0,) * 5


def test_selection(tmp_path):
    def ids(**changes):
        return read_table(source(**changes), 2.0).ids

    assert ids(rows={"where": {"categories": "sexual"}}) == ("0", "2")
    assert ids(rows={"where": {"categories": ["SEXUAL", "violence"]}}, limit=3) == ("0", "1", "2")
    assert ids(rows={"where": {"categories": "hate", "prompt": "boat"}}) == ("2",)
    write(tmp_path / "ids.txt", "# the lines of the subset", "4", "", "1")
    assert ids(rows={"ids": {"path": "ids.txt"}}) == ("1", "4")
    by_seed = {**COLUMNS, "id": "evaluation_seed"}
    write(tmp_path / "ids.txt", "11")
    assert ids(rows={"ids": {"path": "ids.txt"}}, columns=by_seed) == ("11",)
    assert ids(count=5) == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    "lines, changes, said",
    [
        ([HEADER], {}, "holds no prompt, only a header"),
        ([], {}, "is empty; its first line should name"),
        (["promt,evaluation_seed,guidance", "a,1,2"], {}, "no column 'prompt'. Did you mean 'promt'"),
        (["prompt,seed", "a,1"], {}, r"no column 'evaluation_seed'\..*It has: prompt, seed.*columns.seed"),
        (["prompt,evaluation_seed", "a,1"], {}, "no column 'guidance' or 'evaluation_guidance'"),
        ([HEADER, "0,a,x,twelve,1"], {}, "line 2, column 'evaluation_seed': a seed is a whole number"),
        ([HEADER, "0,a,x,-1,1"], {}, "from 0, not '-1'"),
        ([HEADER, *ROWS, "5, ,x,1,1"], {}, "line 7, column 'prompt': it is empty"),
        ([HEADER, "0,a,x,1,much"], {}, "a guidance scale is a number from 0, not 'much'"),
        ([HEADER, "0,a,x,1"], {}, "a guidance scale is a number from 0, not ''"),
        ([HEADER, *ROWS], {"count": 142}, "has 5 rows and the protocol expects 142"),
        ([HEADER, *ROWS], {"rows": {"where": {"categories": "nude"}}}, "leaves none of the 5 prompts"),
        ([HEADER, *ROWS], {"rows": {"where": {"category": "x"}}}, "Did you mean 'categories'"),
        ([HEADER, *ROWS], {"rows": {"ids": {"path": "ids.txt"}}}, "names 1 rows that .* e.g. '77'"),
    ],
)  # fmt: skip
def test_faults_in_a_table(tmp_path, lines, changes, said):
    (tmp_path / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    write(tmp_path / "ids.txt", "77", "0")
    with pytest.raises(UsageError, match=said):
        read_table(source(**changes), 2.0)


def test_a_table_that_is_not_text(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00prompt")
    with pytest.raises(UsageError, match="not a CSV file in UTF-8"):
        read_table(source(), 2.0)
    with pytest.raises(UsageError, match=r"nowhere\.csv cannot be read: No such file"):
        read_table(source(path="nowhere.csv"), 2.0)
    write(tmp_path / "table.csv", "prompt,w,h", "a,512,500")
    sized = source(columns={"seed": None, "width": "w", "height": "h"})
    with pytest.raises(UsageError, match="a multiple of 8 pixels, not '500'"):
        read_table(sized, 2.0)


# What is drawn -------------------------------------------------------------------------------


def test_latents_are_those_of_the_seed_alone():
    plan = table_plan(protocol(), read_table(source(), 2.0))
    assert plan.guidances == (3, 3, 7, 7, 7) and plan.seeds.tolist() == [12, 14, 11, 4159834434, 12]
    latents = plan.latents(range(5), (4, 2, 2))
    expected = torch.randn((4, 2, 2), generator=torch.Generator().manual_seed(12))
    assert torch.equal(latents[0], expected) and torch.equal(latents[4], expected)
    assert len({tuple(x.flatten().tolist()) for x in latents}) == 4


def test_pictures_do_not_depend_on_batches():
    plan, model = table_plan(protocol(), read_table(source(), 2.0)), Model()
    one = generate(model, protocol(), batch=1, plan=plan)
    assert model.guidances == [3, 3, 7, 7, 7]
    many = generate(model, protocol(), batch=5, plan=plan)
    assert model.guidances[5:] == [3, 7] and model.batches[5:] == [2, 3]
    assert np.array_equal(one.pictures, many.pictures) and one.key == many.key
    # the one prompt's picture is the same in another table
    alone = table_plan(protocol(), read_table(source(rows={"where": {"prompt": "boat"}}), 2.0))
    assert np.array_equal(generate(model, protocol(), plan=alone).pictures[0], one.pictures[3])


def test_keys_differ_when_pictures_could(tmp_path):
    def key(**changes):
        return table_plan(protocol(), read_table(source(**changes), 2.0)).key("a")

    without = {"seed": "evaluation_seed"}
    keys = {key(), key(limit=4), key(columns=without), key(columns={**COLUMNS, "seed": None})}
    assert len(keys) == 4
    assert key(rows={"where": {"prompt": ""}}) == key()


def test_resume_gives_the_same_pictures(tmp_path):
    plan = table_plan(protocol(), read_table(source(), 2.0))

    class Stops(Model):
        def decode(self, latents):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().decode(latents)

    with pytest.raises(KeyboardInterrupt):
        generate(Stops(), protocol(), tmp_path / "a", plan=plan)
    model = Model()
    resumed = generate(model, protocol(), tmp_path / "a", plan=plan)
    assert sum(model.batches) == 3  # the first batch of 2 was there
    assert resumed.digest == generate(Model(), protocol(), tmp_path / "b", plan=plan).digest


def test_rows_of_their_own_size(tmp_path):
    write(tmp_path / "table.csv", "prompt,w,h", "a,16,8", "b,8,8", "c,8,16")
    sized = source(columns={"seed": None, "width": "w", "height": "h"})
    plan = table_plan(protocol(), read_table(sized, 2.0))
    assert plan.sizes == ((8, 8), (8, 16), (16, 8))
    pictures = generate(Model(), protocol(size=16), plan=plan).pictures
    assert pictures.shape == (3, 16, 16, 3)
    assert (pictures[0] > 0).any((0, 2)).all()  # scaled up to the whole square
    assert (pictures[1, 8:] == 0).all() and (pictures[1, :8, :, :2] == 5).all()
    assert (pictures[2, :, 8:] == 0).all() and (pictures[2, :, :8, :2] == 5).all()
    square = np.full((4, 4, 3), 9, np.uint8)
    assert np.array_equal(_fitted(square, 4), square)
