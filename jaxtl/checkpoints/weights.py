"""Weights in files that others read and write; nothing in them is ever executed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jaxtl.checkpoints.array_files import read_npz, read_safetensors
from jaxtl.checkpoints.disk import announced, bytes_of, leaf_digests, one_line, read, to_host, verify
from jaxtl.checkpoints.foreign import MOST_GROWTH, UNPACKED, content_of
from jaxtl.checkpoints.states import ELSEWHERE, newest_intact
from jaxtl.checkpoints.torch_files import Refused, read_torch
from jaxtl.errors import InputError
from jaxtl.files import expanded, open_regular, resolved, whole
from jaxtl.trees import Tree

PICKLES = (".pkl", ".pickle")
DEEPEST, MOST_LEVELS = 64, 500_000  # of a name, and of all names together: each becomes a dict


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

    path = expanded(path)
    path = resolved(path.parent) / path.name  # a link is replaced, and where it leads to is left alone
    if path.suffix != ".safetensors":
        raise InputError("weights are written as .safetensors", where=path, todo="choose a name with this ending")
    leaves, keys = to_host(params)
    if keys:
        raise InputError("a random key is no weight", where=", ".join(keys), todo="export the parameters alone")
    try:
        with whole(path) as partial:
            save_file(leaves, partial, {"crc32": json.dumps(leaf_digests(leaves))})
            load_weights(partial)
    except Exception as error:  # the library refuses in several ways, the disk in others
        what = one_line(error).removeprefix("cannot be written: ")
        raise InputError(f"could not be written: {what}", where=path, todo=ELSEWHERE) from error
    return path


def load_weights(path: str | Path) -> dict[str, Any]:
    """Source parameters as a nested dict of NumPy arrays; nothing in the file is ever executed.

    The arrays lie as they do in the file: `transfer(..., layout="torch")` turns those of PyTorch.

    Args:
        path: a .safetensors or .npz file with names "a/b/kernel"; a state dict of PyTorch (.pt, .pth, .bin, .ckpt) with
            the names that it has there; or the directory of a run, or of one checkpoint, from which `params` are taken.

    Raises:
        InputError: anything but a regular file, a pickle of anything else, another format, a file that claims more
            than it holds or would fill the memory, a damaged file, a directory without a checkpoint. (Of these formats
            .npz, our own .safetensors and checkpoints hold checksums; in others a flipped bit of a number is another
            number.)
    """
    try:
        path = expanded(path).absolute()  # not where a link leads: caches link to names without ending
    except TypeError as error:
        what = f"a {type(path).__name__} that names no file: {one_line(error)}"
        raise InputError(what, where="load_weights", todo="give the path of a file") from None
    if os.path.isdir(path):
        return _nest(_params_of_run(path), path)
    with open_regular(path) as file:
        try:
            _check_kind(path, file.read(32))
            file.seek(0)
            return _nest(READERS[path.suffix](file), path)
        except Refused as error:
            raise _pickle(path, f" ({one_line(error)})") from error
        except InputError:
            raise
        except Exception as error:  # damaged bytes can fail anywhere in the readers
            what = f"truncated or damaged: {one_line(error)}"
            raise InputError(what, where=path, todo="copy or download it again") from error


def _check_kind(path: Path, start: bytes) -> None:
    """Refuse what is whole, as far as one can see, and yet of another kind than its name says."""
    known = f"known: {', '.join(READERS)} and the directory of a run"
    if path.suffix in PICKLES or (path.suffix not in TORCH and _is_pickle(start[:9])):
        raise _pickle(path)
    if path.suffix not in READERS:
        raise InputError(f"weights are not read from {path.suffix or 'such'} files", where=path, todo=known)
    if not start:
        raise ValueError("it is empty")
    content = content_of(start)
    expected = {".safetensors": "a safetensors file"}.get(path.suffix, "a zip archive")
    if content and content != expected:
        raise InputError(f"this is {content}, whatever its name says", where=path, todo=known)


def _params_of_run(path: Path) -> dict[str, Any]:
    named = (path / "manifest.json").exists()
    directory, manifest = (path, verify(path)) if named else newest_intact(path, set_aside=False)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    if (unpacked := bytes_of(announced(manifest))) > max(UNPACKED, MOST_GROWTH * size):
        what = f"its {size} bytes would become {unpacked} when they are unpacked"
        raise InputError(what, where=directory, todo="restore it into a state of the same shapes")
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


TORCH = (".pt", ".pth", ".bin", ".ckpt")
READERS = {".safetensors": read_safetensors, ".npz": read_npz, **dict.fromkeys(TORCH, read_torch)}


def _nest(leaves: dict[str, Any], where: Path) -> dict[str, Any]:
    levels = [name.count("/") for name in leaves]
    if max(levels, default=0) > DEEPEST or sum(levels) > MOST_LEVELS:
        what = f"its names have up to {max(levels)} levels, {sum(levels)} in all"
        raise InputError(what, where=where, todo=f"at most {DEEPEST} and {MOST_LEVELS} are read: rename its arrays")
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
