"""Losses of classes that are few, rare or told with certainty: weights, focal, adjusted and smoothed cross-entropy.

Weights and priors follow from counts of the labelled examples, with NumPy and before the step; what is differentiated
is per example [B], as in `losses`, and goes into a term by `mean_of`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.losses import softmax_cross_entropy


def class_counts(labels: ArrayLike, classes: int) -> np.ndarray:
    """How many examples each class has, [C].

    Raises:
        InputError: a class has none: no weight and no prior follows from it.

    Example:
        >>> class_counts([0, 2, 1, 0], 3).tolist()
        [2, 1, 1]
    """
    return _positive(np.bincount(np.asarray(labels), minlength=classes), "class_counts labels")


def balanced_weights(counts: ArrayLike) -> np.ndarray:
    """n/(C n_c): every class weighs the same in all. The mean weight of an example is 1, so rates keep their meaning.

    Args:
        counts: [C] > 0.

    Returns:
        [C] float32.

    Raises:
        InputError: a count that is not positive.

    Example:
        >>> balanced_weights([100, 20, 5]).round(6).tolist()
        [0.41666..., 2.08333..., 8.33333...]

    Source: King and Zeng, "Logistic Regression in Rare Events Data", 2001.
    """
    counts = _positive(counts, "balanced_weights counts")
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)


def effective_number_weights(counts: ArrayLike, beta: float = 0.99) -> np.ndarray:
    """(1 − β)/(1 − β^n_c), scaled to the sum C: between equal weights (β = 0) and those of 1/n_c (β → 1).

    Args:
        counts: [C] > 0.
        beta: in [0, 1); 1/(1 − β) is how many examples of a class are worth having.

    Returns:
        [C] float32.

    Raises:
        InputError: a count that is not positive, β outside [0, 1).

    Example:
        >>> effective_number_weights([100, 20, 5]).round(6).tolist()
        [0.17224..., 0.59968..., 2.22807...]

    Source: Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples", 2019.
    """
    counts = _positive(counts, "effective_number_weights counts")
    if not 0 <= beta < 1:
        raise InputError(f"{beta} is outside [0, 1)", where="effective_number_weights beta")
    weights = (1 - beta) / -np.expm1(counts * np.log(beta)) if beta else np.ones(len(counts))
    return (weights * len(counts) / weights.sum()).astype(np.float32)


def log_prior(counts: ArrayLike) -> np.ndarray:
    """ln of every class's share of the examples, [C] float32.

    Raises:
        InputError: a count that is not positive.

    Example:
        >>> np.exp(log_prior([3, 1])).tolist()
        [0.75, 0.25]
    """
    counts = _positive(counts, "log_prior counts")
    return np.log(counts / counts.sum()).astype(np.float32)


def weighted_cross_entropy(logits: jax.Array, labels: jax.Array, weights: ArrayLike) -> jax.Array:
    """−w_label log softmax(logits)[label] per example.

    Its mean divides by the number of examples; PyTorch's divides by the sum of their weights, which differs from batch
    to batch.

    Args:
        logits: [B, C].
        labels: [B] integers.
        weights: [C], see `balanced_weights` and `effective_number_weights`.

    Returns:
        [B] float32.

    Example:
        >>> weighted_cross_entropy(jnp.zeros((2, 2)), jnp.array([0, 1]), [1.0, 2.0]).tolist()
        [0.693..., 1.386...]
    """
    return jnp.asarray(weights, jnp.float32)[labels] * softmax_cross_entropy(logits, labels)


def focal(logits: jax.Array, labels: jax.Array, gamma: float = 2.0) -> jax.Array:
    """−(1 − p)^γ ln p of the label per example: what is known already counts little.

    Args:
        logits: [B, C].
        labels: [B] integers.
        gamma: γ ≥ 0; 0 is the cross-entropy.

    Returns:
        [B] float32; NaN for a label outside 0…C−1. Where p rounds to 1 the value and its gradient are 0.

    Raises:
        InputError: a γ below 0.

    Example:
        >>> focal(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0])).tolist()
        [0.04567...]

    Source: Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", 2017.
    """
    if not gamma >= 0:
        raise InputError(f"{gamma}", where="focal gamma", todo="use a number >= 0")
    losses = softmax_cross_entropy(logits, labels)
    if gamma == 0:
        return losses
    missed = -jnp.expm1(-losses)  # 1 − p, to all digits where p is near 1
    away = missed > 0  # a power below 1 has an infinite slope at 0
    return jnp.where(away, jnp.where(away, missed, 1.0) ** gamma, 0.0 * missed) * losses


def adjusted_logits(logits: Any, prior: ArrayLike, strength: Any = 1.0) -> Any:
    """z − τ ln π at test time: no class is named because it was frequent. Nothing is trained again.

    Args:
        logits: [..., C].
        prior: [C], ln π of the training examples, see `log_prior`.
        strength: τ.

    Returns:
        Like `logits`.

    Example:
        >>> adjusted_logits(jnp.zeros(2), log_prior([3, 1])).tolist()
        [0.287..., 1.386...]

    Source: Menon et al., "Long-Tail Learning via Logit Adjustment", 2021.
    """
    prior = jnp.asarray(prior, jnp.float32)
    return logits - strength * prior.reshape((1,) * (jnp.ndim(logits) - 1) + (-1,))


def adjusted_cross_entropy(logits: jax.Array, labels: jax.Array, prior: ArrayLike, strength: Any = 1.0) -> jax.Array:
    """Cross-entropy of z + τ ln π per example: trained so, z is used as it is, and favours no frequent class.

    Args:
        logits: [B, C].
        labels: [B] integers.
        prior: [C], ln π.
        strength: τ.

    Returns:
        [B] float32.

    Example:
        >>> adjusted_cross_entropy(jnp.zeros((1, 2)), jnp.array([1]), log_prior([3, 1])).tolist()  # −ln ¼
        [1.386...]

    Source: Menon et al., "Long-Tail Learning via Logit Adjustment", 2021.
    """
    return softmax_cross_entropy(adjusted_logits(logits, prior, -strength), labels)


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.1) -> jax.Array:
    """Cross-entropy of the labels (1 − ε) onehot + ε/C per example.

    Args:
        logits: [B, C].
        labels: [B] integers, or [B, C] probabilities.
        smoothing: ε in [0, 1].

    Returns:
        [B] float32; NaN for a label outside 0…C−1.

    Raises:
        InputError: ε outside [0, 1].

    Example:
        >>> smoothed_cross_entropy(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0])).tolist()
        [0.50760...]

    Source: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for Computer Vision",
    2016.
    """
    if not 0 <= smoothing <= 1:
        raise InputError(f"{smoothing} is outside [0, 1]", where="smoothed_cross_entropy smoothing")
    uniform = jnp.full(logits.shape, 1 / logits.shape[-1], jnp.float32)
    own, even = softmax_cross_entropy(logits, labels), softmax_cross_entropy(logits, uniform)
    return (1 - smoothing) * own + smoothing * even


def _positive(counts: ArrayLike, where: str) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.ndim != 1 or not len(counts) or not (counts > 0).all():
        what = f"class {int(np.argmin(counts > 0))} has no example" if counts.ndim == 1 and len(counts) else "no counts"
        raise InputError(what, where=where, todo="give the number of examples of every class, each > 0")
    return counts
