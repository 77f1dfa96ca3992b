"""All scores as rows of a table: what each makes of a source before it is tried; larger is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtl.methods.transferability.evidence import logme
from jaxtl.methods.transferability.predictions import leep, nce
from jaxtl.methods.transferability.separation import h_score, regularized_h_score, transrate
from jaxtl.problems.many_sources import View
from jaxtl.selection.probes import a_distance, ridge_probe


class Score(NamedTuple):
    """A row: what it says of a source, and how in a line."""

    of: Callable[[View], float]
    means: str


SCORES = {
    "h_score": Score(
        lambda seen: h_score(seen.features, seen.labels),
        "share of the features' variance that lies between classes, summed over directions",
    ),
    "regularized_h_score": Score(
        lambda seen: regularized_h_score(seen.features, seen.labels),
        "the same with a covariance shrunk as Ledoit and Wolf do",
    ),
    "logme": Score(
        lambda seen: logme(seen.features, seen.labels),
        "evidence of a linear model of the labels, coefficients integrated out",
    ),
    "transrate": Score(
        lambda seen: transrate(seen.features, seen.labels),
        "nats to code the features, less those to code them within classes",
    ),
    "leep": Score(
        lambda seen: leep(seen.source_probs, seen.labels),
        "log likelihood of the labels by way of the source's classes",
    ),
    "nce": Score(
        lambda seen: nce(seen.source_probs.argmax(axis=1), seen.labels),
        "minus the entropy of the labels, given the source class that each example is taken for",
    ),
    "probe": Score(
        lambda seen: ridge_probe(seen.features, seen.labels).accuracy,
        "leave-one-out accuracy of a ridge head on the features, in closed form",
    ),
    "a_distance": Score(
        lambda seen: -a_distance(seen.source_features, seen.features),
        "minus how well source and target features can be told apart; no labels",
    ),
    "source accuracy": Score(lambda seen: seen.source_accuracy, "how good the source is on its own task; no target"),
}
