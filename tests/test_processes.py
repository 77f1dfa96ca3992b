"""Several processes are one run: real processes on loopback, killed, stopped, started wrongly and again.

`tests/tiny.py` is the run, `tests/several_processes.py` what has no place in a run. How processes meet and what they
tell each other is tested in threads of this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxtl.devices import processes, rendezvous
from jaxtl.devices.peers import Team
from jaxtl.devices.rendezvous import Place, forward, free_port, meet
from jaxtl.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
TINY = (sys.executable, str(ROOT / "tests/tiny.py"), "--config.steps=24", "--config.every=6", "--config.batch_size=4")
SCENES = (sys.executable, str(ROOT / "tests/several_processes.py"))
LAUNCHERS = ("SLURM_", "OMPI_", "TPU_", "JAX_COORD")


# Real processes


@contextlib.contextmanager
def started(count: int, *command: str, cwd: Path, only: dict[int, str] | None = None) -> Iterator[list]:
    """The command as so many processes of one run, with one device each; none is left behind.

    Args:
        only: arguments of some of the processes.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(cwd / "private")}
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=1"  # of one flag the last is heard
    (cwd / "private").mkdir(exist_ok=True)
    port, pipe, running = free_port(), subprocess.PIPE, []
    with contextlib.ExitStack() as until_the_end:
        for index in range(count):
            team = [f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--process={index}"]
            words = [*command, *(team if count > 1 else []), *filter(None, [(only or {}).get(index)])]
            process = subprocess.Popen(words, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)
            until_the_end.enter_context(process)
            until_the_end.callback(process.kill)
            running.append(process)
        yield running


def ended(running: list) -> list[tuple[int, str, str]]:
    """The exit code of each, what it said on stdout and on stderr."""
    said = [process.communicate(timeout=60) for process in running]
    return [(process.returncode, *words) for process, words in zip(running, said, strict=True)]


def run(count: int, *command: str, cwd: Path, only: dict[int, str] | None = None) -> list[tuple[int, str, str]]:
    with started(count, *command, cwd=cwd, only=only) as running:
        return ended(running)


def wait_for(process: subprocess.Popen, line: str) -> None:
    for printed in process.stdout:
        if printed.startswith(line):
            return
    raise AssertionError(f"never printed {line!r}: {process.stderr.read()}")


def figures(workdir: Path) -> Any:
    return json.loads((workdir / "summary.json").read_text())


def numbers(tree: Any) -> np.ndarray:
    return np.asarray([leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, int | float)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the run, by its figures."""
    cwd = tmp_path_factory.mktemp("alone")
    [(code, _, err)] = run(1, *TINY, "--workdir=run", cwd=cwd)
    assert (code, err) == (0, "")
    return figures(cwd / "run")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Where two processes made the run, and what they said."""
    cwd = tmp_path_factory.mktemp("pair")
    return cwd, run(2, *TINY, "--config.mesh=data:2", "--workdir=run", cwd=cwd)


def assert_equal_to_one(result: Any, alone: Any) -> None:
    assert numbers(result).shape == numbers(alone).shape
    np.testing.assert_allclose(numbers(result), numbers(alone), rtol=1e-5, atol=1e-5)


def test_two_processes_are_one_run_and_the_first_writes(pair, alone):
    cwd, [(code, out, err), other] = pair
    assert (code, err) == (0, "")
    assert other == (0, "", "")
    assert "2 jax devices in 2 processes\n" in out
    assert "[Gloo]" not in out
    assert_equal_to_one(figures(cwd / "run"), alone)
    assert sorted(os.listdir(cwd)) == ["private", "run"]
    assert os.listdir(cwd / "private") == []


@pytest.mark.slow  # two are tested quickly
@pytest.mark.parametrize("mesh", ["data:4", "data:2,parameters:2"])
def test_four_processes_are_one_run(tmp_path, alone, mesh):
    ends = run(4, *TINY, f"--config.mesh={mesh}", "--workdir=run", cwd=tmp_path)
    assert [(code, err) for code, _, err in ends] == [(0, "")] * 4
    assert_equal_to_one(figures(tmp_path / "run"), alone)


@contextlib.contextmanager
def under_way(cwd: Path, count: int = 2) -> Iterator[list]:
    """The run when it begins to train."""
    command = (*TINY, f"--config.mesh=data:{count}", "--workdir=run")
    with started(count, *command, cwd=cwd) as running:
        wait_for(running[0], "training")
        yield running


def has_ended(lost: int, process: int, count: int) -> str:
    what = f"process {lost} of {count} has ended, and so does process {process}"
    return f"{what}; rerun the same command in all of them to go on\n"


def kill_and_see(running: list, lost: int) -> None:
    """Kill one process: each of the others ends within a minute (far less) with one line and a code of its own."""
    running[lost].kill()
    began = time.monotonic()
    for process, (code, _, err) in enumerate(ended(running)):
        if process != lost:
            assert (code, err) == (75, has_ended(lost, process, len(running)))
    assert time.monotonic() - began < 20


def test_a_run_that_was_stopped_and_killed_ends_like_an_undisturbed_one(pair, tmp_path):
    with under_way(tmp_path) as running:  # a signal to one process stops all, and everything is saved
        running[1].send_signal(signal.SIGTERM)
        (code, _, told), (other_code, _, asked) = ended(running)
    assert (code, other_code) == (143, 143)
    assert asked == "\nstopping at the end of this chunk; once more to quit at once\n"
    step = int(told.removeprefix("stopped at step ").removesuffix(" of 24; rerun the same command to go on\n"))
    assert (tmp_path / f"run/checkpoints/{step}/manifest.json").exists()
    for lost in (1, 0):
        with under_way(tmp_path) as running:
            kill_and_see(running, lost)
    with under_way(tmp_path) as running:
        assert [end[0] for end in ended(running)] == [0, 0]
    assert figures(tmp_path / "run") == figures(pair[0] / "run")


@pytest.mark.slow
@pytest.mark.parametrize("lost", range(4))
def test_one_of_four_is_killed(tmp_path, lost):
    with under_way(tmp_path, count=4) as running:
        kill_and_see(running, lost)


def test_what_only_the_first_can_see_ends_all_and_is_told_once(pair):
    cwd, _ = pair
    ends = run(2, *TINY, "--config.mesh=data:2", "--workdir=run", cwd=cwd)
    assert ends == [(0, (cwd / "run/summary.json").read_text() + "\n", ""), (0, "", "")]
    (code, _, told), other = run(2, *TINY, "--workdir=run", cwd=cwd)
    assert (code, other) == (2, (2, "", ""))
    assert "holds a run with another config" in told
    assert told.count("\n") == 2


def test_what_all_of_them_see_is_told_once(tmp_path):
    (code, _, told), other = run(2, *TINY, "--config.stepps=3", cwd=tmp_path)
    assert (code, other) == (2, (2, "", ""))
    assert told == "--config.stepps: unknown flag\n  did you mean --config.steps?\n"
    assert os.listdir(tmp_path) == ["private"]


def test_processes_that_were_started_differently_are_refused(tmp_path):
    (code, _, told), other = run(2, *TINY, cwd=tmp_path, only={1: "--config.steps=9"})
    assert (code, other) == (2, (2, "", ""))
    assert told.startswith("process 1 was started with another config, or has other code or versions, than process 0\n")
    assert os.listdir(tmp_path) == ["private"]


@pytest.mark.parametrize(
    ("scene", "code", "first_line", "last_line"),
    [
        ("refuses", 2, "process 1: {run}/photos: no such data", "  fetch them"),
        ("fails", 1, "process 1: Traceback (most recent call last):", "ZeroDivisionError: a bug"),
    ],
)
def test_what_one_of_the_others_meets_ends_all_and_is_told_by_the_first(tmp_path, scene, code, first_line, last_line):
    (first_code, _, told), other = run(2, *SCENES, f"--config.scene={scene}", "--workdir=run", cwd=tmp_path)
    assert (first_code, other) == (code, (code, "", ""))
    assert told.splitlines()[0] == first_line.format(run=tmp_path / "run")
    assert told.splitlines()[-1] == last_line
    assert os.listdir(tmp_path / "private") == []


def test_each_reads_its_share_of_the_data(tmp_path):
    (code, _, err), other = run(2, *SCENES, "--config.scene=shares", "--workdir=run", cwd=tmp_path)
    assert (code, err, other) == (0, "", (0, "", ""))
    assert json.loads((tmp_path / "run/summary.json").read_text()) == {"set": [4, 4], "batches": [[2, 2], [2, 2]]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """What one process makes of a sweep."""
    cwd = tmp_path_factory.mktemp("swept")
    command = (*SCENES, "--config.scene=sweeps", "--config.batching=loop", "--workdir=run")
    assert [end[0] for end in run(1, *command, cwd=cwd)] == [0]
    return figures(cwd / "run")


@pytest.mark.parametrize(
    "batching", ["loop", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vmap", "auto"))]
)
def test_a_sweep_is_dealt_out_and_goes_on_where_it_was_stopped(tmp_path, swept, batching):
    command = (*SCENES, "--config.scene=sweeps", f"--config.batching={batching}", "--workdir=run")
    told = "stopped with 2 of 7 configurations done; rerun the same command to go on\n"
    if batching == "loop":
        ends = run(2, *command, "--config.stop_after=2", cwd=tmp_path)
        assert ends[0][::2] == (143, told)
        assert ends[1] == (143, "", "")
    assert [(code, err) for code, _, err in run(2, *command, cwd=tmp_path)] == [(0, ""), (0, "")]
    result = figures(tmp_path / "run")
    assert (result["alive"], swept["alive"]) == ([1, 2, 3], [1, 2, 3])
    np.testing.assert_allclose(numbers(result["scores"]), numbers(swept["scores"]), rtol=1e-5)
    np.testing.assert_allclose(numbers(result["states"]), numbers(swept["states"]), rtol=1e-5)
    if batching == "loop":
        assert swept["blocks"] == [7] * 7 + [3] * 3
        assert result["blocks"] == [7] * 3 + [3] * 2  # and one before it was stopped: two configurations at a time


# How they meet and talk: threads stand for processes


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """What each returns or raises when all of them run at the same time."""
    found: list[Any] = [None] * len(actions)

    def act(number: int) -> None:
        try:
            found[number] = actions[number]()
        except InputError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def meeting_of(*numbers: tuple[int, int], patience: float = 10.0, port: int = 0) -> list[Any]:
    """What comes of a meeting of (process, of so many)."""
    port = port or free_port()
    return at_once(*(lambda n=n: meet(Place("127.0.0.1", port, n[1], n[0]), patience) for n in numbers))


@pytest.fixture
def teams():
    """Three processes that have met."""
    met = meeting_of((2, 3), (0, 3), (1, 3))
    found = [Team(number, 3, met[at].connections) for at, number in enumerate((2, 0, 1))]
    yield found[1], found[2], found[0]
    for team in found:  # so that none takes the end of another for its loss
        team.ending = True
        team.ends = dict.fromkeys(team.lines, (0, ""))
    for team in found:
        for line in team.lines.values():
            line.connection.close()


def test_they_meet_in_any_order_and_know_their_neighbours():
    met = meeting_of((2, 3), (1, 3), (0, 3))
    assert [sorted(one.connections) for one in met] == [[0], [0], [1, 2]]
    assert len({one.service for one in met}) == 1
    assert [one.neighbours for one in met] == [3, 3, 3]
    for one in met:
        for connection in one.connections.values():
            connection.close()


def test_a_stranger_is_passed_over():
    port = free_port()

    def call() -> None:
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n")
            assert stranger.recv(1) == b""  # hung up on

    def second() -> Any:
        time.sleep(0.6)
        return meet(Place("127.0.0.1", port, 2, 1), 10)

    first, _, other = at_once(lambda: meet(Place("127.0.0.1", port, 2, 0), 10), call, second)
    assert list(first.connections) == [1]
    assert list(other.connections) == [0]
    for one in (first, other):
        for connection in one.connections.values():
            connection.close()


def test_a_process_that_was_started_again_takes_its_place():
    port = free_port()

    def left() -> None:
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(b'{"process": 1, "processes": 3, "host": "here"}\n')
            time.sleep(0.3)

    def call(number: int, after: float) -> Any:
        time.sleep(after)
        return meet(Place("127.0.0.1", port, 3, number), 10)

    first, _, *others = at_once(lambda: call(0, 0), left, lambda: call(1, 0.9), lambda: call(2, 1.0))
    assert sorted(first.connections) == [1, 2]
    for one in (first, *others):
        for connection in one.connections.values():
            connection.close()


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([(0, 2), (1, 3)], "process 1 counts 3 processes, and process 0 counts 2"),
        ([(0, 3), (1, 3), (1, 3)], "two processes are number 1"),
        ([(0, 2), (0, 2)], "cannot wait here: Address already in use"),
    ],
)
def test_processes_that_count_differently_are_all_told(numbers, told):
    found = [text for text in meeting_of(*numbers, patience=2.0) if isinstance(text, str)]
    assert found
    assert all(text.count("\n") == 1 for text in found)
    assert sum(told in text for text in found) == (1 if "Address" in told else len(numbers))


def test_one_that_never_comes_and_a_first_that_is_not_there():
    port = free_port()
    [told] = meeting_of((0, 3), patience=0.3, port=port)
    where = f"--coordinator=127.0.0.1:{port}"
    assert told.startswith(f"{where}: of 3 processes these did not come within 0 s: 1, 2\n  start them all")
    [told] = meeting_of((1, 2), patience=0.3, port=port)
    assert told.startswith(f"{where}: not reached within 0 s: Connection refused\n  start process 0")
    [told] = at_once(lambda: meet(Place("nowhere.invalid", port, 2, 1), 0.3))
    assert told.startswith(f"--coordinator=nowhere.invalid:{port}: not reached within 0 s: ")


def test_a_port_of_someone_else_is_told(monkeypatch):
    monkeypatch.setattr(rendezvous, "HELLO", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        [told] = meeting_of((0, 2), port=port)
        assert told.startswith(f"--coordinator=127.0.0.1:{port}: cannot wait here: Address already in use\n  choose")
        [told] = meeting_of((1, 2), port=port, patience=0.3)
        assert "not reached within" in told


def test_they_agree_on_the_largest_and_hear_what_the_first_has(teams):
    assert (
        at_once(*(lambda team=team, v=v: team.agree(v) for team, v in zip(teams, (0, 15, 2), strict=True))) == [15] * 3
    )
    pieces = [b"a" * 3_000_000, b"", b"bc"]
    heard = at_once(*(lambda team=team: list(team.broadcast(pieces)) for team in teams))
    assert heard == [[pieces[0], pieces[2]]] * 3


def test_the_end_is_that_of_one_that_failed_and_the_same_words_are_said_once(teams, capsys):
    first, second, third = teams
    codes = at_once(lambda: third.end(2, "at /b: no data"), lambda: second.end(0, ""), lambda: first.end(0, ""))
    assert codes == [2, 2, 2]
    assert capsys.readouterr().err == "process 2: at /b: no data\n"


def test_the_same_words_are_said_once(teams, capsys):
    first, second, third = teams

    def last() -> int:
        time.sleep(0.3)
        return first.end(3, "the loss is nan")

    assert at_once(*(lambda t=t: t.end(3, "the loss is nan") for t in (second, third)), last) == [3, 3, 3]
    assert capsys.readouterr().err == "the loss is nan\n"


def test_the_end_of_a_service_elsewhere_is_not_seen_here():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = forward("127.0.0.1", server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port)) as client:
            service, _ = server.accept()
            client.sendall(b"question")
            assert service.recv(100) == b"question"
            service.sendall(b"answer")
            assert client.recv(100) == b"answer"
            service.close()
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"process": 1}, "--coordinator, --processes: missing\n  give all of --coordinator, --processes, --process"),
        (("node1", 2, 0), "--coordinator: 'node1' is not HOST:PORT\n  for example node1:8476"),
        (("node1:0", 2, 0), "--coordinator: 'node1:0' is not HOST:PORT"),
        (("node1:x", 2, 0), "--coordinator: 'node1:x' is not HOST:PORT"),
        (("node1:80", 0, 0), "--processes: 0 processes\n  use a number >= 1"),
        (("node1:80", 2, 2), "--process: 2 of 2 processes\n  use 0 to 1"),
        (("node1:80", 2, -1), "--process: -1 of 2 processes\n  use 0 to 1"),
    ],
)
def test_wrong_arguments(arguments, told):
    with pytest.raises(InputError) as error:
        processes.join(**arguments) if isinstance(arguments, dict) else processes.join(*arguments)
    assert str(error.value).startswith(told)


