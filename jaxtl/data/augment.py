"""Normalising and augmenting images inside the compiled step: one random choice per image, raw uint8 or float alike."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all images and pixels.

    Sums run in float64, a block of images after the other, because float32 sums over millions of pixels lose digits.

    Args:
        images: uint8 or float [N, ..., C], N >= 1. `Stored` ones are read twice: a part of them, `images[::100]`, will
            do.

    Returns:
        (mean [C], std [C]), float32 in the units of the images; the std of a constant channel is 1, so that
        normalising it gives 0.

    Example:
        >>> mean, std = channel_statistics(np.array([[[[0, 7]]], [[[2, 7]]]], np.uint8))
        >>> mean.tolist(), std.tolist()
        ([1.0, 7.0], [1.0, 1.0])
    """
    count = math.prod(images.shape[:-1])
    mean = sum(block.sum(axis=0) for block in _blocks(images)).sum(axis=0) / count
    std = np.sqrt(sum(np.square(block - mean).sum(axis=0) for block in _blocks(images)).sum(axis=0) / count)
    std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # below the resolution of float32 a channel is constant
    return mean.astype(np.float32), std.astype(np.float32)


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    """float64 [n, pixels, C] for a few images at a time."""
    blocks = (np.asarray(images[start : start + 256]) for start in range(0, len(images), 256))
    return (block.reshape(len(block), -1, block.shape[-1]).astype(np.float64) for block in blocks)


def normalise(images: jax.Array, mean: jax.Array | np.ndarray, std: jax.Array | np.ndarray) -> jax.Array:
    """(images − mean) / std for each channel.

    Args:
        images: uint8 or float [..., C].
        mean: [C], in the units of the images.
        std: [C], positive.

    Returns:
        float32, of the shape of `images`.

    Example:
        >>> normalise(jnp.array([[[[1, 4]]]], jnp.uint8), jnp.array([1.0, 2.0]), jnp.array([1.0, 2.0])).tolist()
        [[[[0.0, 1.0]]]]
    """
    shape = (1,) * (images.ndim - 1) + (-1,)
    return (images.astype(jnp.float32) - jnp.reshape(mean, shape)) / jnp.reshape(std, shape)


def random_crop(images: jax.Array, rng: jax.Array, padding: int) -> jax.Array:
    """Shift each image by up to `padding` pixels in each direction; what comes in is the image's own reflection.

    Reflection (Zagoruyko and Komodakis, Wide Residual Networks, 2016), not zeros: it adds no black frame and commutes
    with normalising. The reflected rows and columns are looked up where they are, so no padded copy is made.

    Args:
        images: [N, H, W, C], any dtype.
        rng: a key.
        padding: pixels, static, at least 0 and less than H and W.

    Returns:
        Like `images`.

    Raises:
        InputError: `padding` is negative or the image is too small to be reflected so far.
    """
    count, height, width, _ = images.shape
    if not 0 <= padding < min(height, width):
        what = f"padding {padding} for images of {height}x{width}"
        raise InputError(what, where="random_crop", todo=f"use 0..{min(height, width) - 1}")
    offset = jax.random.randint(rng, (count, 2, 1), -padding, padding + 1)
    rows = _reflected(offset[:, 0] + jnp.arange(height)[None], height)
    columns = _reflected(offset[:, 1] + jnp.arange(width)[None], width)
    return images[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflected(index: jax.Array, size: int) -> jax.Array:
    """An index up to size - 1 outside [0, size) mirrored back inside; the edge itself is not repeated."""
    index = jnp.abs(index)
    return jnp.where(index < size, index, 2 * (size - 1) - index)


def random_flip(images: jax.Array, rng: jax.Array) -> jax.Array:
    """Mirror each image left to right with probability one half.

    Args:
        images: [N, H, W, C], any dtype.
        rng: a key.

    Returns:
        Like `images`.
    """
    flipped = jax.random.bernoulli(rng, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def distorted(images: jax.Array, rng: jax.Array) -> jax.Array:
    """Another view of each image, harder to recognise: moved, of another contrast, and with a hole.

    Shifted by up to a quarter of the shorter edge; x ← mean + 2^u (x − mean) with u ~ U(−1, 1) and the mean of each
    channel; then a square of half the edge, anywhere, takes that mean (cutout). Digits remain the digits that they are.

    Args:
        images: [N, H, W, C] float, raw or normalised.
        rng: a key.

    Returns:
        Like `images`.

    Raises:
        InputError: what are no images.

    Example:
        >>> images = jnp.ones((2, 4, 4, 1)).at[:, 0].set(3.0)
        >>> seen = distorted(images, jax.random.key(0))
        >>> seen.shape, bool(jnp.any(seen != images))
        ((2, 4, 4, 1), True)

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017; Sohn et
    al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", 2020, who draw from more.
    """
    if images.ndim != 4:
        raise InputError(f"shape {list(images.shape)}", where="distorted", todo="give images [N, H, W, C]")
    count, *size, _ = images.shape
    shift, strength, place = jax.random.split(rng, 3)
    images = random_crop(images, shift, min(size) // 4)
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    images = mean + jnp.exp2(jax.random.uniform(strength, (count, 1, 1, 1), minval=-1.0)) * (images - mean)
    corner = jax.random.uniform(place, (count, 2, 1), minval=-0.25, maxval=0.75)  # it may stand half outside
    inside = [_within(corner[:, axis] * edge, edge) for axis, edge in enumerate(size)]
    return jnp.where((inside[0][:, :, None] & inside[1][:, None])[..., None], mean, images)


def _within(start: jax.Array, edge: int) -> jax.Array:
    """[N, edge] whether a row, or column, is in the half of an edge that begins at `start` [N, 1]."""
    pixel = jnp.arange(edge)[None]
    return (pixel >= start) & (pixel < start + edge / 2)
