"""Methods that learn from clients: by client, by round, and what was sent for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.protocol import verdict_sentence
from jaxtl.protocol.results import Result, number, points, slug
from jaxtl.report.cells import percent
from jaxtl.report.page import Section
from jaxtl.report.plots.clients import Line, by_round_and_client
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.tables import DASH, Table, repeated


def clients_section(result: Result, baseline: str, notes: Sequence[str] = ()) -> tuple[Section, dict[str, Any]]:
    """A row for each method: its clients in the mean and the worst tenth of them, and the bytes that were sent.

    Args:
        result: a study on `problems.Clients`.
        baseline: the method that gains are over.
        notes: further lines, such as published figures.

    Returns:
        (the section, by method its figures).
    """
    rows, figures, lines = [], {}, {}
    for method in result.methods:
        runs = result.reported(method, result.shown(method))
        summary, gain = result.summaries[method, result.shown(method)], result.difference(method, baseline)
        by_client = [result.arrays(run).get("clients") for run in runs]
        known = [own for own in by_client if own is not None]
        server = summary.metrics.get("server", math.nan)
        figures[method] = {
            "test": list(summary.values),
            "gain": None if gain is None else gain.difference,
            "ci95": None if gain is None else gain.ci95,
            "worst": summary.metrics.get("worst", math.nan),
            "server": server,
            "megabytes": summary.metrics.get("megabytes", math.nan),
            "clients": [own.tolist() for own in known],
        }
        rows.append(
            [
                method,
                percent(summary.units),
                points(gain) if gain else "",
                number(100 * summary.metrics.get("worst", math.nan), ".1f"),
                number(100 * server, ".1f") if math.isfinite(server) else DASH,
                number(summary.metrics.get("megabytes", math.nan), ".3g"),
                number(summary.choosing_seconds + summary.seconds, ".0f"),
            ]
        )
        lines[method] = _line([result.arrays(run) for run in runs])
    columns = ["method", "clients", f"− {baseline}", "worst tenth", "one model", "MB sent", "seconds"]
    said = [
        f"Clients: accuracy in % on test data, each class weighed by how often a client has it, mean over clients; ± "
        f"standard deviation over {repeated(result)}. − {baseline}: points, paired by {result.unit}, 95 % interval, "
        "not corrected for the number of rows. Worst tenth: mean over the clients that are served worst.",
        "One model: accuracy of the server's on all test data, where clients have no parts of their own. MB sent: by "
        "all clients of a run in both directions, parameters, statistics and control variates; the source model, "
        "which all know beforehand, is not among them. Seconds: choosing and report runs.",
        *map(verdict_sentence, result.contrasts),
        *notes,
    ]
    title = f"Clients that keep their examples: {result.title}"
    plot = Plot(f"clients{slug(result.axes)}", title, functools.partial(by_round_and_client, title, lines))
    return Section(title, [Table(columns, rows)], said, [plot]), figures


def _line(runs: Sequence[dict[str, np.ndarray]]) -> Line:
    """Means over draws: of the curve by round, and of clients from the worst served to the best."""
    curves = [run for run in runs if "curve/step" in run]
    steps = curves[0]["curve/step"] if curves else np.empty(0)

    def mean(name: str) -> np.ndarray:
        return np.mean([run[f"curve/{name}"] for run in curves], axis=0) if curves else steps

    by_client = [np.sort(run["clients"]) for run in runs if "clients" in run]
    return Line(steps, mean("validation"), mean("worst"), np.mean(by_client, axis=0) if by_client else np.empty(0))
