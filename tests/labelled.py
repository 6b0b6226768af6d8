"""Small labelled data and classifiers for tests."""

from __future__ import annotations

from functools import cache

from mu_vision.data.labelled import Splits, digits
from mu_vision.models.classifier import Classifier
from mu_vision.train.classifier import ClassifierTrainer


@cache
def few_digits(train: int = 240, test: int = 80) -> Splits:
    whole = digits()
    return Splits("few_digits", whole.train.take(range(train)), whole.test.take(range(test)))


@cache
def trained_net(epochs: int = 4, seed: int = 0) -> Classifier:
    return ClassifierTrainer(epochs=epochs, seed=seed).fit(few_digits())[0]
