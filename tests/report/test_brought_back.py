from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from fakes import answers, attacked_data, audit_data, data, robustness, table
from test_build import EVIL, page

from mu_vision.errors import UsageError
from mu_vision.evaluation.protocol import load_protocol
from mu_vision.report.brought_back import MOST, brought_back, outcome, short, visible, which
from mu_vision.report.build import write_report, write_table
from mu_vision.report.views import model_views
from mu_vision.reporting import rebuild_report

HOSTILE = "glow \x04\u202e\u200b\ufffd\ud800\x1b e\u0301 \\x " + EVIL


def back(content):
    return brought_back(content, [m for m in model_views(content) if m.robustness], "neon")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("neon a cat", "neon a cat"),
        ("a\x04b\x7f", "a\\x04b\\x7f"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\ufffd\u200b\u202e\u00ad", "\\ufffd\\u200b\\u202e\\xad"),
        ("\ud800 \U000e0001 \u2028", "\\ud800 \\U000e0001 \\u2028"),
        ("\xa0\u3000", "\\xa0\\u3000"),
        ("e\u0301", "e\\u0301"),
        ("\\x04", "\\\\x04"),
        ("né 猫 🙂", "né 猫 🙂"),
    ],
)
def test_what_a_page_would_hide_is_written_out(text, seen):
    assert visible(text) == seen


def test_long_prompts_are_cut():
    assert short("a" * 60) == "a" * 60 and short("a" * 61) == "a" * 59 + "…"


def test_outcomes_have_words_and_a_mark():
    trial = {"before": False, "after": True, "tries": 3}
    assert outcome(trial) == ("brought back at picture 3", "back")
    assert outcome({**trial, "before": True}) == ("needs no attack", "shown")
    assert outcome({**trial, "after": False}) == ("withstood 3 pictures", "")
    assert outcome({**trial, "after": False, "tries": 1})[0] == "withstood 1 picture"
    assert outcome({**trial, "after": False, "tries": 0})[0] == "nothing was tried"


def test_the_rows_are_the_target_the_model_and_its_attacks():
    (block,) = back(attacked_data())
    titles = ["Target", "Without attack", "Other words", "P4D", "Image to image", "Relearning"]
    assert [line.title for line in block["lines"]] == titles
    marks = [[shot.mark for shot in line.shots] for line in block["lines"]]
    assert marks[0] == marks[1] == [""] * 4 and marks[3] == ["back", "back", "", ""]
    p4d = block["lines"][3]
    assert p4d.shots[0].alt.startswith("ESD, P4D: neon back, prompt 1, A tree image in neon")
    assert "neon not shown" in p4d.shots[3].alt
    assert block["lines"][-1].below == "4 of 4, not counted"
    assert block["tries"][1][1][0].text == "glow \\x04 a cat"


def test_of_many_prompts_a_spread_is_shown():
    found = robustness(cases=40)
    for record in found["attacks"].values():
        record["trials"] = record["trials"] * 10
    drawn = answers().pictures[:40]
    many = attacked_data(found, attacked={"esd": {"p4d": drawn}}, unattacked={})
    (block,) = back(many)
    numbers = [number for number, *_ in block["columns"]]
    assert len(numbers) == MOST and (numbers[0], numbers[-1]) == (1, 40)
    assert block["which"].startswith("10 of 40 prompts") and which(4, 4) == "All 4 prompts."
    assert [line.title for line in block["lines"]] == ["P4D"]


def test_the_page_shows_the_attack_sections(tmp_path):
    found = page(write_report, attacked_data(), tmp_path)
    words = found.words
    for text in ("Under attack", "What attacks brought back", "Relearning", "not counted",
                 "too low", "worst of 3 attacks: Image to image", "glow \\x04 a cat",
                 "Training steps until half", "ESD mostly forgot neon"):  # fmt: skip
        assert text in words, text
    assert "no attack was run" not in words
    assert sum("found" in td.get("class", "") for td in found.find("td")) == 0 + 2 + 3 + 4
    assert all(img["alt"] for img in found.find("img"))
    assert all(th.get("scope") in ("col", "row") for th in found.find("th"))
    assert not found.find("input")


def test_hostile_prompts_stay_text(tmp_path):
    found = robustness()
    for record in found["attacks"].values():
        record["trials"] = [
            {**t, "prompt": HOSTILE, "adversarial": HOSTILE} for t in record["trials"]
        ]
        record["title"] = EVIL
    found["warnings"], found["never_knew"] = [EVIL], EVIL
    shown = page(write_report, attacked_data(found), tmp_path)
    assert len(shown.find("script")) == 2
    assert visible(HOSTILE) in " ".join(shown.text).replace("\n", " ")
    raw = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(character in raw for character in "\x04\x1b\u202e\u200b\ufffd")


def test_blurred_pictures_are_shown_by_a_checkbox_alone(tmp_path):
    found = page(write_report, attacked_data(robustness(blur=True)), tmp_path)
    (box,) = found.find("input")
    assert box["type"] == "checkbox" and "checked" not in box and "onclick" not in box
    assert {label["for"] for label in found.find("label")} == {box["id"]}
    assert "Pictures are blurred" in found.words
    # the selector needs the sections, with the ordinary walls, to be siblings after the box
    order = [(tag, a.get("id")) for tag, a in found.tags if tag in ("input", "section", "main")]
    assert order[:3] == [("main", None), ("input", "unblur"), ("section", "pictures")]
    raw = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "#unblur:not(:checked) ~ section .wall img { filter: blur(" in raw


