"""How a measure depends on a number that differs between results, such as the labelled examples per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxtl.protocol.measures import Measure
from jaxtl.protocol.results import Axes, Result, interval_of_mean, varying
from jaxtl.report.plots.style import BAND, BLUE, FAINT, panel_grid, remark, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel
    from matplotlib.figure import Figure

IN_WORDS = {"n_per_class": "labelled examples per class", "source_examples": "source examples"}


class Trend(NamedTuple):
    """Results that differ on one axis of numbers, from the lowest to the highest; what the other axes are there."""

    axis: str
    others: Axes
    results: list[Result]

    @property
    def measure(self) -> Measure:
        return self.results[0].measure

    @property
    def title(self) -> str:
        others = "".join(f", {in_words(name)}: {value}" for name, value in self.others.items())
        name = self.measure.name
        return f"{name[0].upper()}{name[1:]} against {in_words(self.axis)}{others}"


def in_words(axis: str) -> str:
    return IN_WORDS.get(axis, axis.replace("_", " "))


def trends(results: Sequence[Result]) -> list[Trend]:
    """One for every axis of numbers, at each combination of the other axes that has two results or more."""
    found, axes = [], varying(results)
    for axis in axes:
        groups: dict[tuple, list[Result]] = {}
        for result in results:
            if isinstance(result.axes.get(axis), int | float):
                groups.setdefault(tuple(result.axes.get(name) for name in axes if name != axis), []).append(result)
        for group in groups.values():
            if len(group) > 1:
                others = {name: group[0].axes[name] for name in axes if name != axis and name in group[0].axes}
                found.append(Trend(axis, others, sorted(group, key=lambda result: float(result.axes[axis]))))
    return found


def figure(trend: Trend, baseline: str) -> Figure:
    """A column of panels per method: the measure before all others in grey, and the difference to the baseline."""
    methods = list(dict.fromkeys(method for result in trend.results for method in result.methods))
    compared = baseline in methods and len(methods) > 1
    unit = ", points" if trend.measure.percent else ""
    rows = [trend.measure.heading, f"− {baseline}{unit}"] if compared else [trend.measure.heading]
    panels = panel_grid(trend.title, methods, rows, shared=[True, False][: len(rows)])
    for method in methods:
        for other in methods:
            if other != method:
                panels.of[method][0].plot(*_means(trend, other), color="#d0d0d0", linewidth=0.8)
        _measured(panels.of[method][0], trend, method)
        if compared:
            _difference(panels.of[method][1], trend, method, baseline)
    panels.keep_within(0, trend.measure.told_bounds)
    explained = "bars: 95 % interval; grey lines: the other methods"
    if compared:
        explained += f"; band: ±{trend.measure.scale * trend.measure.margin:g}, each lower panel on its own scale"
    panels.figure.supxlabel(f"{in_words(trend.axis)}\n{explained}", fontsize=9)
    return panels.figure


def _measured(panel: Panel, trend: Trend, method: str) -> None:
    x, y = _means(trend, method)
    results = [result for result in trend.results if method in result.methods]
    intervals = [interval_of_mean(result.summaries[method, result.shown(method)].units) for result in results]
    _line(panel, x, y, intervals, trend.measure.scale)
    _scale(panel, trend)


def _difference(panel: Panel, trend: Trend, method: str, baseline: str) -> None:
    found = [(_number(result, trend.axis), result.difference(method, baseline)) for result in trend.results]
    contrasts = [(x, c) for x, c in found if c is not None]
    if not contrasts:
        panel.set_yticks([])
        remark(panel, "baseline" if method == baseline else "not compared")
        return
    scale = trend.measure.scale
    margin = scale * trend.measure.margin
    panel.axhspan(-margin, margin, color=BAND, linewidth=0, zorder=0)
    panel.axhline(0, color=FAINT, linewidth=0.9, zorder=1)
    y = [scale * c.difference for _, c in contrasts]
    _line(panel, [x for x, _ in contrasts], y, [c.ci95 for _, c in contrasts], scale)
    low, high = panel.get_ylim()
    panel.set_ylim(within(trend.measure.of_differences, (min(low, -1.2 * margin), max(high, 1.2 * margin))))
    _scale(panel, trend)


def _means(trend: Trend, method: str) -> tuple[list[float], list[float]]:
    results = [result for result in trend.results if method in result.methods]
    means = [trend.measure.scale * result.summaries[method, result.shown(method)].mean for result in results]
    return [_number(result, trend.axis) for result in results], means


def _number(result: Result, axis: str) -> float:
    return float(result.axes[axis])


def _line(panel: Panel, x: list[float], y: list[float], intervals: list[tuple[float, float]], scale: float) -> None:
    panel.plot(x, y, "o-", color=BLUE, markersize=4.5, linewidth=1.4)
    for place, (low, high) in zip(x, intervals, strict=True):
        panel.plot([place, place], [scale * low, scale * high], color=BLUE, linewidth=1.1)


def _scale(panel: Panel, trend: Trend) -> None:
    """Logarithmic where it can be, with ticks at the numbers themselves."""
    x = [_number(result, trend.axis) for result in trend.results]
    if min(x) > 0:
        panel.set_xscale("log")
        panel.minorticks_off()
    panel.set_xticks(x, [f"{value:g}" for value in x])
