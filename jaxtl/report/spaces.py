"""Joint spaces of images and descriptions: what of new classes is recognised and found, a row for every alignment.

A `Result` of joint spaces has report runs with the metrics of `problems.JointSpace`.
"""

from __future__ import annotations

import functools
from typing import Any

from jaxtl.protocol.results import Result, slug
from jaxtl.report.cells import percent
from jaxtl.report.page import Section
from jaxtl.report.pairs import units, value_of
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.plots.pairs import absences
from jaxtl.report.tables import Table, repeated

NEW_CLASSES = "test"
SHOWN = (NEW_CLASSES, "all classes", "image to text@5", "text to image@1")  # in the picture
IN_WORDS = {NEW_CLASSES: "new classes"}
ORDER = (NEW_CLASSES, "all classes", "learned", "image to text", "text to image", "zero-shot")


def space_section(result: Result) -> tuple[Section, dict[str, Any]]:
    """Accuracy without labels, and what is found among images and descriptions."""
    every = {name for run in result.runs for name in run.metrics if name.startswith(ORDER)}
    metrics = sorted(every, key=lambda name: (next(k for k, of in enumerate(ORDER) if name.startswith(of)), name))
    figures = {
        method: {
            name: units(result.reported(method, result.shown(method)), name, result.replicates) for name in metrics
        }
        for method in result.methods
    }
    rows = [[method, *(percent(values) for values in own.values())] for method, own in figures.items()]
    there = {
        IN_WORDS.get(name, name): {method: value_of(own[name]) for method, own in figures.items()}
        for name in SHOWN
        if name in every
    }
    lines = [
        f"In %, mean ± standard deviation over {repeated(result)}. New classes: images of tested classes, each told "
        "from the other tested ones; all classes: from all. Learned: test images of learned classes, told from each "
        "other.",
        "Image to text@k: the right description is among the first k of the tested ones. Text to image@k: of the first "
        "k images that are found for a description one is of its class.",
    ]
    title = f"What is recognised and found without a label: {result.title}"
    draw = functools.partial(absences, title, there, result.unit, measured="right, or found, on new classes")
    table = Table(["alignment", *(IN_WORDS.get(name, name) for name in metrics)], rows)
    return Section(title, [table], lines, [Plot(f"found{slug(result.axes)}", title, draw)]), {
        f"found{slug(result.axes)}": figures
    }
