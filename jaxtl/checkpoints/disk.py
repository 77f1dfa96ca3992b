"""One checkpoint as files: written, verified and read; and its leaves on the host."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import files
from jaxtl.devices.placement import gather
from jaxtl.errors import InputError
from jaxtl.trees import Tree, named_leaves, shape_of

MOST_CONTENTS = 2**26  # bytes of a manifest: some 300 000 rows of history
AROUND = 2**26  # bytes that may stand around the arrays
BESIDE = 1000  # files that others may put beside those of a checkpoint


class Damaged(InputError):
    """The bytes of a checkpoint are not those that were written."""


def write(directory: Path, leaves: dict[str, np.ndarray], manifest: dict[str, Any]) -> None:
    with _checkpointer() as checkpointer:
        try:
            checkpointer.save(directory / "arrays", {path: leaf for path, leaf in leaves.items() if leaf.size})
        except Exception as error:  # tensorstore tells a full disk as ValueError
            raise OSError(one_line(error)) from error
    kinds = {path: {"shape": leaf.shape, "dtype": str(leaf.dtype)} for path, leaf in leaves.items()}
    content = manifest | {"leaves": kinds, "digests": leaf_digests(leaves), "files": _file_digests(directory)}
    content = as_json(content)
    crc32 = zlib.crc32(json.dumps(content).encode())
    files.write(directory / "manifest.json", json.dumps({"crc32": crc32, "content": content}))
    for path in (*directory.rglob("*"), directory):
        files.to_disk(path)


def as_json(content: dict[str, Any]) -> dict[str, Any]:
    """What JSON makes of it: tuples become lists, names strings."""
    try:
        return json.loads(json.dumps(content))
    except (TypeError, ValueError) as error:
        raise InputError(f"not JSON: {error}", where="meta", todo="numbers, strings, lists and dicts") from error


def verify(directory: Path) -> dict[str, Any]:
    """The manifest, when it and every file that it names are byte for byte what was written."""
    try:
        manifest = json.loads(files.content(directory / "manifest.json", MOST_CONTENTS))
        content = manifest["content"]
        if zlib.crc32(json.dumps(content).encode()) != manifest["crc32"]:
            raise ValueError("its digest differs")
        named, most = dict(content["files"]), 2 * bytes_of(announced(content)) + AROUND
        if not all(isinstance(content[part], dict) for part in ("keys", "meta", "digests")):
            raise ValueError("its parts are none")
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _pass_on_permissions(error, directory)
        raise Damaged(f"manifest.json: {one_line(error)}", where=directory) from error
    try:
        found = _regular_files(directory, 2 * len(named) + BESIDE)
        for name, crc32 in named.items():
            if name not in found:
                raise Damaged(f"{name} is missing", where=directory)
            most -= found[name].stat().st_size
            if most < 0 or _digest(found[name]) != crc32:
                raise Damaged(f"{name} is not what was written", where=directory)
    except OSError as error:
        _pass_on_permissions(error, directory)
        raise Damaged(str(error.strerror), where=directory) from error
    return content


def _pass_on_permissions(error: Exception, directory: Path) -> None:
    """Nothing is wrong with a checkpoint that this user may not read."""
    denied = error.__cause__ if isinstance(error, InputError) else error
    if isinstance(denied, PermissionError):
        what = f"cannot be read: {denied.strerror}"
        raise InputError(what, where=directory, todo="change its permissions") from error


def announced(manifest: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """What a manifest says that each leaf is; of random keys, their data."""
    for path, kind in manifest["leaves"].items():
        if not all(type(size) is int and size >= 0 for size in kind["shape"]):
            raise ValueError(f"{path} has no shape")
    return {
        path: jax.ShapeDtypeStruct(tuple(kind["shape"]), jnp.dtype(kind["dtype"]))
        for path, kind in manifest["leaves"].items()
    }


def bytes_of(leaves: dict[str, jax.ShapeDtypeStruct]) -> int:
    """Bytes that leaves take in memory."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves.values())


