"""A unit of work: some settings of one method on one draw. A pure function of what it says, wherever it is done.

`compare` has units made, here or by an executor (`protocol.executors`), and keeps what comes back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jaxtl.devices.backend import device_kind
from jaxtl.errors import InputError, NotFinite
from jaxtl.protocol.design import Draw, Method, Selection, Setting, check_columns, edges_of
from jaxtl.protocol.measures import ACCURACY, Measure
from jaxtl.protocol.runs import COLUMNS, Run

NO_NUMBER = "the loss or a parameter is not finite"

Made = list[tuple[Run, Mapping[str, np.ndarray]]]  # every run of a unit with its arrays


class Unit(NamedTuple):
    """Attributes:
    method: its name.
    stage: "tuning", "fold" or "draw" to choose; "report" for a result, which has one trial.
    draw: what is drawn at random.
    trials: positions in the method's settings.
    """

    method: str
    stage: str
    draw: Draw
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Worker:
    """unit -> its runs; all that it knows follows from the configuration.

    Attributes:
        methods: by name.
        trials: settings tried for each that needs no fewer.
        validate: (trained, draw) -> score, larger is better.
        scored: selections with a score of their own, for runs of methods that choose so.
        test: (trained, draw) -> (metrics with "test", arrays), for reports.
        measure: what "test" is.
    """

    methods: Mapping[str, Method]
    trials: int
    validate: Callable[[Any, Draw], float]
    scored: Sequence[Selection]
    test: Callable[[Any, Draw], tuple[Mapping[str, float], Mapping[str, np.ndarray]]]
    measure: Measure = ACCURACY

    def settings(self, method: str, replicate: int = 0) -> list[Setting]:
        """Those that are tried, by trial; another replicate tries others."""
        return self.methods[method].settings(self.trials, replicate)

    def plan(self, unit: Unit) -> list[Run]:
        """The runs of a unit before they are made."""
        settings, edges = self.settings(unit.method, unit.draw.replicate), unit.stage == "report"
        return [
            Run(
                unit.method,
                unit.stage,
                "",
                unit.draw.seed,
                unit.draw.fold,
                trial,
                settings[trial],
                edges_of(settings, trial) if edges else (),
                replicate=unit.draw.replicate,
                device=device_kind(),
            )
            for trial in unit.trials
        ]

    def __call__(self, unit: Unit) -> Made:
        method, plans = self.methods[unit.method], self.plan(unit)
        if unit.stage == "report":
            return [self._report(method, plans[0], unit.draw)]
        started = time.perf_counter()
        trained = _train_all(method, [dict(plan.setting) for plan in plans], unit.draw)
        seconds = (time.perf_counter() - started) / len(plans)
        return [
            (self._scored(replace(plan, seconds=seconds), one, unit.draw), {})
            for plan, one in zip(plans, trained, strict=True)
        ]

    def _report(self, method: Method, plan: Run, draw: Draw) -> tuple[Run, Mapping[str, np.ndarray]]:
        started = time.perf_counter()
        try:
            trained = method.train(dict(plan.setting), draw)
        except NotFinite as error:
            return self._diverged(replace(plan, seconds=time.perf_counter() - started), str(error)), {}
        run = self._validated(replace(plan, seconds=time.perf_counter() - started), trained, draw)
        if run.diverged:
            return run, {}
        metrics, arrays = self.test(trained, draw)
        metrics = _checked_metrics(metrics, run, self.measure)
        if not math.isfinite(metrics["test"]):
            return self._diverged(run, f"test {self.measure.name} {metrics['test']}"), {}
        return replace(run, metrics=metrics, arrays=tuple(arrays)), arrays

    def _scored(self, run: Run, trained: Any | None, draw: Draw) -> Run:
        """With what choices are made by."""
        if isinstance(trained, NotFinite):
            return self._diverged(run, str(trained))
        if trained is None:
            return self._diverged(run, NO_NUMBER)
        run = self._validated(run, trained, draw)
        asked = {} if run.diverged else {way.name: way.score for way in self.scored if way.asks(run.method)}
        return replace(run, scores={name: float(score(trained, draw)) for name, score in asked.items() if score})

    def _validated(self, run: Run, trained: Any, draw: Draw) -> Run:
        run = replace(run, validation=float(self.validate(trained, draw)))
        return run if math.isfinite(run.validation) else self._diverged(run, f"validation score {run.validation}")

    def _diverged(self, run: Run, note: str) -> Run:
        metrics = {"test": self.measure.failed} if run.stage == "report" else {}
        return replace(run, validation=-math.inf, metrics=metrics, diverged=True, note=note)


def _train_all(method: Method, settings: Sequence[Setting], draw: Draw) -> Sequence[Any]:
    """Every setting, in one sweep where the method has one; of one that diverged None, or what it said."""
    if method.train_all is not None:
        try:
            return method.train_all(list(settings), draw)
        except NotFinite:
            return [None] * len(settings)
    trained: list[Any] = []
    for setting in settings:
        try:
            trained.append(method.train(setting, draw))
        except NotFinite as error:
            trained.append(error)
    return trained


def _checked_metrics(metrics: Mapping[str, float], run: Run, measure: Measure) -> dict[str, float]:
    where = f"test of {run.method}"
    check_columns(metrics, taken={*COLUMNS, *run.setting}, where=where)
    numbers = {name: float(value) for name, value in metrics.items()}
    if "test" not in numbers:
        raise InputError(
            f"no metric 'test' among: {', '.join(numbers)}", where=where, todo=f"return test {measure.name}"
        )
    low, high = measure.bounds
    if math.isfinite(numbers["test"]) and not low <= numbers["test"] <= high:
        todo = f"return it as a fraction, {low:g} to {high:g}" if measure.percent else f"it lies in {low:g} to {high:g}"
        raise InputError(f"test {measure.name} {numbers['test']}", where=where, todo=todo)
    return numbers
