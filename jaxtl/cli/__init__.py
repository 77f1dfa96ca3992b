"""The command line of an experiment: flags, banner, run directory, signals and exit codes.

An experiment file ends with

    if __name__ == "__main__":
        cli.run(main, Config)

where `Config` is a plain dataclass (see `jaxtl.cli.flags`) and `main(config, workdir)` does the work.

Exit codes: 0 done; 1 a bug (only then a traceback); 2 the user's input; 3 a loss that is not finite; 130 and 143
interrupted and saved; 141 nobody reads the output any more; 75 another process of the run has ended (`processes`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import inspect
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from jaxtl import checkpoints, loop
from jaxtl.bounds import (
    Chunk,
    Count,
    Counts,
    Draws,
    Ends,
    Folds,
    Items,
    Mesh,
    Names,
    OneOf,
    Pair,
    PairedDraws,
    Place,
    Points,
    Positive,
    Rate,
    Rates,
    Seed,
    Share,
    Sizes,
    Span,
    Steps,
    Text,
    Trials,
    Width,
    Widths,
    Within,
    Words,
    check,
    refuse_beyond_memory,
    refuse_too_many_runs,
)
from jaxtl.cli import flags, page, publish, replicas, workdir
from jaxtl.cli.flags import command
from jaxtl.cli.workdir import directory_of
from jaxtl.cluster import Site
from jaxtl.devices import backend, processes
from jaxtl.errors import InputError, Interrupted, Stop
from jaxtl.files import resolved
from jaxtl.protocol import executors
from jaxtl.protocol.runs import identity
from jaxtl.terminal import Terminal
from jaxtl.text import printable

FULL = (errno.ENOSPC, errno.EDQUOT)
Main = Callable[[Any, Path], None]

__all__ = [
    "Chunk",
    "Count",
    "Counts",
    "Draws",
    "Ends",
    "Folds",
    "Items",
    "Mesh",
    "Names",
    "OneOf",
    "Pair",
    "PairedDraws",
    "Place",
    "Points",
    "Positive",
    "Rate",
    "Rates",
    "Seed",
    "Share",
    "Sizes",
    "Span",
    "Steps",
    "Text",
    "Trials",
    "Width",
    "Widths",
    "Within",
    "Words",
    "carried_out",
    "check",
    "command",
    "directory_of",
    "execute",
    "guarded",
    "header",
    "identity",
    "refuse_beyond_memory",
    "refuse_too_many_runs",
    "run",
]


def run(main: Main, config_class: type) -> NoReturn:
    """Run an experiment from the command line and leave the process with its exit code."""
    code = execute(main, config_class, sys.argv[1:], forked=main.__module__ != "__main__")
    processes.leave(code)
    sys.exit(code)


def execute(main: Main, config_class: type, argv: Sequence[str], *, forked: bool = False) -> int:
    """Run an experiment: the same command again resumes an unfinished run and prints the summary of a finished one.

    Args:
        main: main(config, workdir) does the work; it polls for signals through `loop`, and writes summary.json last.
        config_class: a flat dataclass with every default visible.
        argv: the arguments after the program's name.
        forked: `main` is that of another file than the one that was started.

    Returns:
        The exit code. An exception that is not a `Stop` is a bug and passes through.
    """
    if any(argument in flags.HELP for argument in argv):
        return guarded(lambda: print(flags.help_text(main, config_class, _default_workdir(main))))
    return guarded(lambda: carried_out(main, config_class, argv, forked))


def header(experiment: str, config: Any, started: float, **more: Any) -> dict[str, Any]:
    """What every summary begins with: which experiment, on what, by which command, in how many minutes.

    Args:
        experiment: name of the module in `experiments`.
        config: as `main` gets it.
        started: `time.perf_counter()` when the work began.
        more: "data" in words, "notice", and what else is worth keeping.
    """
    return {
        "experiment": experiment,
        **more,
        "command": command(experiment, config),
        "device": backend.describe_device(),
        "versions": backend.versions(),
        "minutes": (time.perf_counter() - started) / 60,
        "config": dataclasses.asdict(config),
        "glossary": getattr(config, "glossary", {}),
    }


def guarded(work: Callable[[], None]) -> int:
    """Do the work; a `Stop` becomes its message on stderr and its exit code. The first of several processes says it."""
    try:
        work()
        sys.stdout.flush()
    except Stop as stop:
        anew = " without --overwrite" if any(word.lstrip("-") == "overwrite" for word in sys.argv) else ""
        again = f"; rerun the same command{anew} to go on" if isinstance(stop, Interrupted) else ""
        return processes.end(stop.exit_code, replicas.as_seen_by_the_first(f"{stop}{again}"))
    except KeyboardInterrupt:  # before or after the part of a run that saves
        return processes.end(128 + signal.SIGINT)
    except (BrokenPipeError, SystemExit):  # whoever read the output has left, as `| head` does; rich says it with 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return processes.end(128 + signal.SIGPIPE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            return processes.end(InputError.exit_code, replicas.as_seen_by_the_first(_full(error)))
        if processes.count() == 1:
            raise
        return processes.end(1, replicas.as_seen_by_the_first(traceback.format_exc().rstrip()))
    return processes.end(0)


def _full(error: OSError) -> str:
    """What to say where a disk is full, be it that of the log: stdout may hold words that will never be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return str(InputError(str(error.strerror), where=error.filename or "", todo="free some space, then run again"))


