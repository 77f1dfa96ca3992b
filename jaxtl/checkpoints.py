"""Checkpoints that are whole or refused: orbax behind digests, fall-back and a lock.

    workdir/.lock                           held by the process that writes here
    workdir/checkpoints/100/arrays/         orbax: an array per leaf, under its path "params/head/kernel"
    workdir/checkpoints/100/manifest.json   meta; shape, dtype and crc32 of every leaf; crc32 of every file
    workdir/checkpoints/90.corrupt/         did not verify: set aside by `restore`, never deleted

Orbax alone loads a flipped bit without a word, takes an empty directory for the newest step, and casts or pads what
does not fit. The digest of a file shows damage before a parser meets it; the digest of a leaf shows that what is read
is what was saved. It is crc32, because the enemy is a bad disk and no forger: three times as fast as sha256.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.trees import Tree, check_same, map_named, named_leaves, shape_of

KEPT = 2  # the newest, and the one to fall back to
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
ELSEWHERE = "free space or permissions, or choose another --workdir"

logger = logging.getLogger("jaxtl")


class _Damaged(InputError):
    """The bytes of a checkpoint are not those that were written."""


@contextlib.contextmanager
def own(workdir: str | Path) -> Iterator[Path]:
    """Create the directory of a run and keep other processes out of it; the lock ends with the process.

    Args:
        workdir: where the run writes.

    Yields:
        The absolute path.

    Raises:
        InputError: the path is a file, cannot be read or written, or another process owns it.
    """
    workdir = Path(workdir).expanduser().resolve()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        os.listdir(workdir)
        with tempfile.NamedTemporaryFile(dir=workdir, prefix=".probe-") as probe:
            probe.write(bytes(4096))
        lock = open(workdir / ".lock", "a+")  # noqa: SIM115 (closing it would release it)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with lock:
            lock.seek(0)
            what = f"in use by process {lock.read() or 'unknown'}"
        raise InputError(what, where=workdir, todo="wait until it ends, or choose another --workdir") from None
    except OSError as error:
        raise InputError(f"no directory to write in: {error.strerror}", where=workdir, todo=ELSEWHERE) from error
    with lock:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield workdir


def save(workdir: str | Path, state: Tree, meta: dict[str, Any]) -> Path:
    """Write a checkpoint, read it back, and only then give it its name and delete all but the newest two.

    In a run of several processes one of them saves, and the arrays must be whole on it (replicated).

    Args:
        workdir: directory of the run.
        state: any tree of arrays, typed random keys among them. `state.step`, when it is a scalar, is the step.
        meta: stored beside the arrays, as JSON; meta["step"] is the step of a state that has none.

    Returns:
        The directory of the checkpoint.

    Raises:
        InputError: a leaf or `meta` that cannot be stored, an older step than the newest there, no space.
    """
    root, step = _root(workdir), _step_of(state, meta)
    newest = latest_step(workdir)
    if newest is not None and step < newest:
        todo = "restore it first, or choose another --workdir"
        raise InputError(f"step {step} is older than the checkpoint of step {newest}", where=root, todo=todo)
    leaves, keys = _to_host(state)
    final, temporary, replaced = (root / f"{step}{ending}" for ending in ("", ".tmp", ".replaced.tmp"))
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob("*.tmp"):
            shutil.rmtree(leftover)
        _check_space(root, sum(leaf.nbytes for leaf in leaves.values()))
        _write(temporary, leaves, {"step": step, "meta": meta, "keys": keys})
        _read(temporary, _verify(temporary))
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        for old in (replaced, *(root / str(old) for old in _steps(root)[:-KEPT])):
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, _Damaged) as error:
        what = f"step {step} could not be saved, earlier ones are untouched: {_one_line(error)}"
        raise InputError(what, where=root, todo=ELSEWHERE) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def restore(workdir: str | Path, like: Tree) -> Tree:
    """The newest checkpoint that verifies, in the structure, dtypes and placement of `like`.

    Damaged ones are renamed `<step>.corrupt` and told in a line each by the logger "jaxtl". Nothing is padded,
    truncated or cast.

    Args:
        workdir: directory of the run.
        like: a tree of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
        InputError: no checkpoint that verifies, or one whose paths, shapes or dtypes differ from those of `like`.
    """
    directory, manifest = _newest(workdir, set_aside=True)
    leaves = _read(directory, manifest)
    for path, kind in manifest["keys"].items():
        leaves[path] = jax.random.wrap_key_data(leaves[path], impl=kind)
    todo = "continue with the configuration it was saved with, or start anew in another --workdir"
    check_same(like, leaves, where=f"this run against {directory}", todo=todo)
    return map_named(lambda path, leaf: _place(leaves[path], leaf), like)


def latest_step(workdir: str | Path) -> int | None:
    """The newest step there is, whether it verifies or not; None when there is nothing to resume from."""
    return max(_steps(_root(workdir)), default=None)


def read_meta(workdir: str | Path) -> dict[str, Any]:
    """The `meta` of the newest checkpoint that verifies: after `restore`, of the one restored.

    Raises:
        InputError: no checkpoint that verifies.
    """
    return _newest(workdir, set_aside=False)[1]["meta"]


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
    leaves, keys = _to_host(params)
    if keys:
        raise InputError("a random key is no weight", where=", ".join(keys), todo="export the parameters alone")
    temporary = path.with_name(f".{path.stem}.tmp.safetensors")
    try:
        save_file(leaves, temporary, {"crc32": json.dumps(_digests(leaves))})
        load_weights(temporary)
        os.replace(temporary, path)
    except Exception as error:  # the library refuses in several ways, the disk in others
        raise InputError(f"could not be written: {_one_line(error)}", where=path, todo=ELSEWHERE) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def load_weights(path: str | Path) -> dict[str, Any]:
    """Source parameters as a nested dict of NumPy arrays; nothing in the file is ever executed.

    Args:
        path: a .safetensors or .npz file with names "a/b/kernel"; or the directory of a run, or of one checkpoint,
            from which `params` are taken.

    Raises:
        InputError: a pickle, another format, a damaged file, a directory without a checkpoint.
    """
    path = Path(path).expanduser().resolve()
    if path.is_dir():
        return _nest(_params_of_run(path), path)
    if not path.exists():
        raise InputError("there is no such file", where=path, todo="check the path")
    try:
        with open(path, "rb") as file:
            if path.suffix in PICKLES or _is_pickle(file.read(9)):
                raise _pickle(path)
        if path.suffix not in READERS:
            todo = f"known: {', '.join(READERS)} and the directory of a run"
            raise InputError(f"weights are not read from {path.suffix or 'such'} files", where=path, todo=todo)
        return _nest(READERS[path.suffix](path), path)
    except InputError:
        raise
    except Exception as error:  # damaged bytes can fail anywhere in the readers
        what = f"truncated or damaged: {_one_line(error)}"
        raise InputError(what, where=path, todo="copy or download it again") from error


# One checkpoint on disk.


def _write(directory: Path, leaves: dict[str, np.ndarray], manifest: dict[str, Any]) -> None:
    with _checkpointer() as checkpointer:
        try:
            checkpointer.save(directory / "arrays", {path: leaf for path, leaf in leaves.items() if leaf.size})
        except Exception as error:  # tensorstore tells a full disk as ValueError
            raise OSError(_one_line(error)) from error
    kinds = {path: {"shape": leaf.shape, "dtype": str(leaf.dtype)} for path, leaf in leaves.items()}
    manifest = manifest | {"leaves": kinds, "digests": _digests(leaves), "files": _file_digests(directory)}
    try:
        content = json.loads(json.dumps(manifest))
    except (TypeError, ValueError) as error:
        raise InputError(f"not JSON: {error}", where="meta", todo="numbers, strings, lists and dicts") from error
    crc32 = zlib.crc32(json.dumps(content).encode())
    (directory / "manifest.json").write_text(json.dumps({"crc32": crc32, "content": content}))


def _verify(directory: Path) -> dict[str, Any]:
    """The manifest, when it and every file that it names are byte for byte what was written."""
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        content = manifest["content"]
        if zlib.crc32(json.dumps(content).encode()) != manifest["crc32"]:
            raise ValueError("its digest differs")
        found = _file_digests(directory)
    except PermissionError as error:  # nothing is wrong with the checkpoint
        raise InputError(f"cannot be read: {error.strerror}", where=directory, todo="change its permissions") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"manifest.json: {_one_line(error)}", where=directory) from error
    for name, crc32 in content["files"].items():
        if found.get(name) != crc32:
            state = "not what was written" if name in found else "missing"
            raise _Damaged(f"{name} is {state}", where=directory)
    return content


def _read(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Every leaf by path, on the host; the data of random keys as they were stored."""
    with _checkpointer() as checkpointer:
        try:
            leaves = checkpointer.restore(directory / "arrays")
            for path, kind in manifest["leaves"].items():
                if 0 in kind["shape"]:  # orbax stores no empty arrays
                    leaves[path] = np.zeros(kind["shape"], jnp.dtype(kind["dtype"]))
            if _digests(leaves) != manifest["digests"]:
                raise ValueError("its arrays are not those that were saved")
        except Exception as error:
            what = f"its files are intact and yet cannot be read: {_one_line(error)}"
            raise _Damaged(what, where=directory, todo="install the orbax-checkpoint that wrote it") from error
    return leaves


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

            alone = jax.process_index()  # a process that saves or restores waits for no other
            options = ocp.options.MultiprocessingOptions(primary_host=alone, active_processes={alone})
            handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
            with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
                yield checkpointer
    finally:
        absl.setLevel(level)


