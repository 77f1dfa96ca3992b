"""A worker's side: whether it fits the run, what it is set to, and a unit carried out."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxtl import version
from jaxtl.cluster import parcels
from jaxtl.devices import backend

KEPT = 2  # pieces of work: a study, and what comes before the next one

_kept: collections.OrderedDict[str, Callable] = collections.OrderedDict()  # by digest


def beside() -> list[str]:
    """Modules that lie beside the program that runs here: they travel by name, and have to be the same elsewhere."""
    program = getattr(sys.modules["__main__"], "__file__", None)
    room = Path(program or "").resolve().parent
    if program is None or {"site-packages", "bin"} & {*room.parts}:  # a program of a library
        return []
    places = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return sorted(
        name for name, file in places.items() if name[:2] != "__" and file and Path(file).resolve().parent == room
    )


def itself(modules: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """What has to be the same in all processes of a run: versions, the files of the package, and further modules."""
    others = {name: metadata.version(name) for name in ("jaxlib", "numpy", "scikit-learn", "scipy")}
    further = {name: _digest(name) for name in modules}
    return {"versions": backend.versions() | others, "code": version.code(), "beside": further}


def _digest(module: str) -> str:
    """Of its file; "" where there is none."""
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        return ""
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest() if found and found.origin else ""


def threads() -> int:
    """That XLA has in this process, for what it divides among them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("NPROC") or cores)


def differences(first: Mapping[str, Mapping[str, str]], here: Mapping[str, Mapping[str, str]]) -> str:
    """In what a process is another than the first one, in words; "" where it fits.

    Example:
        >>> first = {"versions": {"jax": "0.10.2"}, "code": {}, "beside": {}}
        >>> differences(first, {**first, "versions": {"jax": "0.9.0"}})
        'jax 0.9.0 in place of 0.10.2'
    """
    words = [
        f"{name} {here['versions'].get(name, 'absent')} in place of {wanted}"
        for name, wanted in first["versions"].items()
        if here["versions"].get(name) != wanted
    ]
    theirs, ours = {**here["code"], **here["beside"]}, {**first["code"], **first["beside"]}
    files = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if files:
        words.append(f"other code in {files[0]}" + (f" and {len(files) - 1} more files" if files[1:] else ""))
    return ", ".join(words)


def prepare(ours: bool, threads: int) -> None:
    """Set jax before it looks for a device: memory as needed, threads as in the first process, programs kept."""
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("NPROC", str(threads))  # of XLA: their number decides in which order numbers are added
    with contextlib.redirect_stdout(None):
        backend.use_compilation_cache()


def fitting(first: Mapping[str, Any], topic: str, resource: str, threads: int, ours: bool) -> Any:
    """What Dask runs in every worker, also in those that join later: one that fits offers what units ask for.

    One that does not is left as it is, with a line for the first process: it is given no unit, and other work that it
    may have goes on. The class travels by value, so that a worker without this package can say so.

    Args:
        first: `itself` of the first process.
        topic: under which the line is told.
        resource: of Dask, that units ask for: one at a time in each worker.
        threads: that XLA has in the first process.
        ours: workers that end with the run; Ctrl-C is for the first process.
    """
    from distributed import Status, WorkerPlugin

    class Fitting(WorkerPlugin):
        name = topic

        async def setup(self, worker):
            try:
                workers = importlib.import_module("jaxtl.cluster.workers")
                refused = workers.differences(first, workers.itself(first["beside"]))
            except ImportError as error:
                refused = f"no jaxtl as it is here: {error}"
            if refused:
                worker.log_event(topic, f"worker {worker.address} is refused: {refused}")
                return
            workers.prepare(ours, threads)
            await worker.set_resources(**{resource: 1})
            if worker.status is Status.running:  # units that found no worker are looked at when one is there again
                worker.status = Status.paused
                worker.status = Status.running

    return Fitting()


def held(content: bytes) -> bytes:
    """What is sent once and asked for often: a result of Dask, made again where the worker that has it is lost."""
    return content


def carried_out(key: str, body: bytes, digests: Sequence[str], arrays: Sequence[bytes], unit: Any) -> Any:
    """What work makes of a unit; the work is opened once, and what it compiles stays.

    Args:
        key: see `parcels.Parcel`.
        body: likewise.
        digests: of the arrays.
        arrays: their bytes.
        unit: what the work is called with.
    """
    with contextlib.redirect_stdout(None):  # the first process alone speaks
        if key not in _kept:
            _kept[key] = parcels.opened(body, dict(zip(digests, arrays, strict=True)))
        _kept.move_to_end(key)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
        return _kept[key](unit)
