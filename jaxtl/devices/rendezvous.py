"""How the processes of a run find each other: every one calls the first, which tells who is expected and who came.

What can go wrong between machines goes wrong here, where it is told in a line or two, before jax is started: jax ends
a process that cannot reach the others by a crash.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from typing import Any, NamedTuple

from jaxtl.errors import InputError

HELLO = 5.0  # seconds for a stranger to say who it is; a process of ours says so at once
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Place(NamedTuple):
    """Where a process stands in its run: `host` and `port` are those at which process 0 waits for the others."""

    host: str
    port: int
    processes: int
    process: int

    @property
    def coordinator(self) -> str:
        return f"--coordinator={self.host}:{self.port}"


class Met(NamedTuple):
    """What a process knows when all have met.

    connections: by process; the first has one to each, the others one to the first.
    service: the port of jax's coordination service, on the machine of the first.
    neighbours: processes on the same machine, this one among them.
    """

    connections: dict[int, socket.socket]
    service: int
    neighbours: int


def meet(place: Place, patience: float) -> Met:
    """Wait until all processes are there.

    Args:
        place: of this process.
        patience: seconds.

    Raises:
        InputError: the address is taken or cannot be reached, processes differ in number, or some did not come.
    """
    return _receive(place, patience) if place.process == 0 else _call(place, patience)


def _receive(place: Place, patience: float) -> Met:
    """The first: wait for the calls of the others, and tell every one the same."""
    end, hosts = time.monotonic() + patience, {0: socket.gethostname()}
    callers, came = list[socket.socket](), dict[int, socket.socket]()
    with _listen(place) as server:
        try:
            while len(came) < place.processes - 1:
                if (call := _next_call(server, end)) is None:
                    missing = ", ".join(str(i) for i in range(1, place.processes) if i not in came)
                    what = f"of {place.processes} processes these did not come within {patience:.0f} s: {missing}"
                    todo = f"start them all, with the same {place.coordinator}, and look there for why they ended"
                    raise InputError(what, where=place.coordinator, todo=todo)
                caller, hello = call
                callers.append(caller)
                _check(hello, came, place)
                process = hello["process"]
                if process in came:
                    came[process].close()
                came[process], hosts[process] = caller, hello["host"]
        except InputError as error:
            for caller in callers:
                _write(caller, {"refused": error.what, "where": error.where, "todo": error.todo})
                caller.close()
            raise
    service, machines = free_port(), list(hosts.values())
    for process, caller in came.items():
        _write(caller, {"service": service, "neighbours": machines.count(hosts[process])})
    return Met(came, service, machines.count(hosts[0]))


def _next_call(server: socket.socket, end: float) -> tuple[socket.socket, dict[str, Any]] | None:
    """Who calls next, and what it says; None if nobody does in time. Strangers are passed over."""
    while True:
        server.settimeout(max(end - time.monotonic(), 0.001))
        try:
            caller, _ = server.accept()
        except TimeoutError:
            return None
        caller.settimeout(HELLO)
        hello = _read(caller)
        if isinstance(hello, dict) and {"process", "processes", "host"} <= hello.keys():
            return caller, hello
        caller.close()


def _listen(place: Place) -> socket.socket:
    here = place.host if place.host in LOOPBACK else ""
    try:
        if not here and socket.has_dualstack_ipv6():
            return socket.create_server((here, place.port), family=socket.AF_INET6, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in here else socket.AF_INET
        return socket.create_server((here, place.port), family=family)
    except OSError as error:
        todo = "choose another port for all processes, or end the run that uses this one"
        raise InputError(f"cannot wait here: {_reason(error)}", where=place.coordinator, todo=todo) from None


def _check(hello: dict[str, Any], came: dict[int, socket.socket], place: Place) -> None:
    """Refuse a caller that counts otherwise."""
    process, processes = hello["process"], hello["processes"]
    if processes != place.processes:
        what = f"process {process} counts {processes} processes, and process 0 counts {place.processes}"
    elif process == 0 or (process in came and not _has_left(came[process])):
        what = f"two processes are number {process}"
    else:
        return
    raise InputError(what, where="--processes, --process", todo="give all the same number, and each its own")


def _has_left(caller: socket.socket) -> bool:
    """Whether nobody is at the other end any more: a process that was started again may take its place."""
    caller.setblocking(False)
    try:
        left = not caller.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        left = False
    except OSError:
        left = True
    caller.settimeout(HELLO)
    return left


def _call(place: Place, patience: float) -> Met:
    """Any other: call the first until it answers."""
    end, reason = time.monotonic() + patience, "nobody answers"
    while time.monotonic() < end:
        try:
            connection = socket.create_connection((place.host, place.port), timeout=max(end - time.monotonic(), 0.1))
        except OSError as error:  # also a name that is not known yet
            reason = _reason(error)
            time.sleep(0.2)
            continue
        hello = {"process": place.process, "processes": place.processes, "host": socket.gethostname()}
        _write(connection, hello)
        connection.settimeout(max(end - time.monotonic(), 0.1) + HELLO)
        answer = _read(connection)
        if isinstance(answer, dict) and "service" in answer:
            return Met({0: connection}, answer["service"], answer["neighbours"])
        connection.close()
        if isinstance(answer, dict) and "refused" in answer:
            raise InputError(answer["refused"], where=answer["where"], todo=answer["todo"])
        reason = "process 0 hung up, or something else answers"
        time.sleep(0.2)
    todo = "start process 0 on that machine; the port has to be open between the machines"
    raise InputError(f"not reached within {patience:.0f} s: {reason}", where=place.coordinator, todo=todo)


def _read(connection: socket.socket) -> Any:
    """One line of JSON; None when there is none."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 4096:
            if not (more := connection.recv(1)):  # nothing beyond the line: that is for whoever reads next
                return None
            line += more
        return json.loads(line)
    except (OSError, ValueError):
        return None


def _write(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a caller that has left is missed later
        connection.sendall(json.dumps(message).encode() + b"\n")


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def forward(host: str, port: int) -> int:
    """Let jax's client of this process reach a service elsewhere through a port here, and never see it hang up.

    When process 0 dies, jax's client crashes within milliseconds of its connection's end, with pages of its own. This
    way it waits, and whoever listens to the other processes can end this one with a word.

    Returns:
        The port.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            client, _ = server.accept()
            try:
                service = socket.create_connection((host, port), timeout=HELLO)
            except OSError:
                client.close()  # it is not up yet: jax tries again
                continue
            service.settimeout(None)
            for ends in ((client, service), (service, client)):
                threading.Thread(target=_pump, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)


def _reason(error: OSError) -> str:
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__  # of a name that is not found, or of a timeout
