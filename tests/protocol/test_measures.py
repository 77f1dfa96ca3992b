"""Every measure is scikit-learn's, and a comparison by any of them is told in its own unit and direction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from jaxtl.errors import InputError
from jaxtl.protocol import ACCURACY, MEASURES, R2, Draw, Method, Range, compare, paired, verdict_sentence
from jaxtl.protocol.results import points

RANDOM = np.random.default_rng(0)
SIZES = [2, 3, 7]


def softmax(logits):
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def drawn(classes, n=200, seed=0):
    random = np.random.default_rng(seed)
    labels = random.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    return labels, random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]


def one_hot(labels, classes):
    return np.eye(classes, dtype=int)[labels]


ORACLES = {
    "accuracy": lambda y, z: metrics.accuracy_score(y, z.argmax(1)),
    "balanced_accuracy": lambda y, z: metrics.balanced_accuracy_score(y, z.argmax(1)),
    "macro_f1": lambda y, z: metrics.f1_score(y, z.argmax(1), average="macro"),
    "roc_auc": lambda y, z: (
        metrics.roc_auc_score(y, z[:, 1] - z[:, 0])
        if z.shape[1] == 2
        else metrics.roc_auc_score(y, softmax(z), multi_class="ovr", average="macro")
    ),
    "average_precision": lambda y, z: (
        metrics.average_precision_score(y, z[:, 1] - z[:, 0])
        if z.shape[1] == 2
        else metrics.average_precision_score(one_hot(y, z.shape[1]), softmax(z), average="macro")
    ),
    "log_loss": lambda y, z: metrics.log_loss(y, softmax(z), labels=range(z.shape[1])),
}


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("name", ORACLES)
def test_a_measure_of_classes_is_that_of_scikit_learn(name, classes):
    labels, logits = drawn(classes)
    assert MEASURES[name].score(labels, logits) == pytest.approx(ORACLES[name](labels, logits), rel=1e-9)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
def test_a_measure_of_several_labels_is_that_of_scikit_learn(name):
    marks = RANDOM.integers(0, 2, (100, 4))
    scores = RANDOM.normal(size=(100, 4)) + marks
    oracle = {"roc_auc": metrics.roc_auc_score, "average_precision": metrics.average_precision_score}[name]
    assert MEASURES[name].score(marks, scores) == pytest.approx(oracle(marks, scores, average="macro"), rel=1e-9)


def test_r2_is_that_of_scikit_learn_and_may_be_negative():
    targets, predicted = RANDOM.normal(size=(50, 3)), RANDOM.normal(size=(50, 3))
    assert R2.score(targets, predicted) == pytest.approx(metrics.r2_score(targets, predicted), rel=1e-9)
    assert R2.score(targets, predicted) < 0


def test_the_calibration_error_is_that_of_bins_by_hand():
    labels, logits = drawn(3)
    probabilities = softmax(logits)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert MEASURES["calibration_error"].score(labels, logits) == pytest.approx(expected, rel=1e-6)
    certain = 100.0 * one_hot(labels, 3)
    assert MEASURES["calibration_error"].score(labels, certain) == pytest.approx(0, abs=1e-12)


def test_a_class_that_nobody_has_costs_nothing_and_one_that_all_have_tells_nothing():
    labels, logits = drawn(3)
    wide = np.concatenate([logits, np.full((len(logits), 1), -50.0)], axis=1)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision", "log_loss"):
        assert MEASURES[name].score(labels, wide) == pytest.approx(MEASURES[name].score(labels, logits), rel=1e-6)
    assert math.isnan(MEASURES["roc_auc"].score(np.zeros(4, int), np.eye(4)[:, :2]))


# ---- what a comparison makes of it

LOSS = MEASURES["log_loss"]


def test_smaller_helps_where_smaller_is_better():
    differences = [-0.2, -0.3, -0.25, -0.2, -0.3, -0.25]
    found = paired("new", "old", differences, measure=LOSS)
    assert (found.verdict, paired("new", "old", differences).verdict) == ("helps", "hurts")
    assert points(found) == "−0.250 [−0.297, −0.203]"
    assert verdict_sentence(found).startswith("new vs old: −0.250 [−0.297, −0.203] over 6 draws: helps (")
    small = paired("new", "old", [0.001, -0.002, 0.003, 0.002, 0.0, 0.001], measure=LOSS)
    assert small.verdict == "no effect beyond ±0.01"


def methods(values, measure):
    def method(name, value):
        train = lambda setting, draw: value + draw.seed / 1000 + 0.1 * (setting["pull"] > 1)  # noqa: E731
        return Method(name, {"pull": Range(0.1, 10.0)}, train)

    return compare(
        [method(name, value) for name, value in values.items()],
        2,
        [0],
        range(10, 16),
        validate=lambda trained, draw: measure.better(trained),
        test=lambda trained, draw: ({"test": trained}, {}),
        contrasts=[("a", "b")],
        measure=measure,
        replicates=2,
    )


@pytest.mark.parametrize("measure", [R2, LOSS, ACCURACY], ids=lambda measure: measure.name)
def test_a_comparison_chooses_and_judges_by_its_measure(measure):
    runs, (contrast,) = methods({"a": 0.3, "b": 0.1}, measure)
    chosen = {run.setting["pull"] > 1 for run in runs if run.stage == "report"}
    assert chosen == {measure.larger}
    assert contrast.verdict == ("helps" if measure.larger else "hurts")
    assert contrast.measure == measure


def test_r2_is_no_fraction_and_may_be_what_an_accuracy_may_not():
    runs, _ = methods({"a": -3.0, "b": -2.0}, R2)
    assert min(run.metrics["test"] for run in runs if run.stage == "report") < -2.8
    with pytest.raises(InputError, match=r"test accuracy -2\.89"):
        methods({"a": -3.0, "b": -2.0}, ACCURACY)
    with pytest.raises(InputError, match=r"test R² 1\.51.*\n.*-inf to 1"):
        methods({"a": 1.4, "b": 0.0}, R2)


def test_a_draw_that_diverges_counts_as_the_measure_says():
    def train(setting, draw):
        return math.nan if draw.seed == 12 else 0.5

    runs, _ = compare(
        [Method("a", {}, train)],
        1,
        [0],
        range(10, 16),
        validate=lambda trained, draw: trained,
        test=lambda trained, draw: ({"test": trained}, {}),
        measure=R2,
    )
    assert [run.metrics["test"] for run in runs if run.diverged] == [-1.0]
    assert Draw(12).seed in {run.seed for run in runs if run.diverged}
