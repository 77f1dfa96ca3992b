"""Paired comparisons: interval, one test behind every verdict, Holm's correction, and what would decide.

Two methods are compared draw by draw: a draw fixes subset, head initialisation, batch order and augmentation for both,
so what these contribute to both cancels in their difference. What a method chose is drawn too. So the unit of
repetition is the *replicate*, with tuning draws, a design, held-out examples and a source model of its own; report
draws are nested in it, and count by their mean. Where a method chose for every draw anew, or had nothing to choose, a
draw of the only replicate is a unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxtl.errors import InputError
from jaxtl.protocol.clusters import ClusteredError, clustered_error
from jaxtl.protocol.measures import ACCURACY, Measure, number
from jaxtl.protocol.power import SIGNIFICANCE, detectable_difference, replicates_to_decide, t_p, t_quantile
from jaxtl.protocol.runs import Run
from jaxtl.protocol.summaries import by_replicate, first_selection, place, reported


@dataclass(frozen=True)
class Contrast:
    """Method a minus method b, paired. Of an accuracy, 0.01 is one point.

    Attributes:
        a, b: the two methods.
        difference: mean of a − b over the units, in that of the measure.
        sd: standard deviation of the differences over the units (n − 1); NaN for one.
        ci95: 95 % t interval of the difference.
        p: two-sided p value of "no difference", of the t test that belongs to the interval.
        p_holm: p corrected over the family of contrasts it was asked in; p itself for a contrast asked alone.
        p_agree: p value of "a difference of the margin at least", the larger one of two one-sided t tests; with Holm's
            correction over the family. Below 5 % the difference is within the margin.
        n: number of units: replicates, or draws.
        verdict: "no effect beyond ±1" (the margin, as the measure is told), "helps", "hurts" or "undecided".
        detectable: the smallest true difference that the test finds with 80 % power, with this sd, n and correction.
        decided_by: of one that is undecided, how many units would decide with 80 % power, were sd and difference true;
            infinite beyond ten thousand. None where an interval is missing.
        unit: "replicate" or "draw".
        given_choice: all draws share one choice of settings, which no interval over draws covers: nothing is decided.
        sd_choice, sd_draw: standard deviations of what a replicate chose and started from, and of a draw within it, by
            the analysis of variance of nested draws; None where draws are the units, or a replicate has one.
        measure: of which it is a difference.
        clustered: of units that share clusters, the error and the clusters that interval and tests go by; n and sd are
            still of the units.
    """

    a: str
    b: str
    difference: float
    sd: float
    ci95: tuple[float, float]
    p: float
    p_holm: float
    p_agree: float
    n: int
    verdict: str
    detectable: float
    decided_by: float | None = None
    unit: str = "draw"
    given_choice: bool = False
    sd_choice: float | None = None
    sd_draw: float | None = None
    measure: Measure = ACCURACY
    clustered: ClusteredError | None = None

    @property
    def independent(self) -> tuple[float, int]:
        """(sd, n) of as many independent units as the test has."""
        if self.clustered is None:
            return self.sd, self.n
        return math.sqrt(self.clustered.clusters) * self.clustered.error, self.clustered.clusters


def paired(
    a: str,
    b: str,
    differences: Sequence[float] | np.ndarray,
    *,
    unit: str = "draw",
    measure: Measure = ACCURACY,
    clusters: Mapping[str, Sequence[object]] | None = None,
) -> Contrast:
    """Judge paired differences by themselves, without correction for other contrasts.

    Args:
        a, b: names for the record.
        differences: [n] a − b, one per unit; of accuracies, fractions.
        unit: what is repeated, "replicate" or "draw".
        measure: says which direction helps, and below which margin effects do not matter.
        clusters: where units share things, of one or two ways the labels [n] of what is shared, as for
            `clustered_error`; without them units are independent.

    Returns:
        A Contrast. One unit gives no interval and no test; a difference that is not finite gives no figure at all:
        "undecided" in both cases.

    Example:
        >>> c = paired("new", "old", [0.02, 0.03, 0.01, 0.02, 0.04, 0.02])
        >>> c.verdict, round(c.difference, 4), round(c.p, 4)
        ('helps', 0.0233, 0.0026)

    Source: Student, The probable error of a mean (1908).
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"differences of shape {values.shape}", where=f"{a} vs {b}", todo=f"give one per {unit}")
    n, mean, sd, error = len(values), math.nan, math.nan, None
    if np.isfinite(values).all():
        mean = float(values.mean())
        if n > 1:
            sd = float(values.std(ddof=1)) if np.ptp(values) else 0.0  # the mean of equal values may differ by a bit
            error = clustered_error(values, clusters) if clusters else None
    half = p = p_agree = math.nan
    alone = Contrast(a, b, mean, sd, (half, half), p, p, p_agree, n, "", 0.0, unit=unit, measure=measure)
    alone = replace(alone, clustered=error)
    if math.isfinite(sd):
        half, p, p_agree = _tested(alone)
    return _judged(replace(alone, ci95=(mean - half, mean + half), p=p), p, p_agree)


