"""Rows of heads on features of the source, which stays: in closed form, without a step. The bar for all fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxtl.methods.finetuning.prototypes import cache, class_means
from jaxtl.models.cache import CACHE
from jaxtl.problems import FewShot
from jaxtl.problems.few_shot import seed_of
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Range, Recipe, Setting
from jaxtl.selection import heads

Head = Mapping[str, np.ndarray]
Closed = Callable[[np.ndarray, np.ndarray, int, int], Head]  # (features, labels, classes, seed) -> a linear head


def closed_form(make: Closed) -> Callable[[FewShot, Weights, Setting, Draw], Weights]:
    """A linear head made of the features of the labelled examples, on the trunk as it starts."""

    def finish(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
        features, labels = problem.features(weights, draw)
        head = make(features, labels, len(problem.task.classes), seed_of(problem.config, draw))
        return weights._replace(params={**weights.params, "head": dict(head)})

    return finish


def nearest_mean(features: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> Head:
    """See `class_means`."""
    return {"kernel": class_means(features, labels, classes), "bias": np.zeros(classes, np.float32)}


def ridge(features: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> Head:
    """See `heads.ridge`."""
    return heads.ridge(features, labels, classes, None, seed)[0]


def logistic(features: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> Head:
    """See `heads.logistic`."""
    return heads.logistic(features, labels, classes, None, seed)[0]


def with_votes(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """The head of ridge regression, and the votes of the labelled examples beside it."""
    features, labels = problem.features(weights, draw)
    own: Any = cache(features, labels, len(problem.task.classes), setting["beta"], setting["alpha"])
    voting = closed_form(ridge)(problem, weights, setting, draw)
    return voting._replace(model_state={**voting.model_state, CACHE: {"head": own}})


HEADS = {
    "nearest_mean": Recipe(
        None,
        (),
        "the class whose mean feature is nearest in angle; nothing is trained",
        finish=closed_form(nearest_mean),
    ),
    "ridge": Recipe(
        None, (), "ridge regression on features, its λ by leaving one example out", finish=closed_form(ridge)
    ),
    "logistic": Recipe(
        None,
        (),
        "logistic regression on features, its λ by cross-validation on the examples",
        finish=closed_form(logistic),
    ),
    "tip_adapter": Recipe(
        None,
        ("beta", "alpha"),
        "ridge, and labelled examples that vote for their class by how much they resemble an image",
        ranges={"beta": Range(0.5, 50.0), "alpha": Range(0.01, 10.0)},
        finish=with_votes,
    ),
}
