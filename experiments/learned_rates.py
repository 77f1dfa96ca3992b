"""Does a gradient find λ and the learning rates as well as a grid, from a start far off, and what does it cost?

    python -m experiments.learned_rates             # CIFAR-10 where it is found, otherwise digits
    python -m experiments.learned_rates --smoke     # digits, a few runs of everything
    python -m experiments.learned_rates --config.parts=head_rates

Measured before the split into three (with `label_trees` and `learned_starts` in 5.8 minutes on 2 CPU cores that were
busy otherwise), on exact CIFAR-10, classes 0-4 → 5-9, n = 20, 8 draws (seeds 2-9), jax 0.10.2. Differences in points of
test accuracy, paired by draw, 95 % intervals.

Rates of the head on frozen features: the grid of 144 65.0 ± 1.2; by gradient from rates far too small +0.01
[−0.10, 0.12], from far too large −0.77 [−2.13, 0.59], where 3 searches stay at the edge of divergence; λ alone
from 3, forward −0.15 [−0.61, 0.30], implicit the same. A search took 0.1 s, the grid side by side 0.06 s. Five rates
of an MLP: 64 at random 55.6 ± 1.8 in 1.0 s; by gradient +0.38 [0.03, 0.73] and +0.65 [0.14, 1.17] in 5 s. 256 at
random cost about as much, and with another source model −0.41 [−1.80, 0.97] and +0.35 [−0.10, 0.79] were left: a
gradient saves runs, not seconds, where runs are small. The CNN itself: a run 0.7 s, with its slope for five rates
4.7 s in reverse and 9.6 s forward.

All this with convolutions and matrix products by YNNPACK. With --config.seed=1 and by Eigen, which differs in rounding
only, five rates by gradient +0.47 [−0.19, 1.13] and +0.67 [−0.24, 1.57] over 64 at random (the same by YNNPACK: +0.36
[−0.11, 0.84] and +0.68 [0.38, 0.98]).

An interrupted run keeps source models; everything else takes a minute or two and is done again.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from jaxtl import cli, report
from jaxtl.data import DataSet, keep_to_data, load
from jaxtl.labels import NEW
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import TOWARDS, head, pulled
from jaxtl.problems import (
    FewShot,
    Found,
    LabelledConfig,
    SourceConfig,
    Tuning,
    averaged_down,
    check_tasks,
    check_training,
    choose_tasks,
    make_source,
)
from jaxtl.protocol import Draw, Draws, Training, each_draw
from jaxtl.report import Plot, Section
from jaxtl.report.plots.searches import Ground, ways
from jaxtl.report.rates import rates_section
from jaxtl.selection import Implicit
from jaxtl.terminal import Terminal

PARTS = ("head_rates", "all_rates")


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, LabelledConfig, Draws, Training):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    split: cli.Text = "0-4:5-9"  # source classes : target classes
    # what is asked
    parts: Annotated[tuple[Annotated[str, cli.OneOf("part", PARTS)], ...], cli.Items(1, distinct=True)] = PARTS
    n_per_class: cli.Count = 20  # labelled target examples
    normalisation: Literal["group", "none"] = "group"
    report_draws: cli.PairedDraws = 8
    learning_rate: cli.Ends = (0.001, 1.0)  # the ends of the grid
    penalty: cli.Ends = (1e-5, 10.0)
    points: cli.Points = 12  # of the grid on each side
    weak: cli.Pair = (0.001, 1e-5)  # where gradients begin: learning rates and penalties far too small,
    strong: cli.Pair = (0.3, 3.0)  # and far too large
    longest: cli.Trials = 40  # runs of a search by gradient, at most
    five_rates_of: Literal["small", "model"] = "small"  # an MLP, or the model itself: minutes a search on CPU
    random: cli.Trials = 64  # settings tried in place of a grid where the rates are five
    small_edge: Annotated[int, cli.Within(2, 65_536)] = 8  # images are averaged down to this edge for the MLP
    small_widths: cli.Widths = (128, 64)

    glossary: ClassVar = {
        "grid": "rates by the smallest held-out log-loss among all pairs of a grid",
        "grid, 16 of it": "the same among 16 of them at random",
        "grid, by accuracy": "rates by the best held-out accuracy on the grid",
        "random": "rates by the smallest held-out log-loss among settings at random",
        "random, 16 of it": "the same among 16 of them",
        "random, by accuracy": "rates by the best held-out accuracy among settings at random",
        "gradient from weak": "all rates go down the slope of the held-out log-loss, from values far too small",
        "gradient from strong": "the same from values far too large",
        "λ alone, forward": "the penalty alone goes down that slope, which is carried along forwards through training",
        "λ alone, implicit": "the same, but the slope is that at the minimum where training is supposed to have ended",
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
            "points": 6,
            "longest": 12,
        },
    }


LEARNING_RATE, PENALTY = "learning_rate/new", "penalty/new"  # of the head
HEAD_RATES = (LEARNING_RATE, PENALTY)
ALL_RATES = (
    *("learning_rate/transferred", LEARNING_RATE),
    *("penalty/transferred/zero", "penalty/transferred/source", PENALTY),
)


def each_rate(names: Sequence[str], learning_rate: Any, penalty: Any) -> dict[str, Any]:
    """One value for all learning rates, one for all penalties."""
    return {name: learning_rate if name.startswith("learning_rate/") else penalty for name in names}


def choose_for_head(implicit: Implicit, config: Config, tuning: Tuning, draw: Draw) -> tuple[dict[str, Found], Any]:
    """Every way on one draw, and what the picture shows."""
    climb = functools.partial(tuning.climb, draw, longest=config.longest)
    columns = tuning.grid(each_rate(HEAD_RATES, config.learning_rate, config.penalty), config.points)
    best, losses = tuning.among(draw, columns)
    found = {f"grid{which}": one for which, one in best.items()}
    went: dict[str, np.ndarray] = {}
    for name, at in (("gradient from weak", config.weak), ("gradient from strong", config.strong)):
        found[name], learned = climb(each_rate(HEAD_RATES, *at), "forward")
        went[name] = np.stack([learned.points[PENALTY], learned.points[LEARNING_RATE]], axis=1)
    only, middle = {PENALTY: config.strong[1]}, {LEARNING_RATE: float(np.sqrt(np.prod(config.learning_rate)))}
    found["λ alone, forward"], _ = climb(only, "forward", middle)
    found["λ alone, implicit"], _ = climb(only, implicit, middle)
    shape = (config.points, config.points)  # [learning rates, λ]
    up, across = columns[PENALTY].reshape(shape)[0], columns[LEARNING_RATE].reshape(shape)[:, 0]
    return found, (Ground("λ of the head", "learning rate of the head", up, across, losses.reshape(shape).T), went)


def choose_for_all(config: Config, tuning: Tuning, draw: Draw) -> tuple[dict[str, Found], Any]:
    """Five rates, two of them for one label: how hard transferred parameters are pulled to zero and to the source."""
    ranges = each_rate(ALL_RATES, config.learning_rate, config.penalty)
    best, _ = tuning.among(draw, tuning.scattered(ranges, config.random, draw))
    found = {f"random{which}": one for which, one in best.items()}
    for name, at in (("weak", config.weak), ("strong", config.strong)):
        start = each_rate(ALL_RATES, *at)
        found[f"gradient from {name}"], _ = tuning.climb(draw, start, "reverse", longest=config.longest)
    return found, None


def judge(config: Config, heading: str, tuning: Tuning, choose: Callable) -> tuple[Section, dict[str, Any], Any]:
    """All ways on every report draw, and what the picture shows of the first."""
    made = [choose(config, tuning, draw) for draw in each_draw(config.report_seeds, heading)]
    columns = {name: [found[name] for found, _ in made] for name in made[0][0]}
    return *rates_section(heading, tuning, columns, config.longest), made[0][1]


def head_rates(config: Config, problem: FewShot) -> tuple[Section, dict[str, Any]]:
    tuning = Tuning(problem, head(problem), HEAD_RATES)
    choose = functools.partial(choose_for_head, tuning.implicit({NEW: TOWARDS["zero"]}))
    section, figures, shown = judge(config, "Rates of the head on frozen features", tuning, choose)
    title = "One draw: log-loss over both rates of the head, and the ways of two searches"
    plot = Plot("rates", title, functools.partial(ways, title, *shown))
    return section._replace(plots=[plot]), {"rates_of_head": figures}


def all_rates(config: Config, problem: FewShot) -> tuple[Section, dict[str, Any]]:
    tuning = Tuning(problem, pulled(problem), ALL_RATES)
    model, widths = problem.config.model, "-".join(map(str, problem.config.widths))
    heading = f"Rates of all labels, {model} {widths} on images of edge {problem.images.shape[0]}"
    section, figures, _ = judge(config, heading, tuning, choose_for_all)
    return section, {"rates_of_all": figures}


def main(config: Config, workdir: Path) -> None:
    started, console, n = time.perf_counter(), Terminal(), config.n_per_class
    cli.check(config)
    check_training(config)
    report.print_plan(console, config.report_draws, 1)
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    report.print_data(console, source=data, target=data)
    source_task, task = choose_tasks(config.split, "split", data, data)
    report.print_notice(console, task, since=data)
    asked: dict[str, tuple[Callable, Config, DataSet, DataSet]] = {
        "head_rates": (head_rates, config, source_task, task),
        "all_rates": (all_rates, config, source_task, task),
    }
    if "all_rates" in config.parts and config.five_rates_of == "small":
        small = dataclasses.replace(config, model="mlp", widths=config.small_widths, source_checkpoint="")
        shrink = functools.partial(averaged_down, edge=config.small_edge, where="--config.small_edge")
        asked["all_rates"] = (all_rates, small, shrink(source_task), shrink(task))
    for part in config.parts:
        _, own, from_task, to_task = asked[part]
        check_tasks(own, from_task, to_task, [n], folds=False, models=1 if part == "head_rates" else config.random)
    what = f"{config.points}² heads on {config.widths[-1]} features"
    needed = 12.0 * config.points**2 * (1 + config.widths[-1]) * len(task.classes)
    cli.refuse_beyond_memory(needed, what, where="--config.points", todo="use fewer points")
    keep_to_data(workdir, task.origin, *task.content)
    page = report.Page(console, config.preset)
    for answer, own, from_task, to_task in (asked[part] for part in config.parts):
        source = make_source(own, from_task, workdir / ("source" if own is config else "small_source"))
        report.print_source(console, source)
        problem = FewShot(own, source, to_task, n)
        report.print_target(console, problem)
        report.print_batches(console, config.batch_size, n * len(task.classes))
        page.add(*answer(config, problem))
    page.write(workdir, cli.header("learned_rates", config, started, data=data.origin, notice=task.notice))


if __name__ == "__main__":
    cli.run(main, Config)
