"""The processes of a run once they have met: what they tell each other, and how they end together.

A connection to the first is all that a process has. Where a process is killed, its connection ends at once; where a
machine is lost, within half a minute. Jax would notice too, later, and crash.
"""

from __future__ import annotations

import contextlib
import enum
import os
import queue
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

LOST = 75  # the exit code of a run that lost a process: "temporary failure, try again" of sysexits.h
BUG = 1
GRACE = 10.0  # seconds in which a process may come by itself to the end that another has met
SETTLING = 5.0  # seconds after an error until it is certain that it is not the loss of another process
SILENCE = 30  # seconds after which a machine that does not answer is lost
HEADER = struct.Struct(">BQ")


class Kind(enum.IntEnum):
    """What a message is."""

    VALUE = 1
    PIECE = 2
    END = 3
    LOST = 4


class Line:
    """A connection to another process: whole messages, in their order."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"KEEPIDLE": SILENCE // 3, "KEEPINTVL": SILENCE // 6, "KEEPCNT": 4, "USER_TIMEOUT": SILENCE * 1000}
        for name, value in options.items():
            if (option := getattr(socket, f"TCP_{name}", None)) is not None:  # Linux has all of them
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self.connection, self.lock = connection, threading.Lock()

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        with self.lock, contextlib.suppress(OSError):  # whoever listens to this line sees its end
            self.connection.sendall(HEADER.pack(kind, len(payload)) + payload)

    def messages(self) -> Iterator[tuple[Kind, bytes]]:
        """What the other process says, until it ends."""
        with contextlib.suppress(OSError), self.connection.makefile("rb") as file:
            while len(header := file.read(HEADER.size)) == HEADER.size:
                kind, size = HEADER.unpack(header)
                payload = file.read(size)
                if len(payload) < size:
                    return
                yield Kind(kind), payload


class Team:
    """All processes of a run, as one of them sees them.

    Args:
        process: the number of this one.
        processes: how many there are.
        connections: by process, see `rendezvous.Met`.
    """

    def __init__(self, process: int, processes: int, connections: dict[int, socket.socket]):
        self.process, self.processes = process, processes
        self.lines = {other: Line(connection) for other, connection in connections.items()}
        self.inboxes = {other: queue.SimpleQueue[bytes]() for other in connections}
        self.ends: dict[int, tuple[int, str]] = {}
        self.changed = threading.Condition()
        self.leaving = threading.Lock()  # taken by the one thread that ends this process
        self.ending = False
        self.before_leaving: list[Callable[[], None]] = []
        for other in connections:
            threading.Thread(target=self._listen, args=(other,), daemon=True).start()

    def agree(self, value: int) -> int:
        """The largest value that any process gives; all of them have to ask."""
        if self.process:
            self.lines[0].send(Kind.VALUE, str(value).encode())
            return int(self.inboxes[0].get())
        largest = max(value, *(int(inbox.get()) for inbox in self.inboxes.values()))
        self._send_to_all(Kind.VALUE, str(largest).encode())
        return largest

    def broadcast(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """What the first gives, in every process; to be read to its end."""
        if self.process:
            while piece := self.inboxes[0].get():
                yield piece
            return
        for piece in filter(None, pieces):
            self._send_to_all(Kind.PIECE, piece)
            yield piece
        self._send_to_all(Kind.PIECE)

    def end(self, code: int, text: str) -> int:
        """Tell the others that this process has come to its end, wait for theirs, and say once what there is to say.

        Returns:
            The exit code of the run: that of the first, or of one that failed.
        """
        if code == BUG:  # unless it is what the loss of another process looks like from here
            with self.changed:
                self.changed.wait_for(lambda: any(code for code, _ in self.ends.values()), timeout=SETTLING)
        self.ending = True
        if self.process:
            self.lines[0].send(Kind.END, f"{code} {text}".encode())
            with self.changed:
                self.changed.wait_for(lambda: 0 in self.ends)
                return self.ends[0][0]
        if code == 0:
            with self.changed:
                self.changed.wait_for(lambda: len(self.ends) == len(self.lines) or self._failed())
        told = [text] if text else []
        for process, (their_code, their_text) in sorted(self.ends.items()):
            code = code or their_code
            if their_text and _last_line(their_text) != _last_line(text):
                told.append(f"process {process}: {their_text}")
        self._send_to_all(Kind.END, f"{code} ".encode())
        for line in told:
            print(line, file=sys.stderr)
        return code

    def _failed(self) -> bool:
        return any(code for code, _ in self.ends.values())

    def _send_to_all(self, kind: Kind, payload: bytes = b"") -> None:
        for line in self.lines.values():
            line.send(kind, payload)

    def _listen(self, other: int) -> None:
        for kind, payload in self.lines[other].messages():
            if kind in (Kind.VALUE, Kind.PIECE):
                self.inboxes[other].put(payload)
            elif kind == Kind.LOST:
                self._lose(int(payload))
            else:
                self._hear_end(other, payload.decode())
        if other not in self.ends:
            self._lose(other)

    def _hear_end(self, other: int, message: str) -> None:
        code, _, text = message.partition(" ")
        with self.changed:
            self.ends[other] = int(code), text
            self.changed.notify_all()
        if self.process and not self.ending:
            self._leave(int(code))
        if not self.process and int(code) and not self.ending:
            timer = threading.Timer(GRACE, self._end_like, (other,))
            timer.daemon = True
            timer.start()

    def _end_like(self, other: int) -> None:
        """End the run as another process did, while this one waits for it in vain."""
        if not self.ending:
            code, text = self.ends[other]
            self._send_to_all(Kind.END, f"{code} ".encode())
            self._leave(code, f"process {other}: {text}" if text else "")

    def _lose(self, other: int) -> None:
        self._send_to_all(Kind.LOST, str(other).encode())
        what = f"process {other} of {self.processes} has ended, and so does process {self.process}"
        self._leave(LOST, f"{what}; rerun the same command in all of them to go on")

    def _leave(self, code: int, text: str = "") -> NoReturn:
        """End this process from a thread: the main one may wait for something that never comes."""
        with self.leaving:
            if text:
                os.write(2, f"{text}\n".encode())
            flushing = threading.Thread(target=flush_all, args=(self.before_leaving,), daemon=True)
            flushing.start()
            flushing.join(2)  # stdout may be full, with nobody to read it
            os._exit(code)


def flush_all(actions: list[Callable[[], None]]) -> None:
    """What has to be done before a process ends without its own end."""
    for action in actions:
        with contextlib.suppress(Exception):
            action()
    with contextlib.suppress(Exception):
        sys.stdout.flush()


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
