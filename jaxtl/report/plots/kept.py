"""What is gained on the target beside what is kept of the source: a point per method, names in a column beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxtl.protocol.results import Result, interval_of_mean
from jaxtl.protocol.summaries import by_replicate
from jaxtl.report.plots.style import FAINT, INK, PALETTE, explain, new_figure, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.17  # inches of a name
NAMES = 1.05  # where they begin, in widths of the axis
SOURCE = "source"


def source_units(result: Result, method: str) -> list[float]:
    """What is kept of the source, by replicate, or by draw of the only one; diverged runs have none."""
    runs = [run for run in result.reported(method, result.shown(method)) if SOURCE in run.metrics]
    values = [run.metrics[SOURCE] for run in runs]
    return [float(np.mean(group)) for group in by_replicate(runs, values)] if result.replicates > 1 else values


def against_source(result: Result, baseline: str) -> Figure:
    """A point per method that transfers: the measure on the target, and on the source task after transfer.

    Args:
        result: with the metric "source".
        baseline: is marked; what is to the right of it and above is better at both.
    """
    points = {}
    for method in result.methods:
        summary, kept = result.summaries[method, result.shown(method)], source_units(result, method)
        if kept and not summary.diverged:
            points[method] = summary.units, kept
    measure, scale = result.measure, result.measure.scale
    figure = new_figure(8.6, max(4.0, 1.3 + ROW * len(points)), f"Gained and kept: {result.title}")
    axis = figure.subplots()
    means = np.array([[scale * np.mean(values) for values in both] for both in points.values()]).reshape(-1, 2)
    _limit(axis, means, measure.told_bounds)
    colours = _name(axis, list(points), means, baseline)
    for (x, y), both, colour in zip(means, points.values(), colours, strict=True):
        across, up = ([scale * end for end in interval_of_mean(values)] for values in both)
        axis.plot(across, [y, y], color=colour, linewidth=0.8, alpha=0.5, zorder=2)
        axis.plot([x, x], up, color=colour, linewidth=0.8, alpha=0.5, zorder=2)
        axis.plot([x], [y], "o", color=colour, markersize=4.5, zorder=3)
    caption = f"mean with 95 % interval over {result.unit}s, as far as it is within"
    if baseline in points:
        x, y = means[list(points).index(baseline)]
        axis.axvline(x, color=FAINT, linewidth=0.9, linestyle="--", zorder=0)
        axis.axhline(y, color=FAINT, linewidth=0.9, linestyle="--", zorder=0)
        caption += f"; dashed: {baseline}"
    unit = ", %" if measure.percent else ""
    axis.set_xlabel(f"{measure.name} on target test data{unit}")
    axis.set_ylabel(f"{measure.name} kept on the source task{unit}")
    explain(axis, caption)
    return figure


def _limit(axis: Axes, means: np.ndarray, bounds: tuple[float, float]) -> None:
    """By the means: an interval of two draws may be wider than all of them lie apart."""
    limits = []
    for column in means.T:
        low, high = (column.min(), column.max()) if len(column) else bounds
        room = 0.08 * (high - low) or 1.0
        limits.append(within(bounds, (low - room, high + room)))
    axis.set_xlim(limits[0])
    axis.set_ylim(limits[1])


def _name(axis: Axes, names: list[str], means: np.ndarray, baseline: str) -> list[str]:
    """A name for every point in a column beside the axis, with a line to it, and its colour.

    Of all ways to deal the places out, that with the shortest lines: no two of them cross.
    """
    from scipy.optimize import linear_sum_assignment

    low, high = np.transpose([axis.get_xlim(), axis.get_ylim()])
    inches = np.array([5.5, ROW * max(20, len(names))])
    heights = 1 - (np.arange(len(names)) + 0.5) / max(1, len(names))
    there = np.column_stack([np.full(len(names), NAMES), heights])
    lengths = np.linalg.norm((((means - low) / (high - low))[:, None] - there[None]) * inches, axis=-1)
    _, places = linear_sum_assignment(lengths)
    colours = [INK if name == baseline else PALETTE[k % len(PALETTE)] for name, k in zip(names, places, strict=True)]
    for name, mean, place, colour in zip(names, means, places, colours, strict=True):
        axis.annotate(
            name,
            tuple(mean),
            tuple(there[place]),
            textcoords="axes fraction",
            va="center",
            fontsize=7.5,
            fontweight="bold" if name == baseline else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.7, "relpos": (0.0, 0.5)},
        )
    return colours
