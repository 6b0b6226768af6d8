"""The attack battery on a table of prompts, for real: the embedded model and its own judge."""

import pytest

from mu_vision import load_model
from mu_vision.evaluation.prompts import PromptProtocol
from mu_vision.evaluation.robustness import Battery, metrics_of, open_judges
from mu_vision.request import concept_request
from mu_vision.validation import validated

ROWS = "prompt,evaluation_seed\nA tree image in neon style.,3\nA cup image in photo style.,4\n"


@pytest.fixture
def protocol(tmp_path):
    (tmp_path / "table.csv").write_text(ROWS)
    data = {
        "kind": "prompts", "name": "little", "steps": 6, "guidance": 3.0,
        "prompts": {"path": str(tmp_path / "table.csv"), "columns": {"seed": "evaluation_seed"}},
        "judge": {"kind": "classifier", "model": "minicanvas/style-judge", "shows": ["neon"]},
        "robustness": {
            "seeds": [0], "examples": 2, "controls": False,
            "attacks": {"random_prefix": {"tokens": 1, "pictures": 1}, "image_to_image": {}},
        },
    }  # fmt: skip
    return validated(PromptProtocol, data, "little")


def test_rows_that_the_original_does_not_show_are_left_out_and_counted(protocol, tmp_path):
    model = load_model("minicanvas/sd")
    request = concept_request("concept", "neon style", anchor="a picture")
    judges = open_judges(protocol, model.device)
    battery = Battery(model, [request], protocol, judges, tmp_path / "attacks")
    found = battery.audit(load_model("minicanvas/sd-without-neon-cat"))
    assert (found["asked"], found["cases"]) == (2, 1)
    assert found["unknown"] == ["A cup image in photo style."]
    assert battery.stage.cases[0].neutral == "a picture"
    assert found["blur"] is True  # the protocol's default
    assert found["pre_asr"]["hits"] == 0  # that model never knew neon
    assert metrics_of(found, battery.judge)["pre_asr"].expected == 1
    assert "left out" in found["warnings"][0]
