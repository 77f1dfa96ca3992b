"""What happens to a batch inside the compiled step: small pure transforms, (batch, rng) -> batch, one after another.

    batches(64, crop(2), flip(), normalised(mean, std))
    batches(32, drop_tokens(0.1, replacement=0))

A batch is a mapping of fields. A transform changes one of them and leaves the others; one of your own is a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data.augment import normalise, random_crop, random_flip
from jaxtl.errors import InputError

Batch = Mapping[str, Any]
Transform = Callable[[Batch, jax.Array], Batch]


def on(field: str, fn: Callable[[jax.Array, jax.Array], jax.Array]) -> Transform:
    """A transform of one field.

    batch[field] = fn(batch[field], rng)

    Args:
        field: its name.
        fn: (array [B, ...], key) -> array.

    Raises:
        InputError: on use, a batch without the field.

    Example:
        >>> double = on("number", lambda number, rng: 2 * number)
        >>> double({"number": jnp.ones(2), "label": jnp.zeros(2)}, jax.random.key(0))["number"].tolist()
        [2.0, 2.0]
    """

    def transform(batch: Batch, rng: jax.Array) -> Batch:
        if field not in batch:
            raise InputError(f"no field '{field}'", where="the batch", todo=f"it holds {', '.join(batch)}")
        return {**batch, field: fn(batch[field], rng)}

    return transform


def crop(padding: int, field: str = "image") -> Transform:
    """Each image shifted by up to `padding` pixels, see `random_crop`; 0 leaves them."""
    return on(field, lambda images, rng: random_crop(images, rng, padding) if padding else images)


def flip(field: str = "image") -> Transform:
    """Half of the images mirrored, see `random_flip`; not for digits."""
    return on(field, random_flip)


def normalised(mean: np.ndarray, std: np.ndarray, field: str = "image") -> Transform:
    """(x − mean) / std for each channel [C], or each number [D]; see `channel_statistics`."""
    return on(field, lambda array, _: normalise(array, mean, std))


def standardised(field: str = "signal") -> Transform:
    """Each example by its own mean and deviation, channel by channel: loudness and offset of a recording are no news.

    (x − mean_t x) / (std_t x + 1e-6)

    Args:
        field: [B, T, C].
    """

    def own(signal: jax.Array, _: jax.Array) -> jax.Array:
        signal = signal.astype(jnp.float32)
        mean, std = signal.mean(axis=1, keepdims=True), signal.std(axis=1, keepdims=True)
        return (signal - mean) / (std + 1e-6)

    return on(field, own)


def drop_tokens(rate: float, replacement: int = 0, field: str = "token") -> Transform:
    """Each token replaced with probability `rate`, independently.

    Args:
        rate: in 0..1.
        replacement: what stands for a token that is dropped.
        field: integers [B, L].

    Source: Iyyer, Manjunatha, Boyd-Graber and Daumé III, Deep Unordered Composition Rivals Syntactic Methods for Text
    Classification (2015), who drop words.
    """

    def dropped(tokens: jax.Array, rng: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(rng, rate, tokens.shape), jnp.asarray(replacement, tokens.dtype), tokens)

    return on(field, dropped)


def chain(*transforms: Transform) -> Transform:
    """Transforms one after another, each with a key of its own; a single one is handed the key as it is."""

    def transform(batch: Batch, rng: jax.Array) -> Batch:
        keys = [rng] if len(transforms) == 1 else jax.random.split(rng, len(transforms))
        for key, one in zip(keys, transforms, strict=False):
            batch = one(batch, key)
        return batch

    return transform
