"""Where does the time of a training step go on a CPU, and that of a start?

    python -m experiments.benchmarks.profile                               # not part of `make bench`
    python -m experiments.benchmarks.profile --config.problems=cnn_128

A step runs on one core, where what an operation takes is what it computes, and jax's own profiler tells it of each.
Beside it PyTorch in eager mode, channels last, on the same core. A start is timed in a process of its own that finds
its programs on disk, on all cores.

    a step on one core                       MLP, 64    CNN, 128    WRN-16-4, 16    ResNet-18, 16
    jaxtl                                   0.366 ms       12 ms          438 ms           610 ms
    PyTorch, eager, ÷ jaxtl                     1.86        0.91            0.89             0.95
    convolutions                               0.000       0.728           0.901            0.884
    matrix products                            0.866       0.003           0.004            0.000
    sums, by YNNPACK                           0.007       0.081           0.022            0.015
    transposes and copies                      0.007       0.042           0.039            0.047
    loops over elements, and what is left      0.121       0.147           0.034            0.054
    share of the peak while they multiply       0.73        0.52            0.83             0.86

    a second start, seconds
    Python and imports                          0.76        0.72            0.76             0.78
    first parameters                            0.25        0.33            0.68             0.82
    optimizer's state                           0.02        0.02            0.03             0.14
    tracing and lowering the step               0.08        0.21            0.79             0.62
    reading it from disk                        0.01        0.03            0.18             0.20
    first step                                  0.03        0.06            0.40             0.57
    together                                    1.15        1.37            2.85             3.13

By its defaults on 2 CPU cores (x86_64, AMD EPYC), huge pages on, Python 3.11, jax 0.10.2, PyTorch 2.13.0. On residual
networks XLA's convolutions, those of Eigen, take nine tenths of a step, at 0.83 to 0.86 of the peak. On WRN-16-4 they
alone take as long as all of PyTorch's step, 0.90 and 0.89 of ours; on ResNet-18 they would leave 0.07 for what else
there is, which takes 0.12. What they lack of the peak is spent on patches, which are copied for every convolution.

A second start compiles nothing, but imports, draws parameters and traces, which is Python; with what the first step
computes that is more than the 1.2 seconds that were the goal for a residual network.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
from rich.console import Console

from experiments.benchmarks.arithmetic import operations_of_step
from experiments.benchmarks.results import Findings, Once, duration, is_here, keep
from experiments.benchmarks.step import Networks
from experiments.benchmarks.variants import make_problem, save_problem, title_of
from experiments.benchmarks.workers import ONE_THREAD, Worker, on_one_core
from jaxtl import cli
from jaxtl.errors import InputError
from jaxtl.loop import raise_if_stopped
from jaxtl.report import Section, Table

KINDS = {  # words, and how the names begin that XLA gives to such operations
    "convolutions": ("conv",),
    "matrix products": ("dot",),
    "sums, by YNNPACK": ("ynn",),
    "transposes and copies": ("transpose", "copy"),
}
REST = "loops over elements, and what is left"
INSIDE_COUNTED = ("while", "call", "conditional")  # what is within them is told by itself


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: for a look at the tables
    problems: Networks = ("mlp_64", "cnn_128", "wrn_16", "resnet_16")  # as for benchmarks.step
    seconds: Annotated[float, cli.Within(0.01, 60)] = 2.0  # that are profiled, and measured without it

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"problems": ("mlp_4",), "seconds": 0.05}}


def by_kind(operations: dict[str, float]) -> dict[str, float]:
    """Shares of a program's time."""
    found: defaultdict[str, float] = defaultdict(float)
    for name, seconds in operations.items():
        if not name.startswith(INSIDE_COUNTED):
            found[next((words for words, begin in KINDS.items() if name.startswith(begin)), REST)] += seconds
    whole = sum(found.values())
    return {words: found[words] / whole for words in (*KINDS, REST)}


def start_of(name: str) -> dict[str, float]:
    """Seconds of every part of a second start, in their order."""
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            raise_if_stopped(f"before a start of {name}")
            began = time.perf_counter()
            with Worker("jax_step", name, cache) as worker:
                ended = worker.ask("stages")
    times = [began, *ended.values()]  # the clock is that of the machine
    return {stage: after - before for stage, before, after in zip(ended, times, times[1:], strict=False)}


