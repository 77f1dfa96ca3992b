"""What the server makes of the changes of a round: means by weight, or a noisy sum.

Δ = Σ_k w_k Δ_k / Σ_k w_k
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.methods.federated.local import Ended
from jaxtl.methods.federated.privacy import Privacy, noisy
from jaxtl.methods.federated.sharing import Leaves


class Replies(NamedTuple):
    """What the clients of a round came to.

    Attributes:
        found: of each, [S, ...].
        weight: [S] in the mean; what has the weight 0 may be anything.
        target: [S] places among K of what each keeps; K where nothing is.
        every: [K] the weights of all clients.
    """

    found: Ended
    weight: jax.Array
    target: jax.Array
    every: jax.Array


def _weighted(weights: jax.Array, leaf: jax.Array) -> jax.Array:
    """Σ w · leaf over the first axis, in float32; what has the weight 0 may be NaN.

    A product of matrices: on a CPU a sum over the first axis strides through memory, and takes ten times as long.
    """
    w = jnp.reshape(weights, (-1,) + (1,) * (leaf.ndim - 1))
    counted = jnp.where(w == 0, 0.0, leaf.astype(jnp.float32))
    return jnp.tensordot(weights.astype(jnp.float32), counted, 1, precision=jax.lax.Precision.HIGHEST)


def mean_by(weights: jax.Array) -> Callable[[Leaves], Leaves]:
    """The mean over the first axis by these weights, leaf by leaf; 0 where all of them are."""
    total = jnp.sum(weights)
    share = weights / jnp.where(total > 0, total, 1.0)
    return lambda leaves: {path: _weighted(share, leaf) for path, leaf in leaves.items()}


def mean_change(replies: Replies, privacy: Privacy | None, sampled: int, rng: jax.Array) -> Leaves:
    """Δ; with `privacy` their noisy sum by the number that was drawn, all counting alike."""
    if not privacy:
        return mean_by(replies.weight)(replies.found.change)
    total = {path: _weighted(replies.weight > 0, leaf) for path, leaf in replies.found.change.items()}
    return {path: leaf / sampled for path, leaf in noisy(total, privacy.noise * privacy.clip, rng).items()}
