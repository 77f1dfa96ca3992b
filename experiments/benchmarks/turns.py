"""Rows that are measured in turns, each against one of them in its own block: what else a machine does falls on all."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping

import numpy as np

from experiments.benchmarks.results import duration
from jaxtl.loop import raise_if_stopped
from jaxtl.report import Table

Figures = dict[str, dict[str, float]]


def order_of(rows: Collection[str], block: int) -> list[str]:
    """Another order in every block, since what ran just before is felt for a while."""
    return random.Random(block).sample(list(rows), len(rows))


def in_turns(rows: Collection[str], blocks: int, measure: Callable[[str], float]) -> dict[str, np.ndarray]:
    """Seconds of every row in every block, by row; a block more, which compiles, does not count."""
    found: dict[str, list[float]] = {row: [] for row in rows}
    for block in range(-1, blocks):
        raise_if_stopped(f"before round {block + 1} of {blocks}")
        for row in order_of(rows, block):
            seconds = measure(row)
            found[row] += [seconds] if block >= 0 else []
    return {row: np.array(seconds) for row, seconds in found.items()}


def ratio(seconds: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Median and quartiles of how many times as long as another row a row took in the same block."""
    low, median, high = np.quantile(seconds / base, (0.25, 0.5, 0.75)).tolist()
    return {"ratio": median, "low": low, "high": high, "seconds": float(np.median(seconds))}


def ratio_table(corner: str, words: Mapping[str, str], base: str, results: Mapping[str, Figures]) -> Table:
    """A row for each way, a column for each of `results`; seconds stand with the row that others are divided by."""

    def cell(row: str, figures: Mapping[str, float]) -> str:
        if row == base:
            return f"1.00 = {duration(figures['seconds'])}"
        return f"{figures['ratio']:.2f} ({figures['low']:.2f}–{figures['high']:.2f})"

    rows = [[line, *(cell(row, figures[row]) for figures in results.values())] for row, line in words.items()]
    return Table([corner, *results], rows)
