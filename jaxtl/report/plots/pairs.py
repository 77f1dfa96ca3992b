"""Several modalities in pictures: what is left where one is absent, and how accuracy follows a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxtl.report.plots.style import INK, PALETTE, explain, legend_outside, mark, name_rows, new_figure, within

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = tuple[float, tuple[float, float]]  # a mean with its interval, fractions


def absences(
    title: str, there: Mapping[str, Mapping[str, Value]], unit: str, measured: str = "accuracy on test pairs"
) -> Figure:
    """A row for each method: what is measured with all modalities, and with some alone, a colour each.

    Args:
        title: of the figure.
        there: {who is there, in words: {method: value in %}}; all have the methods of the first.
        unit: what is repeated.
        measured: what these are, in words.
    """
    from matplotlib.lines import Line2D

    methods = list(next(iter(there.values())))
    figure = new_figure(7.4, 1.4 + 0.36 * len(methods), title)
    axis = figure.subplots()
    for k, of in enumerate(there.values()):
        for y, method in enumerate(methods):
            mark(axis, y + 0.2 * (k - (len(there) - 1) / 2), *of[method], PALETTE[k % len(PALETTE)])
    name_rows(axis, methods)
    axis.set_xlim(within((0.0, 100.0), axis.get_xlim()))
    axis.set_xlabel(f"{measured}, %")
    explain(axis, f"mean with 95 % interval over {unit}s")
    lines = [Line2D([], [], marker="o", color=PALETTE[k % len(PALETTE)], linewidth=1.6) for k in range(len(there))]
    legend_outside(figure, lines, list(there))
    return figure


def along(
    title: str, of: str, x: Sequence[float], lines: Mapping[str, Sequence[Value]], unit: str, on: str = "test pairs"
) -> Figure:
    """Accuracy against a number, a line for each method.

    Args:
        title: of the figure.
        of: what the number is.
        x: its values, ascending; logarithmic above 0 where the largest is 10 times the smallest or more.
        lines: method -> accuracy at each.
        unit: what is repeated.
        on: what is measured.
    """
    figure = new_figure(6.4, 3.6, title)
    axis = figure.subplots()
    above = [value for value in x if value > 0]
    wide = len(above) > 1 and above[-1] >= 10 * above[0]
    places = [_log_place(value, above[0]) if wide else value for value in x]
    for k, (name, values) in enumerate(lines.items()):
        colour = PALETTE[k % len(PALETTE)]
        beside = 0.008 * (places[-1] - places[0]) * (k - (len(lines) - 1) / 2)  # so that no interval hides another
        own = [place + beside for place in places]
        axis.plot(own, [100 * mean for mean, _ in values], "o-", color=colour, label=name, markersize=4.5)
        for place, (_, ends) in zip(own, values, strict=True):
            axis.plot([place] * 2, [100 * end for end in ends], color=colour, linewidth=1.0)
    axis.set_xticks(places, [f"{value:g}" for value in x])
    axis.set_xlabel(of, color=INK)
    axis.set_ylabel(f"accuracy on {on}, %")
    axis.set_ylim(within((0.0, 100.0), axis.get_ylim()))
    explain(axis, f"mean with 95 % interval over {unit}s")
    legend_outside(figure, *axis.get_legend_handles_labels())
    return figure


def _log_place(value: float, least: float) -> float:
    """Where a value stands on a logarithmic axis that has a place for 0."""
    return math.log10(value) if value > 0 else math.log10(least) - 0.7
