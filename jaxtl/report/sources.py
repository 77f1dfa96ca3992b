"""Many sources on several targets: what each is worth, and how well scores have told that beforehand."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.protocol import Run
from jaxtl.protocol.results import number
from jaxtl.report.cells import percent
from jaxtl.report.page import Section
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.plots.rankings import Row, gains, rankings
from jaxtl.report.tables import Table, counted
from jaxtl.selection import rank_and_choose, resampled_interval

ANY = "any source"
COVERS = (
    "Mean over targets and draws, 95 % bootstrap interval: targets are drawn anew, and their draws; it covers other "
    "targets of the kind and other labelled examples, given these sources. Of few targets it is too short."
)


class Outcome(NamedTuple):
    """A target, and a report run of every source on each draw: [draws][sources]."""

    target: str
    runs: list[list[Run]]


def measured(outcomes: Sequence[Outcome], metric: str) -> np.ndarray:
    """[targets, draws, sources] of a metric of the runs."""
    return np.array([[[run.metrics[metric] for run in runs] for runs in one.runs] for one in outcomes])


def rankings_section(
    outcomes: Sequence[Outcome], ways: Mapping[str, str], scores: Sequence[str], scratch: int
) -> tuple[Section, dict[str, Any]]:
    """How well scores rank sources, and what choosing by them is worth.

    Args:
        outcomes: one for each target.
        ways: metric of the runs that says what a source turned out to be worth -> in words.
        scores: metrics of the runs that were known beforehand, larger is better.
        scratch: the source that was not trained.

    Returns:
        (the section, by way and score its figures).
    """
    tables, figures = [], dict[str, Any]()
    for metric, way in ways.items():
        worth, rows = measured(outcomes, metric), dict[str, Row]()
        for name in scores:
            found = rank_and_choose(measured(outcomes, name), worth)
            gained = found.chosen - worth[..., scratch]
            rows[name] = Row(*map(_with_interval, (found.tau, found.weighted, found.regret, gained)))
        best = worth.mean(axis=1, keepdims=True).argmax(axis=-1)[..., None]
        lost = np.take_along_axis(worth, best, axis=-1)[..., 0] - worth.mean(axis=-1)
        gained = worth.mean(axis=-1) - worth[..., scratch]
        nothing = (0.0, (0.0, 0.0))
        rows[ANY] = Row(nothing, nothing, _with_interval(lost), _with_interval(gained))
        columns = [way, "τ", "weighted τ", "regret, points", "− from scratch, points"]
        tables.append(Table(columns, [_cells(name, row) for name, row in rows.items()]))
        figures[metric] = {name: row._asdict() for name, row in rows.items()}
    shape = measured(outcomes, next(iter(ways))).shape
    lines = [
        f"{counted(shape[0], 'target')}, {counted(shape[1], 'draw')} each, {shape[2]} sources. τ: Kendall's τ-b of "
        "score and test accuracy over the sources, 1 for the same order, 0 for none; weighted: by how good they are.",
        "Regret: test accuracy of the source that is best on a target in the mean over its draws, less that of the "
        "source with the best score. From scratch: the source that was not trained, fine-tuned or probed alike.",
        COVERS,
    ]
    title = "How well scores rank the sources, and what choosing by them loses"
    shown = {way: {name: Row(**row) for name, row in figures[metric].items()} for metric, way in ways.items()}
    plot = Plot("scores", title, functools.partial(rankings, title, shown))
    return Section("Which score finds the source", tables, lines, [plot]), {"scores": figures}


def sources_section(
    outcomes: Sequence[Outcome], described: Mapping[str, Sequence[str]], ways: Mapping[str, str], scratch: int
) -> tuple[Section, dict[str, Any]]:
    """What every source is worth on every target, beside training from scratch.

    Args:
        outcomes: one for each target.
        described: source -> cells that say what it is: images, classes, accuracy on its own task.
        ways, scratch: as for `rankings_section`.

    Returns:
        (the section, by way and source the gains [targets, draws]).
    """
    names, targets = list(described), [one.target for one in outcomes]
    tables, figures, gained = [], dict[str, Any](), dict[str, np.ndarray]()
    for metric, way in ways.items():
        worth = measured(outcomes, metric)
        gain = worth - worth[..., [scratch]]
        rows = [
            [
                name,
                *cells,
                *(_points(gain[t, :, k]) if k != scratch else percent(worth[t, :, k]) for t in range(len(targets))),
            ]
            for k, (name, cells) in enumerate(described.items())
        ]
        columns = [way, "images", "classes", "own accuracy, %", *targets]
        tables.append(Table(columns, rows))
        gained[way] = gain.mean(axis=1).T  # [sources, targets]
        figures[metric] = {name: worth[..., k] for k, name in enumerate(names)}
    tuned = next(iter(gained.values()))
    others = np.delete(tuned, scratch, axis=0)
    k, t = np.unravel_index(tuned.argmin(), tuned.shape)
    lines = [
        f"Test accuracy of {names[scratch]} in %; of the other sources points above it, mean over draws.",
        f"Fine-tuned, {int(np.sum(others < 0))} of {others.size} pairs of source and target are below training from "
        f"scratch; the farthest is {names[k]} on {targets[t]}, {number(100 * tuned[k, t], '+.1f')} points.",
    ]
    title = "What every source is worth, in points above training from scratch"
    plot = Plot("sources", title, functools.partial(gains, title, names, targets, gained))
    return Section("What the sources are worth", tables, lines, [plot]), {"worth": figures}


def _with_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    return float(values.mean()), resampled_interval(values)


def _cells(name: str, row: Row) -> list[str]:
    def cell(value: tuple[float, tuple[float, float]], pattern: str, scale: float = 1.0) -> str:
        mean, (low, high) = value
        ends = (number(scale * end, pattern.lstrip("+")) for end in (low, high))
        return f"{number(scale * mean, pattern)} [{', '.join(ends)}]"

    taus = ["0", "0"] if name == ANY else [cell(row.tau, ".2f"), cell(row.weighted, ".2f")]
    return [name, *taus, cell(row.regret, ".1f", 100), cell(row.gained, "+.1f", 100)]


def _points(values: np.ndarray) -> str:
    return number(100 * float(values.mean()), "+.1f")
