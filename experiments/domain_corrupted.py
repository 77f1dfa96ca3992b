"""A network that knows clean photographs meets pale, noisy or coarse ones without labels: what brings it there?

Half of the training images are clean and labelled; the other half is corrupted and unlabelled; test images are
corrupted likewise. Trunks have batch normalisation, so that changing its statistics (`adabn`) or its scales and shifts
(`tent`) stands beside what moves the whole network. Settings are chosen without target labels, as in `domain_digits`.

    python -m experiments.domain_corrupted --config.data=cifar10.npz
    python -m experiments.domain_corrupted --config.data=cifar10.npz --config.corruptions=blur,pixels
    python -m experiments.domain_corrupted --smoke      # scikit-learn's digits, a few steps

The figures are on the page `domain_corrupted.md`, which `--publish` writes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax

from jaxtl import cli
from jaxtl.data import contrast, gaussian_blur, gaussian_noise, load, pixelate
from jaxtl.data.domain_sets import halved
from jaxtl.errors import InputError
from jaxtl.loop import StoppableProgress
from jaxtl.methods.domain.recipes import BASELINE, BOUND, DomainConfig, Methods, check_rows
from jaxtl.problems import check_memory, check_plan
from jaxtl.problems.adaptation import Adaptation
from jaxtl.report.domains import compare_pairs
from jaxtl.terminal import Terminal

CORRUPTIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {  # of grey levels 0..255
    "noise": lambda images, key: gaussian_noise(images, key, 26.0),
    "contrast": lambda images, key: contrast(images, 0.15),
    "blur": lambda images, key: gaussian_blur(images, 1.0),
    "pixels": lambda images, key: pixelate(images, 2),
}
Kinds = Annotated[tuple[Annotated[str, cli.OneOf("corruption", CORRUPTIONS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(DomainConfig):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    corruptions: Kinds = ("contrast",)  # noise is averaged away with the pixels, unless --config.input_size=32
    methods: Methods = (BASELINE, BOUND, "adabn", "tent", "coral", "dann", "mcc")
    normalisation: Literal["group", "batch", "none"] = "batch"
    steps: cli.Steps = 400
    replicates: cli.Draws = 3

    may_change: ClassVar = (*DomainConfig.may_change, "corruptions")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "corruptions": ("contrast",),
            "input_size": 8,
            "widths": (8, 8),
            "steps": 40,
            "source_steps": 20,
            "trials": 2,
            "replicates": 2,
            "validation": 100,
            "methods": (BASELINE, BOUND, "adabn", "tent"),
        }
    }


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, config.methods)
    check_rows(config, config.methods)
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    if not ("image" in data.train and data.train.images.ndim == 4 and data.train.target == "class"):
        what = f"'{data.name}' has no images with a class each"
        raise InputError(what, where="--config.data", todo="name a set of images")
    check_memory(config, data, config.trials)
    halves = {kind: halved(data, CORRUPTIONS[kind], kind) for kind in config.corruptions}
    problems = {kind: Adaptation(config, *sides) for kind, sides in halves.items()}
    page, results = compare_pairs(config, problems, workdir, console)
    runs = {kind: result.runs for kind, result in results.items()}
    page.write(workdir, cli.header("domain_corrupted", config, started, data=data.origin), runs)


if __name__ == "__main__":
    cli.run(main, Config)
