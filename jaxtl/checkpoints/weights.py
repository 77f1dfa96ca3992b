"""Weights in files that others read and write; nothing in them is ever executed."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.checkpoints.disk import leaf_digests, one_line, read, to_host, verify
from jaxtl.checkpoints.states import ELSEWHERE, newest_intact
from jaxtl.checkpoints.torch_files import Refused, read_torch
from jaxtl.errors import InputError
from jaxtl.trees import Tree

PICKLES = (".pkl", ".pickle")


def export(params: Tree, path: str | Path) -> Path:
    """Write parameters for others to read: one safetensors file, names "a/b/kernel", with a digest of each.

    Args:
        params: any tree of arrays.
        path: ends in ".safetensors"; replaced when it exists.

    Returns:
        The absolute path.

    Raises:
        InputError: another ending, a leaf that the format does not hold, a file that cannot be written.
    """
    from safetensors.numpy import save_file

    path = Path(path).expanduser().resolve()
    if path.suffix != ".safetensors":
        raise InputError("weights are written as .safetensors", where=path, todo="choose a name with this ending")
    leaves, keys = to_host(params)
    if keys:
        raise InputError("a random key is no weight", where=", ".join(keys), todo="export the parameters alone")
    temporary = path.with_name(f".{path.stem}.tmp.safetensors")
    try:
        save_file(leaves, temporary, {"crc32": json.dumps(leaf_digests(leaves))})
        load_weights(temporary)
        os.replace(temporary, path)
    except Exception as error:  # the library refuses in several ways, the disk in others
        raise InputError(f"could not be written: {one_line(error)}", where=path, todo=ELSEWHERE) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def load_weights(path: str | Path) -> dict[str, Any]:
    """Source parameters as a nested dict of NumPy arrays; nothing in the file is ever executed.

    Args:
        path: a .safetensors or .npz file with names "a/b/kernel"; a state dict of PyTorch (.pt, .pth, .bin, .ckpt) with
            the names that it has there; or the directory of a run, or of one checkpoint, from which `params` are taken.

    Raises:
        InputError: a pickle of anything else, another format, a damaged file, a directory without a checkpoint. (Of
            these formats .npz, our own .safetensors and checkpoints hold checksums; in others a flipped bit of a number
            is another number.)
    """
    path = Path(path).expanduser().resolve()
    if path.is_dir():
        return _nest(_params_of_run(path), path)
    if not path.exists():
        raise InputError("there is no such file", where=path, todo="check the path")
    try:
        with open(path, "rb") as file:
            if path.suffix in PICKLES or (path.suffix not in TORCH and _is_pickle(file.read(9))):
                raise _pickle(path)
        if path.suffix not in READERS:
            todo = f"known: {', '.join(READERS)} and the directory of a run"
            raise InputError(f"weights are not read from {path.suffix or 'such'} files", where=path, todo=todo)
        return _nest(READERS[path.suffix](path), path)
    except Refused as error:
        raise _pickle(path, f" ({error.what})") from error
    except InputError:
        raise
    except Exception as error:  # damaged bytes can fail anywhere in the readers
        what = f"truncated or damaged: {one_line(error)}"
        raise InputError(what, where=path, todo="copy or download it again") from error


def _params_of_run(path: Path) -> dict[str, Any]:
    named = (path / "manifest.json").exists()
    directory, manifest = (path, verify(path)) if named else newest_intact(path, set_aside=False)
    leaves = read(directory, manifest)
    params = {name.removeprefix("params/"): leaf for name, leaf in leaves.items() if name.startswith("params/")}
    if not params:
        raise InputError("holds no `params`", where=directory, todo=f"it holds {', '.join(sorted(leaves)[:5])}")
    return params


def _is_pickle(start: bytes) -> bool:
    # A safetensors file begins with the length of its header, which may look like a pickle: its ninth byte tells.
    return start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") and start[8:] != b"{"


def _pickle(path: Path, why: str = "") -> InputError:
    todo = "convert it where it comes from: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    return InputError(f"a pickle can run any code when it is opened, so it was not{why}", where=path, todo=todo)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        expected = json.loads((file.metadata() or {}).get("crc32", "null"))
    if expected is not None and expected != leaf_digests(leaves):
        raise ValueError("its digests differ")
    return leaves


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith(".pkl") for name in archive.namelist()):
            raise _pickle(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # given a path it leaks the file
            leaves = {name: arrays[name] for name in arrays.files}
    except ValueError as error:
        if "allow_pickle" in str(error):  # an array of Python objects
            raise _pickle(path) from error
        raise
    for name, leaf in leaves.items():
        if leaf.dtype.kind not in "biufc":
            what = f"{name} holds {leaf.dtype}, not numbers"
            raise InputError(what, where=path, todo="npz cannot hold bfloat16: use safetensors")
    return leaves


TORCH = (".pt", ".pth", ".bin", ".ckpt")
READERS = {".safetensors": _read_safetensors, ".npz": _read_npz, **dict.fromkeys(TORCH, read_torch)}


def _nest(leaves: dict[str, Any], where: Path) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else {}
        if not isinstance(node, dict) or last in node:
            raise InputError(f"{name} is both an array and a group of arrays", where=where, todo="rename one of them")
        node[last] = leaf
    return tree
