"""What a person sees after a run: tables on the terminal, pictures, and files to keep, paste and compute with."""

from jaxtl.protocol.measures import Truth
from jaxtl.protocol.results import Result
from jaxtl.report.files import write_files
from jaxtl.report.page import (
    Page,
    Section,
    print_batches,
    print_data,
    print_notice,
    print_plan,
    print_section,
    print_source,
    print_target,
    print_transfer,
    print_written,
    together,
    write_sections,
)
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.tables import Table, print_result

__all__ = [
    "Page",
    "Plot",
    "Result",
    "Section",
    "Table",
    "Truth",
    "print_batches",
    "print_data",
    "print_notice",
    "print_plan",
    "print_result",
    "print_section",
    "print_source",
    "print_target",
    "print_transfer",
    "print_written",
    "together",
    "write_files",
    "write_sections",
]
