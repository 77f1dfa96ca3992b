"""What a person sees after a run: tables on the terminal, pictures, and files to keep, paste and compute with."""

from jaxtl.report.files import write_files
from jaxtl.report.opening import print_data, print_transfer
from jaxtl.report.results import Result
from jaxtl.report.tables import print_result

__all__ = ["Result", "print_data", "print_result", "print_transfer", "write_files"]
