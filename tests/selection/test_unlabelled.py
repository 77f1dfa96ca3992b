"""What chooses without target labels: closed forms, SciPy's arithmetic, bounds, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.linear_model import RidgeClassifier

from jaxtl.errors import InputError
from jaxtl.selection.unlabelled import (
    confidence,
    deep_embedded,
    density_ratio,
    importance_weighted,
    mutual_information,
    neighbourhood_density,
    reverse_accuracy,
    source_accuracy,
)

Q = np.arange(32.0)
Z = 2 * np.sin(0.7 * Q * Q).reshape(8, 4)
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2])
OF_TARGET = (confidence, mutual_information, neighbourhood_density)
WRONG = (Z.argmax(axis=1) != LABELS).astype(float)


def test_entropy_and_information_are_scipys():
    p = softmax(Z, axis=1)
    each = scipy_entropy(p, axis=1)
    assert confidence(Z) == pytest.approx(-each.mean(), rel=1e-12)
    assert mutual_information(Z) == pytest.approx(scipy_entropy(p.mean(axis=0)) - each.mean(), rel=1e-12)


def test_neighbours_are_weighed_by_pairs_without_oneself():
    p, found = softmax(Z, axis=1), []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        near = [p[i] @ p[j] / np.linalg.norm(p[i]) / np.linalg.norm(p[j]) for j in others]
        found.append(scipy_entropy(softmax(np.array(near) / 0.05)))
    assert neighbourhood_density(Z) == pytest.approx(np.mean(found), rel=1e-12)


@pytest.mark.parametrize("fn", OF_TARGET)
def test_what_is_asked_of_the_target_does_not_depend_on_order_classes_or_a_shift_of_logits(fn):
    turned = Z[np.random.default_rng(0).permutation(8)][:, [2, 0, 3, 1]] + 5.0
    assert fn(turned) == pytest.approx(fn(Z), rel=1e-9)


def test_bounds_and_what_a_net_that_says_one_class_of_all_is_told():
    one, clear = np.tile([40.0, 0, 0, 0], (8, 1)), 40 * np.eye(4)[np.arange(8) % 4]
    assert confidence(one) == pytest.approx(0, abs=1e-12)
    assert confidence(np.zeros((8, 4))) == pytest.approx(-np.log(4))
    assert mutual_information(one) == pytest.approx(0, abs=1e-12)
    assert mutual_information(clear) == pytest.approx(np.log(4))
    assert neighbourhood_density(one) == pytest.approx(np.log(7))
    assert neighbourhood_density(clear) == pytest.approx(0, abs=1e-6)  # one neighbour each


def test_weights_of_one_change_nothing_and_a_control_variate_takes_out_what_they_are_off_by():
    assert source_accuracy(Z, LABELS) == pytest.approx(1 - WRONG.mean())
    even = np.ones(8)
    assert importance_weighted(Z, LABELS, even) == deep_embedded(Z, LABELS, even) == source_accuracy(Z, LABELS)
    w = np.array([0.2, 0.5, 3.0, 1.0, 0.7, 2.0, 0.1, 1.5])
    assert importance_weighted(Z, LABELS, w) == pytest.approx(1 - np.mean(w * WRONG))
    slope = np.polyfit(w, w * WRONG, 1)[0]  # −η: least squares of the weighted errors on the weights
    assert deep_embedded(Z, LABELS, w) == pytest.approx(1 - (np.mean(w * WRONG) - slope * (w.mean() - 1)))
    always = (Z.argmax(axis=1) + 1) % 4
    assert deep_embedded(Z, always, w) == pytest.approx(0, abs=1e-12)
    assert importance_weighted(Z, always, w) != pytest.approx(0, abs=1e-3)


def test_the_density_ratio_of_two_gaussians_is_the_closed_form_and_tells_the_targets_risk():
    rng, shift = np.random.default_rng(0), 0.7
    source, target, held = rng.normal(size=(1500, 1)), shift + rng.normal(size=(1000, 1)), rng.normal(size=(2000, 1))
    found = density_ratio(source, target, held)
    np.testing.assert_allclose(np.log(found), (shift * held - shift**2 / 2)[:, 0], atol=0.35)
    assert found.mean() == pytest.approx(1, abs=0.1)
    # right where x < 0.5: much of the source, and less of the target
    logits = np.stack([np.zeros(2000), (held[:, 0] > 0.5) - 0.5], axis=1)
    labels, right = np.zeros(2000, int), np.mean(shift + rng.normal(size=100_000) < 0.5)
    plain = abs(source_accuracy(logits, labels) - right)
    for fn in (importance_weighted, deep_embedded):
        assert abs(fn(logits, labels, found) - right) < 0.05 < plain


def test_what_does_not_fit_is_refused():
    for fn in OF_TARGET:
        with pytest.raises(InputError, match="not finite"):
            fn([[np.nan, 0.0]] * 4)
    with pytest.raises(InputError, match="three or more"):
        neighbourhood_density(Z[:2])
    with pytest.raises(InputError, match=r"source_accuracy"):
        source_accuracy(Z, LABELS[:3])
    for fn in (importance_weighted, deep_embedded):
        with pytest.raises(InputError, match="or negative"):
            fn(Z, LABELS, -np.ones(8))
    with pytest.raises(InputError, match="of one network"):
        density_ratio(Z, Z[:, :2], Z)


def test_the_way_back_is_a_linear_classifier_of_what_was_answered():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    here = np.eye(3)[labels] + 0.1 * rng.normal(size=(90, 3))
    there = np.eye(3)[labels] + 0.1 * rng.normal(size=(90, 3))
    answers = 5.0 * np.eye(3)[labels]
    learned = RidgeClassifier(alpha=1e-3).fit(there, labels)
    assert reverse_accuracy(there, answers, here, labels) == pytest.approx(learned.score(here, labels))
    assert reverse_accuracy(there, answers, here, labels) == 1.0
    turned = np.roll(answers, 1, axis=1)  # each class is taken for the next one
    assert reverse_accuracy(there, turned, here, labels) == 0.0
    assert reverse_accuracy(there, 0 * answers + [0.0, 9.0, 0.0], here, labels) == pytest.approx(1 / 3)
    two = np.where(labels[:, None] == 2, answers[:1], answers)  # nothing is taken for the last class
    assert reverse_accuracy(there, two, here, labels) == pytest.approx(2 / 3, abs=0.05)
    with pytest.raises(InputError, match="features of one net, and an answer"):
        reverse_accuracy(there, answers[:-1], here, labels)
    with pytest.raises(InputError, match="features of one net, and an answer"):
        reverse_accuracy(there[:, :2], answers, here, labels)
