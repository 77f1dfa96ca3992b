"""How long does a training step take beside PyTorch's, and what do labels, penalties and freezing cost?

    python -m experiments.benchmarks.step                                         # part of `make bench`
    python -m experiments.benchmarks.step --config.problems=cnn_256 --config.rounds=51

Figures are ratios to a step of jaxtl without a penalty, that ran in between. Every library is a process of its own,
with huge pages and without: jaxtl, PyTorch in eager mode (channels last), PyTorch by `torch.compile`. The share of the
peak is that of the fastest matrix product or convolution that was measured on the same machine.

Below, ratios are still to a step written by hand without jaxtl, with one learning rate and no penalty; medians of 11
rounds. On the convolutional network labels and penalties cost nothing that shows; on the small MLP, whose
step takes a sixth of a millisecond, they do. `fit` as it is takes ten steps in one dispatch, which is faster than by
hand. With a frozen trunk a step takes a third to a half of its time. A change of λ compiles nothing. PyTorch takes half
to three quarters of the time on the CNN, 1.9 times on the MLP.

                                         MLP 784-128-10   CNN 16-32-64   CNN 16-32-64
    training step                              batch 64       batch 50      batch 128
    by hand: value_and_grad, optax.sgd   1.00 = 0.17 ms  1.00 = 2.5 ms  1.00 = 6.2 ms
    by hand once more: noise                       1.05           1.01           1.01
    jaxtl, no penalty                              1.06           0.99           1.01
    jaxtl, L2 by label in the loss                 1.15           1.01           0.99
    jaxtl, L2-SP                                   1.31           0.99           1.00
    jaxtl, coupled decay by label                  1.08           0.97           1.00
    jaxtl, both pulls on one label                 1.77           0.96           1.03
    jaxtl, frozen trunk                            0.54           0.36           0.32
    jaxtl, no penalty, by fit, single steps        1.31           1.07           1.06
    jaxtl, no penalty, by fit as it is             0.80           0.97           0.96
    PyTorch, eager                                 1.85           0.69           0.52
    PyTorch, eager, one thread                     2.52           0.93           0.78

    first step; step after a change
    by hand, compiled                     1.00 = 179 ms  1.00 = 841 ms  1.00 = 839 ms
    both pulls, compiled                           1.57           1.21           1.22
    both pulls, found on disk                      0.25           0.17           0.20
    λ changed, ÷ not changed                       1.02           0.99           1.00

By `--config.problems=mlp_64,cnn_50,cnn_128 --config.rounds=11` on 2 CPU cores (x86_64, a virtual machine with little
else to do), huge pages on, Python 3.11, jax 0.10.2, flax 0.12.8, optax 0.2.8, PyTorch 2.13.0. Machines are noisy: the
quartiles lie 3 to 10 % from these medians. Residual networks have not been measured on a quiet machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from experiments.benchmarks.arithmetic import operations_of_step
from experiments.benchmarks.results import Findings, keep
from experiments.benchmarks.rows import BASE, COSTS, PEERS, ROWS, Row, rows_of
from experiments.benchmarks.step_tables import arithmetic_table, notes, numbers_of, picture, ratio_table, start_table
from experiments.benchmarks.variants import (
    LAMBDA,
    RESIDUAL,
    Problem,
    Variant,
    both_pulls,
    by_hand,
    check_problem,
    looped,
    make_problem,
    rates_with,
    save_problem,
    timed,
)
from experiments.benchmarks.workers import Worker
from jaxtl import backend, cli
from jaxtl.errors import InputError
from jaxtl.loop import refuse_stop
from jaxtl.report import Section
from jaxtl.step import compile_step


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # quick: what make bench takes; smoke: seconds, for a look at the tables
    problems: tuple[str, ...] = ("mlp_64", "cnn_50", "cnn_128", "wrn_16", "resnet_16")  # and the size of batches
    rounds: int = 21  # blocks of every row, taken in turns; of residual networks half
    mlp_steps: int = 300  # steps in a block
    cnn_steps: int = 10
    residual_steps: int = 1

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"problems": ("mlp_64", "cnn_128", "wrn_16", "resnet_16"), "rounds": 9, "mlp_steps": 100},
        "smoke": {"problems": ("mlp_64",), "rounds": 2, "mlp_steps": 10},
    }


CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
PAUSE = 0.05  # seconds: the threads of a process look for more work for a while before they leave the cores to others


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
            refuse_stop(f"before {row.words}")
            answer = workers[row.process, row.huge_pages].ask("block", steps=steps, **row.asked)
            time.sleep(PAUSE)
            return answer

        for row_name, row in rows.items():  # this round compiles; it does not count
            answer = block(row_name)
            if "failed" in answer:
                failed[row_name] = answer["failed"]
                del found[row_name]
            else:
                first[row_name] = answer["seconds"]
                loss[row_name] = workers[row.process, row.huge_pages].ask("loss")
        for number in range(rounds):
            # in another order every round, since what ran just before is felt for a while
            for row_name in random.Random(number).sample(list(found), len(found)):
                found[row_name].append(block(row_name)["seconds"] / steps)
        peaks = measure_peaks({process: worker for (process, huge), worker in workers.items() if huge})
    base = np.array(found[BASE])
    figures = {}
    for row_name, seconds in found.items():
        low, ratio, high = np.quantile(np.array(seconds) / base, (0.25, 0.5, 0.75)).tolist()
        figures[row_name] = {"ratio": ratio, "low": low, "high": high, "seconds": seconds}
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
        refuse_stop(f"before start {number + 1}")
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


def measure(config: Config, console: Console) -> Findings:
    steps = {"mlp": config.mlp_steps, "cnn": config.cnn_steps, **dict.fromkeys(RESIDUAL, config.residual_steps)}
    results: dict[str, dict[str, Any]] = {}
    for name in config.problems:
        problem, kind = make_problem(name), check_problem(name)[0]
        console.print(f"measuring {problem.title}")  # no progress bar: drawing it would take time from what is timed
        rounds = math.ceil(config.rounds / 2) if kind in RESIDUAL else config.rounds
        results[name] = {"title": problem.title, "operations": operations_of_step(problem)}
        results[name] |= measure_rows(name, problem, rounds, steps[kind])
        if kind not in RESIDUAL:  # they take minutes to compile
            results[name]["starts"] = measure_starts(problem, config.rounds)
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


def check(config: Config) -> None:
    for flag in ("rounds", "mlp_steps", "cnn_steps", "residual_steps"):
        if getattr(config, flag) < 1:
            raise InputError(f"{getattr(config, flag)} is less than 1", where=f"--config.{flag}")
    if not config.problems:
        raise InputError("no problem", where="--config.problems", todo="for example mlp_64 or cnn_50")
    for name in config.problems:
        check_problem(name)


def main(config: Config, workdir: Path) -> None:
    check(config)
    keep("benchmarks.step", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
