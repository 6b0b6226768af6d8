"""Scorers and oracles on generated pictures, and the search of the latent space."""

from __future__ import annotations

import pytest
import torch
from gans import tiny_gan
from labelled import few_digits, trained_net

from mu_vision.data.feedback import ask
from mu_vision.data.labelled import named
from mu_vision.errors import UsageError
from mu_vision.evaluation.judges import load_judge
from mu_vision.evaluation.latent_search import LatentSearch, curve
from mu_vision.evaluation.oracles import Scorer, ScorerOracle


@pytest.fixture(scope="module")
def digits() -> Scorer:
    return Scorer.of_classifier(trained_net(12), 1, 8)


def test_a_scorer_reads_what_its_network_was_trained_on(digits):
    x = few_digits().test.x
    torch.testing.assert_close(digits.logits(x * 2 - 1), trained_net(12).logits(x))
    assert (digits.chances(x * 2 - 1).sum(1) - 1).abs().max() < 1e-5
    torch.testing.assert_close(digits.chance(x * 2 - 1, "3"), digits.chances(x * 2 - 1)[:, 3])
    colour = (x * 2 - 1).expand(-1, 3, -1, -1)
    large = torch.nn.functional.interpolate(colour, scale_factor=2, mode="nearest")
    alike = digits.chances(large).argmax(1) == digits.chances(x * 2 - 1).argmax(1)
    assert alike.float().mean() > 0.5


def test_a_judge_scores_pictures_of_any_size():
    scorer = Scorer.of_judge(load_judge("minicanvas/object-judge"))
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    assert scorer.logits(x).shape == (2, 10)
    assert scorer.chance(x[:, :1], "cat").shape == (2,)


def test_gradients_flow_back_to_the_pictures(digits):
    x = torch.zeros(2, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(digits.logits(x)[:, 3].sum(), x)
    assert gradient.abs().sum() > 0


def test_a_name_means_a_class_or_a_word_of_several():
    classes = ("photo cat", "neon cat", "neon car", "neon")
    assert named(classes, "cat") == [0, 1]
    assert named(classes, "neon") == [1, 2, 3]
    assert named(classes, "neon car") == [2]
    with pytest.raises(UsageError, match=r"There is no class 'caat'.* Did you mean 'cat'"):
        named(classes, "caat")


def test_an_oracle_says_yes_from_its_threshold_on(digits):
    x = few_digits().test.x * 2 - 1
    sure, easy = (ask(ScorerOracle(digits, "3", t), x) for t in (0.8, 0.1))
    assert (easy | ~sure).all() and easy.sum() >= sure.sum() > 0
    assert ScorerOracle(digits, "3").fingerprint != ScorerOracle(digits, "5").fingerprint
    with pytest.raises(UsageError, match="threshold must be between 0 and 1, not 1"):
        ScorerOracle(digits, "3", 1.0)
    with pytest.raises(UsageError, match="There is no class 'three'"):
        ScorerOracle(digits, "three")


class Sides(Scorer):
    """Tells whether the left or the right half is brighter."""

    def __init__(self):
        super().__init__("sides", ("left", "right"), "sides", self._tell, 1, None)

    @staticmethod
    def _tell(x):
        left, right = (half.mean((1, 2, 3)) for half in x.chunk(2, dim=3))
        return torch.stack([left - right, right - left], 1) * 60


def test_the_search_finds_more_with_a_larger_budget():
    gan, scorer = tiny_gan("dcgan"), Sides()
    search = LatentSearch(starts=40, budgets=(0, 5, 20), lr=0.4, threshold=0.9)
    rates = search.run(gan, scorer, scorer, "left")
    assert [r.total for r in rates] == [40] * 3
    assert rates[0].value < rates[1].value <= rates[2].value
    assert rates == search.run(gan, scorer, scorer, "left")
    told = curve(rates)
    assert told[2]["hits"] == rates[2].hits and told[2]["interval"][0] <= rates[2].value
    z = gan.latents(40, "search", 0)
    shown = scorer.chance(gan.pictures(z), "left") >= 0.9
    assert rates[0].hits == int(shown.sum())


def test_a_picture_that_fools_the_climbed_network_alone_is_not_found():
    gan = tiny_gan("dcgan")
    never = Sides()
    never.network = lambda x: torch.stack([-torch.ones(len(x)), torch.ones(len(x))], 1) * 9
    search = LatentSearch(starts=8, budgets=(0, 5))
    assert [r.hits for r in search.run(gan, Sides(), never, "left")] == [0, 0]
