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
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxtl import cli, report
from jaxtl.data import keep_to_data, load
from jaxtl.labels import NEW, TRANSFERRED, some
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import RECIPES, TOWARDS
from jaxtl.problems import FewShot, FewShotConfig, SourceConfig, check_tasks, check_training, choose_tasks, make_source
from jaxtl.problems.criteria import Criteria
from jaxtl.protocol import (
    Draw,
    Draws,
    Range,
    Run,
    RunStore,
    Setting,
    Trained,
    Trainer,
    Training,
    identity,
    paired,
    trial_settings,
)
from jaxtl.protocol.results import compact, number, points
from jaxtl.report import Plot, Section, Table
from jaxtl.report.plots.maps import Map, heat_maps, overfitting
from jaxtl.report.tables import counted
from jaxtl.selection import regret
from jaxtl.terminal import Terminal
from jaxtl.writers import Progress


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


MAPS = {"l2_differential": "pull/transferred", "l2_sp": "pull/source"}  # method: the pull that goes down the map
ACROSS = "pull/new"
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
REGIONS = {  # parts of the map, of (pull on transferred, pull on new)
    "equal": lambda down, across: down == across,
    "new > transferred": lambda down, across: down < across,
    "new < transferred": lambda down, across: down > across,
}


# ---------------------------------------------------------------- the map


def pulls_of(config: Config) -> np.ndarray:
    low, high = config.pull
    return np.geomspace(low, high, config.points)


def settings_of(config: Config, method: str, learning_rate: float) -> list[Setting]:
    """Every pair of pulls, the weakest first."""
    return [
        {"learning_rate": learning_rate, MAPS[method]: float(down), ACROSS: float(across)}
        for down, across in itertools.product(pulls_of(config), repeat=2)
    ]


def choose_learning_rate(config: Config, trainer: Trainer, store: RunStore) -> float:
    """The best of plain fine-tuning on the tuning draws: the map shows pulls, and no learning rates in disguise."""
    settings = trial_settings({"learning_rate": Range(*config.learning_rate)}, config.trials)
    scores = [trainer.kept(store, "fine_tune", settings, Draw(seed)) for seed in range(config.tuning_draws)]
    means = np.mean([[run.validation for run in runs] for runs in scores], axis=0)
    return settings[int(np.argmax(means))]["learning_rate"]


class Mapped(NamedTuple):
    """A method's runs on one problem: [draws][K] on the tuning and on the report draws."""

    method: str
    n: int
    learning_rate: float
    tuning: list[list[Run]]
    report: list[list[Run]]

    def scores(self, column: str, sign: int = 1) -> np.ndarray:
        """[report draws, K], larger is better; −inf where there is none."""

        def score(run: Run) -> float:
            value = run.validation if column == "validation" else run.metrics.get(column, np.nan)
            return sign * value if np.isfinite(value) else -np.inf

        return np.array([[score(run) for run in runs] for runs in self.report])

    @property
    def test(self) -> np.ndarray:
        """[report draws, K]."""
        return self.scores("test")

    @property
    def pulls(self) -> np.ndarray:
        """[K, 2]: down and across."""
        return np.array([[run.setting[MAPS[self.method]], run.setting[ACROSS]] for run in self.report[0]])


def map_out(
    config: Config, problem: FewShot, trainer: Trainer, method: str, learning_rate: float, store: RunStore
) -> Mapped:
    settings = settings_of(config, method, learning_rate)
    criteria = Criteria(problem, {TRANSFERRED: TOWARDS, NEW: TOWARDS["zero"]})

    def measured(draw: Draw, trained: Sequence[Trained | None], tried: Sequence[Setting]) -> list[dict[str, float]]:
        both = zip(trained, criteria.by_folds(trainer, method, tried, draw), strict=True)
        return [found | (criteria.measure(one, draw) if one else {}) for one, found in both]

    runs, cut = [], config.tuning_draws
    draws = [Draw(seed) for seed in range(cut + config.report_draws)]
    with Progress(len(draws), f"{method}, n = {problem.n}: {len(settings)} pairs of pulls a draw") as progress:
        for draw in draws:
            stage, measure = ("tuning", None) if draw.seed < cut else ("report", functools.partial(measured, draw))
            runs.append(trainer.kept(store, method, settings, draw, stage=stage, measure=measure))
            progress.advance()
    return Mapped(method, problem.n, learning_rate, runs[:cut], runs[cut:])


# ---------------------------------------------------------------- what the maps say


def criteria_table(mapped: Mapped) -> tuple[Table, dict[str, Any], dict[str, list[int]]]:
    """A row per criterion: which pulls it chooses, test accuracy there, and what that loses."""
    test, rows, figures, choices = mapped.test, [], {}, {}
    best_fixed = np.full(len(test), test.mean(axis=0).argmax())
    candidates = {name: mapped.scores(*how) for name, how in CRITERIA.items()}
    picks = {
        name: scores.argmax(axis=1) for name, scores in candidates.items() if np.isfinite(scores).any(axis=1).all()
    }
    choices = {name: list(map(int, picks.get(name, []))) for name in CRITERIA}
    picks |= {
        "weakest pulls": np.zeros(len(test), int),
        "best fixed pair": best_fixed,
        "best of every draw": test.argmax(1),
    }
    for name, picked in picks.items():
        at = test[np.arange(len(test)), picked]
        lost = regret(np.eye(test.shape[1])[picked], test)
        difference = paired(name, "best fixed pair", -lost)
        down, across = np.exp(np.log(mapped.pulls[picked]).mean(axis=0))
        compared = "" if name == "best fixed pair" else points(difference)
        accuracy_cell = f"{100 * at.mean():.1f} ± {100 * at.std(ddof=1):.1f}"
        rows.append([name, compact(down), compact(across), accuracy_cell, compared])
        figures[name] = {"pulls": mapped.pulls[picked], "test": at, "difference": difference.difference}
        figures[name] |= {"ci95": difference.ci95}
    columns = ["λ by", "pull transferred", "pull new", "accuracy", "− best fixed pair"]
    return Table(columns, rows), figures, choices


