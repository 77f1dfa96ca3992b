"""What the ways to predict share: a line of a table, and what could not be read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from jaxtl.terminal import Terminal

FORMULA = ("=", "+", "-", "@", "\t", "\r")
SHOWN = 20  # lines without a file for them; also of bad files


def line(cells: Sequence[str]) -> bytes:
    """A row of a CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def told_bad(console: Terminal, bad: Sequence[tuple[str, str]]) -> None:
    """Say which files could not be read, and why."""
    for file, why in bad[:SHOWN]:
        console.print(f"not read: {file}: {why}", style="bold yellow")
    if len(bad) > SHOWN:
        console.print(f"not read: {len(bad) - SHOWN} more", style="bold yellow")
