"""How fast is a pretrained trunk beside PyTorch's, and are its weights what they are said to be?

    python -m experiments.benchmarks.trunks                                       # part of `make bench`
    python -m experiments.benchmarks.trunks --config.draws=10 --config.classes=dog,frog,horse,ship,truck

EfficientNet-Lite0, images a second, each library in a process of its own, in turns: what PyTorch takes ÷ what jaxtl
takes, so that more than 1 is faster than PyTorch. With `draws` also the accuracy of a linear probe: logistic regression
on the features of 20 labelled images a class, λ by five folds, judged by 2,000 test images.

                                              features, 64 px   features, 96 px   step, 64 px   step, 96 px
    jaxtl, images a second                               1785               716           319           155
    PyTorch's time ÷ ours, channels last                 1.34              1.18          1.16          1.11
    PyTorch's time ÷ ours, as it is by itself            1.91              1.50          2.13          1.79

By --config.rounds=9, medians, on 2 quiet CPU cores (x86_64, AMD EPYC), huge pages on, Python 3.11, jax 0.10.2, PyTorch
2.13.0. Three runs of `make bench`, with 3 and 5 rounds at 96 px, gave 1.11, 1.20 and 0.80 for features and 1.20, 1.11
and 0.79 for a step, channels last: on a machine that others share a single run may say either.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.benchmarks.results import Findings, Once, is_here, keep
from experiments.benchmarks.workers import Worker
from jaxtl import cli
from jaxtl.data import by_class, load, per_class
from jaxtl.loop import raise_if_stopped
from jaxtl.models.pretrained import load_trunk
from jaxtl.report import Section, Table
from jaxtl.selection import logistic_path
from jaxtl.writers import Progress

TRUNK, TESTED, AT_ONCE = "efficientnet_lite0", 2000, 50
LAMBDAS = np.logspace(-4, 2, 13)
SIDES = {"jaxtl": ("jax_trunk",), "torch": ("torch_trunk", "last"), "torch_first": ("torch_trunk", "first")}
WORDS = {
    "jaxtl": "jaxtl, images a second",
    "torch": "PyTorch's time ÷ ours, channels last",
    "torch_first": "PyTorch's time ÷ ours, as it is by itself",
}
WORK = {"forward": "features", "step": "training step"}


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # quick: what make bench takes; smoke: for a look at the tables
    edges: cli.Counts = (64, 96)  # of the images, in pixels
    batch_size: cli.Count = 32
    rounds: cli.Trials = 7  # of every side, taken in turns
    draws: Annotated[int, cli.Within(0, 1000)] = 0  # of labelled images for the probe; 0 leaves it out
    n_per_class: Annotated[int, cli.Within(5, 1000)] = 20
    data: cli.Place = "cifar10"
    classes: cli.Words = ()  # of them; none are all

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"edges": (96,), "rounds": 3},
        "smoke": {"edges": (32,), "batch_size": 2, "rounds": 1},
    }


def measure_speed(edge: int, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """{work: {side: images a second}}, medians of rounds."""
    sides = {name: side for name, side in SIDES.items() if name == "jaxtl" or is_here("torch")}
    seconds: dict[str, dict[str, list[float]]] = {work: {name: [] for name in sides} for work in WORK}
    with contextlib.ExitStack() as stack:
        asked = {
            name: stack.enter_context(Worker(module, str(edge), str(batch_size), *rest))
            for name, (module, *rest) in sides.items()
        }
        for number in range(rounds + 1):  # the first compiles
            for work in WORK:
                for name, worker in asked.items():
                    raise_if_stopped(f"before round {number} of {rounds}")
                    took = worker.ask_again(work, calls=1)
                    seconds[work][name] += [took] if number else []
    return {
        work: {name: batch_size / statistics.median(times) for name, times in sides_.items()}
        for work, sides_ in seconds.items()
    }


def speed_section(rates: dict[str, dict[str, dict[str, float]]]) -> Section:
    columns = [(edge, work) for work in WORK for edge in rates]

    def cell(name: str, edge: str, work: str) -> str:
        ours = rates[edge][work]["jaxtl"]
        return f"{ours:.0f}" if name == "jaxtl" else f"{ours / rates[edge][work][name]:.2f}"

    here = next(iter(rates.values()))["forward"]
    rows = [[WORDS[name], *(cell(name, *column) for column in columns)] for name in here]
    lines = [] if "torch" in here else ["PyTorch is not installed here: no comparison with it"]
    titles = [f"{WORK[work]}, {edge} px" for edge, work in columns]
    return Section("EfficientNet-Lite0", [Table(["", *titles], rows)], lines)


def featured(features: Callable[[Any], jax.Array], images: np.ndarray) -> np.ndarray:
    parts = [features(images[i : i + AT_ONCE]) for i in range(0, len(images), AT_ONCE)]
    return np.concatenate([np.asarray(part) for part in parts])


def measure_probe(config: Config) -> list[float]:
    """Accuracy of every draw."""
    trunk, dataset = load_trunk(TRUNK, progress=Progress), load(config.data, progress=Progress)
    dataset = by_class(dataset, config.classes) if config.classes else dataset
    variables = {"params": trunk.params, **trunk.model_state}
    mean, std = (jnp.array(row).reshape(1, 1, 1, -1) for row in (trunk.mean, trunk.std))

    @jax.jit
    def features(images):
        large = (len(images), trunk.size, trunk.size, images.shape[-1])
        pixels = jnp.clip(jax.image.resize(images.astype(jnp.float32), large, "cubic"), 0, 255)
        pixels = jnp.broadcast_to(pixels, (*large[:3], 3))  # grey ones too
        return trunk.model.apply(variables, (pixels - mean) / std, False)[0]

    order = np.random.default_rng(0).permutation(len(dataset.test))[:TESTED]
    test = dataset.test.take(order)
    known, found = featured(features, test.images), []
    for draw in range(config.draws):
        raise_if_stopped(f"before draw {draw + 1} of {config.draws}")
        labelled = dataset.train.take(per_class(dataset.train.labels, config.n_per_class, draw))
        path = logistic_path(featured(features, labelled.images), labelled.labels, LAMBDAS)
        best = path.fold_loss.mean(1).argmin()
        found.append(float(np.mean(np.argmax(known @ path.coef[best] + path.intercept[best], 1) == test.labels)))
    return found


def probe_section(config: Config, accuracies: list[float]) -> Section:
    spread = f" ± {100 * statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    classes = f" ({', '.join(config.classes)})" if config.classes else ""
    line = f"{100 * statistics.mean(accuracies):.1f}{spread} % over {len(accuracies)} draws"
    return Section(f"Linear probe on {config.data}{classes}, {config.n_per_class} a class", [], [line])


def measure(config: Config, console: Console, once: Once) -> Findings:
    rates = {}
    for edge in config.edges:
        console.print(f"measuring at {edge} px: it compiles for about a minute")
        rates[str(edge)] = once(f"speed-{edge}", partial(measure_speed, edge, config.batch_size, config.rounds))
    sections = [speed_section(rates)]
    numbers = {
        f"trunks/{edge}/{work}/{name}/images_per_second": rate
        for edge, kinds in rates.items()
        for work, sides in kinds.items()
        for name, rate in sides.items()
    }
    if config.draws:
        accuracies = once("probe", partial(measure_probe, config))
        sections.append(probe_section(config, accuracies))
        numbers["trunks/probe/accuracy"] = statistics.mean(accuracies)
    return Findings(sections, numbers, {"trunks": rates})


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    keep("benchmarks.trunks", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
