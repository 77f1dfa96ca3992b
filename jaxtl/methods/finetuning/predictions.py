"""What predictions pay beside the task: for forgetting the source's answers, for ignoring how classes are related."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError


def distillation(logits: jax.Array, teacher: jax.Array, temperature: float = 2.0) -> jax.Array:
    """T² · KL(softmax(teacher/T) ‖ softmax(logits/T)) per example: the old head still says what it said.

    The paper's is the cross-entropy, larger by the teacher's entropy, a constant, and without T², which makes a rate
    mean the same at any temperature; popular code has T = 4 and no T² either.

    Args:
        logits: [B, C] of the old head now.
        teacher: [B, C] of the source model on the same images, augmented alike; no gradient reaches it.
        temperature: T > 0.

    Returns:
        [B], 0 where both agree.

    Example:
        >>> distillation(jnp.array([[0.0, 2.0]]), jnp.array([[0.0, 2.0]])).tolist()
        [0.0]

    Source: Li and Hoiem, "Learning without Forgetting", 2016; Hinton, Vinyals and Dean, "Distilling the Knowledge in a
    Neural Network", 2015 (T²).
    """
    theirs = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    ours = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def direct_relation(source_probabilities: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """p(y_s | y_t) as the mean of the source model's p(y_s | x) over the examples of each target class.

    Args:
        source_probabilities: [N, S], calibrated: from logits over a temperature that source examples have chosen.
        labels: [N] integers, target classes.
        classes: how many there are, T; one without examples has all source classes alike.

    Returns:
        [T, S], rows sum to 1.

    Example:
        >>> direct_relation(jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), jnp.array([0, 0, 1]), 2).tolist()
        [[0.75, 0.25], [0.0, 1.0]]

    Source: You et al., "Co-Tuning for Transfer Learning", 2020.
    """
    member = jax.nn.one_hot(labels, classes, axis=0)
    count = jnp.sum(member, axis=1, keepdims=True)
    uniform = jnp.full((classes, source_probabilities.shape[1]), 1 / source_probabilities.shape[1])
    return jnp.where(count > 0, member @ source_probabilities / jnp.where(count > 0, count, 1.0), uniform)


def reverse_relation(target_given_source: jax.Array, source_marginal: jax.Array) -> jax.Array:
    """p(y_s | y_t) ∝ p(y_t | y_s)·p(y_s), by Bayes' rule.

    Args:
        target_given_source: [S, T], what a logistic model of the target's classes says of each pure source class.
        source_marginal: [S], the mean of the source model's probabilities over the target's examples.

    Returns:
        [T, S], rows sum to 1.

    Example:
        >>> relation = reverse_relation(jnp.array([[1.0, 0.0], [0.5, 0.5]]), jnp.array([0.5, 0.5]))
        >>> [[round(float(p), 3) for p in row] for row in relation]
        [[0.667, 0.333], [0.0, 1.0]]

    Source: You et al., "Co-Tuning for Transfer Learning", 2020.
    """
    together = (target_given_source * source_marginal[:, None]).T
    return together / jnp.sum(together, axis=1, keepdims=True)


def co_tuning(source_logits: jax.Array, relation: jax.Array, labels: jax.Array) -> jax.Array:
    """−Σ_s p(s | y)·log softmax(source_logits)_s per example: the source head learns what the label means to it.

    Args:
        source_logits: [B, S] of the source's head on the trunk as it is.
        relation: [T, S] p(y_s | y_t).
        labels: [B] integers in 0…T−1.

    Returns:
        [B].

    Example:
        >>> co_tuning(jnp.zeros((1, 4)), jnp.eye(4)[:2], jnp.array([1])).tolist()
        [1.3862943649291992]

    Source: You et al., "Co-Tuning for Transfer Learning", 2020.
    """
    return -jnp.sum(relation[labels] * jax.nn.log_softmax(source_logits), axis=-1)


def pure_classes(coef: np.ndarray, intercept: np.ndarray) -> jax.Array:
    """[S, T]: what a logistic model softmax(p W + b) of source probabilities p says of each pure source class.

    Args:
        coef: [S, T].
        intercept: [T].

    Raises:
        InputError: shapes that do not fit.
    """
    if coef.ndim != 2 or intercept.shape != coef.shape[1:]:
        raise InputError(f"coefficients {coef.shape}, intercepts {intercept.shape}", where="pure_classes")
    return jax.nn.softmax(jnp.asarray(coef + intercept[None]))
