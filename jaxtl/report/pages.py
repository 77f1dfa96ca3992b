"""Reports of what is no comparison of methods: sections of tables, sentences and pictures, shown and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from jaxtl.protocol.results import headed
from jaxtl.report.files import facts, names_in_words, picture, preset_of, write_report
from jaxtl.report.plots import Plot, finished
from jaxtl.report.tables import Table
from jaxtl.text import markdown, printable


class Section(NamedTuple):
    """A heading and what stands below it."""

    heading: str
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    plots: Sequence[Plot] = ()


def print_section(console: Console, section: Section, preset: str = "") -> None:
    """Show a section, said to be a check in preset "smoke"; where the console is no terminal, lines are plain."""
    plain = not console.is_terminal
    console.line()
    console.print(Text(printable(headed(section.heading, preset)), "bold"), soft_wrap=plain)
    for table in section.tables:
        console.line()
        console.print(Text(table.plain()) if plain else table.rich(), soft_wrap=plain)
    console.line()
    for line in section.lines:
        console.print(Text(printable(line), "dim"), soft_wrap=plain)


def write_sections(
    workdir: Path | str, header: Mapping[str, Any], figures: Mapping[str, Any], sections: Sequence[Section]
) -> list[Path]:
    """Write plots/*.png, summary.md and, since it marks a finished run, summary.json at the end.

    Args:
        workdir: where; created if need be.
        header: "experiment", "data" (in words), "device", "config", and what else is worth keeping.
        figures: further numbers of summary.json, arrays too.
        sections: in the order of summary.md.

    Returns:
        The files, in the order in which they were written.

    Raises:
        InputError: the directory cannot be written.
    """
    parts, preset = [f"# {markdown(header['experiment'])}", facts(header)], preset_of(header)
    for section in sections:
        heading = markdown(headed(section.heading, preset))
        parts += [f"## {heading}", *(table.markdown() for table in section.tables)]
        parts += ["\n".join(f"- {markdown(line)}" for line in section.lines)] if section.lines else []
        parts += [picture(plot) for plot in section.plots]
    plots, key = finished([plot for section in sections for plot in section.plots], preset)
    cells = {cell for section in sections for table in section.tables for row in table.rows for cell in row}
    parts += names_in_words(header, {*cells, *(section.heading.split(",")[0] for section in sections)}, key)
    return write_report(workdir, plots, "\n\n".join(parts) + "\n", {**header, **figures})
