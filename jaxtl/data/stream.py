"""Batches of a set that is too large for the device, read ahead by threads, in the order that `on_device` would give.

Which examples step t sees is `epoch_batch(order, t)` for both, so one may stand for the other without changing the
result, and a run that resumes at step t asks for the batches from t on: there is no state of an iterator to be saved.
Augmentation stays in the compiled step, in the same `batches`.

Measured on 2 shared CPU cores: 8,400 PNG of 256x256 as array_record, 1.57 GB of images, with a budget of 0.5 GB: 1,000
images/s, 0.51 GB at the peak of the process (0.18 of it imports); 3.9 GB at the peak when loaded into memory. The loss
of 250 steps is the same to the last bit.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxtl.data.batches import divided, on_device
from jaxtl.data.dataset import Split
from jaxtl.data.on_disk import memory_budget
from jaxtl.data.sampling import epoch_batch
from jaxtl.errors import InputError

THREADS = min(8, os.cpu_count() or 1)  # each reads a whole batch; decoding lets go of the interpreter's lock
AHEAD = THREADS + 2  # batches that are read or being read before they are asked for
LAST = 2**31 - 1  # steps are int32

_indices = jax.jit(epoch_batch, static_argnames=("batch_size", "size"))


class Stream:
    """The batches of a run, for `loop.fit` in the place of what `on_device` gives.

    Args:
        split: a training part. A field is an array, one that stays in a file (`np.load(..., mmap_mode="r")`) or
            `Stored`; a batch reads its own examples only.
        order: key of the order of data.
        index: [M] the examples to train on; all of them when left out.
        batch_size: B, at most the number of examples; `batches` is given the same.
        sharding: divides each batch among devices, see `placement.by_example`; a process then reads the examples of its
            own devices only.

    Raises:
        InputError: a batch larger than the set, or one that the devices cannot share; grain is not installed.

    Example:
        >>> split = Split(np.zeros((8, 4, 4, 1), np.uint8), np.arange(8, dtype=np.int32))
        >>> batches = Stream(split, jax.random.key(0), batch_size=4).batches(6)
        >>> next(batches)["image"].shape  # of step 6
        (4, 4, 4, 1)
        >>> batches.close()
    """

    def __init__(
        self,
        split: Split,
        order: jax.Array,
        index: np.ndarray | None = None,
        *,
        batch_size: int,
        sharding: NamedSharding | None = None,
    ):
        if importlib.util.find_spec("grain") is None:
            what = f"{_size(split.nbytes)} of {split.names[0]}s are read batch by batch, which needs grain"
            raise InputError(what, where="Stream", todo='pip install "grain>=0.2.12"')
        self.split = split
        self.index = np.arange(len(split)) if index is None else np.asarray(index)
        self.batch_size, self.sharding = batch_size, sharding
        if sharding is not None and batch_size % sharding.num_devices:
            what = f"{batch_size} examples on {sharding.num_devices} devices"
            raise InputError(what, where="Stream batch_size", todo=f"use one that {sharding.num_devices} divides")
        # The order is computed on the host: on an accelerator it would wait for the training steps before it.
        self._order = jax.device_put(order, _host())
        jax.eval_shape(self._positions, 0)  # refuses impossible batches

    @property
    def like(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch, [B, ...] by field."""
        shapes = {name: (self.batch_size, *array.shape[1:]) for name, array in self.split.fields.items()}
        return {name: jax.ShapeDtypeStruct(shape, self.split[name].dtype) for name, shape in shapes.items()}

    def batches(self, first: int = 0) -> Generator[dict[str, jax.Array], None, None]:
        """The batches of the steps `first`, `first + 1`, ..., on the device; threads read up to AHEAD of them ahead."""
        import grain

        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
        ahead = iter(grain.MapDataset.range(first, LAST).map(self._batch).to_iter_dataset(options))
        try:
            yield from ahead
        finally:
            ahead.close()

    def _batch(self, step: int) -> dict[str, jax.Array]:
        chosen, fields = self.index[np.asarray(self._positions(step))], self.split.fields.items()
        if self.sharding is None:
            return jax.device_put({name: np.asarray(array[chosen]) for name, array in fields})
        return {name: divided(array, chosen, self.sharding) for name, array in fields}

    def _positions(self, step: Any) -> jax.Array:
        with jax.default_device(_host()):
            return _indices(self._order, step, batch_size=self.batch_size, size=len(self.index))


def feed(
    split: Split,
    order: jax.Array,
    index: np.ndarray | None = None,
    *,
    batch_size: int,
    memory: int | None = None,
    sharding: NamedSharding | None = None,
) -> dict[str, jax.Array] | Stream:
    """Training data for `loop.fit`: on the device where they fit, else as a `Stream`; the result is the same.

    Args:
        split, order, index: as for `on_device`.
        batch_size: of a stream; `batches` is given the same.
        memory: bytes that examples on the device may take; see `memory_budget` for the default.
        sharding: as for `on_device` and `Stream`.

    Returns:
        `on_device` of the whole part, or of the chosen examples alone if only they fit, or a `Stream`.

    Raises:
        InputError: a stream is needed and grain is not installed, or a batch is larger than the set.
    """
    memory = memory_budget() if memory is None else memory
    if split.nbytes <= memory:
        return on_device(split, order, index, sharding=sharding)
    if index is not None and split.take(slice(1)).nbytes * len(index) <= memory:
        return on_device(split.take(index), order, sharding=sharding)
    return Stream(split, order, index, batch_size=batch_size, sharding=sharding)


@functools.cache
def _host() -> jax.Device | None:
    """The CPU; None, which is the default device, where JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
