"""Paired comparisons over draws: interval, sign-flip test, Holm's correction, verdict, and what could have been seen.

Two methods are compared draw by draw: a draw fixes subset, head initialisation, batch order and augmentation for both,
so what these contribute to both cancels in their difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxtl.errors import InputError, suggest
from jaxtl.protocol.measures import ACCURACY, Measure, number
from jaxtl.protocol.power import POWER, SIGNIFICANCE, detectable_difference, t_quantile
from jaxtl.protocol.runs import Run

INTERVAL_COVERS = "Intervals cover the draws (subset, head initialisation, batch order, augmentation)"


@dataclass(frozen=True)
class Contrast:
    """Method a minus method b, paired over draws. Of an accuracy, 0.01 is one point.

    Attributes:
        a, b: the two methods.
        difference: mean of a − b over draws, in the unit of the measure.
        sd: standard deviation of the differences over draws (n − 1); NaN for one draw.
        ci95: 95 % t interval of the difference.
        p: two-sided sign-flip p value. With n draws it cannot fall below 2/2ⁿ: under 6 draws nothing is significant,
            and four contrasts with Holm's correction need 8 (`cannot_decide`).
        p_holm: p corrected over the family of contrasts it was asked in; p itself for a contrast asked alone.
        n: number of draws.
        verdict: "helps", "hurts", "no effect beyond ±1" (the margin, as the measure is told) or "undecided".
        detectable: the smallest true difference that is found with 80 % power, with this sd and n, by the very rule
            behind the verdicts: sign flips, Holm's correction beside the other contrasts, and the interval. Infinite
            where no difference would be found.
        measure: of which it is a difference.
    """

    a: str
    b: str
    difference: float
    sd: float
    ci95: tuple[float, float]
    p: float
    p_holm: float
    n: int
    verdict: str
    detectable: float
    measure: Measure = ACCURACY


@dataclass(frozen=True)
class Summary:
    """The report runs of one method under one selection, ordered by seed.

    Attributes:
        mean, sd: of the measure on test data over draws (n − 1; NaN for one draw).
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


