"""Is a start that was learned from many small tasks better than the source model's?

Small tasks are made of the source's classes in any order. iMAML moves a start down the slope of the tasks' loss after
training on them, Reptile towards where that training ends; both begin from random parameters or from the source model.

    python -m experiments.learned_starts             # CIFAR-10 where it is found, otherwise digits
    python -m experiments.learned_starts --smoke     # digits, a few steps of everything

Measured before the split into three (with `learned_rates` and `label_trees` in 5.8 minutes on 2 CPU cores that were
busy otherwise), on exact CIFAR-10, classes 0-4 → 5-9, n = 5, 8 draws (seeds 2-9), jax 0.10.2. Differences in points of
test accuracy, paired by draw, 95 % intervals.

The start of an MLP: the source model's 45.3 ± 3.0, a fresh one −6.55 [−8.12, −4.98]. After the source model, iMAML
+4.29 [1.55, 7.04], Reptile −1.53 [−3.08, 0.02]; without it −2.67 [−4.71, −0.64] and −6.34 [−8.38, −4.29]. The inner λ
and Reptile's rate were set by the loss of the source's own small tasks. A setting chosen on 2 draws instead of 8 once
was unstable on others, and cost 16 points.

All this with matrix products by YNNPACK. With --config.seed=1 and by Eigen, which differs in rounding only, after the
source model iMAML +3.04 [1.64, 4.44], Reptile −2.19 [−3.92, −0.46] (the same by YNNPACK: +3.41 [2.03, 4.78] and −2.20
[−4.00, −0.40]).

An interrupted run keeps the source model; everything else takes a minute or two and is done again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from jaxtl import cli, report
from jaxtl.data import DataSet, keep_to_data, load
from jaxtl.loop import StoppableProgress, raise_if_stopped
from jaxtl.problems import (
    FewShot,
    LabelledConfig,
    MetaConfig,
    SmallTasks,
    SourceConfig,
    averaged_down,
    check_tasks,
    check_training,
    choose_tasks,
    make_source,
)
from jaxtl.protocol import Draw, Draws, Training, paired, verdict_sentence
from jaxtl.protocol.results import compact, number, points
from jaxtl.report import Section, Table
from jaxtl.report.cells import GIVEN_CHOICE, percent
from jaxtl.report.tables import counted
from jaxtl.terminal import Terminal
from jaxtl.trees import Tree
from jaxtl.writers import Progress


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, LabelledConfig, MetaConfig, Draws, Training):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    split: cli.Text = "0-4:5-9"  # source classes : target classes
    n_per_class: cli.Count = 5  # labelled examples, in every small task and in the target
    edge: Annotated[int, cli.Within(2, 65_536)] = 8  # images are averaged down to this edge
    model: Literal["cnn", "mlp"] = "mlp"
    widths: cli.Widths = (128, 64)
    normalisation: Literal["group", "none"] = "group"  # of a cnn
    batch_size: ClassVar[int] = 50  # type: ignore[misc]  # small tasks, and the target's examples, go whole into a step
    tuning_draws: cli.Draws = 2  # left out: settings are chosen on as many draws as are reported, behind those
    report_draws: cli.PairedDraws = 8
    adapted_learning_rates: cli.Rates = (0.003, 0.01, 0.03, 0.1)  # tried with every start,
    adapted_penalties: cli.Rates = (0.0, 0.1, 1.0)  # each with every pull towards it

    glossary: ClassVar = {
        "source": "adaptation starts from the source model's trunk under a fresh head",
        "fresh": "adaptation starts from random parameters",
        "reptile": "from a start moved towards where training on each of many small source tasks ends",
        "iMAML": "from a start that goes down the slope of the small tasks' loss after training on them",
        "source + reptile": "as reptile, with that learning begun from the source model",
        "source + iMAML": "as iMAML, with that learning begun from the source model",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "source_steps": 200,
            "steps": 30,
            "tuning_draws": 1,
            "report_draws": 3,
            "validation": 100,
            "meta_steps": 50,
        },
    }


META: tuple[Literal["reptile", "iMAML"], ...] = ("reptile", "iMAML")
Starts = dict[str, tuple[Callable[[Draw], Tree], float]]  # where adaptation starts on a draw, seconds of meta-learning


def starts_of(small: SmallTasks) -> Starts:
    """Every start; heads that are not learned are fresh."""
    problem = small.problem

    def fresh(draw: Draw) -> Tree:
        return problem.fresh(draw).params

    def source(draw: Draw) -> Tree:
        return {**problem.moved.params, "head": fresh(draw)["head"]}

    found: Starts = {"source": (source, 0.0), "fresh": (fresh, 0.0)}
    for kind in META:
        begun = {kind: fresh(Draw(0)), f"source + {kind}": source(Draw(0))}
        for name, (params, seconds) in small.learn(kind, begun).items():
            found[name] = functools.partial(lambda params, draw: params, params), seconds
    return found


def adapt_each(config: Config, small: SmallTasks, settings: list[tuple[float, float]]) -> dict[str, dict[str, Any]]:
    """Settings of each start are chosen on as many other draws as are reported: here a draw takes no time."""
    starts, figures = starts_of(small), {}
    tuning = [seed + config.report_draws for seed in config.report_seeds]
    with Progress(len(starts), "adapting from each start") as progress:
        for name, (start, seconds) in starts.items():
            raise_if_stopped(f"before adapting from {name}")
            scores = np.mean([small.adapt(start(Draw(seed)), Draw(seed), settings).scores for seed in tuning], axis=0)
            best = int(scores.argmax())
            ended = (small.adapt(start(Draw(seed)), Draw(seed), settings) for seed in config.report_seeds)
            test = np.array([small.test(one, best) for one in ended])
            figures[name] = {"setting": settings[best], "validation": scores[best], "test": test, "seconds": seconds}
            progress.advance()
    return figures


def section_of(config: Config, problem: FewShot, settings: int, figures: dict[str, dict[str, Any]]) -> Section:
    """A row per start, beside the source model's; differences join the figures."""
    rows, lines = [], []
    for name, found in figures.items():
        difference = paired(name, "source", found["test"] - figures["source"]["test"])
        found |= {"difference": difference.difference, "ci95": difference.ci95, "verdict": difference.verdict}
        learning_rate, penalty = map(compact, found["setting"])
        told = [points(difference), difference.verdict] if name != "source" else ["", ""]
        validation, test = number(100 * found["validation"], ".1f"), percent(found["test"])
        rows.append([name, learning_rate, penalty, validation, test, *told])
        rows[-1].append(number(found["seconds"], ".1f") if found["seconds"] else "")
        lines += [verdict_sentence(difference)] if name != "source" else []
    what = {"mlp": "an MLP", "cnn": "a CNN"}[config.model]
    lines += [
        f"{problem.n} labelled examples of a class; {what} {'-'.join(map(str, config.widths))} on images of "
        f"edge {problem.images.shape[0]}. Small tasks: the source's classes in any order.",
        f"Meta-learning ({config.meta_steps} steps of {config.tasks} tasks) learns a head too; the source's is "
        "replaced by a fresh one. Seconds: of meta-learning, the first of a kind with compiling.",
        f"Learning rate and λ towards the start, of {settings} settings, by validation accuracy on "
        f"{counted(config.report_draws, 'other draw')}; test accuracy: mean ± sd of {config.report_draws} draws.",
        problem.truth.sentence,
        GIVEN_CHOICE,
    ]
    columns = ["start", "lr", "λ to start", "validation", "accuracy", "− source", "verdict", "seconds"]
    return Section("Is a meta-learned start better than the source model?", [Table(columns, rows, (0, 6))], lines)


