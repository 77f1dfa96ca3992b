"""What detectors find: tables of average precision by method and class, verdicts, and pictures with boxes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from jaxtl.problems.detection import Detection
from jaxtl.protocol import Run
from jaxtl.protocol.results import Result, slug
from jaxtl.report.cells import percent
from jaxtl.report.page import Section
from jaxtl.report.plots.boxes import drawn_boxes
from jaxtl.report.plots.comparison import Plot, plots_of
from jaxtl.report.tables import Table, method_table, notes, setting_table

FOUND = "found"  # boxes on test pictures, an array of a report run
PICTURES = 3  # that are drawn


def boxes_section(result: Result, problem: Detection, baseline: str) -> tuple[Section, dict[str, Any]]:
    """All that is to be said of one number of pictures.

    Args:
        result: of a study on the problem.
        problem: its pictures and classes.
        baseline: the method that the others are compared with.

    Returns:
        (the section, by method its figures: fractions, one for each report run).
    """
    figures = {method: _figures(result.reported(method, result.shown(method))) for method in result.methods}
    names = ["ap50", *(f"ap50/{name}" for name in problem.task.classes)]
    rows = [[method, *(percent(own.get(name, [])) for name in names)] for method, own in figures.items()]
    by_class = Table(["method", "AP50", *problem.task.classes], rows)
    lines = [
        *filter(None, [problem.task.notice]),
        "mAP: average precision in %, mean over classes and over overlaps from 0.5 to 0.95, as COCO defines it. AP50: "
        "at an overlap of 0.5, mean ± standard deviation over report runs, and of each class.",
        *(" ".join(filter(None, (note.heading, line))) for note in notes(result, baseline) for line in note.lines),
    ]
    plots = [*plots_of(result, baseline, list(result.axes)), *_drawn(result, problem, baseline)]
    return Section(
        result.title, [method_table(result, baseline), by_class, setting_table(result)], lines, plots
    ), figures


def _figures(runs: list[Run]) -> dict[str, list[float]]:
    """{metric: a value for each run that has it}."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    return {name: [run.metrics[name] for run in runs if name in run.metrics] for name in names}


def _drawn(result: Result, problem: Detection, baseline: str) -> list[Plot]:
    """Boxes of the best method and of the baseline, or of the two best, on the first test pictures of a draw."""
    ranked = sorted(result.methods, key=lambda name: -result.summaries[name, result.shown(name)].mean)
    found: dict[str, np.ndarray] = {}
    for method in dict.fromkeys([ranked[0], baseline, *ranked]):
        runs = [run for run in result.reported(method, result.shown(method)) if FOUND in run.arrays]
        if runs and len(found) < 2:
            found[method] = result.arrays(runs[0])[FOUND][:PICTURES]
    if not found:
        return []
    title = f"What is there, and what was found: {result.title}"
    images, truth = np.asarray(problem.task.test.images[:PICTURES]), problem.truth_of["test"][:PICTURES]
    figure = functools.partial(drawn_boxes, title, images, truth, found, problem.task.classes)
    caption = f"{title}; of the found boxes the surest, as many as there are true ones"
    return [Plot(f"boxes{slug(result.axes)}", caption, figure)]
