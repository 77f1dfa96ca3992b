"""How soon does a process train, how much memory does it take, and how fast do augmented images come?

    python -m experiments.benchmarks.machine                                      # part of `make bench`
    python -m experiments.benchmarks.machine --config.problems=mlp_64 --config.rounds=1

Every start is a process of its own, timed from before Python to the end of the first step: first with an empty
compilation cache, then with the one it has left, then PyTorch in eager mode; rounds of them in turns, medians. Memory
is the peak of a process after three steps, on a start that compiles nothing. Images are shifted, mirrored and
normalised in one program from an array on the device, and one by one by grain and by a `DataLoader`, in their own
process and in two more.

    from python to the end of the first step       MLP, 64    CNN, 128   ResNet-18, 16
    first start, all compiled                        2.9 s       5.0 s            11 s
    second start, programs on disk                   1.1 s       1.7 s           3.2 s
    PyTorch, eager                                   2.0 s       2.3 s           2.9 s
    peak memory: jaxtl; PyTorch, MiB              246; 307    291; 332        695; 643

    augmented images a second: jaxtl 467,000; DataLoader 23,000, with 2 processes 24,000; grain 5,300 and 16,000

By `make bench` on 2 quiet CPU cores (x86_64, AMD EPYC), huge pages on, Python 3.11, jax 0.10.2, PyTorch 2.13.0, grain
0.2.18. What a second start does, and why that of a residual network does not fall below the 1.2 seconds that were the
goal, is in `benchmarks.profile`.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from rich.console import Console

from experiments.benchmarks.results import Findings, Once, duration, is_here, keep
from experiments.benchmarks.variants import Network, make_problem, save_problem, title_of
from experiments.benchmarks.workers import Worker
from jaxtl import cli
from jaxtl.errors import InputError
from jaxtl.loop import raise_if_stopped
from jaxtl.report import Section, Table

Networks = Annotated[tuple[Annotated[str, Network()], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # quick: what make bench takes; smoke: seconds, for a look at the tables
    problems: Networks = ("mlp_64", "cnn_128", "wrn_16", "resnet_16")  # as for benchmarks.step
    rounds: cli.Trials = 3  # starts of every kind
    images: cli.Count = 20000  # of 32×32×3, in a pass
    batch_size: cli.Count = 128
    padding: Annotated[int, cli.Within(1, 31)] = 4

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"problems": ("mlp_64", "cnn_128", "resnet_16"), "rounds": 1, "images": 10000},
        "smoke": {"problems": ("mlp_64",), "rounds": 1, "images": 1000},
    }


STARTS = {
    "first": "first start, all compiled",
    "second": "second start, programs on disk",
    "torch": "PyTorch, eager",
}
WAYS = {  # of making batches: words, and processes beside the one that asks
    "jaxtl": {"jaxtl, inside the program": 0},
    "grain": {"grain, threads": 0, "grain, 2 processes": 2},
    "torch": {"DataLoader": 0, "DataLoader, 2 processes": 2},
}


# ---------------------------------------------------------------- starts and memory


def start(module: str, *arguments: str, **asked: Any) -> tuple[float, int]:
    """Seconds until a new process has taken its first step, and its peak memory, bytes, after two more."""
    began = time.perf_counter()
    with Worker(module, *arguments) as worker:
        worker.ask("block", steps=1, **asked)
        seconds = time.perf_counter() - began
        worker.ask("block", steps=2, **asked)
        return seconds, worker.ask("memory")


def measure_starts(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds and peak bytes of every kind of start."""
    found: dict[str, list[tuple[float, int]]] = {kind: [] for kind in STARTS if is_here("torch") or kind != "torch"}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "problem.npz")
        save_problem(make_problem(name), file)
        for number in range(rounds):
            raise_if_stopped(f"before start {number + 1} of {rounds}")
            cache = str(Path(directory, str(number)))
            for kind in found:
                if kind == "torch":
                    found[kind].append(start("torch_step", str(file)))
                else:
                    found[kind].append(start("jax_step", name, cache, variant_name="plain"))
    medians = {kind: np.median(np.array(values), axis=0).tolist() for kind, values in found.items()}
    return {kind: {"seconds": seconds, "bytes": peak} for kind, (seconds, peak) in medians.items()}


def start_section(starts: dict[str, dict[str, dict[str, float]]]) -> Section:
    kinds = [kind for kind in STARTS if kind in next(iter(starts.values()))]

    def cell(figures: dict[str, dict[str, float]], kind: str) -> str:
        ratio = figures[kind]["seconds"] / figures["second"]["seconds"]
        return f"1.00 = {duration(figures[kind]['seconds'])}" if kind == "second" else f"{ratio:.2f}"

    titles = [title_of(name) for name in starts]
    ends = [[STARTS[kind], *(cell(figures, kind) for figures in starts.values())] for kind in kinds]
    peaks = [
        [words, *(f"{figures[kind]['bytes'] / 2**20:.0f} MiB" for figures in starts.values())]
        for kind, words in (("second", "jaxtl"), ("torch", "PyTorch, eager"))
        if kind in kinds
    ]
    tables = [
        Table(["from python to the end of the first step", *titles], ends),
        Table(["peak memory of the process, three steps", *titles], peaks),
    ]
    lines = [] if "torch" in kinds else ["PyTorch is not installed here: no comparison with it"]
    return Section("Cold start and memory", tables, lines)


# ---------------------------------------------------------------- images


def measure_inputs(config: Config) -> dict[str, float]:
    """Images a second, by the words of `WAYS`."""
    asked = {"images": config.images, "batch_size": config.batch_size, "padding": config.padding}
    rates = {}
    for library, ways in WAYS.items():
        for words, processes in ways.items() if library == "jaxtl" or is_here(library) else ():
            raise_if_stopped(f"before {words}")
            with Worker("inputs") as worker:
                rates[words] = worker.ask(library, workers=processes, **asked)
    return rates


def input_section(rates: dict[str, float]) -> Section:
    ours = next(iter(rates.values()))
    table = Table(
        ["augmented images", "a second", "of ours"],
        [[words, f"{rate:,.0f}", f"{rate / ours:.3f}"] for words, rate in rates.items()],
    )
    lines = [
        f"{words} is not installed here: no comparison with it"
        for library, words in (("grain", "grain"), ("torch", "PyTorch"))
        if not is_here(library)
    ]
    return Section("Input rate", [table], lines)


# ---------------------------------------------------------------- all of it


def measure(config: Config, console: Console, once: Once) -> Findings:
    starts = {}
    for name in config.problems:
        console.print(f"starting {title_of(name)}")
        starts[name] = once(f"start-{name}", partial(measure_starts, name, config.rounds))
    console.print("measuring the input rate")
    rates = once("inputs", partial(measure_inputs, config))
    numbers = {f"inputs/{words}/images_per_second": rate for words, rate in rates.items()}
    for name, kinds in starts.items():
        for kind, figures in kinds.items():
            numbers |= {f"start/{name}/{kind}/{what}": value for what, value in figures.items()}
    return Findings([start_section(starts), input_section(rates)], numbers, {"starts": starts, "inputs": rates})


def check(config: Config) -> None:
    cli.check(config)
    what = f"{config.images:,} images of 32×32×3"
    cli.refuse_beyond_memory(2.0 * 3072 * config.images, what, where="--config.images", todo="use fewer")
    if config.batch_size > config.images:
        raise InputError(f"{config.batch_size} is more than {config.images} images", where="--config.batch_size")


def main(config: Config, workdir: Path) -> None:
    check(config)
    keep("benchmarks.machine", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
