"""The state of a run: saved, verified, restored, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.checkpoints.disk import Damaged, announced, as_json, check_space, one_line, read, to_host, verify, write
from jaxtl.devices.placement import put
from jaxtl.errors import InputError
from jaxtl.files import check_kind, resolved, to_disk
from jaxtl.trees import Tree, check_same, map_named

KEPT = 2  # the newest, and the one to fall back to
ELSEWHERE = "free space or permissions, or choose another --workdir"

logger = logging.getLogger("jaxtl")
_owned: set[Path] = set()  # by this process


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
    workdir = resolved(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        os.listdir(workdir)
        with tempfile.NamedTemporaryFile(dir=workdir, prefix=".probe-") as probe:
            probe.write(bytes(4096))
        lock = _open_lock(workdir / ".lock")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    except BlockingIOError:
        with lock:
            lock.seek(0)
            what = f"in use by process {lock.read() or 'unknown'}"
        raise InputError(what, where=workdir, todo="wait until it ends, or choose another --workdir") from None
    except OSError as error:
        raise InputError(f"no directory to write in: {error.strerror}", where=workdir, todo=ELSEWHERE) from error
    with lock:
        _owned.add(workdir)
        try:
            yield workdir
        finally:
            _owned.discard(workdir)


def _open_lock(path: Path) -> IO[str]:
    """Open a regular file of this directory alone: what a link leads to would be written over."""
    lock = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "a+")
    try:
        check_kind(os.fstat(lock.fileno()).st_mode)
    except OSError as error:
        lock.close()
        raise OSError(0, f".lock {error.strerror}") from None
    return lock


def is_owned(workdir: str | Path) -> bool:
    """Whether this process is within `own` for this very directory."""
    return resolved(workdir) in _owned


def save(workdir: str | Path, state: Tree, meta: dict[str, Any]) -> Path:
    """Write a checkpoint, read it back, and only then give it its name and delete all but the newest two.

    In a run of several processes all of them save, each in a directory of its own: what is divided among them has to be
    put together.

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
    newest = latest_step(workdir)  # puts a replaced one back, before leftovers are removed
    if newest is not None and step < newest:
        todo = "restore it first, or choose another --workdir"
        raise InputError(f"step {step} is older than the checkpoint of step {newest}", where=root, todo=todo)
    meta, (leaves, keys) = as_json(meta), to_host(state)
    final, temporary, replaced = (root / f"{step}{ending}" for ending in ("", ".tmp", ".replaced.tmp"))
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob("*.tmp"):
            shutil.rmtree(leftover)
        check_space(root, sum(leaf.nbytes for leaf in leaves.values()))
        write(temporary, leaves, {"step": step, "meta": meta, "keys": keys})
        read(temporary, verify(temporary))
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        to_disk(root)
        for old in (replaced, *(root / str(old) for old in _steps(root)[:-KEPT])):
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, InputError) as error:
        what = f"step {step} could not be saved, earlier ones are untouched: {one_line(error)}"
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
    _put_back(_root(workdir))
    directory, manifest = newest_intact(workdir, set_aside=True)
    stored: dict[str, Any] = announced(manifest)
    wrapped = {path: functools.partial(jax.random.wrap_key_data, impl=kind) for path, kind in manifest["keys"].items()}
    todo = "go on with the model it was saved with, or transfer(load_weights(...), params, rename=..., reinit=...)"
    try:
        keys = {path: jax.eval_shape(wrap, stored[path]) for path, wrap in wrapped.items()}
    except (ValueError, TypeError, KeyError) as error:
        todo = "register the kind of random keys that it was saved with"
        raise InputError(f"holds keys of no known kind: {one_line(error)}", where=directory, todo=todo) from error
    check_same(like, stored | keys, where=f"this run against {directory}", todo=todo)  # nothing larger is read
    leaves = read(directory, manifest)
    leaves |= {path: wrap(leaves[path]) for path, wrap in wrapped.items()}
    return map_named(lambda path, leaf: _place(leaves[path], leaf), like)


def latest_step(workdir: str | Path) -> int | None:
    """The newest step there is, whether it verifies or not; None when there is nothing to resume from."""
    _put_back(_root(workdir))
    return max(_steps(_root(workdir)), default=None)


def read_meta(workdir: str | Path) -> dict[str, Any]:
    """The `meta` of the newest checkpoint that verifies: after `restore`, of the one restored.

    Raises:
        InputError: no checkpoint that verifies.
    """
    return newest_intact(workdir, set_aside=False)[1]["meta"]


def _step_of(state: Tree, meta: dict[str, Any]) -> int:
    step = getattr(state, "step", None)
    if step is None or np.ndim(step):  # several runs in one state: their common step is in meta
        step = meta.get("step", -1)
    if int(step) < 0:
        raise InputError("the step is missing or negative", where="save", todo="give state.step or meta['step'] >= 0")
    return int(step)


def _place(value: Any, like: Any) -> Any:
    """A restored leaf as the kind of array that `like` is, and where it is."""
    if isinstance(like, np.ndarray | np.generic):
        return value if isinstance(like, np.ndarray) else value[()]
    # A copy, because the buffer may be donated. An uncommitted array stays one: jit may still move it to its mesh.
    value = jnp.array(value)
    return put(value, like.sharding) if like.sharding is not None and getattr(like, "committed", True) else value


def _root(workdir: str | Path) -> Path:
    return resolved(workdir) / "checkpoints"


def _steps(root: Path) -> list[int]:
    return sorted(int(path.name) for path in root.glob("*") if path.name.isdecimal())


def _put_back(root: Path) -> None:
    """Undo the first half of a replacement, where a process was killed between the two."""
    for replaced in root.glob("*.replaced.tmp"):
        final = root / replaced.name.partition(".")[0]
        if not final.exists():
            replaced.rename(final)


def newest_intact(workdir: str | Path, set_aside: bool) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that verifies, with its manifest; newer ones are told and, if wished, renamed.

    Where none is intact nothing is renamed: the same command meets the same error again, and never starts anew unasked.
    """
    root, damaged = _root(workdir), list[Damaged]()
    for directory in (root / str(step) for step in reversed(_steps(root))):
        try:
            manifest = verify(directory)
        except Damaged as error:
            damaged.append(error)
            continue
        for newer in damaged:
            aside = _renamed(Path(newer.where)) if set_aside else None
            done = f"set aside as {aside.name}" if aside else "passed over"
            logger.warning("%s is damaged (%s): %s", newer.where, newer.what, done)
        return directory, manifest
    if not damaged:
        raise InputError("no checkpoint", where=root, todo="start anew, or name the directory of another run")
    what = f"none of its {len(damaged)} checkpoints is intact ({damaged[0].what})"
    raise InputError(what, where=root, todo="start anew in another --workdir or with --overwrite")


def _renamed(directory: Path) -> Path | None:
    """Where a damaged checkpoint now is; None where the directory cannot be written, which is no reason to stop."""
    taken = len(list(directory.parent.glob(f"{directory.name}.corrupt*")))
    try:
        return directory.rename(directory.with_name(f"{directory.name}.corrupt{taken or ''}"))
    except OSError:
        return None
