"""With a few labelled examples, what does pulling transferred and new parameters differently buy?

And is it more than what a slower trunk or a better-initialised head buys? A source model is trained on some classes;
eleven methods carry it to other classes with n labelled examples each, under one protocol with equal budgets.

    make run                                                   # CIFAR-10 where it is found, otherwise digits
    make run ARGS="--config.replicates=8"                      # and verdicts
    python -m experiments.cifar_transfer --config.data=PATH    # cifar10.npz, the binary archive, a TFDS directory
    python -m experiments.cifar_transfer --config.preset=full  # a Wide ResNet; written for a GPU, not yet measured

One replicate shows what each method reaches with what it chose; `--config.replicates=8` goes on from there, repeats the
choice with other source models, draws and settings, and decides. Its figures are on the page `cifar_transfer.md`.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar

from jaxtl import cli, report
from jaxtl.data import load
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import RECIPES
from jaxtl.problems import (
    FewShot,
    FewShotConfig,
    MeasureName,
    SourceConfig,
    check_plan,
    check_tasks,
    choose_tasks,
    make_sources,
)
from jaxtl.protocol import Budget, study
from jaxtl.terminal import Terminal

Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", RECIPES)], ...], cli.Items(0, distinct=True)]
Honest = Annotated[tuple[Annotated[str, cli.OneOf("method", (*RECIPES, "all"))], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, FewShotConfig, Budget):
    preset: str = ""  # smoke, mnist, full: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    source: cli.Place = ""  # another data set for the source task, e.g. cifar100
    splits: cli.Names = ("0-4:5-9",)  # source classes : target classes; "cat+dog:0-2+5"; an empty side is all
    n_per_class: cli.Counts = (20,)  # labelled target examples
    source_examples: cli.Sizes = (0,)  # examples the source model is trained on; 0 is all
    methods: Methods = ()  # some of the eleven; all when empty
    honest: Honest = ("features",)  # methods that also choose from their n labelled examples alone; or all
    measure: MeasureName = "accuracy"  # what methods are chosen by and compared by
    ratio: cli.Span = (0.01, 1.0)  # learning rate of the trunk / of the head
    source_weight: cli.Span = (0.03, 3.0)  # of the source task in joint training

    may_change: ClassVar = (*Budget.may_change, "splits", "n_per_class", "source_examples", "methods", "honest")
    glossary: ClassVar = {name: recipe.means for name, recipe in RECIPES.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "source_steps": 200,
            "steps": 30,
            "trials": 2,
            "tuning_draws": 1,
            "report_draws": 3,
            "validation": 100,
            "n_per_class": (5,),
        },
        "mnist": {"data": "mnist", "model": "mlp", "widths": (128,), "input_size": 28},
        # 4 problems of 8 replicates, about 7,000 runs of a large network: planned for several hours of one GPU
        "full": {
            "model": "wide_resnet",
            "n_per_class": (5, 20, 100, 1000),
            "source_steps": 10000,
            "steps": 200,
            "replicates": 8,
        },
    }


BASELINE = "l2"
CONTRASTS = (
    ("l2_differential", "l2"),
    ("l2_sp", "l2_differential"),
    ("lr_ratio", "l2_differential"),
    ("lp_ft", "l2_sp"),
)


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, RECIPES)
    planned = [pair for pair in CONTRASTS if {*pair} <= {*(config.methods or RECIPES)}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    source_data = load(config.source, config.data_dir or None, progress=StoppableProgress) if config.source else data
    report.print_data(console, source=source_data, target=data)
    tasks = [choose_tasks(split, "splits", source_data, data) for split in config.splits]
    for source_task, task in tasks:
        report.print_notice(console, task, since=data)
        folds = bool({"all", *(config.methods or RECIPES)} & {*config.honest})
        check_tasks(config, source_task, task, config.n_per_class, folds=folds, models=config.trials)
    results: list[report.Result] = []
    for split, (source_task, task) in zip(config.splits, tasks, strict=True):
        for examples in config.source_examples:
            room = workdir / f"{cli.directory_of(split)}-source_{examples or 'all'}"
            sources = make_sources(config, source_task, room / "source", examples)
            report.print_source(console, *sources)
            for n in config.n_per_class:
                problem = FewShot(config, sources, task, n)
                report.print_target(console, problem)
                report.print_batches(console, config.batch_size, n * len(task.classes))
                report.print_transfer(console, problem.moved)
                axes: dict[str, Any] = {
                    "split": split,
                    "n_per_class": n,
                    "source_examples": examples or len(source_task.train),
                }
                results.append(study(problem, RECIPES, room / f"n_{n}", planned, axes))
                report.print_result(results[-1], console, baseline=BASELINE, preset=config.preset)
    origin = data.origin if data is source_data else f"{source_data.origin} → {data.origin}"
    notice = report.together(*(task.notice for _, task in tasks))
    header = cli.header("cifar_transfer", config, started, data=origin, notice=notice)
    report.print_written(console, report.write_files(workdir, header, results, baseline=BASELINE))


if __name__ == "__main__":
    cli.run(main, Config)
