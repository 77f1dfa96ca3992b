"""Sweeps of `experiments.benchmarks.selection`: seconds beside the same runs one by one, and memory against K.

As a program, `python -m ...sweeps`, it is a process without anything compiled that runs one sweep or one run.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.benchmarks.results import Findings, duration
from experiments.benchmarks.variants import timed
from experiments.benchmarks.workers import ONE_THREAD, Worker, on_one_core, serve
from jaxtl import bounds
from jaxtl.data import Split, image_batches, on_device
from jaxtl.labels import NEW, TRANSFERRED, label_params, label_set
from jaxtl.loop import raise_if_stopped
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, initialise
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.report import Section, Table
from jaxtl.step import Context, Fixed, init_state, make_epoch, make_train_step, program_of, total_gradient
from jaxtl.sweep import sweep

CLASSES = 10


class Kind(NamedTuple):
    """A model, the shape of its inputs, and how long it is trained."""

    trunk: Any
    shape: tuple[int, ...]
    batch_size: int
    steps: int


KINDS = {
    "head": Kind(Mlp(()), (512,), 128, 400),
    "mlp": Kind(Mlp((128,)), (784,), 64, 400),
    "cnn": Kind(Cnn((16, 32, 64), "group", 1), (16, 16, 3), 50, 40),
}
Problems = Annotated[tuple[Annotated[str, bounds.OneOf("problem", KINDS)], ...], bounds.Items(1, distinct=True)]
Size = Annotated[int, bounds.Within(1, 10_000)]
Sizes = Annotated[tuple[Size, ...], bounds.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Which sweeps are measured: fields of the Config of `experiments.benchmarks.selection`."""

    problems: Problems = ("head", "mlp", "cnn")
    sizes: Sizes = (1, 4, 16, 64)  # configurations of a sweep
    processes: Size = 32  # configurations of the sweep that is held against fresh processes
    started: bounds.Trials = 3  # fresh processes that are really started; their median stands for the others
    rounds: bounds.Trials = 3  # blocks of every way, taken in turns; medians
    memory_sizes: Sizes = (1, 4, 16, 64)  # configurations of the sweeps whose memory is measured
    budget: bounds.Count = 32  # MiB that such a sweep may use besides data and waiting states


class Runs:
    """A grid over λ by label and the learning rate, trained by `sweep` or one run after another."""

    def __init__(self, name: str):
        kind = KINDS[name]
        self.name, self.steps = name, kind.steps
        random = np.random.default_rng(0)
        images, labels = random.normal(size=(2000, *kind.shape)).astype(np.float32), np.arange(2000) % CLASSES
        model = Classifier(kind.trunk, (("head", CLASSES),))
        self.params = initialise(model, jax.random.key(0), kind.shape)
        has_trunk = "trunk" in self.params
        of = label_params(self.params, [("head/.*", NEW), *([(".*", TRANSFERRED)] if has_trunk else [])])
        towards = {NEW: Term(0.0, l2)} | ({TRANSFERRED: Term(0.0, l2, ("anchor",))} if has_trunk else {})
        tx = per_label(of, {label: Group(0.1) for label in label_set(of)}, momentum=0.9)
        forward = as_forward(model)
        loss_fn = make_loss_fn(forward, {"task": Term(1.0, mean_of(softmax_cross_entropy))}, labelled(of, towards))
        channels = np.zeros(kind.shape[-1]), np.ones(kind.shape[-1])
        self.step = make_train_step(total_gradient(loss_fn), tx, image_batches(kind.batch_size, *channels))
        self.data = on_device(Split(images, labels), jax.random.key(1))
        self.rates = tuple(f"penalty/{label}" for label in towards)
        self.given = {"anchor": self.params}

        def init(point):
            return init_state(self.params, tx, jax.random.key(2)), point

        def score(state, data, fixed):
            batch = {"image": data["image"][:200], "label": data["label"][:200]}
            outputs, _ = forward(state.params, {}, batch, Context(0, None, {}, {}, train=False))
            return -jnp.mean(softmax_cross_entropy(outputs["head"], batch["label"]))

        self.init, self.score, self.start = init, score, jax.jit(init)
        self.train = make_epoch(self.step, kind.steps)

    def grid(self, size: int) -> dict[str, np.ndarray]:
        rates = {name: np.geomspace(1e-4, 1e-1, size) for name in self.rates}
        return rates | {"learning_rate/new": np.geomspace(0.001, 0.1, size)}

    def by_sweep(self, size: int, batching: str = "auto", memory: int | None = None) -> np.ndarray:
        """Scores [K], by `sweep`; see there for `memory`."""
        result = sweep(
            self.init,
            self.train,
            self.score,
            self.grid(size),
            self.data,
            self.given,
            batching=batching,
            memory=memory,
        )
        return result.scores

    def one_by_one(self, size: int) -> np.ndarray:
        """The same program for every run, compiled once."""
        run, scores = program_of(self.step, self.steps), []
        for k in range(size):
            point = {name: np.float32(column[k]) for name, column in self.grid(size).items()}
            state, rates = self.start(point)
            state, _ = run(state, self.data, Fixed(rates, self.given))
            scores.append(self.score(state, self.data, None))
        return np.asarray(jnp.stack(scores))


