"""Comparisons and searches made often from stored runs: what intervals cover, which plan and which search is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxtl.errors import InputError
from jaxtl.protocol.design import LEARNING_RATE, Range, trial_settings
from jaxtl.protocol.statistics import Contrast, paired


class Plan(NamedTuple):
    """How often what is done: attributes count replicates, tuning and report draws of each, and settings tried."""

    replicates: int
    tuning: int
    report: int
    trials: int

    @property
    def runs(self) -> int:
        """Of one method."""
        return self.replicates * (self.trials * self.tuning + self.report)


class Scores(NamedTuple):
    """A method's crossed runs: every setting of a replicate's design on every of its draws.

    Attributes:
        validation: [replicates, draws, trials]; −inf where a run diverged.
        test: as `validation`.
    """

    validation: np.ndarray
    test: np.ndarray


Both = tuple[np.ndarray, np.ndarray]  # of a and of b
Apart = Literal["", "choice", "draws"]


def replicate_difference(a: Scores, b: Scores, replicate: int, tuning: Both, report: Both, trials: Both) -> float:
    """a − b in one replicate: each chooses on its tuning draws among its trials, and is reported on its report draws.

    Args:
        a, b: crossed runs on the same draws.
        replicate: which.
        tuning: draws on which they choose.
        report: draws on which they are reported.
        trials: among which they choose.

    Returns:
        A difference in the unit of the test scores.
    """

    def reported(method: Scores, draws: np.ndarray, judged: np.ndarray, tried: np.ndarray) -> float:
        chosen = tried[int(method.validation[replicate][np.ix_(draws, tried)].mean(axis=0).argmax())]
        return float(method.test[replicate, judged, chosen].mean())

    return reported(a, tuning[0], report[0], trials[0]) - reported(b, tuning[1], report[1], trials[1])


def differences(a: Scores, b: Scores, plan: Plan, rng: np.random.Generator, apart: Apart = "") -> np.ndarray:
    """One comparison: differences of as many replicates, drawn with replacement, with draws and trials at random.

    Args:
        a, b: crossed runs.
        plan: what the comparison does.
        rng: draws it.
        apart: "choice": a and b choose on draws, and among trials, of their own; "draws": they are also reported on
            draws of their own. Two copies of one method are then compared as two methods are.

    Returns:
        [replicates].

    Raises:
        InputError: a plan that the stored runs are too few for.
    """
    count, draws, trials = a.validation.shape
    second = plan.tuning if apart else 0, plan.report if apart == "draws" else 0  # where b's draws begin, after a's
    if plan.tuning + plan.report + sum(second) > draws or plan.trials > trials:
        what = f"{plan} of {draws} draws and {trials} trials"
        raise InputError(what, where="simulated comparison", todo="ask for less, or store more")
    found = []
    for replicate in rng.integers(count, size=plan.replicates):
        order = rng.permutation(draws)
        choose, judge = order[: plan.tuning + second[0]], order[plan.tuning + second[0] :]
        tuning = choose[: plan.tuning], choose[second[0] :][: plan.tuning]
        report = judge[: plan.report], judge[second[1] :][: plan.report]
        tried = [np.sort(rng.permutation(trials)[: plan.trials]) for _ in range(2)]
        found.append(replicate_difference(a, b, int(replicate), tuning, report, (tried[0], tried[bool(apart)])))
    return np.array(found)


class Calibration(NamedTuple):
    """Of many simulated comparisons.

    Attributes:
        truth: what they estimate.
        coverage: the part of their 95 % intervals that hold it.
        half_width: of the intervals, the mean.
        sd: of the replicates' differences.
        verdicts: how often each.
    """

    truth: float
    coverage: float
    half_width: float
    sd: float
    verdicts: dict[str, int]


def calibrate(
    a: Scores, b: Scores, plan: Plan, comparisons: int, seed: int, *, apart: Apart = "", planted: float = 0.0
) -> Calibration:
    """Compare a and b very often.

    Args:
        a, b, plan, apart: as for `differences`.
        comparisons: how often.
        seed: of all that is drawn.
        planted: added to every difference.

    Returns:
        What came of it. The truth is the mean of all replicates that were drawn: what is left of their noise is less
        than a hundredth of an interval for 1,000 comparisons and more.
    """
    rng = np.random.default_rng(seed)
    found = [planted + differences(a, b, plan, rng, apart) for _ in range(comparisons)]
    truth = planted if apart and a is b else float(np.mean(found))
    judged: list[Contrast] = [paired("a", "b", values, unit="replicate") for values in found]
    inside = [c.ci95[0] <= truth <= c.ci95[1] for c in judged]
    verdicts = [c.verdict for c in judged]
    return Calibration(
        truth,
        float(np.mean(inside)),
        float(np.mean([(c.ci95[1] - c.ci95[0]) / 2 for c in judged])),
        float(np.std(np.concatenate(found), ddof=1)),
        {word: verdicts.count(word) for word in sorted({*verdicts})},
    )


def components(a: Scores, b: Scores) -> tuple[float, float, float]:
    """Standard deviations of a − b: (between replicates, of the draw that chooses, of the draw that reports).

    In each replicate one half of the draws chooses, each by itself, and the other half reports: a table of differences,
    whose mean squares by rows, columns and rest say what either contributes. What is left between the means of the
    tables is the replicates': source model, held-out examples, design.

    Source: S. R. Searle, G. Casella and C. E. McCulloch, Variance Components (1992).
    """
    count, draws, trials = a.validation.shape
    sides, tried = (range(0, draws, 2), range(1, draws, 2)), (np.arange(trials),) * 2

    def difference(r: int, tuning: int, report: int) -> float:
        return replicate_difference(a, b, r, (np.array([tuning]),) * 2, (np.array([report]),) * 2, tried)

    tables = np.array([[[difference(r, t, d) for d in sides[1]] for t in sides[0]] for r in range(count)])
    rows, columns = tables.mean(axis=2), tables.mean(axis=1)
    means = rows.mean(axis=1)
    rest = tables - rows[:, :, None] - columns[:, None] + means[:, None, None]
    n, m = tables.shape[1:]
    noise = float((rest**2).sum(axis=(1, 2)).mean()) / ((n - 1) * (m - 1))
    chosen = float(rows.var(axis=1, ddof=1).mean()) - noise / m
    reported = float(columns.var(axis=1, ddof=1).mean()) - noise / n
    between = float(means.var(ddof=1)) - max(0.0, chosen) / n - max(0.0, reported) / m - noise / (n * m)
    return tuple(math.sqrt(max(0.0, one)) for one in (between, chosen, reported + noise))  # type: ignore[return-value]


def contradictory(verdicts: Sequence[str]) -> float:
    """The part of verdicts that say other than most of those that decide; "undecided" contradicts nothing.

    Example:
        >>> contradictory(["helps", "helps", "undecided", "hurts"])
        0.25
    """
    decided = [verdict for verdict in verdicts if verdict != "undecided"]
    most = max((decided.count(word) for word in {*decided}), default=0)
    return (len(decided) - most) / len(verdicts)


# ---- searches in a fine grid of learning rates by another hyperparameter, all of it stored


def coarse(count: int, edge: int, rng: np.random.Generator) -> np.ndarray:
    """Cells of a coarser grid, twice as fine in learning rates where it is not square."""
    rows = 2 ** math.ceil(math.log2(count) / 2)
    across, up = (np.floor((np.arange(n) + 0.5) / n * edge).astype(int) for n in (rows, count // rows))
    return (across[:, None] * edge + up).ravel()


def scattered(count: int, edge: int, rng: np.random.Generator) -> np.ndarray:
    """Cells at random."""
    return rng.choice(edge**2, count, replace=False)


def designed(count: int, edge: int, rng: np.random.Generator) -> np.ndarray:
    """Cells of the design that methods are given."""
    unit = Range(1.0, math.e)
    settings = trial_settings({LEARNING_RATE: unit, "other": unit}, count, int(rng.integers(1, 2**31)))
    cells = [[int(edge * unit.quantile(setting[name])) for name in (LEARNING_RATE, "other")] for setting in settings]
    return np.array(cells) @ [edge, 1]


def losses_of_search(
    count: int, edge: int, validation: np.ndarray, test: np.ndarray, repeats: int, rng: np.random.Generator
) -> dict[str, float]:
    """What searches lose against the cell with the best mean test score, by their name.

    Args:
        count: runs that each search makes, a power of two.
        edge: settings of the grid on each side.
        validation, test: [draws, edge · edge], the learning rate being the slower index.
        repeats: searches that are averaged.
        rng: draws them.

    Returns:
        {"grid", "random", "low discrepancy": all runs on one draw; "halving over draws": half of them on one draw, then
        the better half of the settings on another as well, and so on: mean loss}.
    """
    ways = {"grid": coarse, "random": scattered, "low discrepancy": designed}
    mean, halving = test.mean(axis=0), "halving over draws"
    lost: dict[str, list[float]] = {name: [] for name in (*ways, halving)}
    for _ in range(repeats):
        order = rng.permutation(len(validation))
        for name, way in ways.items():
            cells = way(count, edge, rng)
            lost[name].append(mean.max() - mean[cells[validation[order[0], cells].argmax()]])
        cells, rung = designed(count // 2, edge, rng), 1
        while len(cells) > 1:
            best = np.argsort(-validation[order[:rung]][:, cells].mean(axis=0), kind="stable")
            cells, rung = cells[best[: len(cells) // 2]], rung + 1
        lost[halving].append(mean.max() - mean[cells[0]])
    return {name: float(np.mean(found)) for name, found in lost.items()}
