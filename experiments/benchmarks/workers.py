"""Processes that are measured: started with or without huge pages, and asked in lines of JSON.

Nothing but the standard library is imported here, since every side of a comparison is such a process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PAUSE = 0.05  # seconds: threads look for more work for a while before they leave the cores to other processes
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
# jax and PyTorch share one accelerator here; each would take most of its memory at once, this process too
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class Worker:
    """A process that runs a module of this folder, for as long as the `with` block.

    Args:
        module: its name; it ends in `serve`.
        arguments: of its command line.
        huge_pages: whether malloc asks for them (glibc 2.35 and later; elsewhere no difference). A process reads this
            once, when it starts.
        environment: further variables.
        under: a command that runs it and counts.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        huge_pages: bool = True,
        environment: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ):
        self.command = [*under, sys.executable, "-m", f"experiments.benchmarks.{module}", *arguments]
        malloc = f"glibc.malloc.hugetlb={int(huge_pages)}"
        self.environment = {**os.environ, "GLIBC_TUNABLES": malloc, **(environment or {})}

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; it ends when its input does
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def ask(self, question: str, **details: Any) -> Any:
        """The answer, waited for.

        Raises:
            RuntimeError: the process has ended instead; what it had to say is on stderr.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = ""
        try:
            self.process.stdin.write(json.dumps([question, details]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            self.process.stdin = None  # what is left in it cannot be flushed
        if not line:
            raise RuntimeError(f"{' '.join(self.command[1:])} ended with {self.process.wait()}")
        return json.loads(line)

    def ask_again(self, question: str, **details: Any) -> Any:
        """The second of two answers, after a pause: what a process has to get back when it has waited, memory above
        all, is not what is measured, nor what the threads of another one keep from it."""
        time.sleep(PAUSE)
        self.ask(question, **details)
        return self.ask(question, **details)


def serve(**answers: Callable[..., Any]) -> None:
    """The worker's side: answer every question by the function of its name, until there are no more."""
    known = {"memory": peak_memory, **answers}
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        question, details = json.loads(line)
        print(json.dumps(known[question](**details)), file=out, flush=True)


def on_one_core() -> None:
    """Keep this process to one core, so that the seconds it takes are those that it computes; where that is possible.

    What has started threads already keeps them: call it first, with `ONE_THREAD` among the variables it started with.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def peak_memory() -> int:
    """Bytes; 0 where there is no /proc. `getrusage` would count what the process that started this one had in use."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0