def test_a_protocol_that_blurs_does_so_without_attacks_too(tmp_path):
    protocol = load_protocol("minicanvas_robust").changed({"robustness": {"blur": True}}, "a test")
    quiet = data(protocol=protocol.model_dump(mode="json"))
    assert page(write_report, quiet, tmp_path).find("input")


def test_without_pictures_or_floor_the_words_remain(tmp_path):
    content = attacked_data(robustness(floor=False), pictures=False)
    (block,) = back(content)
    assert block["lines"] == [] and len(block["tries"]) == 4
    found = page(write_report, content, tmp_path)
    assert "names no model that never knew neon" in found.words
    assert "glow \\x04 a cat" in found.words
    assert not [t for t in found.find("table") if "back" in t.get("class", "")]


def test_an_audit_alone_has_no_empty_sections(tmp_path):
    found = page(write_report, audit_data(), tmp_path)
    assert "erased shows neon in 0.0 % of 4 prompts as they are" in found.words
    assert [s["id"] for s in found.find("section")] == (
        ["attacks", "back", "relearning", "how", "again"]
    )
    links = {a["href"] for a in found.find("a")}
    assert links == {"#attacks", "#how"}
    assert "forgotten (UA)" not in found.words and "Scorecards" not in found.words
    assert "How to read the words" not in found.words


def write_run(folder, cases):
    cards = attacked_data().scorecards
    models = {label: {"scorecard": card} for label, card in cards.items()}
    scores = {"name": "x", "request": None, "models": models, "answers": {}, "environment": {},
              "attacks": "found"}  # fmt: skip
    (folder / "found").mkdir()
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "x"}))
    found, drawn = cards["esd"]["robustness"], answers().pictures[:cases]
    np.savez(folder / "found" / f"{found['attacks']['p4d']['key']}.npz", pictures=drawn)
    np.savez(folder / "found" / f"{found['before']}.npz", pictures=np.stack([drawn, drawn]))


def test_a_run_folder_gives_its_pictures(tmp_path):
    write_run(tmp_path, 4)
    text = rebuild_report(tmp_path).read_text(encoding="utf-8")
    assert text.count("<img") == 3 * 4 and "ESD, P4D" in text


def test_pictures_of_other_prompts_are_refused(tmp_path):
    write_run(tmp_path, 3)
    with pytest.raises(UsageError, match="of 3 prompts and the scores are of 4"):
        rebuild_report(tmp_path)


def test_a_table_shows_the_worst_case_and_a_second_plot(tmp_path):
    rows = [
        {**row, "pre_asr": 0.0, "asr_worst": 40.0, "asr_p4d": 20.0, "asr_image_to_image": 40.0}
        for row in table().rows
    ]
    found = page(write_table, table(rows=rows), tmp_path)
    assert "; its worst attack succeeds on 40.0 % of prompts" in found.words
    assert "worst ASR %" in found.words and "Every attack, style requests" in found.words
    axes = [text for text in found.text if text.startswith("withstood: 100 less")]
    assert len(axes) == 2
    quiet = page(write_table, table(), tmp_path)
    assert "worst" not in quiet.words.replace("at worst", "") and "Withstood" not in quiet.words


def keys_of(value):
    """Names below one another; the labels of attacks, sorts and curves' values do not matter."""
    if isinstance(value, dict):
        return {key: keys_of(inner) for key, inner in value.items()}
    return None


def test_the_fakes_have_the_keys_of_a_real_audit():
    import mu_vision
    from mu_vision.evaluation.robustness import Battery, open_judges

    attacks = {name: False for name in load_protocol("minicanvas_robust").robustness.attacks}
    attacks["image_to_image"] = {"strengths": [0.5]}
    attacks["relearning"] = {"marks": [0, 1], "batch": 1}
    attacks["unlearndiffatk"] = {"tokens": 1, "timesteps": 1, "iterations": 1}
    changes = {"steps": 6, "objects": ["tree"], "styles": ["photo", "neon"],
               "robustness": {"attacks": attacks, "examples": 1}}  # fmt: skip
    protocol = load_protocol("minicanvas_robust").changed(changes, "a test")
    model = mu_vision.load_model("minicanvas/sd", device="cpu")
    request = mu_vision.concept_request("style", "neon")
    erased = mu_vision.erase(model, request, method="uce")
    battery = Battery(model, [request], protocol, open_judges(protocol, "cpu"))
    real, fake = battery.audit(erased.model), robustness(floor=False)
    assert set(real) == set(fake) and set(real["worst"]) == set(fake["worst"])
    for name in ("image_to_image", "relearning"):
        mine, theirs = fake["attacks"][name], real["attacks"][name]
        assert set(mine) == set(theirs)
        assert set(mine["trials"][0]) == set(theirs["trials"][0])
        assert keys_of(mine["details"]) == keys_of(theirs["details"])
    level = real["attacks"]["image_to_image"]["details"]["strengths"][0]
    mine = fake["attacks"]["image_to_image"]["details"]["strengths"][0]
    assert keys_of(level) == keys_of(mine)
    assert set(real["attacks"]["unlearndiffatk"]["control"]) == set(fake["pre_asr"])
