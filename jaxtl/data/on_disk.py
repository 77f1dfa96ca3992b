"""Images that stay on disk, for sets that are larger than a memory budget: looked at like an array, read by index."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

BUDGET = 2 * 2**30  # bytes, where a device does not say how much memory it has (a CPU)


def memory_budget() -> int:
    """Bytes that examples may take if nobody says otherwise: a quarter of the device's memory, or 2 GiB."""
    told = jax.local_devices()[0].memory_stats() or {}
    return told.get("bytes_limit", 4 * BUDGET) // 4


class Stored:
    """uint8 images [N, H, W, C] on disk.

    Choosing some (`images[3:7]`, `images[mask]`, `images[index]`) reads nothing and gives another `Stored`;
    `np.asarray(images[index])` reads and decodes those, and works for an array in memory just as well.

    Args:
        read: (rows int64 [n]) -> the images of these rows, uint8 [n, H, W, C]; may be called by several threads.
        rows: [N] the rows to be had, in their order.
        shape: of an image, (H, W, C).

    Example:
        >>> images = Stored(lambda rows: np.full((len(rows), 2, 2, 1), rows[:, None, None, None], np.uint8),
        ...                 np.array([7, 8, 9]), (2, 2, 1))
        >>> images[1:].shape, np.asarray(images[[2, 0]])[:, 0, 0, 0].tolist()
        ((2, 2, 2, 1), [9, 7])
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, shape: tuple[int, ...]):
        self._read, self._rows = read, np.asarray(rows, np.int64)
        self.shape = (len(self._rows), *shape)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.nbytes = self.size  # of uint8

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Stored:
        return Stored(self._read, self._rows[index], self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        images = self._read(self._rows) if len(self) else np.empty(self.shape, self.dtype)
        return images if dtype is None else images.astype(dtype, copy=False)
