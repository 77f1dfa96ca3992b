"""Several tasks in pictures: what each method reaches on each, how their gradients agree, how much each counts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.protocol.results import Result, interval_of_mean, number
from jaxtl.report.plots import curves
from jaxtl.report.plots.comparison import forest
from jaxtl.report.plots.curves import Quantity
from jaxtl.report.plots.style import BLUE, FAINT, INK, ORANGE, VERMILLION, legend_outside, mark, name_rows, new_figure
from jaxtl.report.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED: dict[str, Any] = {"color": FAINT, "linewidth": 0.9, "linestyle": "--"}
DOTTED: dict[str, Any] = {"color": VERMILLION, "linewidth": 0.9, "linestyle": ":"}


def metric_of(result: Result, method: str, selection: str, name: str) -> list[float]:
    """A metric by draw; NaN for a draw that diverged."""
    return [run.metrics.get(name, math.nan) for run in result.reported(method, selection)]


def contrasts(result: Result) -> Figure:
    """The contrasts fixed beforehand."""
    figure = forest(f"Contrasts fixed beforehand: {result.title}", result.contrasts, result.unit)
    figure.axes[0].set_xlabel("difference on test data, points")
    return figure


def per_task(
    result: Result,
    tasks: Sequence[str],
    title: str,
    unit: str,
    baseline: str,
    suffix: str,
    floor: Mapping[str, float],
) -> Figure:
    """A panel per task, a row per method: a point per draw, the mean and its 95 % interval.

    Args:
        result: with the metrics "test/TASK", fractions, shown in percent.
        tasks: their names.
        title: of the figure.
        unit: what is measured, for the x axis.
        baseline: its mean is dashed in every panel.
        suffix: NAME and NAME + suffix share a row, the second in another colour.
        floor: what guessing reaches on each task, dotted where a panel reaches down to it.
    """
    rows = list(dict.fromkeys(method.removesuffix(suffix) for method in result.methods))
    figure = new_figure(2.1 + 2.6 * len(tasks), 1.3 + 0.32 * len(rows), title)
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axis, task in zip(panels, tasks, strict=True):
        axis.set_title(task, loc="left", fontweight="bold")
        name_rows(axis, rows)
        shown: list[float] = []
        for method in result.methods:
            has = method.endswith(suffix)
            values = metric_of(result, method, result.shown(method), f"test/{task}")
            known = [value for value in values if math.isfinite(value)]
            place = rows.index(method.removesuffix(suffix)) + (0.2 if has else -0.2)
            _spread(axis, place, known, BLUE if has else ORANGE)
            shown += known
            if method == baseline:
                axis.axvline(100 * float(np.mean(known)), zorder=0, **DASHED)
        axis.axvline(100 * floor[task], zorder=0, **DOTTED)
        low, high = _bulk(shown)
        axis.set_xlim(100 * low, min(100.0, 100 * high))  # R² has no lower end
        axis.locator_params(axis="x", nbins=5)
        outside = sum(not low <= value <= high for value in shown)
        also = f"; outside: {counted(outside, 'point')}" if outside else ""
        axis.set_xlabel(f"{unit}\nguessing: {100 * floor[task]:.1f}{also}")
    _explain(figure, suffix, baseline if baseline in result.methods else "")
    return figure


def _spread(axis: Axes, y: float, values: list[float], colour: str) -> None:
    if values:
        heights = y + np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else [y]
        axis.scatter([100 * value for value in values], heights, s=5, color=INK, alpha=0.5, linewidths=0, zorder=3)
        mark(axis, y, float(np.mean(values)), interval_of_mean(values), colour)


def _bulk(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that shows all but what lies far off, which would squeeze the rest."""
    if not values:
        return 0.0, 1.0
    lower, upper = np.quantile(values, (0.25, 0.75))
    reach = 3 * (upper - lower)
    near = [value for value in values if lower - reach <= value <= upper + reach]
    room = 0.05 * (max(near) - min(near)) + 0.002
    return min(near) - room, max(near) + room


def _explain(figure: Figure, suffix: str, baseline: str) -> None:
    from matplotlib.lines import Line2D

    lines = {f"with {suffix}, mean and 95 % interval": Line2D([], [], color=BLUE, marker="o")}
    lines |= {"without": Line2D([], [], color=ORANGE, marker="o")}
    lines |= {"a draw": Line2D([], [], color=INK, marker=".", linestyle="", alpha=0.5)}
    lines |= {baseline: Line2D([], [], **DASHED)} if baseline else {}
    lines |= {"guessing": Line2D([], [], **DOTTED)}
    legend_outside(figure, list(lines.values()), list(lines))


def mean_cosines(result: Result, method: str, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """The cosines between tasks' gradients early, halfway and at the end, [T, T] each, mean over draws; {} without."""
    kept = [result.arrays(run) for run in result.runs if run.method == method and "curve/step" in run.arrays]
    pairs = list(itertools.combinations(range(len(tasks)), 2))
    if not kept or not pairs or any(f"curve/cosine/{tasks[i]}/{tasks[j]}" not in kept[0] for i, j in pairs):
        return {}
    steps, found = kept[0]["curve/step"], {}
    for at in dict.fromkeys((0, len(steps) // 2, len(steps) - 1)):
        matrix = np.eye(len(tasks))
        for i, j in pairs:
            name = f"curve/cosine/{tasks[i]}/{tasks[j]}"
            matrix[i, j] = matrix[j, i] = np.mean([arrays[name][at] for arrays in kept])
        found[f"step {int(steps[at])}"] = matrix
    return found


def cosine_maps(title: str, tasks: Sequence[str], maps: Mapping[str, np.ndarray]) -> Figure:
    """A panel per moment: the cosines between the tasks' gradients, as colour and number.

    Args:
        title: of the figure.
        tasks: T names.
        maps: panel -> [T, T], symmetric; the diagonal is left out.
    """
    size = 0.9 + 0.62 * len(tasks)
    figure = new_figure(1.6 + size * len(maps), 0.9 + size, title)
    panels = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    others = ~np.eye(len(tasks), dtype=bool)
    largest = max([0.1, *(float(np.abs(matrix[others]).max()) for matrix in maps.values())])
    for axis, (name, matrix) in zip(panels, maps.items(), strict=True):
        image = axis.imshow(np.where(others, matrix, np.nan), cmap="PuOr_r", vmin=-largest, vmax=largest)
        axis.grid(visible=False)
        for row, column in zip(*np.nonzero(others), strict=True):
            value = matrix[row, column]
            colour = "white" if abs(value) > 0.7 * largest else INK
            axis.text(column, row, number(value, "+.2f"), ha="center", va="center", fontsize=8, color=colour)
        axis.set_title(name, loc="left")
        axis.set_xticks(range(len(tasks)), tasks)
        axis.set_yticks(range(len(tasks)), tasks)
        axis.tick_params(length=0)
    figure.colorbar(image, ax=list(panels), label="cosine", shrink=0.8)
    return figure


def weights_and_cosines(result: Result, title: str) -> Figure:
    """A column of panels per method: the weights of the tasks, and the cosines of their gradients, by step."""

    def kept(prefix: str) -> dict[str, str]:
        names = dict.fromkeys(name for run in result.runs for name in run.arrays if name.startswith(prefix))
        return {name.removeprefix(prefix).replace("/", " · "): name for name in names}

    weights = Quantity("weight / their mean", kept("curve/weight/"))
    return curves.figure(result, "", title, [weights, Quantity("cosine", kept("curve/cosine/"))])
