"""The honest protocol: every method gets the same budget, the same draws, and one look at the test data per draw.

It knows nothing of networks. An experiment hands over how to train a setting on a draw and how to score the result.
What is tried, what is chosen, on which draws, and when test data are looked at is decided here, for all experiments:

- A *draw* is one seed for everything random: labelled subset, head initialisation, batch order, augmentation. All
  methods share the draws, and no draw is used both to tune and to report.
- Every method has the same number of trials, over the same learning-rate quantiles of its own range; one that needs
  fewer may say so.
- A *selection* says by which score a setting is chosen, and over what: the tuning draws, for one setting a method;
  stratified folds of a report draw's labelled examples alone, or that draw as it is, for one setting a draw.
- "tuned": the best mean validation over the tuning draws. What the method can do. With `halving` the first of these
  draws sees every setting, each further one the better half of those before it.
- "honest": the best mean over folds of the labelled examples; then it is trained on all of them. What a user gets.
- A *replicate* has tuning draws, a design, held-out examples and a source model of its own, and so chooses anew. What
  is estimated, tested and decided is over replicates; one alone is given its choice, and decides nothing.
- All choices are made before the first test score is asked for. `test` is called once per method, setting and report
  draw; where several selections choose the same setting the run is made once and recorded for each.
- A run that diverges is never chosen. On a report draw it counts as accuracy 0 (`Measure.failed`), visibly: to leave
  the draw out would favour the method that fails on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jaxtl.errors import InputError
from jaxtl.protocol.design import (
    FEWEST_HALVED,
    Draw,
    Method,
    Selection,
    all_selections,
    check_draws,
    check_plan,
    draws_of,
)
from jaxtl.protocol.executors import each_made
from jaxtl.protocol.measures import ACCURACY, Measure
from jaxtl.protocol.runs import Run, RunStore
from jaxtl.protocol.statistics import Contrast, contrast_family
from jaxtl.protocol.units import Unit, Worker

STAGES = {"tuning": "tuning", "folds": "fold", "draw": "draw"}  # of the runs that choose, by what is chosen over


class Comparison(NamedTuple):
    """Every run of a comparison, in the order of the protocol, and the contrasts that were asked for."""

    runs: list[Run]
    contrasts: list[Contrast]


def compare(
    methods: Sequence[Method],
    trials: int,
    tuning_draws: Iterable[int],
    report_draws: Iterable[int],
    *,
    validate: Callable[[Any, Draw], float],
    test: Callable[[Any, Draw], tuple[Mapping[str, float], Mapping[str, np.ndarray]]],
    honest: Iterable[str] = (),
    folds: int = 5,
    tuned: Iterable[str] | None = None,
    selections: Iterable[Selection] = (),
    contrasts: Iterable[tuple[str, str]] = (),
    measure: Measure = ACCURACY,
    replicates: int = 1,
    halving: bool = False,
    store: RunStore | None = None,
    progress: Callable[[str], None] | None = None,
    executor: Executor | None = None,
) -> Comparison:
    """Choose a setting for every method, report it on fresh draws, and compare (module docstring: the rules).

    Args:
        methods: what is compared; names differ.
        trials: settings tried per method (`Method.settings`). With one there is nothing to choose, and nothing is
            tuned.
        tuning_draws, report_draws: seeds >= 0, without repeats, disjoint.
        validate: (trained, draw) -> score, larger is better, from target *training* images only: for a draw those
            outside every subset, for a fold the labelled examples left out. A score that is not finite means: diverged.
        test: (trained, draw) -> (metrics, arrays): metrics has "test", the measure on test data, and any other
            number worth a column; arrays (predictions, curves) go to the store.
        honest: names of the methods that are also run with the selection "honest".
        folds: parts of the labelled examples in the selection "honest".
        tuned: names of the methods that are run with the selection "tuned"; all when left out.
        selections: further ways to choose; the runs that choose are made once and scored by all of them.
        contrasts: pairs (a, b) of method names, fixed before the results are seen: a − b, each under its first
            selection, mostly "tuned".
        measure: what "test" is: which direction is better, what it is bounded by, which effects matter.
        replicates: how often all of it is repeated; the seeds of each are others, beyond those that are given.
        halving: whether each tuning draw after the first sees only the better half of the settings by their mean score
            so far: of 16 settings on 4 draws 30 runs choose instead of 64. The last draws may not be needed. Fewer than
            four settings are not halved, and where all that are left diverge, those before them are taken back.
        store: keeps the runs; the same comparison with the same store makes only those that are missing.
        progress: called with a few words before each of the `planned_runs`, also those found in the store.
        executor: makes the units, in any order (`each_made`); left out, they are made here one after another.

    Returns:
        (runs, contrasts). Ties between settings go to the earlier trial, whose learning rate is the smaller.

    Raises:
        InputError: repeated or shared draws, repeated or unknown names, or a method that diverges in every trial.

    Example:
        >>> from jaxtl.protocol import Range
        >>> def method(name, best):
        ...     train = lambda setting, draw: 0.9 - 0.1 * abs(np.log10(setting["pull"] / best)) + draw.seed / 1000
        ...     return Method(name, {"pull": Range(0.01, 100.0)}, train)
        >>> runs, (contrast,) = compare([method("a", 1.0), method("b", 1000.0)], 5, [0, 1], [10, 11], replicates=6,
        ...     validate=lambda trained, draw: trained, test=lambda trained, draw: ({"test": trained}, {}),
        ...     contrasts=[("a", "b")])
        >>> len(runs), contrast.verdict, contrast.n, runs[-1].edges
        (144, 'helps', 6, ('pull>',))

    Source of halving: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
    Optimization", 2016; here the resource is draws.
    """
    tuning, report = check_draws(tuning_draws, report_draws)
    contrasts, ways = list(contrasts), all_selections(tuned, honest, selections)
    check_plan(methods, ways, folds, contrasts, measure)
    by_name = {method.name: method for method in methods}
    worker = Worker(by_name, trials, validate, [way for way in ways if way.score is not None], test, measure)
    desk = _Desk(worker, RunStore() if store is None else store, progress or _quiet, executor)
    choices = [
        choice
        for replicate in range(replicates)
        for way in ways
        for method in methods
        if way.asks(method.name)
        for choice in _choices(
            way,
            method.name,
            *draws_of(tuning, report, replicate),
            folds,
            halving,
            len(worker.settings(method.name, replicate)),
        )
    ]
    runs = desk.choose(choices)
    runs += desk.report(choices)
    return Comparison(runs, contrast_family(runs, contrasts, measure=measure))


@dataclass
class _Choice:
    """A setting of a method to be chosen for some draws; `trial` is which one it was, once that is known.

    Attributes:
        rungs: draws that it is chosen by, one rung after another.
        tried: trials of every rung that has begun.
    """

    way: Selection
    method: str
    rungs: list[list[Draw]]
    reported: list[Draw]
    tried: list[tuple[int, ...]]
    trial: int | None = None

    def __post_init__(self) -> None:
        if len(self.tried[0]) == 1:
            self.trial = 0

    @property
    def replicate(self) -> int:
        """In which it is chosen."""
        return self.reported[0].replicate

    @property
    def stage(self) -> str:
        """Of the runs that it is chosen by."""
        return STAGES[self.way.over]

    @property
    def draws(self) -> list[Draw]:
        """Of the rungs that have begun."""
        return [draw for rung, _ in zip(self.rungs, self.tried, strict=False) for draw in rung]

    def go_on(self, scores: Sequence[float]) -> None:
        """By the mean score of every trial of this rung: the best one, or the better half of them for the next rung."""
        left = self.tried[-1]
        ranked = [left[k] for k in sorted(range(len(left)), key=lambda k: -scores[k])]  # of equal ones the earlier
        better = ranked[: len(ranked) // 2]
        if len(self.tried) == len(self.rungs) or len(better) <= 1:
            self.trial = ranked[0]
        else:
            self.tried.append(tuple(sorted(better)))

    def widened(self) -> bool:
        """Whether a rung on which all that was left has diverged has taken back what the rung before had."""
        if len(self.tried) == 1 or self.tried[-1] == self.tried[-2]:
            return False
        self.tried[-1] = self.tried[-2]
        return True


def _choices(
    way: Selection, method: str, tuning: list[Draw], report: list[Draw], folds: int, halving: bool, settings: int
) -> Iterator[_Choice]:
    every = tuple(range(settings))
    if way.over == "tuning":
        rungs = [[draw] for draw in tuning] if halving and settings >= FEWEST_HALVED else [tuning]
        yield _Choice(way, method, rungs, report, [every])
        return
    for draw in report:
        parts = [draw._replace(fold=fold, folds=folds) for fold in range(folds)] if way.over == "folds" else [draw]
        yield _Choice(way, method, [parts], [draw], [every])


@dataclass(frozen=True)
class _Desk:
    """Hands out units, keeps what comes back, and chooses."""

    worker: Worker
    store: RunStore
    progress: Callable[[str], None]
    executor: Executor | None

    def choose(self, choices: Sequence[_Choice]) -> list[Run]:
        """Decide every choice, each as soon as it can be, and return the runs that it took."""
        asked = [choice for choice in choices if choice.trial is None]
        while open_ones := [choice for choice in asked if choice.trial is None]:
            units = dict.fromkeys(unit for choice in open_ones for unit in self._units(choice))
            for _ in self._made(units):
                self._decide(open_ones)
            self._decide(open_ones)  # where everything was in the store
        runs = [run for choice in asked for run in self._used(choice)]
        of = ((run.method, run.stage, run.replicate, run.seed, run.fold, run.trial) for run in runs)
        return list(dict(zip(of, runs, strict=True)).values())

    def report(self, choices: Sequence[_Choice]) -> list[Run]:
        """Every chosen setting on its report draws, with test metrics."""
        asked = [
            (choice, Unit(choice.method, "report", draw, (choice.trial or 0,)))
            for choice in choices
            for draw in choice.reported
        ]
        for _ in self._made([unit for _, unit in asked]):
            pass
        return [
            replace(run, selection=choice.way.name, chosen_in=choice.stage)
            for choice, unit in asked
            for run in self._found(unit)
            if run is not None
        ]

    def _units(self, choice: _Choice) -> list[Unit]:
        """All settings of a draw are one unit where they are trained in one sweep, and one each otherwise."""
        rung, left = choice.rungs[len(choice.tried) - 1], choice.tried[-1]
        together = self.worker.methods[choice.method].train_all is not None
        parts = [left] if together else [(trial,) for trial in left]
        return [Unit(choice.method, choice.stage, draw, part) for draw in rung for part in parts]

    def _found(self, unit: Unit) -> list[Run | None]:
        return [self.store.find(plan) for plan in self.worker.plan(unit)]

    def _made(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Have the units made that the store lacks; each, once its runs are kept."""
        missing, asked = list[Unit](), set[Unit]()
        for unit in units:
            of = {trial: unit._replace(trials=(trial,)) for trial in unit.trials}
            found = dict(zip(unit.trials, self._found(unit), strict=True))
            lacking = tuple(trial for trial in unit.trials if found[trial] is None and of[trial] not in asked)
            asked.update(of[trial] for trial in lacking)  # another unit may share some of its trials
            if lacking:
                missing.append(unit._replace(trials=lacking))
            self._tell(unit._replace(trials=tuple(trial for trial in unit.trials if trial not in lacking)))

        def handed_out() -> Iterator[Unit]:
            for unit in missing:
                self._tell(unit)
                yield unit

        for unit, made in each_made(self.worker, handed_out(), self.executor):
            for plan, (run, arrays) in zip(self.worker.plan(unit), made, strict=True):
                self.store.add(replace(run, setting=plan.setting), arrays)  # elsewhere its last bit may be another
            yield unit

    def _decide(self, choices: Sequence[_Choice]) -> None:
        for choice in choices:
            by_trial = self._by_trial(choice) if choice.trial is None else []
            if not by_trial or any(run is None for runs in by_trial for run in runs):
                continue
            scores = [_mean([_score(run, choice.way) for run in runs if run]) for runs in by_trial]
            if max(scores) == -math.inf:
                if choice.widened():
                    continue
                where = f"method '{choice.method}', {choice.stage} from draw {choice.draws[0].seed}"
                todo = "lower the ranges that are searched, the learning rate first"
                raise InputError(f"each of the {len(scores)} trials diverged", where=where, todo=todo)
            choice.go_on(scores)

    def _by_trial(self, choice: _Choice) -> list[list[Run | None]]:
        """[trials that are left][draws so far], None where the store has none."""
        by_draw = [self._found(Unit(choice.method, choice.stage, draw, choice.tried[-1])) for draw in choice.draws]
        return [list(runs) for runs in zip(*by_draw, strict=True)]

    def _used(self, choice: _Choice) -> list[Run]:
        """What it was chosen by, trial by trial."""
        rungs = list(zip(choice.rungs, choice.tried, strict=False))
        units = [
            Unit(choice.method, choice.stage, draw, (trial,))
            for trial in choice.tried[0]
            for rung, tried in rungs
            for draw in rung
            if trial in tried
        ]
        return [run for unit in units for run in self._found(unit) if run is not None]

    def _tell(self, unit: Unit) -> None:
        fold = "" if unit.draw.fold is None else f", fold {unit.draw.fold + 1}/{unit.draw.folds}"
        for trial in unit.trials:
            tried = len(self.worker.settings(unit.method, unit.draw.replicate))
            what = "chosen setting" if unit.stage == "report" else f"trial {trial + 1}/{tried}"
            again = f", replicate {unit.draw.replicate + 1}" if unit.draw.replicate else ""
            self.progress(f"{unit.method}: {unit.stage}, {what}, draw {unit.draw.seed}{fold}{again}")


def _score(run: Run, way: Selection) -> float:
    return run.validation if way.score is None else run.scores.get(way.name, -math.inf)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _quiet(description: str) -> None:
    """Progress that nobody watches."""
