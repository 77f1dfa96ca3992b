"""Operators whose plain form is slow somewhere, behind one name each."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError


def _corners(images: jax.Array, size: int) -> list[jax.Array]:
    """The size² pixels of every block, each as [B, H // size, W // size, C]; incomplete blocks are left out."""
    height, width = images.shape[1] // size * size, images.shape[2] // size * size
    if not (height and width):
        shape = f"{images.shape[1]}×{images.shape[2]}"
        raise InputError(f"images of {shape} are smaller than a {size}×{size} block", where="pooling")
    return [images[:, i:height:size, j:width:size] for i in range(size) for j in range(size)]


def max_pool(images: jax.Array, size: int = 2) -> jax.Array:
    """The largest value of every size×size block.

    Written as the maximum of strided slices: on CPU the gradient of a windowed maximum is a slow scatter. Ties share
    the gradient.

    Args:
        images: [B, H, W, C].
        size: block edge in pixels; incomplete blocks at the lower and right edge are left out.

    Returns:
        [B, H // size, W // size, C].

    Example:
        >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    return functools.reduce(jnp.maximum, _corners(images, size))


def mean_pool(images: jax.Array, size: int = 2) -> jax.Array:
    """The mean of every size×size block; arguments as in `max_pool`.

    Example:
        >>> mean_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    return functools.reduce(jnp.add, _corners(images, size)) / size**2
