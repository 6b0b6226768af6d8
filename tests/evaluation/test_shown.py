"""What is measured on pictures of a table: counts, changes, captions."""

from __future__ import annotations

import pytest
from evaluation_fakes import STYLES
from prompt_fakes import HEADER, PHOTO, ROWS, Model, erased, install, protocol, source, write

from mu_vision.data import minicanvas
from mu_vision.errors import CountMismatch, UsageError
from mu_vision.evaluation import captions, shown
from mu_vision.evaluation.answers import generate
from mu_vision.evaluation.detectors import Classifier
from mu_vision.evaluation.evaluate import evaluate
from mu_vision.evaluation.plan import table_plan
from mu_vision.evaluation.prompt_table import read_table
from mu_vision.evaluation.prompts import PromptProtocol
from mu_vision.metrics.rates import wilson_interval
from mu_vision.request import concept_request
from mu_vision.resources import EMBEDDED
from mu_vision.validation import validated


@pytest.fixture(autouse=True)
def fakes(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path)


def test_shown_is_counted():
    card = evaluate(Model(), protocol())
    metric = card["shown"]
    assert metric.value == 3 / 5 and metric.interval == wilson_interval(3, 5)
    assert metric.details["hits"] == 3 and sorted(metric.details["ids"]) == ["0", "2", "3"]
    assert metric.details["classes"] == {
        "neon": {"pictures": 3, "detections": 3},
        STYLES[0]: {"pictures": 2, "detections": 2},
    }
    assert card["ua"].value == 2 / 5 and card["detections"].value == 3
    assert metric.details["prompts_cut"] == 1
    assert "1 of 5 prompts are longer than the text encoder reads" in card.warnings[0]
    assert card.request is None and not any(card.flags.values())
    assert card.settings["blur"] and card.answers["pictures"] == 5


def test_change_against_the_original():
    request = concept_request("concept", "neon")
    card = evaluate(Model(erased, "esd"), protocol(), request, Model(), method="esd")
    assert card["shown"].value == 0 and card["ua"].value == 1
    assert card["shown_change"].value == card["detections_change"].value == -1
    assert card["shown_change"].details == {"count": 0, "original": 3}
    assert card["shown_change"].text == "-100.0 %"
    change = card["paired_shown_change"]
    assert change.value == pytest.approx(-3 / 5) and change.interval[1] < 0
    assert "noise shows nothing either" in card.warnings[1]
    half = evaluate(
        Model(lambda s, o, p: (PHOTO, o) if "cat" in p else (s, o), "uce"), protocol(), request,
        Model(),
    )  # fmt: skip
    assert half["shown_change"].value == pytest.approx((2 - 3) / 3)


def test_no_op_and_an_original_that_shows_nothing():
    original, request = Model(), concept_request("concept", "neon")
    same = evaluate(
        Model(name="b", fingerprint=original.fingerprint()), protocol(), request, original
    )
    assert same.flags["no_op"] and "no-op" in same.warnings[0]
    idle = evaluate(Model(name="moved"), protocol(), request, original)
    assert idle.flags["unchanged_pictures"] and not idle.flags["no_op"]
    nothing = protocol(judge={"kind": "classifier", "model": "fake", "shows": "woodcut"})
    card = evaluate(Model(erased, "esd"), nothing, request, original)
    assert "shown_change" not in card.metrics
    assert any("shows it in none of 5 pictures" in said for said in card.warnings)
    alone = evaluate(Model(erased, "esd"), protocol(), request)
    assert any("No original was given" in said for said in alone.warnings)
    row = evaluate(original, protocol(), request, original)
    assert row["shown_change"].value == 0 and not any(row.flags.values())
    with pytest.raises(UsageError, match="give the model, not an answer set"):
        evaluate(generate(original, protocol(), plan=table_plan(
            protocol(), read_table(source(), 2.0))), protocol())  # fmt: skip


def test_second_look_is_not_needed(tmp_path, monkeypatch):
    first = evaluate(Model(), protocol(), folder=tmp_path / "kept")
    seen = []
    monkeypatch.setattr(Classifier, "detections", lambda *a: seen.append(a))
    model = Model()
    again = evaluate(model, protocol(), folder=tmp_path / "kept")
    assert not seen and not model.batches
    assert {n: m.value for n, m in again.metrics.items() if m.unit not in ("s", "GB")} == {
        n: m.value for n, m in first.metrics.items() if m.unit not in ("s", "GB")
    }


CAPTIONS = (
    "A cat image in neon style.",
    "A tree image in photo style.",
    "A cup image in mosaic style.",
)


def with_captions(tmp_path, **changes):
    rows = [f"{caption},{k},{k}" for k, caption in enumerate(CAPTIONS)]
    write(tmp_path / "captions.csv", "prompt,evaluation_seed,image_id", *rows)
    (tmp_path / "real").mkdir(exist_ok=True)
    wanted = {
        "path": "captions.csv", "columns": {"seed": "evaluation_seed"}, "clip": "fake",
        "fid": {"clip": True, "folder": {"path": "real"}}, **changes,
    }  # fmt: skip
    return protocol(captions=wanted)


