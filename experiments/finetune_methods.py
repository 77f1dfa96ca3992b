"""Does any published way of fine-tuning beat tuned L2 or L2-SP, when all have the same budget?

Rows by family: what acts on parameters, on inner outputs, on predictions, along the depth; models that are averaged,
adapters, losses, heads in closed form. All have the same number of steps, trials and draws; L2, L2-SP and plain
fine-tuning are always among them, and training from scratch. "source" is what a method forgets: the accuracy of the
source model's head on the trunk as the method leaves it. In the picture of both, methods to the right are better on
the target, and those above have kept more of the source. Where a gain over a baseline has been published it stands
beside ours: other networks, other data, and seldom a baseline that was tuned as long.

    python -m experiments.finetune_methods                                  # CIFAR-10 where it is found, else digits
    python -m experiments.finetune_methods --config.preset=pretrained       # last stages of EfficientNet-Lite0
    python -m experiments.finetune_methods --config.families=depth,features --config.replicates=8
    python -m experiments.finetune_methods --config.preset=wide             # a Wide ResNet; written for a GPU
    python -m experiments.finetune_methods --smoke                          # digits, a row of each family

Figures are on the page `finetune_methods.md`: the small CNN, 10 labels a class. Other presets have not been measured.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

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
from jaxtl.problems.pretrained import PRETRAINED, PretrainedConfig, fewer, frozen_in_words, pretrained_source
from jaxtl.protocol import Budget, Recipe, Result, study, verdict_sentence
from jaxtl.protocol.results import number, points
from jaxtl.report import Table
from jaxtl.report.plots.comparison import plots_of
from jaxtl.report.plots.kept import SOURCE, against_source
from jaxtl.report.tables import CONTRASTS_FIXED, DASH, EDGE, method_table, notes
from jaxtl.report.tasks import figures_of
from jaxtl.terminal import Terminal

BASELINES = {name: RECIPES[name] for name in ("scratch", "fine_tune", "l2", "l2_sp")}
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
            "methods": (
                "fine_tune",
                "l2_sp",
                "mars",
                "delta",
                "lwf",
                "layer_decay",
                "wise_ft",
                "lora",
                "focal",
                "ridge",
            ),
        },
        "pretrained": {"model": "efficientnet_lite0", "learning_rate": (0.001, 0.03), "n_per_class": 10},
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


class Published(NamedTuple):
    """Gains over a baseline in points, as they were published."""

    method: str
    over: str
    gains: tuple[float, ...]
    on: str
    by: str


CUB = "CUB-200 from ResNet-50, 15/30/50/100 % of its images"
LIBRARY = "Jiang et al., Transfer-Learning-Library"
CIFAR, HARVEY = "CIFAR-10 from ResNet-50, 100/1k/10k/50k images", "Harvey et al., 2026"
FLOWERS, GOUK = "Flowers from ResNet-101", "Gouk et al., 2021"
PUBLISHED = (
    Published("lwf", "fine_tune", (5.5, 2.2, -1.2, -0.3), CUB, LIBRARY),
    Published("bss", "fine_tune", (2.2, 2.1, 1.4, 0.2), CUB, LIBRARY),
    Published("delta", "fine_tune", (3.6, 2.7, 1.7, 0.5), CUB, LIBRARY),
    Published("delta", "fine_tune", (9.9,), FLOWERS, GOUK),
    Published("stochnorm", "fine_tune", (3.6, 2.2, 1.2, 0.4), CUB, LIBRARY),
    Published("co_tuning", "fine_tune", (6.4, 5.5, 2.7, 0.7), CUB, LIBRARY),
    Published("bi_tuning", "fine_tune", (4.6, 4.7, 2.6, 1.3), CUB, LIBRARY),
    Published("l2_sp", "fine_tune", (6.4,), FLOWERS, GOUK),
    Published("l2_sp", "l2", (1.3, 1.0, 0.8, 0.3), CIFAR, HARVEY),
    Published("mars", "fine_tune", (10.7,), FLOWERS, GOUK),
    Published("wise_ft", "fine_tune", (1.6,), "ImageNet from CLIP", "Wortsman et al., 2022"),
)
SOUPS = (("uniform_soup", "fine_tune"), ("scratch_soup", "scratch"))  # beside what it is a soup of


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


def compared_section(result: Result, baseline: str, pretrained: bool) -> report.Section:
    """A row for every method; each setting that was chosen is in summary.json and runs.csv."""
    shown = [plot for plot in plots_of(result, baseline) if plot.name in (result.measure.key, "contrasts")]
    if result.measured(SOURCE):
        draw = functools.partial(against_source, result, baseline)
        shown.append(
            report.Plot("source_kept", f"Target {result.measure.name} beside what is kept of the source", draw)
        )
    said = [note for note in notes(result, baseline) if note.heading != CONTRASTS_FIXED]
    lines = [f"{note.heading}: {line}" if note.heading else line for note in said for line in note.lines]
    lines = [line for line in lines if not line.startswith(EDGE["<"])]  # signs of the table of settings
    if pretrained:
        lines.append("From scratch: the stages that are trained begin anew, behind those that are frozen.")
    return report.Section(result.title, [method_table(result, baseline)], lines, shown)


def published_section(result: Result) -> report.Section:
    """Gains here beside those that were published, and what soups gain over their members."""

    def gain(method: str, over: str) -> str:
        difference = result.difference(method, over)
        return points(difference) if difference else DASH

    rows = [
        [
            one.method,
            one.over,
            gain(one.method, one.over),
            ", ".join(number(x, "+.1f") for x in one.gains),
            one.on,
            one.by,
        ]
        for one in PUBLISHED
        if one.method in result.methods
    ]
    columns = ["method", "over", "gain here", "published gain", "on", "by"]
    lines = [
        f"Points of {result.measure.name}. Here: paired by {result.unit}, 95 % interval, not corrected for the number "
        "of rows; both sides tuned alike. Published: without an interval, on other data and from larger networks."
    ]
    for soup, member in SOUPS:
        if {soup, member} <= {*result.methods}:
            lines.append(f"{soup} − {member}: {gain(soup, member)}: a mean of models, beside the best of them.")
    if "scratch_soup" in result.methods:
        lines.append("Models from random starts have no basin in common, and their mean is no model.")
    return report.Section("Gains beside published ones", [Table(columns, rows, words=(0, 1, 4, 5))], lines)


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
        console.print(f"pictures: {frozen_in_words(config)}", soft_wrap=True)
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
    page = report.Page(console, config.preset)
    page.add(compared_section(result, baseline, pretrained), figures_of(result))
    if result.contrasts:
        page.add(report.Section(CONTRASTS_FIXED, lines=[verdict_sentence(one) for one in result.contrasts]))
    if {*result.methods} & {one.method for one in PUBLISHED}:
        page.add(published_section(result), {"published": [one._asdict() for one in PUBLISHED]})
    origin = data.origin if data is source_data else f"{source_data.origin} → {data.origin}"
    origin += f"; {frozen_in_words(config)}" if pretrained else ""
    page.write(
        workdir, cli.header("finetune_methods", config, started, data=origin, notice=task.notice), {"runs": result.runs}
    )


if __name__ == "__main__":
    cli.run(main, Config)
