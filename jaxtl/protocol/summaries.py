"""The report runs of a method: ordered, grouped by what is repeated, and as the figures of a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxtl.errors import InputError, suggest
from jaxtl.protocol.runs import Run


@dataclass(frozen=True)
class Summary:
    """The report runs of one method under one selection, ordered by replicate and seed.

    Attributes:
        mean: of the measure on test data.
        units: what is repeated: the means of the replicates, or the draws of the only one.
        sd: of the units (n − 1; NaN for one).
        values, seeds, settings: one per draw.
        metrics: mean over the draws of every metric; a draw that diverged has no metric but "test".
        edges: hyperparameters that ended at an end of their design in any draw: "NAME<" or "NAME>".
        diverged: number of draws that diverged; they count as `Measure.failed`.
        seconds: training time of all report runs; a run shared by both selections counts in both.
        choosing_seconds: training time of the runs that chose the setting.
    """

    method: str
    selection: str
    mean: float
    sd: float
    units: tuple[float, ...]
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    settings: tuple[dict[str, float], ...]
    metrics: dict[str, float]
    edges: tuple[str, ...]
    diverged: int
    seconds: float
    choosing_seconds: float

    @property
    def setting(self) -> dict[str, float] | None:
        """The one setting of all draws; None where the draws chose different ones."""
        return self.settings[0] if all(setting == self.settings[0] for setting in self.settings) else None


def summarise(runs: Iterable[Run]) -> list[Summary]:
    """One summary per (method, selection), in the order in which the runs name them."""
    runs = list(runs)
    present = dict.fromkeys((run.method, run.selection) for run in runs if run.stage == "report")
    return [_summary(runs, method, selection) for method, selection in present]


def reported(runs: Iterable[Run], method: str, selection: str) -> list[Run]:
    """The report runs of a method under a selection, ordered by replicate and seed; one per draw."""
    report = [run for run in runs if run.stage == "report" and run.selection == selection]
    found = sorted((run for run in report if run.method == method), key=place)
    if not found:
        todo = suggest(method, {run.method for run in report})
        raise InputError(f"no report runs with selection '{selection}'", where=f"method '{method}'", todo=todo)
    if len(set(map(place, found))) < len(found):
        todo = "give the runs of one comparison at a time"
        raise InputError("two report runs for one draw", where=f"method '{method}'", todo=todo)
    return found


def first_selection(runs: Iterable[Run], method: str) -> str:
    """The selection that a method is compared under: the first that it was reported under, mostly "tuned"."""
    found = (run.selection for run in runs if run.stage == "report" and run.method == method)
    return next(found, "tuned")


def by_replicate(runs: list[Run], values: Sequence[float]) -> list[list[float]]:
    """Values of runs, a list for each replicate."""
    found: dict[int, list[float]] = {}
    for run, value in zip(runs, values, strict=True):
        found.setdefault(run.replicate, []).append(value)
    return list(found.values())


def mixed_devices(runs: Iterable[Run]) -> list[str]:
    """Draws whose report runs were made on several kinds of device, in words; pairs of them differ by rounding too."""
    kinds: dict[tuple[int, int], set[str]] = {}
    for run in runs:
        if run.stage == "report" and run.device:
            kinds.setdefault(place(run), set()).add(run.device)
    return [f"draw {seed}: {', '.join(sorted(found))}" for (_, seed), found in sorted(kinds.items()) if len(found) > 1]


def place(run: Run) -> tuple[int, int]:
    """What pairs two runs: replicate and seed."""
    return run.replicate, run.seed


def _summary(runs: list[Run], method: str, selection: str) -> Summary:
    report = reported(runs, method, selection)
    values = tuple(run.metrics["test"] for run in report)
    groups = by_replicate(report, values)
    units = tuple(float(np.mean(group)) for group in groups) if len(groups) > 1 else values
    choosing = report[0].chosen_in
    by_metric: dict[str, list[float]] = {}
    for run in report:
        for name, value in run.metrics.items():
            by_metric.setdefault(name, []).append(value)
    return Summary(
        method=method,
        selection=selection,
        mean=float(np.mean(values)),
        sd=float(np.std(units, ddof=1)) if len(units) > 1 else math.nan,
        units=units,
        values=values,
        seeds=tuple(run.seed for run in report),
        settings=tuple(run.setting for run in report),
        metrics={name: float(np.mean(found)) for name, found in by_metric.items()},
        edges=tuple(dict.fromkeys(edge for run in report for edge in run.edges)),
        diverged=sum(run.diverged for run in report),
        seconds=sum(run.seconds for run in report),
        choosing_seconds=sum(run.seconds for run in runs if run.method == method and run.stage == choosing),
    )
