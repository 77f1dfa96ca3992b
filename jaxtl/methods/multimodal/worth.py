"""How much each modality counts: weights that fit what they say, and what answers are worth without it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError

MOST = 6  # modalities whose subsets are all asked
ROUNDS = 300  # of fitting weights: they have come to rest long before
LEAST = 1e-12  # of a probability

Subset = tuple[bool, ...]  # which of M modalities are there


def fit_weights(probs: jax.Array, labels: jax.Array, rounds: int = ROUNDS) -> jax.Array:
    """argmin_w −mean_i log Σ_m w_m p_m(y_i) on the simplex, for `fuse_weighted`.

    w_m ← w_m · mean_i (p_m(y_i) / Σ_l w_l p_l(y_i)): the steps of EM for the shares of a mixture, none of which raises
    the loss, from even weights on.

    Args:
        probs: [M, N, C] of examples that no modality has learned from.
        labels: [N] integers.
        rounds: of EM.

    Returns:
        [M], not negative, adding up to 1.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> probs = jnp.array([[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.5, 0.5]]])
        >>> fit_weights(probs, jnp.array([0, 1])).round(2).tolist()
        [1.0, 0.0]

    Source: Dempster, Laird and Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm", 1977.
    """
    said = _of_labels(probs, labels, "fit_weights")

    def better(_: int, weights: jax.Array) -> jax.Array:
        raised = weights * jnp.mean(said / (weights @ said)[None], axis=1)
        return raised / jnp.sum(raised)

    return jax.lax.fori_loop(0, rounds, better, jnp.full(len(said), 1 / len(said)))


def precision_weights(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """w_m ∝ 1 / mean_i ‖p_m(x_i) − onehot(y_i)‖²: by the inverse of each modality's squared error.

    Args:
        probs: [M, N, C] of examples that no modality has learned from.
        labels: [N] integers.

    Returns:
        [M], not negative, adding up to 1.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> probs = jnp.array([[[0.5, 0.5]], [[0.0, 1.0]]])
        >>> [round(float(weight), 3) for weight in precision_weights(probs, jnp.array([0]))]
        [0.8, 0.2]

    Source: Cochran, "The Combination of Estimates from Different Experiments", 1954 (weights of independent estimates).
    """
    _of_labels(probs, labels, "precision_weights")
    wanted = jax.nn.one_hot(labels, probs.shape[-1], dtype=probs.dtype)
    error = jnp.mean(jnp.sum(jnp.square(probs - wanted[None]), axis=-1), axis=1)
    precision = 1 / jnp.maximum(error, LEAST)
    return precision / jnp.sum(precision)


def leave_one_out(value: Callable[[Subset], float], count: int) -> np.ndarray:
    """v(all) − v(all but m): what is lost without a modality, [M].

    Args:
        value: (which are there) -> what answers are worth, such as their accuracy.
        count: M.

    Raises:
        InputError: no modality.

    Example:
        >>> leave_one_out(lambda there: 0.5 * any(there), 2).tolist()  # each can stand for the other
        [0.0, 0.0]
    """
    _check_count(count)
    whole = value((True,) * count)
    return np.array([whole - value(tuple(k != m for k in range(count))) for m in range(count)])


def shapley(value: Callable[[Subset], float], count: int) -> np.ndarray:
    """Σ_S |S|! (M − |S| − 1)! / M! · (v(S ∪ m) − v(S)): what a modality adds, in the mean over all orders, [M].

    They add up to v(all) − v(none); all 2^M subsets are asked, each once.

    Args:
        value: as for `leave_one_out`.
        count: M, up to 6.

    Raises:
        InputError: no modality, or too many.

    Example:
        >>> shapley(lambda there: 0.5 * any(there), 2).tolist()
        [0.25, 0.25]

    Source: Shapley, "A Value for n-Person Games", 1953.
    """
    _check_count(count)
    worth = {there: value(there) for there in itertools.product((False, True), repeat=count)}
    shares = np.zeros(count)
    for there, found in worth.items():
        size = sum(there)
        weight = math.factorial(size) * math.factorial(count - size - 1) if size < count else 0
        for m in (m for m in range(count) if not there[m]):
            with_it = tuple(own or k == m for k, own in enumerate(there))
            shares[m] += weight / math.factorial(count) * (worth[with_it] - found)
    return shares


def _of_labels(probs: jax.Array, labels: jax.Array, where: str) -> jax.Array:
    """[M, N] what each modality says of the true class."""
    if probs.ndim != 3 or labels.shape != probs.shape[1:2] or not len(labels):
        what = f"probs {list(probs.shape)}, labels {list(labels.shape)}"
        raise InputError(what, where=where, todo="give [M, N, C] and [N]: modalities, examples, classes")
    return jnp.maximum(jnp.take_along_axis(probs, labels[None, :, None], axis=2)[..., 0], LEAST)


def _check_count(count: int) -> None:
    if not 1 <= count <= MOST:
        todo = f"give 1 to {MOST}: all subsets of them are asked"
        raise InputError(f"{count} modalities", where="worth of modalities", todo=todo)
