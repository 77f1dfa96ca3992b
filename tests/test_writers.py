"""What a run leaves behind is readable by others, complete, and without doubles; what it shows is short."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxtl import writers
from jaxtl.errors import InputError
from jaxtl.writers import Progress, Writer


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def lines(workdir: Path) -> list[dict]:
    """A strict reader, which Python's own is not."""
    text = (workdir / "metrics.jsonl").read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def events(workdir: Path) -> list:
    """TensorBoard's files, oldest first, by the format's definition: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda path: path.name):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


# metrics.jsonl


def test_a_line_is_in_the_file_at_once(tmp_path):
    with Writer(tmp_path) as writer:
        writer.write(1, {"loss": 0.5, "accuracy": np.float32(0.25)})
        assert lines(tmp_path) == [{"step": 1, "loss": 0.5, "accuracy": 0.25}]
        writer.write(np.int32(2), {"loss": jnp.float32(0.125)})
        assert lines(tmp_path)[1:] == [{"step": 2, "loss": 0.125}]


def test_what_is_not_finite_becomes_null_and_says_nothing(tmp_path, capfd):
    with Writer(tmp_path) as writer:
        writer.write(1, {"a": float("nan"), "b": float("inf"), "c": -1.5})
    assert lines(tmp_path) == [{"step": 1, "a": None, "b": None, "c": -1.5}]
    assert capfd.readouterr() == ("", "")


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Writer() as writer:
        writer.rewind(3)
        writer.write(4, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_has_every_step_once(tmp_path):
    with Writer(tmp_path, tensorboard=False) as writer:
        writer.rewind(-1)
        for step in range(8):
            writer.write(step, {"loss": step / 2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # the process was killed here
    with Writer(tmp_path, tensorboard=False) as writer:
        writer.rewind(4)
        assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4]
        for step in range(5, 10):
            writer.write(step, {"loss": step / 2})
    assert lines(tmp_path) == [{"step": step, "loss": step / 2} for step in range(10)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_rewinding_in_the_middle_goes_on_in_the_same_file(tmp_path):
    with Writer(tmp_path, tensorboard=False) as writer:
        for step in (1, 2):
            writer.write(step, {})
        writer.rewind(1)
        writer.write(2, {"again": 1})
    assert lines(tmp_path) == [{"step": 1}, {"step": 2, "again": 1.0}]


def test_a_new_run_forgets_the_old_one(tmp_path):
    with Writer(tmp_path, tensorboard=False) as writer:
        writer.write(0, {"loss": 1})
        writer.rewind(-1)
    assert lines(tmp_path) == []


@pytest.mark.parametrize("line", ["not json", "[1]", '{"loss": 1}', '{"step": null}'])
def test_a_foreign_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: is not a line of metrics"):
        Writer(tmp_path).rewind(1)
    assert line in (tmp_path / "metrics.jsonl").read_text()


def test_failures_are_told_in_two_lines(tmp_path):
    with pytest.raises(InputError, match="cannot be called 'step'"):
        Writer(tmp_path).write(1, {"step": 2})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"metrics\.jsonl: cannot be written") as error:
        Writer(tmp_path / "file").write(1, {"loss": 1})
    assert len(str(error.value).splitlines()) <= 2


def test_a_full_disk_is_told_in_two_lines(tmp_path, monkeypatch):
    put, left = os.write, [7]

    def full(opened, content):
        if not left:
            raise OSError(28, "No space left on device")
        return put(opened, content[: left.pop()])

    with Writer(tmp_path) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 1})
        monkeypatch.setattr(os, "write", full)
        for work in (lambda: writer.write(3, {"loss": 1}), lambda: writer.rewind(1)):
            with pytest.raises(InputError, match="No space left on device"):
                work()
            assert lines(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}]


# TensorBoard


def test_tensorboard_gets_the_same_numbers_at_once(tmp_path):
    with Writer(tmp_path) as writer:
        writer.write(3, {"loss": 0.5, "worse": float("nan")})
        writer.write(4, {"loss": 0.25})
        scalars = [(event.step, v.tag, v.simple_value) for event in events(tmp_path) for v in event.summary.value]
    assert scalars == [(3, "loss", 0.5), (4, "loss", 0.25)]


def test_tensorboard_hides_what_a_resumed_run_repeats(tmp_path):
    for last in (-1, 1):  # within one second: the files must not overwrite each other
        with Writer(tmp_path) as writer:
            writer.rewind(last)
            for step in range(last + 1, 4):
                writer.write(step, {"loss": step + 10 * (last + 1)})
    shown: dict[int, float] = {}
    for event in events(tmp_path):
        if event.HasField("session_log"):  # SessionLog.START: TensorBoard purges what stands at this step or later
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            assert event.step not in shown
            shown[event.step] = value.simple_value
    assert shown == {0: 0, 1: 1, 2: 22, 3: 23}


def test_tensorboard_is_loaded_only_when_it_is_used(tmp_path):
    code = (
        "import sys; from jaxtl.writers import Writer, Progress\n"
        "with Writer(sys.argv[1], tensorboard=False) as writer: writer.write(1, {'loss': 1.0})\n"
        "assert not {'tensorboardX', 'rich', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert not (tmp_path / "tensorboard").exists()


# Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""
    now = [100.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_short_work_says_nothing(clock, capfd):
    with Progress(3, "train") as progress:
        for _ in range(3):
            clock(0.6)
            progress.advance(1, loss=1.0)
    assert capfd.readouterr() == ("", "")


def test_long_work_says_a_line_every_ten_seconds_and_one_at_the_end(clock, capfd):
    with Progress(600, "train") as progress:
        for second in range(25):
            clock(1)
            progress.advance(24, loss=1 / (second + 1), accuracy=0.5)
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        "train: 240/600, 10 s elapsed, 15 s left, loss 0.1, accuracy 0.5",
        "train: 480/600, 20 s elapsed, 5 s left, loss 0.05, accuracy 0.5",
        "train: 600/600, 25 s elapsed, loss 0.04, accuracy 0.5",
    ]
    assert err == ""


def test_the_time_left_of_a_resumed_run_counts_its_own_steps(clock, capfd):
    with Progress(1000, "train", start=900) as progress:
        clock(1)
        progress.advance(25)
        clock(10)
        progress.advance(50)
    assert capfd.readouterr().out.splitlines()[0] == "train: 975/1000, 11 s elapsed, 5 s left"


def test_the_first_steps_which_compile_tell_nothing_of_the_time_left(clock, capfd):
    with Progress(1000, "train") as progress:
        clock(60)  # until the program is compiled
        progress.advance(10)
        for _ in range(3):
            clock(10)
            progress.advance(100)
    assert capfd.readouterr().out.splitlines() == [
        "train: 10/1000, 1 min 00 s elapsed",
        "train: 110/1000, 1 min 10 s elapsed, 1 min 29 s left",
        "train: 210/1000, 1 min 20 s elapsed, 1 min 19 s left",
        "train: 310/1000, 1 min 30 s elapsed, 1 min 09 s left",
        "train: 310/1000, 1 min 30 s elapsed, 1 min 09 s left",
    ]


def test_the_description_may_change_and_an_error_leaves_the_last_line(clock, capfd):
    def work() -> None:
        with Progress(8, "l2") as progress:
            clock(3)
            progress.advance()
            progress.describe("l2 trial 2/8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capfd.readouterr().out == "l2 trial 2/8: 1/8, 3 s elapsed\n"


def test_a_terminal_gets_a_bar(monkeypatch, capfd):
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(4, "l2 [trial 1]", start=1) as progress:
        progress.advance(1, loss=0.25)
        progress.describe("l2 [trial 2]")
        progress.advance(2, loss=0.125)
    out, err = capfd.readouterr()
    assert "l2 [trial 2]" in out
    assert "4/4" in out
    assert "loss 0.125" in out
    assert err == ""
