"""Which blocks of a network to freeze, to fine-tune, to begin anew? All labellings are tried, validation chooses.

    python -m experiments.label_trees             # CIFAR-10 where it is found, otherwise digits
    python -m experiments.label_trees --smoke     # digits, a few runs of everything

Measured before the split into three (with `learned_rates` and `learned_starts` in 5.8 minutes on 2 CPU cores that were
busy otherwise), on exact CIFAR-10, classes 0-4 → 5-9, n = 20, 8 draws (seeds 2-9), jax 0.10.2. Differences in points of
test accuracy, paired by draw, 95 % intervals.

All transferred 65.6 ± 1.6, all frozen 65.4 ± 1.2, all new 56.9 ± 2.0; chosen, the first block frozen and two
fine-tuned, 67.1 ± 1.8: +1.46 [0.90, 2.02] over all transferred, +1.68 [0.39, 2.97] over all frozen.

All this with convolutions and matrix products by YNNPACK. With --config.seed=1 and by Eigen, which differs in rounding
only, the same label tree was chosen, +0.74 [−0.17, 1.65] over all transferred, +0.87 [−0.48, 2.22] over all frozen (the
same by YNNPACK: +1.43 [0.37, 2.48], +0.68 [−0.20, 1.57]).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from jaxtl import cli, report
from jaxtl.data import keep_to_data, load
from jaxtl.errors import InputError
from jaxtl.labels import TRANSFERRED
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import label_trees, labellings, moving
from jaxtl.problems import (
    FewShot,
    LabelledConfig,
    SourceConfig,
    accuracy,
    check_tasks,
    check_training,
    choose_tasks,
    make_source,
    predict,
)
from jaxtl.protocol import (
    Draw,
    Draws,
    Run,
    RunStore,
    Setting,
    Trained,
    Trainer,
    Training,
    each_draw,
    identity,
    paired,
    verdict_sentence,
)
from jaxtl.protocol.results import compact, number, points
from jaxtl.report import Plot, Section, Table
from jaxtl.report.cells import GIVEN_CHOICE, percent
from jaxtl.report.plots import searches as pictures
from jaxtl.report.tables import counted
from jaxtl.selection import FROZEN
from jaxtl.terminal import Terminal


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, LabelledConfig, Draws, Training):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    split: cli.Text = "0-4:5-9"  # source classes : target classes
    n_per_class: cli.Count = 20  # labelled target examples
    model: Literal["cnn", "mlp"] = "cnn"
    normalisation: Literal["group", "none"] = "group"
    report_draws: cli.PairedDraws = 8
    learning_rates: cli.Rates = (0.02, 0.06, 0.18)  # each labelling chooses one

    glossary: ClassVar = {
        "frozen": "a block of the network that keeps the source model's parameters",
        "transferred": "a block that is trained from the source model's parameters on",
        "new": "a block that is trained from random parameters on",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "n_per_class": 5,
            "source_steps": 200,
            "steps": 30,
            "tuning_draws": 1,
            "report_draws": 3,
            "validation": 100,
            "learning_rates": (0.05,),
        },
    }


class Searched(NamedTuple):
    """What became of every labelling."""

    rows: list[dict[str, str]]
    settings: list[Setting]  # with the learning rate that each chose
    scores: np.ndarray  # [rows] of the tuning draws
    test: np.ndarray  # [rows, report draws]

    @property
    def chosen(self) -> int:
        """The labelling with the best score."""
        return int(self.scores.argmax())

    def all_are(self, kind: str) -> int:
        """The labelling in which the whole trunk is of this kind."""
        return next(k for k, row in enumerate(self.rows) if {*list(row.values())[:-1]} == {kind})


def search(config: Config, problem: FewShot, store: RunStore) -> Searched:
    """Each labelling chooses its learning rate, then the best is chosen, both on the tuning draws."""
    rows, recipes = labellings(problem), label_trees(problem)
    trainer = Trainer(problem, recipes)

    def test(one: Trained | None) -> dict[str, float]:
        if one is None:
            return {}
        predicted = predict(problem.model, one.weights, problem.test_images, problem.images)
        return {"test": accuracy(predicted, problem.task.test.labels)}

    def tested(trained: Sequence[Trained | None], settings: Sequence[Setting]) -> list[dict[str, float]]:
        return [test(one) for one in trained]

    def on(draw: Draw, stage: str, settings: Sequence[Sequence[Setting]], **how: Any) -> list[list[Run]]:
        by_name = zip(recipes, settings, strict=True)
        return [trainer.kept(store, name, tried, draw, stage=stage, **how) for name, tried in by_name]

    tried = [[moving(row, rate) for rate in config.learning_rates] for row in rows]
    tuning = [on(draw, "tuning", tried) for draw in each_draw(config.tuning_seeds, "choosing label trees")]
    scores = np.mean([[[run.validation for run in runs] for runs in by_row] for by_row in tuning], axis=0)
    if not np.isfinite(scores).any():
        what = f"all {len(rows)} labellings diverge with all learning rates on a tuning draw"
        raise InputError(what, where="--config.learning_rates", todo="give smaller ones")
    best = [settings[int(k)] for settings, k in zip(tried, scores.argmax(axis=1), strict=True)]
    reported = [
        on(draw, "report", [[setting] for setting in best], measure=tested)
        for draw in each_draw(config.report_seeds, "judging label trees")
    ]
    accuracies = np.array([[run.metrics["test"] for (run,) in by_row] for by_row in reported]).T
    return Searched(rows, best, scores.max(axis=1), accuracies)


def section_of(config: Config, problem: FewShot, found: Searched) -> tuple[Section, dict[str, Any]]:
    """A row per labelling, and the search's choice against all transferred and all frozen."""
    test, chosen, transferred = found.test, found.chosen, found.all_are(TRANSFERRED)
    names = list(found.rows[0])
    rows, figures = [], []
    for k, row in enumerate(found.rows):
        difference = paired("", "all transferred", test[k] - test[transferred])
        rate = found.settings[k]["learning_rate"]
        cells = [*(row[name] for name in names[:-1]), compact(rate), number(100 * found.scores[k], ".1f")]
        cells += [percent(test[k]), points(difference) if k != transferred else ""]
        rows.append([*cells, "chosen" if k == chosen else ""])
        figures.append({"labels": row, "learning_rate": rate, "validation": found.scores[k], "test": test[k]})
        figures[-1] |= {"difference": difference.difference, "ci95": difference.ci95}
    against = []
    for kind in (TRANSFERRED, FROZEN):
        other = found.all_are(kind)
        if chosen == other:
            against.append(f"The search chose 'all {kind}' itself.")
        else:
            against.append(verdict_sentence(paired("the search's choice", f"all {kind}", test[chosen] - test[other])))
    lines = [
        *against,
        "Learning rate and labelling were chosen by validation accuracy on "
        f"{counted(config.tuning_draws, 'other draw')}; test accuracy is the mean ± sd of {config.report_draws} draws.",
        problem.truth.sentence,
        GIVEN_CHOICE,
        "− all transferred: points, paired by draw, 95 % interval, not corrected for the number of rows.",
    ]
    columns = [*names[:-1], "lr", "validation", "accuracy", "− all transferred", ""]
    words = (*range(len(names) - 1), len(columns) - 1)
    title = "Which blocks to freeze, to fine-tune, to begin anew"
    draw = functools.partial(pictures.labellings, title, names, found.rows, test, chosen, transferred)
    section = Section(title, [Table(columns, rows, words)], lines, [Plot("label_trees", title, draw)])
    return section, {"label_trees": {"rows": figures, "chosen": chosen}}


def main(config: Config, workdir: Path) -> None:
    started, console, n = time.perf_counter(), Terminal(), config.n_per_class
    cli.check(config)
    check_training(config)
    report.print_plan(console, config.report_draws, 1)
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    report.print_data(console, source=data, target=data)
    source_task, task = choose_tasks(config.split, "split", data, data)
    report.print_notice(console, task, since=data)
    check_tasks(config, source_task, task, [n], folds=False, models=len(config.learning_rates))
    keep_to_data(workdir, task.origin, *task.content)
    source = make_source(config, source_task, workdir / "source")
    report.print_source(console, source)
    problem = FewShot(config, source, task, n)
    report.print_target(console, problem)
    report.print_batches(console, config.batch_size, n * len(task.classes))
    found = search(config, problem, RunStore(workdir / "label_trees", of=identity(config)))
    page = report.Page(console, config.preset)
    page.add(*section_of(config, problem, found))
    page.write(workdir, cli.header("label_trees", config, started, data=data.origin, notice=task.notice))


if __name__ == "__main__":
    cli.run(main, Config)
