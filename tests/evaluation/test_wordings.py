"""UA under words that no eraser was given, and the retained concepts nearest to the target."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_fakes import CARD, OBJECTS, STYLES, FakeModel, install, protocol, request

from mu_vision.evaluation.answers import AnswerSet
from mu_vision.evaluation.evaluate import evaluate
from mu_vision.evaluation.plan import grid_plan
from mu_vision.evaluation.wordings import SORTS, other_words, wordings_plan
from mu_vision.metrics.clip import nearest_classes
from mu_vision.request import concept_request

NEON, PHOTO = STYLES.index("neon"), STYLES.index("photo")
WORDS = {"wordings": {"texts": 3, "seeds": 1}}
CELLS = {
    text: (STYLES.index(style), OBJECTS.index(thing))
    for kind in ("style", "object")
    for style in STYLES
    for thing in OBJECTS
    for _, text in other_words(CARD, kind, thing, style)
}


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    install(monkeypatch)


def reads_all(s, o, prompt):
    """Other words mean what they mean."""
    return CELLS.get(prompt, (s, o))


def by_rote(s, o, prompt):
    """Forgot neon under the protocol's sentence alone."""
    if prompt in CELLS:
        return CELLS[prompt]
    return (PHOTO, o) if s == NEON else (s, o)


def only_sentences(s, o, prompt):
    """An original that knows no other name than the usual ones."""
    known = {t for p in STYLES for o in OBJECTS for sort, t in other_words(CARD, "style", o, p)
             if sort == "paraphrase"}  # fmt: skip
    return CELLS[prompt] if prompt in known else ((PHOTO, 0) if prompt in CELLS else (s, o))


def test_no_other_word_is_given_to_an_eraser():
    given = set(concept_request("style", "neon").prompts)
    asked = wordings_plan(protocol(**WORDS), [request("style", "neon")])[0].prompts
    assert len(asked) == 10 * 2 * 3 and not given & set(asked)


def test_cells_start_from_their_own_latents():
    chosen = protocol(**WORDS)
    plan, sorts = wordings_plan(chosen, [request("style", "neon")])
    grid = grid_plan(chosen)
    cells = zip(grid.styles.tolist(), grid.objects.tolist(), grid.seeds.tolist(), strict=True)
    latents = dict(zip(cells, grid.latent_parts, strict=True))
    for k in range(len(plan)):
        cell = (int(plan.styles[k]), int(plan.objects[k]), int(plan.seeds[k]))
        assert plan.latent_parts[k] == latents[cell] and cell[0] == NEON and cell[2] == 1
    assert np.bincount(sorts).tolist() == [30, 30]
    assert {SORTS[k] for k in sorts} == set(SORTS)


def test_forgetting_by_rote_shows():
    card = evaluate(
        FakeModel(by_rote, "edit"), protocol(**WORDS), request(), FakeModel(reads_all, "original")
    )
    assert card["ua"].value == 1
    for name in ("ua_paraphrase", "ua_synonym"):
        assert card[name].value == 0 and card[name].used == 30 and card[name].unit == "rate"
    assert card.answers["wordings"] != card.answers["key"]


def test_what_the_original_never_knew_does_not_count():
    card = evaluate(
        FakeModel(by_rote, "edit"), protocol(**WORDS), request(), FakeModel(only_sentences, "first")
    )
    assert card["ua_paraphrase"].used == card["ua_paraphrase"].details["asked"] == 30
    assert "ua_synonym" not in card.metrics


def test_the_original_and_answer_sets_have_no_such_number():
    model = FakeModel(reads_all)
    card = evaluate(model, protocol(**WORDS), request(), model)
    assert "ua_paraphrase" not in card.metrics
    from mu_vision.evaluation.answers import generate

    answers: AnswerSet = generate(FakeModel(by_rote, "edit"), protocol(**WORDS))
    assert "ua_paraphrase" not in evaluate(answers, protocol(**WORDS), request(), model).metrics


def test_nearest_classes_by_hand():
    features = np.array([[1, 0], [3, 0], [0, 1], [1, 1], [2, 1]], np.float32)
    labels = np.array([0, 0, 1, 2, 3])
    assert nearest_classes(features, labels, [0]) == [3, 2, 1]
    assert nearest_classes(features, labels, [0, 1]) == [3, 2]


def test_damage_to_the_nearest_concepts_is_not_hidden_by_the_mean():
    chosen = protocol(nearest=1)
    found = evaluate(FakeModel(by_rote, "a"), chosen, request(), FakeModel())
    (near,) = found["ira_nearest"].details["concepts"]
    assert near != "neon" and found["ira_nearest"].value == 1
    place = STYLES.index(near)

    def damages(s, o, prompt):
        return (PHOTO if s in (NEON, place) else s, o)

    if place == PHOTO:

        def damages(s, o, prompt):
            return ((PHOTO + 1) % 8 if s in (NEON, PHOTO) else s, o)

    hurt = evaluate(FakeModel(damages, "b"), chosen, request(), FakeModel())
    assert hurt["ira_nearest"].value == 0 and hurt["ira"].value == pytest.approx(6 / 7)
    assert hurt["paired_clip_similarity_nearest"].value < hurt["paired_clip_similarity"].value
