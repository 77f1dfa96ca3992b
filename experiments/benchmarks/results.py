"""What a benchmark found, and how it is shown and kept: tables, pictures, and figures by which commits are compared."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re
import time
import zlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jaxtl import cli, files
from jaxtl.cli.workdir import Record
from jaxtl.devices import backend
from jaxtl.errors import InputError
from jaxtl.report import Page, Section, Table
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


Once = Callable[[str, Callable[[], Any]], Any]  # of a name and a measurement, what it found
Part = Callable[[Any, Console, Once], Findings]


def keep(
    name: str, config: Any, workdir: Path, parts: Sequence[tuple[Part, Any]], data: str = "random numbers"
) -> None:
    """Measure every part by its config, show what it found, and write it all down.

    Args:
        name: of the module in `experiments`.
        config: of the command.
        workdir: where summary.md, summary.json and pictures go.
        parts: (what measures, its config). What they measure through `once` is kept when it is made, and read by the
            same command after it was stopped.
        data: on which, in words.
    """
    started, console, once = time.perf_counter(), Terminal(), kept_in(workdir / "measured")
    page = Page(console, config.preset)
    numbers: dict[str, float] = {}
    details: dict[str, Any] = {}
    for measure, its_config in parts:
        if page.sections:
            console.line()
        found = measure(its_config, console, once)
        for section in found.sections:
            page.add(section)
        numbers |= found.numbers
        details |= found.details
    header = cli.header(name, config, started, data=data, code=code_hash(parts[0][0], config))
    header |= {"device": machine(), "versions": header["versions"] | peer_versions()}
    page.figures = {"figures": numbers, **details}
    page.write(workdir, header)


def kept_in(room: Path) -> Once:
    """Each measurement is written when it is made, and read instead of being made again.

    Args:
        room: a file for each name goes there.
    """

    def once(name: str, work: Callable[[], Any]) -> Any:
        file = room / f"{name}.json"
        if (content := files.read(file)) is None:
            found = json.dumps(work(), default=lambda value: value.tolist())
            files.write(file, json.dumps({"crc32": zlib.crc32(found.encode()), "found": found}))
            return json.loads(found)
        try:
            kept = json.loads(content)
            if zlib.crc32(kept["found"].encode()) != kept["crc32"]:
                raise ValueError("its digest differs")
            return json.loads(kept["found"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            todo = "delete it: it is measured again"
            raise InputError("is not what was measured", where=file, todo=todo) from error

    return once


def as_findings(found: Any) -> Findings:
    """Findings without pictures, as JSON has them: lists."""
    sections, numbers, details = found
    of = [Section(heading, [Table(*table) for table in tables], lines) for heading, tables, lines, _ in sections]
    return Findings(of, numbers, details)


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
