"""A source model in a wider network that computes the same function: a rule of `transfer`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.trees import shape_of


def widen(source: jax.Array, target: jax.Array) -> tuple[jax.Array, Any]:
    """Adapt a layer to more units: unit j of the wide one is unit j mod n of the source, inputs shared by their copies.

    W'[…, i, j] = W[…, i mod m, j mod n] / (how often i mod m occurs),   b'[j] = b[j mod n]

    For all leaves of a network, `adapt=[(".*", widen)]`: kernels [..., in, out], biases, scales and batch statistics.
    A layer whose width did not change is copied. Copies of a unit stay copies for as long as the layer above weighs
    them alike, as it does here; a new head, drawn at random, does not.

    Args:
        source: of one or more axes.
        target: at least as wide along its last axis, and a kernel along the axis before it.

    Raises:
        InputError: a target that is narrower, or that differs along other axes.

    Example:
        >>> values, from_source = widen(jnp.array([[2.0], [4.0]]), jnp.zeros((4, 2)))
        >>> values.tolist(), from_source
        ([[1.0, 1.0], [2.0, 2.0], [1.0, 1.0], [2.0, 2.0]], True)

    Source: Chen, Goodfellow and Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", 2016.
    """
    axes = min(source.ndim, 2)
    narrower = any(t < s for s, t in zip(source.shape, target.shape, strict=False))
    if source.ndim != target.ndim or not axes or narrower or source.shape[:-axes] != target.shape[:-axes]:
        what = f"{shape_of(target)} is no wider form of {shape_of(source)}"
        raise InputError(what, where="widen", todo="give a model that differs in its widths only")
    values = jnp.take(source, jnp.arange(target.shape[-1]) % source.shape[-1], axis=-1)
    if axes == 2:
        inputs = jnp.arange(target.shape[-2]) % source.shape[-2]
        copies = jnp.bincount(inputs, length=source.shape[-2])[inputs]
        shape = (1,) * (values.ndim - 2) + (-1, 1)
        values = jnp.take(values, inputs, axis=-2) / copies.reshape(shape).astype(values.dtype)
    return values.astype(target.dtype), True
