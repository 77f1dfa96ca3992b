"""How soon does a process train, how much memory does it take, and how fast do augmented images come?

    python -m experiments.benchmarks.machine                                      # three minutes on 2 CPU cores
    python -m experiments.benchmarks.machine --config.problems=mlp_64 --config.rounds=1

Every start is a process of its own, timed from before Python to the end of the first step: first with an empty
compilation cache, then with the one it has left, then PyTorch in eager mode; rounds of them in turns, medians. Memory
is the peak of a process after three steps, on a start that compiles nothing. Images are shifted, mirrored and
normalised in one program from an array on the device, and by a `DataLoader` in processes of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.benchmarks.step import LEARNING_RATE, MOMENTUM, duration, timed, torch_is_here
from experiments.benchmarks.variants import Problem, make_problem
from jaxtl import backend, cli
from jaxtl.data import Split, image_batches, on_device
from jaxtl.errors import InputError
from jaxtl.loop import refuse_stop
from jaxtl.report.tables import Table
from jaxtl.trees import named_leaves


@dataclasses.dataclass(frozen=True)
class Config:
    problems: tuple[str, ...] = ("mlp_64", "cnn_50", "wrn_16")  # as for benchmarks.step
    rounds: int = 3  # starts of every kind
    images: int = 10000  # of 32×32×3, in a pass
    batch_size: int = 128
    padding: int = 4


HERE = Path(__file__).parent
STARTS = {
    "first": "first start, all compiled",
    "second": "second start, programs on disk",
    "torch": "PyTorch, eager",
}


# ---------------------------------------------------------------- starts and memory


def start(command: list[str], request: str = "") -> tuple[float, dict[str, Any]]:
    """Seconds until a process writes its first line, and the JSON in its last."""
    began = time.perf_counter()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=HERE.parents[1], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.close()
        lines = [process.stdout.readline()]
        seconds = time.perf_counter() - began
        lines += process.stdout.readlines()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, json.loads(lines[-1])


def save_problem(problem: Problem, file: Path) -> Path:
    """What PyTorch's side reads."""
    arrays: dict[str, Any] = {**named_leaves(problem.params), **problem.batch}
    np.savez(file, **arrays, learning_rate=LEARNING_RATE, momentum=MOMENTUM)
    return file


