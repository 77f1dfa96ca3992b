"""What happens along λ: coefficients that shrink, weights that become exactly zero, and criteria with their minima."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.report.plots.style import BLUE, FAINT, INK, PALETTE, VERMILLION, legend_outside, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":", "-.", (0, (6, 1.5, 1, 1.5, 1, 1.5)))


def coefficient_paths(
    title: str, lams: np.ndarray, paths: Mapping[str, np.ndarray], features: Mapping[str, str]
) -> Figure:
    """A column per method: every coefficient against λ, and below it how many are exactly zero.

    Args:
        title: of the figure.
        lams: [L] > 0.
        paths: method -> [L, D] coefficients.
        features: their D names -> the group each belongs to; a group has a colour.
    """
    figure = new_figure(max(7.4, 2.6 * len(paths)), 4.6, title)
    panels = figure.subplots(2, len(paths), squeeze=False, sharex=True, sharey="row", height_ratios=(3.2, 1))
    groups = list(dict.fromkeys(features.values()))
    members = {name: [n for n in features if features[n] == group] for name, group in features.items()}
    for column, (method, coefficients) in enumerate(paths.items()):
        above, below = panels[:, column]
        above.set_title(method, loc="left", fontweight="bold")
        above.axhline(0, color=FAINT, linewidth=0.8)
        for position, (name, group) in enumerate(features.items()):
            colour, dash = PALETTE[groups.index(group)], DASHES[members[name].index(name) % len(DASHES)]
            label = f"{name} ({group})" if column == 0 else None
            above.plot(lams, coefficients[:, position], color=colour, linestyle=dash, linewidth=1.3, label=label)
        below.step(lams, np.sum(coefficients == 0, axis=1), where="mid", color=INK, linewidth=1.2)
        below.set_xlabel("λ")
        _rates_below(below)
    panels[0, 0].set_ylabel("coefficient")
    panels[1, 0].set_ylabel("zeros")
    panels[1, 0].set_ylim(-0.06 * len(features), 1.06 * len(features))
    legend_outside(figure, *panels[0, 0].get_legend_handles_labels())
    return figure


def criteria_along(title: str, lams: np.ndarray, criteria: Mapping[str, np.ndarray]) -> Figure:
    """A panel per criterion, zoomed to its minimum; thin lines are the minima of the others.

    Args:
        title: of the figure.
        lams: [L] > 0.
        criteria: name -> [L], smaller is better.
    """
    columns = 2
    rows = -(-len(criteria) // columns)
    figure = new_figure(7.8, 0.9 + 1.6 * rows, title)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    best = {name: int(np.argmin(values)) for name, values in criteria.items()}
    for axis, (name, values) in zip(panels.flat, criteria.items(), strict=False):
        for k in best.values():
            axis.axvline(lams[k], color=FAINT, linewidth=0.6, zorder=1)
        axis.plot(lams, values, color=BLUE, linewidth=1.5)
        axis.plot([lams[best[name]]], [values[best[name]]], "o", color=VERMILLION, markersize=6)
        axis.set_title(f"{name}: smallest at λ = {lams[best[name]]:.2g}", loc="left")
        low = values[best[name]]
        height = values[0] - low or 0.02 * (np.max(values) - low)  # what has no minimum but the left end
        axis.set_ylim(low - 0.3 * height, low + 2.2 * height)
        axis.ticklabel_format(axis="y", useOffset=False)
        _rates_below(axis)
    for axis in panels.flat[len(criteria) :]:
        axis.set_axis_off()
    figure.supxlabel("λ; thin lines: where the other panels have their minima", fontsize=9)
    return figure


def _rates_below(axis: Axes) -> None:
    """λ on a logarithmic axis, a tick a decade where they fit, as plain numbers."""
    from matplotlib.ticker import LogLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(numticks=7))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.minorticks_off()