def step_of(name: str, seconds: float) -> dict[str, Any]:
    """Seconds of a step of either library on one core, shares of ours by kind, and the most operations a second."""
    problem, size = make_problem(name), {"edge": 2048, "images": 32}
    with tempfile.TemporaryDirectory() as room:
        save_problem(problem, file := Path(room, "problem.npz"))

        def per_step(worker: Worker, **asked: Any) -> tuple[float, int]:
            worker.ask("block", steps=1, **asked)
            steps = max(1, round(seconds / worker.ask("block", steps=1, **asked)["seconds"]))
            return worker.ask("block", steps=steps, **asked)["seconds"] / steps, steps

        with Worker("jax_step", name, "", environment=ONE_THREAD) as worker:
            ours, steps = per_step(worker, variant_name="plain")
            found = {"jaxtl": ours, "shares": by_kind(worker.ask("profile", variant_name="plain", steps=steps))}
            rates = worker.ask("fastest", calls=4, **size)
        if is_here("torch"):
            with Worker("torch_step", str(file), environment=ONE_THREAD) as worker:
                found["torch"] = per_step(worker)[0]
                rates |= {f"{what} in PyTorch": rate for what, rate in worker.ask("fastest", calls=4, **size).items()}
    return found | {"operations": operations_of_step(problem), "peak": max(rates.values())}


def of_the_peak(found: dict[str, Any]) -> float:
    """Which share of the most operations a second convolutions and matrix products have while they run."""
    while_they_run = found["jaxtl"] * (found["shares"]["convolutions"] + found["shares"]["matrix products"])
    return found["operations"] / while_they_run / found["peak"]


def step_section(steps: dict[str, dict[str, Any]]) -> Section:
    rows = [["jaxtl", *(duration(found["jaxtl"]) for found in steps.values())]]
    if all("torch" in found for found in steps.values()):
        rows.append(["PyTorch, eager, ÷ jaxtl", *(f"{f['torch'] / f['jaxtl']:.2f}" for f in steps.values())])
    rows += [[words, *(f"{found['shares'][words]:.3f}" for found in steps.values())] for words in (*KINDS, REST)]
    rows.append(["share of the peak", *(f"{of_the_peak(found):.2f}" for found in steps.values())])
    peak = max(found["peak"] for found in steps.values())
    lines = [
        f"Peak: the most that was measured of either library on one core, {peak / 1e9:.0f} · 10⁹ operations a second. "
        "What share of it convolutions and products have while they run.",
    ]
    return Section("A step on one core", [Table(["", *map(title_of, steps)], rows)], lines)


def start_section(starts: dict[str, dict[str, float]]) -> Section:
    stages = next(iter(starts.values()))
    rows = [[stage, *(duration(found[stage]) for found in starts.values())] for stage in stages]
    rows.append(["together", *(duration(sum(found.values())) for found in starts.values())])
    return Section(
        "A second start", [Table(["from python to the end of the first step", *map(title_of, starts)], rows)]
    )


def measure(config: Config, console: Console, once: Once) -> Findings:
    starts, steps = {}, {}
    for name in config.problems:
        console.print(f"starting {title_of(name)}")
        starts[name] = once(f"start-{name}", partial(start_of, name))
    on_one_core()
    for name in config.problems:
        raise_if_stopped(f"before {name}")
        console.print(f"measuring {title_of(name)}")
        steps[name] = once(f"step-{name}", partial(step_of, name, config.seconds))
    numbers: dict[str, float] = {}
    for name, found in steps.items():
        numbers |= {f"profile/{name}/{side}/seconds": found[side] for side in ("jaxtl", "torch") if side in found}
        numbers |= {f"profile/{name}/{re.sub(r'[ ,]+', '_', words)}/share": v for words, v in found["shares"].items()}
        numbers[f"profile/{name}/share_of_peak"] = of_the_peak(found)
        numbers |= {f"profile/{name}/start/{stage}/seconds": value for stage, value in starts[name].items()}
    return Findings([step_section(steps), start_section(starts)], numbers, {"steps": steps, "starts": starts})


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    if jax.default_backend() != "cpu":
        what, todo = "knows the operations of a CPU", "set JAX_PLATFORMS=cpu"
        raise InputError(what, where="benchmarks.profile", todo=todo)
    keep("benchmarks.profile", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
