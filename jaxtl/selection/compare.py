"""The honest protocol: every method gets the same budget, the same draws, and one look at the test data per draw.

It knows nothing of networks. An experiment hands over how to train a setting on a draw and how to score the result.
What is tried, what is chosen, on which draws, and when test data are looked at is decided here, for all experiments:

- A *draw* is one seed for everything random: labelled subset, head initialisation, batch order, augmentation. All
  methods share the draws, and no draw is used both to tune and to report.
- Every method has the same number of trials, over the same learning-rate quantiles of its own range.
- Selection "tuned": one setting a method, the best mean validation over the tuning draws. What the method can do.
- Selection "honest": one setting a method and report draw, the best mean over stratified folds of that draw's labelled
  examples alone; then it is trained on all of them. What a user gets.
- All choices are made before the first test score is asked for. `test` is called once per method, selection and report
  draw; where both selections choose the same setting the run is made once and recorded for both.
- A run that diverges is never chosen. On a report draw it counts as accuracy 0, visibly: to leave the draw out would
  favour the method that fails on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jaxtl.errors import InputError, NotFinite
from jaxtl.selection.design import (
    Draw,
    Method,
    Setting,
    check_columns,
    check_draws,
    check_plan,
    edges_of,
    trial_settings,
)
from jaxtl.selection.runs import COLUMNS, Run, RunStore
from jaxtl.selection.statistics import Contrast, contrast_family

NO_NUMBER = "the loss or a parameter is not finite"


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
    contrasts: Iterable[tuple[str, str]] = (),
    margin: float = 0.01,
    store: RunStore | None = None,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Choose a setting for every method, report it on fresh draws, and compare (module docstring: the rules).

    Args:
        methods: what is compared; names differ.
        trials: settings tried per method (`trial_settings`). With one there is nothing to choose, and nothing is tuned.
        tuning_draws, report_draws: seeds >= 0, without repeats, disjoint. `cannot_decide` says beforehand what so few
            report draws are unable to show.
        validate: (trained, draw) -> score, larger is better, from target *training* images only: for a draw those
            outside every subset, for a fold the labelled examples left out. A score that is not finite means: diverged.
        test: (trained, draw) -> (metrics, arrays): metrics has "test", the test accuracy as a fraction, and any other
            number worth a column; arrays (predictions, curves) go to the store.
        honest: names of the methods that are also run with the selection "honest".
        folds: parts of the labelled examples in the selection "honest".
        contrasts: pairs (a, b) of method names, fixed before the results are seen: a − b under the selection "tuned".
        margin: effects smaller than this do not matter; 0.01 is one point of accuracy.
        store: keeps the runs; the same comparison with the same store makes only those that are missing.
        progress: called with a few words before each of the `planned_runs`, also those found in the store.

    Returns:
        (runs, contrasts). Ties between settings go to the earlier trial, whose learning rate is the smaller.

    Raises:
        InputError: repeated or shared draws, repeated or unknown names, or a method that diverges in every trial.

    Example:
        >>> from jaxtl.selection.design import Range
        >>> def method(name, best):
        ...     train = lambda setting, draw: 0.9 - 0.1 * abs(np.log10(setting["pull"] / best)) + draw.seed / 1000
        ...     return Method(name, {"pull": Range(0.01, 100.0)}, train)
        >>> runs, (contrast,) = compare([method("a", 1.0), method("b", 1000.0)], 5, [0, 1], range(10, 16),
        ...     validate=lambda trained, draw: trained, test=lambda trained, draw: ({"test": trained}, {}),
        ...     contrasts=[("a", "b")])
        >>> len(runs), contrast.verdict, runs[-1].edges
        (32, 'helps', ('pull>',))
    """
    tuning, report = check_draws(tuning_draws, report_draws)
    honest, contrasts = list(honest), list(contrasts)
    check_plan(methods, honest, folds, contrasts, margin)
    protocol = _Protocol(trials, validate, test, RunStore() if store is None else store, progress or _quiet)
    runs: list[Run] = []
    choices: list[tuple[Method, str, int, int]] = []
    for method in methods:
        trial, made = protocol.choose(method, "tuning", [Draw(seed) for seed in tuning])
        runs += made
        choices += [(method, "tuned", trial, seed) for seed in report]
    for method in methods:
        for seed in report if method.name in honest else ():
            trial, made = protocol.choose(method, "fold", [Draw(seed, fold, folds) for fold in range(folds)])
            runs += made
            choices.append((method, "honest", trial, seed))
    runs += [protocol.report(*choice) for choice in choices]
    return Comparison(runs, contrast_family(runs, contrasts, margin=margin))


