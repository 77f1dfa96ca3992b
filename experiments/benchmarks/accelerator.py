"""What does an accelerator do with all this? One command for the first GPU or TPU: about ten minutes.

    python -m experiments.benchmarks.accelerator --config.data=cifar10.npz
    python -m experiments.benchmarks.accelerator --smoke          # that it runs, on whatever there is

In the order of what is most wanted, each kept when it is measured, so that the same command goes on: whether a killed
run is repeated to the last bit; what a step takes by how many go in one dispatch, and in which type; how long to an
accuracy, and whether bfloat16 costs any; what a run of the main job's large preset takes, from a small part of it.

Nothing here has run on an accelerator yet.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from rich.console import Console

from experiments.benchmarks import accuracy
from experiments.benchmarks.arithmetic import operations_of_step
from experiments.benchmarks.results import Findings, Once, duration, keep
from experiments.benchmarks.turns import in_turns
from experiments.benchmarks.variants import Network, Problem, fitted, make_problem, make_program, timed, title_of
from jaxtl import cli, report
from jaxtl.data import DataSet, load
from jaxtl.loop import StoppableProgress, fit
from jaxtl.report import Section, Table
from jaxtl.step import init_state
from jaxtl.trees import named_leaves

TYPES = {"float32": None, "bfloat16": "bfloat16"}
Networks = Annotated[tuple[Annotated[str, Network()], ...], cli.Items(1, distinct=True)]
PART = [  # of the large preset of the main job: the same network and images, fewer runs
    "--config.preset=full",
    *("--config.n_per_class=20", "--config.replicates=1", "--config.trials=2", "--config.tuning_draws=1"),
    *("--config.report_draws=1", "--config.source_steps=1000"),
]


@dataclasses.dataclass(frozen=True)
class Config(accuracy.Config):
    problems: Networks = ("mlp_64", "cnn_128", "wrn_128", "resnet_512")  # networks and sizes of batches
    dispatches: cli.Counts = (1, 10, 100)  # steps in one dispatch
    blocks: cli.Trials = 5  # of as many steps as the longest dispatch has, in turns
    repeats: cli.Trials = 2  # seeds of every type, to an accuracy
    main_job: bool = True  # a part of its large preset

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": accuracy.Config.presets["smoke"]
        | {"problems": ("mlp_8",), "dispatches": (1, 2), "blocks": 2, "epochs": 2, "repeats": 1, "main_job": False}
    }


def in_type(problem: Problem, dtype: str | None) -> Problem:
    """The same, computed in another type; parameters stay float32."""
    return problem._replace(model=problem.model.clone(trunk=problem.model.trunk.clone(dtype=dtype)))


# ---------------------------------------------------------------- a killed run


def differing_bits(name: str, steps: int) -> int:
    """How many numbers of a state differ between a run of 2 · steps and one that went on from its checkpoint."""
    problem = make_problem(name)
    program = make_program(problem)

    def run(until: int, workdir: Path) -> Any:
        start = init_state(problem.params, program.tx, jax.random.key(1))
        how: dict[str, Any] = {"chunk": steps, "every": steps, "workdir": workdir}
        return fit(program.step, start, problem.batch, program.fixed, steps=until, **how)[0]

    with tempfile.TemporaryDirectory() as room:
        at_once = run(2 * steps, Path(room, "one"))
        run(steps, Path(room, "two"))
        jax.clear_caches()  # as in a new process
        resumed = run(2 * steps, Path(room, "two"))
    pairs = zip(named_leaves(at_once.params).values(), named_leaves(resumed.params).values(), strict=True)
    return sum(int(np.sum(np.asarray(a).view(np.uint32) != np.asarray(b).view(np.uint32))) for a, b in pairs)


def measure_resume(config: Config, console: Console, once: Once) -> Findings:
    found = {}
    for name in config.problems:
        console.print(f"stopping and going on: {title_of(name)}")
        found[name] = once(f"resume-{name}", partial(differing_bits, name, max(config.dispatches)))
    rows = [[title_of(name), str(count)] for name, count in found.items()]
    section = Section("A run that was stopped", [Table(["network", "parameters that differ by a bit"], rows)])
    return Findings([section], {f"resume/{name}/differing": float(count) for name, count in found.items()}, {})


# ---------------------------------------------------------------- steps


def seconds_of_steps(name: str, config: Config) -> dict[str, dict[str, float]]:
    """type -> {steps in one dispatch: seconds of a step}, medians of blocks in turns."""
    longest, problem = math.lcm(*config.dispatches), make_problem(name)
    ways = {
        f"{kind}, {each}": fitted(changed := in_type(problem, dtype), make_program(changed), each)
        for kind, dtype in TYPES.items()
        for each in config.dispatches
    }

    def block(row: str) -> float:
        state = jax.block_until_ready(ways[row].begin())
        return timed(ways[row].run, state, longest)[0] / longest

    seconds = in_turns(ways, config.blocks, block)
    return {
        kind: {str(each): float(np.median(seconds[f"{kind}, {each}"])) for each in config.dispatches} for kind in TYPES
    }


def measure_steps(config: Config, console: Console, once: Once) -> Findings:
    rows: list[list[str]] = []
    numbers: dict[str, float] = {}
    for name in config.problems:
        console.print(f"steps of {title_of(name)}")
        found = once(f"steps-{name}", partial(seconds_of_steps, name, config))
        operations = operations_of_step(make_problem(name))
        for kind, by_dispatch in found.items():
            seconds = [by_dispatch[str(each)] for each in config.dispatches]
            rows.append([title_of(name), kind, *map(duration, seconds), f"{operations / min(seconds) / 1e12:.3g}"])
            numbers |= {f"step/{name}/{kind}/dispatch_{n}/seconds": each for n, each in by_dispatch.items()}
    titles = ["a step", "computed in", *(f"{n} in a dispatch" for n in config.dispatches), "10¹² operations a second"]
    return Findings([Section("Steps, by how many go in one dispatch", [Table(titles, rows)])], numbers, {})


# ---------------------------------------------------------------- to an accuracy


def measure_accuracy(data: DataSet, config: Config, console: Console, once: Once) -> Findings:
    """One after another in both types; the first run of each compiles beforehand."""
    rows: list[list[str]] = []
    numbers: dict[str, float] = {}
    for kind, dtype in TYPES.items():
        found = []
        for seed in range(config.seed, config.seed + config.repeats):
            console.print(f"{config.model} in {kind}, seed {seed}")
            its = dataclasses.replace(config, seed=seed)
            found.append(once(f"accuracy-{kind}-{seed}", partial(accuracy.reached, its, data, dtype)))
        seconds, percent = np.array(found).T
        told = ["/".join(f"{one:.2f}" for one in percent), f"{np.mean(percent >= config.goal):.0%}"]
        rows.append([config.model, kind, "/".join(f"{one:.1f}" for one in seconds), *told])
        numbers |= {f"accuracy/{kind}/seconds": float(np.median(seconds))}
        numbers |= {f"accuracy/{kind}/percent": float(np.mean(percent))}
    titles = ["model", "computed in", "seconds", "test accuracy %, by seed", f"reached {config.goal:g} %"]
    return Findings([Section("Seconds to an accuracy", [Table(titles, rows)])], numbers, {})


# ---------------------------------------------------------------- the main job


def seconds_of_part(config: Config) -> tuple[float, int]:
    """Of a part of the main job's large preset, in a process of its own, with what it compiles; and its runs."""
    with tempfile.TemporaryDirectory() as room:
        command = [sys.executable, "-m", "experiments.cifar_transfer", f"--workdir={room}/run", *PART]
        began = time.perf_counter()
        subprocess.run([*command, f"--config.data={config.data}", f"--config.data_dir={config.data_dir}"], check=True)
        seconds = time.perf_counter() - began
        with open(Path(room, "run", "runs.csv"), encoding="utf-8") as table:
            return seconds, sum(1 for _ in csv.reader(table)) - 1


def measure_main_job(config: Config, console: Console, once: Once) -> Findings:
    """What a run of the large preset takes, source models and compilation spread over all of them."""
    console.print("a part of the main job's large preset")
    seconds, runs = once("main_job", partial(seconds_of_part, config))
    titles = ["runs", "minutes, with the source model", "seconds a run"]
    rows = [[f"{runs}", f"{seconds / 60:.1f}", f"{seconds / runs:.2f}"]]
    section = Section("A part of the main job's large preset", [Table(titles, rows)])
    return Findings([section], {"main_job/run/seconds": seconds / runs}, {})


def main(config: Config, workdir: Path) -> None:
    accuracy.check(config)
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)

    def on_data(config: Config, console: Console, once: Once) -> Findings:
        report.print_data(console, **{"data set": data})
        return measure_accuracy(data, config, console, once)

    parts = [measure_resume, measure_steps, on_data, *([measure_main_job] if config.main_job else [])]
    keep("benchmarks.accelerator", config, workdir, [(part, config) for part in parts], data.origin)


if __name__ == "__main__":
    cli.run(main, Config)
