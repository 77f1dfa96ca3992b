"""What a clinician looks at: ROC and decision curves, and whether a probability means what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxtl.report.plots.answers import reliability_bins
from jaxtl.report.plots.style import BLUE, FAINT, INK, ORANGE, PALETTE, explain, legend_outside, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALARMS = np.linspace(0.0, 1.0, 101)  # shares of those without the finding at which a ROC curve is drawn
THRESHOLDS = np.linspace(0.02, 0.95, 94)  # probabilities from which on somebody is treated


class Roc(NamedTuple):
    """A method's curve, and where it works.

    Attributes:
        hits: [K] sensitivity at each of `ALARMS`, mean over report runs.
        point: (1 − specificity, sensitivity) at the threshold that held-out examples gave, mean over report runs.
    """

    hits: np.ndarray
    point: tuple[float, float]


class Reliability(NamedTuple):
    """Examples and what is said of them.

    Attributes:
        labels: [N].
        plain, tempered: [N, C] probabilities as trained, and at the temperature of held-out examples.
    """

    labels: np.ndarray
    plain: np.ndarray
    tempered: np.ndarray


def roc_curves(title: str, curves: Mapping[str, Roc], specificity: float) -> Figure:
    """A line for each method, with a point where its threshold puts it."""
    figure = new_figure(5.6, 5.2, title)
    axis = figure.subplots()
    axis.plot([0, 100], [0, 100], color=FAINT, linewidth=0.9, linestyle="--")
    axis.axvline(100 * (1 - specificity), color=FAINT, linewidth=0.9, linestyle=":")
    lines = []
    for colour, curve in zip(PALETTE, curves.values(), strict=False):
        lines += axis.plot(100 * ALARMS, 100 * curve.hits, color=colour, linewidth=1.4)
        axis.plot(*(100 * np.asarray(curve.point)), "o", color=colour, markersize=6)
    axis.set_xlim(-1, 101)
    axis.set_ylim(-1, 101)
    axis.set_xlabel("without the finding, and called ill, %")
    axis.set_ylabel("with the finding, and found, %")
    explain(axis, f"point: threshold of held-out examples for a specificity of {100 * specificity:.0f} % (dotted)")
    legend_outside(figure, lines, list(curves))
    return figure


def decision_curves(title: str, curves: Mapping[str, np.ndarray], everybody: np.ndarray) -> Figure:
    """Net benefit [K] of each method by `THRESHOLDS`, beside treating everybody and nobody."""
    figure = new_figure(6.4, 4.6, title)
    axis = figure.subplots()
    axis.axhline(0, color=INK, linewidth=1.0)
    lines = [*axis.plot(100 * THRESHOLDS, 100 * everybody, color=FAINT, linewidth=1.2, linestyle="--")]
    for colour, curve in zip(PALETTE, curves.values(), strict=False):
        lines += axis.plot(100 * THRESHOLDS, 100 * curve, color=colour, linewidth=1.4)
    top = max([float(everybody.max()), *(float(curve.max()) for curve in curves.values())])
    axis.set_ylim(-25 * top, 108 * top)
    axis.set_xlim(0, 100)
    axis.set_xlabel("treated from this probability on, %")
    axis.set_ylabel("net benefit, found per 100 persons")
    explain(axis, "found, less false alarms by the weight that a threshold gives them; 0: nobody is treated")
    legend_outside(figure, lines, ["everybody is treated", *curves])
    return figure


def reliability_panels(title: str, panels: Mapping[tuple[str, str], Reliability]) -> Figure:
    """A panel for each (where, method): of answers of each confidence how many are right, with and without temperature.

    Args:
        title: of the figure.
        panels: a row for each place, a column for each method.
    """
    places, methods = (list(dict.fromkeys(key[k] for key in panels)) for k in (0, 1))
    figure = new_figure(max(5.6, 0.8 + 2.3 * len(methods)), 1.3 + 2.3 * len(places), title)
    grid = figure.subplots(len(places), len(methods), squeeze=False, sharex=True, sharey=True)
    lines: list[Axes] = []
    for (place, method), seen in panels.items():
        axis = grid[places.index(place), methods.index(method)]
        axis.plot([0, 100], [0, 100], color=FAINT, linewidth=0.9, linestyle="--")
        lines = []
        for said, colour in ((seen.plain, ORANGE), (seen.tempered, BLUE)):
            confidence, right, count = reliability_bins(said, seen.labels)
            lines += axis.plot(100 * confidence, 100 * right, color=colour, linewidth=1.2)
            axis.scatter(100 * confidence, 100 * right, s=8 + 60 * count / count.max(), color=colour, zorder=3)
        if place == places[0]:
            axis.set_title(method, loc="left", fontsize=8)
        if method == methods[0]:
            axis.set_ylabel(f"{place}\nright, %")
        if place == places[-1]:
            axis.set_xlabel("probability of the answer, %")
    grid[0, 0].set_xlim(0, 102)
    grid[0, 0].set_ylim(-2, 102)
    legend_outside(figure, lines, ["as trained", "at the temperature of held-out examples"])
    return figure
