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
import pickletools
import types
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtl.checkpoints.foreign import LONGEST, UNPACKED, open_zip, size_of
from jaxtl.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    **{"Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": jnp.bfloat16},
    **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_},
}

MOST_STEPS, FEW_STEPS = 1_000_000, 1_000  # of a pickle: a tensor takes about 40, a version or a magic number a few
MOST_ENTRIES = 200_000  # of all dicts
MOST_AXES = 64  # NumPy's own limit
MOST_COPIES = 4  # tensors may share their numbers, as tied weights do; here each has its own


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


def read_torch(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Every tensor of a state dict, under its name; of nested dicts under "a/b". Numbers and text beside them are left.

    Raises:
        Refused: the file needs more than arrays, more work or memory than weights need, or is none of PyTorch's.
        ValueError, OSError, ...: it is damaged.
    """
    tree, storages = _from_zip(file) if zipfile.is_zipfile(file) else _from_sequence(file)
    found: dict[str, np.ndarray] = {}
    left = MOST_COPIES * size_of(file) + UNPACKED
    for name, tensor in _tensors(tree):
        if name in found:
            raise Refused(f"two tensors are called {name}")
        found[name] = _array(tensor, storages(tensor.storage))
        left -= found[name].nbytes
        if left < 0:
            raise Refused(f"its tensors are more than {MOST_COPIES} times as large as the file")
    if not found:
        raise Refused("it holds no tensors")
    return found


def _from_zip(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    archive = open_zip(file)
    names = set(archive.namelist())
    indices = [name for name in names if name.endswith("/data.pkl")]
    if len(indices) != 1:
        raise Refused("it is no archive of PyTorch")
    folder = indices[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise Refused("its numbers are big-endian")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise Refused("it is compressed")  # PyTorch never does
    content: dict[str, bytes] = {}

    def storage(described: _Storage) -> np.ndarray:
        if described.key not in content:
            content[described.key] = archive.read(f"{folder}data/{described.key}")
        return np.frombuffer(content[described.key], described.dtype)

    index = io.BytesIO(archive.read(indices[0]))
    return _built(types.SimpleNamespace(read=index.read, readline=index.readline)), storage


def _from_sequence(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    file.seek(0)
    size = size_of(file)  # asked for an exabyte, a file would set it aside first; and without `tell` genops is faster
    stream = types.SimpleNamespace(read=lambda count: file.read(min(count, size)), readline=file.readline)
    try:
        magic = _built(stream, FEW_STEPS)
    except Exception:  # any bytes at all may stand there
        magic = None
    if magic != MAGIC:
        raise Refused("it is none of PyTorch's files")
    _version, system = _built(stream, FEW_STEPS), _built(stream, FEW_STEPS)
    tree, keys = _built(stream), _built(stream)
    if not system["little_endian"]:
        raise Refused("its numbers are big-endian")
    kinds: dict[str, np.dtype] = {}
    for _, tensor in _tensors(tree):
        kinds.setdefault(tensor.storage.key, tensor.storage.dtype)
    storages = {}
    for key in keys:
        if not isinstance(key, str) or key not in kinds:  # in this order: to hash what is no text may take for ever
            raise ValueError("a storage belongs to no tensor")
        count = int.from_bytes(_exactly(file, 8), "little")
        storages[key] = np.frombuffer(_exactly(file, count * kinds[key].itemsize), kinds[key])
    return tree, lambda storage: storages[storage.key]


def _exactly(file: IO[bytes], size: int) -> bytes:
    if size > size_of(file) - file.tell():
        raise ValueError("it ends too early")
    return file.read(size)


def _array(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """A copy of what the tensor covers of its storage, never a number beyond it."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if min((0, tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise ValueError("a tensor has a negative size")
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, storage.dtype)
    if tensor.offset + reach >= len(storage):
        raise ValueError("a tensor is larger than its storage")
    if math.prod(tensor.shape) > len(storage):
        raise Refused("a tensor is larger than its storage, as `expand` makes it")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()


