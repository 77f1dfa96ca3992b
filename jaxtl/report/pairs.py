"""Several modalities: what each is worth to a method, what is left where one is absent or worse, and what pairing buys.

A `Result` of modalities has report runs with the metrics "there/A" (of A alone), "fits/A" (of A alone, on pairs that it
has learned from) and "worse/WHAT"; see `problems.Pairs`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from jaxtl.labels import count_by_label, label_params
from jaxtl.methods.multimodal import shapley
from jaxtl.problems.pairs import Pairs
from jaxtl.protocol import Draw, Run
from jaxtl.protocol.results import Result, interval_of_mean, number, slug
from jaxtl.protocol.summaries import by_replicate
from jaxtl.report.cells import percent
from jaxtl.report.page import Section
from jaxtl.report.plots.comparison import Plot, plots_of
from jaxtl.report.plots.pairs import Value, absences, along
from jaxtl.report.tables import Table, method_table, notes, repeated, setting_table
from jaxtl.report.tasks import figures_of
from jaxtl.text import printable

WORSE = "worse/"


def print_pairs(console: Console, problem: Pairs) -> None:
    """How many examples there are of each modality, what a pair is, and the labels with their sizes."""
    for one in problem.sets:
        sizes = ", ".join(f"{len(part):,} {name} examples" for name, part in one.train.items())
        line = f"data      {sizes} to learn from, {len(one.test)} test pairs, {one.origin}"
        console.print(Text(printable(line)), soft_wrap=True)
    for notice in dict.fromkeys(one.notice for one in problem.sets if one.notice):
        console.print(Text(printable(f"NOTE: {notice}"), "bold yellow"), soft_wrap=True)
    params = problem.start(Draw(0)).params
    for label, count in count_by_label(params, label_params(params, [(f"{n}/.*", n) for n in problem.names])).items():
        console.print(Text(printable(f"label     {label}: {count.leaves} leaves, {count.parameters:,} parameters")))


def units(runs: Sequence[Run], metric: str, replicates: int) -> list[float]:
    """A metric by replicate, or by draw of the only one; runs that have diverged have none."""
    own = [run for run in runs if metric in run.metrics]
    values = [run.metrics[metric] for run in own]
    return [float(np.mean(group)) for group in by_replicate(own, values)] if replicates > 1 else values


def value_of(values: Sequence[float]) -> Value:
    """Mean and interval of values by unit."""
    return (float(np.mean(values)) if values else math.nan), interval_of_mean(values)


def compared_section(result: Result, baseline: str, *further: str) -> tuple[Section, dict[str, Any]]:
    """A row for every method: accuracy, difference to the baseline, the setting chosen; contrasts; further lines."""
    said = notes(result, baseline)
    lines = [f"{note.heading}: {line}" if note.heading else line for note in said for line in note.lines]
    lines += further
    plots = plots_of(result, baseline, list(result.axes))
    shown = [plot for plot in plots if plot.name.startswith((result.measure.key, "contrasts"))]
    tables = [method_table(result, baseline), setting_table(result)]
    return Section(result.title, tables, lines, shown), {slug(result.axes).lstrip("-"): figures_of(result)}


def modalities_section(result: Result, names: Sequence[str]) -> tuple[Section, dict[str, Any]]:
    """A row for every method: accuracy with all modalities and with each alone, and what each is worth.

    Args:
        result: with the metrics that the module names.
        names: of two modalities, sorted.
    """
    rows, figures, there = [], {}, {word: dict[str, Value]() for word in ("all", *(f"{name} alone" for name in names))}
    chance = result.truth.chance if result.truth is not None else 0.0
    for method in result.methods:
        runs = result.reported(method, result.shown(method))
        of = functools.partial(units, runs, replicates=result.replicates)
        whole, fits = of("test"), {name: of(f"fits/{name}") for name in names}
        single = {name: of(f"there/{name}") for name in names}
        worth = _worth(float(np.mean(whole)), {name: value_of(own)[0] for name, own in single.items()}, chance)
        figures[method] = {"all": whole, "alone": single, "fits": fits, "shapley": worth}
        cells = [percent(whole), *(percent(single[name]) for name in names), *(percent(fits[name]) for name in names)]
        rows.append([method, *cells, *(number(100 * worth[name], ".1f") for name in names)])
        for word, own in zip(there, (whole, *single.values()), strict=True):
            there[word][method] = value_of(own)
    columns = ["method", "all", *(f"{name} alone" for name in names), *(f"{name} fits" for name in names)]
    lines = [
        f"Accuracy on test pairs in %, mean ± standard deviation over {repeated(result)}: with all modalities, and "
        "with one alone. Fits: of one alone, on the pairs it has learned from; far below 100 it is underfitted, or "
        "leans on the other.",
        f"Worth: Shapley value in points, what a modality adds to guessing ({100 * chance:.1f} %) in the mean over all "
        "orders; they add up to all − guessing.",
    ]
    title = f"What is left without a modality, and what each is worth: {result.title}"
    plot = Plot(f"absent{slug(result.axes)}", title, functools.partial(absences, title, there, result.unit))
    table = Table([*columns, *(f"worth {name}" for name in names)], rows)
    return Section(title, [table], lines, [plot]), {f"modalities{slug(result.axes)}": figures}


def _worth(whole: float, alone: Mapping[str, float], chance: float) -> dict[str, float]:
    names = list(alone)

    def value(there: Sequence[bool]) -> float:
        own = [alone[name] for name, is_there in zip(names, there, strict=True) if is_there]
        return whole if all(there) else own[0] if own else chance

    return dict(zip(names, shapley(value, len(names)).tolist(), strict=True))


def worse_section(result: Result, shown: Sequence[str]) -> tuple[Section, dict[str, Any]]:
    """A row for every method: what is lost where a modality is late or noisy.

    Args:
        result: with the metrics that the module names.
        shown: methods of the picture, a line each.
    """
    kinds = list(dict.fromkeys(name for run in result.runs for name in run.metrics if name.startswith(WORSE)))
    rows, figures = [], {}
    for method in result.methods:
        runs = result.reported(method, result.shown(method))
        whole = units(runs, "test", result.replicates)
        found = {kind.removeprefix(WORSE): units(runs, kind, result.replicates) for kind in kinds}
        figures[method] = found
        rows.append([method, percent(whole), *(percent(values) for values in found.values())])
    lines = [
        "Accuracy in % on test pairs of which one side is made worse, as nothing was in training; mean ± standard "
        f"deviation over {repeated(result)}."
    ]
    title = f"Where a modality is late or noisy: {result.title}"
    table = Table(["method", "as they are", *(kind.removeprefix(WORSE) for kind in kinds)], rows)
    late = {float(said[1]): kind for kind in kinds if (said := re.fullmatch(rf"{WORSE}\w+ (\d+) ms late", kind))}
    plots = []
    if late:
        curves = {
            method: [
                value_of(units(result.reported(method, result.shown(method)), metric, result.replicates))
                for metric in ("test", *late.values())
            ]
            for method in shown
            if method in result.methods
        }
        how = functools.partial(along, title, "milliseconds late", [0.0, *late], curves, result.unit)
        plots.append(Plot(f"late{slug(result.axes)}", title, how))
    return Section(title, [table], lines, plots), {f"worse{slug(result.axes)}": figures}


def along_section(
    title: str, of: str, name: str, x: Sequence[float], runs: Mapping[str, Sequence[Sequence[Run]]], replicates: int
) -> tuple[Section, dict[str, Any]]:
    """A row for every value of a number: accuracy of each method there.

    Args:
        title: of the section.
        of: what the number is.
        name: of the picture, and of the figures.
        x: its values, ascending.
        runs: method -> for each value its runs.
        replicates: how many there are.
    """
    values = {method: [units(of_value, "test", replicates) for of_value in each] for method, each in runs.items()}
    rows = [[f"{one:g}", *(percent(values[method][k]) for method in values)] for k, one in enumerate(x)]
    lines = {method: [value_of(one) for one in each] for method, each in values.items()}
    unit = "replicate" if replicates > 1 else "draw"
    told = [
        f"Accuracy on test pairs in %, mean ± standard deviation over {unit}s; everything else as each method has "
        "chosen it. A map, which chooses nothing."
    ]
    plot = Plot(name, title, functools.partial(along, title, of, x, lines, unit))
    return Section(title, [Table([of, *values], rows)], told, [plot]), {name: {"x": list(x), **values}}