def check_tasks_fit(config: Config, task: DataSet) -> None:
    """Refuse small tasks that do not fit into memory side by side."""
    images = 2 * config.n_per_class * len(task.classes)
    what, todo = f"{config.tasks:,} tasks of {images:,} images", "use fewer tasks, or fewer examples of a class"
    needed = 4.0 * config.tasks * images * task.train.images[0].size
    cli.refuse_beyond_memory(needed, what, where="--config.tasks", todo=todo)


def main(config: Config, workdir: Path) -> None:
    started, console, n = time.perf_counter(), Terminal(), config.n_per_class
    cli.check(config)
    check_training(config)
    report.print_plan(console, config.report_draws, 1)
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    report.print_data(console, source=data, target=data)
    source_task, task = (
        averaged_down(one, config.edge, "--config.edge") for one in choose_tasks(config.split, "split", data, data)
    )
    report.print_notice(console, task, since=data)
    settings = list(itertools.product(config.adapted_learning_rates, config.adapted_penalties))
    check_tasks_fit(config, task)
    check_tasks(config, source_task, task, [n], folds=False, models=max(len(settings), config.tasks))
    keep_to_data(workdir, task.origin, *task.content)
    source = make_source(config, source_task, workdir / "source")
    report.print_source(console, source)
    problem = FewShot(config, source, task, n)
    report.print_target(console, problem)
    figures = adapt_each(config, SmallTasks(problem), settings)
    page = report.Page(console, config.preset)
    page.add(section_of(config, problem, len(settings), figures), {"starts": figures})
    page.write(workdir, cli.header("learned_starts", config, started, data=data.origin, notice=task.notice))


if __name__ == "__main__":
    cli.run(main, Config)
