"""Scores of transferability: fixed numbers, bounds, what they do not depend on, and other ways to compute them."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf as their_ledoit_wolf
from sklearn.metrics import mutual_info_score

from jaxtl.errors import InputError
from jaxtl.methods import transferability
from jaxtl.methods.transferability import h_score, ledoit_wolf, leep, logme, nce, regularized_h_score, transrate

K, Q = np.arange(24.0), np.arange(32.0)
S, Z = np.sin(K * K).reshape(8, 3), 2 * np.sin(0.7 * Q * Q).reshape(8, 4)
Y = np.array([0, 0, 0, 1, 1, 1, 2, 2])
OF_FEATURES = {"h_score": h_score, "regularized_h_score": regularized_h_score, "logme": logme, "transrate": transrate}


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def problem(seed, n=30, dimensions=6, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    centres = rng.normal(size=(classes, dimensions)) * rng.uniform(0, 2)
    return centres[labels] + rng.normal(size=(n, dimensions)) * rng.uniform(0.1, 3, dimensions), labels


@pytest.mark.parametrize(
    ("score", "first", "value"),
    [
        (h_score, S, 0.512132201),
        (regularized_h_score, S, 0.275951746),
        (logme, S, -0.828049126),
        (transrate, S, 1.868884732),
        (leep, softmax(Z), -0.920515695),
    ],
)
def test_fixed_numbers(score, first, value):
    assert score(first, Y) == pytest.approx(value, abs=2e-9)
    assert score(jnp.asarray(first, jnp.float32), jnp.asarray(Y)) == pytest.approx(value, abs=1e-5)


# ---------------------------------------------------------------- other ways


@pytest.mark.parametrize("seed", range(4))
def test_both_h_scores_are_traces_of_covariances(seed):
    features, labels = problem(seed)
    means = np.array([features[labels == c].mean(axis=0) for c in range(3)])[labels]
    between = np.cov(means.T, bias=True)
    wanted = np.trace(np.linalg.pinv(np.cov(features.T, bias=True)) @ between)
    assert h_score(features, labels) == pytest.approx(wanted, rel=1e-10)
    covariance, shrinkage = their_ledoit_wolf(features)
    wanted = (1 - shrinkage) * np.trace(np.linalg.solve(covariance, between))
    assert regularized_h_score(features, labels) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("shape", [(30, 6), (5, 40), (3, 2), (200, 1)])
def test_shrinkage_is_that_of_scikit_learn(shape):
    features = np.random.default_rng(sum(shape)).normal(size=shape) * np.linspace(1, 3, shape[1])
    assert ledoit_wolf(features) == pytest.approx(their_ledoit_wolf(features)[1], rel=1e-10)


def test_what_has_one_variance_in_all_directions_is_not_shrunk():
    assert ledoit_wolf(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])) == 0
    assert ledoit_wolf(np.zeros((4, 3))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_logme_is_the_largest_marginal_density_of_the_labels(seed):
    features, labels = problem(seed, n=15, dimensions=4)

    def worst(precisions, target):
        alpha, beta = np.exp(precisions)
        covariance = features @ features.T / alpha + np.eye(15) / beta
        return -multivariate_normal(np.zeros(15), covariance).logpdf(target) / 15

    tolerance = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 2000}
    starts = [(a, 2.0) for a in (-4.0, 0.0, 4.0, 12.0)]
    targets = np.eye(3)[labels].T
    best = [
        max(-minimize(worst, at, (target,), "Nelder-Mead", options=tolerance).fun for at in starts)
        for target in targets
    ]
    assert logme(features, labels) == pytest.approx(np.mean(best), abs=1e-6)


def test_logme_of_features_that_say_nothing_is_that_of_no_features():
    labels = np.array([0, 1] * 20)
    alone = 0.5 * (math.log(2) - math.log(2 * math.pi) - 1)  # y ~ N(0, ½), whose mean square is ½
    assert logme(np.zeros((40, 3)), labels) == pytest.approx(alone, abs=1e-12)
    away = np.array([1.0, 1.0, -1.0, -1.0] * 10)[:, None]
    assert logme(away, labels) == pytest.approx(alone, abs=1e-12)


def test_logme_of_labels_that_fewer_directions_fit_exactly_is_infinite():
    assert logme(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1]) == math.inf
    assert math.isfinite(logme(np.eye(4), [0, 0, 1, 1]))


@pytest.mark.parametrize("seed", range(3))
def test_transrate_is_a_difference_of_determinants(seed):
    features, labels = problem(seed)
    z = features - features.mean(axis=0)

    def rate(part):
        return 0.5 * np.linalg.slogdet(np.eye(6) + part.T @ part / (len(part) * 1e-4))[1]

    within = sum(np.mean(labels == c) * rate(z[labels == c]) for c in range(3))
    assert transrate(features, labels) == pytest.approx(rate(z) - within, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_leep_is_its_definition_and_of_certain_answers_nce(seed):
    rng = np.random.default_rng(seed)
    _, labels = problem(seed)
    probabilities = softmax(rng.normal(size=(30, 5)))
    total = 0.0
    for p, y in zip(probabilities, labels, strict=True):
        total += np.log(sum(p[z] * probabilities[labels == y, z].sum() / probabilities[:, z].sum() for z in range(5)))
    assert leep(probabilities, labels) == pytest.approx(total / 30, rel=1e-12)
    source = rng.integers(5, size=30)
    assert leep(np.eye(9)[source], labels) == pytest.approx(nce(source, labels), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_nce_is_mutual_information_less_the_entropy_of_labels(seed):
    _, labels = problem(seed)
    source = np.random.default_rng(seed).integers(7, size=30)
    wanted = mutual_info_score(source, labels) - mutual_info_score(labels, labels)
    assert nce(source, labels) == pytest.approx(wanted, abs=1e-12)
    assert nce(100 * source, labels) == pytest.approx(wanted, abs=1e-12)


# ---------------------------------------------------------------- bounds, and what scores do not depend on


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 25), dimensions=st.integers(1, 30))
def test_bounds(seed, n, dimensions):
    features, labels = problem(seed, n, dimensions)
    full, regularised = h_score(features, labels), regularized_h_score(features, labels)
    assert 0 <= regularised <= full + 1e-12
    assert full <= min(2, dimensions) + 1e-9
    assert transrate(features, labels) >= -1e-9
    entropy = mutual_info_score(labels, labels)
    assert leep(softmax(features), labels) <= 1e-12
    assert -entropy - 1e-12 <= nce(features.argmax(axis=1), labels) <= 0
    assert logme(features, labels) >= logme(np.zeros((n, 1)), labels) - 1e-12


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_examples_and_the_numbers_of_classes_mean_nothing(seed):
    features, labels = problem(seed)
    rng = np.random.default_rng(seed)
    order, renamed = rng.permutation(30), rng.permutation(3)
    for name, score in OF_FEATURES.items():
        found = score(features[order], renamed[labels[order]])
        assert found == pytest.approx(score(features, labels), rel=1e-8, abs=1e-10), name
    probabilities = softmax(features)
    assert leep(probabilities[order], renamed[labels[order]]) == pytest.approx(leep(probabilities, labels))
    source = features.argmax(axis=1)
    assert nce(source[order], renamed[labels[order]]) == pytest.approx(nce(source, labels))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_each_score_makes_of_linear_maps_of_the_features(seed):
    features, labels = problem(seed)
    rng = np.random.default_rng(seed)
    invertible = rng.normal(size=(6, 6)) + 3 * np.eye(6)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    close = {"rel": 1e-6, "abs": 1e-9}
    assert h_score(features @ invertible + 5.0, labels) == pytest.approx(h_score(features, labels), **close)
    for name, score in OF_FEATURES.items():
        assert score(features @ rotation, labels) == pytest.approx(score(features, labels), **close), name
        scaled = score(1e3 * features, labels)
        assert (scaled == pytest.approx(score(features, labels), **close)) == (name != "transrate"), name
    assert regularized_h_score(features + 7.0, labels) == pytest.approx(regularized_h_score(features, labels), **close)
    assert transrate(features + 7.0, labels) == pytest.approx(transrate(features, labels), **close)


def test_a_feature_that_is_there_twice_is_there_once_for_the_h_score():
    features, labels = problem(0)
    for kind in (np.float64, np.float32):
        given_twice = np.concatenate([features, features[:, :2]], axis=1).astype(kind)
        assert h_score(given_twice, labels) == pytest.approx(h_score(features, labels), rel=1e-5)


def test_with_no_fewer_features_than_examples_the_h_score_says_nothing_and_the_regularised_one_does():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 5)
    noise = rng.normal(size=(15, 40))
    clear = noise + 5 * np.eye(3, 40)[labels]
    assert h_score(noise, labels) == pytest.approx(2, abs=1e-9)
    assert h_score(clear, labels) == pytest.approx(2, abs=1e-9)
    assert regularized_h_score(clear, labels) > regularized_h_score(noise, labels) + 0.5


def test_constant_features_score_nothing():
    labels = np.array([0, 0, 1, 1])
    for score in (h_score, regularized_h_score, transrate):
        assert score(np.full((4, 3), 0.1), labels) == pytest.approx(0, abs=1e-9)
    assert regularized_h_score(np.array([[0.1, 0], [0.1, 0], [0.1, 1], [0.1, 1]]), labels) > 0.5


def test_leep_of_a_source_class_that_nothing_is_put_on():
    probabilities = np.concatenate([softmax(Z), np.zeros((8, 2))], axis=1)
    assert leep(probabilities, Y) == pytest.approx(leep(softmax(Z), Y), rel=1e-12)


@pytest.mark.parametrize("score", [*OF_FEATURES.values(), leep, nce])
def test_sources_that_tell_the_classes_apart_score_higher(score):
    _, labels = problem(1, n=60)
    noise = np.random.default_rng(0).normal(size=(60, 6))
    clear = np.concatenate([np.eye(3)[labels], 0.1 * noise[:, :3]], axis=1) + 0.05 * noise

    def view(x):
        return softmax(4 * x) if score is leep else x.argmax(axis=1) if score is nce else x

    assert score(view(clear), labels) > score(view(noise), labels)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", OF_FEATURES)
@pytest.mark.parametrize(
    ("features", "labels", "says"),
    [
        (S, Y[:5], r"labels int64 \[5\] for 8 examples"),
        (S, Y.astype(float), "labels float64"),
        (S, np.zeros(8, int), "all 8 labels are 0"),
        (S, Y - 1, "label -1 is negative"),
        (S, np.where(Y == 2, 255, Y), r"labels 0..255, and class 2 has no example"),
        (S, np.where(Y == 0, 3, Y), r"labels 0..3, and class 0 has no example"),
        (np.where(S[4, 1] == S, np.nan, S), Y, "features of example 4 are not finite"),
        (np.where(S[4, 1] == S, np.inf, S), Y, "features of example 4 are not finite"),
        (S[:1], Y[:1], r"features float64 \[1, 3\]"),
        (S[:, 0], Y, r"features float64 \[8\]"),
        (S[:, :0], Y, r"features float64 \[8, 0\]"),
        (S > 0, Y, "features bool"),
    ],
)
def test_features_and_labels_that_mean_nothing_are_refused(name, features, labels, says):
    with pytest.raises(InputError, match=rf"^{name}: {says}"):
        OF_FEATURES[name](features, labels)


@pytest.mark.parametrize(
    ("probabilities", "labels", "says"),
    [
        (Z, Y, "those of example 0 are no probabilities"),
        (np.where(np.arange(8)[:, None] == 3, np.nan, softmax(Z)), Y, "those of example 3 are no probabilities"),
        (1.1 * softmax(Z), Y, "those of example 0 are no probabilities"),
        (softmax(Z)[:1], Y[:1], r"probabilities float64 \[1, 4\]"),
        (softmax(Z), np.zeros(8, int), "all 8 labels are 0"),
        (softmax(Z), Y[:3], r"labels int64 \[3\] for 8 examples"),
    ],
)
def test_leep_refuses_what_are_no_probabilities(probabilities, labels, says):
    with pytest.raises(InputError, match=rf"^leep: {says}"):
        leep(probabilities, labels)


@pytest.mark.parametrize(
    ("source", "labels", "says"),
    [
        (Y - 1, Y, "source labels int64"),
        (softmax(Z), Y, r"source labels float64 \[8, 4\]"),
        (Y[:1], Y[:1], r"source labels int64 \[1\]"),
        (Y, np.zeros(8, int), "all 8 labels are 0"),
        (Y, Y[:4], r"labels int64 \[4\] for 8 examples"),
    ],
)
def test_nce_refuses_what_are_no_labels(source, labels, says):
    with pytest.raises(InputError, match=rf"^nce: {says}"):
        nce(source, labels)


def test_all_names_are_there():
    assert all(callable(getattr(transferability, name)) for name in transferability.__all__)
