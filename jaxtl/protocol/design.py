"""What is tried and on which draws: draws, ranges, methods, and the settings that every method is given."""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from jaxtl.errors import InputError, suggest
from jaxtl.protocol.measures import Measure
from jaxtl.protocol.runs import COLUMNS

LEARNING_RATE = "learning_rate"  # the one hyperparameter whose quantile is the same in trial i of every method
FEWEST_HALVED = 4  # settings: of fewer, half is one, which the first draw would choose alone

Setting = dict[str, float]


class Draw(NamedTuple):
    """What a training run draws at random.

    Attributes:
        seed: decides labelled subset, head initialisation, batch order and augmentation.
        fold: train without this one of `folds` stratified parts of the labelled examples; None: train on all of them.
        folds: number of parts; 0 where `fold` is None.
        replicate: which repetition of the whole comparison: each has draws, a design and a source of its own.
    """

    seed: int
    fold: int | None = None
    folds: int = 0
    replicate: int = 0


@dataclass(frozen=True)
class Range:
    """The values of a hyperparameter that are searched, log-uniformly; a single one is fixed and not searched.

    Args:
        low, high: 0 < low <= high; `Range(0.1)` fixes 0.1.

    Raises:
        InputError: no such range.

    Example:
        >>> Range(0.01, 100.0).at(0.5)
        1.0
        >>> round(Range(0.01, 100.0).quantile(10.0), 6)
        0.75
        >>> Range(0.1).fixed, Range(0.1).at(0.9)
        (True, 0.1)
    """

    low: float
    high: float = cast(float, None)

    def __post_init__(self) -> None:
        if self.high is None:
            object.__setattr__(self, "high", self.low)
        if not 0 < self.low <= self.high < math.inf:
            todo = "give 0 < low < high, or one value that is not searched"
            raise InputError(f"low {self.low}, high {self.high}", where="Range", todo=todo)

    @property
    def fixed(self) -> bool:
        """Whether there is one value only."""
        return self.low == self.high

    def at(self, quantile: float) -> float:
        """low · (high/low)^quantile."""
        return float(self.low * (self.high / self.low) ** quantile)

    def quantile(self, value: float) -> float:
        """Where a value lies between low (0) and high (1), in logarithms; ½ where there is one value only."""
        return 0.5 if self.fixed else math.log(value / self.low) / math.log(self.high / self.low)


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
        trials: settings tried of it, where it needs fewer than the others.
    """

    name: str
    search: Mapping[str, Range]
    train: Callable[[Setting, Draw], Any]
    train_all: Callable[[list[Setting], Draw], Sequence[Any]] | None = None
    trials: int | None = None

    def settings(self, trials: int, replicate: int = 0) -> list[Setting]:
        """Those that are tried of it where others have so many trials, see `trial_settings`."""
        return trial_settings(self.search, trials if self.trials is None else min(trials, self.trials), replicate)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise InputError(f"name '{self.name}'", where="Method", todo='use letters, digits, "_", ".", "+", "-" only')
        check_columns(self.search, taken={*COLUMNS, "test"}, where=f"search of {self.name}")


class Selection(NamedTuple):
    """How a setting is chosen.

    Attributes:
        name: of the selection.
        over: "tuning": one setting a method; "folds" or "draw": one for each report draw, see `compare`.
        score: (trained, draw) -> number, the larger the better; the comparison's `validate` when left out.
        methods: the methods that choose so; all when None.
        bound: it looks at what nobody has, such as labels of the target: shown as a bound, and never compared with.
    """

    name: str
    over: Literal["tuning", "folds", "draw"]
    score: Callable[[Any, Draw], float] | None = None
    methods: tuple[str, ...] | None = None
    bound: bool = False

    def asks(self, method: str) -> bool:
        """Whether a method chooses so."""
        return self.methods is None or method in self.methods


def all_selections(tuned: Iterable[str] | None, honest: Iterable[str], further: Iterable[Selection]) -> list[Selection]:
    """Those of a comparison in their order, see `compare`.

    Raises:
        InputError: two of one name.
    """
    honest, more = tuple(honest), list(further)
    ways = [Selection("tuned", "tuning", methods=None if tuned is None else tuple(tuned))]
    ways += [Selection("honest", "folds", methods=honest)] if honest else []
    names = [way.name for way in (*ways, *more)]
    if len(set(names)) < len(names):
        raise InputError(f"names are {names}", where="selections", todo='give each a name of its own, none "tuned"')
    return ways + more


def trial_settings(search: Mapping[str, Range], trials: int, seed: int = 0) -> list[Setting]:
    """The settings that are tried: each hyperparameter at the quantiles (i + shift)/trials of its range, each once.

    The learning rate rises with the trial, so trial i has the same learning-rate quantile for every method. The others,
    in the order of their names, follow columns that are hardly correlated with it or with each other and spread the
    settings out; the first of these columns is the same for every method, and so are the second and the third. A value
    that is fixed is the same in every setting and takes no column. The discrepancy is about that of scrambled Sobol
    points, and lower from four columns on (a test).

    Args:
        search: the ranges by name; without anything to choose, {} or fixed values, there is one setting.
        trials: number of settings, >= 1. Few trials leave little choice: with 2, any two columns rise together or one
            against the other.
        seed: a replicate's number: other columns, and another shift for each of them; for seed 0 it is ½.

    Raises:
        InputError: fewer than one trial.

    Example:
        >>> [round(setting["learning_rate"], 4) for setting in trial_settings({"learning_rate": Range(0.01, 1.0)}, 2)]
        [0.0316, 0.3162]

    Source: McKay, Beckman and Conover, A comparison of three methods for selecting values of input variables (1979).
    """
    if not isinstance(trials, int) or trials < 1:
        raise InputError(f"{trials}", where="trials", todo="give an integer >= 1")
    searched = sorted(
        (name for name in search if not search[name].fixed), key=lambda name: (name != LEARNING_RATE, name)
    )
    if not searched:
        return [{name: values.low for name, values in search.items()}]
    first = 0 if searched[0] == LEARNING_RATE else 1  # the column that rises is the learning rate's alone
    columns = dict(zip(searched, _latin_hypercube(trials, first + len(searched), seed)[first:], strict=True))
    shifts = dict(zip(searched, _shifts(first + len(searched), seed)[first:], strict=True))

    def value(name: str, trial: int) -> float:
        return search[name].at((columns[name][trial] + shifts[name]) / trials) if name in columns else search[name].low

    return [{name: value(name, trial) for name in search} for trial in range(trials)]


@functools.lru_cache
def _latin_hypercube(count: int, columns: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Orders [columns][count] of 0..count − 1, the first of them rising: hardly correlated, and spread out.

    Columns are added one by one, so the first of many are those of few. Of some thousand orders at random the one with
    the least correlation with any earlier column is taken; of several within 0.05 of it, the one whose two closest rows
    are farthest apart.
    """
    chosen = [np.arange(count)]
    middle, squares = (count - 1) / 2, max(1.0, count * (count**2 - 1) / 12)
    for column in range(1, columns):
        rng = np.random.default_rng([seed, count, column])
        drawn = rng.permuted(np.tile(np.arange(count), (max(64, min(4000, 10**6 // count)), 1)), axis=1)
        worst = np.abs((drawn - middle) @ (np.stack(chosen) - middle).T).max(axis=1) / squares
        best = [k for k in np.argsort(worst, kind="stable")[:32] if worst[k] <= worst.min() + 0.05]
        chosen.append(max((drawn[k] for k in best), key=lambda order: _closest(np.stack([*chosen, order]))))
    return tuple(tuple(order.tolist()) for order in chosen)


def _shifts(columns: int, seed: int) -> list[float]:
    """Where in its part of the range each column lies, the first of many being those of few."""
    return [np.random.default_rng([seed, k]).random() if seed else 0.5 for k in range(columns)]


def _closest(columns: np.ndarray) -> int:
    """The squared distance of the two closest rows of [columns, count], of those within 50 along the first column."""
    apart = range(1, min(columns.shape[1], 50))
    return min((int(np.sum((columns[:, k:] - columns[:, :-k]) ** 2, axis=0).min()) for k in apart), default=0)


def edges_of(settings: list[Setting], trial: int) -> tuple[str, ...]:
    """Which hyperparameters of a trial are the lowest ("NAME<") or the highest ("NAME>") of several that were tried."""
    edges = []
    for name, value in settings[trial].items():
        values = [setting[name] for setting in settings]
        ends = {"<": min(values), ">": max(values)} if len(set(values)) > 1 else {}
        edges += [f"{name}{sign}" for sign, end in ends.items() if value == end]
    return tuple(edges)


def planned_runs(
    methods: Sequence[Method],
    trials: int,
    tuning_draws: Iterable[int],
    report_draws: Iterable[int],
    honest: Iterable[str] = (),
    folds: int = 5,
    tuned: Iterable[str] | None = None,
    selections: Iterable[Selection] = (),
    halving: bool = False,
) -> int:
    """How often `compare` with these arguments calls `progress`: the runs, counted before any is shared or resumed.

    With `halving` more, where several selections choose a method: what is left for one may not be for another.
    """
    tuning, report = check_draws(tuning_draws, report_draws)
    draws = {"folds": folds * len(report), "draw": len(report)}
    ways, count = all_selections(tuned, honest, selections), 0
    for method in methods:
        own = [way for way in ways if way.asks(method.name)]
        tried = len(method.settings(trials))
        overs = {way.over for way in own} if tried > 1 else set()
        count += runs_that_tune(tried, len(tuning), halving) if "tuning" in overs else 0
        count += tried * sum(draws[over] for over in overs - {"tuning"})
        count += len(own) * len(report)
    return count


def runs_that_tune(trials: int, draws: int, halving: bool = False) -> int:
    """How many runs choose among settings by their mean over tuning draws.

    Example:
        >>> runs_that_tune(16, 4), runs_that_tune(16, 4, halving=True), runs_that_tune(8, 9, halving=True)
        (64, 30, 14)
    """
    if not halving or trials < FEWEST_HALVED:
        return trials * draws
    left = [trials // 2**rung for rung in range(draws)]
    return trials + sum(count for count in left[1:] if count > 1)


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


def draws_of(tuning: list[int], report: list[int], replicate: int) -> tuple[list[Draw], list[Draw]]:
    """The draws of a replicate: no two replicates share a seed, and those of the first are as they were given."""
    first = replicate * (1 + max(*tuning, *report))
    draws = [[Draw(first + seed, replicate=replicate) for seed in seeds] for seeds in (tuning, report)]
    return draws[0], draws[1]


def check_plan(
    methods: Sequence[Method],
    ways: Sequence[Selection],
    folds: int,
    contrasts: list[tuple[str, str]],
    measure: Measure,
) -> None:
    """Refuse repeated or unknown names, and folds or a margin that mean nothing."""
    names = [method.name for method in methods]
    repeated = [name for name in names if names.count(name) > 1]
    if not names or repeated:
        what = f"'{repeated[0]}' is there twice" if repeated else "none"
        raise InputError(what, where="methods", todo="give at least one method, each under a name of its own")
    named = {way.name: list(way.methods or ()) for way in ways}
    for where, asked in (*named.items(), ("contrasts", [name for pair in contrasts for name in pair])):
        for name in asked:
            if name not in names:
                raise InputError(f"no method '{name}'", where=where, todo=suggest(name, names))
    for name in names:
        if not any(way.asks(name) for way in ways):
            raise InputError("no selection chooses its setting", where=f"method '{name}'", todo="name it in one")
    if any(a == b for a, b in contrasts) or len(set(map(frozenset, contrasts))) < len(contrasts):
        raise InputError("a pair repeats a method or another pair", where="contrasts", todo="ask each contrast once")
    if not isinstance(folds, int) or folds < 2:
        raise InputError(f"{folds}", where="folds", todo="give an integer >= 2")
    if not 0 < measure.margin < math.inf or (measure.percent and measure.margin >= 1):
        raise InputError(
            f"{measure.margin}", where=f"margin of {measure.name}", todo="of an accuracy 0.01 is one point"
        )
