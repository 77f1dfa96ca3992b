"""Arrays in files that have a plain table of contents: safetensors and .npz.

What the table claims is held against the size of the file before memory is taken for it.
"""

from __future__ import annotations

import json
import math
import zipfile
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from jaxtl.archives import npy_dtype
from jaxtl.checkpoints.disk import leaf_digests
from jaxtl.checkpoints.foreign import MOST_CONTENTS, check_names, open_zip, size_of
from jaxtl.checkpoints.torch_files import Refused
from jaxtl.errors import InputError

SAFETENSORS = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "C64": np.complex64},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
    **{"F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2},
}


def read_safetensors(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Every array under its name; those that carry digests of ours are held against them.

    The file is the length of a header, the header (JSON: {name: {dtype, shape, data_offsets}}), and the arrays, one
    after the other without gaps.

    Raises:
        InputError: a header without end, a dtype that NumPy does not have.
        ValueError, ...: it is damaged.
    """
    length = int.from_bytes(file.read(8), "little")
    start, size = 8 + length, size_of(file)
    if start > size:
        raise ValueError("it ends within its header")
    if length > MOST_CONTENTS:
        what = f"its header has {length} bytes, more than {MOST_CONTENTS}"
        raise InputError(what, where=file.name, todo="no reader of weights needs so many names")
    entries = json.loads(file.read(length), object_pairs_hook=_without_twins)
    metadata = entries.pop("__metadata__", {})
    check_names(entries, file.name)
    leaves, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in SAFETENSORS:
            todo = f"cast it to one of {', '.join(SAFETENSORS)}"
            raise InputError(f"{name} holds {entry['dtype']:.20}, which is not read", where=file.name, todo=todo)
        dtype, shape, offsets = np.dtype(SAFETENSORS[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, *offsets)):
            raise ValueError(f"{name} has no shape or place")
        count = math.prod(shape) * dtype.itemsize
        if offsets != [end, end + count]:
            raise ValueError(f"{name} is not where its shape and those before put it")
        end += count
        if start + end > size:
            raise ValueError(f"it ends before {name} does")
        leaves[name] = np.frombuffer(file.read(count), dtype).reshape(shape)
    if start + end != size:
        raise ValueError("there are bytes that belong to no array")
    if "crc32" in metadata and json.loads(metadata["crc32"]) != leaf_digests(leaves):
        raise ValueError("its digests differ")
    return leaves


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def read_npz(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Every array under its name.

    Raises:
        Refused: it holds Python objects.
        InputError: an archive that would fill the memory, members that are no arrays of numbers.
        ValueError, ...: it is damaged.
    """
    archive = open_zip(file)
    if any(name.endswith(".pkl") for name in archive.namelist()):
        raise Refused("it is an archive of PyTorch")
    if not archive.namelist() or len(set(archive.namelist())) < len(archive.namelist()):
        raise ValueError("it is empty, or holds a name twice")
    return {member.filename.removesuffix(".npy"): _member(archive, member) for member in archive.infolist()}


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name, where = member.filename.removesuffix(".npy"), archive.fp.name if archive.fp else ""
    if name == member.filename:
        raise InputError(f"{name} is no array", where=where, todo="write it with numpy.savez")
    dtype = npy_dtype(archive, member)
    if dtype.hasobject:
        raise Refused(f"{name} holds Python objects")
    if dtype.kind not in "biufc":
        what = f"{name} holds {dtype!s:.40}, not numbers"
        raise InputError(what, where=where, todo="npz cannot hold bfloat16: use safetensors")
    with archive.open(member) as content:
        return np.lib.format.read_array(content, allow_pickle=False)
