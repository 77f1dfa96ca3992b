"""Heads that are examples: fixed numbers, scikit-learn's nearest centroid, and votes within a classifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from jaxtl.errors import InputError
from jaxtl.methods.finetuning.prototypes import cache, class_means
from jaxtl.models import Classifier, Mlp, as_forward, initialise
from jaxtl.models.cache import votes
from jaxtl.step import EVALUATE

F, Y = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]]), np.array([0, 0, 1, 1])
Q = np.array([[0.6, 0.8]])


def test_class_means_and_votes_are_those_of_fixed_numbers():
    np.testing.assert_allclose(Q @ class_means(F, Y, 2), [[0.822192, 0.569210]], atol=1e-6)
    np.testing.assert_allclose(votes(Q, **cache(F, Y, 2, 5.5, 1.0)), [[0.913322, 0.351934]], atol=1e-6)


def test_the_nearest_mean_is_scikit_learns_on_the_sphere():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 4
    x = rng.normal(size=(4, 7))[labels] + 0.8 * rng.normal(size=(60, 7))
    new = rng.normal(size=(200, 7))
    means = np.stack([x[labels == c].mean(axis=0) for c in range(4)])
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    theirs = KNeighborsClassifier(1).fit(units, np.arange(4)).predict(new / np.linalg.norm(new, axis=1, keepdims=True))
    np.testing.assert_array_equal((new @ class_means(x, labels, 4)).argmax(axis=1), theirs)
    with pytest.raises(InputError, match="class 3 has no mean"):
        class_means(x[labels < 3], labels[labels < 3], 4)


def test_votes_ignore_the_size_of_features_and_one_without_direction_is_a_number():
    own = cache(F, Y, 2, 2.0, 0.5)
    np.testing.assert_allclose(votes(7 * Q, **own), votes(Q, **own), rtol=1e-6)
    np.testing.assert_allclose(votes(np.zeros((1, 2)), **own), 0.5 * 2 * np.exp(-2.0) * np.ones((1, 2)), rtol=1e-6)
    sharp = votes(Q, **cache(F, Y, 2, 1e4, 1.0))
    assert float(jnp.max(sharp)) < 1e-6  # nobody is that near
    np.testing.assert_allclose(votes(F, **cache(F, Y, 2, 1e6, 1.0)), np.eye(2)[Y], atol=1e-6)


def test_a_classifier_adds_the_votes_to_the_head_that_has_a_cache_and_to_no_other():
    model = Classifier(Mlp((5,)), (("head", 2), ("other", 2)))
    params = initialise(model, jax.random.key(0), (2,))
    batch, forward = {"image": jnp.asarray(Q, jnp.float32)}, jax.jit(as_forward(model))
    plain, _ = forward(params, {}, batch, EVALUATE)
    keys = np.random.default_rng(0).normal(size=(4, 5))
    own = cache(keys, Y, 2, 3.0, 0.7)
    voted, state = forward(params, {"cache": {"head": own}}, batch, EVALUATE)
    np.testing.assert_allclose(voted["head"], plain["head"] + votes(plain["features"], **own), rtol=1e-5)
    np.testing.assert_array_equal(voted["other"], plain["other"])
    np.testing.assert_array_equal(state["cache"]["head"]["keys"], own["keys"])
