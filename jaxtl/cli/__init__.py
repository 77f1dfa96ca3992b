"""The command line of an experiment: flags, banner, run directory, signals and exit codes.

An experiment file ends with

    if __name__ == "__main__":
        cli.run(main, Config)

where `Config` is a plain dataclass (see `jaxtl.cli.flags`) and `main(config, workdir)` does the work.

Exit codes: 0 done; 1 a bug (only then a traceback); 2 the user's input; 3 a loss that is not finite; 130 and 143
interrupted and saved; 141 nobody reads the output any more.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from jaxtl import backend, checkpoints, loop
from jaxtl.cli import flags, workdir
from jaxtl.cli.flags import command
from jaxtl.errors import InputError, Interrupted, Stop

Main = Callable[[Any, Path], None]

__all__ = ["command", "execute", "guarded", "run"]


def run(main: Main, config_class: type) -> NoReturn:
    """Run an experiment from the command line and leave the process with its exit code."""
    sys.exit(execute(main, config_class, sys.argv[1:]))


def execute(main: Main, config_class: type, argv: Sequence[str]) -> int:
    """Run an experiment: the same command again resumes an unfinished run and prints the summary of a finished one.

    Args:
        main: main(config, workdir) does the work; it polls for signals through `loop`, and writes summary.json last.
        config_class: a flat dataclass with every default visible.
        argv: the arguments after the program's name.

    Returns:
        The exit code. An exception that is not a `Stop` is a bug and passes through.
    """
    if any(argument in flags.HELP for argument in argv):
        print(flags.help_text(main, config_class, _default_workdir(main)))
        return 0
    return guarded(lambda: _execute(main, config_class, argv))


def guarded(work: Callable[[], None]) -> int:
    """Do the work; a `Stop` becomes its message on stderr and its exit code."""
    try:
        work()
    except Stop as stop:
        print(f"{stop}; rerun the same command to go on" if isinstance(stop, Interrupted) else stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:  # before or after the part of a run that saves
        return 128 + signal.SIGINT
    except (BrokenPipeError, SystemExit):  # whoever read the output has left, as `| head` does; rich says it with 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


def _default_workdir(main: Main) -> str:
    return f"runs/{Path(inspect.getfile(main)).stem}"


def _execute(main: Main, config_class: type, argv: Sequence[str]) -> None:
    request = flags.parse(config_class, argv, _default_workdir(main))
    directory = Path(request.workdir).expanduser().resolve()
    now = workdir.Record.of(Path(inspect.getfile(main)).resolve(), request.config)
    earlier = workdir.read(directory)
    resumed = earlier if earlier and not request.overwrite else None
    changed = resumed is not None and workdir.differs(directory, resumed, now, getattr(config_class, "may_change", ()))
    if resumed and not changed and workdir.is_finished(directory):
        print(workdir.summary(directory, resumed, now).rstrip())
        return
    with checkpoints.own(directory):  # first of all, so that no one loses a run that is under way
        if earlier and not resumed:
            workdir.clear(directory)
        if changed or not resumed:
            workdir.start(directory, now)
        _print_banner(now, argv, f"{request.workdir} (resuming)" if resumed else request.workdir)
        backend.use_compilation_cache()
        with _stop_on_signals():
            try:
                main(request.config, directory)
            except InputError:
                workdir.forget_nothing(directory)
                raise


def _print_banner(now: workdir.Record, argv: Sequence[str], directory: str) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(" ".join([now.experiment, *argv]), style="bold")
    console.print(f"device    {backend.describe_device()}")
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
