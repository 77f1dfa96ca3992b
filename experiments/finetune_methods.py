"""Does any published way of fine-tuning beat tuned L2 or L2-SP, when all have the same budget?

Rows by family: what acts on parameters, on inner outputs, on predictions, along the depth; models that are averaged,
adapters, losses, heads in closed form. All have the same number of steps, trials and draws; L2, L2-SP and plain
fine-tuning are always among them.

    python -m experiments.finetune_methods                                  # CIFAR-10 where it is found, else digits
    python -m experiments.finetune_methods --config.families=depth,features --config.replicates=8
    python -m experiments.finetune_methods --config.preset=wide             # a Wide ResNet; written for a GPU
    python -m experiments.finetune_methods --smoke                          # digits, a row of each family

Not yet measured.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from jaxtl import cli, report
from jaxtl.data import load
from jaxtl.errors import InputError
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import (
    ADAPTERS,
    BATCH_NORMALISED,
    DEPTH,
    FEATURES,
    HEADS,
    LOSSES,
    PARAMETERS,
    PREDICTIONS,
    RECIPES,
    WEIGHT_SPACE,
)
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
from jaxtl.problems.pretrained import PRETRAINED, PretrainedConfig, fewer, pretrained_source
from jaxtl.protocol import Budget, Recipe, study
from jaxtl.terminal import Terminal

BASELINES = {name: RECIPES[name] for name in ("fine_tune", "l2", "l2_sp")}
FAMILIES: dict[str, Mapping[str, Recipe]] = {  # a table of rows each
    "parameters": PARAMETERS,
    "features": FEATURES,
    "predictions": PREDICTIONS,
    "depth": DEPTH,
    "weight_space": WEIGHT_SPACE,
    "adapters": ADAPTERS,
    "losses": LOSSES,
    "heads": HEADS,
    "batch_normalised": BATCH_NORMALISED,
}
USUAL = tuple(name for name in FAMILIES if name != "batch_normalised")
ROWS = {**BASELINES, **{name: recipe for rows in FAMILIES.values() for name, recipe in rows.items()}}

Families = Annotated[tuple[Annotated[str, cli.OneOf("family", FAMILIES)], ...], cli.Items(1, distinct=True)]
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", ROWS)], ...], cli.Items(0, distinct=True)]
Honest = Annotated[tuple[Annotated[str, cli.OneOf("method", (*ROWS, "all"))], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, PretrainedConfig, FewShotConfig, Budget):
    preset: str = ""  # smoke, wide, pretrained: fills what is not given
    # efficientnet_lite0 comes pretrained, and its last stages are trained
    model: Literal["cnn", "mlp", "wide_resnet", "resnet18", "efficientnet_lite0"] = "cnn"  # type: ignore[assignment]
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    source: cli.Place = ""  # another data set for the source task, e.g. cifar100
    split: cli.Text = "0-4:5-9"  # source classes : target classes; "cat+dog:0-2+5"; an empty side is all
    n_per_class: cli.Count = 20  # labelled target examples
    families: Families = USUAL  # whose rows are run, beside the baselines
    methods: Methods = ()  # some rows in place of those of the families
    honest: Honest = ()  # methods that also choose from their n labelled examples alone; or all
    measure: MeasureName = "accuracy"  # what methods are chosen by and compared by

    may_change: ClassVar = (*Budget.may_change, "families", "methods", "honest")
    glossary: ClassVar = {name: recipe.means for name, recipe in ROWS.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "model": "mlp",
            "widths": (16, 16),
            "source_steps": 200,
            "steps": 20,
            "trials": 2,
            "tuning_draws": 1,
            "report_draws": 2,
            "validation": 100,
            "n_per_class": 5,
            "methods": ("l2", "l2_sp", "mars", "delta", "lwf", "layer_decay", "wise_ft", "lora", "focal", "ridge"),
        },
        "wide": {
            "model": "wide_resnet",
            "normalisation": "batch",
            "families": tuple(FAMILIES),
            "source_steps": 10000,
            "steps": 200,
            "replicates": 8,
        },
    }


BASELINE = "l2_sp"
CONTRASTS = (
    ("spd", "l2_sp"),
    ("mars", "l2_sp"),
    ("delta", "l2_sp"),
    ("co_tuning", "fine_tune"),
    ("layer_decay", "fine_tune"),
)


def methods_of(config: Config) -> list[str]:
    """The rows that are run.

    Raises:
        InputError: one of them is for batch normalisation, and the model has none.
    """
    names = list(config.methods or [*BASELINES, *(name for family in config.families for name in FAMILIES[family])])
    without = config.normalisation != "batch" or config.model in ("mlp", *PRETRAINED)
    for name in BATCH_NORMALISED if without else ():
        if name in names:
            todo = "use --config.normalisation=batch and another model than an mlp, or leave it out"
            raise InputError(f"'{name}' needs batch normalisation", where="--config.normalisation", todo=todo)
    return names


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    names = methods_of(config)
    check_plan(config, names)
    planned = [pair for pair in CONTRASTS if {*pair} <= {*names}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    source_data = load(config.source, config.data_dir or None, progress=StoppableProgress) if config.source else data
    report.print_data(console, source=source_data, target=data)
    source_task, task = choose_tasks(config.split, "split", source_data, data)
    report.print_notice(console, task, since=data)
    pretrained = config.model in PRETRAINED
    if pretrained:
        source_task, task = fewer(config, source_task), fewer(config, task)
    folds = bool({"all", *names} & {*config.honest})
    check_tasks(config, source_task, task, [config.n_per_class], folds=folds, models=config.trials)
    if pretrained:
        sources, task = pretrained_source(config, source_task, task, workdir / "frozen")
    else:
        sources = make_sources(config, source_task, workdir / "source")
    report.print_source(console, *sources)
    problem = FewShot(config, sources, task, config.n_per_class)
    report.print_target(console, problem)
    report.print_batches(console, config.batch_size, config.n_per_class * len(task.classes))
    report.print_transfer(console, problem.moved)
    result = study(problem, ROWS, workdir / "study", planned, {"n_per_class": config.n_per_class}, methods=names)
    baseline = BASELINE if BASELINE in names else names[0]
    report.print_result(result, console, baseline=baseline, preset=config.preset)
    origin = data.origin if data is source_data else f"{source_data.origin} → {data.origin}"
    header = cli.header("finetune_methods", config, started, data=origin, notice=task.notice)
    report.print_written(console, report.write_files(workdir, header, [result], baseline=baseline))


if __name__ == "__main__":
    cli.run(main, Config)
