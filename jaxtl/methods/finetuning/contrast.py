"""Bi-Tuning: a classifier and a projector learn from keys of a slowly moving encoder, which a queue keeps by class.

    keys of class y, this example's own among them, are positives:    −mean_{positives} log softmax_{keys}(query·key/τ)

once with the query w_y, the classifier's weights of the label, on features, and once with the projected example on
projected keys. All are scaled to length 1. The queue is read before this batch's keys go into it.

Source: Zhong et al., "Bi-Tuning of Pre-trained Representations", 2020; He et al., "Momentum Contrast for Unsupervised
Visual Representation Learning", 2020 (queue and encoder).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.trees import Tree, map_named

TEMPERATURE = 0.07


class Queue(NamedTuple):
    """The last keys of every class: features [C, K, D], projected [C, K, P], and how many there ever were [C]."""

    features: jax.Array
    projected: jax.Array
    counts: jax.Array


def empty_queue(classes: int, width: int, projected: int, length: int = 40) -> Queue:
    """Without any key: what is not filled yet is no negative, where random keys would be.

    Example:
        >>> empty_queue(3, 5, 2).features.shape
        (3, 40, 5)
    """
    keys = jnp.zeros((classes, length, width)), jnp.zeros((classes, length, projected))
    return Queue(*keys, jnp.zeros(classes, jnp.int32))


def enqueued(queue: Queue, features: jax.Array, projected: jax.Array, labels: jax.Array) -> Queue:
    """The queue after a batch of keys, the oldest of each class written over.

    Args:
        queue: as it was.
        features: [B, D].
        projected: [B, P].
        labels: [B] integers.

    Example:
        >>> keys = jnp.arange(3.0)[:, None]
        >>> queue = enqueued(empty_queue(2, 1, 1, length=2), keys, keys, jnp.array([1, 1, 1]))
        >>> queue.features[1, :, 0].tolist(), queue.counts.tolist()
        ([2.0, 1.0], [0, 3])
    """
    classes, length = queue.features.shape[:2]
    member = jax.nn.one_hot(labels, classes, dtype=jnp.int32)
    earlier = jnp.take_along_axis(jnp.cumsum(member, axis=0) - member, labels[:, None], axis=1)[:, 0]
    total = jnp.sum(member, axis=0)
    slot = (queue.counts[labels] + earlier) % length
    slot = jnp.where(total[labels] - earlier <= length, slot, length)  # would be written over at once: nowhere

    def put(old, new):
        return old.at[labels, slot].set(new, mode="drop")

    return Queue(put(queue.features, features), put(queue.projected, projected), queue.counts + total)


def unit(x: jax.Array) -> jax.Array:
    """x / ‖x‖ along the last axis; 0 stays 0, also in the gradient."""
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jnp.where(squares > 0, jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)


def contrastive(
    queries: jax.Array, own: jax.Array, keys: jax.Array, filled: jax.Array, labels: jax.Array, temperature: float
) -> jax.Array:
    """−mean over positives of log softmax over all keys of query·key/τ, per example.

    Args:
        queries: [B, D], of length 1.
        own: [B, D] the key of the example itself, a positive.
        keys: [C, K, D] of the queue; class by class.
        filled: [C, K] which of them there are.
        labels: [B] integers; keys of this class are positives.
        temperature: τ.

    Returns:
        [B].

    Example:
        >>> empty = empty_queue(2, 1, 1)
        >>> one = jnp.ones((1, 1))
        >>> contrastive(one, one, empty.features, jnp.zeros((2, 40), bool), jnp.array([0]), 0.07).tolist()
        [0.0]
    """
    classes, length = keys.shape[:2]
    among = jnp.einsum("bd,ckd->bck", queries, keys)
    similar = jnp.concatenate([jnp.sum(queries * own, -1)[:, None], among.reshape(len(queries), -1)], axis=1)
    there = jnp.concatenate([jnp.ones(1, bool), filled.reshape(-1)])[None]
    logs = jax.nn.log_softmax(jnp.where(there, similar / temperature, -jnp.inf))
    same = jnp.repeat(jax.nn.one_hot(labels, classes, dtype=bool), length, axis=1)
    positive = jnp.concatenate([jnp.ones((len(queries), 1), bool), same], axis=1) & there
    return jnp.sum(jnp.where(positive, -logs, 0.0), axis=1) / jnp.sum(positive, axis=1)


def bi_tuning(
    features: jax.Array,
    projected: jax.Array,
    own_key: jax.Array,
    queue: Queue,
    head: Tree,
    labels: jax.Array,
    temperature: float = TEMPERATURE,
) -> jax.Array:
    """Contrastive cross-entropy of the classifier plus that of the projector, per example.

    The classifier's side contrasts examples for a class: its own features are not held, while all keys are. Weights
    and bias are one vector, beside features with a 1 at their end. Popular code holds the classifier's weights there.

    Args:
        features: [B, D] of the examples.
        projected: [B, P] of them.
        own_key: [B, P] projected features by the slow encoder, of another view of the same images.
        queue: as it was before this batch, of length-1 keys with a 1 at the features' end before they were scaled.
        head: {"kernel" [D, C], "bias" [C]}.
        labels: [B] integers.
        temperature: τ.

    Returns:
        [B].
    """
    filled = jnp.arange(queue.features.shape[1])[None] < queue.counts[:, None]
    classifier = unit(jnp.concatenate([head["kernel"], head["bias"][None]]).T)
    held = jax.lax.stop_gradient
    of_class = contrastive(
        classifier[labels], unit(with_one(features)), held(queue.features), filled, labels, temperature
    )
    keys = held(unit(own_key)), held(queue.projected)
    return of_class + contrastive(unit(projected), *keys, filled, labels, temperature)


def with_one(features: jax.Array) -> jax.Array:
    """[B, D] -> [B, D + 1]: what a bias is multiplied with."""
    return jnp.concatenate([features, jnp.ones_like(features[:, :1])], axis=1)


def following(slow: Tree, fast: Tree, momentum: float = 0.999) -> Tree:
    """momentum · slow + (1 − momentum) · fast, leaf by leaf, exactly both where they are equal; no gradient.

    Example:
        >>> float(following({"w": jnp.float32(1)}, {"w": jnp.float32(2)}, 0.75)["w"])
        1.25
    """
    return map_named(lambda _, a, b: a + (1 - momentum) * (jax.lax.stop_gradient(b) - a), slow, fast)