def test_a_wrong_flag_is_told_before_anything_happens(tmp_path):
    [(code, out, told)] = run(1, *TINY, "--processes=two", cwd=tmp_path)
    assert (code, out, told) == (2, "", "--processes: 'two' is not a whole number\n")


def test_alone_nothing_happens(monkeypatch):
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(processes, "meet", None)  # not callable
    processes.join()
    processes.join("nowhere.invalid:80", 1, 0)
    assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
    assert processes.agreed(15) == 15
    assert list(processes.broadcast([b"a", b"b"])) == [b"a", b"b"]


def slurm(monkeypatch, count: int) -> None:
    names = {
        "JOB_ID": "4096001",
        "STEP_NODELIST": "node[07-08,11]",
        "NTASKS": str(count),
        "PROCID": "1",
        "LOCALID": "0",
    }
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_slurm_tells_who_is_where(monkeypatch):
    asked = []
    monkeypatch.setattr(processes, "meet", lambda place, patience: asked.append(place) or refuse())

    def refuse():
        raise InputError("far enough")

    slurm(monkeypatch, 1)
    processes.join()  # a job of one task
    assert asked == []
    slurm(monkeypatch, 2)
    with pytest.raises(InputError, match="far enough"):
        processes.join()
    assert asked == [Place("node07", 61440 + 4096001 % 4096, 2, 1)]
    monkeypatch.setenv("SLURM_PROCID", "9")
    with pytest.raises(InputError, match="slurm: does not say clearly where the processes are: --process: 9 of 2"):
        processes.join()