def _tensors(tree: Any) -> Iterator[tuple[str, _Tensor]]:
    """Every tensor in nested dicts under its path.

    A dict may occur in several places, so that a small file can describe names without number; they are counted.
    """
    waiting, entries = [("", tree)], 0
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, _Tensor):
            yield path, node
        elif isinstance(node, dict):
            entries += 1 + len(node)
            longest = max((len(str(name)) for name in node), default=0)
            if entries > MOST_ENTRIES or len(path) + longest > LONGEST:
                raise Refused("its dicts are nested without end, or their names are")
            children = reversed(node.items())
            waiting += [(f"{path}/{name}" if path else str(name), child) for name, child in children]


def _built(stream: Any, most_steps: int = MOST_STEPS) -> Any:
    """What one pickle describes; the stream stands behind it afterwards."""
    stack: list[Any] = []
    below: list[list[Any]] = []  # a stack for every open list of operands
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        most_steps -= 1
        if most_steps < 0:
            raise Refused("it takes more steps than weights need")
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name == "MARK":
            below.append(stack)
            stack = []
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in ARGUMENTS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in OF_OPERANDS:
            operands, stack = stack, below.pop()
            OF_OPERANDS[name](stack, operands)
        elif name == "REDUCE":
            most_steps -= _call(stack)
        elif name in OPERATIONS:
            OPERATIONS[name](stack)
        elif name == "GLOBAL":
            stack.append(_Name(argument.replace(" ", ".")))
        else:
            raise Refused(f"it asks for {name}")
    raise ValueError("it ends too early")


CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple},
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
}
ARGUMENTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
}


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


def _call(stack: list[Any]) -> int:
    """The three calls that describe weights, by the spelling of their names; none is made.

    What is not yet known to be text or a number is neither hashed nor written out: tuples of tuples of the same tuple
    take for ever.

    Returns:
        How many entries it went through.
    """
    arguments, name = stack.pop(), stack.pop()
    if name == "collections.OrderedDict":
        pairs = arguments[0] if arguments else []
        stack.append({})
        _set_items(stack, [part for key, value in pairs for part in (key, value)])
        return len(pairs)
    if name == "torch._utils._rebuild_tensor_v2":
        storage, offset, shape, strides = arguments[:4]
        sizes = isinstance(shape, tuple) and isinstance(strides, tuple) and max(len(shape), len(strides)) <= MOST_AXES
        whole = sizes and all(type(n) is int for n in (offset, *shape, *strides))
        if not isinstance(storage, _Storage) or not whole or any(arguments[6:]):  # the seventh turns signs
            raise Refused("it describes a tensor in another way")
        stack.append(_Tensor(storage, offset, shape, strides))
    elif name == "torch._utils._rebuild_parameter" and isinstance(arguments[0], _Tensor):
        stack.append(arguments[0])
    else:
        raise Refused(f"it asks to call {name if isinstance(name, _Name) else 'what is no name'}")
    return 0


def _persistent(stack: list[Any]) -> None:
    what, kind, key, *rest = stack.pop()
    names = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in KINDS.items()}
    if what != "storage" or not isinstance(kind, _Name) or kind not in names or not isinstance(key, str):
        raise Refused(f"it stores {kind if isinstance(kind, _Name) else 'what is no kind of number'}")
    if any(part is not None for part in rest[2:]):  # the place within another storage, before PyTorch 0.4
        raise Refused("one storage is a part of another")
    stack.append(_Storage(key, names[kind]))


OF_OPERANDS: dict[str, Callable[[list[Any], list[Any]], None]] = {
    "TUPLE": lambda stack, operands: stack.append(tuple(operands)),
    "SETITEMS": _set_items,
    "APPENDS": _append,
}
OPERATIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": lambda stack: _set_items(stack, [stack.pop(-2), stack.pop()]),
    "APPEND": lambda stack: _append(stack, [stack.pop()]),
    "BUILD": lambda stack: stack.__delitem__(-1),  # attributes of an ordered dict: the versions of modules
    "BINPERSID": _persistent,
}