def read(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Every leaf by path, on the host; the data of random keys as they were stored."""
    with _checkpointer() as checkpointer:
        try:
            empty = _check_stored(checkpointer, directory, announced(manifest))
            leaves = checkpointer.restore(directory / "arrays") | empty
            if leaf_digests(leaves) != manifest["digests"]:
                raise ValueError("its arrays are not those that were saved")
        except Exception as error:
            what = f"its files are intact and yet cannot be read: {one_line(error)}"
            raise Damaged(what, where=directory, todo="install the orbax-checkpoint that wrote it") from error
    return leaves


def _check_stored(checkpointer: Any, directory: Path, leaves: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Compare what orbax would read with what the manifest announces, before any of it is.

    Returns:
        The leaves without elements, of which orbax stores none.
    """
    stored = checkpointer.metadata(directory / "arrays").item_metadata.tree
    empty = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in leaves.items() if 0 in leaf.shape}
    if stored.keys() != leaves.keys() - empty.keys():
        raise ValueError("its arrays have other names than its manifest says")
    for path, found in stored.items():
        leaf, chunk = leaves[path], found.storage.chunk_shape
        if (tuple(found.shape), jnp.dtype(found.dtype)) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{path} is {found.dtype}{list(found.shape)}, and its manifest says {shape_of(leaf)}")
        if any(part > size for part, size in zip(chunk, leaf.shape, strict=True)):
            raise ValueError(f"{path} is stored in parts of {list(chunk)}, larger than all of it")
    return empty


@contextlib.contextmanager
def _as_process_0(multihost: Any) -> Iterator[None]:
    asked = multihost.process_index
    multihost.process_index = lambda: 0
    try:
        yield
    finally:
        multihost.process_index = asked


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    """Orbax without its log and its warnings: what matters in them, our errors tell in one line."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import orbax.checkpoint as ocp
            from orbax.checkpoint._src.multihost import multihost

            # A process that saves or restores waits for no other. Orbax writes NumPy arrays in process 0 alone.
            options = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
            with _as_process_0(multihost):
                handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
                with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
                    yield checkpointer
    finally:
        absl.setLevel(level)


def to_host(tree: Tree) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Contiguous arrays by path; and which of them are the data of random keys, with the kind of key."""
    leaves, keys = named_leaves(tree), {}
    for path, leaf in leaves.items():
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise InputError(f"{shape_of(leaf)} is no array", where=path, todo="wrap it in jnp.asarray")
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            keys[path], leaves[path] = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
    leaves = jax.device_get({path: gather(leaf) for path, leaf in leaves.items()})
    return {path: np.asarray(leaf, order="C") for path, leaf in leaves.items()}, keys


def leaf_digests(leaves: dict[str, np.ndarray]) -> dict[str, int]:
    """crc32 over path, dtype, shape and bytes: a leaf that moved or changed its kind differs too."""

    def digest(path: str, leaf: np.ndarray) -> int:
        return zlib.crc32(leaf.reshape(-1).view(np.uint8).data, zlib.crc32(f"{path} {shape_of(leaf)}".encode()))

    return {path: digest(path, leaf) for path, leaf in leaves.items()}


def _file_digests(directory: Path) -> dict[str, int]:
    return {name: _digest(path) for name, path in _regular_files(directory).items() if path.name != "manifest.json"}


def _digest(path: Path) -> int:
    digest = 0
    with files.open_regular(path) as file:
        while block := file.read(2**20):
            digest = zlib.crc32(block, digest)
    return digest


def _regular_files(directory: Path, most: float = math.inf) -> dict[str, Path]:
    """All files below, by their names; `most` of them.

    Raises:
        OSError: something else is there, for which a reader might wait or which never ends, or a link that leads to
            files that are not looked at here.
    """

    def stop(error: OSError) -> None:
        raise error

    found: dict[str, Path] = {}
    for folder, folders, names in os.walk(directory, onerror=stop):
        for path in (Path(folder, name) for name in folders):
            if path.is_symlink():
                raise files.IsNoFile(0, f"{path.relative_to(directory)}: is a link to a directory")
        if len(found) + len(names) > most:
            raise OSError(0, "holds more files than were written")
        for path in (Path(folder, name) for name in names):
            try:
                files.check_kind(path.stat().st_mode)
            except OSError as error:
                raise type(error)(error.errno, f"{path.relative_to(directory)}: {error.strerror or error}") from None
            found[str(path.relative_to(directory))] = path
    return found


def check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed + 2**20:  # a mebibyte for what stands around the arrays
        raise OSError(f"it takes {needed / 1e6 + 1:.0f} MB and {free / 1e6:.0f} MB are free")


def one_line(error: Exception) -> str:
    """What the system says, as part of our line."""
    text = " ".join(str(getattr(error, "what", error)).split()) or type(error).__name__
    return text if len(text) < 120 else text[:117] + "..."
