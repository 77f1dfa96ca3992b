"""What happened during training: small panels, one per method, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxtl.protocol.measures import Measure
from jaxtl.protocol.results import Result
from jaxtl.report.plots.style import FAINT, INK, PALETTE, legend_outside, panel_grid, remark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arrays = dict[str, np.ndarray]


class Quantity(NamedTuple):
    """A row of panels: a name, the curves it shows by label ("" for the only one), and what they measure."""

    name: str
    curves: dict[str, str]
    measure: Measure | None = None

    @property
    def factor(self) -> float:
        return self.measure.scale if self.measure else 1.0


def learning(result: Result) -> list[Quantity]:
    """Loss and the measure on validation data, where they were kept."""
    return [
        *_kept(result, "training loss", "curve/loss"),
        *_kept(result, f"validation {result.measure.heading}", "curve/validation", result.measure),
    ]


def movement(result: Result) -> list[Quantity]:
    """Distance from the anchor and weight norm by label, where they were kept."""
    return [*_kept(result, "distance from anchor", "curve/distance/"), *_kept(result, "weight norm", "curve/norm/")]


def figure(result: Result, baseline: str, title: str, quantities: Sequence[Quantity]) -> Figure:
    """A row of panels per quantity: each draw lightly, the mean over draws, and dotted the baseline's mean."""
    rows = [quantity.name for quantity in quantities]
    panels = panel_grid(f"{title}: {result.title}", result.methods, rows, shared=[True] * len(rows))
    labels = list(dict.fromkeys(label for quantity in quantities for label in quantity.curves))
    colours = {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}
    reference = _arrays(result, baseline) if baseline in result.methods else []
    for method in result.methods:
        runs = _arrays(result, method)
        panels.of[method][-1].set_xlabel("step")
        for axis, quantity in zip(panels.of[method], quantities, strict=True):
            curves = {label: name for label, name in quantity.curves.items() if any(name in run for run in runs)}
            for label, name in curves.items():
                _lines(axis, runs, name, quantity.factor, colours[label])
                if method != baseline:
                    axis.plot(*_mean(reference, name, quantity.factor), color=INK, linewidth=1.0, linestyle=":")
            if not curves:
                remark(axis, "not recorded")
    for row, quantity in enumerate(quantities):
        if quantity.measure:
            panels.keep_within(row, quantity.measure.told_bounds)
    _legend(
        panels.figure,
        {label: colour for label, colour in colours.items() if label},
        baseline if reference and len(result.methods) > 1 else "",
    )
    return panels.figure


def _kept(result: Result, name: str, prefix: str, measure: Measure | None = None) -> list[Quantity]:
    kept = dict.fromkeys(array for run in result.runs for array in run.arrays if array.startswith(prefix))
    return [Quantity(name, {array.removeprefix(prefix): array for array in kept}, measure)] if kept else []


def _arrays(result: Result, method: str) -> list[Arrays]:
    return [result.arrays(run) for run in result.reported(method, result.shown(method))]


def _lines(axis: Axes, runs: Sequence[Arrays], name: str, factor: float, colour: str) -> None:
    for run in runs:
        if name in run:
            axis.plot(run["curve/step"], factor * run[name], color=colour, linewidth=0.6, alpha=0.3)
    axis.plot(*_mean(runs, name, factor), color=colour, linewidth=1.8)


def _mean(runs: Sequence[Arrays], name: str, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """(steps, mean over the runs that have the curve); nothing where they were not recorded at the same steps."""
    found = [run for run in runs if name in run]
    if not found or any(not np.array_equal(run["curve/step"], found[0]["curve/step"]) for run in found):
        return np.empty(0), np.empty(0)
    return found[0]["curve/step"], factor * np.mean([run[name] for run in found], axis=0)


def _legend(figure: Figure, colours: dict[str, str], baseline: str) -> None:
    from matplotlib.lines import Line2D

    lines = {label: Line2D([], [], color=colour, linewidth=1.8) for label, colour in colours.items()}
    lines["thin: single draws"] = Line2D([], [], color=FAINT, linewidth=0.6)
    if baseline:
        lines[f"mean of {baseline}"] = Line2D([], [], color=INK, linewidth=1.0, linestyle=":")
    legend_outside(figure, list(lines.values()), list(lines), "outside lower right")
