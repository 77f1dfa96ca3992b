"""One run in several processes: the first owns the run's directory and speaks; the others do the same, unseen.

Every process goes through the same code, files included. A process other than the first works in a private copy of the
directory, which the first sends it and which is removed at the end: no file system has to be shared, and no experiment
has to know. Its output goes nowhere; how it ended is told by the first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jaxtl import checkpoints
from jaxtl.cli import workdir
from jaxtl.devices import processes
from jaxtl.errors import InputError

PIECE = 2**20  # bytes
ROOM = "jaxtl-process-"  # what private directories are called
OLD = 60.0  # seconds after which one has an owner, or is left over

_seen_as: dict[str, str] = {}  # the private directory, and what it is a copy of


def mute_all_but_first() -> None:
    """From now on the other processes print nothing. What ends one of them still has the file descriptor of stderr."""
    if not processes.is_first():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        os.dup2(sys.stdout.fileno(), 1)


def refuse_different(now: workdir.Record) -> None:
    """All processes have to do the same, in the same order; else they wait for each other for ever.

    Raises:
        InputError: in all of them, if one was started with another config, other code or other versions.
    """
    mine = json.dumps(dataclasses.asdict(now), sort_keys=True).encode()
    first = b"".join(processes.broadcast([mine]))
    if other := processes.agreed(processes.index() if first != mine else 0):
        what = f"process {other} was started with another config, or has other code or versions, than process 0"
        raise InputError(what, todo="start all of them with the same command, on the same jaxtl and libraries")


def send_directory(directory: Path | None) -> None:
    """Send the others what the run has so far; None if there is nothing to be done."""
    for _ in processes.broadcast([] if directory is None else _packed(directory)):
        pass


def _packed(directory: Path) -> Iterator[bytes]:
    """Of the directory, then of every entry, a line about it, and the content of files in pieces."""
    yield json.dumps({"directory": str(directory)}).encode()
    if processes.count() == 1:
        return
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink() or name == workdir.LOCK:
            continue
        if path.is_dir():
            yield json.dumps({"name": name}).encode()
        elif path.is_file():  # a pipe would be waited for
            yield json.dumps({"name": name, "size": path.stat().st_size}).encode()
            with open(path, "rb") as file:
                while piece := file.read(PIECE):
                    yield piece


@contextlib.contextmanager
def copy_of_directory() -> Iterator[Path | None]:
    """A private copy of what the first sends, removed at the end; None if there is nothing to be done."""
    pieces = processes.broadcast([])
    if not (start := next(pieces, None)):
        yield None
        return
    _remove_what_was_left()
    room = Path(tempfile.mkdtemp(prefix=ROOM)).resolve()
    processes.before_leaving(lambda: shutil.rmtree(room, ignore_errors=True))
    original = Path(json.loads(start)["directory"])
    directory = room / original.name
    directory.mkdir()
    _seen_as[str(directory)] = str(original)
    for piece in pieces:
        _unpack(json.loads(piece), directory, pieces)
    with checkpoints.own(room), checkpoints.own(directory):
        yield directory


def _remove_what_was_left() -> None:
    """Copies whose process was killed: nobody owns them, and they are not just being made."""
    for room in Path(tempfile.gettempdir()).glob(f"{ROOM}*"):
        with contextlib.suppress(OSError, InputError):
            if time.time() - room.stat().st_mtime > OLD:
                with checkpoints.own(room):
                    shutil.rmtree(room)


def _unpack(entry: dict, directory: Path, pieces: Iterator[bytes]) -> None:
    path = directory / entry["name"]
    if "size" not in entry:
        path.mkdir()
        return
    with open(path, "wb") as file:
        while file.tell() < entry["size"]:
            file.write(next(pieces))


def as_seen_by_the_first(text: str) -> str:
    """What a process says of its private directory, said of the run's."""
    for private, original in _seen_as.items():
        text = text.replace(private, original)
    return text
