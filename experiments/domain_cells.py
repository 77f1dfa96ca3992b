"""White blood cells of one laboratory, labelled, and of another, not: what carries over from stain to stain?

Two laboratories stain, light and photograph the same four types of cells in their own ways. A network sees labelled
cells of one and unlabelled ones of the other, and is asked for the types of the other's test cells: balanced accuracy,
for types differ in number. Settings are chosen without target labels, as in `domain_digits`.

    python -m experiments.domain_cells '--config.data=medical.npz#wbc'   # both ways
    python -m experiments.domain_cells --smoke      # scikit-learn's digits and their negatives, a few steps

The figures are on the page `domain_cells.md`, which `--publish` writes.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxtl import cli
from jaxtl.data import DataSet, load
from jaxtl.data.domain_sets import halved, two_by_field
from jaxtl.loop import StoppableProgress
from jaxtl.methods.domain.recipes import BASELINE, BOUND, DomainConfig, Methods, check_rows
from jaxtl.problems import check_memory, check_plan
from jaxtl.problems.adaptation import Adaptation
from jaxtl.protocol.measures import MEASURES
from jaxtl.report.domains import compare_pairs
from jaxtl.terminal import Terminal

FIELD = "lab"  # of each example: the laboratory that it comes from
FEWEST = 5  # training images of a type in each laboratory; types with fewer are left out


@dataclasses.dataclass(frozen=True)
class Config(DomainConfig):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "digits"  # images with a field "lab" of two values; digits: its images, and their negatives
    data_dir: cli.Place = ""  # where named data sets are looked for
    both_ways: bool = True  # also from the second laboratory to the first
    methods: Methods = (BASELINE, BOUND, "adabn", "coral", "dann", "cdan_e", "mcc")
    normalisation: Literal["group", "batch", "none"] = "batch"
    input_size: cli.Count = 16
    steps: cli.Steps = 200
    source_steps: cli.Steps = 100
    batch_size: cli.Count = 32  # of each laboratory
    replicates: cli.Draws = 4

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "both_ways": False,
            "input_size": 8,
            "widths": (8, 8),
            "steps": 40,
            "source_steps": 20,
            "trials": 2,
            "replicates": 2,
            "validation": 100,
            "methods": (BASELINE, BOUND, "adabn", "dann"),
        }
    }


def laboratories(config: Config) -> tuple[DataSet, DataSet]:
    """Cells of either laboratory, of the types that both have enough of.

    Raises:
        InputError: no such field, or not two values of it.
    """
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    if config.data == "digits":
        return halved(data, lambda images, key: 255 - images, "negatives")
    return two_by_field(data, FIELD, FEWEST, where="--config.data")


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, config.methods)
    check_rows(config, config.methods)
    first, second = laboratories(config)
    check_memory(config, first, config.trials)
    ways = [(first, second), (second, first)][: 1 + config.both_ways]
    problems = [Adaptation(config, *way, MEASURES["balanced_accuracy"]) for way in ways]
    by_name = {cli.directory_of(problem.title): problem for problem in problems}
    page, results = compare_pairs(config, by_name, workdir, console)
    runs = {name: result.runs for name, result in results.items()}
    page.write(workdir, cli.header("domain_cells", config, started, data=first.origin), runs)


if __name__ == "__main__":
    cli.run(main, Config)