def by_process(way: str, name: str, size: int, **how: Any) -> tuple[float, int]:
    """Seconds from `python` to the scores, of a sweep or of one run, in a process that finds nothing compiled; and its
    peak memory, bytes."""
    began = time.perf_counter()
    with Worker("sweeps", environment={"JAX_ENABLE_COMPILATION_CACHE": "false"}) as worker:
        worker.ask("run", way=way, name=name, size=size, how=how)
        return time.perf_counter() - began, worker.ask("memory")


def run(way: str, name: str, size: int, how: dict[str, Any]) -> None:
    """What such a process does."""
    getattr(Runs(name), way)(size, **how)


def medians(
    ways: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """(seconds of the first call, which compiles; median seconds of the others, taken in turns; last results)."""
    first = {name: timed(work)[0] for name, work in ways.items()}
    later: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(rounds):
        for name, work in ways.items():
            raise_if_stopped(f"before {name}")
            seconds, results[name] = timed(work)
            later[name].append(seconds)
    return first, {name: float(np.median(taken)) for name, taken in later.items()}, results


def against_one_by_one(name: str, size: int, rounds: int) -> dict[str, Any]:
    """What such a process measures: seconds of a sweep and of the same runs one after another, and how far apart."""
    runs = Runs(name)
    ways = {"sweep": partial(runs.by_sweep, size), "one by one": partial(runs.one_by_one, size)}
    first, later, results = medians(ways, rounds)
    gap = float(np.max(np.abs(results["sweep"] - results["one by one"])))
    return {"first": first, "seconds": later, "largest_difference": gap}


def on_a_core(name: str, size: int, rounds: int) -> float:
    """Seconds of so many runs one after another in a process that has one core."""
    with Worker("sweeps", "one_core", environment=ONE_THREAD) as worker:
        return worker.ask("one_after_another", name=name, size=size, rounds=rounds)


def one_after_another(name: str, size: int, rounds: int) -> float:
    """What such a process measures."""
    ways = {"one by one": partial(Runs(name).one_by_one, size)}
    return medians(ways, rounds)[1]["one by one"]


def device_counts() -> tuple[int, ...]:
    """One device, and on a CPU also one for each of its cores: what JAX_NUM_CPU_DEVICES asks for."""
    cores = min(os.cpu_count() or 1, 8) if jax.default_backend() == "cpu" else 1
    return (1, cores) if cores > 1 else (1,)


def of_problem(name: str, config: SweepConfig, console: Console) -> dict[str, Any]:
    """Seconds of fresh processes, and of sweeps and runs one after another by "size/devices"; of these on one core."""
    found: dict[str, Any] = {}
    console.print(f"measuring {config.started} fresh processes, {name}")
    single = float(np.median([by_process("one_by_one", name, 1)[0] for _ in range(config.started)]))
    whole, _ = by_process("by_sweep", name, config.processes)
    found["fresh"] = {"one_run": single, "sweep": whole, "configurations": config.processes}
    for devices in device_counts():
        with Worker("sweeps", environment={"JAX_NUM_CPU_DEVICES": str(devices)}) as worker:
            for size in config.sizes:
                raise_if_stopped(f"before a sweep of {size}")
                console.print(f"measuring a sweep of {size}, {name}, {devices} at a time")
                asked = {"name": name, "size": size, "rounds": config.rounds}
                found[f"{size}/{devices}"] = worker.ask("against_one_by_one", **asked)
    if max(device_counts()) > 1:
        raise_if_stopped("before runs on one core")
        found["one_core"] = on_a_core(name, max(config.sizes), config.rounds)
    return found


def sweeps(config: SweepConfig, console: Console) -> Findings:
    rows, figures, most = [], {}, []
    numbers: dict[str, float] = {}
    largest = max(config.sizes)
    for name in config.problems:
        found = figures[name] = of_problem(name, config, console)
        fresh = found["fresh"]
        numbers |= {f"sweep/{name}/fresh/{way}/seconds": fresh[way] for way in ("one_run", "sweep")}
        gained = f"{config.processes * fresh['one_run'] / fresh['sweep']:.1f} ({duration(fresh['sweep'])})"
        for devices in device_counts():
            cells = []
            for size in config.sizes:
                seconds, base = (found[f"{size}/{number}"]["seconds"] for number in (devices, 1))
                numbers |= {f"sweep/{name}/{size}/{devices}/{way}/seconds": seconds[way] for way in seconds}
                cells.append(f"{base['one by one'] / seconds['sweep']:.2f} ({duration(seconds['sweep'])})")
            rows.append([name, *cells, gained] if devices == 1 else [f"{name}, {devices} CPU devices", *cells, ""])
        if "one_core" in found:
            numbers[f"sweep/{name}/{largest}/one_core/seconds"] = found["one_core"]
            gain = max(device_counts()) * found[f"{largest}/1"]["seconds"]["one by one"] / found["one_core"]
            most.append(f"{name} {gain:.2f}")
    return Findings([sweep_section(config, rows, most)], numbers, {"sweeps": figures})


def sweep_section(config: SweepConfig, rows: list[list[str]], most: list[str]) -> Section:
    """The table, how it was measured, and the most that cores can gain, by problem."""
    columns = ["problem", *(f"K = {size}" for size in config.sizes), f"fresh processes, K = {config.processes}"]
    lines = [
        "How many times as long the same runs take one after another, compiled once, on one device; in brackets the "
        "sweep's seconds.",
        f"Fresh processes: {config.processes} × the median of {config.started} that were started, against one process "
        "that starts, compiles and sweeps; nothing is found compiled on disk.",
    ]
    if most:
        cores, largest = max(device_counts()), max(config.sizes)
        lines += [
            "A device for each core: JAX_NUM_CPU_DEVICES in the environment.",
            f"What {cores} cores gain at most by a configuration each, as fast as where there is one core only, beside "
            f"all of them on one, K = {largest}: {', '.join(most)}. Only what configurations share can add to that.",
        ]
    return Section("Sweeps", [Table(columns, rows)], lines)


def memory_of_sweeps(config: SweepConfig, console: Console) -> Findings:
    """Peak memory of a process that sweeps the MLP side by side, without and with a budget, against K."""
    peaks: dict[str, dict[str, int]] = {"without": {}, "with": {}}
    for size in config.memory_sizes:
        for kind, memory in (("without", None), ("with", 2**20 * config.budget)):
            raise_if_stopped(f"before the memory of a sweep of {size}")
            console.print(f"measuring the memory of a sweep of {size}, {kind} a budget")
            _, peaks[kind][str(size)] = by_process("by_sweep", "mlp", size, batching="vmap", memory=memory)
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(Runs("mlp").init({})[0]))
    numbers = {
        f"sweep/memory/{size}/{kind}_budget/bytes": float(peak)
        for kind, found in peaks.items()
        for size, peak in found.items()
    }
    section = memory_section(config, state, peaks)
    return Findings([section], numbers, {"sweep_memory": {"state": state, "budget": config.budget, "peaks": peaks}})


