"""How long does a training step take beside PyTorch's, and what do labels, penalties and freezing cost?

    python -m experiments.benchmarks.step                                         # part of `make bench`
    python -m experiments.benchmarks.step --config.problems=cnn_256 --config.rounds=51

Figures are ratios to a step of jaxtl without a penalty, that ran in between. Every library is a process of its own,
with huge pages and without: jaxtl, PyTorch in eager mode (channels last), PyTorch by `torch.compile`. A process whose
turn comes does what it is asked twice, and the second time counts. The share of the peak is that of the fastest matrix
product or convolution that was measured on the same machine.

On networks with convolutions labels and penalties cost what noise hides (`benchmarks.instructions` counts it); on the
small MLP, whose step takes a third of a millisecond, they do cost. A frozen trunk leaves a third to a half. A change of
λ compiles nothing. A step by hand is slower because it is compiled as jax does by itself, see `compiler.CPU_OPTIONS`.
PyTorch is slower on the MLP and level on the CNN; on the residual networks it takes 0.80 to 0.90 of the time. Why, is
in `benchmarks.profile`.

                                        MLP 784-128-10      CNN 16-32-64          WRN-16-4         ResNet-18
    training step                             batch 64         batch 128          batch 16          batch 16
    jaxtl, no penalty, ms                 0.294; 0.325        6.63; 10.7          259; 232          387; 338
    jaxtl once more: noise                  1.07; 1.00        1.01; 1.04        0.99; 1.05        0.96; 1.02
    jaxtl, no huge pages                    0.98; 0.93        0.99; 1.11
    jaxtl, by fit, single steps             1.26; 1.15        1.19; 1.09
    jaxtl, by fit as it is                  0.84; 0.84        1.00; 1.05
    by hand, jax.jit as it is               1.03; 1.15        1.46; 1.28        1.15; 1.31        1.16; 1.21
    PyTorch, eager                          1.98; 1.77        1.10; 1.01        0.84; 0.90        0.80; 0.86
    PyTorch, eager, no huge pages           1.93; 1.82        1.36; 0.98
    PyTorch, eager, one thread              2.32; 1.95        1.52; 1.01
    PyTorch, torch.compile                  2.20; 1.86        1.47; 1.13        0.83; 0.96        0.84; 0.90
    jaxtl, L2 by label in the loss          1.26; 1.19        1.04; 1.00
    jaxtl, L2-SP                            1.14; 1.05        1.05; 1.02
    jaxtl, coupled decay by label           1.07; 0.98        1.02; 1.02
    jaxtl, both pulls on one label          1.54; 1.38        1.05; 1.08        1.00; 1.04        1.00; 1.00
    jaxtl, frozen trunk                     0.55; 0.51        0.40; 0.35        0.30; 0.35        0.30; 0.32
    share of the measured peak              0.39; 0.36        0.34; 0.21        0.64; 0.72        0.60; 0.70
    PyTorch, eager: share                   0.21; 0.20        0.31; 0.28        0.76; 0.80        0.76; 0.70

    first step of a program                         MLP                    CNN
    by hand, compiled              1.00 = 259; 280 ms    1.00 = 1.04; 1.04 s
    both pulls, compiled                   1.65; 1.72             1.39; 1.31
    both pulls, found on disk              0.26; 0.25             0.25; 0.22

By `make bench`, two runs twenty minutes apart, on 2 CPU cores (x86_64, AMD EPYC, a virtual machine with nothing else to
do), Python 3.11, jax 0.10.2, PyTorch 2.13.0; medians of 5 rounds, of 3 on residual networks. What lies between two runs
is the machine: in the second the CNN took half as long again as in the first, in every row of jaxtl, in PyTorch's a
tenth.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from experiments.benchmarks.arithmetic import operations_of_step
from experiments.benchmarks.results import Findings, Once, keep
from experiments.benchmarks.rows import BASE, COSTS, PEERS, ROWS, Row, rows_of
from experiments.benchmarks.step_tables import arithmetic_table, notes, numbers_of, picture, ratio_table, start_table
from experiments.benchmarks.turns import order_of, ratio
from experiments.benchmarks.variants import (
    LAMBDA,
    RESIDUAL,
    Network,
    Problem,
    Variant,
    both_pulls,
    by_hand,
    looped,
    make_problem,
    network_and_batch,
    rates_with,
    save_problem,
    timed,
)
from experiments.benchmarks.workers import PAUSE, Worker
from jaxtl import cli
from jaxtl.devices import backend
from jaxtl.loop import raise_if_stopped
from jaxtl.report import Section
from jaxtl.step import compile_step

Networks = Annotated[tuple[Annotated[str, Network()], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # quick: what make bench takes; smoke: seconds, for a look at the tables
    problems: Networks = ("mlp_64", "cnn_50", "cnn_128", "wrn_16", "resnet_16")  # and the size of batches
    rounds: cli.Trials = 21  # blocks of every row, taken in turns; of residual networks half
    mlp_steps: cli.Steps = 300  # steps in a block
    cnn_steps: cli.Steps = 10
    residual_steps: cli.Steps = 1

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"problems": ("mlp_64", "cnn_128", "wrn_16", "resnet_16"), "rounds": 5, "mlp_steps": 100},
        "smoke": {"problems": ("mlp_64",), "rounds": 2, "mlp_steps": 10},
    }


CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


# ---------------------------------------------------------------- measuring


@contextlib.contextmanager
def workers_for(name: str, problem: Problem, rows: Mapping[str, Row]) -> Iterator[dict[tuple[str, bool], Worker]]:
    """A process for every library, way of compiling and size of pages, by (process, huge pages)."""
    cache = jax.config.values[CACHE_OPTIONS[0]] or ""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        file = Path(directory, "problem.npz")
        save_problem(problem, file)
        commands = {
            "jax": ("jax_step", name, cache),
            "torch": ("torch_step", str(file)),
            "compiled": ("torch_step", str(file), "compiled"),
        }
        inductor = {"TORCHINDUCTOR_CACHE_DIR": str(Path(directory, "inductor"))}
        yield {
            (process, huge): stack.enter_context(Worker(*commands[process], huge_pages=huge, environment=inductor))
            for process, huge in dict.fromkeys((row.process, row.huge_pages) for row in rows.values())
        }


def measure_rows(name: str, problem: Problem, rounds: int, steps: int) -> dict[str, Any]:
    """Every row's seconds a step, round by round, the loss after a block, and the most operations a second."""
    rows = rows_of(name)
    found: dict[str, list[float]] = {row: [] for row in rows}
    first, loss, failed = {}, {}, {}
    with workers_for(name, problem, rows) as workers:

        def block(row_name: str) -> dict[str, Any]:
            row = rows[row_name]
            raise_if_stopped(f"before {row.words}")
            worker = workers[row.process, row.huge_pages]
            ask = worker.ask_again if row_name in first else worker.ask  # the first compiles
            return ask("block", steps=steps, **row.asked)

        for row_name, row in rows.items():  # this round compiles; it does not count
            answer = block(row_name)
            if "failed" in answer:
                failed[row_name] = answer["failed"]
                del found[row_name]
            else:
                first[row_name] = answer["seconds"]
                loss[row_name] = workers[row.process, row.huge_pages].ask("loss")
        for number in range(rounds):
            for row_name in order_of(found, number):
                found[row_name].append(block(row_name)["seconds"] / steps)
        peaks = measure_peaks({process: worker for (process, huge), worker in workers.items() if huge})
    base = np.array(found[BASE])
    figures = {}
    for row_name, seconds in found.items():
        figures[row_name] = ratio(np.array(seconds), base) | {"seconds": seconds}
        figures[row_name] |= {"first": first[row_name], "loss": loss[row_name]}
    return {"rows": figures, "failed": failed, "peaks": peaks}


