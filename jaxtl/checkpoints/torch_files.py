"""Weights in PyTorch's own files, whose index is a pickle: understood without running it.

A pickle is a program for a stack machine, and what is dangerous in it is that it may look up any function and call it.
The machine here looks up nothing and calls nothing. It builds dicts, lists, tuples, numbers and text, knows three names
by their spelling (an ordered dict, a tensor, a parameter), and refuses every other name and every other instruction.

Two layouts: a zip archive (PyTorch 1.6 and later), in which data.pkl names the files that hold the numbers; and before
that five pickles in a row (a magic number, a version, the system, the tensors, the keys of the storages), then for
every key an int64 count and the numbers.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    **{"Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": jnp.bfloat16},
    **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_},
}


class Refused(InputError):
    """The file asks for something else than arrays."""


class _Name(str):
    """A function or class that the pickle names: "torch.FloatStorage"; only ever compared."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a list of operands begins on the stack."""


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a state dict, under its name; of nested dicts under "a/b". Numbers and text beside them are left.

    Raises:
        Refused: the file needs more than arrays, or is none of PyTorch's.
        ValueError, OSError, ...: it is damaged.
    """
    packed = zipfile.is_zipfile(path)
    with open(path, "rb") as file:
        tree, storages = _from_zip(file) if packed else _from_sequence(file)
    found: dict[str, np.ndarray] = {}
    _collect(tree, "", lambda tensor: _array(tensor, storages(tensor.storage)), found, set())
    if not found:
        raise Refused("it holds no tensors")
    return found


def _from_zip(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    archive = zipfile.ZipFile(file)
    indices = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(indices) != 1:
        raise Refused("it is no archive of PyTorch")
    folder = indices[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise Refused("its numbers are big-endian")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise Refused("it is compressed")  # PyTorch never does, and a small file could fill the memory
    content = {name.removeprefix(f"{folder}data/"): archive.read(name) for name in archive.namelist()}
    return _built(io.BytesIO(archive.read(indices[0]))), lambda s: np.frombuffer(content[s.key], s.dtype)


def _from_sequence(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    try:
        magic = _built(file)
    except (ValueError, Refused):
        magic = None
    if magic != MAGIC:
        raise Refused("it is none of PyTorch's files")
    _version, system, tree, keys = (_built(file) for _ in range(4))
    if not system["little_endian"]:
        raise Refused("its numbers are big-endian")
    kinds: dict[str, np.dtype] = {}
    _collect(tree, "", lambda tensor: kinds.setdefault(tensor.storage.key, tensor.storage.dtype), {}, set())
    storages = {}
    for key in keys:
        if key not in kinds:
            raise ValueError(f"no tensor lies in storage {key}")
        count = int.from_bytes(_exactly(file, 8), "little")
        storages[key] = np.frombuffer(_exactly(file, count * kinds[key].itemsize), kinds[key])
    return tree, lambda storage: storages[storage.key]


def _exactly(file: IO[bytes], size: int) -> bytes:
    if size > os.fstat(file.fileno()).st_size - file.tell():
        raise ValueError("it ends too early")
    return file.read(size)


def _array(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """A copy of what the tensor covers of its storage, never a number beyond it."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min((0, tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise ValueError("a tensor has a negative size")
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, storage.dtype)
    if tensor.offset + reach >= len(storage) or math.prod(tensor.shape) > len(storage):
        raise ValueError("a tensor is larger than its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()


def _collect(node: Any, path: str, take: Callable[[_Tensor], Any], found: dict[str, Any], above: set[int]) -> None:
    """Fill `found` with what `take` makes of every tensor below; a dict is entered once, so that no file is endless."""
    if isinstance(node, _Tensor):
        found[path] = take(node)
    elif isinstance(node, dict):
        if id(node) in above:
            raise ValueError("a dict occurs twice")
        above.add(id(node))
        for name, child in node.items():
            _collect(child, f"{path}/{name}" if path else str(name), take, found, above)


def _built(stream: IO[bytes]) -> Any:
    """What one pickle describes; the stream stands behind it afterwards."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in ARGUMENTS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in OPERATIONS:
            OPERATIONS[name](stack)
        elif name == "GLOBAL":
            stack.append(_Name(argument.replace(" ", ".")))
        else:
            raise Refused(f"it asks for {name}")
    raise ValueError("it ends too early")


CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"MARK": _Mark, "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple},
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
}
ARGUMENTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
}


def _since_mark(stack: list[Any]) -> list[Any]:
    start = max(i for i, value in enumerate(stack) if isinstance(value, _Mark))
    values = stack[start + 1 :]
    del stack[start:]
    return values


def _tuple(count: int) -> Callable[[list[Any]], None]:
    def make(stack: list[Any]) -> None:
        values = tuple(stack[-count:])
        del stack[-count:]
        stack.append(values)

    return make


def _set_items(stack: list[Any], values: list[Any]) -> None:
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(stack[-1], dict) or not isinstance(key, str | int):
            raise Refused("it fills something else than a dict with names")
        stack[-1][key] = value


def _append(stack: list[Any], values: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise Refused("it fills something else than a list")
    stack[-1].extend(values)


def _call(stack: list[Any]) -> None:
    """The three calls that describe weights, by the spelling of their names; none is made."""
    arguments, name = stack.pop(), stack.pop()
    if name == "collections.OrderedDict":
        stack.append(dict(arguments[0]) if arguments else {})
    elif name == "torch._utils._rebuild_tensor_v2":
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, _Storage) or not all(type(n) is int for n in (offset, *shape, *strides)):
            raise Refused("it describes a tensor in another way")
        stack.append(_Tensor(storage, offset, shape, strides))
    elif name == "torch._utils._rebuild_parameter" and isinstance(arguments[0], _Tensor):
        stack.append(arguments[0])
    else:
        raise Refused(f"it asks to call {name if isinstance(name, _Name) else 'what is no name'}")


def _persistent(stack: list[Any]) -> None:
    what, kind, key = stack.pop()[:3]
    names = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in KINDS.items()}
    if what != "storage" or kind not in names or not isinstance(key, str):
        raise Refused(f"it stores {kind}")
    stack.append(_Storage(key, names[kind]))


OPERATIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": lambda stack: stack.append(tuple(_since_mark(stack))),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": lambda stack: _set_items(stack, [stack.pop(-2), stack.pop()]),
    "SETITEMS": lambda stack: _set_items(stack, _since_mark(stack)),
    "APPEND": lambda stack: _append(stack, [stack.pop()]),
    "APPENDS": lambda stack: _append(stack, _since_mark(stack)),
    "BUILD": lambda stack: stack.__delitem__(-1),  # attributes of an ordered dict: the versions of modules
    "REDUCE": _call,
    "BINPERSID": _persistent,
}
