"""What the answers of `experiments.benchmarks.practice` say: scores, paired differences, who is ahead; as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxtl.report import Plot, Section, Table
from jaxtl.report.plots.style import BLUE, FAINT, VERMILLION, name_rows, new_figure

Z = 1.959964  # 95 %
OURS = "jaxtl"
WORDS = {
    OURS: "jaxtl finetune",
    "logistic": "LogisticRegression",
    "logistic_cv": "LogisticRegressionCV",
    "logistic_raw": "LogisticRegression, unscaled",
    "timm": "timm's recipe",
    "keras": "Keras' guide",
}
FROZEN = ("logistic", "logistic_cv", "logistic_raw")  # heads on frozen features, which take what they take


class Estimate(NamedTuple):
    """A share, or a difference of shares, with its 95 % interval over test pictures."""

    value: float
    low: float
    high: float

    def told(self, pattern: str = ".1f") -> str:
        value, low, high = (f"{100 * number:{pattern}}" for number in self)
        return f"{value} [{low}, {high}]".replace("-", "−")


def strata(truth: np.ndarray, balanced: bool) -> list[np.ndarray]:
    """Rows of the parts that count alike: every class, or all pictures as one."""
    return [np.flatnonzero(truth == k) for k in np.unique(truth)] if balanced else [np.arange(len(truth))]


def score(right: np.ndarray, parts: Sequence[np.ndarray]) -> Estimate:
    """The mean share of right answers over parts; intervals of parts are combined by their distances.

    Args:
        right: [N] 0 or 1, or the mean of that over seeds.
        parts: of `strata`.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927); Newcombe, Interval
    estimation for the difference between independent proportions (1998).
    """
    found = []
    for rows in parts:
        n, p = len(rows), float(right[rows].mean())
        middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        found.append((p, (middle - half) / (1 + Z * Z / n), (middle + half) / (1 + Z * Z / n)))
    value, low, high = np.array(found).T
    below, above = (math.sqrt(float(np.sum((value - end) ** 2))) / len(found) for end in (low, high))
    return Estimate(float(value.mean()), float(value.mean()) - below, float(value.mean()) + above)


def difference(ours: np.ndarray, theirs: np.ndarray, parts: Sequence[np.ndarray]) -> Estimate:
    """Ours − theirs, paired by picture: the mean over parts, with half a picture added to every kind of pair.

    Args:
        ours, theirs: [N], as for `score`.
        parts: of `strata`.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions (2005).
    """
    values, variances, centres = [], [], []
    for rows in parts:
        apart, n = ours[rows] - theirs[rows], len(rows)
        values.append(float(apart.mean()))
        gained, lost = float(apart.clip(0).sum()), float((-apart).clip(0).sum())
        centres.append((gained - lost) / (n + 2))
        variances.append(((gained + lost + 1) - (gained - lost) ** 2 / (n + 2)) / (n + 2) ** 2)
    half, centre = Z * math.sqrt(sum(variances)) / len(parts), float(np.mean(centres))
    return Estimate(float(np.mean(values)), centre - half, centre + half)


def verdict(scores: Mapping[str, Estimate], apart: Mapping[str, Estimate]) -> str:
    """Best, level or behind.

    Args:
        scores: of all rivals, ours too.
        apart: ours − theirs.

    Returns:
        "best" where nobody's score is higher; "behind NAME" where a rival is ahead beyond what test pictures leave
        open; else "level".
    """
    ahead = [name for name in apart if scores[name].value > scores[OURS].value]
    surely = [name for name in ahead if apart[name].high < 0]
    if surely:
        return f"behind {WORDS[max(surely, key=lambda name: scores[name].value)]}"
    return "level" if ahead else "best"


class Judged(NamedTuple):
    """A set within a budget.

    Attributes:
        title: of the set.
        measure: in words.
        rows: {rival: what its process said}, of the first seed.
        scores: {rival: its score}.
        apart: {rival: ours − its score}.
        verdict: see `verdict`.
        bar: ours − the better head on frozen features; None without one.
    """

    title: str
    measure: str
    rows: Mapping[str, Any]
    scores: Mapping[str, Estimate]
    apart: Mapping[str, Estimate]
    verdict: str
    bar: Estimate | None


def judged(title: str, measure: str, truth: np.ndarray, found: Mapping[str, Sequence[Any]], balanced: bool) -> Judged:
    """Scores, differences and verdict.

    Args:
        title, measure: of the set.
        truth: [N] labels of its test pictures.
        found: {rival: what its process said, by seed}.
        balanced: whether classes count alike.
    """
    sure = strata(truth, balanced)
    right = {name: np.mean([np.array(one["answers"]) == truth for one in runs], axis=0) for name, runs in found.items()}
    scores = {name: score(values, sure) for name, values in right.items()}
    others = [name for name in right if name != OURS] if OURS in right else []
    apart = {name: difference(right[OURS], right[name], sure) for name in others}
    heads = [name for name in apart if name in FROZEN]
    bar = apart[max(heads, key=lambda name: scores[name].value)] if heads else None
    said = verdict(scores, apart) if apart else ""
    return Judged(title, measure, {name: runs[0] for name, runs in found.items()}, scores, apart, said, bar)


def section(budget: float, found: Sequence[Judged]) -> Section:
    """All sets within a budget."""
    rows, short = [], []
    for one in found:
        for place, (name, share) in enumerate(one.scores.items()):
            said = one.rows[name]
            apart = one.apart[name].told("+.1f").replace("−0.0 ", "0.0 ") if name in one.apart else ""
            taken = [f"{said['seconds']:.0f}", f"{said['cpu']:.0f}", said["told"]]
            rows.append([one.title if not place else "", WORDS[name], share.told(), apart, *taken])
        cells = [f"{100 * one.scores[name].value:.1f}" if name in one.scores else "–" for name in WORDS]
        short.append([one.title, *cells, one.verdict])
    columns = ["set", "rival", "score, %", "jaxtl − rival", "wall s", "CPU s", "what it did"]
    judged_ones = [one for one in found if one.verdict]
    fine = sum(not one.verdict.startswith("behind") for one in judged_ones)
    lines = [f"jaxtl is best or level on {fine} of {len(judged_ones)} sets."] if judged_ones else []
    lines += [f"{one.title}: {one.measure}" for one in found if one.measure != "accuracy"]
    low = [f"{one.title} {one.bar.told('+.1f')}" for one in found if one.bar]
    lines += [f"jaxtl − the better frozen-feature head, points: {'; '.join(low)}"] if low else []
    heading, figure = f"{minutes(budget)}, one core", f"jaxtl − rival within {minutes(budget)}"
    plots = [Plot(f"{budget:g}s", figure, partial(picture, figure, found))] if judged_ones else []
    tables = [
        Table(["set", *WORDS.values(), "verdict"], short, words=(0, len(WORDS) + 1)),
        Table(columns, rows, words=(0, 1, 6)),
    ]
    return Section(heading, tables, lines, plots)


def minutes(budget: float) -> str:
    return f"{budget / 60:g} minutes" if budget >= 60 else f"{budget:g} seconds"


def picture(title: str, found: Sequence[Judged]) -> Any:
    """A panel for every set, a row for every rival: points by which jaxtl is ahead, with intervals."""
    found = [one for one in found if one.apart]
    names = [name for name in WORDS if any(name in one.apart for one in found)]
    across = min(3, len(found))
    down = -(-len(found) // across)
    figure = new_figure(1.8 + 2.6 * across, 0.8 + (0.7 + 0.24 * len(names)) * down, title)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, one in zip(panels, found, strict=False):
        panel.set_title(one.title, loc="left", fontweight="bold")
        panel.axvline(0, color=FAINT, linewidth=0.9, zorder=1)
        for y, name in enumerate(names):
            if name in one.apart:
                value, low, high = (100 * number for number in one.apart[name])
                colour = VERMILLION if value < 0 else BLUE
                panel.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
                panel.plot([value], [y], "o", color=colour, markersize=5)
        name_rows(panel, [WORDS[name] for name in names])
    for panel in panels[len(found) :]:
        panel.set_axis_off()
    figure.supxlabel("points, 95 % interval over test pictures; right of the line jaxtl is ahead", fontsize=9)
    return figure