def measure_peaks(workers: Mapping[str, Worker]) -> dict[str, float]:
    """Operations a second of large float32 products, by what computed them."""
    size = {"edge": 2048, "images": 32} if jax.default_backend() == "cpu" else {"edge": 8192, "images": 512}
    words = {"jax": "jax", "torch": "PyTorch"}
    peaks = {}
    for process in words.keys() & workers.keys():
        for what, rate in workers[process].ask("fastest", calls=4, **size).items():
            peaks[f"{what} in {words[process]}"] = rate
            time.sleep(PAUSE)
    return peaks


@contextlib.contextmanager
def empty_compilation_cache() -> Iterator[None]:
    """No compiled program is on disk, and those of now can be read back."""
    before = {name: getattr(jax.config, name) for name in CACHE_OPTIONS}
    with tempfile.TemporaryDirectory() as directory:
        compilation_cache.reset_cache()
        backend.use_compilation_cache(directory)
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def measure_starts(problem: Problem, rounds: int) -> dict[str, Any]:
    """Seconds of a first step that compiles or finds its program on disk, and of one with another λ; medians."""
    kinds = ("by_hand", "both_pulls", "from_disk", "same_lambda", "other_lambda")
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    first_step(by_hand(problem))  # what a process does once, whatever it runs, is nobody's
    for number in range(min(3, rounds)):
        raise_if_stopped(f"before start {number + 1}")
        with empty_compilation_cache():
            found["by_hand"].append(first_step(by_hand(problem)))
            found["both_pulls"].append(first_step(looped(problem, both_pulls(problem))))
            found["from_disk"].append(first_step(looped(problem, both_pulls(problem))))
    program, compilations = both_pulls(problem), 0

    def step(state, data, fixed):
        nonlocal compilations
        compilations += 1  # runs when traced
        return program.step(state, data, fixed)

    run, state = compile_step(step), looped(problem, program).begin()
    for number in range(-1, 10 * rounds):
        fixed = program.fixed._replace(rates=rates_with(LAMBDA * (number + 3)))
        for name in ("other_lambda", "same_lambda"):  # than, and as, in the call before
            taken, (state, _) = timed(run, state, problem.batch, fixed)
            found[name] += [taken] if number >= 0 else []
    return {"compilations": compilations, **{name: float(np.median(taken)) for name, taken in found.items()}}


