"""Boxes in a few pictures: does a trunk that learned to classify photographs help, and how is it best carried over?

A compact detector finds centres of things on a map, and says how large they are. Its trunk is that of a classifier of
other pictures, its head is new. It learns from n pictures with boxes, and is judged by average precision as COCO
defines it (mAP), on test pictures that nothing was chosen on. Pulls are decoupled from Adam's steps, as in AdamW.

    python -m experiments.object_detection --config.data=detection.npz     # blood cells; CIFAR-10 as the source
    python -m experiments.object_detection --smoke                         # digits in places that are made up

The bar on the blood cells, without a network: logistic regression on colours with boxes of a fixed size for each class
has AP50 44 %, mAP 16.4 %.

The figures are on the page `object_detection.md`, which `--publish` writes.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar

from jaxtl import cli, report
from jaxtl.data import DataSet, by_class, load
from jaxtl.data.boxed import set_down
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import DETECTION
from jaxtl.problems import (
    Detection,
    DetectionConfig,
    SourceConfig,
    check_detection,
    check_plan,
    make_sources,
)
from jaxtl.protocol import Budget, study
from jaxtl.report.boxes import boxes_section
from jaxtl.report.plots.comparison import plots_across
from jaxtl.terminal import Terminal

ROWS = DETECTION
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", ROWS)], ...], cli.Items(0, distinct=True)]
DIGITS = "digits"
CANVAS, MOST = (32, 48), 4  # rows and columns of a picture with digits, and how many there are at most


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, DetectionConfig, Budget):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = DIGITS  # an .npz of pictures with boxes; digits: scikit-learn's 5 to 9, set down on pictures
    data_dir: cli.Place = ""  # where named data sets are looked for
    source: cli.Place = "auto"  # what the source model classifies; auto: CIFAR-10 if found; of digits 0 to 4
    n_pictures: cli.Counts = (5, 20, 80)  # with boxes, to learn from
    methods: Methods = ()  # some of the rows; all when empty
    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # no fields here: folds of pictures are not made
    folds: ClassVar[int] = 5  # type: ignore[misc]
    normalisation: ClassVar[str] = "group"  # type: ignore[misc]
    model: ClassVar[str] = "cnn"  # type: ignore[misc]
    steps: cli.Steps = 200
    batch_size: cli.Count = 8
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 3
    learning_rate: cli.Span = (0.001, 0.01)  # of Adam
    ratio: cli.Span = (0.01, 1.0)  # learning rate of the trunk / of the head

    may_change: ClassVar = (*Budget.may_change, "n_pictures", "methods")
    glossary: ClassVar = {name: recipe.means for name, recipe in ROWS.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": DIGITS,
            "mirror": "no",
            "pooling": 1,
            "input_size": 8,
            "widths": (16, 32),
            "head_width": 16,
            "found": 20,
            "source_steps": 200,
            "steps": 60,
            "trials": 2,
            "report_draws": 2,
            "validation": 30,
            "n_pictures": (20,),
            "methods": ("scratch", "features", "fine_tune", "l2_sp"),
        }
    }


BASELINE = "fine_tune"
CONTRASTS = (
    ("fine_tune", "scratch"),
    ("features", "fine_tune"),
    ("l2_differential", "l2"),
    ("l2_sp", "l2_differential"),
    ("lr_ratio", "fine_tune"),
)


def sets(config: Config) -> tuple[DataSet, DataSet]:
    """(what the source model classifies, pictures with boxes)."""
    where = config.data_dir or None
    if config.data == DIGITS:
        digits = load(DIGITS)
        return by_class(digits, range(5)), set_down(by_class(digits, range(5, 10)), 400, 100, CANVAS, MOST, config.seed)
    task = load(config.data, where, progress=StoppableProgress)
    return load(config.source, where, progress=StoppableProgress), task


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, ROWS)
    names = config.methods or tuple(ROWS)
    baseline = BASELINE if BASELINE in names else names[0]
    planned = [pair for pair in CONTRASTS if {*pair} <= {*names}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    source_task, task = sets(config)
    check_detection(config, source_task, task, config.n_pictures)
    report.print_data(console, source=source_task, target=task)
    sources = make_sources(config, source_task, workdir / "source")
    report.print_source(console, *sources)
    page, runs, results = report.Page(console, config.preset), {}, list[report.Result]()
    for n in config.n_pictures:
        problem = Detection(config, sources, task, n)
        report.print_batches(console, config.batch_size, n)
        report.print_transfer(console, problem.moved)
        axes: dict[str, Any] = {"n_pictures": n}
        result = study(problem, ROWS, workdir / f"n_{n}", planned, axes, methods=names)
        section, figures = boxes_section(result, problem, baseline)
        page.add(section, {f"n_pictures={n}": figures})
        runs[f"runs_{n}"] = result.runs
        results.append(result)
    if across := plots_across(results, baseline):
        page.add(report.Section("By the number of pictures", plots=across))
    notice = report.together(source_task.notice, task.notice)
    header = cli.header(
        "object_detection", config, started, data=f"{source_task.origin} → {task.origin}", notice=notice
    )
    page.write(workdir, header, runs)


if __name__ == "__main__":
    cli.run(main, Config)
