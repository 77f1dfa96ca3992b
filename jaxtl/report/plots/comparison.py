"""Which pictures there are, and the two that answer the question: accuracy by method, and the contrasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxtl.protocol import Contrast
from jaxtl.protocol.measures import ACCURACY
from jaxtl.protocol.results import Result, headed, interval_of_mean, points, slug
from jaxtl.report.plots import curves, trends
from jaxtl.report.plots.confusions import confusion_maps
from jaxtl.report.plots.glyphs import fit_to_fonts
from jaxtl.report.plots.style import (
    BAND,
    BLUE,
    FAINT,
    GREEN,
    INK,
    VERMILLION,
    beside,
    explain,
    mark,
    name_rows,
    new_figure,
    set_title,
    styled,
    within,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SELECTION_COLOUR = {"tuned": BLUE, "honest": VERMILLION}  # and any other


class Plot(NamedTuple):
    """A picture to be drawn: the name of its file without ".png", what it shows, and what draws it."""

    name: str
    caption: str
    figure: Callable[[], Figure]


def finished(plots: Sequence[Plot], preset: str) -> tuple[list[Plot], dict[str, str]]:
    """The plots drawn, said to be a check where they are one, with names as the fonts at hand can show them.

    Args:
        plots: to be drawn.
        preset: of the run.

    Returns:
        (plots that are there, words that no font can draw -> the number that stands for them in all of these plots).
    """
    key: dict[str, str] = {}
    with styled():
        figures = [plot.figure() for plot in plots]
        for figure in figures:
            set_title(figure, headed(figure.get_suptitle(), preset))
            fit_to_fonts(figure, key)
    return [plot._replace(figure=partial(_itself, figure)) for plot, figure in zip(plots, figures, strict=True)], key


def _itself(figure: Figure) -> Figure:
    return figure


def plots_of(result: Result, baseline: str, axes: Sequence[str] = ()) -> list[Plot]:
    """The pictures of one result, as far as it holds what they show; `axes` become part of their names."""
    measure = result.measure
    found = [Plot(measure.key, f"Target {measure.name} by method", partial(by_method, result, baseline))]
    if result.contrasts:
        title = f"Contrasts fixed beforehand: {result.title}"
        draw = partial(forest, title, result.contrasts, result.unit)
        found.append(Plot("contrasts", "The contrasts fixed beforehand", draw))
    if result.truth is not None and (confusions := result.looked_into(baseline)):
        caption = "Which classes are taken for which"
        maps = partial(confusion_maps, f"{caption}: {result.title}", result.truth.names, confusions)
        found.append(Plot("confusion", caption, maps))
    for name, caption, quantities in (
        ("learning_curves", f"Training loss and validation {measure.name}", curves.learning(result)),
        ("movement", "Distance from the anchor and weight norm", curves.movement(result)),
    ):
        if quantities:
            found.append(Plot(name, caption, partial(curves.figure, result, baseline, caption, quantities)))
    suffix = slug({axis: result.axes[axis] for axis in axes if axis in result.axes})
    return [plot._replace(name=plot.name + suffix) for plot in found]


def plots_across(results: Sequence[Result], baseline: str) -> list[Plot]:
    """The measure, and the difference to the baseline, against each number on which several results differ."""
    return [
        Plot(f"against_{trend.axis}{slug(trend.others)}", trend.title, partial(trends.figure, trend, baseline))
        for trend in trends.trends(results)
    ]


def by_method(result: Result, baseline: str) -> Figure:
    """A row per method and selection: a point per replicate or draw, the mean and its 95 % interval."""
    names = [method if selection == "tuned" else f"{method}, {selection}" for method, selection in result.summaries]
    figure = new_figure(7.4, 1.2 + 0.34 * len(names), f"Target {result.measure.name}: {result.title}")
    axis, measure = figure.subplots(), result.measure
    name_rows(axis, names)
    for y, ((_, selection), summary) in enumerate(result.summaries.items()):
        colour, count = SELECTION_COLOUR.get(selection, GREEN), len(summary.units)
        mark(axis, y, summary.mean, interval_of_mean(summary.units), colour, scale=measure.scale)
        heights = y + np.linspace(-0.28, 0.28, count) if count > 1 else [y]
        axis.scatter(
            [measure.scale * value for value in summary.units],
            heights,
            s=9,
            color=INK,
            alpha=0.6,
            linewidths=0,
            zorder=3,
            clip_on=summary.diverged > 0,  # else a point at 100 % is whole
        )
        sd = f" ± {measure.shown(summary.sd)}" if math.isfinite(summary.sd) else ""
        diverged = f", {summary.diverged} diverged" if summary.diverged else ""
        beside(axis, y, f"{measure.shown(summary.mean)}{sd}{diverged}")
    caption = f"a point per {result.unit}, in the same order in every row; mean with 95 % interval"
    if baseline in result.methods:
        mean = measure.scale * result.summaries[baseline, result.shown(baseline)].mean
        axis.axvline(mean, color=FAINT, linewidth=0.9, linestyle="--", zorder=0)
        caption += f"; dashed: {baseline}"
    low, high = _span_without_diverged(result)
    axis.set_xlim(low, high)
    unit = f"{measure.name} on target test data{', %' if measure.percent else ''}"
    if measure == ACCURACY and result.truth is not None:
        level = 100 * result.truth.majority
        axis.axvline(level, color=VERMILLION, linewidth=0.9, linestyle=":", zorder=0)
        unit += f"; majority class: {level:.1f}" + (" (dotted)" if low <= level <= high else "")
    axis.set_xlabel(unit)
    explain(axis, caption)
    return figure


def forest(title: str, contrasts: Sequence[Contrast], unit: str) -> Figure:
    """A row per primary contrast: the paired difference, its 95 % interval, the margin and the verdict.

    Args:
        title: of the figure.
        contrasts: of one measure.
        unit: by what they are paired.
    """
    figure = new_figure(7.4, 1.3 + 0.36 * len(contrasts), title)
    axis = figure.subplots()
    name_rows(axis, [f"{c.a} − {c.b}" for c in contrasts])
    measure = contrasts[0].measure
    margin = measure.scale * measure.margin
    axis.axvspan(-margin, margin, color=BAND, linewidth=0, zorder=0)
    axis.axvline(0, color=FAINT, linewidth=0.9, zorder=1)
    for y, c in enumerate(contrasts):
        colour = BLUE if c.verdict in ("helps", "hurts") else INK
        mark(axis, y, c.difference, c.ci95, colour, c.verdict != "undecided", measure.scale)
        beside(axis, y, f"{points(c)}  {c.verdict}")
    axis.set_xlim(within(measure.of_differences, axis.get_xlim()))
    axis.set_xlabel(f"difference in target {measure.name}{', points' if measure.percent else ''}")
    explain(axis, f"paired by {unit}, 95 % interval; grey: within ±{margin:g}; verdicts after Holm's correction")
    return figure


def _span_without_diverged(result: Result) -> tuple[float, float]:
    """Limits as they are told. A diverged run would squeeze all others; it is told beside its row."""
    shown = [run.metrics["test"] for run in result.runs if run.stage == "report" and not run.diverged]
    for summary in result.summaries.values():
        if len(summary.units) > 1 and not summary.diverged:
            shown += interval_of_mean(summary.units)
    scale = result.measure.scale
    low, high = (scale * min(shown), scale * max(shown)) if shown else (0.0, scale)
    room = 0.03 * (high - low) + 0.002 * scale
    return within(result.measure.told_bounds, (low - room, high + room))
