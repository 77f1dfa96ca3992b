"""What is said along λ: where every criterion has its minimum, beside the curves."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.protocol.results import compact
from jaxtl.report.page import Section
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.plots.paths import criteria_along
from jaxtl.report.tables import Table


def criteria_section(
    title: str,
    lams: np.ndarray,
    df: np.ndarray,
    curves: Mapping[str, np.ndarray],
    lines: Sequence[str],
    hidden: Collection[str] = (),
) -> tuple[Section, dict[str, Any]]:
    """A row per criterion: its smallest value, and the λ and the degrees of freedom where that is.

    Args:
        title: of the picture.
        lams: [L] rates.
        df: [L] degrees of freedom.
        curves: criterion -> [L], smaller is better.
        lines: what is to be said below.
        hidden: criteria that are not drawn.

    Returns:
        (the section, by criterion the figures it shows).
    """
    rows, figures = [], {}
    for name, values in curves.items():
        k = int(np.argmin(values))
        rows.append([name, compact(lams[k]), f"{df[k]:.2f}", f"{values[k]:.2f}"])
        figures[name] = {"lambda": lams[k], "df": df[k], "curve": values}
    table = Table(["criterion", "λ", "degrees of freedom", "smallest value"], rows)
    drawn = {name: values for name, values in curves.items() if name not in hidden}
    draw = functools.partial(criteria_along, title, lams, drawn)
    plots = [Plot("criteria", "Criteria along λ and their minima", draw)]
    return Section("Criteria along λ", [table], lines, plots), figures
