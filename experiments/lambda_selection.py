"""Is it right to pull new parameters harder than transferred ones? And which criterion finds the right λ?

The problem of `cifar_transfer`, mapped: every pair of pulls from far below to far above 1 is trained, for L2 with two
rates and for L2-SP, on the same draws. On the map stand the choices of held-out validation, k-fold validation, AIC,
AICc, BIC and evidence, and what each choice loses in test accuracy against the best fixed pair of pulls.

    python -m experiments.lambda_selection             # CIFAR-10 where it is found, otherwise digits
    python -m experiments.lambda_selection --smoke     # digits, a coarse map
    python -m experiments.lambda_selection --config.n_per_class=5,20 --config.report_draws=4

Measured before orders of data were drawn anew, by the last command on exact CIFAR-10, classes 0-4 → 5-9, 4 draws (seeds
2-5), in 19 minutes on 2 busy CPU cores, jax 0.10.2. New parameters pulled harder than transferred ones against equal
pulls, the best pairs by validation on 2 other draws: −0.01 points [−0.18, 0.16] at n = 20 and +0.13 [−0.63, 0.88] at n
= 5 for L2, −0.09 [−0.20, 0.03] and −1.87 [−5.43, 1.69] for L2-SP. Against the best fixed pair of pulls, at n = 20 and
5: held-out accuracy −0.44 and +0.71 (L2), +0.08 and −0.32 (L2-SP), k-fold accuracy −0.87 and −7.58, +0.05 and −1.85;
AIC −13.5 and −13.8, −1.1 and −1.6; BIC −30.0 and −5.6, −2.9 and −1.4; evidence −28.8 and −21.5, −1.1 and −1.4; of the
head alone −0.4 and −4.7, −1.0 and −4.2. The best fixed pairs: 66.4 and 55.7 % (L2), 67.3 and 59.7 % (L2-SP).

AIC, BIC and evidence count the kernels, with biases and scales as they are; and they suppose that training has come to
rest at a minimum, which 150 steps with augmentation do not.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxtl import cli, report
from jaxtl.data import keep_to_data, load
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import RECIPES, TOWARDS
from jaxtl.problems import FewShot, FewShotConfig, SourceConfig, check_tasks, check_training, choose_tasks, make_source
from jaxtl.problems.criteria import Criteria
from jaxtl.problems.pull_map import PullMap, map_out
from jaxtl.protocol import Draw, Draws, Range, RunStore, Trainer, Training, identity, paired, trial_settings
from jaxtl.protocol.results import compact, number, points
from jaxtl.report import Plot, Section, Table
from jaxtl.report.cells import GIVEN_CHOICE
from jaxtl.report.choices import choices_table
from jaxtl.report.plots.maps import Map, heat_maps, overfitting
from jaxtl.report.tables import counted
from jaxtl.selection import Choice, judge_choices
from jaxtl.terminal import Terminal


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, FewShotConfig, Draws, Training):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    split: cli.Text = "0-4:5-9"  # source classes : target classes
    n_per_class: cli.Counts = (20,)  # labelled target examples
    pull: cli.Ends = (0.01, 100.0)  # the ends of the map: λ · Σ learning rates / (1 − momentum), without unit
    points: cli.Points = 5  # pulls on each side of the map
    learning_rate: cli.Span = (0.008, 0.25)  # the range of the learning rate, which fine-tuning chooses
    trials: cli.Trials = 6  # learning rates tried
    report_draws: cli.PairedDraws = 6  # with fewer no difference can be told from chance: 2/2⁶ is below 5 %
    folds: cli.Folds = 3  # of k-fold validation

    may_change: ClassVar = ("n_per_class",)
    glossary: ClassVar = {
        "l2_differential": "fine-tuning with a pull towards 0 of its own for transferred and for new kernels",
        "l2_sp": "fine-tuning; transferred parameters are pulled towards the source model, new kernels towards 0",
        "validation accuracy": "on training images outside every labelled subset",
        "validation log-loss": "the same by log-loss",
        "k-fold accuracy": "on each part of the labelled examples, trained on the other parts",
        "k-fold log-loss": "the same by log-loss",
        "AIC": "Akaike's criterion: −2 log likelihood + 2 df, the effective degrees of freedom of all kernels",
        "AICc": "AIC with its correction for few examples",
        "BIC": "Schwarz' criterion: −2 log likelihood + df log n",
        "evidence": "the probability of the labels with all kernels integrated out, by Laplace",
        "evidence of the head": "the same with the head's kernel alone integrated out",
        "weakest pulls": "the corner of the map in which both pulls are smallest",
        "best fixed pair": "the pair of pulls with the best mean test accuracy, which nobody can know",
        "best of every draw": "the best pair of each draw by its test accuracy, which nobody can know",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "n_per_class": (5,),
            "source_steps": 200,
            "steps": 30,
            "points": 3,
            "trials": 2,
            "tuning_draws": 1,
            "report_draws": 2,
            "folds": 2,
            "validation": 100,
        },
    }


ACROSS = "pull/new"
MAPS = {"l2_differential": ("pull/transferred", ACROSS), "l2_sp": ("pull/source", ACROSS)}  # method: down, across
TOWARDS_WHAT = {"pull/transferred": "towards zero", "pull/source": "towards the source"}
CRITERIA = {  # a column of every run, and the sign that makes larger better
    "validation accuracy": ("validation", 1),
    "validation log-loss": ("validation_log_loss", -1),
    "k-fold accuracy": ("folds", 1),
    "k-fold log-loss": ("folds_log_loss", -1),
    "AIC": ("aic", -1),
    "AICc": ("aicc", -1),
    "BIC": ("bic", -1),
    "evidence": ("log_evidence", 1),
    "evidence of the head": ("head_log_evidence", 1),
}
BEST_FIXED = "best fixed pair"
REGIONS = {  # parts of the map, of (pull on transferred, pull on new)
    "equal": lambda down, across: down == across,
    "new > transferred": lambda down, across: down < across,
    "new < transferred": lambda down, across: down > across,
}


def choose_learning_rate(config: Config, trainer: Trainer, store: RunStore) -> float:
    """The best of plain fine-tuning on the tuning draws: the map shows pulls, and no learning rates in disguise."""
    settings = trial_settings({"learning_rate": Range(*config.learning_rate)}, config.trials)
    scores = [trainer.kept(store, "fine_tune", settings, Draw(seed)) for seed in config.tuning_seeds]
    means = np.mean([[run.validation for run in runs] for runs in scores], axis=0)
    return settings[int(np.argmax(means))]["learning_rate"]


# ---------------------------------------------------------------- what the maps say


def choices_on(mapped: PullMap) -> dict[str, Choice]:
    """What every criterion chooses on every draw, beside choices that show what there is to win and to lose."""
    scores = {name: mapped.scores(column, sign) for name, (column, sign) in CRITERIA.items()}
    scores["weakest pulls"] = np.zeros_like(mapped.test)  # ties go to the first
    scores[BEST_FIXED] = mapped.test.mean(axis=0)
    scores["best of every draw"] = mapped.test
    return judge_choices(scores, mapped.test, BEST_FIXED)


def criteria_table(mapped: PullMap, choices: dict[str, Choice]) -> tuple[Table, dict[str, Any]]:
    """A row per criterion: which pulls it chooses, test accuracy there, and what that loses."""

    def geometric_means(pulls: np.ndarray) -> list[str]:
        return [compact(mean) for mean in np.exp(np.log(pulls).mean(axis=0))]

    columns = ["λ by", "pull transferred", "pull new", "accuracy"]
    return choices_table(choices, mapped.pulls, columns, geometric_means, BEST_FIXED)


def region_table(mapped: PullMap) -> tuple[Table, dict[str, Any]]:
    """The best pair of each part of the map by the tuning draws, judged on the report draws."""
    validation, test = mapped.tuning_scores, mapped.test
    picked = {
        name: max((k for k, pulls in enumerate(mapped.pulls) if inside(*pulls)), key=lambda k: validation[k])
        for name, inside in REGIONS.items()
    }
    rows, figures = [], {}
    for name, k in picked.items():
        pulls, difference = list(mapped.pulls[k]), paired(name, "equal", test[:, k] - test[:, picked["equal"]])
        told = [points(difference), difference.verdict] if name != "equal" else ["", ""]
        rows.append([name, *map(compact, pulls), number(100 * test[:, k].mean(), ".1f"), *told])
        figures[name] = {"pulls": pulls, "test": test[:, k]}
        figures[name] |= {"difference": difference.difference, "ci95": difference.ci95}
    columns = ["part of the map", "pull transferred", "pull new", "accuracy", "− equal", "verdict"]
    return Table(columns, rows, words=(0, 5)), figures


def section_of(
    heading: str, mapped: PullMap, choices: dict[str, Choice], truth: report.Truth
) -> tuple[Section, dict[str, Any]]:
    """What one map says, in words and figures."""
    table, criteria = criteria_table(mapped, choices)
    regions, parts = region_table(mapped)
    lines = [
        f"Learning rate {compact(mapped.learning_rate)}, chosen by fine-tuning without pulls on "
        f"{counted(len(mapped.tuning), 'other draw')}. Ties go to the weaker pulls.",
        truth.sentence,
        GIVEN_CHOICE,
        f"Accuracy on target test data in %, mean ± sd of {len(mapped.report)} draws; differences in points, paired "
        "by draw, 95 % interval. Pulls: geometric means of what was chosen.",
        "Best fixed pair, best of every draw: chosen by test accuracy, which nobody can do; they measure the others.",
        "Parts of the map: the best pair of each by validation on the tuning draws, judged on the report draws.",
    ]
    figures = {"criteria": criteria, "parts": parts, "test": mapped.test.mean(axis=0), "pulls": mapped.pulls}
    figures["validation"] = mapped.scores("validation").mean(axis=0)
    return Section(heading, [table, regions], lines), {heading: figures}


def panel_of(heading: str, mapped: PullMap, choices: dict[str, Choice]) -> Map:
    """One map as it is drawn, with the cells that criteria chose."""
    pulls, size = mapped.side, len(mapped.side)
    picked = {name: choices[name].picked if name in choices else () for name in CRITERIA}
    cells = {name: [divmod(int(k), size) for k in of_draws] for name, of_draws in picked.items()}
    down = f"pull on transferred, {TOWARDS_WHAT[mapped.axes[0]]}"
    return Map(heading, down, pulls, pulls, mapped.test.mean(axis=0).reshape(size, size), cells)


def overfitting_plot(mapped: PullMap, n: int) -> Plot:
    """Along the diagonal of the map of L2: one pull for all parameters."""
    losses = {part: mapped.along_diagonal(f"{part}_loss") for part in ("train", "test")}
    norms = {label: mapped.along_diagonal(f"norm/{label}") for label in (TRANSFERRED, NEW)}
    title = f"One pull for all parameters, {n} per class"
    draw = functools.partial(overfitting, title, mapped.side, losses, mapped.along_diagonal("df"), norms)
    return Plot(f"overfitting_n_{n}", "Loss, degrees of freedom and norms along one common pull", draw)


# ---------------------------------------------------------------- the experiment


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_training(config)
    report.print_plan(console, config.report_draws, 1)
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    report.print_data(console, source=data, target=data)
    source_task, task = choose_tasks(config.split, "split", data, data)
    report.print_notice(console, task, since=data)
    check_tasks(config, source_task, task, config.n_per_class, folds=True, models=max(config.points**2, config.trials))
    keep_to_data(workdir, task.origin, *task.content)
    source = make_source(config, source_task, workdir / "source")
    report.print_source(console, source)
    page = report.Page(console, config.preset)
    panels: list[Map] = []
    plots: list[Plot] = []
    for n in config.n_per_class:
        problem = FewShot(config, source, task, n)
        trainer = Trainer(problem, {name: RECIPES[name] for name in ("fine_tune", *MAPS)})
        report.print_target(console, problem)
        report.print_batches(console, config.batch_size, n * len(task.classes))
        store = RunStore(workdir / f"n_{n}", of=identity(config, n))
        learning_rate = choose_learning_rate(config, trainer, store)
        criteria = Criteria(problem, {TRANSFERRED: TOWARDS, NEW: TOWARDS["zero"]})
        pulls = np.geomspace(config.pull[0], config.pull[1], config.points)
        for method, axes in MAPS.items():
            mapped = map_out(trainer, method, pulls, axes, learning_rate, criteria, store)
            heading, choices = f"{method}, {n} per class", choices_on(mapped)
            page.add(*section_of(heading, mapped, choices, problem.truth))
            panels.append(panel_of(heading, mapped, choices))
            plots += [overfitting_plot(mapped, n)] if method == "l2_differential" else []
    title = "Target accuracy in %, and where each criterion lands (mean over draws)"
    draw = functools.partial(heat_maps, title, panels)
    maps = Plot("maps", "Accuracy over both pulls, and the choices of the criteria", draw)
    page.sections.insert(0, Section("Maps", plots=[maps, *plots]))
    page.write(workdir, cli.header("lambda_selection", config, started, data=data.origin, notice=task.notice))


if __name__ == "__main__":
    cli.run(main, Config)
