"""Examples that vote beside a linear head: what a classifier carries in its state instead of training it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

CACHE = "cache"  # of the model state: {name of a head: what `votes` takes}


def votes(features: jax.Array, keys: jax.Array, values: jax.Array, sharpness: Any) -> jax.Array:
    """Σ_i values_i · exp(−sharpness · (1 − cos(f, keys_i))).

    Features that are 0 have a right angle to everything.

    Args:
        features: [B, D].
        keys: [N, D] features of the examples that vote.
        values: [N, C] for what: their classes, one-hot, times a weight.
        sharpness: at a large one only the nearest votes.

    Returns:
        [B, C] float32.

    Example:
        >>> keys, values = jnp.eye(2), jnp.eye(2)
        >>> votes(jnp.array([[3.0, 0.0]]), keys, values, 1.0).round(3).tolist()
        [[1.0, 0.368...]]

    Source: Zhang et al., "Tip-Adapter: Training-Free Adaption of CLIP for Few-Shot Classification", 2022.
    """
    return jnp.exp(-sharpness * (1 - _units(features) @ _units(keys).T)) @ values


def with_votes(logits: jax.Array, features: jax.Array, cache: Mapping[str, Any] | None) -> jax.Array:
    """The logits of a head, with the votes of its cache if it has one."""
    return logits if cache is None else logits + votes(features, cache["keys"], cache["values"], cache["sharpness"])


def _units(x: jax.Array) -> jax.Array:
    lengths = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(lengths > 0, lengths, 1.0)
