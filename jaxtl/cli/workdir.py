"""A run directory: what was asked of it, by which code, and what may be done with it now.

`config.json` is written before anything else and marks a directory as a run; `summary.json` is written last and marks
it as finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jaxtl
from jaxtl import backend
from jaxtl.errors import InputError

RECORD, SUMMARY, TABLE = "config.json", "summary.json", "summary.md"
LOCK, UNFINISHED_RECORD, PROBE = ".lock", ".config.json", ".probe-"


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run was asked for, as `config.json` holds it.

    Args:
        experiment: its name.
        config: key to value, as JSON has them (tuples are lists).
        versions: of Python and the libraries.
        code: file to SHA-256, for the package, the experiment and the modules beside it that it imports.
    """

    experiment: str
    config: dict[str, Any]
    versions: dict[str, str]
    code: dict[str, str]

    @classmethod
    def of(cls, experiment: Path, config: Any) -> Record:
        """The record of a run that starts now; `experiment` is its source file."""
        package = Path(jaxtl.__file__).parent
        files = {str(file.relative_to(package.parent)): file for file in sorted(package.rglob("*.py"))}
        modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        beside = {Path(name) for name in modules if name and Path(name).parent == experiment.parent}
        for file in {experiment} | beside:
            files[f"{file.parent.name}/{file.name}"] = file
        digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
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
    try:
        return Record(**json.loads((directory / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        entries = sorted(os.listdir(directory)) if directory.is_dir() else []
        strangers = [entry for entry in entries if not entry.startswith((LOCK, UNFINISHED_RECORD, PROBE))]
        if not strangers:
            return None
        what = f"is not a run: it holds {_few(strangers, ', ')} and no {RECORD}"
    except (ValueError, TypeError):
        what = f"{RECORD} is not what a run writes"
    except OSError as error:
        what = str(error.strerror)
    raise InputError(what, where=directory, todo="choose a new or empty directory: --workdir=...")


def is_finished(directory: Path) -> bool:
    """Whether the run in `directory` came to its end."""
    return (directory / SUMMARY).is_file()


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
        what = "holds a run with another config: " + _few(words, "; ")
        raise InputError(what, where=directory, todo=todo + these)
    changed = earlier.changed_code(now)
    if changed and (keys or not is_finished(directory)):
        what = f"the code has changed since this run began: {_few(changed, ', ')}"
        raise InputError(what, where=directory, todo=f"put the code back, or {todo}")
    return bool(keys)


def start(directory: Path, now: Record) -> None:
    """Mark `directory` as an unfinished run, in one piece: a kill in between leaves no half-written record."""
    (directory / SUMMARY).unlink(missing_ok=True)
    unfinished = directory / UNFINISHED_RECORD
    unfinished.write_text(json.dumps(dataclasses.asdict(now), indent=1) + "\n", encoding="utf-8")
    unfinished.replace(directory / RECORD)


def forget_nothing(directory: Path) -> None:
    """Remove the record of a run that has left nothing else, so that the corrected command may use the directory."""
    if set(os.listdir(directory)) <= {RECORD, LOCK}:
        (directory / RECORD).unlink()


def clear(directory: Path) -> None:
    """Remove everything in a run's directory but the lock that is being held; the record goes last."""
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name == RECORD):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def summary(directory: Path, earlier: Record, now: Record) -> str:
    """What a finished run has to say, and whether the code is still the one that said it."""
    changed = earlier.changed_code(now)
    note = f"the code has changed since this run: {_few(changed, ', ')}\n" if changed else ""
    table = directory / TABLE
    return note + (table if table.is_file() else directory / SUMMARY).read_text(encoding="utf-8")


def _json(config: dict[str, Any], key: str) -> str:
    return json.dumps(config[key]) if key in config else "absent"


def _few(words: list[str], separator: str) -> str:
    more = f" (and {len(words) - 3} more)" if len(words) > 3 else ""
    return separator.join(words[:3]) + more
