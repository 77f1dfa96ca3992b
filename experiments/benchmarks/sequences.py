"""How fast are models of texts beside PyTorch's: bidirectional LSTMs of two sizes, and MiniLM-L6?

    python -m experiments.benchmarks.sequences                                    # part of `make bench`
    python -m experiments.benchmarks.sequences --config.models=default --config.rounds=3

Every library in a process of its own, on one and the same core, in turns. What is told is the time of the processor
and not that of a clock, so that what else the machine does counts little: PyTorch's ÷ ours, each round by itself, so
that more than 1 is faster than PyTorch. A step is forwards, backwards and Adam, several in a dispatch as in `fit`; all
texts are as long as the rows. PyTorch's LSTM takes them "padded", one array, or "packed", as texts of several lengths
need it for the last state to be that of the last word; ours is told by the words themselves.

    PyTorch ÷ jaxtl                     features            features, packed    training step       step, packed
    BiLSTM 64, one layer                0.90 (0.89–0.93)    0.93 (0.93–0.94)    1.05 (1.04–1.06)    1.08 (1.08–1.11)
    BiLSTM 256, two layers, dropout     0.91 (0.91–0.92)    0.91 (0.91–0.92)    0.98 (0.98–0.99)    0.99 (0.97–1.00)
    MiniLM-L6                           1.14 (1.13–1.14)           –            0.97 (0.97–0.97)           –

By --config.rounds=5 --config.calls=2, medians and quartiles, on one of 2 quiet CPU cores (x86_64, AMD EPYC), huge pages
on, Python 3.11, jax 0.10.2, PyTorch 2.13.0. A step took 29 ms, 0.65 s and 0.88 s of the processor. A process whose turn
comes does what it is asked twice, and the second time counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from rich.console import Console

from experiments.benchmarks.results import Findings, Once, duration, is_here, keep
from experiments.benchmarks.workers import ONE_THREAD, Worker
from jaxtl import cli
from jaxtl.loop import raise_if_stopped
from jaxtl.report import Section, Table


class Size(NamedTuple):
    """What is measured of a model: its title, and batches of so many texts of so many tokens."""

    title: str
    batch: int
    tokens: int
    packs: bool  # whether PyTorch has two ways


MODELS = {
    "default": Size("BiLSTM 64, one layer", 32, 128, True),
    "classic": Size("BiLSTM 256, two layers, dropout", 32, 128, True),
    "minilm": Size("MiniLM-L6", 16, 64, False),
}
SIDES = {"jaxtl": ("jax_sequences",), "padded": ("torch_sequences", "padded"), "packed": ("torch_sequences", "packed")}
WORK = {"forward": "features", "step": "training step"}
Models = Annotated[tuple[Annotated[str, cli.OneOf("model", MODELS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # quick: what make bench takes; smoke: for a look at the tables
    models: Models = tuple(MODELS)
    rounds: cli.Trials = 15  # of every side, taken in turns
    calls: cli.Count = 10  # forwards, or steps in a dispatch
    shrink: cli.Count = 1  # so many times fewer texts in a batch, and tokens in a text

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"models": ("default", "minilm"), "rounds": 3, "calls": 1},
        "smoke": {"models": ("default",), "rounds": 1, "calls": 1, "shrink": 16},
    }


def measure_model(name: str, config: Config) -> dict[str, dict[str, list[float]]]:
    """{work: {side: seconds of a call, by round}}."""
    size = MODELS[name]
    sides = [side for side in SIDES if side == "jaxtl" or (is_here("torch") and (size.packs or side == "padded"))]
    shape = [str(max(1, number // config.shrink)) for number in (size.batch, size.tokens)]
    seconds: dict[str, dict[str, list[float]]] = {work: {side: [] for side in sides} for work in WORK}
    with contextlib.ExitStack() as stack:
        asked = {}
        for side in sides:
            module, *way = SIDES[side]
            asked[side] = stack.enter_context(Worker(module, name, *shape, *way, environment=ONE_THREAD))
        for number in range(config.rounds + 1):  # the first compiles
            for work in WORK:
                for side, worker in asked.items():
                    raise_if_stopped(f"before round {number} of {config.rounds}")
                    took = worker.ask_again(work, calls=config.calls) / config.calls
                    seconds[work][side] += [took] if number else []
    return seconds


def ratios(seconds: dict[str, list[float]], side: str) -> list[float]:
    """Quartiles of PyTorch's ÷ ours, the median in the middle."""
    own = np.array(seconds[side]) / np.array(seconds["jaxtl"])
    return np.quantile(own, (0.25, 0.5, 0.75)).tolist()


def section_of(found: dict[str, dict[str, dict[str, list[float]]]]) -> Section:
    here = {side for works in found.values() for side in works["step"]}

    def cell(seconds: dict[str, list[float]], side: str) -> str:
        if side == "jaxtl":
            return duration(float(np.median(seconds[side])))
        if side not in seconds:
            return "–"
        low, ratio, high = ratios(seconds, side)
        return f"{ratio:.2f} ({low:.2f}–{high:.2f})"

    words = {"jaxtl": "jaxtl", "padded": "PyTorch ÷ jaxtl", "packed": "PyTorch, packed ÷ jaxtl"}
    columns = [(work, side) for work in WORK for side in SIDES if side in here]
    titles = [f"{WORK[work]}: {words[side]}" for work, side in columns]
    rows = [[MODELS[name].title, *(cell(works[work], side) for work, side in columns)] for name, works in found.items()]
    lines = [
        "medians over rounds, each against its own round; quartiles in brackets; more than 1 is faster than PyTorch"
    ]
    lines += [] if len(here) > 1 else ["PyTorch is not installed here: no comparison with it"]
    return Section("Models of texts, processor time on one core", [Table(["", *titles], rows)], lines)


def measure(config: Config, console: Console, once: Once) -> Findings:
    found = {}
    for name in config.models:
        console.print(f"measuring {MODELS[name].title}")
        found[name] = once(f"sequences-{name}", partial(measure_model, name, config))
    numbers = {
        f"sequences/{name}/{work}/{side}/seconds": float(np.median(times))
        for name, works in found.items()
        for work, sides in works.items()
        for side, times in sides.items()
    }
    return Findings([section_of(found)], numbers, {"sequences": found})


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    keep("benchmarks.sequences", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
