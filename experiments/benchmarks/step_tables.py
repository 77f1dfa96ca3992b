"""What `experiments.benchmarks.step` found, in tables, remarks, figures by name and a picture.

Everywhere `results` is {problem: {"title", "operations", "rows": {row: figures}, "failed": {row: why}, "starts"}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.results import duration, is_here
from experiments.benchmarks.rows import BASE, FULL_STEPS, ROWS, Row
from jaxtl.report import Plot, Table
from jaxtl.report.plots.ratios import ratios


def seconds_of(result: Mapping[str, Any], row: str) -> float:
    return float(np.median(result["rows"][row]["seconds"]))


def ratio_table(heading: str, rows: Mapping[str, Row], results: Mapping[str, Any]) -> Table:
    """A row for each of these, a column per problem: the median ratio to the base and its quartiles."""

    def cell(row: str, result: dict[str, Any]) -> str:
        if row in result["failed"]:
            return "failed"
        figures = result["rows"].get(row)
        if not figures:
            return "–"
        if row == BASE:
            return f"1.00 = {duration(seconds_of(result, row))}"
        return f"{figures['ratio']:.2f} ({figures['low']:.2f}–{figures['high']:.2f})"

    cells = [[row.words, *(cell(name, result) for result in results.values())] for name, row in rows.items()]
    return Table(
        [heading, *(result["title"] for result in results.values())],
        [row for row in cells if set(row[1:]) != {"–"}],
    )


def arithmetic_table(results: Mapping[str, Any], peak: float) -> Table:
    """Operations of a step, and the share of the measured peak that each way of taking it reaches."""
    rows = [["10⁹ operations a step", *(f"{result['operations'] / 1e9:.3g}" for result in results.values())]]
    for name in FULL_STEPS:
        cells = [
            f"{share_of_peak(result, name, peak):.2f}" if name in result["rows"] else "–" for result in results.values()
        ]
        rows += [[ROWS[name].words, *cells]] if set(cells) != {"–"} else []
    return Table(["share of the measured peak", *(result["title"] for result in results.values())], rows)


def share_of_peak(result: Mapping[str, Any], row: str, peak: float) -> float:
    return result["operations"] / seconds_of(result, row) / peak


def start_table(results: Mapping[str, Any]) -> Table:
    """What a program costs before it runs at full speed, and what a change of λ costs afterwards."""
    starts = [result["starts"] for result in results.values()]
    rows = [
        ["by hand, compiled", *(f"1.00 = {duration(start['by_hand'])}" for start in starts)],
        ["both pulls, compiled", *(f"{start['both_pulls'] / start['by_hand']:.2f}" for start in starts)],
        ["both pulls, found on disk", *(f"{start['from_disk'] / start['by_hand']:.2f}" for start in starts)],
        ["λ changed, ÷ not changed", *(f"{start['other_lambda'] / start['same_lambda']:.2f}" for start in starts)],
        ["compilations", *(str(start["compilations"]) for start in starts)],
    ]
    return Table(["first step; step after a change", *(result["title"] for result in results.values())], rows)


def notes(rounds: int, results: Mapping[str, Any], peaks: Mapping[str, float]) -> list[str]:
    """How the figures were measured."""
    fastest = max(peaks, key=lambda name: peaks[name])
    half = ", of residual networks half of them" if rounds > 1 else ""
    lines = [
        f"Ratios of seconds to {ROWS[BASE].words}: medians over {rounds} rounds{half}, each against its own "
        "round; quartiles in brackets. More than 1 is slower.",
        "Every library, way of compiling and size of pages is a process of its own; they take turns in every round.",
        f"Huge pages: malloc asks for them; {kernel_pages()}",
        f"Peak: {peaks[fastest] / 1e9:.0f} · 10⁹ operations a second, {fastest}, the best of "
        + ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in sorted(peaks.items())),
        "Operations: of convolutions and dense layers, counted in the traced forward pass; a step has three times "
        "those, less one for the first layer.",
        "Both pulls: the program of experiments.cifar_transfer, every rate an argument of the compiled step",
    ]
    for result in results.values():
        lines += [f"{ROWS[row].words}, {result['title']}, failed: {why}" for row, why in result["failed"].items()]
    if not is_here("torch"):
        return [*lines, "PyTorch is not installed here: no comparison with it"]
    ends = [f"{r['rows']['torch']['loss']:.5f} and {r['rows'][BASE]['loss']:.5f}" for r in results.values()]
    firsts = [duration(r["rows"]["compiled"]["first"]) for r in results.values() if "compiled" in r["rows"]]
    lines += [f"Loss after a block, of PyTorch and ours: {'; '.join(ends)}"]
    return lines + ([f"The first block of torch.compile, not counted: {'; '.join(firsts)}"] if firsts else [])


def kernel_pages() -> str:
    """What the system does about it."""
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return f"the kernel's setting is {file.read_text().strip()}" if file.exists() else "the system has no such setting"


def numbers_of(results: Mapping[str, Any], peak: float) -> dict[str, float]:
    numbers = {"step/peak/operations_per_second": peak}
    for name, result in results.items():
        for row, figures in result["rows"].items():
            numbers[f"step/{name}/{row}/seconds"] = seconds_of(result, row)
            if row != BASE:
                numbers[f"step/{name}/{row}/ratio"] = figures["ratio"]
        for row in set(FULL_STEPS) & set(result["rows"]):
            numbers[f"step/{name}/{row}/share_of_peak"] = share_of_peak(result, row, peak)
        for what, value in result.get("starts", {}).items():
            if what != "compilations":
                numbers[f"step/{name}/start/{what}/seconds"] = value
    return numbers


def picture(results: Mapping[str, Any]) -> Plot:
    shown = {
        result["title"]: {
            ROWS[row].words: (figures["low"], figures["ratio"], figures["high"])
            for row, figures in result["rows"].items()
            if row != BASE
        }
        for result in results.values()
    }
    names = [row.words for row in ROWS.values() if any(row.words in found for found in shown.values())]
    caption = "Seconds of a training step ÷ jaxtl's"
    return Plot("steps", caption, partial(ratios, caption, names, shown))
