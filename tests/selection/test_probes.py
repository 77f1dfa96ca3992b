"""A linear head with its leave-one-out accuracy, and how far two feature sets are apart."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_score

from jaxtl.errors import InputError
from jaxtl.selection import a_distance, ridge_probe
from jaxtl.selection.probes import RIDGE


def problem(seed=0, n=24):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    return rng.normal(size=(4, 5))[labels] + rng.normal(size=(n, 5)), labels


def test_the_accuracy_of_a_probe_is_that_of_as_many_fits():
    x, labels = problem()
    probe = ridge_probe(x, labels)
    theirs = RidgeClassifier(alpha=probe.lam * (len(x)))
    right = cross_val_score(theirs, x, labels, cv=LeaveOneOut())
    assert probe.accuracy == right.mean()
    np.testing.assert_array_equal(probe.predict(x), theirs.fit(x, labels).predict(x))
    others = RIDGE * np.mean((x - x.mean(axis=0)) ** 2)
    for lam in others[::14]:
        assert (
            cross_val_score(RidgeClassifier(alpha=lam * len(x)), x, labels, cv=LeaveOneOut()).mean() <= probe.accuracy
        )


def test_one_scale_for_all_features_changes_nothing():
    x, labels = problem(1)
    a, b = ridge_probe(x, labels), ridge_probe(1000 * x, labels)
    assert a.accuracy == b.accuracy
    np.testing.assert_allclose(a.kernel, 1000 * b.kernel, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "labels", "says"),
    [
        (np.zeros((4, 2)), [0, 1, 0, 1], "all examples have the same features"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], "features of example 0"),
        (np.eye(4), [0, 0, 0, 0], "class 1 of 2 has no example"),
        (np.eye(4), [0, 2, 0, 2], "class 1 of 3 has no example"),
        (np.eye(4), [0, 1, 0], r"labels int64 \[3\] for 4 examples"),
    ],
)
def test_a_probe_of_nothing_is_refused(x, labels, says):
    with pytest.raises(InputError, match=says):
        ridge_probe(x, labels)


def test_the_distance_is_that_of_the_error_of_a_classifier():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(50, 2)), rng.normal(size=(50, 2)) + np.array([1.0, 0.0])
    found = a_distance(source, target)
    x, domain = np.concatenate([source, target]), np.repeat([0, 1], 50)
    error = 1 - cross_val_score(LogisticRegression(C=1.0), (x - x.mean(0)) / x.std(0), domain, cv=5).mean()
    assert found == pytest.approx(2 * (1 - 2 * error), abs=0.25)  # other folds, and λ
    assert 0.3 < found < 1.2


def test_nothing_apart_is_0_everything_2_and_farther_is_more():
    rng = np.random.default_rng(1)
    source = rng.normal(size=(100, 2))
    found = [a_distance(source, rng.normal(size=(50, 2)) + shift) for shift in (0.0, 1.0, 20.0)]
    assert 0 <= found[0] < 0.5 < found[1] < found[2] == 2.0
    assert a_distance(1e4 * source - 3, 1e4 * source[:50] - 3) < 0.5


def test_a_set_that_is_much_larger_is_not_right_by_its_size():
    rng = np.random.default_rng(2)
    assert a_distance(rng.normal(size=(900, 2)), rng.normal(size=(50, 2))) < 1.0


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        (np.eye(6), np.eye(5), r"features \[6, 6\] and \[5, 5\]"),
        (np.eye(6), np.eye(6)[:4], "for 5 folds"),
        (np.full((6, 2), np.inf), np.ones((6, 2)), "a_distance, source: features of example 0"),
        (np.ones((6, 2)), np.ones((6, 2)), "all examples have the same features"),
    ],
)
def test_a_distance_of_nothing_is_refused(source, target, says):
    with pytest.raises(InputError, match=says):
        a_distance(source, target)