def memory_section(config: SweepConfig, state: int, peaks: Mapping[str, Mapping[str, int]]) -> Section:
    """Peaks by K, and what they are beyond the states that wait, which no budget makes fewer."""
    sizes, smallest = config.memory_sizes, min(config.memory_sizes)

    def mebibytes(count: float) -> str:
        return f"{count / 2**20:.0f} MiB"

    words = {"without": "peak of the process", "with": f"peak with a budget of {config.budget} MiB"}
    rows = [["all states, waiting", *(mebibytes(size * state) for size in sizes)]]
    rows += [[words[kind], *map(mebibytes, (peaks[kind][str(size)] for size in sizes))] for kind in words]
    most = {
        kind: max(found[str(size)] - found[str(smallest)] - (size - smallest) * state for size in sizes)
        for kind, found in peaks.items()
    }
    line = (
        f"MLP 784-128-10, side by side, each sweep in a process of its own. More than K = {smallest} and the further "
        f"states, which wait: at most {mebibytes(most['with'])} with the budget and {mebibytes(most['without'])} "
        "without."
    )
    return Section("Memory of a sweep", [Table(["memory", *(f"K = {size}" for size in sizes)], rows)], [line])


if __name__ == "__main__":
    if sys.argv[1:] == ["one_core"]:
        on_one_core()
    serve(run=run, against_one_by_one=against_one_by_one, one_after_another=one_after_another)
