"""What is tried and on which draws: draws, ranges, methods, and the settings that every method is given."""

from __future__ import annotations

import math
import operator
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxtl.errors import InputError, suggest
from jaxtl.protocol.runs import COLUMNS

LEARNING_RATE = "learning_rate"  # the one hyperparameter whose quantile is the same in trial i of every method

Setting = dict[str, float]


class Draw(NamedTuple):
    """What a training run draws at random.

    Attributes:
        seed: decides labelled subset, head initialisation, batch order and augmentation.
        fold: train without this one of `folds` stratified parts of the labelled examples; None: train on all of them.
        folds: number of parts; 0 where `fold` is None.
    """

    seed: int
    fold: int | None = None
    folds: int = 0


@dataclass(frozen=True)
class Range:
    """The values of a hyperparameter that are searched, log-uniformly.

    Example:
        >>> Range(0.01, 100.0).at(0.5)
        1.0
        >>> round(Range(0.01, 100.0).quantile(10.0), 6)
        0.75
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            todo = "a range needs 0 < low < high; fix a value inside `train` instead of searching it"
            raise InputError(f"low {self.low}, high {self.high}", where="Range", todo=todo)

    def at(self, quantile: float) -> float:
        """low · (high/low)^quantile."""
        return float(self.low * (self.high / self.low) ** quantile)

    def quantile(self, value: float) -> float:
        """Where a value lies between low (0) and high (1), in logarithms."""
        return math.log(value / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True)
class Method:
    """A way to train, and what is to be chosen in it.

    Attributes:
        name: letters, digits, "_", ".", "+" and "-": it becomes part of file names.
        search: the range of every hyperparameter; {} for nothing to choose.
        train: (setting, draw) -> trained, anything that `validate` and `test` understand. It returns when the training
            is done, not when it is dispatched, or `Run.seconds` is wrong; it raises `NotFinite` when it diverges.
        train_all: (settings, draw) -> trained for each, None for one that diverged: the same for all settings that are
            tried on a draw, in one `sweep`. Without it they are trained one after another.
    """

    name: str
    search: Mapping[str, Range]
    train: Callable[[Setting, Draw], Any]
    train_all: Callable[[list[Setting], Draw], Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise InputError(f"name '{self.name}'", where="Method", todo='use letters, digits, "_", ".", "+", "-" only')
        check_columns(self.search, taken={*COLUMNS, "test"}, where=f"search of {self.name}")


def trial_settings(search: Mapping[str, Range], trials: int, seed: int = 0) -> list[Setting]:
    """The settings that are tried: each hyperparameter at the mid-quantiles (i + ½)/trials of its range, each once.

    The learning rate rises with the trial, so trial i has the same learning-rate quantile for every method. Any other
    hyperparameter is shuffled by its name alone: two methods that share a pull try it at the same quantiles beside the
    same learning rates. Of 64 shuffles the one least correlated with the learning rate is taken.

    Args:
        search: the ranges by name; {} gives the one empty setting.
        trials: number of settings, >= 1.
        seed: another seed, other shuffles.

    Raises:
        InputError: fewer than one trial.

    Example:
        >>> [round(setting["learning_rate"], 4) for setting in trial_settings({"learning_rate": Range(0.01, 1.0)}, 2)]
        [0.0316, 0.3162]

    Source: McKay, Beckman and Conover, A comparison of three methods for selecting values of input variables (1979).
    """
    if not isinstance(trials, int) or trials < 1:
        raise InputError(f"{trials}", where="trials", todo="give an integer >= 1")
    if not search:
        return [{}]
    order = {name: range(trials) if name == LEARNING_RATE else _shuffle(name, trials, seed) for name in search}
    return [{name: search[name].at((order[name][i] + 0.5) / trials) for name in search} for i in range(trials)]


def _shuffle(name: str, trials: int, seed: int) -> list[int]:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    candidates = np.stack([rng.permutation(trials) for _ in range(64)])
    covariance = (candidates - candidates.mean(1, keepdims=True)) @ np.arange(trials)
    return candidates[np.argmin(np.abs(covariance))].tolist()


def edges_of(settings: list[Setting], trial: int) -> tuple[str, ...]:
    """Which hyperparameters of a trial are the lowest ("NAME<") or the highest ("NAME>") that were tried."""
    edges = []
    for name, value in settings[trial].items():
        values = [setting[name] for setting in settings]
        edges += [f"{name}{sign}" for sign, end in (("<", min(values)), (">", max(values))) if value == end]
    return tuple(edges)


def planned_runs(
    methods: Sequence[Method],
    trials: int,
    tuning_draws: Iterable[int],
    report_draws: Iterable[int],
    honest: Iterable[str] = (),
    folds: int = 5,
) -> int:
    """How often `compare` with these arguments calls `progress`: the runs, counted before any is shared or resumed."""
    tuning, report = check_draws(tuning_draws, report_draws)
    honest, count = set(honest), 0
    for method in methods:
        choosing = trials if len(trial_settings(method.search, trials)) > 1 else 0
        count += choosing * len(tuning) + len(report)
        count += (choosing * folds + 1) * len(report) if method.name in honest else 0
    return count


def check_columns(names: Iterable[str], taken: set[str], where: str) -> None:
    """Refuse names that would share a column of runs.csv."""
    clash = sorted(set(names) & taken)
    if clash:
        raise InputError(f"the name '{clash[0]}' is taken by another column", where=where, todo="rename it")


def check_draws(tuning: Iterable[int], report: Iterable[int]) -> tuple[list[int], list[int]]:
    """Both as lists; refuse draws that are missing, repeated or used for both."""
    checked = []
    for where, draws in (("tuning draws", tuning), ("report draws", report)):
        try:
            seeds = [operator.index(seed) for seed in draws]
        except TypeError as error:
            raise InputError(f"{error}", where=where, todo="give a sequence of integer seeds") from error
        repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if not seeds or repeated or min(seeds) < 0:
            what = "none" if not seeds else f"{repeated[0]} is repeated" if repeated else f"{min(seeds)} is negative"
            raise InputError(what, where=where, todo="give at least one seed, each >= 0 and only once")
        checked.append(seeds)
    shared = sorted(set(checked[0]) & set(checked[1]))
    if shared:
        what = f"{', '.join(map(str, shared[:5]))} would be used both to tune and to report"
        raise InputError(what, where="draws", todo="keep tuning and report draws disjoint")
    return checked[0], checked[1]


def check_plan(
    methods: Sequence[Method], honest: list[str], folds: int, contrasts: list[tuple[str, str]], margin: float
) -> None:
    """Refuse repeated or unknown names, and folds or a margin that mean nothing."""
    names = [method.name for method in methods]
    repeated = [name for name in names if names.count(name) > 1]
    if not names or repeated:
        what = f"'{repeated[0]}' is there twice" if repeated else "none"
        raise InputError(what, where="methods", todo="give at least one method, each under a name of its own")
    for where, asked in (("honest", honest), ("contrasts", [name for pair in contrasts for name in pair])):
        for name in asked:
            if name not in names:
                raise InputError(f"no method '{name}'", where=where, todo=suggest(name, names))
    if any(a == b for a, b in contrasts) or len(set(map(frozenset, contrasts))) < len(contrasts):
        raise InputError("a pair repeats a method or another pair", where="contrasts", todo="ask each contrast once")
    if not isinstance(folds, int) or folds < 2:
        raise InputError(f"{folds}", where="folds", todo="give an integer >= 2")
    if not 0 < margin < 1:
        raise InputError(f"{margin}", where="margin", todo="give a fraction of accuracy: 0.01 is one point")
