"""How many instructions does a training step take, with penalties and without? Counted, so that noise has no say.

    apt-get install valgrind
    python -m experiments.benchmarks.instructions                          # not part of `make bench`: slow
    python -m experiments.benchmarks.instructions --config.problems=wrn_4

A step's share of noise in seconds is larger than what a penalty costs on a network with convolutions. So each way of
taking a step is a process of its own under valgrind's cachegrind, on one core, once for few steps and once for many:
what more steps took is theirs. The instructions are those of a processor as valgrind has it, which knows AVX2 and no
AVX-512, and no instruction takes longer than another.

Not yet measured as a whole: a row takes more than ten minutes, most of which a program is compiled under valgrind.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any, ClassVar

from rich.console import Console

from experiments.benchmarks.results import Findings, Once, keep
from experiments.benchmarks.rows import BASE, ROWS
from experiments.benchmarks.variants import Network, title_of
from experiments.benchmarks.workers import ONE_THREAD, Worker, on_one_core
from jaxtl import cli
from jaxtl.errors import InputError
from jaxtl.loop import raise_if_stopped
from jaxtl.report import Section, Table

COUNTED = tuple(name for name, row in ROWS.items() if row.process == "jax" and name not in ("again", "small_pages"))
Networks = Annotated[tuple[Annotated[str, Network()], ...], cli.Items(1, distinct=True)]
Rows = Annotated[tuple[Annotated[str, cli.OneOf("row", COUNTED)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: a small MLP, two rows
    problems: Networks = ("cnn_16",)  # as for benchmarks.step
    rows: Rows = (BASE, "l2", "l2_sp", "decay", "both_pulls")
    few: cli.Steps = 10
    more: cli.Steps = 400  # what else a process does differs by as much as a few of them

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"problems": ("mlp_4",), "rows": (BASE, "l2"), "more": 20}}


def instructions(name: str, row: str, steps: int, room: Path) -> int:
    """Of a process that takes so many steps, from its first instruction to its last."""
    log = room / "counted"
    under = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={room / 'lines'}"]
    arguments = (name, str(room / "cache"))
    with Worker("jax_step", *arguments, environment=ONE_THREAD, under=[*under, f"--log-file={log}"]) as worker:
        worker.ask("block", steps=steps, **ROWS[row].asked)
    found = re.search(r"I\s+refs:\s+([\d,]+)", log.read_text())
    if not found:
        raise InputError("says no number of instructions", where="valgrind", todo="see the documentation of cachegrind")
    return int(found[1].replace(",", ""))


def of_a_step(name: str, row: str, config: Config, room: Path) -> float:
    """Instructions of a step; what it compiles is found on disk in both processes that are compared."""
    counts = []
    for steps in (config.few, config.few, config.few + config.more):
        raise_if_stopped(f"before {steps} steps of {row}")
        counts.append(instructions(name, row, steps, room))
    return (counts[2] - counts[1]) / config.more


def measure(config: Config, console: Console, once: Once) -> Findings:
    rows: list[list[str]] = []
    numbers: dict[str, float] = {}
    for name in config.problems:
        found = {}
        with tempfile.TemporaryDirectory() as room:  # what all rows compile is compiled once
            for row in config.rows:
                console.print(f"counting {title_of(name)}, {ROWS[row].words}")
                found[row] = once(f"{name}-{row}", functools.partial(of_a_step, name, row, config, Path(room)))
        base = found[config.rows[0]]
        rows += [[title_of(name), ROWS[row].words, f"{n:,.0f}", f"{n / base:.4f}"] for row, n in found.items()]
        numbers |= {f"instructions/{name}/{row}": count for row, count in found.items()}
    titles = ["network", "step", "instructions", f"÷ {ROWS[config.rows[0]].words}"]
    line = f"What {config.more} more steps take beside {config.few}, on one core"
    return Findings([Section("Instructions of a step", [Table(titles, rows)], [line])], numbers, {})


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    if shutil.which("valgrind") is None:
        raise InputError("valgrind is not installed", where="benchmarks.instructions", todo="apt-get install valgrind")
    on_one_core()
    keep("benchmarks.instructions", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
