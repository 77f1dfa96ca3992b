"""How many instructions does a training step take, with penalties and without? Counted, so that noise has no say.

    apt-get install valgrind
    python -m experiments.benchmarks.instructions                          # not part of `make bench`: slow
    python -m experiments.benchmarks.instructions --config.problems=wrn_4

A step's share of noise in seconds is larger than what a penalty costs on a network with convolutions. So every way of
taking a step runs in one process under valgrind's callgrind, on one core, which counts only while it is asked to: once
for few steps and once for more, whose difference is theirs. The instructions are those of a processor as valgrind has
it, which knows AVX2 and no AVX-512, and no instruction takes longer than another.

    instructions of a step ÷ without a penalty    CNN 16-32-64, batch 16    MLP 784-128-10, batch 64
    no penalty                                       1.0000 = 18,951,245          1.0000 = 4,109,862
    L2 by label in the loss                                       1.0100                      1.1653
    L2-SP                                                         1.0238                      1.1246
    coupled decay by label                                        1.0018                      1.0110
    both pulls on one label                                       1.0231                      1.3271

By --config.problems=cnn_16,mlp_64 in 12 minutes (x86_64, valgrind 3.19, Python 3.11, jax 0.10.2). The goal on a network
with convolutions was 3 %. The MLP has 64 examples and 101,770 parameters, of which a penalty sees each.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
import subprocess
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
MORE = "see the documentation of valgrind"
Networks = Annotated[tuple[Annotated[str, Network()], ...], cli.Items(1, distinct=True)]
Rows = Annotated[tuple[Annotated[str, cli.OneOf("row", COUNTED)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: a small MLP, two rows
    problems: Networks = ("cnn_16",)  # as for benchmarks.step
    rows: Rows = (BASE, "l2", "l2_sp", "decay", "both_pulls")
    few: cli.Steps = 2
    more: cli.Steps = 20

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"problems": ("mlp_4",), "rows": (BASE, "l2")}}


class Counter:
    """A process under callgrind that takes steps, and counts when it is told to."""

    def __init__(self, name: str, room: Path):
        self.out = room / "counted"
        under = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={self.out}"]
        self.worker = Worker("jax_step", name, "", environment=ONE_THREAD, under=under)

    def steps(self, row: str, steps: int) -> None:
        self.worker.ask("block", steps=steps, **ROWS[row].asked)

    def control(self, *asked: str) -> None:
        command = ["callgrind_control", *asked, str(self.worker.process.pid)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise InputError(run.stderr.strip()[:200], where="callgrind_control", todo=MORE)

    def instructions(self, row: str, steps: int) -> int:
        """Of so many steps, and of what a block does besides."""
        before = set(self.out.parent.iterdir())
        self.control("--instr=on")
        self.control("--zero")
        self.steps(row, steps)
        self.control("--dump")
        self.control("--instr=off")
        (dumped,) = set(self.out.parent.iterdir()) - before
        found = re.search(r"^(?:summary|totals): (\d+)", dumped.read_text(), re.MULTILINE)
        if not found:
            raise InputError("tells no sum", where="callgrind", todo=MORE)
        return int(found[1])


def count(name: str, config: Config) -> dict[str, float]:
    """Instructions of a step, by row."""
    found = {}
    with tempfile.TemporaryDirectory() as room:
        counter = Counter(name, Path(room))
        with counter.worker:
            for row in config.rows:
                raise_if_stopped(f"before {row}")
                counter.steps(row, 1)  # compiles
                few = counter.instructions(row, config.few)
                found[row] = (counter.instructions(row, config.few + config.more) - few) / config.more
    return found


def measure(config: Config, console: Console, once: Once) -> Findings:
    rows: list[list[str]] = []
    numbers: dict[str, float] = {}
    for name in config.problems:
        console.print(f"counting {title_of(name)}")
        found = once(name, functools.partial(count, name, config))
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
