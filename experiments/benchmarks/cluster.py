"""What do workers add, and what does a unit cost that does nothing?

    pip install "jaxtl[cluster]"
    python -m experiments.benchmarks.cluster                # not part of `make bench`: it starts processes of its own

A unit of work is a run of a small network on digits, as `study` hands them out; workers are processes of this machine,
by `--cluster=local:N`, and have compiled their programs before anything is measured. Overhead is the time that passes
for each unit that does nothing, with one worker: what is left between the first process, Dask and its worker. Many
units are as many of those, in one go: the first process holds a few at a time, whatever their number.

    workers    runs per hour    ÷ the fewest
    1                 25,377            1.00
    2                 23,427            0.92
    4                 24,219            0.95

A unit that does nothing takes 7.5 ms; 10,000 of them 87 s. Once, on 2 CPU cores (x86_64) with little else to do, Python
3.11, jax 0.10.2, Dask 2026.8. A run keeps both cores busy by itself, so that more workers gain nothing on one such
machine, and cost little: what they add is other machines, which were not measured.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from rich.console import Console

from experiments.benchmarks.results import Findings, Once, keep
from jaxtl import cli
from jaxtl.cluster import Site
from jaxtl.data import load, source_and_target
from jaxtl.methods.finetuning import RECIPES
from jaxtl.problems import FewShot, FewShotConfig, SourceConfig, make_source
from jaxtl.protocol import Budget, Draw, Trainer
from jaxtl.protocol.executors import each_made
from jaxtl.report import Section, Table

METHOD, SETTING = "l2", {"learning_rate": 0.05, "pull": 1.0}
Some = Annotated[tuple[Annotated[int, cli.Within(1, 256)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Network(SourceConfig, FewShotConfig, Budget):
    """Of a unit: fine-tuning of a small network."""

    source_steps: cli.Steps = 50
    widths: cli.Widths = (16, 32)
    validation: cli.Count = 100


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke
    workers: Some = (1, 2, 4)
    runs: Annotated[int, cli.Within(1, 100_000)] = 100  # of a network, for each number of workers
    empty: Annotated[int, cli.Within(1, 1_000_000)] = 1000  # units that do nothing, of which the overhead is told
    many: Annotated[int, cli.Within(1, 1_000_000)] = 10_000  # of those, in one go

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"workers": (1, 2), "runs": 4, "empty": 20, "many": 100}}


def trained(trainer: Trainer, seed: int) -> float:
    """A run as a unit makes it, and its score."""
    draw = Draw(seed)
    return trainer.problem.validate(trainer.train(METHOD, SETTING, draw), draw)


def nothing(unit: int) -> int:
    """What a unit does that only costs its way."""
    return unit


def seconds_of(work: Callable[[int], Any], units: Iterable[int], pool: Any) -> float:
    """That pass until all are made."""
    began = time.perf_counter()
    for _ in each_made(work, units, pool):
        pass
    return time.perf_counter() - began


def measured(config: Config, work: Callable[[int], Any], count: int) -> dict[str, float]:
    """With so many workers: seconds of the runs, of empty units and of many of them."""
    from jaxtl.cluster.pool import joined

    with joined(Site.of(f"local:{count}")) as pool:
        seconds_of(work, range(4 * count), pool)  # compiles
        found = {"runs": seconds_of(work, range(config.runs), pool)}
        if count == min(config.workers):
            found |= {name: seconds_of(nothing, range(getattr(config, name)), pool) for name in ("empty", "many")}
    return found


def measure(config: Config, console: Console, once: Once) -> Findings:
    data = load("digits")
    source_task, task = source_and_target("0-4:5-9", data, data)
    with tempfile.TemporaryDirectory() as room:
        problem = FewShot(Network(), make_source(Network(), source_task, room), task, 20)
    work = functools.partial(trained, Trainer(problem, {METHOD: RECIPES[METHOD]}))
    found, numbers, rows = {}, dict[str, float](), []
    for count in sorted(config.workers):
        console.print(f"measuring {config.runs} runs with {count} workers")
        found[count] = once(f"workers-{count}", functools.partial(measured, config, work, count))
        per_hour = 3600 * config.runs / found[count]["runs"]
        numbers[f"cluster/workers_{count}/runs_per_hour"] = per_hour
        rows.append([str(count), f"{per_hour:,.0f}", f"{per_hour / numbers[next(iter(numbers))]:.2f}"])
    first = found[min(config.workers)]
    numbers["cluster/overhead/seconds"] = first["empty"] / config.empty
    numbers["cluster/many/seconds"] = first["many"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        f"{config.runs} runs of a network of {problem.config.steps} steps, once; {cores} cores",
        f"a unit that does nothing takes {1000 * numbers['cluster/overhead/seconds']:.1f} ms, with one worker at its "
        f"place; {config.many:,} of them {first['many']:.1f} s",
    ]
    table = Table(["workers", "runs per hour", "÷ the fewest"], rows)
    return Findings(
        [Section("Runs on workers", [table], lines)], numbers, {"workers": {str(k): v for k, v in found.items()}}
    )


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    Site.of("local:1").check()
    keep("benchmarks.cluster", config, workdir, [(measure, config)], data="digits")


if __name__ == "__main__":
    cli.run(main, Config)
