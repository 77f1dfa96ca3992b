"""One checkpoint as files: written, verified and read; and its leaves on the host."""

from __future__ import annotations

import contextlib
import json
import logging
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
from jaxtl.errors import InputError
from jaxtl.placement import whole
from jaxtl.trees import Tree, named_leaves, shape_of


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
        if (directory / "manifest.json").is_fifo():  # it would be waited for
            raise ValueError("not a regular file")
        manifest = json.loads((directory / "manifest.json").read_bytes())
        content = manifest["content"]
        if zlib.crc32(json.dumps(content).encode()) != manifest["crc32"]:
            raise ValueError("its digest differs")
        found = _file_digests(directory)
    except PermissionError as error:  # nothing is wrong with the checkpoint
        raise InputError(f"cannot be read: {error.strerror}", where=directory, todo="change its permissions") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"manifest.json: {one_line(error)}", where=directory) from error
    for name, crc32 in content["files"].items():
        if found.get(name) != crc32:
            state = "not what was written" if name in found else "missing"
            raise Damaged(f"{name} is {state}", where=directory)
    return content


def read(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Every leaf by path, on the host; the data of random keys as they were stored."""
    with _checkpointer() as checkpointer:
        try:
            leaves = checkpointer.restore(directory / "arrays")
            for path, kind in manifest["leaves"].items():
                if 0 in kind["shape"]:  # orbax stores no empty arrays
                    leaves[path] = np.zeros(kind["shape"], jnp.dtype(kind["dtype"]))
            if leaf_digests(leaves) != manifest["digests"]:
                raise ValueError("its arrays are not those that were saved")
        except Exception as error:
            what = f"its files are intact and yet cannot be read: {one_line(error)}"
            raise Damaged(what, where=directory, todo="install the orbax-checkpoint that wrote it") from error
    return leaves


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
    leaves = jax.device_get({path: whole(leaf) for path, leaf in leaves.items()})
    return {path: np.asarray(leaf, order="C") for path, leaf in leaves.items()}, keys


def leaf_digests(leaves: dict[str, np.ndarray]) -> dict[str, int]:
    """crc32 over path, dtype, shape and bytes: a leaf that moved or changed its kind differs too."""

    def digest(path: str, leaf: np.ndarray) -> int:
        return zlib.crc32(leaf.reshape(-1).view(np.uint8).data, zlib.crc32(f"{path} {shape_of(leaf)}".encode()))

    return {path: digest(path, leaf) for path, leaf in leaves.items()}


def _file_digests(directory: Path) -> dict[str, int]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(directory)): zlib.crc32(path.read_bytes()) for path in files}


def check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed + 2**20:  # a mebibyte for what stands around the arrays
        raise OSError(f"it takes {needed / 1e6 + 1:.0f} MB and {free / 1e6:.0f} MB are free")


def one_line(error: Exception) -> str:
    """What the system says, as part of our line."""
    text = " ".join(str(getattr(error, "what", error)).split()) or type(error).__name__
    return text if len(text) < 120 else text[:117] + "..."
