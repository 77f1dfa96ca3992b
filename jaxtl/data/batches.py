"""Examples on the device, and the `prepare` of a training step that samples and transforms them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxtl.data import transforms
from jaxtl.data.dataset import Split
from jaxtl.data.sampling import epoch_batch
from jaxtl.data.transforms import Transform, chain
from jaxtl.errors import InputError

Prepare = Callable[[Any, jax.Array, jax.Array], dict[str, Any]]


def on_device(
    split: Split, order: jax.Array, index: np.ndarray | None = None, *, sharding: NamedSharding | None = None
) -> dict[str, jax.Array]:
    """What `batches` samples from: a part of a data set with the order to go through it.

    Args:
        split: a training part; arrays that are on the device already stay there.
        order: key of the order of data.
        index: [M] the examples to train on; all of them when left out.
        sharding: divides the examples among devices, see `placement.by_example`; a process then reads those of its own
            devices only. Otherwise all of them are on one device.

    Returns:
        Every field [N, ...], "index" [M] and "order".
    """
    rows = np.arange(len(split))
    index = rows if index is None else index
    fields = split.fields.items()
    return {
        **{name: jnp.asarray(a) if sharding is None else divided(a, rows, sharding) for name, a in fields},
        "index": jnp.asarray(index, jnp.int32),
        "order": order,
    }


def divided(examples: Any, rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """examples[rows] as an array over devices, read part by part; the last row fills it up to equal parts."""
    rows = np.pad(rows, (0, -len(rows) % sharding.num_devices), mode="edge")

    def part(where: Any) -> np.ndarray:
        return np.asarray(examples[rows[where[0]]])

    return jax.make_array_from_callback((len(rows), *examples.shape[1:]), sharding, part)


def batches(batch_size: int, *steps: Transform) -> Prepare:
    """The `prepare` of `make_train_step`: (data, rng, step) -> batch, all fields of some examples, then transformed.

    Which examples depends on (data["order"], step) alone, what transforms draw on `rng`. A batch of a `Stream`, which
    has been chosen in that order already, is only transformed.

    Args:
        batch_size: B; where there are fewer examples, all of them. A `Stream` was given the same.
        steps: see `data.transforms`; each has a key of its own.

    Raises:
        InputError: on use, a stream that brings another number of examples.

    Example:
        >>> split = Split(token=np.arange(16, dtype=np.int32).reshape(8, 2), label=np.arange(8, dtype=np.int32))
        >>> key = jax.random.key(0)
        >>> batch = batches(4)(on_device(split, key), key, 0)
        >>> batch["token"].shape, (batch["token"][:, 0] == 2 * batch["label"]).all().item()
        ((4, 2), True)
    """
    transform = chain(*steps)

    def prepare(data, rng, step):
        batch = _sampled(data, step, batch_size) if "order" in data else _streamed(data, batch_size)
        return transform(batch, rng)

    return prepare


def image_batches(batch_size: int, mean: np.ndarray, std: np.ndarray, *, crop: int = 0, flip: bool = False) -> Prepare:
    """`batches` of images, shifted, mirrored and normalised: "image" becomes float32 [B, ...].

    Args:
        batch_size: see `batches`.
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
    augmented = chain(transforms.crop(crop), transforms.flip() if flip else lambda batch, rng: batch)
    normalised = transforms.normalised(mean, std)
    return batches(batch_size, lambda batch, rng: normalised(augmented(batch, rng), rng))


def paired(**prepares: Prepare) -> Prepare:
    """A batch of each of several sets, by name: for joint training, two domains, modalities that are not aligned.

    {name: prepares[name](data[name], a key of its own, step)}

    Example:
        >>> split = Split(np.zeros((8, 4, 4, 1), np.uint8), np.arange(8, dtype=np.int32))
        >>> key = jax.random.key(0)
        >>> data = {"source": on_device(split, key), "target": on_device(split.without("label"), key)}
        >>> both = paired(source=batches(4), target=batches(2))(data, key, 0)
        >>> both["source"]["label"].shape, list(both["target"])
        ((4,), ['image'])
    """

    def prepare(data, rng, step):
        keys = jax.random.split(rng, len(prepares))
        return {name: own(data[name], key, step) for key, (name, own) in zip(keys, prepares.items(), strict=True)}

    return prepare


def _sampled(data: Mapping[str, jax.Array], step: jax.Array, batch_size: int) -> dict[str, jax.Array]:
    fields = {name: array for name, array in data.items() if name not in ("index", "order")}
    index = data.get("index")
    size = len(next(iter(fields.values())) if index is None else index)
    chosen = epoch_batch(data["order"], step, batch_size=min(batch_size, size), size=size)
    rows = chosen if index is None else index[chosen]
    return {name: array[rows] for name, array in fields.items()}


def _streamed(data: Mapping[str, jax.Array], batch_size: int) -> dict[str, jax.Array]:
    size = len(next(iter(data.values())))
    if size != batch_size:
        what = f"the stream brings {size} examples at a time"
        raise InputError(what, where=f"batches batch_size={batch_size}", todo="give both the same batch_size")
    return dict(data)
