"""How hard to pull, by criterion: a row for what each one chose, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.protocol.results import points
from jaxtl.report.cells import percent
from jaxtl.report.tables import Table
from jaxtl.selection import Choice


def choices_table(
    choices: Mapping[str, Choice],
    pulls: np.ndarray,
    columns: Sequence[str],
    in_words: Callable[[np.ndarray], list[str]],
    best: str,
) -> tuple[Table, dict[str, Any]]:
    """A row per criterion: the pulls that it chose, test accuracy there, and what that loses against the best of all.

    Args:
        choices: of `judge_choices`, the best fixed setting among them.
        pulls: [K] or [K, P] of the settings.
        columns: criterion, pulls, accuracy; the difference comes behind.
        in_words: chosen pulls [draws] or [draws, P] -> a cell for each column of pulls.
        best: the name of the best fixed setting.

    Returns:
        (the table, by criterion the figures it shows).
    """
    rows, figures = [], {}
    for name, choice in choices.items():
        chosen, worth = pulls[choice.picked], choice.worth
        rows.append([name, *in_words(chosen), percent(choice.test), "" if name == best else points(worth)])
        figures[name] = {"pulls": chosen, "test": choice.test, "difference": worth.difference, "ci95": worth.ci95}
    return Table([*columns, f"− {best}"], rows), figures