def _tested(c: Contrast) -> tuple[float, float, float]:
    """(how far its interval reaches, p of no difference, p of one beyond the margin)."""
    mean, margin, (sd, n) = c.difference, c.measure.margin, c.independent
    p = min(1.0, 2 * min(t_p(mean, sd, n), t_p(-mean, sd, n)))
    return t_quantile(n) * sd / math.sqrt(n), p, max(t_p(mean, sd, n, -margin), t_p(-mean, sd, n, -margin))


def _judged(c: Contrast, p: float, p_agree: float, factors: tuple[int, int] = (1, 1)) -> Contrast:
    """With verdict and power, by p values that are corrected and by what they were multiplied with."""
    verdict = "undecided" if c.given_choice else _verdict(c.difference, p, p_agree, c.measure)
    detectable, decided_by = math.nan, None
    sd, n = c.independent
    if n > 1:
        detectable = detectable_difference(sd, n, factors[0])
        if verdict == "undecided" and math.isfinite(sd) and c.clustered is None:  # more clusters are other questions
            decided_by = replicates_to_decide(c.difference, sd, c.measure.margin, max(factors))
    return replace(c, p_holm=p, p_agree=p_agree, verdict=verdict, detectable=detectable, decided_by=decided_by)


def contrast(
    runs: Iterable[Run], a: str, b: str, *, selection: str | None = None, measure: Measure = ACCURACY
) -> Contrast:
    """Compare two methods by their report runs on test data, paired by draw; without correction.

    Args:
        runs: of a comparison.
        a, b: methods.
        selection: of both; left out: of each the first, mostly "tuned".
        measure: what "test" is.

    Raises:
        InputError: no report runs of a method under that selection, or the two have different draws.
    """
    runs = list(runs)
    ours, theirs = (_Side(runs, method, selection or first_selection(runs, method)) for method in (a, b))
    return _contrast_sides(a, b, ours, theirs, measure)


def contrast_family(
    runs: Iterable[Run], pairs: Iterable[tuple[str, str]], *, selection: str | None = None, measure: Measure = ACCURACY
) -> list[Contrast]:
    """The contrasts that a question was fixed on, `judged_together`."""
    runs = list(runs)
    return judged_together([contrast(runs, a, b, selection=selection, measure=measure) for a, b in pairs])


