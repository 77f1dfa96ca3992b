"""Labelled digits of one kind, unlabelled ones of another: which method carries over, and can it be chosen honestly?

A network sees labelled source digits and unlabelled target digits. Settings are chosen without target labels: by one
validator that is fixed beforehand, and beside it by every other one, and by an oracle that knows the labels and is a
bound. What a validator costs is what choosing by it loses against the oracle. Nothing of the target's labels is given
to a method, but to `target_only`, which is the other bound.

    python -m experiments.domain_digits --config.data=digits.npz#mnist,digits.npz#usps  # both ways
    python -m experiments.domain_digits                     # scikit-learn's digits, half of them distorted
    python -m experiments.domain_digits --config.methods=source_only,dann,bsp,jan,afn,entropy
    python -m experiments.domain_digits --smoke             # a few methods and steps

The figures are on the page `domain_digits.md`, which `--publish` writes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

from jaxtl import cli, report
from jaxtl.data import DataSet, Split, contrast, gaussian_blur, gaussian_noise, load
from jaxtl.data.domain_sets import halved, open_set, partial
from jaxtl.errors import InputError
from jaxtl.loop import StoppableProgress
from jaxtl.methods.domain.recipes import BOUND, DomainConfig, Methods, check_rows
from jaxtl.problems import check_memory, check_plan
from jaxtl.problems.adaptation import Adaptation
from jaxtl.protocol.measures import MEASURES
from jaxtl.protocol.results import Result
from jaxtl.report.cells import percent
from jaxtl.report.domains import compare_pairs
from jaxtl.report.tables import DASH
from jaxtl.terminal import Terminal

USUAL = ("source_only", BOUND, "dan", "coral", "dann", "cdan_e", "mdd", "mcc")
EDGE = 16  # pixels: images of 28 are brought to it


@dataclasses.dataclass(frozen=True)
class Config(DomainConfig):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Names = ("digits",)  # two sets of images, names or paths; digits: its images, and others distorted
    data_dir: cli.Place = ""  # where named data sets are looked for
    both_ways: bool = True  # also from the second to the first
    classes: Literal["same", "partial", "open"] = "same"  # partial: the target lacks some; open: the source does
    shared: cli.Count = 5  # classes that both have, of partial and open
    methods: Methods = USUAL
    steps: cli.Steps = 400
    replicates: cli.Draws = 5

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": ("digits",),
            "both_ways": False,
            "model": "mlp",
            "widths": (32,),
            "steps": 40,
            "source_steps": 20,
            "trials": 2,
            "replicates": 2,
            "validation": 100,
            "methods": ("source_only", BOUND, "dan", "dann"),
        }
    }


class Published(NamedTuple):
    """Accuracies in % as they were published, from MNIST to USPS and back."""

    method: str
    there: float
    back: float
    by: str


ADDA = "Tzeng et al., 2017: LeNet, 2,000 MNIST and 1,800 USPS images"
MCD = "Saito et al., 2018: LeNet with batch normalisation, the same numbers of images"
CDAN = "Long et al., 2018: LeNet, all training images"
PUBLISHED = (
    Published("source_only", 75.2, 57.1, ADDA),
    Published("dann", 77.1, 73.0, ADDA),
    Published("adda", 89.4, 90.1, ADDA),
    Published("source_only", 76.7, 63.4, MCD),
    Published("mcd", 94.2, 94.1, MCD),
    Published("dann", 90.4, 94.7, CDAN),
    Published("cdan", 93.9, 96.9, CDAN),
    Published("cdan_e", 95.6, 98.0, CDAN),
)


def published_section(results: Mapping[str, Result]) -> report.Section:
    """What was published for the same two sets, beside what was found here."""

    def here(method: str, pair: str) -> str:
        result = results.get(pair)
        known = result is not None and method in result.methods
        return percent(result.summaries[method, result.shown(method)].units) if result and known else DASH

    ways = ("mnist → usps", "usps → mnist")
    columns = ["method", *(f"{which}: {way}" for way in ways for which in ("published", "here")), "by"]
    rows = [
        [
            *(one.method, f"{one.there:.1f}", here(one.method, ways[0])),
            *(f"{one.back:.1f}", here(one.method, ways[1]), one.by),
        ]
        for one in PUBLISHED
    ]
    lines = [
        "Accuracy in %. Published figures are of other networks, numbers of images and steps, and of settings chosen "
        "in other ways, some by labelled target examples; here as chosen without them."
    ]
    return report.Section("Published figures for MNIST and USPS", [report.Table(columns, rows, words=(0, 5))], lines)


def worse(images: jax.Array, key: jax.Array) -> jax.Array:
    """Grey levels 0..255 blurred, with half of the contrast and noise over them."""
    return gaussian_noise(contrast(gaussian_blur(images, 0.7), 0.5), key, 30.0)


def at_edge(data: DataSet) -> DataSet:
    """Images of 28 pixels without their margin of 2 and at the size of those of 16; others as they are."""

    def small(part: Split) -> Split:
        inner = np.asarray(part.images)[:, 2:26, 2:26]
        doubled = inner.repeat(2, axis=1).repeat(2, axis=2)
        blocks = doubled.reshape(len(inner), EDGE, 3, EDGE, 3, -1).mean(axis=(2, 4))
        return part.having(image=blocks.round().astype(inner.dtype))

    if data.train.images.shape[1:3] != (28, 28):
        return data
    return dataclasses.replace(data, train=small(data.train), test=small(data.test))


def domains(config: Config) -> tuple[DataSet, DataSet]:
    """The two sets.

    Raises:
        InputError: more than two sets, or one without images and classes.
    """
    if len(config.data) > 2:
        raise InputError(f"{len(config.data)} sets", where="--config.data", todo="name one, or two")
    loaded = [load(name, config.data_dir or None, progress=StoppableProgress) for name in config.data]
    for data in loaded:
        if not ("image" in data.train and data.train.images.ndim == 4 and data.train.target == "class"):
            what = f"'{data.name}' has no images with a class each"
            raise InputError(what, where="--config.data", todo="name sets of images")
    first, second = halved(loaded[0], worse, "distorted") if len(loaded) == 1 else (at_edge(data) for data in loaded)
    return first, second


CLASSES = {"same": lambda source, target, shared: (source, target), "partial": partial, "open": open_set}


def pairs(config: Config) -> Iterator[tuple[DataSet, DataSet]]:
    """(source, target), one way or both."""
    first, second = domains(config)
    yield CLASSES[config.classes](first, second, config.shared)
    if config.both_ways:
        yield CLASSES[config.classes](second, first, config.shared)


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, config.methods)
    check_rows(config, config.methods, unknown=config.classes == "open")
    of_classes = config.classes == "open"  # "unknown" is one class among others
    measure = MEASURES["balanced_accuracy" if of_classes else "accuracy"]
    problems = [Adaptation(config, *way, measure) for way in pairs(config)]
    check_memory(config, problems[0].target, config.trials)
    by_name = {cli.directory_of(problem.title): problem for problem in problems}
    page, found = compare_pairs(config, by_name, workdir, console)
    results = {result.title: result for result in found.values()}
    if any({"mnist", "usps"} == {*title.split(" → ")} for title in results) and config.classes == "same":
        page.add(published_section(results))
    runs = {name: result.runs for name, result in found.items()}
    page.write(workdir, cli.header("domain_digits", config, started, data=problems[0].origin), runs)


if __name__ == "__main__":
    cli.run(main, Config)