def paired(a: str, b: str, differences: Sequence[float] | np.ndarray, *, measure: Measure = ACCURACY) -> Contrast:
    """Judge paired differences by themselves, without correction for other contrasts.

    Args:
        a, b: names for the record.
        differences: [n] a − b, one per draw; of accuracies, fractions.
        measure: says which direction helps, and below which margin effects do not matter.

    Returns:
        A Contrast. One draw gives no interval and no test; a difference that is not finite gives no figure at all:
        "undecided" in both cases.

    Example:
        >>> c = paired("new", "old", [0.02, 0.03, 0.01, 0.02, 0.04, 0.02])
        >>> c.verdict, round(c.difference, 4), c.p
        ('helps', 0.0233, 0.03125)
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"differences of shape {values.shape}", where=f"{a} vs {b}", todo="give one per draw")
    n, mean, sd, half = len(values), math.nan, math.nan, math.nan
    p, detectable = math.nan, math.nan
    if np.isfinite(values).all():
        mean = float(values.mean())
        if n > 1:
            sd = float(values.std(ddof=1))
            half = t_quantile(n) * sd / math.sqrt(n)
            p, detectable = sign_flip_p(values), detectable_difference(sd, n)
    interval = (mean - half, mean + half)
    verdict = _verdict(interval, p, measure)
    return Contrast(a, b, mean, sd, interval, p, p, n, verdict, detectable, measure)


def contrast(runs: Iterable[Run], a: str, b: str, *, selection: str = "tuned", measure: Measure = ACCURACY) -> Contrast:
    """Compare two methods by their report runs on test data, paired by draw; without correction.

    Raises:
        InputError: no report runs of a method under that selection, or the two have different draws.
    """
    runs = list(runs)
    return _contrast_runs(a, b, _reported(runs, a, selection), _reported(runs, b, selection), measure)


def contrast_family(
    runs: Iterable[Run], pairs: Iterable[tuple[str, str]], *, selection: str = "tuned", measure: Measure = ACCURACY
) -> list[Contrast]:
    """The contrasts that a question was fixed on, judged together.

    `p_holm` is corrected over all of them, verdicts go by `p_holm`, and "detectable" by what Holm's correction asks of
    a contrast beside these others.
    """
    runs = list(runs)
    alone = [contrast(runs, a, b, selection=selection, measure=measure) for a, b in pairs]
    ps = [c.p for c in alone]
    return [
        replace(
            c,
            p_holm=p_holm,
            verdict=_verdict(c.ci95, p_holm, measure),
            detectable=detectable_difference(c.sd, c.n, _holm_factor(ps[:k] + ps[k + 1 :])),
        )
        for k, (c, p_holm) in enumerate(zip(alone, holm(ps), strict=True))
    ]


def price_of_choosing(runs: Iterable[Run], *, measure: Measure = ACCURACY) -> dict[str, Contrast]:
    """What each method loses by choosing from its labelled examples alone: tuned − honest, where both were run."""
    runs = list(runs)
    present = dict.fromkeys((run.method, run.selection) for run in runs if run.stage == "report")
    return {
        method: _contrast_runs(
            f"{method} (tuned)",
            f"{method} (honest)",
            _reported(runs, method, "tuned"),
            _reported(runs, method, "honest"),
            measure,
        )
        for method, selection in present
        if selection == "tuned" and (method, "honest") in present
    }


def summarise(runs: Iterable[Run]) -> list[Summary]:
    """One summary per (method, selection), in the order in which the runs name them."""
    runs = list(runs)
    present = dict.fromkeys((run.method, run.selection) for run in runs if run.stage == "report")
    return [_summary(runs, method, selection) for method, selection in present]


def verdict_sentence(c: Contrast) -> str:
    """A contrast in one line.

    Example:
        >>> print(verdict_sentence(paired("l2_sp", "l2", [0.001, -0.002, 0.003, 0.002, 0.0, 0.001])))
        l2_sp vs l2: +0.08 points [−0.10, 0.26] over 6 draws: no effect beyond ±1 (detectable at 80 % power: 0.31)
    """
    head, draws = f"{c.a} vs {c.b}:", f"over {c.n} draw{'s' if c.n > 1 else ''}"
    if not math.isfinite(c.difference):
        return f"{head} not a number {draws}: {c.verdict}"
    scale, pattern, unit = c.measure.scale, c.measure.difference_pattern, c.measure.points
    difference = number(scale * c.difference, f"+{pattern}")
    if c.n == 1:
        return f"{head} {difference}{unit} {draws}: {c.verdict} (one draw gives no interval)"
    low, high = (number(scale * end, pattern) for end in c.ci95)
    power = f"detectable at {100 * POWER:.0f} % power: {scale * c.detectable:{pattern}}"
    if math.isinf(c.detectable):
        power = "too few draws to find a difference"
    return f"{head} {difference}{unit} [{low}, {high}] {draws}: {c.verdict} ({power})"


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Two-sided p value of the sign-flip test: the share of sign patterns whose |sum| reaches the observed one.

    Without an effect each difference is as likely to have the other sign. All 2ⁿ patterns are counted up to n = 20;
    beyond, 100,000 are drawn with a fixed seed, and the observed one is counted among them so that p is never 0.

    Args:
        differences: [n] finite.

    Example:
        >>> sign_flip_p([1.0, 2.0, 3.0])
        0.25

    Source: R. A. Fisher, The Design of Experiments (1935); Phipson and Smyth, Permutation p-values should never be
    zero (2010).
    """
    values = np.asarray(differences, np.float64)
    reached = abs(values.sum()) - 1e-9 * np.abs(values).sum()  # equal sums may differ in their last bits
    if len(values) <= 20:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= reached))
    rng, count, batch, batches = np.random.default_rng(0), 0, 10_000, 10
    for _ in range(batches):
        signs = 2.0 * rng.integers(0, 2, (batch, len(values))) - 1.0
        count += int(np.sum(np.abs(signs @ values) >= reached))
    return (count + 1) / (batch * batches + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for being the smallest of a family; NaN stays NaN and still counts as a member.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Source: S. Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    corrected, largest = [math.nan] * len(ps), 0.0
    for rank, index in enumerate(sorted((i for i, p in enumerate(ps) if not math.isnan(p)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def _holm_factor(others: Sequence[float]) -> int:
    """What a p value is multiplied by when Holm's procedure decides on it beside these others: 1 to their count + 1.

    Others that are rejected before it cost it nothing: with r of them it must be below 5 % / (count + 1 − r). One that
    is not a number stays, as in `holm`.
    """
    count, rejected = len(others) + 1, 0
    for p in sorted(p for p in others if not math.isnan(p)):
        if (count - rejected) * p >= SIGNIFICANCE:
            break
        rejected += 1
    return count - rejected


def _verdict(interval: tuple[float, float], p: float, measure: Measure) -> str:
    """Significance first: an effect that is surely there but small "helps" or "hurts", and its size stands beside it.

    A difference from 0 needs both the (corrected) sign-flip test and the interval. "No effect" needs the printed 95 %
    interval inside the margin. An equivalence test at 5 % would ask only for the 90 % interval; this one is stricter,
    and every verdict can be checked against the interval beside it.
    """
    low, high = interval
    if p < SIGNIFICANCE and (low > 0 or high < 0):
        return "helps" if (low > 0) == measure.larger else "hurts"
    small = -measure.margin < low and high < measure.margin
    return f"no effect beyond ±{measure.scale * measure.margin:g}" if small else "undecided"


def _reported(runs: Iterable[Run], method: str, selection: str) -> list[Run]:
    """The report runs of a method under a selection, ordered by replicate and seed; one per draw."""
    report = [run for run in runs if run.stage == "report" and run.selection == selection]
    found = sorted((run for run in report if run.method == method), key=_place)
    if not found:
        todo = suggest(method, {run.method for run in report})
        raise InputError(f"no report runs with selection '{selection}'", where=f"method '{method}'", todo=todo)
    if len(set(map(_place, found))) < len(found):
        todo = "give the runs of one comparison at a time"
        raise InputError("two report runs for one draw", where=f"method '{method}'", todo=todo)
    return found


def _contrast_runs(a: str, b: str, first: list[Run], second: list[Run], measure: Measure) -> Contrast:
    if list(map(_place, first)) != list(map(_place, second)):
        raise InputError("different draws", where=f"{a} vs {b}", todo="compare runs that share their draws")
    differences = [ours.metrics["test"] - theirs.metrics["test"] for ours, theirs in zip(first, second, strict=True)]
    replicates = {run.replicate for run in first}
    if len(replicates) > 1:  # draws of one replicate share what chose their setting: no more than one observation
        of = np.array([run.replicate for run in first])
        differences = [float(np.mean(np.asarray(differences)[of == replicate])) for replicate in sorted(replicates)]
    return paired(a, b, differences, measure=measure)


def mixed_devices(runs: Iterable[Run]) -> list[str]:
    """Draws whose report runs were made on several kinds of device, in words; pairs of them differ by rounding too."""
    kinds: dict[tuple[int, int], set[str]] = {}
    for run in runs:
        if run.stage == "report" and run.device:
            kinds.setdefault(_place(run), set()).add(run.device)
    return [f"draw {seed}: {', '.join(sorted(found))}" for (_, seed), found in sorted(kinds.items()) if len(found) > 1]


def _place(run: Run) -> tuple[int, int]:
    return run.replicate, run.seed


def _summary(runs: list[Run], method: str, selection: str) -> Summary:
    report = _reported(runs, method, selection)
    values = tuple(run.metrics["test"] for run in report)
    choosing = report[0].chosen_in
    by_metric: dict[str, list[float]] = {}
    for run in report:
        for name, value in run.metrics.items():
            by_metric.setdefault(name, []).append(value)
    return Summary(
        method=method,
        selection=selection,
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        values=values,
        seeds=tuple(run.seed for run in report),
        settings=tuple(run.setting for run in report),
        metrics={name: float(np.mean(found)) for name, found in by_metric.items()},
        edges=tuple(dict.fromkeys(edge for run in report for edge in run.edges)),
        diverged=sum(run.diverged for run in report),
        seconds=sum(run.seconds for run in report),
        choosing_seconds=sum(run.seconds for run in runs if run.method == method and run.stage == choosing),
    )
