"""Data on the device, and the `prepare` of a training step that samples, augments and normalises it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxtl.data.augment import normalise, random_crop, random_flip
from jaxtl.data.dataset import Split
from jaxtl.data.sampling import epoch_batch
from jaxtl.errors import InputError


def on_device(
    split: Split, order: jax.Array, index: np.ndarray | None = None, *, sharding: NamedSharding | None = None
) -> dict[str, jax.Array]:
    """What `image_batches` samples from: a part of a data set with the order to go through it.

    Args:
        split: a training part; arrays that are on the device already stay there.
        order: key of the order of data.
        index: [M] the examples to train on; all of them when left out.
        sharding: divides the examples among devices, see `placement.by_example`; a process then reads those of its own
            devices only. Otherwise all of them are on one device.

    Returns:
        {"image" [N, ...], "label" [N], "index" [M], "order"}.
    """
    index = np.arange(len(split.labels)) if index is None else index
    arrays, rows = {"image": split.images, "label": split.labels}, np.arange(len(split.labels))
    return {
        **{name: jnp.asarray(a) if sharding is None else divided(a, rows, sharding) for name, a in arrays.items()},
        "index": jnp.asarray(index, jnp.int32),
        "order": order,
    }


def divided(examples: Any, rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """examples[rows] as an array over devices, read part by part; the last row fills it up to equal parts."""
    rows = np.pad(rows, (0, -len(rows) % sharding.num_devices), mode="edge")

    def part(where: Any) -> np.ndarray:
        return np.asarray(examples[rows[where[0]]])

    return jax.make_array_from_callback((len(rows), *examples.shape[1:]), sharding, part)


def image_batches(
    batch_size: int, mean: np.ndarray, std: np.ndarray, *, crop: int = 0, flip: bool = False
) -> Callable[[dict[str, jax.Array], jax.Array, jax.Array], dict[str, jax.Array]]:
    """The `prepare` of `make_train_step`: (data, rng, step) -> {"image" float32 [B, ...], "label" int32 [B]}.

    Which examples depends on (data["order"], step) alone, how they are augmented on `rng`. A batch of a `Stream`, which
    has been chosen in that order already, is only augmented and normalised.

    Args:
        batch_size: B; where there are fewer examples, all of them. A `Stream` was given the same.
        mean, std: [C], see `channel_statistics`.
        crop: pixels by which each image is shifted at most; 0 does not.
        flip: mirror half of the images; not for digits.

    Example:
        >>> split = Split(np.zeros((8, 4, 4, 1), np.uint8), np.arange(8, dtype=np.int32))
        >>> prepare = image_batches(4, np.zeros(1), np.ones(1))
        >>> key = jax.random.key(0)
        >>> prepare(on_device(split, key), key, 0)["image"].shape
        (4, 4, 4, 1)
    """

    def prepare(data, rng, step):
        image, label = _sampled(data, step, batch_size) if "order" in data else _streamed(data, batch_size)
        crop_rng, flip_rng = jax.random.split(rng)
        image = random_crop(image, crop_rng, crop) if crop else image
        image = random_flip(image, flip_rng) if flip else image
        return {"image": normalise(image, mean, std), "label": label}

    return prepare


def _sampled(data: dict[str, jax.Array], step: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    size = len(data["index"])
    index = data["index"][epoch_batch(data["order"], step, batch_size=min(batch_size, size), size=size)]
    return data["image"][index], data["label"][index]


def _streamed(data: dict[str, jax.Array], batch_size: int) -> tuple[jax.Array, jax.Array]:
    if len(data["label"]) != batch_size:
        what = f"the stream brings {len(data['label'])} examples at a time"
        raise InputError(what, where=f"image_batches batch_size={batch_size}", todo="give both the same batch_size")
    return data["image"], data["label"]