def region_table(mapped: Mapped) -> tuple[Table, dict[str, Any]]:
    """The best pair of each part of the map by the tuning draws, judged on the report draws."""
    mean = np.mean([[run.validation for run in runs] for runs in mapped.tuning], axis=0)
    picked = {
        name: max((k for k, pulls in enumerate(mapped.pulls) if inside(*pulls)), key=lambda k: mean[k])
        for name, inside in REGIONS.items()
    }
    rows, figures = [], {}
    for name, k in picked.items():
        at = mapped.test[:, k]
        difference = paired(name, "equal", at - mapped.test[:, picked["equal"]])
        down, across = mapped.pulls[k]
        told = [difference.verdict, points(difference)] if name != "equal" else ["", ""]
        rows.append([name, compact(down), compact(across), number(100 * at.mean(), ".1f"), *told[::-1]])
        figures[name] = {
            "pulls": [down, across],
            "test": at,
            "difference": difference.difference,
            "ci95": difference.ci95,
        }
    columns = ["part of the map", "pull transferred", "pull new", "accuracy", "− equal", "verdict"]
    return Table(columns, rows, words=(0, 5)), figures


def section_of(config: Config, mapped: Mapped, truth: report.Truth) -> tuple[Section, dict[str, Any], Map]:
    table, criteria, choices = criteria_table(mapped)
    regions, parts = region_table(mapped)
    lines = [
        f"Learning rate {compact(mapped.learning_rate)}, chosen by fine-tuning without pulls on "
        f"{counted(config.tuning_draws, 'other draw')}. Ties go to the weaker pulls.",
        truth.sentence,
        f"Accuracy on target test data in %, mean ± sd of {config.report_draws} draws; differences in points, paired "
        "by draw, 95 % interval. Pulls: geometric means of what was chosen.",
        "Best fixed pair, best of every draw: chosen by test accuracy, which nobody can do; they measure the others.",
        "Parts of the map: the best pair of each by validation on the tuning draws, judged on the report draws.",
    ]
    heading = f"{mapped.method}, {mapped.n} per class"
    size = config.points
    down = f"pull on transferred, {TOWARDS_WHAT[MAPS[mapped.method]]}"
    cells = {name: [divmod(k, size) for k in picked] for name, picked in choices.items()}
    accuracies = mapped.test.mean(axis=0).reshape(size, size)
    drawn = Map(heading, down, pulls_of(config), pulls_of(config), accuracies, cells)
    figures = {"criteria": criteria, "parts": parts, "test": mapped.test.mean(axis=0), "pulls": mapped.pulls}
    validation = mapped.scores("validation").mean(axis=0)
    return Section(heading, [table, regions], lines), {heading: figures | {"validation": validation}}, drawn


def overfitting_plot(config: Config, mapped: Mapped) -> Plot:
    """Along the diagonal of the map of L2: one pull for all parameters."""
    diagonal = np.arange(config.points) * (config.points + 1)

    def column(name: str) -> np.ndarray:
        return np.mean([[runs[k].metrics.get(name, np.nan) for k in diagonal] for runs in mapped.report], axis=0)

    losses = {"train": column("train_loss"), "test": column("test_loss")}
    norms = {label: column(f"norm/{label}") for label in (TRANSFERRED, NEW)}
    title = f"One pull for all parameters, {mapped.n} per class"
    draw = functools.partial(overfitting, title, pulls_of(config), losses, column("df"), norms)
    return Plot(f"overfitting_n_{mapped.n}", "Loss, degrees of freedom and norms along one common pull", draw)


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
    console.print(f"source model: {source.accuracy:.1%} of its {len(source_task.test)} test images are right")
    sections: list[Section] = []
    maps: list[Map] = []
    plots: list[Plot] = []
    figures: dict[str, Any] = {}
    for n in config.n_per_class:
        problem = FewShot(config, source, task, n)
        trainer = Trainer(problem, {name: RECIPES[name] for name in ("fine_tune", *MAPS)})
        console.print(f"target: {some(task.classes)}; {n} labelled examples of each")
        report.print_batches(console, config.batch_size, n * len(task.classes))
        store = RunStore(workdir / f"n_{n}", of=identity(config, n))
        learning_rate = choose_learning_rate(config, trainer, store)
        for method in MAPS:
            mapped = map_out(config, problem, trainer, method, learning_rate, store)
            section, found, drawn = section_of(config, mapped, problem.truth)
            report.print_section(console, section, config.preset)
            sections.append(section)
            maps.append(drawn)
            figures |= found
            plots += [overfitting_plot(config, mapped)] if method == "l2_differential" else []
    draw = functools.partial(heat_maps, "Target accuracy in %, and where each criterion lands (mean over draws)", maps)
    plots.insert(0, Plot("maps", "Accuracy over both pulls, and the choices of the criteria", draw))
    sections.insert(0, Section("Maps", plots=plots))
    header = cli.header("lambda_selection", config, started, data=data.origin, notice=task.notice)
    for path in report.write_sections(workdir, header, figures, sections):
        console.print(f"wrote {path}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, Config)
