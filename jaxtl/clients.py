"""Packages through the user's own clients, npm and pip, whose settings then hold; no code of a package is run.

A client is given up when it says nothing for too long; what it got is compared with a checksum before it is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256"}  # of a checksum, by the number of its digits
BEAT = 0.2  # seconds between two calls of a display while nothing comes
MEGABYTE = 1_000_000
PIP_ANSWER = 6  # seconds that pip waits for a server to say something
PIP_TRANSFER = 1800.0  # seconds; pip itself gives up after PIP_ANSWER without a byte
NO_WAY = ("Connection", "Name or service not known", "name resolution", "unreachable")  # in what pip says


class Display(Protocol):
    """How far one piece of work is; `jaxtl.writers.Progress` is one.

    It is called several times a second, with n = 0 when nothing new has come: what it raises stops the work, and
    nothing half done stays.
    """

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


def check(path: Path, checksum: str) -> None:
    """Compare a file with its checksum.

    Raises:
        Unavailable: it differs.
    """
    with path.open("rb") as file:
        if hashlib.file_digest(file, ALGORITHMS[len(checksum)]).hexdigest() != checksum:
            raise Unavailable(f"{path.name}: wrong checksum")


def run(command: list[str], room: Path, patience: float, display: Display) -> tuple[int, str]:
    """Run a client. What it says goes to a file: a pipe would be waited for as long as a child of it lives.

    Args:
        command: an absolute path and its arguments.
        room: a directory of its own.
        patience: seconds.
        display: told that it goes on.

    Returns:
        (exit code, what it said).

    Raises:
        Unavailable: it does not start, or takes longer.
    """
    said = room / "client.log"
    with said.open("wb") as log:
        try:
            client = subprocess.Popen(command, cwd=room, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        except OSError as error:
            raise Unavailable(f"the client does not start: {error.strerror}") from error
        try:
            code = _waited_for(client, patience, display)
        finally:
            client.kill()
            client.wait()
    return code, said.read_text(errors="replace")


def _waited_for(client: subprocess.Popen[bytes], patience: float, display: Display) -> int:
    end = time.monotonic() + patience
    while True:
        try:
            return client.wait(timeout=BEAT)
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                raise Unavailable(f"silent for {patience:g} s") from None
            display.advance(0)


def pip_download(requirement: str, wheel: str, size: int, checksum: str, room: Path, progress: Progress) -> Path:
    """A wheel by itself: not what it requires, and never a package that would have to be built.

    Args:
        requirement: "NAME==VERSION".
        wheel: the name of its file.
        size: in bytes, for the display.
        checksum: of the wheel.
        room: an empty directory: Python looks for modules there first.
        progress: (total, description) -> a display in megabytes.

    Returns:
        The file in `room`.

    Raises:
        Unavailable: no pip, no server, another file.
    """
    command = [*_pip(), "download", requirement, "--no-deps", "--only-binary=:all:", "--dest=.", "--no-input"]
    command += ["--disable-pip-version-check", "--retries=1", f"--timeout={PIP_ANSWER}"]
    with progress(round(size / MEGABYTE), f"pip download {requirement} (MB)") as display:
        code, said = run(command, room, PIP_TRANSFER, display)
        display.advance(round(size / MEGABYTE))
    if code:
        raise Unavailable(_reason(code, said))
    path = room / wheel
    if not path.is_file():
        raise Unavailable(f"pip wrote no {wheel}")
    check(path, checksum)
    return path


def _pip() -> list[str]:
    """The pip of this Python, else the one on PATH."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if client := shutil.which("pip"):
        return [client]
    raise Unavailable("no pip")


def _reason(code: int, said: str) -> str:
    if any(word in said for word in NO_WAY):
        return "no connection"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return f"{errors[-1]:.200}" if errors else f"exit code {code}"
