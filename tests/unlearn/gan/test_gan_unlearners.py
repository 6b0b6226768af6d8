"""Unlearners of GANs on a tiny one: what they reduce to, that they forget, and when they stop."""

from __future__ import annotations

import pytest
import torch
from gans import LEFT, VERY_LEFT, Bright, tiny_gan

from mu_vision import registry
from mu_vision.data.feedback import GanRequest, Marks, restored
from mu_vision.errors import Diverged, UsageError
from mu_vision.unlearn.gan.adapt_then_unlearn import AdaptThenUnlearn
from mu_vision.unlearn.gan.adaptation import Adaptation
from mu_vision.unlearn.gan.base import GanErasure

SMALL = {
    "steps": 6, "lr": 0.01, "batch": 8, "samples": 128, "path_every": 2, "r1_every": 2, "average": 0.9,
}  # fmt: skip
ADAPT = {"adapt_steps": 3, "negatives": 16, "fisher_samples": 4}
SQUARE = GanRequest("left", Bright("left", 0.02))


def build(name: str, **changes):
    return registry.get("method", name, "gan").from_settings({**SMALL, **changes})


def weights(done) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in done.model.named_parameters().items()}


def same(first, second) -> bool:
    first, second = weights(first), weights(second)
    return all(torch.equal(first[name], second[name]) for name in first)


def share(gan, request, count: int = 512) -> float:
    return float(request.oracle.shows(gan.pictures(gan.latents(count, "test"))).float().mean())


@pytest.fixture(scope="module")
def positives():
    return build("positives").unlearn(tiny_gan(), LEFT)


def test_without_repulsion_it_is_positives_only_bit_for_bit(positives):
    assert same(build("adapt_then_unlearn", gamma=0, **ADAPT).unlearn(tiny_gan(), LEFT), positives)
    repelled = build("adapt_then_unlearn", gamma=1, **ADAPT).unlearn(tiny_gan(), LEFT)
    assert not same(repelled, positives)


def test_without_its_term_ewc_is_positives_only(positives):
    assert same(build("ewc", ewc=0, fisher_samples=4).unlearn(tiny_gan(), LEFT), positives)
    assert not same(build("ewc", ewc=10, fisher_samples=4).unlearn(tiny_gan(), LEFT), positives)


def test_without_negatives_redaction_is_positives_only(positives):
    assert same(build("redaction", kept=1).unlearn(tiny_gan(), LEFT), positives)
    assert not same(build("redaction", kept=0.5).unlearn(tiny_gan(), LEFT), positives)


LONGER = {"steps": 80, "lr": 3e-3, "batch": 16, "samples": 512, "path": 0, "r1": 1.0}


@pytest.mark.parametrize("name", ["positives", "redaction", "ewc", "adapt_then_unlearn"])
def test_the_target_is_drawn_less(name):
    extra = {"kept": 0.6} if name == "redaction" else {}
    extra |= {"adapt_steps": 60, "gamma": 0.1} if name == "adapt_then_unlearn" else {}
    done = build(name, **LONGER, **extra).unlearn(tiny_gan(), SQUARE)
    assert share(done.model, SQUARE) < share(tiny_gan(), SQUARE) - 0.05
    assert done.report["negatives"] + done.report["positives"] == 512
    if name == "adapt_then_unlearn":
        assert done.report["d0"] > 0 and done.report["r"] > 0


def test_stage_one_draws_the_target_and_extrapolation_walks_away_from_it():
    request, original = SQUARE, share(tiny_gan(), SQUARE)
    settings = {**LONGER, "negatives": 64, "ewc": 0.0}
    there = build("extrapolation", s=1.0, **settings).unlearn(tiny_gan(), request)
    back = build("extrapolation", s=-1.0, **settings).unlearn(tiny_gan(), request)
    assert share(there.model, request) > original + 0.05
    assert share(back.model, request) < original
    assert all(name.startswith("generator.") for name in back.trained)


def test_the_published_strength_freezes_what_it_holds():
    def reach(**ewc) -> float:
        settings = {**LONGER, "steps": 30, "lr": 1e-3, "negatives": 64, **ewc}
        done = build("extrapolation", s=1.0, **settings).unlearn(tiny_gan(), SQUARE)
        before, after = tiny_gan().generator, done.model.generator
        own, other = dict(after.named_parameters()), dict(before.named_parameters())
        gaps = [(own[n] - other[n]).square().mean() for n in before.anchored()]
        return float(torch.stack(gaps).mean())

    free, held = reach(ewc=0.0), reach(ewc=5e8, ewc_scale="published")
    assert held < free / 4


def test_each_adapted_model_learns_from_negatives_of_its_own_or_from_all_there_are(positives):
    def learnt_from(number: int, **changes) -> torch.Tensor:
        objective = Adaptation(build("extrapolation", **changes), tiny_gan(), (LEFT,), number)
        objective.prepare(torch.device("cpu"))
        return objective.pool

    first, second = (learnt_from(number, negatives=16, ewc=0.0) for number in (0, 1))
    assert len(first) == len(second) == 16 and not torch.equal(first, second)
    every = learnt_from(0, negatives=500, ewc=0.0)
    assert len(every) == positives.report["negatives"] < 128
    assert LEFT.oracle.shows(restored(every)).all()