def draw_real(tmp_path, asked, model=None):
    """Put the pictures of the captions themselves into the folder of real ones."""
    from PIL import Image

    table = read_table(asked.captions, 2.0)
    answers = generate(model or Model(), asked, plan=table_plan(asked, table))
    for seed, picture in zip(answers.seeds, answers.pictures):
        Image.fromarray(picture).save(tmp_path / "real" / f"{seed:012d}.png")


def test_captions_against_their_own_pictures(tmp_path, monkeypatch):
    asked = with_captions(tmp_path)
    with pytest.raises(UsageError, match="should hold the real pictures and holds 0"):
        evaluate(Model(), asked)
    draw_real(tmp_path, asked)
    card = evaluate(Model(), asked, folder=tmp_path / "kept")
    assert card["fid_clip"].value == pytest.approx(0, abs=1e-6)
    assert card["fid_clip"].details["reference_pictures"] == 3
    assert card["clip_score"].value > 95 and card["clip_score"].used == 3
    # features are read again, and lots of one picture give the same numbers
    monkeypatch.setattr(captions, "LOT", 1)
    lots = evaluate(Model(), asked, folder=tmp_path / "lots", batch=1)
    for name in ("clip_score", "fid_clip"):
        assert lots[name].value == pytest.approx(card[name].value, abs=1e-5)
    request = concept_request("concept", "neon")
    ruined = evaluate(Model(lambda s, o, p: (7, 9), "bad"), asked, request, Model())
    assert ruined["clip_score"].value < card["clip_score"].value
    assert ruined.flags["collapsed"] and "moved away from real ones" in " ".join(ruined.warnings)


def test_real_pictures_of_the_captions_alone(tmp_path):
    fid = {"clip": True, "folder": {"path": "real"}, "picture_name": "{:012d}.png"}
    columns = {"seed": "evaluation_seed", "picture": "image_id"}
    asked = with_captions(tmp_path, fid=fid, columns=columns, limit=2)
    with pytest.raises(
        CountMismatch, match=r"hold 2 pictures.* 2 are missing, e.g. 000000000000.png"
    ):
        evaluate(Model(), asked)
    draw_real(tmp_path, with_captions(tmp_path))
    card = evaluate(Model(), asked)
    assert card["fid_clip"].details["reference_pictures"] == 2 and card["fid_clip"].used == 2
    with pytest.raises(UsageError, match="at least 2 captions"):
        evaluate(Model(), with_captions(tmp_path, limit=1))
    with pytest.raises(UsageError, match="is no pattern for one value"):
        bad = {**asked.model_dump()["captions"]["fid"], "picture_name": "{a}"}
        validated(PromptProtocol, with_captions(tmp_path).model_dump() | {
            "captions": {**asked.model_dump()["captions"], "fid": bad}}, "here")  # fmt: skip


# For real ------------------------------------------------------------------------------------


def test_the_embedded_pipeline_through_a_run(tmp_path, monkeypatch):
    from PIL import Image

    from mu_vision.evaluation import detectors, judges
    from mu_vision.plan import plan
    from mu_vision.recipe import make_recipe
    from mu_vision.runner import run

    monkeypatch.setattr(shown, "load_detector", detectors.load_detector)
    monkeypatch.setattr(captions, "load_clip", judges.load_clip)
    asked = with_captions(tmp_path, clip={"path": str(EMBEDDED / "clip")}, limit=2)
    asked = asked.changed(
        {"judge": {"model": "minicanvas/style-judge"}, "steps": 4, "batch": 8}, "here"
    )
    for k, pixels in enumerate(minicanvas.load([0], "painting").pixels[:3]):
        Image.fromarray(pixels).save(tmp_path / "real" / f"{k}.png")
    path = write(tmp_path / "mine.yaml", asked.model_dump_json(exclude_none=True))
    recipe = make_recipe(
        {"kind": "evaluate", "name": "mine", "protocol": str(path), "original": "minicanvas/sd"},
        ["protocol.guidance=3"],
    )
    planned = plan(recipe, tmp_path / "run")
    assert planned.pictures == 7 and planned.needs == []
    result = run(recipe, tmp_path / "run")
    card = result.scorecards["original"]
    assert card["shown"].value == 3 / 5 and card["clip_score"].value > 60
    assert set(card["shown"].details["ids"]) == {"0", "2", "3"}
    assert result.scores["models"]["original"]["shown"] == 60.0
    text = result.report.read_text(encoding="utf-8")
    assert "CLIP score" in text and "60.0" in text and "minicanvas/style-judge" in text
    again = run(recipe, tmp_path / "run")
    assert all(record.reused for record in again.stages.values())
    write(tmp_path / "table.csv", HEADER, *ROWS[:4])
    changed = run(recipe, tmp_path / "run")
    assert changed.scorecards["original"]["shown"].value == 3 / 4