def _root(workdir: str | Path) -> Path:
    return Path(workdir).expanduser().resolve() / "checkpoints"


def _steps(root: Path) -> list[int]:
    return sorted(int(path.name) for path in root.glob("*") if path.name.isdecimal())


def _newest(workdir: str | Path, set_aside: bool) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that verifies, with its manifest; newer ones are told and, if wished, renamed."""
    root, damaged = _root(workdir), 0
    for directory in (root / str(step) for step in reversed(_steps(root))):
        try:
            return directory, _verify(directory)
        except _Damaged as error:
            damaged += 1
            aside = directory.with_suffix(".corrupt")
            if set_aside:
                with contextlib.suppress(OSError):  # a directory that cannot be written is no reason to stop
                    shutil.rmtree(aside, ignore_errors=True)
                    directory.rename(aside)
            done = "passed over" if directory.exists() else f"set aside as {aside.name}"
            logger.warning("%s is damaged (%s): %s", directory, error.what, done)
    what = f"none of its {damaged} checkpoints is intact" if damaged else "no checkpoint"
    raise InputError(what, where=root, todo="start anew, or name the directory of another run")


def _params_of_run(path: Path) -> dict[str, Any]:
    named = (path / "manifest.json").exists()
    directory, manifest = (path, _verify(path)) if named else _newest(path, set_aside=False)
    leaves = _read(directory, manifest)
    params = {name.removeprefix("params/"): leaf for name, leaf in leaves.items() if name.startswith("params/")}
    if not params:
        raise InputError("holds no `params`", where=directory, todo=f"it holds {', '.join(sorted(leaves)[:5])}")
    return params


# Leaves on the host.


def _step_of(state: Tree, meta: dict[str, Any]) -> int:
    step = getattr(state, "step", None)
    if step is None or np.ndim(step):  # several runs in one state: their common step is in meta
        step = meta.get("step", -1)
    if int(step) < 0:
        raise InputError("the step is missing or negative", where="save", todo="give state.step or meta['step'] >= 0")
    return int(step)


def _to_host(tree: Tree) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Contiguous arrays by path; and which of them are the data of random keys, with the kind of key."""
    leaves, keys = named_leaves(tree), {}
    if len(leaves) < len(jax.tree.leaves(tree)):
        raise InputError("two leaves have one path", where="state", todo="rename the dict key that contains '/'")
    for path, leaf in leaves.items():
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise InputError(f"{shape_of(leaf)} is no array", where=path, todo="wrap it in jnp.asarray")
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            keys[path], leaves[path] = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
    return {path: np.asarray(leaf, order="C") for path, leaf in jax.device_get(leaves).items()}, keys


