"""Losses for rare classes and less certain labels, against fixed numbers and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from jaxtl.class_losses import (
    adjusted_cross_entropy,
    adjusted_logits,
    balanced_weights,
    class_counts,
    effective_number_weights,
    focal,
    log_prior,
    smoothed_cross_entropy,
    weighted_cross_entropy,
)
from jaxtl.errors import InputError
from jaxtl.losses import softmax_cross_entropy

COUNTS = [100, 20, 5]
Z, Y = jnp.array([[2.0, 1.0, 0.0], [0.5, 0.2, -0.3]]), jnp.array([0, 2])


def test_weights_are_those_of_fixed_numbers_and_of_scikit_learn():
    np.testing.assert_allclose(balanced_weights(COUNTS), [0.416667, 2.083333, 8.333333], atol=1e-6)
    np.testing.assert_allclose(effective_number_weights(COUNTS, 0.99), [0.172245, 0.599681, 2.228074], atol=1e-6)
    labels = np.repeat([0, 1, 2], COUNTS)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(class_counts(labels, 3)), theirs, rtol=1e-6)
    assert balanced_weights(COUNTS)[labels].mean() == pytest.approx(1.0)


def test_the_effective_number_goes_from_equal_to_inverse_weights():
    np.testing.assert_array_equal(effective_number_weights(COUNTS, 0.0), np.ones(3))
    inverse = 3 * (1 / np.array(COUNTS)) / (1 / np.array(COUNTS)).sum()
    np.testing.assert_allclose(effective_number_weights(COUNTS, 1 - 1e-9), inverse, rtol=1e-5)


def test_losses_are_those_of_fixed_numbers():
    np.testing.assert_allclose(focal(Z, Y), [0.045678, 1.000707], atol=1e-6)
    np.testing.assert_allclose(adjusted_cross_entropy(Z, Y, log_prior(COUNTS)), [0.077278, 3.953274], atol=1e-6)
    np.testing.assert_allclose(smoothed_cross_entropy(Z, Y), [0.507606, 1.540635], atol=1e-6)
    plain = np.asarray(softmax_cross_entropy(Z, Y))
    np.testing.assert_allclose(weighted_cross_entropy(Z, Y, [2.0, 3.0, 5.0]), plain * [2, 5], rtol=1e-6)


def test_without_their_number_all_are_the_cross_entropy():
    plain = softmax_cross_entropy(Z, Y)
    for loss in (
        focal(Z, Y, 0.0),
        smoothed_cross_entropy(Z, Y, 0.0),
        adjusted_cross_entropy(Z, Y, log_prior(COUNTS), 0.0),
        adjusted_cross_entropy(Z, Y, log_prior([7, 7, 7])),
        weighted_cross_entropy(Z, Y, np.ones(3)),
    ):
        np.testing.assert_allclose(loss, plain, rtol=1e-6)


def test_what_is_trained_with_a_prior_is_used_without_it():
    """The minimum of the adjusted loss, less what it was adjusted by at test time, is where plain training ends."""
    prior = log_prior(COUNTS)
    np.testing.assert_allclose(jax.nn.softmax(adjusted_logits(Z + prior[None], prior)), jax.nn.softmax(Z), rtol=1e-5)
    np.testing.assert_allclose(adjusted_logits(Z, prior, 0.5), np.asarray(Z) - 0.5 * prior, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_slopes_of_focal_are_those_of_finite_differences_and_0_where_all_is_known(gamma):
    with jax.enable_x64(True):
        logits = jnp.array([[1.2, -0.3, 0.4]], jnp.float64)

        def loss(z):
            return focal(z, jnp.array([1]), gamma)[0]

        slope, value = jax.jit(jax.grad(loss))(logits), jax.jit(loss)
        for k in range(3):
            shift = jnp.zeros((1, 3)).at[0, k].set(1e-6)
            numeric = (value(logits + shift) - value(logits - shift)) / 2e-6
            assert float(slope[0, k]) == pytest.approx(float(numeric), abs=1e-7)
    sure = jnp.array([[0.0, 200.0, 0.0]])
    value, slope = jax.jit(jax.value_and_grad(lambda z: focal(z, jnp.array([1]), gamma)[0]))(sure)
    assert float(value) == 0
    np.testing.assert_array_equal(slope, np.zeros((1, 3)))


def test_one_that_is_nearly_known_keeps_its_digits():
    logits = jnp.array([[0.0, 12.0]])
    missed = 1 / (1 + np.exp(12.0))
    assert float(focal(logits, jnp.array([1]))[0]) == pytest.approx(-(missed**2) * np.log1p(-missed), rel=1e-3)


def test_a_label_of_no_class_is_seen():
    outside = jnp.array([3, -1])
    for loss in (focal, smoothed_cross_entropy):
        assert np.isnan(loss(Z, outside)).all()
    assert np.isnan(weighted_cross_entropy(Z, outside, np.ones(3))).all()


def test_soft_labels_are_smoothed_too():
    soft = jax.nn.one_hot(Y, 3)
    np.testing.assert_allclose(smoothed_cross_entropy(Z, soft), smoothed_cross_entropy(Z, Y), rtol=1e-6)
    mixed = 0.9 * soft + 0.1 / 3
    np.testing.assert_allclose(softmax_cross_entropy(Z, mixed), smoothed_cross_entropy(Z, Y), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: class_counts([0, 2], 3), "class 1 has no example"),
        (lambda: balanced_weights([3, 0]), "class 1 has no example"),
        (lambda: log_prior([]), "no counts"),
        (lambda: effective_number_weights(COUNTS, 1.0), r"outside \[0, 1\)"),
        (lambda: focal(Z, Y, -1.0), "-1"),
        (lambda: smoothed_cross_entropy(Z, Y, 1.5), "outside"),
    ],
)
def test_what_means_nothing_is_refused(call, what):
    with pytest.raises(InputError, match=what):
        call()
