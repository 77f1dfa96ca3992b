"""Images with a table of labels: a row or a JSON line for each, with columns for file, label, group and part."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.dataset import DataSet
from jaxtl.data.files import decoded, listed, reported
from jaxtl.data.folders import TESTS, TRAINS
from jaxtl.data.listing import Listing, data_set
from jaxtl.data.resized import Resize
from jaxtl.data.targets import Task, read_targets
from jaxtl.errors import InputError, kind_of
from jaxtl.files import open_regular

FORMATS = (".csv", ".jsonl")
LARGEST = 64 * 2**20  # bytes of a table: a million rows
COLUMNS = {  # what each may be called, in any capitalisation
    "file": ("file", "filename", "file_name", "path", "image", "image_path"),
    "label": ("label", "class", "target", "category"),
    "text": ("text", "sentence", "review"),
    "group": ("group",),
    "part": ("split", "part"),
}


class Row(NamedTuple):
    """Of a table: where its image is, and what is said of it; "" for what there is no column for."""

    number: int
    file: Path
    label: str
    group: str
    part: str


def holds_table(directory: Path) -> bool:
    """Whether there is a table with columns for file and label here."""
    return bool(_tables(directory))


def read_table(directory: Path, name: str, memory: float, resize: Resize | None = None) -> DataSet:
    """Images that one table names, with their labels; without a column "split" a fifth is split off for testing.

    Args:
        directory: holds the table; files are named relative to it. Columns are found by `COLUMNS`; "group" says what
            must not be divided, "split" holds train or test (or val, ...) for every row.
        name: of the data set.
        memory: bytes; if its images take more, they are `Stored`.
        resize: how images of any size come to one.

    Returns:
        Classes in alphabetical order.

    Raises:
        InputError: several such tables, a row without a file or a label, files outside of the directory, named twice or
            unreadable, a word that is no part, no row for testing.
    """
    return data_set(list_table(directory), name, memory, resize)


def list_table(path: Path, every: bool = False, task: Task = "classes") -> Listing:
    """The files that a table names with what is said of them, before any is opened.

    Args:
        path: of the table, or of the directory that holds one.
        every: the words for validation mean training where there are rows for test, and no row for testing is needed.
        task: what the labels are, see `read_targets`.

    Raises:
        InputError: see `read_table` and `read_targets`.
    """
    table, columns = (path, _columns_of(path)) if path.is_file() else _the_table(path)
    directory = table.parent
    rows = _rows(directory, table, columns, lists=task in ("auto", "several"))
    found = read_targets([row.label for row in rows], task, lambda k: f"{table}, row {rows[k].number}", table)
    groups = np.array([row.group for row in rows]) if "group" in columns else None
    parts = [row.part for row in rows]
    held = {part for part in parts if part in TESTS}
    apart = {part for part in held if TESTS.index(part) < 2} if every and held & set(TESTS[:2]) else held
    tested = np.array([part in apart for part in parts])
    split = "part" in columns
    for mask, what in ((~tested, "train"), (tested, "test")):
        if split and not mask.any() and not (every and what == "test"):
            raise InputError(f"no row is for {what}", where=table, todo=f"write {what} into the column of parts")
    origin = str(table) if split or every else f"{table} (test part split off here)"
    files = [row.file for row in rows]
    remarks = [found.remark] if found.remark else []
    return Listing(directory, files, found.labels, tested, groups, found.classes, origin, remarks)


def _the_table(directory: Path) -> tuple[Path, dict[str, int]]:
    found = _tables(directory)
    if len(found) > 1:
        what = f"holds {len(found)} tables of labels: {listed(table.name for table in found)}"
        raise InputError(what, where=directory, todo="leave one, with a column split that says train or test")
    return next(iter(found.items()))


def _tables(directory: Path) -> dict[Path, dict[str, int]]:
    """CSV and JSON lines with columns for file and label, and which columns these are."""
    with reported(directory):
        files = sorted(path for path in directory.iterdir() if path.suffix.lower() in FORMATS and path.is_file())
    found = {file: columns_of(header_of(file)) for file in files if not file.name.startswith(".")}
    return {file: columns for file, columns in found.items() if {"file", "label"} <= columns.keys()}


def header_of(file: Path, largest: int = LARGEST) -> list[str]:
    """The first row of a table; of what only ends like JSON lines none: anything may lie beside folders."""
    try:
        return next(iter(cells_of(file, 1, largest=largest)), [])
    except InputError:
        if file.suffix.lower() == ".csv":
            raise
        return []


def _columns_of(table: Path) -> dict[str, int]:
    columns = columns_of(next(iter(cells_of(table, 1)), []))
    if missing := {"file", "label"} - columns.keys():
        todo = f"call one of {', '.join(COLUMNS[min(missing)])}"
        todo += ", or the texts text" if "file" in missing else ""
        raise InputError(f"has no column for the {min(missing)}", where=table, todo=todo)
    return columns


def columns_of(header: list[str]) -> dict[str, int]:
    """By meaning, the first column that is called so."""
    called = [cell.strip().lower() for cell in header]
    places = {what: [called.index(name) for name in names if name in called] for what, names in COLUMNS.items()}
    return {what: found[0] for what, found in places.items() if found}


def cells_of(file: Path, most: int | None = None, lists: bool = False, largest: int = LARGEST) -> list[list[str]]:
    """The rows of a table, the header too, or the first of them.

    Args:
        file: the table.
        most: how many.
        lists: a label may be a list of names.
        largest: bytes that it may have.

    Raises:
        InputError: it is larger, or no table in UTF-8.
    """
    limit = csv.field_size_limit(largest)
    try:
        with reported(file, csv.Error), open_regular(file) as content:
            start = content.read(largest + 1)
            if len(start) > largest:
                what = f"is larger than {largest // 2**20} MB"
                raise InputError(what, where=file, todo="one row for each example is all that is read: leave the rest")
            text = io.StringIO(decoded(start, file), newline="")
            rows = csv.reader(text) if file.suffix.lower() == ".csv" else _objects(text, file, lists)
            return [row for _, row in zip(range(most), rows, strict=False)] if most else list(rows)
    finally:
        csv.field_size_limit(limit)  # which is one for all of the process


def _objects(lines: Iterable[str], file: Path, lists: bool) -> Iterator[list[str]]:
    """JSON lines as the rows of a table: the names of the first object in front, "" for what an object lacks."""
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = json.loads(line)
        if not isinstance(entry, dict):
            raise InputError("is no object", where=f"{file}, line {number}", todo='write {"file": ..., "label": ...}')
        if not names:
            names = list(entry)
            yield names
        yield [
            _cell(entry.get(name, ""), file, number, lists and name.strip().lower() in COLUMNS["label"])
            for name in names
        ]


def _cell(value: Any, file: Path, line: int, lists: bool) -> str:
    if isinstance(value, str | int | float):  # true and false too
        return str(value)
    if lists and isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    where, todo = f"{file}, line {line}", "give each example one label, and text or a number for the others"
    raise InputError(f"holds {kind_of(value)}", where=where, todo=todo)


def lies_in(home: Path, file: Path, known: dict[Path, bool]) -> bool:
    """Whether a file is below a directory, whatever links lead to; each folder is asked once."""
    if file.is_symlink() or file.name == "..":
        return file.resolve().is_relative_to(home)
    if file.parent not in known:
        known[file.parent] = file.parent.resolve().is_relative_to(home)
    return known[file.parent]


def _rows(directory: Path, table: Path, columns: dict[str, int], lists: bool) -> list[Row]:
    rows, seen, home, inside = [], dict[Path, int](), directory.resolve(), dict[Path, bool]()
    first = 2 if table.suffix.lower() == ".csv" else 1  # JSON lines have no header
    for number, cells in enumerate(cells_of(table, lists=lists)[1:], start=first):
        if not any(cells):
            continue
        where = f"{table}, row {number}"
        if len(cells) <= max(columns.values()):
            raise InputError(f"has {len(cells)} cells", where=where, todo="give one for each column of the header")
        said = {what: cells[place].strip() for what, place in columns.items()}
        if not said["label"]:
            todo = "name its class, or leave the row out" + ("; [] says that no label is true" if lists else "")
            raise InputError("has no label", where=where, todo=todo)
        file = directory / said["file"]
        if not said["file"] or "\0" in said["file"] or not lies_in(home, file, inside):
            raise InputError(f"'{said['file']}' is no file in {directory}", where=where, todo="name files below it")
        if not file.is_file():
            raise InputError(
                f"there is no file {said['file']}", where=where, todo=f"name files relative to {directory}"
            )
        if file in seen:
            what = f"{said['file']} is in row {seen[file]} too"
            raise InputError(what, where=where, todo="give one row for each image")
        part = said.get("part", "").lower()
        if "part" in columns and part not in (*TRAINS, *TESTS):
            what = f"'{said['part']}' is no part"
            raise InputError(what, where=where, todo=f"write one of {', '.join((*TRAINS, *TESTS))}")
        seen[file] = number
        rows.append(Row(number, file, said["label"], said.get("group", ""), part))
    if not rows:
        raise InputError("has no rows", where=table, todo="give one for each image")
    return rows
