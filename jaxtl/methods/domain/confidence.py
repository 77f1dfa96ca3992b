"""What answers to unlabelled examples pay for being unsure, or for taking one class for another: entropy, MCC."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.losses import softmax_cross_entropy

TEMPERATURE = 2.5  # of minimum class confusion
THRESHOLD = 0.95  # above which an answer is believed
UNUSED = 1e-12  # the sum of a class's probabilities over a batch, squares of which float32 can still divide by


def entropy(logits: jax.Array) -> jax.Array:
    """−Σ_c p_c log p_c with p = softmax(logits), per example: 0 for a sure answer, log C for none.

    Args:
        logits: [B, C].

    Returns:
        [B], in float32 at least; finite with a finite gradient for answers as sure as they can be.

    Example:
        >>> entropy(jnp.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
        [0.6931471824645996, 0.0]

    Source: Grandvalet and Bengio, "Semi-supervised Learning by Entropy Minimization", 2004.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    return jnp.sum(jnp.exp(log_p) * -log_p, axis=-1)


def certainty(logits: jax.Array) -> jax.Array:
    """(1 + exp(−H_b)) / their mean, H_b the entropy of the answer: sure examples count more. No gradient passes.

    Args:
        logits: [B, C] of one domain.

    Returns:
        [B] with mean 1.

    Example:
        >>> [round(float(weight), 4) for weight in certainty(jnp.array([[0.0, 0.0], [100.0, 0.0]]))]
        [0.8571, 1.1429]

    Source: Long, Cao, Wang and Jordan, "Conditional Adversarial Domain Adaptation", 2018.
    """
    weights = 1 + jnp.exp(-entropy(jax.lax.stop_gradient(logits)))
    return weights / jnp.mean(weights)


def class_weights(logits: jax.Array) -> jax.Array:
    """w_c = mean_b p_bc / max_c mean_b p_bc with p = softmax(logits): classes that a target has not count for little.

    No gradient passes. In the paper over the whole target, every few hundred steps; here over a batch.

    Args:
        logits: [B, C] of target examples.

    Returns:
        [C], the largest being 1.

    Example:
        >>> [round(float(w), 4) for w in class_weights(jnp.array([[0.0, 0.0, -99.0], [99.0, 0.0, 0.0]]))]
        [1.0, 0.3333, 0.0]

    Source: Cao, Ma, Long and Wang, "Partial Adversarial Domain Adaptation", 2018.
    """
    share = jnp.mean(jax.nn.softmax(jax.lax.stop_gradient(logits)), axis=0)
    return share / jnp.max(share)


def mcd(p: jax.Array, q: jax.Array) -> jax.Array:
    """mean |p − q| over examples and classes: how far two classifiers on one trunk are from agreeing.

    Args:
        p, q: [B, C] probabilities.

    Returns:
        Scalar in 0..2/C.

    Example:
        >>> float(mcd(jnp.array([[1.0, 0.0]]), jnp.array([[0.25, 0.75]])))
        0.75

    Source: Saito et al., "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", 2018.
    """
    return jnp.mean(jnp.abs(p - q))


def mcc(logits: jax.Array, temperature: float = TEMPERATURE) -> jax.Array:
    """1 − tr(A)/C, A the rows of Pᵀ W P each divided by its sum: what one class is taken for another.

    P = softmax(logits / T); W holds `certainty` of these answers, through which no gradient passes.

    Args:
        logits: [B, C] of unlabelled examples.
        temperature: T > 0.

    Returns:
        Scalar in [0, 1 − 1/C].

    Raises:
        InputError: no two classes.

    Example:
        >>> float(mcc(jnp.zeros((3, 4)))), float(mcc(1000 * jnp.eye(4)))
        (0.75, 0.0)

    Source: Jin, Wang, Long and Wang, "Minimum Class Confusion for Versatile Domain Adaptation", 2020.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        todo = "give [examples, classes], two classes or more"
        raise InputError(f"logits {list(logits.shape)}", where="mcc", todo=todo)
    cooled = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
    p = jax.nn.softmax(cooled)
    confusion = p.T @ (certainty(cooled)[:, None] * p)
    sums = jnp.sum(confusion, axis=1)
    used = sums > UNUSED  # a class that no example is taken for has no row to divide; in the limit its share is 0
    shares = jnp.where(used, jnp.diagonal(confusion) / jnp.where(used, sums, 1.0), 0.0)
    return 1 - jnp.mean(shares)


def pseudo_label(weak: jax.Array, strong: jax.Array, threshold: float = THRESHOLD) -> jax.Array:
    """mean [max p > τ] · −log q_ĉ with p = softmax(weak), ĉ its class, q = softmax(strong): sure answers are taught.

    An example whose answer is not sure counts as 0 and in the mean. No gradient passes through p.

    Args:
        weak, strong: [B, C] logits of the same unlabelled examples, in a plain and in a distorted view.
        threshold: τ, 0.95 in the paper.

    Returns:
        Scalar >= 0, in float32 at least.

    Raises:
        InputError: not as many of both.

    Example:
        >>> sure, unsure = [9.0, 0.0], [0.0, 0.0]
        >>> round(float(pseudo_label(jnp.array([sure, unsure]), jnp.zeros((2, 2)))), 4)  # ½ log 2
        0.3466

    Source: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", 2020.
    """
    if weak.shape != strong.shape or weak.ndim != 2:
        what = f"logits {list(weak.shape)} and {list(strong.shape)}"
        raise InputError(what, where="pseudo_label", todo="give two views of the same examples, [examples, classes]")
    p = jax.nn.softmax(jax.lax.stop_gradient(weak).astype(jnp.promote_types(weak.dtype, jnp.float32)))
    believed = jnp.max(p, axis=-1) > threshold
    return jnp.mean(jnp.where(believed, softmax_cross_entropy(strong, jnp.argmax(p, axis=-1)), 0.0))