def measure_starts(name: str, rounds: int, torch: bool) -> dict[str, dict[str, float]]:
    """Median seconds and peak bytes of every kind of start."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in STARTS if torch or kind != "torch"}
    with tempfile.TemporaryDirectory() as directory:
        file = save_problem(make_problem(name, {name.partition("_")[0]: 1}), Path(directory, "problem.npz"))
        steps = [json.dumps({"problem": str(file), "steps": count, "threads": 0}) for count in (1, 2)]
        for number in range(rounds):
            refuse_stop(f"before start {number + 1} of {rounds}")
            cache = str(Path(directory, str(number)))
            ours = [sys.executable, "-m", "experiments.benchmarks.first_step", name, cache]
            theirs = [sys.executable, str(HERE / "torch_step.py")]
            for kind in found:
                seconds, said = start(theirs, "\n".join(steps)) if kind == "torch" else start(ours)
                found[kind].append((seconds, said["peak"]))
    medians = {kind: np.median(np.array(values), axis=0).tolist() for kind, values in found.items()}
    return {kind: {"seconds": seconds, "peak": peak} for kind, (seconds, peak) in medians.items()}


# ---------------------------------------------------------------- images


def our_rate(config: Config, passes: int = 3) -> float:
    """Images a second that are sampled, shifted, mirrored and normalised inside one program, from a uint8 array."""
    images = np.random.default_rng(0).integers(0, 256, (config.images, 32, 32, 3), np.uint8)
    data = on_device(Split(images, np.zeros(config.images, np.int32)), jax.random.key(0))
    prepare = image_batches(config.batch_size, np.full(3, 127.0), np.full(3, 64.0), crop=config.padding, flip=True)
    batches = config.images // config.batch_size

    @jax.jit
    def one_pass(data, rng):
        def batch(total, step):
            made = prepare(data, jax.random.fold_in(rng, step), step)["image"]
            return total + jnp.sum(made), None  # every pixel is used, or none would be made

        return jax.lax.scan(batch, jnp.float32(0), jnp.arange(batches))[0]

    seconds = [timed(one_pass, data, jax.random.key(number))[0] for number in range(passes + 1)]
    return batches * config.batch_size / float(np.median(seconds[1:]))


def torch_rate(config: Config, workers: int) -> float:
    asked = {"images": config.images, "batch": config.batch_size, "padding": config.padding, "workers": workers}
    return start([sys.executable, str(HERE / "torch_inputs.py")], json.dumps(asked))[1]["rate"]


def measure_inputs(config: Config, torch: bool) -> dict[str, float]:
    rates = {"jaxtl": our_rate(config)}
    if torch:
        rates |= {"torch": torch_rate(config, 0), "torch, 2 workers": torch_rate(config, 2)}
    return rates


# ---------------------------------------------------------------- what came out


def tables_of(starts: dict[str, dict[str, dict[str, float]]], rates: dict[str, float]) -> list[Table]:
    kinds = [kind for kind in STARTS if kind in next(iter(starts.values()))]

    def cell(figures: dict[str, dict[str, float]], kind: str) -> str:
        ratio = figures[kind]["seconds"] / figures["second"]["seconds"]
        return f"1.00 = {duration(figures[kind]['seconds'])}" if kind == "second" else f"{ratio:.2f}"

    ends = [[STARTS[kind], *(cell(figures, kind) for figures in starts.values())] for kind in kinds]
    peaks = [
        [name, *(f"{figures[kind]['peak'] / 2**20:.0f} MiB" for figures in starts.values())]
        for kind, name in (("second", "jaxtl"), ("torch", "PyTorch, eager"))
        if kind in kinds
    ]
    images = [[name, f"{rate:,.0f}", f"{rate / rates['jaxtl']:.3f}"] for name, rate in rates.items()]
    return [
        Table(["from python to the end of the first step", *starts], ends),
        Table(["peak memory of the process, three steps", *starts], peaks),
        Table(["augmented images", "a second", "of ours"], images),
    ]


def main(config: Config, workdir: Path) -> None:
    check(config)
    console, torch = Console(highlight=False), torch_is_here()
    starts = {}
    for name in config.problems:
        console.print(f"starting {name}")
        starts[name] = measure_starts(name, config.rounds, torch)
    rates = measure_inputs(config, torch)
    tables = tables_of(starts, rates)
    for table in tables:
        console.print(table.rich() if console.is_terminal else table.plain() + "\n", soft_wrap=not console.is_terminal)
    versions = backend.versions() | ({"torch": metadata.version("torch")} if torch else {})
    lines = [
        f"Device: {backend.describe_device()}",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"Huge pages: {os.environ.get('GLIBC_TUNABLES') or 'not asked for; make bench does'}",
        *([] if torch else ["PyTorch is not installed here: no comparison with it"]),
        f"Command: `{cli.command('benchmarks.machine', config)}`",
    ]
    points = "\n".join(f"- {line}" for line in lines)
    numbers = {"experiment": "benchmarks.machine", "config": dataclasses.asdict(config), "versions": versions}
    texts = {
        "summary.md": "\n\n".join(["# Starts, memory, images", *(table.markdown() for table in tables), points]),
        "summary.json": json.dumps(numbers | {"notes": lines, "starts": starts, "images_per_second": rates}, indent=1),
    }
    for name, text in texts.items():
        (workdir / name).write_text(text + "\n", encoding="utf-8")
        console.print(f"wrote {workdir / name}", soft_wrap=True)


def check(config: Config) -> None:
    for flag in ("rounds", "images", "batch_size", "padding"):
        if getattr(config, flag) < 1:
            raise InputError(f"{getattr(config, flag)} is less than 1", where=f"--config.{flag}")
    if config.batch_size > config.images:
        raise InputError(f"{config.batch_size} is more than {config.images} images", where="--config.batch_size")
    for name in config.problems or ("",):
        make_problem(name, {name.partition("_")[0]: 1})


if __name__ == "__main__":
    cli.run(main, Config)
