"""What a person sees after a run: tables on the terminal, pictures, and files to keep, paste and compute with."""

from jaxtl.report.classes import Truth
from jaxtl.report.files import write_files
from jaxtl.report.opening import print_batches, print_data, print_plan, print_transfer
from jaxtl.report.pages import Section, print_section, write_sections
from jaxtl.report.plots import Plot
from jaxtl.report.results import Result
from jaxtl.report.tables import Table, print_result

__all__ = [
    "Plot",
    "Result",
    "Section",
    "Table",
    "Truth",
    "print_batches",
    "print_data",
    "print_plan",
    "print_result",
    "print_section",
    "print_transfer",
    "write_files",
    "write_sections",
]