def test_adapted_models_are_read_from_folders(tmp_path):
    method = build("extrapolation", s=1.0, models=2)
    gans, results = method.adapt(tiny_gan(), (LEFT,), None, 2)
    assert len(gans) == len(results) == 2
    assert gans[0].fingerprint() != gans[1].fingerprint()
    places = [str(gan.save(tmp_path / f"{k}")) for k, gan in enumerate(gans)]
    given = build("extrapolation", s=1.0, adapted=places).unlearn(tiny_gan(), LEFT)
    for own, *parts in zip(
        given.model.generator.parameters(), *(g.generator.parameters() for g in gans)
    ):
        torch.testing.assert_close(own, torch.stack(parts).mean(0))
    with pytest.raises(UsageError, match="is no GAN folder"):
        build("extrapolation", adapted=[str(tmp_path / "none")]).unlearn(tiny_gan(), LEFT)
    other = tiny_gan("dcgan").save(tmp_path / "dcgan")
    with pytest.raises(UsageError, match=r"of another architecture \(dcgan"):
        build("adapt_then_unlearn", adapted=[str(other)]).unlearn(tiny_gan(), LEFT)


def test_it_stops_when_pul_levels():
    method = build("positives", **{**SMALL, "steps": 40, "lr": 1e-7}, check_every=4, patience=2,
                   check_latents=64)  # fmt: skip
    done = method.unlearn(tiny_gan(), LEFT)
    assert done.report["stopped"] == "PUL levelled at step 8"
    assert done.report["steps"] == 8 and [s for s, _ in done.report["watched"]] == [0, 4, 8]
    assert done.report["watched"][0][1] == share_of_watch(LEFT)


def share_of_watch(request) -> float:
    gan = tiny_gan()
    return float(request.oracle.shows(gan.pictures(gan.latents(64, "watch", 0))).float().mean())


def test_progress_keeps_it_going():
    method = build("positives", **{**LONGER, "steps": 60}, check_every=20, patience=3, tolerance=0)
    done = method.unlearn(tiny_gan(), SQUARE)
    assert done.report["steps"] == 60 and done.report["stopped"] == ""


def test_a_stopped_run_stays_stopped_when_it_is_taken_up_again(tmp_path):
    method = build("positives", **{**SMALL, "steps": 40, "lr": 1e-7}, check_every=4, patience=2,
                   check_latents=64)  # fmt: skip
    first = method.unlearn(tiny_gan(), LEFT, tmp_path)
    again = method.unlearn(tiny_gan(), LEFT, tmp_path)
    assert same(first, again) and again.report["watched"] == first.report["watched"]
    assert again.report["stopped"] == "PUL levelled at step 8"


def test_repulsion_that_diverges_keeps_the_last_good_weights():
    wild = {**SMALL, "steps": 20, "path": 0, "average": 0.5}
    method = build("adapt_then_unlearn", **wild, **ADAPT, gamma=1e6, repulsion="nl2", r_max=1e6,
                   r_stop=30.0)  # fmt: skip
    done = method.unlearn(tiny_gan(), VERY_LEFT)
    stopped = done.report["stopped"]
    assert "diverged at step" in stopped and "lower gamma" in stopped
    kept = int(stopped.split("the weights of step ")[1].split()[0])
    assert 0 < kept < 20 and done.report["steps"] <= 20
    assert all(torch.isfinite(p).all() for p in done.model.named_parameters().values())
    short = build("adapt_then_unlearn", **{**wild, "steps": kept}, **ADAPT, gamma=1e6,
                  repulsion="nl2", r_max=1e6, r_stop=1e9)  # fmt: skip
    assert same(done, short.unlearn(tiny_gan(), VERY_LEFT))


def test_a_loss_that_is_not_finite_ends_in_the_last_good_weights(monkeypatch):
    def spoiled(self, step):
        return {"spoiled_loss": torch.tensor(float("nan")) if step == 4 else torch.tensor(0.0)}

    monkeypatch.setattr(GanErasure, "extra_losses", spoiled)
    done = build("positives", **{**SMALL, "steps": 10}).unlearn(tiny_gan(), LEFT)
    assert "diverged at step 5, the weights of step 4 were kept" in done.report["stopped"]
    monkeypatch.setattr(GanErasure, "extra_losses", lambda self, step: {
        "spoiled_loss": torch.tensor(float("nan"))
    })  # fmt: skip
    with pytest.raises(Diverged, match="positives diverged at step 1"):
        build("positives").unlearn(tiny_gan(), LEFT)


def test_a_stage_one_that_diverges_is_not_taken_for_an_adapted_model(monkeypatch):
    def spoiled(self, step):
        return {"spoiled_loss": torch.tensor(float("nan")) if step == 2 else torch.tensor(0.0)}

    monkeypatch.setattr("mu_vision.unlearn.gan.adaptation.Adaptation.extra_losses", spoiled)
    with pytest.raises(Diverged, match="Stage 1 of extrapolation diverged at step 3"):
        build("extrapolation").unlearn(tiny_gan(), LEFT)


def test_marks_cannot_be_asked_about_new_pictures():
    marks = Marks(tiny_gan().fingerprint(), 0, 64, (0, 1, 2))
    request = GanRequest("ticked", marks=marks)
    with pytest.raises(
        UsageError, match=r"positives: a look at PUL needs an oracle.*check_every=0"
    ):
        build("positives", check_every=2).unlearn(tiny_gan(), request)
    done = build("positives").unlearn(tiny_gan(), request)
    assert done.report["negatives"] == 3 and done.report["positives"] == 61


def test_gamma_may_not_attract():
    with pytest.raises(UsageError, match="'gamma' must be greater than or equal to 0"):
        build("adapt_then_unlearn", gamma=-0.1)
    assert AdaptThenUnlearn().repulsion == "el2" and AdaptThenUnlearn().gamma is None