def judged_together(alone: Sequence[Contrast]) -> list[Contrast]:
    """Contrasts that were each judged alone, as one family: Holm's correction for both tests over all of them.

    "Detectable", and how much would decide, go by what the correction asks of a contrast beside these others.

    Example:
        >>> c = paired("a", "b", [0.01, 0.03, 0.02])
        >>> c.verdict, [one.verdict for one in judged_together([c, c])]
        ('undecided', ['undecided', 'undecided'])

    Source: S. Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    differ, agree = [c.p for c in alone], [c.p_agree for c in alone]
    return [
        _judged(c, p, p_agree, (_holm_factor(_without(differ, k)), _holm_factor(_without(agree, k))))
        for k, (c, p, p_agree) in enumerate(zip(alone, holm(differ), holm(agree), strict=True))
    ]


def _without(values: list[float], k: int) -> list[float]:
    return values[:k] + values[k + 1 :]


def price_of_choosing(runs: Iterable[Run], *, measure: Measure = ACCURACY) -> dict[str, Contrast]:
    """What each method loses by choosing from its labelled examples alone: tuned − honest, where both were run."""
    runs = list(runs)
    present = dict.fromkeys((run.method, run.selection) for run in runs if run.stage == "report")
    return {
        method: _contrast_sides(
            f"{method} (tuned)",
            f"{method} (honest)",
            _Side(runs, method, "tuned"),
            _Side(runs, method, "honest"),
            measure,
        )
        for method, selection in present
        if selection == "tuned" and (method, "honest") in present
    }


def verdict_sentence(c: Contrast) -> str:
    """A contrast in one line, and for one that is undecided what would decide it.

    Example:
        >>> print(verdict_sentence(paired("l2_sp", "l2", [0.001, -0.002, 0.003, 0.002, 0.0, 0.001])))
        l2_sp vs l2: +0.08 points [−0.10, 0.26] over 6 draws: no effect beyond ±1 (p 2.4e−05)
        >>> print(verdict_sentence(paired("l2_sp", "l2", [0.01, -0.02, 0.03, 0.02], unit="replicate")))
        l2_sp vs l2: +1.00 points [−2.44, 4.44] over 4 replicates: undecided (about 39 would decide)
    """
    head, units = f"{c.a} vs {c.b}:", f"over {c.n} {c.unit}{'s' if c.n > 1 else ''}"
    if not math.isfinite(c.difference):
        return f"{head} not a number {units}: {c.verdict}"
    scale, pattern, unit = c.measure.scale, c.measure.difference_pattern, c.measure.points
    difference = number(scale * c.difference, f"+{pattern}")
    if c.n == 1:
        return f"{head} {difference}{unit} {units}: {c.verdict} (one {c.unit} gives no interval)"
    low, high = (number(scale * end, pattern) for end in c.ci95)
    return f"{head} {difference}{unit} [{low}, {high}] {units}: {c.verdict} ({_why(c)})"


def _why(c: Contrast) -> str:
    if c.given_choice:
        return "given one choice of settings"
    if c.decided_by is None:
        return f"p {number(c.p_holm if c.verdict in ('helps', 'hurts') else c.p_agree, '.2g')}"
    return (
        "nothing would decide" if math.isinf(c.decided_by) else f"about {max(c.decided_by, c.n + 1):.0f} would decide"
    )


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


def _verdict(difference: float, p: float, p_agree: float, measure: Measure) -> str:
    """Agreement first: where a difference is surely within the margin it does not matter, be it surely there or not."""
    if p_agree < SIGNIFICANCE:
        return f"no effect beyond ±{measure.scale * measure.margin:g}"
    if p < SIGNIFICANCE:
        return "helps" if (difference > 0) == measure.larger else "hurts"
    return "undecided"


class _Side:
    """The report runs of a method under a selection, and whether all draws of a replicate share one choice."""

    def __init__(self, runs: list[Run], method: str, selection: str):
        self.runs = reported(runs, method, selection)
        chosen_in = {run.chosen_in for run in self.runs}
        self.one_choice = "tuning" in chosen_in and any(r.method == method and r.stage == "tuning" for r in runs)


def _contrast_sides(a: str, b: str, ours: _Side, theirs: _Side, measure: Measure) -> Contrast:
    if list(map(place, ours.runs)) != list(map(place, theirs.runs)):
        raise InputError("different draws", where=f"{a} vs {b}", todo="compare runs that share their draws")
    differences = [x.metrics["test"] - y.metrics["test"] for x, y in zip(ours.runs, theirs.runs, strict=True)]
    groups = by_replicate(ours.runs, differences)
    if len(groups) == 1:
        found = paired(a, b, differences, measure=measure)
        return replace(found, given_choice=True, verdict="undecided") if ours.one_choice or theirs.one_choice else found
    found = paired(a, b, [float(np.mean(group)) for group in groups], unit="replicate", measure=measure)
    sd_choice, sd_draw = _components(groups)
    return replace(found, sd_choice=sd_choice, sd_draw=sd_draw)


def _components(groups: list[list[float]]) -> tuple[float | None, float | None]:
    """Standard deviations (between groups of one size, within them), from their mean squares.

    Source: S. R. Searle, G. Casella and C. E. McCulloch, Variance Components (1992).
    """
    values = np.array(groups)
    if values.shape[1] == 1 or not np.isfinite(values).all():
        return None, None
    within = float(np.mean(values.var(axis=1, ddof=1)))
    between = float(values.mean(axis=1).var(ddof=1)) - within / values.shape[1]
    return math.sqrt(max(0.0, between)), math.sqrt(within)
