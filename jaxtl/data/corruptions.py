"""Test images made worse, inside a compiled function: how far does accuracy carry over to images like these?

The kinds are those of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, 2019, with strengths in physical units. All take raw images, grey levels 0..255, and give float32 within
0..255 of the same shape: corrupt first, then `normalise`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError


def gaussian_noise(images: jax.Array, rng: jax.Array, std: float) -> jax.Array:
    """images + std · N(0, 1), for each pixel and channel by itself.

    Args:
        images: [N, H, W, C], grey levels 0..255, uint8 or float.
        rng: a key.
        std: in grey levels, 0 or more; CIFAR-10-C uses 10 to 26.

    Returns:
        float32 [N, H, W, C], clipped to 0..255.
    """
    _check_not_negative("std", std)
    return _clipped(images + std * jax.random.normal(rng, images.shape))


def gaussian_blur(images: jax.Array, sigma: float) -> jax.Array:
    """Every pixel becomes the mean of its surroundings with weights exp(−distance² / 2 sigma²), cut off at 4 sigma.

    Args:
        images: [N, H, W, C], grey levels 0..255, uint8 or float; beyond the edge the edge is repeated.
        sigma: in pixels, static, 0 or more; CIFAR-10-C uses 0.4 to 1.

    Returns:
        float32 [N, H, W, C].

    Example:
        >>> image = jnp.zeros((1, 1, 3, 1)).at[0, 0, 1, 0].set(100.0)
        >>> gaussian_blur(image, 0.5)[0, 0, :, 0].astype(int).tolist()
        [10, 78, 10]
    """
    _check_not_negative("sigma", sigma)
    reach = math.ceil(4 * sigma)
    weights = [math.exp(-0.5 * (distance / sigma) ** 2) if sigma else 1.0 for distance in range(-reach, reach + 1)]
    blurred = images.astype(jnp.float32)
    for axis in (1, 2):  # the weights are a product, so one axis after the other
        size = blurred.shape[axis]
        padding = [(reach, reach) if other == axis else (0, 0) for other in range(4)]
        padded = jnp.pad(blurred, padding, mode="edge")
        shifted = (jax.lax.slice_in_dim(padded, shift, shift + size, axis=axis) for shift in range(2 * reach + 1))
        weighted = [weight / sum(weights) * part for weight, part in zip(weights, shifted, strict=True)]
        blurred = jnp.stack(weighted).sum(axis=0)
    return _clipped(blurred)


def contrast(images: jax.Array, factor: float) -> jax.Array:
    """mean + factor · (images − mean), with the mean of each image and channel.

    Args:
        images: [N, H, W, C], grey levels 0..255, uint8 or float.
        factor: 1 changes nothing, 0 leaves the mean; CIFAR-10-C uses 0.75 to 0.15.

    Returns:
        float32 [N, H, W, C].

    Example:
        >>> contrast(jnp.array([[[[100.0], [200.0]]]]), 0.5)[0, 0, :, 0].tolist()
        [125.0, 175.0]
    """
    _check_not_negative("factor", factor)
    images = images.astype(jnp.float32)
    mean = images.mean(axis=(1, 2), keepdims=True)
    return _clipped(mean + factor * (images - mean))


def pixelate(images: jax.Array, size: int) -> jax.Array:
    """Every block of size × size pixels becomes its mean.

    Args:
        images: [N, H, W, C], grey levels 0..255, uint8 or float.
        size: in pixels, static; it divides H and W.

    Returns:
        float32 [N, H, W, C].

    Raises:
        InputError: `size` does not divide the image.

    Example:
        >>> pixelate(jnp.arange(4.0).reshape(1, 2, 2, 1), 2)[0, :, :, 0].tolist()
        [[1.5, 1.5], [1.5, 1.5]]
    """
    count, height, width, channels = images.shape
    if size < 1 or height % size or width % size:
        what = f"blocks of {size} pixels in images of {height}x{width}"
        raise InputError(what, where="pixelate", todo="use a size that divides both sides")
    blocks = images.astype(jnp.float32).reshape(count, height // size, size, width // size, size, channels)
    means = jnp.broadcast_to(blocks.mean(axis=(2, 4), keepdims=True), blocks.shape)
    return _clipped(means.reshape(images.shape))


def _clipped(images: jax.Array) -> jax.Array:
    return jnp.clip(images, 0.0, 255.0).astype(jnp.float32)


def _check_not_negative(name: str, value: float) -> None:
    """A traced value passes: it is not known while the program is made."""
    if not isinstance(value, jax.core.Tracer) and not value >= 0:
        raise InputError(f"{value} is negative", where=name, todo="use 0 or more")
