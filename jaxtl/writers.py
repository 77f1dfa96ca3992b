"""What a run says while it goes: metrics.jsonl and TensorBoard files for later, a progress display for now."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl import files
from jaxtl.errors import InputError
from jaxtl.text import printable

SHORT = 2.0  # seconds; work that is over sooner needs no lines
EVERY = 10.0  # seconds between two lines


class Writer:
    """Scalars of a run: a JSON line a step in workdir/metrics.jsonl, and TensorBoard files in workdir/tensorboard.

    The lines are strict JSON, which every reader takes: a value that is not finite is written as null. A line is
    handed to the system at once, so a killed process loses none. Call `rewind` before the first `write` of a run.

    Args:
        workdir: directory of the run; None writes nothing.
        tensorboard: whether to write TensorBoard files as well.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as workdir:
        ...     with Writer(workdir, tensorboard=False) as writer:
        ...         writer.write(1, {"loss": 0.5})
        ...     (Path(workdir) / "metrics.jsonl").read_text()
        '{"step": 1, "loss": 0.5}\\n'
    """

    def __init__(self, workdir: str | Path | None = None, tensorboard: bool = True):
        self._workdir = None if workdir is None else Path(workdir)
        self._with_tensorboard = tensorboard
        self._resumed_at: int | None = None
        self._lines: files.Lines | None = None
        self._events: files.Lines | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of one step.

        Raises:
            InputError: a value called "step", or a file that cannot be written.
        """
        if "step" in values:
            raise InputError("a metric cannot be called 'step'", where="metrics", todo="choose another name")
        if self._workdir is None:
            return
        numbers = {name: float(value) for name, value in values.items()}
        strict = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        if self._lines is None:
            self._lines = self._open(self._workdir)
        self._lines.write(json.dumps({"step": int(step), **strict}, allow_nan=False).encode() + b"\n")
        if self._events is not None:
            self._events.write(_event(step=int(step), summary=_summary(strict)))

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`, and a last line that a killed process left unfinished.

        A run resumed from step s calls rewind(s), a new one rewind(-1): then no step stands twice and none is missing.

        Raises:
            InputError: metrics.jsonl holds a line that is none of ours, or cannot be rewritten.
        """
        self.close()
        self._resumed_at = step
        if self._workdir is None:
            return
        path = self._workdir / "metrics.jsonl"
        lines = files.lines(path)
        kept = [line for number, line in enumerate(lines, 1) if _step_of(line, f"{path}:{number}") <= step]
        if len(kept) < len(lines):
            files.write(path, b"".join(line + b"\n" for line in kept))

    def close(self) -> None:
        """Close the files; the next `write` opens them again."""
        opened = (self._lines, self._events)
        self._lines = self._events = None
        for file in filter(None, opened):
            file.close()

    def _open(self, workdir: Path) -> files.Lines:
        lines = files.Lines(workdir / "metrics.jsonl")
        if self._with_tensorboard:
            from tensorboardX.proto.event_pb2 import SessionLog

            # tensorboardX's own writer waits for the disk at every flush, or keeps two minutes in memory.
            self._events = files.Lines(workdir / "tensorboard" / f"events.out.tfevents.{time.time_ns()}")
            self._events.write(_event(file_version="brain.Event:2"))
            if self._resumed_at is not None:  # TensorBoard hides what older files hold from this step on
                log = SessionLog(status=SessionLog.START)
                self._events.write(_event(step=self._resumed_at + 1, session_log=log))
        return lines


class Progress:
    """How far long work is: a bar on a terminal; elsewhere a line every ten seconds and one at the end.

    Both go to stdout, beside the tables of the run, so that a log file tells the whole story in its order; stderr is
    for warnings and errors. Off a terminal, work that takes less than two seconds says nothing.

    Args:
        total: how many steps there are in all.
        description: what the work is, "train".
        start: how many were done before; the time left is estimated from the others.

    Example:
        >>> with Progress(3, "train") as progress:
        ...     for loss in (0.9, 0.5, 0.3):
        ...         progress.advance(1, loss=loss)
    """

    def __init__(self, total: int, description: str, start: int = 0):
        self._total, self._description = total, printable(description)
        self._done = start
        self._pace: tuple[float, int] | None = None  # when and where the first steps ended, which compile the program
        self._values = ""
        self._bar: Any = None

    def __enter__(self) -> Progress:
        from jaxtl.terminal import Terminal

        self._began = self._told = time.monotonic()
        console = Terminal()
        if console.is_terminal:
            self._bar = _bar(console)
            self._task = self._bar.add_task(self._description, total=self._total, completed=self._done, values="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif time.monotonic() - self._began >= SHORT:
            self._tell()

    def advance(self, n: int = 1, **values: float) -> None:
        """n more steps are done; `values` are shown beside them until the next ones."""
        self._done += n
        if self._pace is None and n:
            self._pace = time.monotonic(), self._done
        self._values = ", ".join(f"{printable(name)} {float(value):.4g}" for name, value in values.items())
        self._show()

    def describe(self, description: str) -> None:
        """Call the work something else: "l2 trial 3/8"."""
        self._description = printable(description)
        self._show()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self._description, values=self._values)
        elif time.monotonic() - self._told >= EVERY:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        elapsed = self._told - self._began
        parts = [f"{self._description}: {self._done}/{self._total}", f"{_duration(elapsed)} elapsed"]
        if self._pace is not None and self._pace[1] < self._done < self._total:
            left = (self._told - self._pace[0]) / (self._done - self._pace[1]) * (self._total - self._done)
            parts.append(f"{_duration(left)} left")
        print(", ".join(filter(None, [*parts, self._values])), flush=True)


def _event(**fields: Any) -> bytes:
    """One record of a TensorBoard file: length, its checksum, event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content = Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(content))
    return b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (length, content))


def _summary(values: Mapping[str, float | None]) -> Any:
    """The values of one step for TensorBoard, which has no null: what is not finite is left out."""
    from tensorboardX.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=name, simple_value=x) for name, x in values.items() if x is not None])


def _bar(console: Any) -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[values]}", markup=False),
        console=console,
    )


def _duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> _duration(12.4), _duration(200), _duration(4000)
        ('12 s', '3 min 20 s', '1 h 06 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _step_of(line: bytes, where: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        raise InputError("is not a line of metrics", where=where, todo="mend or delete this line") from None