def first_step(variant: Variant) -> float:
    return timed(variant.run, jax.block_until_ready(variant.begin()), 1)[0]


# ---------------------------------------------------------------- all of it


def measure(config: Config, console: Console, once: Once) -> Findings:
    steps = {"mlp": config.mlp_steps, "cnn": config.cnn_steps, **dict.fromkeys(RESIDUAL, config.residual_steps)}
    results: dict[str, dict[str, Any]] = {}
    for name in config.problems:
        problem, kind = make_problem(name), network_and_batch(name)[0]
        console.print(f"measuring {problem.title}")  # no progress bar: drawing it would take time from what is timed
        rounds = math.ceil(config.rounds / 2) if kind in RESIDUAL else config.rounds
        results[name] = {"title": problem.title, "operations": operations_of_step(problem)}
        results[name] |= once(f"step-{name}", partial(measure_rows, name, problem, rounds, steps[kind]))
        if kind not in RESIDUAL:  # they take minutes to compile
            results[name]["starts"] = once(f"step-start-{name}", partial(measure_starts, problem, config.rounds))
    peaks: dict[str, float] = {}
    for result in results.values():
        peaks = {name: max(rate, peaks.get(name, 0.0)) for name, rate in result["peaks"].items()}
    peak = max(peaks.values())
    started = {name: result for name, result in results.items() if "starts" in result}
    tables = [ratio_table("training step", PEERS, results), arithmetic_table(results, peak)]
    costs = [ratio_table(f"÷ {ROWS[BASE].words}", COSTS, results)] + ([start_table(started)] if started else [])
    sections = [
        Section("A training step", tables, notes(config.rounds, results, peaks), [picture(results)]),
        Section("What penalties and freezing cost", costs),
    ]
    return Findings(sections, numbers_of(results, peak), {"step": results})


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    keep("benchmarks.step", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
