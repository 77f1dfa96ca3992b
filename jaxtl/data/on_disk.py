"""Images that stay on disk, for sets that are larger than a memory budget: looked at like an array, read by index.

And arrays that took long to compute, which a file keeps.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtl import files

PART = 2**24  # bytes that are written at a time: a copy of all would be gigabytes
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


def kept_array(path: Path, rows: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    """A float32 array [rows, ...] that a file keeps; where there is none, or a damaged one, it is made and written.

    Args:
        path: NAME.npy; its directory is created if need be.
        rows: that it has to have.
        make: -> the array.

    Raises:
        InputError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as room:
        ...     made = [kept_array(Path(room, "a.npy"), 2, lambda k=k: np.full((2, 3), k, np.float32)) for k in (5, 7)]
        >>> made[1][0].tolist()
        [5.0, 5.0, 5.0]
    """
    if path.exists():
        try:
            with files.open_regular(path) as content:
                array = np.lib.format.read_array(content, allow_pickle=False)
            if len(array) == rows and array.dtype == np.float32:
                return array
        except (ValueError, EOFError, OSError):
            pass  # damaged: made again
    array = np.ascontiguousarray(make())
    files.make_room(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    with files.whole(path) as partial, files.Lines(partial) as out:
        out.write(header.getvalue())
        bytes_of = array.reshape(-1).view(np.uint8)
        for start in range(0, len(bytes_of), PART):
            out.write(bytes_of[start : start + PART].tobytes())
    return array
