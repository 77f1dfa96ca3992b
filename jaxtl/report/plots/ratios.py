"""Ratios of measured times: a panel for every problem, a row for every way of solving it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxtl.report.plots.style import BLUE, FAINT, VERMILLION, name_rows, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Interval = tuple[float, float, float]


def ratios(title: str, names: Sequence[str], of: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Medians and quartiles on logarithmic axes; what is left of 1 takes less time than what it is divided by.

    Args:
        title: what is divided by what.
        names: of the rows, from the top.
        of: {problem: {name: (lower quartile, median, upper quartile)}}; a name may be missing.
    """
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    figure = new_figure(2.6 + 2.2 * len(of), 1.1 + 0.26 * len(names), title)
    panels = figure.subplots(1, len(of), squeeze=False, sharex=True, sharey=True)[0]
    ends = [end for found in of.values() for interval in found.values() for end in interval]
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if min(ends) / 2 < tick < 2 * max(ends)]
    for panel, (problem, found) in zip(panels, of.items(), strict=True):
        panel.set_title(problem, loc="left", fontweight="bold")
        panel.set_xscale("log")
        panel.axvline(1, color=FAINT, linewidth=0.9, zorder=1)
        for y, name in enumerate(names):
            if name in found:
                low, median, high = found[name]
                colour = BLUE if median <= 1 else VERMILLION
                panel.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
                panel.plot([median], [y], "o", color=colour, markersize=5)
        panel.set_xticks(ticks or [1])
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_locator(NullLocator())
        name_rows(panel, names)
    figure.supxlabel("median and quartiles; left of the line is faster", fontsize=9)
    return figure
