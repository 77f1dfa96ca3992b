"""A run directory: what was asked of it, by which code, and what may be done with it now.

`config.json` is written before anything else and marks a directory as a run; `summary.json` is written last and marks
it as finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtl import files, version
from jaxtl.devices import backend
from jaxtl.errors import InputError
from jaxtl.text import printable

RECORD, SUMMARY, TABLE = "config.json", "summary.json", "summary.md"
LOCK, UNFINISHED_RECORD, PROBE = ".lock", ".config.", ".probe-"
ELSEWHERE = "choose a new or empty directory: --workdir=..."


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run was asked for, as `config.json` holds it.

    Args:
        experiment: its name.
        config: key to value, as JSON has them (tuples are lists).
        versions: of Python and the libraries.
        code: file to SHA-256, for the package, the experiment and the modules beside it that it imports.
        report: file to SHA-256, for what a finished run shows; None in a record that knows nothing of it, as earlier
            versions wrote them.
    """

    experiment: str
    config: dict[str, Any]
    versions: dict[str, str]
    code: dict[str, str]
    report: dict[str, str] | None = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Path, config: Any) -> Record:
        """The record of a run that starts now; `experiment` is its source file."""
        digests, modules = version.code(), [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        beside = {Path(name) for name in modules if name and Path(name).parent == experiment.parent}
        for file in {experiment} | beside:
            digests[f"{file.parent.name}/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
        as_json = json.loads(json.dumps(dataclasses.asdict(config)))
        return cls(experiment.stem, as_json, backend.versions(), digests)

    def changed_code(self, now: Record) -> list[str]:
        """The files that are not what they were, came or went."""
        return sorted(name for name in self.code.keys() | now.code.keys() if self.code.get(name) != now.code.get(name))


def read(directory: Path) -> Record | None:
    """The record of the run in `directory`; None where nothing is.

    Raises:
        InputError: the directory holds something that is not a run.
    """
    content = files.read(directory / RECORD)
    if content is None:
        entries = sorted(os.listdir(directory)) if directory.is_dir() else []
        strangers = [entry for entry in entries if not entry.startswith((LOCK, UNFINISHED_RECORD, PROBE))]
        if not strangers:
            return None
        what = f"is not a run: it holds {few(strangers, ', ')} and no {RECORD}"
        raise InputError(what, where=directory, todo=ELSEWHERE)
    try:
        entries = json.loads(content)
        digest = entries.pop("crc32", None)
        if digest not in (None, _crc32(entries)):
            raise ValueError("its digest differs")
        return Record(**({"report": None} | entries))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{RECORD} is not what a run writes", where=directory, todo=ELSEWHERE) from None


def is_finished(directory: Path) -> bool:
    """Whether the run in `directory` came to its end, and noted what it shows."""
    record = read(directory)
    unnoted = record is not None and record.report is None  # of an earlier version, which noted nothing
    return (directory / SUMMARY).is_file() if unnoted else bool(record and record.report)


def damaged(directory: Path, earlier: Record, now: Record) -> list[str]:
    """What of the report of a finished run is missing or not what it wrote, so that it has to be made again.

    Raises:
        InputError: the code has changed, which would make another report; or a directory is in the place of a file.
    """
    names = [name for name, digest in (earlier.report or {}).items() if _digest(directory / name) != digest]
    if names and earlier.changed_code(now):
        what = f"not what the run wrote, and the code that could make it again has changed: {few(names, ', ')}"
        raise InputError(
            what, where=directory, todo="choose another --workdir=..., or replace that run with --overwrite"
        )
    return names


def differs(directory: Path, earlier: Record, now: Record, may_change: Sequence[str] = ()) -> bool:
    """Whether a run is asked to go on with another config, in keys that may change.

    Args:
        directory: of the run.
        earlier, now: what it was asked for, and what it is asked for now.
        may_change: keys that only add to what is there.

    Raises:
        InputError: other keys differ, or the code of a run that is not finished or has to go on. It names what differs,
            both values, and the ways out.
    """
    todo = "choose another --workdir=..., or replace that run with --overwrite"
    if earlier.experiment != now.experiment:
        raise InputError(f"holds a run of {earlier.experiment}", where=directory, todo=todo)
    keys = [key for key in (earlier.config | now.config) if earlier.config.get(key) != now.config.get(key)]
    refused = [key for key in keys if key not in may_change]
    if refused:
        words = [f"{key} was {_json(earlier.config, key)} and is now {_json(now.config, key)}" for key in refused]
        these = f"; only {', '.join(may_change)} may change" if may_change else ""
        what = "holds a run with another config: " + few(words, "; ")
        raise InputError(what, where=directory, todo=todo + these)
    changed = earlier.changed_code(now)
    if changed and (keys or not is_finished(directory)):
        what = f"the code has changed since this run began: {few(changed, ', ')}"
        raise InputError(what, where=directory, todo=f"put the code back, or {todo}")
    return bool(keys)


def start(directory: Path, now: Record) -> None:
    """Mark `directory` as an unfinished run, in one piece: a kill in between leaves no half-written record."""
    try:
        (directory / SUMMARY).unlink(missing_ok=True)
    except OSError as error:
        raise files.cannot_write(directory / SUMMARY, error) from error
    _write(directory, now)


def finish(directory: Path, now: Record) -> None:
    """Note what the report of a finished run is: what is shown later is what was written."""
    if (directory / SUMMARY).is_file():
        shown = [path for path in (*directory.iterdir(), *directory.glob("plots/*")) if not path.name.startswith(".")]
        names = sorted(str(path.relative_to(directory)) for path in shown if path.is_file() and path.name != RECORD)
        report = {name: digest for name in names if (digest := _digest(directory / name))}
        _write(directory, dataclasses.replace(now, report=report))


def _write(directory: Path, record: Record) -> None:
    entries = {name: entry for name, entry in dataclasses.asdict(record).items() if entry is not None}
    files.write(directory / RECORD, json.dumps(entries | {"crc32": _crc32(entries)}, indent=1) + "\n")


def _crc32(entries: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entries).encode())


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None where none is. What is no file and in the way is refused."""
    if path.is_dir():
        raise InputError("is a directory", where=path, todo="move it away, and run again")
    content = files.read(path) if path.is_file() else None
    return None if content is None else hashlib.sha256(content).hexdigest()


def forget_nothing(directory: Path) -> None:
    """Remove the record of a run that has left nothing else, so that the corrected command may use the directory."""
    if set(os.listdir(directory)) <= {RECORD, LOCK}:
        (directory / RECORD).unlink()


def clear(directory: Path) -> None:
    """Remove everything in a run's directory but the lock that is being held; its end goes first, the record last."""
    for entry in sorted(directory.iterdir(), key=lambda entry: (entry.name == RECORD, entry.name != SUMMARY)):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def summary(directory: Path, earlier: Record, now: Record) -> str:
    """What a finished run has to say, and whether the code is still the one that said it."""
    changed = earlier.changed_code(now)
    note = f"the code has changed since this run: {few(changed, ', ')}\n" if changed else ""
    table = files.read(directory / TABLE) or files.read(directory / SUMMARY) or b""
    return note + "\n".join(map(printable, table.decode(errors="replace").splitlines()))


def _json(config: dict[str, Any], key: str) -> str:
    return json.dumps(config[key]) if key in config else "absent"


def few(words: list[str], separator: str) -> str:
    """The first three words, and how many more there are."""
    more = f" (and {len(words) - 3} more)" if len(words) > 3 else ""
    return separator.join(words[:3]) + more


def directory_of(split: str) -> str:
    """A directory's name for a split, whatever its classes are called: "0-4_to_5-9"."""
    name = re.sub(r"[^\w.+-]", "_", split.replace(":", "_to_"))
    plain = name == split.replace(":", "_to_") and len(name) <= 100
    return name if plain else f"{name[:40]}-{zlib.crc32(split.encode()):08x}"
