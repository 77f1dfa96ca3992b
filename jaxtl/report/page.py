"""What a run says before it works, and reports of what is no comparison: sections of tables, sentences, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.text import Text

from jaxtl.data import DataSet
from jaxtl.labels import count_by_label, some
from jaxtl.protocol import Run, cannot_decide, to_csv
from jaxtl.protocol.results import headed
from jaxtl.report.files import beginning, names_in_words, picture, preset_of, write_report
from jaxtl.report.plots.comparison import Plot, finished
from jaxtl.report.tables import Table
from jaxtl.text import markdown, printable
from jaxtl.transfer import Transfer

if TYPE_CHECKING:  # they bring models along, which a page can do without
    from jaxtl.problems import FewShot, Source


def print_data(console: Console, **parts: DataSet) -> None:
    """One line per data set under the roles it plays, and its notice if it is not what was asked for first."""
    for data in dict.fromkeys(parts.values()):
        roles = " and ".join(role for role, part in parts.items() if part is data)
        kind = "images" if "image" in data.train and data.train.images.ndim == 4 else "examples"
        size = f"{len(data.train)} training and {len(data.test)} test {kind}"
        classes = f"{len(data.classes)} classes, " if data.classes else ""
        line = f"{roles}: {size}, {classes}{data.origin}"
        console.print(Text(printable(line)), soft_wrap=True)
    for notice in dict.fromkeys(data.notice for data in parts.values() if data.notice):
        console.print(Text(printable(f"NOTE: {notice}"), "bold yellow"), soft_wrap=True)


def print_transfer(console: Console, moved: Transfer) -> None:
    """The labels with their sizes, and what was copied, renamed, adapted, re-initialised or left unused."""
    counts = count_by_label(moved.params, moved.labels)
    rows = [[label, str(c.leaves), f"{c.parameters:,}", f"{c.bytes / 1e3:,.1f} kB"] for label, c in counts.items()]
    table = Table(["label", "leaves", "parameters", "memory"], rows)
    console.print(table.rich() if console.is_terminal else Text(table.plain()))
    for line in str(moved.report).splitlines():
        what, _, paths = line.partition(": ")
        names = paths.split(", ")
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        console.print(Text(printable(f"{what}: {shown}")), soft_wrap=True)


def print_source(console: Console, *sources: Source) -> None:
    """How good the source model, or that of each replicate, is on its own task."""
    what = "source model" if len(sources) == 1 else f"{len(sources)} source models"
    right = ", ".join(f"{source.accuracy:.1%}" for source in sources)
    console.print(
        f"{what}: {right} of its {len(sources[0].task.test)} test {sources[0].images.many} are right", soft_wrap=True
    )


def print_target(console: Console, problem: FewShot) -> None:
    """Which classes the target has, and how little is known of them."""
    console.print(f"target: {some(problem.task.classes)}; {problem.n} labelled examples of each")


def print_plan(console: Console, n: int, contrasts: int, unit: str = "draw") -> None:
    """Say beforehand what a comparison of so few replicates, or of draws that choose for themselves, cannot say."""
    if note := cannot_decide(n, contrasts, unit):
        console.print(f"NOTE: {note}", style="bold yellow", soft_wrap=True)


def print_batches(console: Console, batch_size: int, examples: int) -> None:
    """Say beforehand that a batch is smaller than was asked for: there are not more labelled examples."""
    if batch_size > examples:
        line = f"NOTE: batches are of all {examples} labelled examples, not of batch_size {batch_size}"
        console.print(line, style="bold yellow", soft_wrap=True)


def print_notice(console: Console, task: DataSet, since: DataSet) -> None:
    """What became of the images of a task, if anything did that the data set does not say of itself."""
    if task.notice != since.notice:
        told = task.notice.removeprefix(f"{since.notice}; ")
        console.print(Text(printable(f"NOTE: {told}"), "bold yellow"), soft_wrap=True)


def together(*notices: str) -> str:
    """Several notices as one, each said once."""
    return "; ".join(dict.fromkeys(part for notice in notices for part in notice.split("; ") if part))


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
    parts, preset = beginning(header), preset_of(header)
    for section in sections:
        heading = markdown(headed(section.heading, preset))
        parts += [f"## {heading}", *(table.markdown() for table in section.tables)]
        parts += ["\n".join(f"- {markdown(line)}" for line in section.lines)] if section.lines else []
        parts += [picture(plot) for plot in section.plots]
    plots, key = finished([plot for section in sections for plot in section.plots], preset)
    cells = {cell for section in sections for table in section.tables for row in table.rows for cell in row}
    parts += names_in_words(header, {*cells, *(section.heading.split(",")[0] for section in sections)}, key)
    return write_report(workdir, plots, "\n\n".join(parts) + "\n", {**header, **figures})


def print_written(console: Console, paths: Iterable[Path]) -> None:
    """Say which files a run has written, a line each; a path is never broken."""
    console.line()
    for path in paths:
        console.print(f"wrote {path}", soft_wrap=True)


class Page:
    """What a run has found: each section is shown as it comes, and all are written at the end.

    Args:
        console: where a person reads along.
        preset: of the run; "smoke" is said to be a check.

    Attributes:
        sections: in the order of summary.md.
        figures: of summary.json, by name.
    """

    def __init__(self, console: Console, preset: str = ""):
        self.console, self.preset = console, preset
        self.sections: list[Section] = []
        self.figures: dict[str, Any] = {}

    def add(self, section: Section, figures: Mapping[str, Any] | None = None) -> None:
        """Show a section, and keep it with its figures."""
        print_section(self.console, section, self.preset)
        self.sections.append(section)
        self.figures |= figures or {}

    def write(
        self, workdir: Path | str, header: Mapping[str, Any], runs: Mapping[str, Sequence[Run]] | None = None
    ) -> None:
        """Write all of it, as `write_sections` does, and say where.

        Args:
            workdir, header: as for `write_sections`.
            runs: by the name of their file, NAME.csv.

        Raises:
            InputError: the directory cannot be written.
        """
        tables = [to_csv(of, Path(workdir) / f"{name}.csv") for name, of in (runs or {}).items()]
        print_written(self.console, [*tables, *write_sections(workdir, header, self.figures, self.sections)])
