"""What does a grid of two rates and a learning rate, trained to the end by others, say of how hard to pull?

Harvey, Petrov and Hughes fine-tuned pretrained trunks with every pair of a rate α towards the source on transferred
parameters and a rate β towards 0 on new ones (both 0, or 1e-6 to 0.01), at four learning rates: 144 settings on three
draws of four data sets, with four trunks and up to five numbers of labelled examples. Their figures are read, nothing
is trained: all choices are made by validation examples, and judged by test examples.

    python -m experiments.published_grid             # of the CSV files in data-emphasized-ELBo/notebooks; seconds
    python -m experiments.published_grid --smoke     # of a small grid made here: ridge towards a source, digits
    python -m experiments.published_grid --config.data=published_grid.npz     # the same runs as columns of an archive

The files are those of the repository tufts-ml/data-emphasized-ELBo on GitHub. It states no licence: they are read
where they lie, and no part of this project. The figures are on the page `published_grid.md`, which `--publish` writes.

Source: Harvey, Petrov and Hughes, "Learning Hyperparameters via a Data-Emphasized Variational Objective", 2026.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxtl import cli, report
from jaxtl.data import keep_to_data
from jaxtl.errors import InputError
from jaxtl.files import expanded
from jaxtl.protocol import Contrast, judged_together, paired, verdict_sentence
from jaxtl.protocol.measures import number
from jaxtl.protocol.results import compact, points
from jaxtl.report import Plot, Section, Table
from jaxtl.report.cells import without_farthest
from jaxtl.report.plots.cells import against_size
from jaxtl.report.plots.comparison import forest
from jaxtl.report.tables import counted
from jaxtl.selection import Grid
from jaxtl.selection.grid_files import read_grid
from jaxtl.selection.grids import ACCURACY, FIGURES, LOG_LOSS, SETTING, Cell
from jaxtl.terminal import Terminal

MADE = "digits"  # as `--config.data`: the small grid
STEPS, PULLS, RATES = 200, (0.0, 0.001, 0.1), (0.01, 0.1, 1.0)  # of its descent
NOTHING = 1e-9  # differences below are rounding


class Rule(NamedTuple):
    """Which settings a person with less to tune would have tried."""

    means: str
    allows: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (α, β) -> bool


FREE, ALL = "learning rate alone", "all settings"
RULES = {
    FREE: Rule("α = β = 0", lambda a, b: (a == 0) & (b == 0)),
    "equal rates": Rule("α = β", lambda a, b: a == b),
    "harder on new": Rule("β ≥ α, equal rates among them", lambda a, b: b >= a),
    "harder on transferred": Rule("α ≥ β, equal rates among them", lambda a, b: a >= b),
    "transferred alone": Rule("a pull towards the source and none on new parameters: β = 0", lambda a, b: b == 0),
    "new alone": Rule("a pull on new parameters and none towards the source: α = 0", lambda a, b: a == 0),
    ALL: Rule("every α with every β", lambda a, b: a >= 0),
}
TITLE = "What rates are worth: a published grid"
SIZES = "Differences in every cell, by the number of labelled examples"
STANDS_IN = "digits, no published grid but a small one made here by ridge regression"
QUESTIONS = (
    ("harder on new", "equal rates"),
    ("harder on transferred", "equal rates"),
    ("harder on new", "harder on transferred"),
    ("equal rates", FREE),
    ("transferred alone", FREE),
    ("new alone", FREE),
    (ALL, FREE),
)


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "data-emphasized-ELBo/notebooks"  # CSV files, an npz, or digits: a small grid made here
    searches: cli.Counts = (4, 8, 16, 36, 72)  # how many settings at random are tried

    glossary: ClassVar = {name: rule.means for name, rule in RULES.items()} | {
        ACCURACY: "chosen by validation accuracy, of equals by log-loss",
        LOG_LOSS: "chosen by the log-loss of validation examples, of equals by accuracy",
        "cell": "a data set, a trunk and a number of labelled examples; the mean of its draws counts",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"data": MADE, "searches": (4, 8)}}


# ---------------------------------------------------------------- a small grid made here


def features(images: np.ndarray) -> np.ndarray:
    """[N, 24]: the ink of 4×4 places, which sources know, and the largest of each row and column, which are new."""
    places = images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    return np.concatenate([places, images.max(axis=1)[:, ::2], images.max(axis=2)[:, ::2]], axis=1)


def descended(x: np.ndarray, y: np.ndarray, anchor: np.ndarray, pull: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Weights [L, D, C] after gradient descent from the anchor on ½ mean (xW − y)² + ½ Σ pull (W − anchor)².

    In closed form: along an eigenvector of XᵀX/n + diag(pull) with value λ they have moved by (1 − (1 − ηλ)^steps) / λ
    times the slope at the anchor. η is one of the `rates` / the largest λ.
    """
    curvature, directions = np.linalg.eigh(x.T @ x / len(x) + np.diag(pull))
    curvature = np.maximum(curvature, 1e-9 * curvature[-1])  # flat directions have no slope
    reach = (1 - (1 - np.array(rates)[:, None] * curvature / curvature[-1]) ** STEPS) / curvature
    return anchor + directions @ (reach[..., None] * (directions.T @ (x.T @ (y - x @ anchor) / len(x))))