def _place(value: Any, like: Any) -> Any:
    """A restored leaf as the kind of array that `like` is, and where it is."""
    if isinstance(like, np.ndarray | np.generic):
        return value if isinstance(like, np.ndarray) else value[()]
    # A copy, because the buffer may be donated. An uncommitted array stays one: jit may still move it to its mesh.
    return jax.device_put(jnp.array(value), like.sharding if getattr(like, "committed", True) else None)


def _digests(leaves: dict[str, np.ndarray]) -> dict[str, int]:
    """crc32 over path, dtype, shape and bytes: a leaf that moved or changed its kind differs too."""

    def digest(path: str, leaf: np.ndarray) -> int:
        return zlib.crc32(leaf.reshape(-1).view(np.uint8).data, zlib.crc32(f"{path} {shape_of(leaf)}".encode()))

    return {path: digest(path, leaf) for path, leaf in leaves.items()}


def _file_digests(directory: Path) -> dict[str, int]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(directory)): zlib.crc32(path.read_bytes()) for path in files}


def _check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed + 2**20:  # a mebibyte for what stands around the arrays
        raise OSError(f"it takes {needed / 1e6 + 1:.0f} MB and {free / 1e6:.0f} MB are free")


# Files of weights.


def _is_pickle(start: bytes) -> bool:
    # A safetensors file begins with the length of its header, which may look like a pickle: its ninth byte tells.
    return start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") and start[8:] != b"{"


def _pickle(path: Path) -> InputError:
    todo = "convert it where it comes from: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    return InputError("a pickle can run any code when it is opened, so it was not", where=path, todo=todo)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        leaves = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        digests = json.loads((file.metadata() or {}).get("crc32", "null"))
    if digests is not None and digests != _digests(leaves):
        raise ValueError("its digests differ")
    return leaves


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith(".pkl") for name in archive.namelist()):
            raise _pickle(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
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


READERS = {".safetensors": _read_safetensors, ".npz": _read_npz}


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


def _one_line(error: Exception) -> str:
    """What the system says, as part of our line."""
    text = " ".join(str(getattr(error, "what", error)).split()) or type(error).__name__
    return text if len(text) < 120 else text[:117] + "..."
