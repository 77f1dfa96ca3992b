"""Do methods that weigh tasks beat the plain sum of their losses, once its regularisation is tuned as well?

And what does a shared trunk buy beside a model for each task? Two digits side by side, 500 labelled images: which is on
the left, which on the right, is the left one larger. Single-task models, the plain sum and eleven weightings, each with
and without a tuned L2 pull on the shared trunk and on the heads, under one protocol with equal budgets.

    python -m experiments.multitask                            # MNIST where it is found, otherwise digits
    python -m experiments.multitask --smoke
    python -m experiments.multitask --config.preset=low_rank   # a known answer: 64 shared units, heads of 32
    python -m experiments.multitask --config.preset=linnerud   # 20 men
    python -m experiments.multitask --config.preset=cifar      # CIFAR-10: its class, and animal or vehicle

Measured before orders of data and tried settings were drawn anew, on MNIST with --config.seed=1, in 6.5 minutes on 2
busy CPU cores with jax 0.10.2. Mean accuracy over the three tasks in %, mean ± sd of 10 draws (2-11), without and with
L2: a model for each task 81.3 ± 0.5, 81.9 ± 0.6; the plain sum 80.4 ± 0.6, 81.3 ± 0.3; PCGrad 80.5 ± 0.6, 81.6 ± 0.5;
MGDA 79.7 ± 0.6, 81.3 ± 0.5; Nash 80.9 ± 0.5, 81.8 ± 0.4; the others, uncertainty aside, 80.3 to 80.6 and 81.2 to 81.7.
Differences that were fixed beforehand, in points with 95 % intervals: equal_l2 − equal +0.89 [0.57, 1.21], equal_l2 −
single_l2 −0.59 [−0.79, −0.38]; pcgrad, mgda, nash − equal_l2 −0.77 [−1.11, −0.44], −1.62 [−2.00, −1.24], −0.37 [−0.60,
−0.13]; with L2 as well +0.31 [0.06, 0.56], −0.01 [−0.32, 0.29], +0.55 [0.34, 0.75].

So the plain sum with L2 is ahead of every weighting without, and most are level with it once they have L2; Nash and
PCGrad are a little ahead. Left and right lose by sharing what larger gains. Uncertainty weighting broke down on a draw.
Ranges and the number of trials had been changed twice after runs with seed 0, and the last three contrasts were added
then: hence the fresh seed. With 8 or 10 trials, too few for three numbers, differences were up to half a point others;
by other matrix products, which differ in rounding only, up to 0.4 (equal_l2 chose another setting).

The sum of both digits from 200 labels: a trunk from all three tasks 20.1 ± 0.7, from left 18.1 ± 0.8, right 17.3 ± 0.8,
larger 15.4 ± 0.8, from none 15.4 ± 0.6; from_all − from_left +1.99 [1.39, 2.59], − scratch +4.70 [4.32, 5.08].

The rest before matrix products were left to Eigen:
low_rank (three tasks along one direction): equal_l2 − single_l2 +1.81 [1.61, 2.01], R² 37.6 of the 49.8 that are there.
cifar (8 draws): equal_l2 − single_l2 −1.36 [−1.72, −1.00], − equal −0.46 [−0.91, 0.00]; pcgrad and mgda are within 1.
linnerud: from 6 men no method predicts 8 others better than by the mean (equal_l2 46.8 ± 1.9, where the mean has 50).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import numpy as np

from jaxtl import cli, report
from jaxtl.data.task_sets import load_tasks
from jaxtl.errors import NotFinite
from jaxtl.labels import count_by_label, label_params
from jaxtl.loop import raise_if_stopped
from jaxtl.methods.multitask.recipes import PULLED, cosines, recipes
from jaxtl.problems import ManyTasks, ManyTasksConfig, NewTask, check_many_tasks, check_training
from jaxtl.problems.many_tasks import fraction
from jaxtl.problems.trunk_pulls import along
from jaxtl.protocol import Budget, Draw, Setting, Trainer, paired, study, to_csv
from jaxtl.protocol.results import Result, compact, number, points
from jaxtl.report import Plot, Section, Table
from jaxtl.report.files import contrast_figures
from jaxtl.report.plots.confusions import confusion_maps
from jaxtl.report.tables import counted, setting_table
from jaxtl.report.tasks import (
    classes_in_words,
    contrasts,
    cosine_maps,
    mean_cosines,
    on_task,
    per_task,
    percent,
    sentences,
    task_table,
    weighing,
    weights_and_cosines,
    with_gains,
)
from jaxtl.selection import regret
from jaxtl.terminal import Terminal
from jaxtl.trees import Tree
from jaxtl.writers import Progress

METHODS = {name: recipe.means for name, recipe in recipes(()).items()}
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", METHODS)], ...], cli.Items(0, distinct=True)]
Honest = Annotated[tuple[Annotated[str, cli.OneOf("method", (*METHODS, "all"))], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(ManyTasksConfig, Budget):
    preset: str = ""  # smoke, cifar, low_rank, linnerud: fills what is not given
    data: Literal["two_digits", "cifar", "low_rank", "linnerud"] = "two_digits"
    images: cli.Place = "auto"  # a name or a path; auto: MNIST, for cifar CIFAR-10; digits if it is not found
    data_dir: cli.Place = ""  # where named data sets are looked for
    new_task: cli.Text = "sum"  # what the trunks are moved to afterwards; none when empty
    methods: Methods = ()  # some of them, as in the table; all when empty
    steps: cli.Steps = 300
    trials: cli.Trials = 20  # settings tried for every method
    honest: Honest = ("equal_l2",)  # methods that also choose from their labelled images alone; or all
    learning_rate: cli.Span = (0.005, 0.5)  # ranges, searched log-uniformly
    pull: cli.Span = (0.03, 100.0)  # λ · Σ learning rates / (1 − momentum), without unit
    weight: cli.Span = (0.33, 3.0)  # of a task against another, for fixed weights
    path_points: cli.Points = 9  # pulls on the shared trunk, from a tenth of the range's low end, to choose among
    path_draws: Annotated[int, cli.Within(0, 1_000)] = 4  # on so many report draws; 0 leaves the criteria out
    n_new: cli.Count = 200  # labelled images of the new task
    noise: Annotated[float, cli.Within(0, 1e6)] = 1.0  # of the low-rank tasks, whose signal has variance 1
    rank: cli.Count = 1

    may_change: ClassVar = ("methods", "honest")  # they only add runs
    glossary: ClassVar = METHODS | {
        "scratch": "of a new task: its trunk starts from random parameters",
        "from_TASK": "of a new task: its trunk is the one that single_l2 has learned for that task",
        "from_all": "of a new task: its trunk is the one that equal_l2 has learned for all tasks",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "images": "digits",
            "n": 100,
            "input_size": 8,
            "widths": (32,),
            "steps": 60,
            "trials": 4,
            "tuning_draws": 1,
            "report_draws": 3,
            "validation": 150,
            "folds": 2,
            "path_draws": 1,
            "n_new": 100,
            "methods": ("single_l2", "equal", "equal_l2", "fixed_l2", "uncertainty", "mgda", "nash"),
            "honest": (),
        },
        "cifar": {
            "data": "cifar",
            "tasks": ("class", "group"),
            "new_task": "",
            "n": 1000,
            "model": "cnn",
            "widths": (16, 32, 64),
            "input_size": 16,
            "steps": 200,
            "trials": 12,
            "methods": ("single_l2", "equal", "equal_l2", "pcgrad", "mgda"),
            "honest": (),
            "report_draws": 8,
            "path_draws": 0,
        },
        "low_rank": {
            "data": "low_rank",
            "tasks": ("task_0", "task_1", "task_2"),
            "new_task": "task_3",
            "n": 100,
            "n_new": 30,
            "widths": (64,),
            "head_widths": (32,),
            "validation": 500,
        },
        "linnerud": {
            "data": "linnerud",
            "tasks": ("weight", "waist", "pulse"),
            "new_task": "",
            "n": 6,
            "widths": (64,),
            "head_widths": (32,),
            "batch_size": 6,
            "validation": 4,
            "honest": (),
            "path_draws": 0,
        },
    }


BASELINE, SINGLE = "equal_l2", "single_l2"
CONTRASTS = (
    ("equal_l2", "equal"),
    ("equal_l2", "single_l2"),
    ("pcgrad", "equal_l2"),
    ("mgda", "equal_l2"),
    ("nash", "equal_l2"),
    ("pcgrad_l2", "equal_l2"),
    ("mgda_l2", "equal_l2"),
    ("nash_l2", "equal_l2"),
)
FROM_ALL = "from_all"
CRITERIA = {"validation": 1, "folds": 1, "aic": -1, "bic": -1, "log_evidence": 1}  # 1: larger is better
COSINES = f"Cosines between the tasks' gradients on the trunk, {BASELINE}"
WEIGHTS = "How much each task counts, and how gradients agree"


def trunks_of(trainer: Trainer, settings: Mapping[str, Setting], seed: int) -> dict[str, Tree]:
    """By where they come from, learned on the labelled examples of a draw by the settings that were chosen."""
    trunks = {}
    for method in (SINGLE, BASELINE):
        (trained,) = trainer.train_all(method, [settings[method]], Draw(seed))
        if trained is None:
            raise NotFinite(f"{method}, draw {seed}: a parameter is not finite")
        trunks[method] = trained.weights.params["trunk"]
    return {f"from_{task}": trunk for task, trunk in trunks[SINGLE].items()} | {FROM_ALL: trunks[BASELINE]}


def path(config: Config, problem: ManyTasks, trainer: Trainer, setting: Setting) -> tuple[Section, dict[str, Any]]:
    """Pulls on the shared trunk beside the chosen learning rate and pull on the heads: what each criterion chooses."""
    pulls = np.geomspace(config.pull[0] / 10, config.pull[-1], config.path_points)
    settings = [setting | {"pull/shared": float(pull)} for pull in pulls]
    draws = [Draw(config.tuning_draws + k) for k in range(config.path_draws)]
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("test", *CRITERIA, "df")}
    with Progress(len(draws), "pulls on the trunk") as progress:
        for draw in draws:
            raise_if_stopped(f"before the pulls on draw {draw.seed}")
            for name, column in along(problem, trainer, BASELINE, settings, draw).items():
                found[name].append(column)
            progress.advance()
    columns = {name: np.array(rows) for name, rows in found.items() if rows}
    test = columns["test"]
    best = int(test.mean(axis=0).argmax())
    picks = {name: sign * columns[name] for name, sign in CRITERIA.items() if name in columns}
    picks = {name: np.where(np.isfinite(scores), scores, -np.inf).argmax(axis=1) for name, scores in picks.items()}
    picks |= {"weakest pull": np.zeros(len(test), int), "best fixed pull": np.full(len(test), best)}
    rows, figures = [], {}
    for name, picked in picks.items():
        difference = paired(name, "best fixed pull", -regret(np.eye(len(pulls))[picked], test))
        at = test[np.arange(len(test)), picked]
        chosen = np.unique(picked)
        ends = " to ".join(dict.fromkeys(compact(pulls[k]) for k in (chosen[0], chosen[-1])))
        compared = "" if name == "best fixed pull" else points(difference)
        rows.append([name, ends, percent(at), compared])
        figures[name] = {"pulls": pulls[picked], "test": at, "difference": difference.difference}
    lines = [
        f"{BASELINE} at its chosen setting, but {len(pulls)} pulls on the trunk from {compact(pulls[0])} to "
        f"{compact(pulls[-1])}; {counted(len(draws), 'draw')}.",
        "Folds: of the labelled examples. AIC, BIC and evidence, where there are any: of all tasks as one.",
    ]
    along_pulls = {name: columns[name].mean(axis=0) for name in columns}
    table = Table(["λ_shared by", "pull", "mean over tasks", "− best fixed pull"], rows)
    return Section("How hard to pull the shared trunk", [table], lines), {
        "path": {"pulls": pulls, "choices": figures, "means": along_pulls}
    }


# ---------------------------------------------------------------- what is shown


def floors_of(problem: ManyTasks) -> dict[str, float]:
    """What guessing reaches on each task: the most frequent class always, or R² 0 for the mean of numbers."""
    return {task: 0.0 if task in problem.numbers else problem.truth_of(task).majority for task in problem.names}


def together(problem: ManyTasks, result: Result) -> Section:
    config, names, floors = problem.config, problem.names, floors_of(problem)
    unit = "R² on test data, %" if problem.numbers else "test accuracy, %"
    lines = [
        *sentences(result, BASELINE),
        f"Tasks: {unit}, mean ± sd over {counted(config.report_draws, 'draw')} of examples, network and order.",
        f"Intervals cover the draws, given one test set of {len(problem.tasks.test)} examples.",
        "Train − test: points. Seconds: choosing + report runs.",
    ]
    if BASELINE in result.methods:
        lines.append(f"− {BASELINE}: points, paired by draw, 95 % interval, not corrected for the number of rows.")
    if result.measured("delta_p"):
        lines.append(f"Δp: relative gain over {SINGLE}, a model for each task, on the same draw, mean over tasks, %.")
    lines.append("Guessing: always the most frequent class of a task; of numbers, their mean.")
    if problem.numbers:
        lines.append("Mean over tasks: v/(v + e) for variance v and squared error e, 50 % for predicting the mean.")
    if problem.tasks.noise:
        best = [1 - problem.tasks.noise[task] / np.var(problem.tasks.test[task]) for task in names]
        mean = np.mean([fraction(r2, is_number=True) for r2 in best])
        lines.append(
            f"Known: the best prediction there is reaches R² {100 * np.mean(best):.1f}, the mean {100 * mean:.1f}."
        )
    if any(summary.edges for summary in result.summaries.values()):
        lines.append("▼ ▲: the lowest or highest value that was tried; a better one may lie beyond.")
    title = f"Each method on each task: {result.title}"
    draw = functools.partial(per_task, result, names, title, unit, BASELINE, PULLED, floors)
    plots = [Plot("tasks", "Each method on each task", draw)]
    if result.contrasts:
        plots.append(Plot("contrasts", "The contrasts fixed beforehand", functools.partial(contrasts, result)))
    for task in names:
        if task in problem.numbers:
            continue
        truth = problem.truth_of(task)
        if confusions := on_task(result, task, truth).looked_into(BASELINE):
            lines.append(classes_in_words(task, confusions, truth.names))
            seen = f"Which classes of {task} are taken for which"
            drawing = functools.partial(confusion_maps, seen, truth.names, confusions)
            plots.append(Plot(f"confusion_{task}", seen, drawing))
    if maps := mean_cosines(result, BASELINE, names):
        plots.append(Plot("cosines", COSINES, functools.partial(cosine_maps, COSINES, names, maps)))
    if shown := weighing(result, PULLED):
        plots.append(Plot("weights", WEIGHTS, functools.partial(weights_and_cosines, shown, WEIGHTS)))
    floor = float(np.mean([fraction(floors[task], task in problem.numbers) for task in names]))
    tables = [task_table(result, names, BASELINE, {"mean over tasks": floor, **floors}), setting_table(result)]
    return Section(f"Together or apart: {config.n} labelled examples", tables, lines, plots)


def moved(problem: ManyTasks, result: Result) -> Section:
    config, rows = problem.config, []
    for (method, _), summary in result.summaries.items():
        difference = result.difference(method, FROM_ALL)
        gap = number(100 * result.gap(method, "tuned"), "+.1f")
        rows.append([method, percent(summary.values), points(difference) if difference else "baseline", gap])
    table = Table(["trunk", config.new_task, f"− {FROM_ALL}", "train − test"], rows)
    known = config.new_task not in problem.numbers
    lines = [
        *sentences(result, FROM_ALL),
        problem.truth_of(config.new_task).sentence if known else "50 %: predicting the mean.",
        f"Every trunk has learned from the same {config.n} examples, at the setting chosen for {SINGLE} or {BASELINE}; "
        f"then trunk and head are trained on {config.n_new} other examples of the new task.",
    ]
    title = f"A new task: {config.new_task}, {config.n_new} labelled examples"
    plots = [Plot("new_task", title, functools.partial(contrasts, result))]
    return Section(title, [table, setting_table(result)], lines, plots)


# ---------------------------------------------------------------- the experiment


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_training(config)
    planned = [pair for pair in CONTRASTS if set(pair) <= set(config.methods or METHODS)]
    moves = len(config.tasks) + 1 if config.new_task else 0  # a trunk for each task, and none
    report.print_plan(console, config.report_draws, max(len(planned), moves))
    cli.refuse_too_many_runs(*config.planned_runs(len(METHODS)), where="--config.trials")
    tasks = load_tasks(
        config.data,
        config.images,
        config.data_dir or None,
        rank=config.rank,
        noise=config.noise,
        seed=config.seed,
        progress=Progress,
    )
    folds, models = bool(config.honest or config.path_draws), max(config.trials, config.path_points)
    check_many_tasks(config, tasks, folds=folds, models=models)
    size = f"{len(tasks.train)} training and {len(tasks.test)} test examples"
    console.print(f"data      {size}, {tasks.origin}", soft_wrap=True)
    if tasks.notice:
        console.print(f"NOTE: {tasks.notice}", style="bold yellow", soft_wrap=True)
    problem = ManyTasks(config, tasks, watch=cosines)
    params = problem.net.init(jax.random.key(0))
    for label, count in count_by_label(params, label_params(params, problem.net.rules)).items():
        console.print(f"label     {label}: {count.leaves} leaves, {count.parameters:,} parameters")
    report.print_batches(console, config.batch_size, config.n)
    methods = recipes(config.tasks)
    result = study(problem, methods, workdir / "together", planned)
    result = dataclasses.replace(result, runs=with_gains(result.runs, SINGLE, problem.numbers))
    sections, results = [together(problem, result)], {"together": result}
    figures: dict[str, Any] = {}
    chosen = {method: result.reported(method, "tuned")[0].setting for method in result.methods}
    trainer = Trainer(problem, methods)
    if config.path_draws and BASELINE in chosen:
        section, figures = path(config, problem, trainer, chosen[BASELINE])
        sections.append(section)
    if config.new_task and {SINGLE, BASELINE} <= chosen.keys():
        task = NewTask(problem, functools.partial(trunks_of, trainer, chosen))
        trunks = {f"from_{name}": config.glossary["from_TASK"] for name in config.tasks}
        moving = task.recipes(trunks | {FROM_ALL: config.glossary[FROM_ALL]})
        others = [(FROM_ALL, other) for other in moving if other != FROM_ALL]
        results["new_task"] = study(task, moving, workdir / "new_task", others, methods=(), honest=())
        sections.append(moved(problem, results["new_task"]))
    for section in sections:
        report.print_section(console, section, config.preset)
    header = cli.header("multitask", config, started, data=tasks.origin, notice=tasks.notice)
    from_one = config.glossary["from_TASK"]
    header["glossary"] = header["glossary"] | {f"from_{task}": from_one for task in config.tasks}
    figures |= {name: numbers_of(result) for name, result in results.items()}
    console.line()
    for name, result in results.items():
        to_csv(result.runs, workdir / f"{name}.csv")
        console.print(f"wrote {workdir / name}.csv", soft_wrap=True)
    for file in report.write_sections(workdir, header, figures, sections):
        console.print(f"wrote {file}", soft_wrap=True)


def numbers_of(result: Result) -> dict[str, Any]:
    """What summary.json keeps of a comparison, accuracies and differences as fractions."""
    return {
        "methods": [dataclasses.asdict(summary) for summary in result.summaries.values()],
        "contrasts": [contrast_figures(contrast) for contrast in result.contrasts],
    }


if __name__ == "__main__":
    cli.run(main, Config)