@functools.cache
def made() -> Grid:
    """Ridge towards sources that saw shifted or mirrored digits, for either half of the classes: 8 cells."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, rows, known = images.reshape(-1, 8, 8) / 16, [], np.arange(24) < 16
    sources = {"shifted": np.roll(images, 1, axis=2), "mirrored": images[:, :, ::-1]}
    for half, source, n, seed in itertools.product((0, 5), sources, (20, 80), range(3)):
        own = np.flatnonzero((labels >= half) & (labels < half + 5))
        x, y = features(images[own]), np.eye(5)[labels[own] - half]
        (anchor,) = descended(known * features(sources[source][own]), y, np.zeros((24, 5)), np.full(24, 0.01), [1.0])
        order = np.random.default_rng([half, n, seed]).permutation(len(own))
        learned, held, test = order[: n - n // 5], order[n - n // 5 : n], order[n:]
        for alpha, beta in itertools.product(PULLS, PULLS):
            pull, began = np.where(known, alpha, beta), time.perf_counter()
            scores = x[held] @ descended(x[learned], y[learned], anchor, pull, RATES)
            again = x[test] @ descended(x[order[:n]], y[order[:n]], anchor, pull, RATES)
            seconds = (time.perf_counter() - began) / len(RATES) / 2
            surplus = np.log(np.exp(10 * scores).sum(axis=2)) - 10 * (scores * y[held]).sum(axis=2)
            tuned, right = (
                (of.argmax(axis=2) == y[at].argmax(axis=1)).mean(axis=1) for of, at in ((scores, held), (again, test))
            )
            for rate, *figures in zip(RATES, tuned, surplus.mean(axis=1), right, strict=True):
                setting = (f"digits {half} to {half + 4}", source, n, seed, alpha, beta, rate)
                rows.append((*setting, *figures, seconds, seconds))
    names = (*Cell._fields, "seed", *SETTING, *FIGURES)
    return Grid.of(dict(zip(names, zip(*rows, strict=True), strict=True)), MADE)


# ---------------------------------------------------------------- what it says


def allowed(grid: Grid, rule: str) -> np.ndarray:
    """Bool [K]."""
    return RULES[rule].allows(grid.alpha, grid.beta)


def difference(grid: Grid, a: str, b: str, chooser: str = ACCURACY, *, budget: bool = False) -> np.ndarray:
    """[cells] test accuracy of what is chosen under rule a less that under b; with `budget` both try as many."""
    ours, theirs = allowed(grid, a), allowed(grid, b)
    tried = int(min(ours.sum(), theirs.sum())) if budget else 0
    return grid.chosen(ours, chooser, tried) - grid.chosen(theirs, chooser, tried)


def preferred(grid: Grid, rule: str = ALL) -> np.ndarray:
    """[cells] test accuracy of what accuracy chooses less that of what log-loss chooses."""
    return grid.chosen(allowed(grid, rule), ACCURACY) - grid.chosen(allowed(grid, rule), LOG_LOSS)


def signed(value: float | np.floating) -> str:
    """A difference in points."""
    return number(100 * float(value), "+.2f")


def over_cells(a: str, b: str, values: np.ndarray, grid: Grid) -> Contrast:
    """The mean over cells, with what they share."""
    return paired(a, b, values, unit="cell", clusters=grid.clusters)


def told(values: np.ndarray, grid: Grid) -> str:
    """The same as a cell of a table; a mean alone where all share a data set, one trunk being no cluster."""
    shared = {name: labels for name, labels in grid.clusters.items() if len(set(labels)) > 1}
    if "data set" not in shared:
        return signed(values.mean())
    return points(paired("", "", values, unit="cell", clusters=shared))


def answers(grid: Grid) -> tuple[list[Section], dict[str, Any]]:
    """The questions fixed beforehand, over all cells."""
    found = {pair: difference(grid, *pair) for pair in QUESTIONS} | {(ACCURACY, LOG_LOSS): preferred(grid)}
    family = judged_together([over_cells(a, b, values, grid) for (a, b), values in found.items()])
    rows = []
    for c, values in zip(family, found.values(), strict=True):
        sizes = [str(allowed(grid, name if name in RULES else ALL).sum()) for name in (c.a, c.b)]
        ahead = f"{np.sum(values > NOTHING)} to {np.sum(values < -NOTHING)}"
        all_cells = f"{signed(values.min())} to {signed(values.max())}"
        rows.append([f"{c.a} − {c.b}", " : ".join(sizes), points(c), points(paired("", "", values))])
        rows[-1] += [signed(np.median(values)), all_cells, signed(without_farthest(values)), ahead]
    columns = ["contrast", "settings", "points", "as if cells shared nothing", "median", "all cells", "without one"]
    columns += ["ahead"]
    shared = {name: len(set(labels)) for name, labels in grid.clusters.items()}
    lines = [
        f"Test accuracy of the setting that validation accuracy chooses, of equals log-loss; {len(grid.cells)} cells, "
        f"in each the mean of {counted(grid.test_accuracy.shape[1], 'draw')}. Published accuracies are means over "
        "classes. Settings: how many either side has.",
        f"Points: mean over cells. Its 95 % interval knows which cells share one of {shared['data set']} data sets or "
        f"of {shared['trunk']} trunks, and covers others of the kind. As if cells shared nothing: a paired t test. "
        "All cells: the smallest and the largest difference. Without one: the mean of the others, the cell that is "
        "farthest from it left out. Ahead: in how many cells either side is.",
    ]
    plot = Plot("contrasts", "The questions, over all cells", functools.partial(forest, TITLE, family, "cell"))
    verdicts = Section("Verdicts", [], [verdict_sentence(c) for c in family])
    figures = {"contrasts": [dataclasses.asdict(c) | {"measure": c.measure.name} for c in family]}
    return [Section("What the rates are worth", [Table(columns, rows)], lines, [plot]), verdicts], figures


def robustness(grid: Grid) -> Section:
    """The same with as many settings on either side, by log-loss, by the number of labels, by trunk."""
    sizes, trunks = np.array([cell.n for cell in grid.cells]), np.array([cell.trunk for cell in grid.cells])
    parts = {
        "n < 1,000": sizes < 1000,
        "1,000 to 9,999": (sizes >= 1000) & (sizes < 10_000),
        "10,000 up": sizes >= 10_000,
    }
    parts = {f"{name} ({part.sum()})": part for name, part in parts.items() if part.any()}
    of_trunks = {f"{name} ({np.sum(trunks == name)})": trunks == name for name in dict.fromkeys(trunks)}
    ways, by_part, by_trunk = [], [], []
    for a, b in QUESTIONS:
        values, name = difference(grid, a, b), f"{a} − {b}"
        budget, by_loss = difference(grid, a, b, budget=True), difference(grid, a, b, LOG_LOSS)
        both = difference(grid, a, b, LOG_LOSS, budget=True)
        ways.append([name, *(told(one, grid) for one in (values, budget, by_loss, both))])
        by_part.append([name, *(told(values[part], grid.within(part)) for part in parts.values())])
        by_trunk.append([name, *(told(values[part], grid.within(part)) for part in of_trunks.values())])
    tables = [
        Table(["contrast", "by accuracy", "as many settings", "by log-loss", "by log-loss, as many"], ways),
        Table(["contrast", *parts], by_part),
        Table(["contrast", *of_trunks], by_trunk),
    ]
    lines = [
        "As many settings: the side that has more tries as many at random as the other has, the exact mean over all "
        "ways to draw them. By log-loss: the setting with the lowest log-loss of validation examples.",
        "n: labelled examples, a fifth of which choose. In brackets: cells. Intervals of two or three data sets are "
        "very wide; one gives none.",
    ]
    return Section("Does it depend?", tables, lines)


def cells(grid: Grid) -> tuple[Section, dict[str, Any]]:
    """A row for every cell, and some of it as a picture."""
    found = {f"{a} − {b}": difference(grid, a, b) for a, b in (*QUESTIONS[:2], QUESTIONS[-1])}
    found[f"{ACCURACY} − {LOG_LOSS}"] = preferred(grid)
    base = grid.chosen(allowed(grid, "equal rates"), ACCURACY)
    rows = [
        [cell.data, cell.trunk, f"{cell.n:,}", number(100 * own, ".1f"), *map(signed, values)]
        for cell, own, *values in zip(grid.cells, base, *found.values(), strict=True)
    ]
    draws = counted(grid.test_accuracy.shape[1], "draw")
    lines = [f"Points of test accuracy, the mean of {draws}, chosen by accuracy; last: both choosers, {ALL}."]
    sizes, trunks = [cell.n for cell in grid.cells], [cell.trunk for cell in grid.cells]
    plot = Plot("cells", SIZES, functools.partial(against_size, SIZES, "labelled examples", sizes, trunks, found))
    table = Table(["data", "trunk", "n", "equal rates, %", *found], rows, (0, 1))
    figures = [
        cell._asdict() | {name: values[k] for name, values in found.items()} for k, cell in enumerate(grid.cells)
    ]
    return Section("Every cell", [table], lines, [plot]), {"cells": figures}


def searches(grid: Grid, sizes: Sequence[int]) -> tuple[Section, dict[str, Any]]:
    """What trying a few of all settings loses against trying all of them, and how long it takes."""
    everything, rows, figures = np.ones(len(grid.alpha), bool), [], dict[str, Any]()
    whole = {chooser: grid.chosen(everything, chooser) for chooser in (ACCURACY, LOG_LOSS)}
    hours = grid.tuning_seconds.mean(axis=(1, 2)) / 3600, grid.training_seconds.mean(axis=(1, 2)) / 3600
    tried = {f"{k} at random": (everything, k) for k in sorted(sizes)}
    tried |= {FREE: (allowed(grid, FREE), 0), f"all {len(everything)}": (everything, 0)}
    for name, (among, k) in tried.items():
        cost = float(np.mean((k or among.sum()) * hours[0] + hours[1]))
        lost = {chooser: whole[chooser] - grid.chosen(among, chooser, k) for chooser in whole}
        row = [name, compact(cost)]
        for values in lost.values():
            row += [told(values, grid), signed(np.median(values)), signed(without_farthest(values))]
        rows.append(row)
        figures[name] = {"hours": cost, "lost": lost}
    columns = [
        "tried",
        "hours",
        "loses, by accuracy",
        "median",
        "without one",
        "loses, by log-loss",
        "median",
        "without one",
    ]
    lines = [
        "Points of test accuracy below what is chosen among all settings by the same validation examples: the exact "
        "mean over all ways to draw them, then over cells. Below 0: choosing among fewer is better.",
        "Hours: of the runs that choose and of the one on all labels, the mean over cells, by the clock of the runs.",
    ]
    return Section("How many settings to try", [Table(columns, rows)], lines), {"searches": figures}


def choosers(grid: Grid) -> Section:
    """Accuracy against log-loss of the same validation examples, under every rule."""
    rows = []
    for name in RULES:
        chosen = [grid.chosen(allowed(grid, name), chooser) for chooser in (ACCURACY, LOG_LOSS)]
        gained = preferred(grid, name)
        shown = [number(100 * one.mean(), ".2f") for one in chosen]
        rows.append([name, *shown, told(gained, grid), signed(np.median(gained))])
    columns = ["rule", "by accuracy, %", "by log-loss, %", "difference, points", "median"]
    return Section(
        "Accuracy or log-loss as the chooser", [Table(columns, rows)], ["Test accuracy, the mean over cells."]
    )


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    path = expanded(config.data)
    grid = made() if config.data == MADE else read_grid(path)
    if (most := max(config.searches)) > len(grid.alpha):
        what = f"{most} is more than the {len(grid.alpha)} settings there are"
        raise InputError(what, where="--config.searches", todo="use less")
    hours = float(grid.tuning_seconds.sum() + grid.training_seconds.sum()) / 3600
    runs, count = grid.test_accuracy.size, len(grid.cells)
    origin = STANDS_IN if config.data == MADE else config.data
    data = f"{origin}: {runs:,} settings × draws in {counted(count, 'cell')}, {hours:,.1f} hours of training"
    console.print(f"data      {data}", soft_wrap=True)
    keep_to_data(workdir, str(path), grid.validation_accuracy, grid.test_accuracy)
    page = report.Page(console, config.preset)
    sections, figures = answers(grid)
    for section in sections:
        page.add(section, figures)
    page.add(robustness(grid))
    page.add(*searches(grid, config.searches))
    page.add(choosers(grid))
    page.add(*cells(grid))
    page.write(workdir, cli.header("published_grid", config, started, data=data))


if __name__ == "__main__":
    cli.run(main, Config)
