"""What do labels, penalties and freezing cost per training step?

    make bench                                                                    # minutes on 2 CPU cores
    python -m experiments.benchmarks.step --config.problems=cnn_256 --config.rounds=51

Figures are ratios to a step written by hand without jaxtl, with one learning rate and no penalty, that ran in between;
medians of 11 rounds. On the convolutional network labels and penalties cost nothing that shows; on the small MLP, whose
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
import functools
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from experiments.benchmarks.variants import (
    BASE,
    LAMBDA,
    LEARNING_RATE,
    MOMENTUM,
    RESIDUAL,
    RESIDUAL_ROWS,
    ROWS,
    Problem,
    Variant,
    both_pulls,
    by_hand,
    logits_of,
    looped,
    make_problem,
    make_variants,
    rates_with,
)
from jaxtl import backend, cli
from jaxtl.errors import InputError
from jaxtl.loop import refuse_stop
from jaxtl.losses import softmax_cross_entropy
from jaxtl.report.tables import Table
from jaxtl.step import compile_step
from jaxtl.trees import Tree, named_leaves


@dataclasses.dataclass(frozen=True)
class Config:
    problems: tuple[str, ...] = ("mlp_64", "cnn_50", "cnn_128", "wrn_16", "resnet_16")  # and the size of batches
    rounds: int = 21  # blocks of every variant, taken in turns; of residual networks a third
    mlp_steps: int = 300  # steps in a block
    cnn_steps: int = 10
    residual_steps: int = 1


CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


# ---------------------------------------------------------------- measuring


def timed(work: Callable, *arguments: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = jax.block_until_ready(work(*arguments))
    return time.perf_counter() - began, result


def measure(problem: Problem, rounds: int, torch: bool) -> dict[str, dict[str, Any]]:
    """Every variant's seconds per step, round by round, their ratio to the peer's, and the loss after a block."""
    evaluate = jax.jit(lambda params: task_loss(problem, params))

    def block(variant: Variant) -> tuple[float, float]:
        taken, state = timed(variant.run, jax.block_until_ready(variant.begin()), problem.steps)
        return taken, float(evaluate(state.params))

    with contextlib.ExitStack() as stack:
        blocks = {name: functools.partial(block, variant) for name, variant in make_variants(problem).items()}
        if torch:
            ask = stack.enter_context(pytorch(problem))
            blocks |= {"torch": functools.partial(ask, 0), "torch_one_thread": functools.partial(ask, 1)}
        found = {name: [run()] for name, run in blocks.items()}  # this round compiles; it does not count
        for number in range(rounds):
            refuse_stop(f"before round {number + 1} of {rounds}")
            # in another order every round, since what ran just before is felt for a while
            for name in random.Random(number).sample(list(blocks), len(blocks)):
                found[name].append(blocks[name]())
    seconds = {name: np.array([taken for taken, _ in runs[1:]]) / problem.steps for name, runs in found.items()}
    figures = {}
    for name, runs in found.items():
        low, ratio, high = np.quantile(seconds[name] / seconds[BASE], (0.25, 0.5, 0.75)).tolist()
        figures[name] = {"ratio": ratio, "low": low, "high": high, "seconds": seconds[name].tolist()}
        figures[name]["loss"] = runs[-1][1]
    return figures


def task_loss(problem: Problem, params: Tree) -> jax.Array:
    logits = logits_of(problem.model, params, problem.batch)
    return jnp.mean(softmax_cross_entropy(logits, problem.batch["label"]))


def torch_is_here() -> bool:
    return importlib.util.find_spec("torch") is not None


@contextlib.contextmanager
def pytorch(problem: Problem) -> Iterator[Callable[[int], tuple[float, float]]]:
    """threads -> a block in PyTorch, in a process of its own: in one process the two slow each other down."""
    arrays: dict[str, Any] = {**named_leaves(problem.params), **problem.batch}
    arrays |= {"learning_rate": LEARNING_RATE, "momentum": MOMENTUM}
    command = [sys.executable, str(Path(__file__).with_name("torch_step.py"))]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "problem.npz")
        np.savez(file, **arrays)
        pipe = subprocess.PIPE  # a session of its own, since Ctrl-C is for us; it ends when its input does
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:

            def block(threads: int) -> tuple[float, float]:
                assert process.stdin is not None
                assert process.stdout is not None
                request = {"problem": str(file), "steps": problem.steps, "threads": threads}
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                time.sleep(0.05)  # its threads look for more work for a while before they leave the cores to us
                return answer["seconds"], answer["loss"]

            yield block


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
    found: dict[str, list[float]] = {BASE: [], "both_pulls": [], "from_disk": [], "same_lambda": [], "other_lambda": []}
    first_step(by_hand(problem))  # what a process does once, whatever it runs, is nobody's
    for number in range(min(3, rounds)):
        refuse_stop(f"before start {number + 1}")
        with empty_compilation_cache():
            found[BASE].append(first_step(by_hand(problem)))
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


# ---------------------------------------------------------------- what came out


def step_table(results: dict[str, dict[str, Any]]) -> Table:
    """A row per variant, a column per problem: the median ratio and its quartiles."""
    rows = []
    for name, words in ROWS.items():
        cells = []
        for result in results.values():
            if figures := result["variants"].get(name):
                cells.append(f"{figures['ratio']:.2f} ({figures['low']:.2f}–{figures['high']:.2f})")
                if name == BASE:
                    cells[-1] = f"1.00 = {duration(float(np.median(figures['seconds'])))}"
        rows += [[words, *cells]] if cells else []
    return Table(["training step", *results], rows)


def start_table(results: dict[str, dict[str, Any]]) -> Table:
    """What a program costs before it runs at full speed, and what a change of λ costs afterwards."""
    starts = [result["starts"] for result in results.values()]
    rows = [
        ["by hand, compiled", *(f"1.00 = {duration(start[BASE])}" for start in starts)],
        ["both pulls, compiled", *(f"{start['both_pulls'] / start[BASE]:.2f}" for start in starts)],
        ["both pulls, found on disk", *(f"{start['from_disk'] / start[BASE]:.2f}" for start in starts)],
        ["λ changed, ÷ not changed", *(f"{start['other_lambda'] / start['same_lambda']:.2f}" for start in starts)],
        ["compilations", *(str(start["compilations"]) for start in starts)],
    ]
    return Table(["first step; step after a change", *results], rows)


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def notes(header: dict[str, Any], results: dict[str, dict[str, Any]]) -> list[str]:
    """On what, and how, the figures were measured."""
    versions = header["versions"]
    lines = [
        f"Device: {header['device']}",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"Huge pages: {header['malloc'] or 'not asked for; make bench does'}",
        f"Ratios: medians over {header['config']['rounds']} rounds, of residual networks a third of them, each against "
        "its own round; quartiles in brackets",
        "Both pulls: the program of experiments.cifar_transfer, every rate an argument of the compiled step",
    ]
    if "torch" not in versions:
        return [*lines, "PyTorch is not installed here: no comparison with it"]
    ends = [f"{r['variants']['torch']['loss']:.5f} and {r['variants'][BASE]['loss']:.5f}" for r in results.values()]
    return [*lines, f"PyTorch ran in a process of its own; loss after a block, there and by hand: {'; '.join(ends)}"]


def write(workdir: Path, header: dict[str, Any], results: dict[str, dict[str, Any]], console: Console) -> None:
    """Tables on the terminal, summary.md, and last of all summary.json."""
    tables, lines = [step_table(results), start_table(results)], notes(header, results)
    for table in tables:
        console.print(table.rich() if console.is_terminal else table.plain() + "\n", soft_wrap=not console.is_terminal)
    for line in lines:
        console.print(line, soft_wrap=True)
    parts = ["# What labels, penalties and freezing cost per training step", *(table.markdown() for table in tables)]
    parts += ["\n".join(f"- {line}" for line in [*lines, f"Command: `{header['command']}`"])]
    numbers = json.dumps({**header, "problems": results}, indent=1, ensure_ascii=False)
    for name, text in (("summary.md", "\n\n".join(parts)), ("summary.json", numbers)):
        (workdir / name).write_text(text + "\n", encoding="utf-8")
        console.print(f"wrote {workdir / name}", soft_wrap=True)


def main(config: Config, workdir: Path) -> None:
    started = time.perf_counter()
    check(config)
    console, torch = Console(highlight=False), torch_is_here()
    steps = {"mlp": config.mlp_steps, "cnn": config.cnn_steps, **dict.fromkeys(RESIDUAL, config.residual_steps)}
    results: dict[str, dict[str, Any]] = {}
    for problem in [make_problem(name, steps) for name in config.problems]:
        console.print(f"measuring {problem.title}")  # no progress bar: drawing it would take time from what is timed
        residual = problem.rows == RESIDUAL_ROWS
        variants = measure(problem, math.ceil(config.rounds / 3) if residual else config.rounds, torch)
        starts = measure_starts(problem, 1 if residual else config.rounds)
        results[problem.title] = {"steps": problem.steps, "variants": variants, "starts": starts}
    header = {
        "experiment": "benchmarks.step",
        "command": cli.command("benchmarks.step", config),
        "device": backend.describe_device(),
        "versions": backend.versions() | ({"torch": metadata.version("torch")} if torch else {}),
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "minutes": (time.perf_counter() - started) / 60,
        "config": dataclasses.asdict(config),
    }
    write(workdir, header, results, console)


def check(config: Config) -> None:
    for flag in ("rounds", "mlp_steps", "cnn_steps", "residual_steps"):
        if getattr(config, flag) < 1:
            raise InputError(f"{getattr(config, flag)} is less than 1", where=f"--config.{flag}")
    if not config.problems:
        raise InputError("no problem", where="--config.problems", todo="for example mlp_64 or cnn_50")


if __name__ == "__main__":
    cli.run(main, Config)
