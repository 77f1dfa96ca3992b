"""The summary of a finished run elsewhere: on a terminal or in a log as the run printed it, or its tables for LaTeX."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from jaxtl.errors import InputError
from jaxtl.report import Table


def show(page: str) -> None:
    """Print a summary.md as the run itself has printed its tables, headings and sentences.

    Args:
        page: Markdown as `report` writes it; what is none of it stays as it is. Pictures are named by their files.

    Example:
        >>> show("# toy\\n\\n| method | accuracy |\\n| ------ | -------: |\\n| l2     |     66.1 |\\n\\n- over 3 draws")
        toy
        <BLANKLINE>
        method  accuracy
        l2          66.1
        <BLANKLINE>
        over 3 draws
    """
    console = Console(highlight=False, markup=False)
    plain = not console.is_terminal
    for of_table, block in itertools.groupby(page.splitlines(), key=lambda line: line.startswith("| ")):
        lines = list(block)
        table = table_of(lines) if of_table else None
        if table:
            console.print(Text(table.plain()) if plain else table.rich(), soft_wrap=plain)
            continue
        for line in lines:
            heading = re.fullmatch(r"#+ (.*)|\*\*(.*)\*\*", line)
            words = (heading[1] or heading[2]) if heading else line
            console.print(Text(unmarked(words), "bold" if heading else ""), soft_wrap=plain)


def latex_of(page: str) -> str:
    """Every table of a summary.md for LaTeX, under its heading as a comment.

    Args:
        page: Markdown as `report` writes it.

    Raises:
        InputError: it has no table.
    """
    found, heading = list[str](), ""
    for of_table, block in itertools.groupby(page.splitlines(), key=lambda line: line.startswith("| ")):
        lines = list(block)
        if not of_table:
            headings = [line.lstrip("# ") for line in lines if line.startswith("#")]
            heading = headings[-1] if headings else heading
        elif table := table_of(lines):
            found.append(f"% {unmarked(heading)}\n{table.latex()}\n")
    if not found:
        raise InputError("has no table", where="summary.md", todo="give the directory of a finished run")
    return "\n".join(found)


def table_of(lines: Sequence[str]) -> Table | None:
    """The table that lines of Markdown hold; None where they hold none."""
    head, *below = [[unmarked(cell.strip()) for cell in line[2:-2].split(" | ")] for line in lines]
    if not below or not all(re.fullmatch("-+:?", cell) for cell in below[0]):
        return None
    words = tuple(i for i, cell in enumerate(below[0]) if not cell.endswith(":"))
    rows = below[1:]
    return Table(head, rows, words) if all(len(row) == len(head) for row in below) else None


def unmarked(text: str) -> str:
    """Words without the marks that Markdown gives them: list item, quotation, code, picture and escapes."""
    text = re.sub(r"^(- |> )", "", text)
    text = re.sub(r"^!\[(.*)\]\((.*)\)$", r"\1: \2", text).replace("**", "")
    text = re.sub(r"`([^`]*)`", r"\1", text)
    return html.unescape(re.sub(r"\\([\\`*\[\]|])", r"\1", text))
