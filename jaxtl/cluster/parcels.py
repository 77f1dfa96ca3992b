"""Work on its way to another process: programs by value, arrays by their digest.

Work holds functions of an experiment, which only cloudpickle carries, and data sets, several times over: as they were
read and as they lie on a device. An array that is large goes by itself, once for each worker, whatever work asks for
it; one that is mapped from a file is read from the same file there. What is opened here was packed by the first process
of the same run and came through Dask, which executes what it carries in any case (SECURITY.md); no file is read so.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import mmap
import os
import pickle
import socket
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError

FILE = "file"
LARGE = 2**16  # bytes: an array of fewer goes with the work
CACHED = type(functools.cache(len))


class Parcel(NamedTuple):
    """Attributes:
    key: the digest of the body.
    body: the work, with digests in place of large arrays.
    arrays: their bytes by digest.
    """

    key: str
    body: bytes
    arrays: dict[str, bytes]


def packed(work: Callable) -> Parcel:
    """Work as a parcel.

    Example:
        >>> weights = np.ones(100_000, np.float32)
        >>> parcel = packed(lambda unit: weights.sum() + unit)
        >>> len(parcel.arrays), opened(parcel.body, parcel.arrays)(1)
        (1, np.float32(100001.0))
    """
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(work)
    body = file.getvalue()
    return Parcel(hashlib.sha256(body).hexdigest(), body, packer.arrays)


def opened(body: bytes, arrays: Mapping[str, bytes]) -> Callable:
    """The work; large arrays of NumPy are views of what was sent, and cannot be written."""
    return _Opener(io.BytesIO(body), arrays).load()


class _Packer(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.arrays: dict[str, bytes] = {}

    def persistent_id(self, obj: Any) -> tuple | None:
        """How the opener finds an array that does not go with the body; None for all else."""
        if isinstance(obj, np.memmap) and isinstance(obj.base, mmap.mmap) and obj.mode in ("r", "c"):
            place = os.path.abspath(os.fspath(obj.filename))
            return FILE, place, os.stat(place).st_size, obj.dtype.str, obj.offset, obj.shape
        if not isinstance(obj, np.ndarray | jax.Array) or obj.nbytes < LARGE or obj.dtype.kind not in "biufc":
            return None
        values = np.ascontiguousarray(obj)
        content = values.tobytes()
        digest = hashlib.sha256(content).hexdigest()
        self.arrays[digest] = content
        return isinstance(obj, jax.Array), digest, values.dtype.str, obj.shape

    def reducer_override(self, obj: Any) -> Any:
        """Modules of a class of their own, as the face of the package is, by name; functions that keep their answers
        and have no name to be found by, without them."""
        if isinstance(obj, types.ModuleType) and type(obj) is not types.ModuleType:
            return importlib.import_module, (obj.__name__,)
        if isinstance(obj, CACHED) and ("<locals>" in obj.__qualname__ or obj.__module__ == "__main__"):
            return functools.lru_cache(**obj.cache_parameters()), (obj.__wrapped__,)
        return super().reducer_override(obj)


class _Opener(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Mapping[str, bytes]):
        super().__init__(file)
        self.arrays = arrays

    def persistent_load(self, name: tuple) -> Any:
        """What `persistent_id` left out.

        Raises:
            InputError: a file is not there, or of another size.
        """
        if name[0] == FILE:
            _, place, size, dtype, offset, shape = name
            if not os.path.isfile(place) or os.stat(place).st_size != size:
                what = f"is not there on {socket.gethostname()}, or not as large as for the first process"
                raise InputError(what, where=place, todo="give workers the same files under the same names")
            return np.memmap(place, dtype, "r", offset, shape)
        on_device, digest, dtype, shape = name
        values = np.frombuffer(self.arrays[digest], dtype).reshape(shape)
        return jnp.asarray(values) if on_device else values
