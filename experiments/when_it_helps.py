"""When does it help? The same few contrasts on every pair of a source and a target, and all pairs as one figure.

A source model is trained on each source and carried to its target with n labelled examples a class, by methods that
differ in how hard they pull what, and towards what; every replicate has a source model, draws and settings of its own.
Each contrast is then a distribution over pairs: its mean, how much pairs differ, and where another pair would lie. And
what can be known beforehand: does it go with the gain?

    python -m experiments.when_it_helps                         # digits, several splits of their classes
    python -m experiments.when_it_helps --config.preset=images  # ten pairs, from files beside you
    python -m experiments.when_it_helps '--config.pairs=photos@0-4:photos@5-9,cells.npz@lab=0:cells.npz@lab=1'
    python -m experiments.when_it_helps --smoke

A pair is SOURCE:TARGET; a side is a name or a path, and behind "@" some of its classes, or a field and its value.
The figures are on the page `when_it_helps.md`, which `--publish` writes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from jaxtl import cli, report
from jaxtl.data import DataSet, load
from jaxtl.data.domain_sets import having
from jaxtl.errors import InputError
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import DE_ELBO, RECIPES
from jaxtl.methods.transferability.recipes import SCORES
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
from jaxtl.problems.many_sources import view
from jaxtl.protocol import Budget, Draw, study
from jaxtl.report.forest import forest_section, predictors_section
from jaxtl.terminal import Terminal

NAMES = ("scratch", "features", "fine_tune", "l2", "l2_differential", "l2_sp", "lr_ratio")
ROWS = {**{name: RECIPES[name] for name in NAMES}, "de_elbo": DE_ELBO}
GAIN = ("fine_tune", "scratch")
CONTRASTS = (
    GAIN,
    ("features", "fine_tune"),
    ("l2_differential", "l2"),
    ("l2_sp", "l2"),
    ("lr_ratio", "l2"),
    ("de_elbo", "l2_sp"),
)
BEFOREHAND = ("logme", "probe", "a_distance", "source accuracy")  # scores of the source on the labelled examples
ANIMALS = "cifar10.npz@bird+cat+deer:cifar10.npz@dog+frog+horse"
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", ROWS)], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, FewShotConfig, Budget):
    preset: str = ""  # smoke, images: fills what is not given
    pairs: cli.Names = (  # SOURCE:TARGET, see above
        "digits@0-4:digits@5-9",
        "digits@5-9:digits@0-4",
        "digits@0+2+4+6+8:digits@1+3+5+7+9",
    )
    data_dir: cli.Place = ""  # where named data sets are looked for
    n_per_class: cli.Count = 5  # labelled target examples
    methods: Methods = ()  # some of the rows; all when empty
    measure: MeasureName = "balanced_accuracy"  # what methods are chosen by and compared by
    ratio: cli.Span = (0.01, 1.0)  # learning rate of the trunk / of the head
    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # no fields here: settings are chosen by held-out examples
    folds: ClassVar[int] = 5  # type: ignore[misc]
    source_steps: cli.Steps = 500
    steps: cli.Steps = 60
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 1
    replicates: cli.Draws = 8

    may_change: ClassVar = (*Budget.may_change, "pairs", "methods")
    glossary: ClassVar = {name: recipe.means for name, recipe in ROWS.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "source_steps": 100,
            "input_size": 8,
            "widths": (8, 16),
            "steps": 20,
            "trials": 2,
            "replicates": 2,
            "validation": 100,
            "methods": ("scratch", "fine_tune", "l2", "l2_sp"),
        },
        "images": {
            "pairs": (
                "digits.npz#mnist:digits.npz#usps",
                "digits.npz#usps:digits.npz#mnist",
                "digits.npz#mnist@0-4:digits.npz#mnist@5-9",
                ANIMALS,
                "cifar10.npz@airplane+automobile+ship+truck:cifar10.npz@bird+cat+deer+dog+frog+horse",
                "cifar10.npz:cifar100_subset.npz",
                "cifar10.npz:medical.npz#pneumonia",
                "cifar10.npz:medical.npz#wbc@lab=0@0-3",
                "medical.npz#wbc@lab=0@0-3:medical.npz#wbc@lab=1@0-3",
                "medical.npz#wbc@lab=1@0-3:medical.npz#wbc@lab=0@0-3",
            )
        },
    }


def side(words: str, read: Callable[[str], DataSet]) -> tuple[DataSet, str]:
    """(the set of one side of a pair, which of its classes)."""
    name, *parts = words.split("@")
    data, classes = read(name), ""
    for part in parts:
        field, is_field, value = part.partition("=")
        if is_field:
            data = having(data, field, value, where=f"--config.pairs={words}")
        elif classes:
            todo = "join classes by +"
            raise InputError(f"'{words}' names classes twice", where="--config.pairs", todo=todo)
        else:
            classes = part
    return data, classes


def tasks_of(pair: str, read: Callable[[str], DataSet]) -> tuple[DataSet, DataSet]:
    """Source and target of a pair."""
    if pair.count(":") != 1:
        todo = "write SOURCE:TARGET, such as digits@0-4:digits@5-9"
        raise InputError(f"'{pair}' is not one source and one target", where="--config.pairs", todo=todo)
    (source, theirs), (target, ours) = (side(words, read) for words in pair.split(":"))
    return choose_tasks(f"{theirs}:{ours}", "pairs", source, target)


def source_of(pair: str) -> str:
    """What a source model is kept under: one serves all targets, but where both sides divide a set."""
    theirs, ours = pair.split(":")
    return pair if theirs.partition("@")[0] == ours.partition("@")[0] else theirs


def beforehand(problem: FewShot) -> dict[str, float]:
    """What is known before anything is fine-tuned, by the labelled examples of the first draw."""
    seen = view(problem, problem.source, Draw(0))
    sizes = {"labelled examples": float(len(seen.labels)), "classes": float(len(problem.task.classes))}
    return sizes | {name: SCORES[name].of(seen) for name in BEFOREHAND}


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, ROWS)
    planned = [pair for pair in CONTRASTS if {*pair} <= {*(config.methods or ROWS)}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    read = functools.cache(lambda name: load(name, config.data_dir or None, progress=StoppableProgress))
    tasks = {pair: tasks_of(pair, read) for pair in config.pairs}
    for source_task, task in tasks.values():
        check_tasks(config, source_task, task, [config.n_per_class], folds=False, models=config.trials)
    results, known = dict[str, report.Result](), dict[str, dict[str, float]]()
    for pair, (source_task, task) in tasks.items():
        report.print_data(console, source=source_task, target=task)
        sources = make_sources(config, source_task, workdir / "sources" / cli.directory_of(source_of(pair)))
        report.print_source(console, *sources)
        problem = FewShot(config, sources, task, config.n_per_class)
        words, axes = pair.replace(".npz", "").replace(":", " → "), dict[str, Any](pair=pair)
        results[words] = study(problem, ROWS, workdir / cli.directory_of(pair), planned, axes)
        known[words] = beforehand(problem)
    page = report.Page(console, config.preset)
    page.add(*forest_section(results, planned))
    if GAIN in planned:
        page.add(*predictors_section(results, GAIN, known))
    origin = "; ".join(dict.fromkeys(part.origin for both in tasks.values() for part in both))
    notice = report.together(*(part.notice for both in tasks.values() for part in both))
    runs = {cli.directory_of(pair): result.runs for pair, result in zip(tasks, results.values(), strict=True)}
    page.write(workdir, cli.header("when_it_helps", config, started, data=origin, notice=notice), runs)


if __name__ == "__main__":
    cli.run(main, Config)
