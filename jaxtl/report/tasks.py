"""Several tasks at once: what each method reaches on each, how their gradients agree, and how much each counts.

A `Result` of several tasks has report runs with the metrics "test/TASK" and "delta_p", and, where they were followed,
the arrays "curve/cosine/A/B" (between the gradients of two tasks) and "curve/weight/TASK", beside "curve/step".
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.text import Text

from jaxtl.labels import count_by_label, label_params
from jaxtl.problems import ManyTasks, NewTask
from jaxtl.protocol import Run, balanced_accuracy
from jaxtl.protocol.measures import ACCURACY, Truth
from jaxtl.protocol.results import PREDICTION, Result, number, points
from jaxtl.report.cells import percent
from jaxtl.report.files import contrast_figures
from jaxtl.report.page import Section
from jaxtl.report.plots import tasks as pictures
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.plots.confusions import confusion_maps, in_words
from jaxtl.report.plots.tasks import metric_of
from jaxtl.report.tables import DASH, Table, coverage, notes, repeated, setting_table
from jaxtl.text import printable

MEAN = "mean over tasks"


def print_tasks(console: Console, problem: ManyTasks) -> None:
    """How many examples there are and of what, what is not as it was asked for, and the labels with their sizes."""
    tasks, params = problem.tasks, problem.net.init(jax.random.key(0))
    size = f"{len(tasks.train)} training and {len(tasks.test)} test examples"
    console.print(Text(printable(f"data      {size}, {tasks.origin}")), soft_wrap=True)
    if tasks.notice:
        console.print(Text(printable(f"NOTE: {tasks.notice}"), "bold yellow"), soft_wrap=True)
    for label, count in count_by_label(params, label_params(params, problem.net.rules)).items():
        line = f"label     {label}: {count.leaves} leaves, {count.parameters:,} parameters"
        console.print(Text(printable(line)))


def tasks_section(problem: ManyTasks, result: Result, baseline: str, single: str, suffix: str) -> Section:
    """All that a comparison of methods on several tasks says: each method on each task, and how it weighs them.

    Args:
        problem: what was asked.
        result: with the metrics that the module names.
        baseline: the method that the others are compared with.
        single: the method that has a model for each task.
        suffix: NAME and NAME + suffix share a row of the pictures.
    """
    names, config = problem.names, problem.config
    unit = "R² on test data, %" if problem.numbers else "test accuracy, %"
    floors = guessing(problem)
    title = f"Each method on each task: {result.title}"
    draw = functools.partial(pictures.per_task, result, names, title, unit, baseline, suffix, floors)
    plots = [Plot("tasks", "Each method on each task", draw)]
    if result.contrasts:
        draw = functools.partial(pictures.contrasts, result)
        plots.append(Plot("contrasts", "The contrasts fixed beforehand", draw))
    lines = [*sentences(result, baseline), *_explained(problem, result, baseline, single, unit)]
    for task in names:
        if task not in problem.numbers and (seen := _confused(problem, result, task, baseline)):
            lines.append(seen[0])
            plots.append(seen[1])
    plots += _weighing_plots(result, names, baseline, suffix)
    tables = [task_table(result, names, baseline, floors), setting_table(result)]
    return Section(f"Together or apart: {config.n} labelled examples", tables, lines, plots)


def new_task_section(task: NewTask, result: Result, baseline: str, settings: str) -> Section:
    """What trunks that were learned on some tasks are worth on a new one: a row for each.

    Args:
        task: what was asked.
        result: of `study`, a method for each trunk.
        baseline: the trunk that the others are compared with.
        settings: the methods whose settings the trunks were learned by, in words.
    """
    config, name, rows = task.config, task.name, []
    for (method, _), summary in result.summaries.items():
        difference = result.difference(method, baseline)
        gap = number(100 * result.gap(method, "tuned"), "+.1f")
        rows.append([method, percent(summary.units), points(difference) if difference else "baseline", gap])
    table = Table(["trunk", name, f"− {baseline}", "train − test"], rows)
    lines = [
        *sentences(result, baseline),
        "R² 0: predicting the mean." if task.is_number else task.tasks.truth_of(name).sentence,
        f"Every trunk has learned from the same {config.n} examples, at the setting chosen for {settings}; "
        f"then trunk and head are trained on {config.n_new} other examples of the new task.",
    ]
    title = f"A new task: {name}, {config.n_new} labelled examples"
    plots = [Plot("new_task", title, functools.partial(pictures.contrasts, result))]
    return Section(title, [table, setting_table(result)], lines, plots)


def figures_of(result: Result) -> dict[str, Any]:
    """What summary.json keeps of a comparison, accuracies and differences as fractions."""
    return {
        "methods": [dataclasses.asdict(summary) for summary in result.summaries.values()],
        "contrasts": [contrast_figures(contrast) for contrast in result.contrasts],
    }


def guessing(problem: ManyTasks) -> dict[str, float]:
    """What guessing reaches, by column: the most frequent class of a task always; of numbers their mean, R² 0."""
    found = {task: 0.0 if task in problem.numbers else problem.truth_of(task).majority for task in problem.names}
    return {MEAN: float(np.mean(list(found.values()))), **found}


def _explained(problem: ManyTasks, result: Result, baseline: str, single: str, unit: str) -> list[str]:
    """What the columns mean, as far as they are there."""
    lines = [
        f"Tasks: {unit}, mean ± sd over {repeated(result)}.",
        *coverage(result),
        "Train − test: points. Seconds: choosing + report runs.",
    ]
    if baseline in result.methods:
        lines.append(f"− {baseline}: points, paired, 95 % interval, not corrected for the number of rows.")
    if result.measured("delta_p"):
        lines.append(f"Δp: relative gain over {single}, a model for each task, on the same draw, mean over tasks, %.")
    lines.append("Guessing: always the most frequent class of a task; of numbers, their mean.")
    if noise := problem.tasks.noise:
        best = [1 - noise[task] / np.var(problem.tasks.test[task]) for task in problem.names]
        lines.append(f"Known: the best prediction there is reaches a mean R² of {100 * np.mean(best):.1f}.")
    if any(summary.edges for summary in result.summaries.values()):
        lines.append("▼ ▲: the lowest or highest value that was tried; a better one may lie beyond.")
    return lines


def _confused(problem: ManyTasks, result: Result, task: str, baseline: str) -> tuple[str, Plot] | None:
    """Which classes of a task are taken for which, in words and drawn; None where no predictions were kept."""
    truth = problem.truth_of(task)
    if not (confusions := on_task(result, task, truth).looked_into(baseline)):
        return None
    title = f"Which classes of {task} are taken for which"
    plot = Plot(f"confusion_{task}", title, functools.partial(confusion_maps, title, truth.names, confusions))
    return classes_in_words(task, confusions, truth.names), plot


def _weighing_plots(result: Result, names: Sequence[str], baseline: str, suffix: str) -> list[Plot]:
    """How gradients of tasks agree, and how much each task counts, where that was followed."""
    plots = []
    if maps := pictures.mean_cosines(result, baseline, names):
        title = f"Cosines between the tasks' gradients on the trunk, {baseline}"
        plots.append(Plot("cosines", title, functools.partial(pictures.cosine_maps, title, names, maps)))
    if shown := weighing(result, suffix):
        title = "How much each task counts, and how gradients agree"
        plots.append(Plot("weights", title, functools.partial(pictures.weights_and_cosines, shown, title)))
    return plots


def with_gains(runs: Sequence[Run], single: str, numbers: Collection[str] = ()) -> list[Run]:
    """Every report run with Δp against the single-task models of its draw, as the metric "delta_p".

    Δp = mean over tasks of (ours − single)/single of an accuracy, or of −(ours − single)/single of an error.

    Args:
        runs: of `compare`, with the metrics "test/TASK".
        single: the method that has a model for each task.
        numbers: tasks whose metric is R²; their error is 1 − R².

    Returns:
        The runs in their order; without "delta_p" where a metric of the run or of its single-task models is missing.
    """
    alone = {run.seed: run.metrics for run in runs if (run.method, run.selection) == (single, "tuned")}

    def gained(run: Run) -> Run:
        tasks = [name.removeprefix("test/") for name in run.metrics if name.startswith("test/")]
        theirs = alone.get(run.seed, {})
        if run.stage != "report" or not tasks or any(f"test/{task}" not in theirs for task in tasks):
            return run
        pairs = {task: (run.metrics[f"test/{task}"], theirs[f"test/{task}"]) for task in tasks}
        gains = [_gain(*pair, is_number=task in numbers) for task, pair in pairs.items()]
        return dataclasses.replace(run, metrics={**run.metrics, "delta_p": float(np.mean(gains))})

    return [gained(run) for run in runs]


def _gain(ours: float, single: float, is_number: bool) -> float:
    if is_number:  # −((1 − ours) − (1 − single)) / (1 − single)
        return (ours - single) / (1 - single)
    return (ours - single) / single if single else math.nan


def task_table(result: Result, tasks: Sequence[str], baseline: str, floor: Mapping[str, float]) -> Table:
    """A row for every method: the mean over tasks, its difference to the baseline, each task, and Δp.

    What no method has is left out. The last row is `floor`: by column, what guessing reaches.
    """
    rows = []
    for (method, selection), summary in result.summaries.items():
        difference = result.difference(method, baseline, selection)
        is_baseline = (method, selection) == (baseline, "tuned")
        rows.append(
            [
                method if selection == "tuned" else f"{method}, {selection}",
                percent(summary.units),
                points(difference) if difference else "baseline" if is_baseline else DASH,
                *(percent(metric_of(result, method, selection, f"test/{task}")) for task in tasks),
                percent(metric_of(result, method, selection, "delta_p"), "+.1f"),
                number(100 * result.gap(method, selection), "+.1f"),
                f"{summary.choosing_seconds:.1f} + {summary.seconds:.1f}",
            ]
        )
    columns = ["method", MEAN, f"− {baseline}", *tasks, "Δp", "train − test", "seconds"]
    guessed = [number(100 * floor[name], ".1f") if name in floor else "" for name in columns[1:]]
    kept = [i for i in range(len(columns)) if any(row[i] != DASH for row in rows)]
    return Table([columns[i] for i in kept], [[row[i] for i in kept] for row in (*rows, ["guessing", *guessed])])


def on_task(result: Result, task: str, truth: Truth) -> Result:
    """The same runs, judged by one task of classes alone; with its predictions where "prediction/TASK" is kept."""
    kept = f"{PREDICTION}/{task}"

    def judged(run: Run) -> Run:
        metrics = run.metrics | {"test": run.metrics.get(f"test/{task}", 0.0)}
        return dataclasses.replace(run, metrics=metrics, arrays=(PREDICTION,) if kept in run.arrays else ())

    def predictions(run: Run) -> dict[str, np.ndarray]:
        return {PREDICTION: result.arrays(dataclasses.replace(run, arrays=(kept,)))[kept]} if run.arrays else {}

    runs = [judged(run) for run in result.runs if run.stage == "report"]
    return dataclasses.replace(result, runs=runs, contrasts=[], arrays=predictions, measure=ACCURACY, truth=truth)


def classes_in_words(task: str, confusions: Mapping[str, Sequence[np.ndarray]], names: Sequence[str]) -> str:
    """A line on a task's classes: balanced accuracy, and what is confused most."""
    told = (
        f"{method} {100 * float(np.mean([balanced_accuracy(counts) for counts in of_draws])):.1f}, "
        f"{in_words(of_draws, names)}"
        for method, of_draws in confusions.items()
    )
    return f"Balanced accuracy and confusions, {task}: {'; '.join(told)}."


def sentences(result: Result, baseline: str) -> list[str]:
    """The contrasts, what choosing costs, what diverged: a sentence each."""
    found = [note for note in notes(result, baseline) if note.heading]
    return [f"{note.heading}: {line}" for note in found for line in note.lines]


def weighing(result: Result, suffix: str) -> Result | None:
    """The runs whose methods weigh tasks; of NAME and NAME + suffix the second. None where there are none."""
    runs = [run for run in result.runs if any(name.startswith("curve/weight/") for name in run.arrays)]
    methods = {run.method for run in runs}
    shown = [run for run in runs if f"{run.method}{suffix}" not in methods]
    return dataclasses.replace(result, runs=shown, contrasts=[]) if shown else None