def _default_workdir(main: Main) -> str:
    return f"runs/{Path(inspect.getfile(main)).stem}"


def carried_out(main: Main, config_class: type, argv: Sequence[str], forked: bool = False, typed: str = "") -> None:
    """The work of `execute`, whose arguments it takes; what stops it passes through.

    Args:
        typed: the command line as it was given, where that is not the experiment's name and `argv`.
    """
    team, argv = flags.team(argv)
    processes.join(**team)
    replicas.mute_all_but_first()
    request = flags.parse(config_class, argv, _default_workdir(main))
    experiment = Path(inspect.getfile(main)).resolve()
    if request.cluster and processes.count() > 1:
        what, todo = "is for a run of one process", "leave out --coordinator, or --cluster"
        raise InputError(what, where="--cluster", todo=todo)
    if request.cluster:
        request.cluster.check()
    if request.publish:
        publish.check(experiment, forked)
    now = workdir.Record.of(experiment, request.config)
    replicas.refuse_different(now)
    may_change = getattr(config_class, "may_change", ())
    backend.use_compilation_cache()
    typed = typed or " ".join([now.experiment, *argv])
    own = _directory(request, now, typed, may_change) if processes.is_first() else replicas.copy_of_directory()
    with own as directory:
        if directory is not None:
            with _stop_on_signals(), _elsewhere(request.cluster):
                main(request.config, directory)
    if request.publish and processes.is_first():
        for path in publish.write(experiment, inspect.getmodule(main).__doc__ or "", resolved(request.workdir), now):
            print(printable(f"wrote {path}"))


@contextlib.contextmanager
def _elsewhere(site: Site | None) -> Iterator[None]:
    """Units of work are made there; here where none is named."""
    if site is None:
        yield
        return
    from jaxtl.cluster.pool import joined  # needs an extra

    with joined(site) as pool, executors.using(pool):
        yield


@contextlib.contextmanager
def _directory(
    request: flags.Request, now: workdir.Record, typed: str, may_change: Sequence[str]
) -> Iterator[Path | None]:
    """The run's directory, ready for work; None if the run is finished, which prints its summary."""
    directory = resolved(request.workdir)
    earlier = workdir.read(directory)
    resumed = earlier if earlier and not request.overwrite else None
    changed = resumed is not None and workdir.differs(directory, resumed, now, may_change)
    finished = resumed is not None and not changed and workdir.is_finished(directory)
    damaged = workdir.damaged(directory, resumed, now) if resumed and finished else []
    if resumed and finished and not damaged:
        page.show(workdir.summary(directory, resumed, now).rstrip())
        replicas.send_directory(None)
        yield None
        return
    with checkpoints.own(directory):  # first of all, so that no one loses a run that is under way
        if earlier and not resumed:
            workdir.clear(directory)
        if changed or damaged or not resumed:
            workdir.start(directory, now)
        _print_banner(now, typed, f"{request.workdir} (resuming)" if resumed else request.workdir)
        if damaged:
            print(printable(f"{', '.join(damaged)}: not what the run wrote; made again from what it has kept"))
        replicas.send_directory(directory)
        try:
            yield directory
        except InputError:
            workdir.forget_nothing(directory)
            raise
        workdir.finish(directory, now)


def _print_banner(now: workdir.Record, typed: str, directory: str) -> None:
    console = Terminal(soft_wrap=True)
    console.print(typed, style="bold")
    console.print(f"device    {backend.describe_device()}")
    console.print(f"speed     {backend.describe_speed()}")
    console.print(f"versions  {', '.join(f'{name} {version}' for name, version in now.versions.items())}")
    console.print(f"workdir   {directory}")


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the loop to stop at the end of its chunk; the second ends the process."""

    def handle(number: int, frame: FrameType | None) -> None:
        if loop.stop_request.signal_number is not None:
            os._exit(128 + number)
        loop.request_stop(number)
        # os.write: a handler may run in the middle of a print, which must not be entered twice
        os.write(2, b"\nstopping at the end of this chunk; once more to quit at once\n")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        loop.stop_request.signal_number = None
        for number, handler in previous.items():
            signal.signal(number, handler)
