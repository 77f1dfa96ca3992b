"""What became faster between two runs of the benchmarks: `python -m experiments.benchmarks.compare A.json B.json`.

Each is the summary.json of `python -m experiments.benchmarks` or of one of its parts. Ratios are B ÷ A: of seconds and
bytes, less than 1 is better; of images and operations a second, more is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtl import cli
from jaxtl.errors import InputError
from jaxtl.report import Table
from jaxtl.text import printable

CIRCUMSTANCES = ("device", "versions", "code", "command")


def read(path: str) -> dict[str, Any]:
    if "\0" in path or not Path(path).is_file():
        raise InputError("is no file", where=path, todo="give summary.json of two runs")
    try:
        summary = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(str(error.strerror), where=path, todo="give summary.json of two runs") from error
    except (ValueError, RecursionError) as error:
        raise InputError("is no JSON", where=path, todo="give summary.json of two runs") from error
    figures = summary.get("figures") if isinstance(summary, dict) else None
    if not isinstance(figures, dict) or not all(isinstance(figure, int | float | None) for figure in figures.values()):
        raise InputError("has no figures", where=path, todo="give summary.json of a run of experiments.benchmarks")
    return summary


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What else differs between the runs; figures of different machines say nothing about the code."""
    return [printable(f"{name}: {a.get(name)} → {b.get(name)}") for name in CIRCUMSTANCES if a.get(name) != b.get(name)]


def table_of(a: dict[str, Any], b: dict[str, Any]) -> Table:
    """A row per figure of either run, in the order of the first."""

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    rows = []
    for name in dict.fromkeys((*a["figures"], *b["figures"])):
        before, after = a["figures"].get(name), b["figures"].get(name)
        ratio = after / before if before and after is not None else None
        rows.append([name, cell(before), cell(after), "–" if ratio is None else f"{ratio:.2f}"])
    return Table(["figure", "A", "B", "B ÷ A"], rows)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 2 or any(word.startswith("-") for word in arguments):
        todo = "python -m experiments.benchmarks.compare A/summary.json B/summary.json"
        raise InputError(f"{len(arguments)} arguments", where="compare", todo=todo)
    a, b = map(read, arguments)
    print("\n".join([*differences(a, b), table_of(a, b).markdown()]))


if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: main(sys.argv[1:])))
