"""What a benchmark found, and how it is shown and kept: tables, pictures, and figures by which commits are compared."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jaxtl import backend, cli
from jaxtl.cli.workdir import Record
from jaxtl.report import Section, print_section, write_sections
from jaxtl.terminal import Terminal

PEERS = {"torch": "torch", "grain": "grain", "sklearn": "scikit-learn"}  # what we are compared with, if it is here


class Findings(NamedTuple):
    """What one part measured.

    sections: tables, remarks and pictures.
    numbers: by name, one level: "step/mlp_64/plain/seconds". Names end in what the number counts.
    details: everything else worth keeping.
    """

    sections: list[Section]
    numbers: dict[str, float]
    details: dict[str, Any]


Part = Callable[[Any, Console], Findings]


def keep(
    name: str, config: Any, workdir: Path, parts: Sequence[tuple[Part, Any]], data: str = "random numbers"
) -> None:
    """Measure every part by its config, show what it found, and write it all down.

    Args:
        name: of the module in `experiments`.
        config: of the command.
        workdir: where summary.md, summary.json and pictures go.
        parts: (what measures, its config).
        data: on which, in words.
    """
    started, console = time.perf_counter(), Terminal()
    sections: list[Section] = []
    numbers: dict[str, float] = {}
    details: dict[str, Any] = {}
    for measure, its_config in parts:
        found = measure(its_config, console)
        for section in found.sections:
            print_section(console, section)
        console.line()
        sections += found.sections
        numbers |= found.numbers
        details |= found.details
    header = cli.header(name, config, started, data=data, code=code_hash(parts[0][0], config))
    header |= {"device": machine(), "versions": header["versions"] | peer_versions()}
    for path in write_sections(workdir, header, {"figures": numbers, **details}, sections):
        console.print(f"wrote {path}", soft_wrap=True)


def is_here(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def peer_versions() -> dict[str, str]:
    return {name: metadata.version(name) for library, name in PEERS.items() if is_here(library)}


def machine() -> str:
    """What jax computes on, and the processor's name where the system tells it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", file.read_text()) if file.exists() else None
    return backend.describe_device() + (f", {found[1]}" if found else "")


def code_hash(part: Part, config: Any) -> str:
    """Of the package and of the benchmarks: figures of one hash are repeated measurements."""
    code = Record.of(Path(inspect.getfile(part)).resolve(), config).code
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()[:12]


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