@dataclass(frozen=True)
class _Protocol:
    """What the steps of one comparison share."""

    trials: int
    validate: Callable[[Any, Draw], float]
    test: Callable[[Any, Draw], tuple[Mapping[str, float], Mapping[str, np.ndarray]]]
    store: RunStore
    progress: Callable[[str], None]

    def choose(self, method: Method, stage: str, draws: Sequence[Draw]) -> tuple[int, list[Run]]:
        """The trial with the best mean validation over the draws, and the runs that it took to know."""
        settings = trial_settings(method.search, self.trials)
        if len(settings) == 1:
            return 0, []
        by_draw = [self._try_all(method, stage, settings, draw) for draw in draws]
        by_trial = list(zip(*by_draw, strict=True))
        scores = [sum(run.validation for run in runs) / len(runs) for runs in by_trial]
        if max(scores) == -math.inf:
            where = f"method '{method.name}', {stage} from draw {draws[0].seed}"
            todo = "lower the ranges that are searched, the learning rate first"
            raise InputError(f"each of the {len(settings)} trials diverged", where=where, todo=todo)
        return scores.index(max(scores)), [run for runs in by_trial for run in runs]

    def report(self, method: Method, selection: str, trial: int, seed: int) -> Run:
        """The chosen setting on one report draw, with test metrics."""
        settings = trial_settings(method.search, self.trials)
        plan = Run(method.name, "report", selection, seed, None, trial, settings[trial], edges_of(settings, trial))
        return self._run(method, plan, Draw(seed))

    def _try_all(self, method: Method, stage: str, settings: Sequence[Setting], draw: Draw) -> list[Run]:
        """Every setting on one draw, without test metrics; those that the store lacks in one sweep if there is one."""
        plans = [Run(method.name, stage, "", draw.seed, draw.fold, i, setting) for i, setting in enumerate(settings)]
        missing = [plan for plan in plans if self.store.find(plan) is None]
        if method.train_all is None or not missing:
            return [self._run(method, plan, draw) for plan in plans]
        for plan in plans:
            self._tell(plan, draw)
        started = time.perf_counter()
        try:
            trained: Sequence[Any] = method.train_all([dict(plan.setting) for plan in missing], draw)
        except NotFinite:
            trained = [None] * len(missing)
        seconds = (time.perf_counter() - started) / len(missing)
        for plan, one in zip(missing, trained, strict=True):
            run = replace(plan, seconds=seconds)
            self.store.add(_diverged(run, NO_NUMBER) if one is None else self._validated(run, one, draw), {})
        return [made for plan in plans if (made := self.store.find(plan))]

    def _run(self, method: Method, plan: Run, draw: Draw) -> Run:
        """The run as the store has it, otherwise made now and stored."""
        self._tell(plan, draw)
        found = self.store.find(plan)
        if found is not None:
            return replace(found, selection=plan.selection)
        run, arrays = self._make(method, plan, draw)
        self.store.add(run, arrays)
        return run

    def _tell(self, plan: Run, draw: Draw) -> None:
        fold = "" if draw.fold is None else f", fold {draw.fold + 1}/{draw.folds}"
        what = f"{plan.selection} setting" if plan.selection else f"trial {plan.trial + 1}/{self.trials}"
        self.progress(f"{plan.method}: {plan.stage}, {what}, draw {draw.seed}{fold}")

    def _make(self, method: Method, plan: Run, draw: Draw) -> tuple[Run, Mapping[str, np.ndarray]]:
        started = time.perf_counter()
        try:
            trained = method.train(dict(plan.setting), draw)
        except NotFinite as error:
            return _diverged(replace(plan, seconds=time.perf_counter() - started), str(error)), {}
        run = self._validated(replace(plan, seconds=time.perf_counter() - started), trained, draw)
        if run.diverged or run.stage != "report":
            return run, {}
        metrics, arrays = self.test(trained, draw)
        metrics = _checked_metrics(metrics, run)
        if not math.isfinite(metrics["test"]):
            return _diverged(run, f"test accuracy {metrics['test']}"), {}
        return replace(run, metrics=metrics, arrays=tuple(arrays)), arrays

    def _validated(self, run: Run, trained: Any, draw: Draw) -> Run:
        run = replace(run, validation=float(self.validate(trained, draw)))
        return run if math.isfinite(run.validation) else _diverged(run, f"validation score {run.validation}")


def _diverged(run: Run, note: str) -> Run:
    metrics = {"test": 0.0} if run.stage == "report" else {}
    return replace(run, validation=-math.inf, metrics=metrics, diverged=True, note=note)


def _checked_metrics(metrics: Mapping[str, float], run: Run) -> dict[str, float]:
    where = f"test of {run.method}"
    check_columns(metrics, taken={*COLUMNS, *run.setting}, where=where)
    numbers = {name: float(value) for name, value in metrics.items()}
    if "test" not in numbers:
        raise InputError(f"no metric 'test' among: {', '.join(numbers)}", where=where, todo="return test accuracy")
    if math.isfinite(numbers["test"]) and not 0 <= numbers["test"] <= 1:
        raise InputError(f"test accuracy {numbers['test']}", where=where, todo="return it as a fraction, 0 to 1")
    return numbers


def _quiet(description: str) -> None:
    """Progress that nobody watches."""
