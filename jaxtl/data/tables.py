"""Images with a table of labels beside them: a CSV with a row for each, and columns for file, label, group and part."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtl.data.arrays import from_arrays
from jaxtl.data.dataset import DataSet
from jaxtl.data.files import listed, reported
from jaxtl.data.folders import TESTS, TRAINS, pictures
from jaxtl.errors import InputError
from jaxtl.files import open_regular

LARGEST = 64 * 2**20  # bytes of a table: a million rows
COLUMNS = {  # what each may be called, in any capitalisation
    "file": ("file", "filename", "file_name", "path", "image", "image_path"),
    "label": ("label", "class", "target", "category"),
    "group": ("group",),
    "part": ("split", "part"),
}


class Row(NamedTuple):
    """Of a table: where its image is, and what is said of it; "" for what there is no column for."""

    file: Path
    label: str
    group: str
    part: str


def holds_table(directory: Path) -> bool:
    """Whether there is a CSV with columns for file and label here."""
    return bool(_tables(directory))


def read_table(directory: Path, name: str, memory: float) -> DataSet:
    """Images that one CSV names, with their labels; without a column "split" a fifth is split off for testing.

    Args:
        directory: holds the CSV; files are named relative to it. Columns are found by `COLUMNS`; "group" says what must
            not be divided, "split" holds train or test (or val, ...) for every row.
        name: of the data set.
        memory: bytes; if its images take more, they are `Stored`.

    Returns:
        Classes in alphabetical order.

    Raises:
        InputError: several such tables, a row without a file or a label, files outside of the directory, named twice or
            unreadable, a word that is no part, no row for testing.
    """
    table, columns = _the_table(directory)
    rows = _rows(directory, table, columns)
    classes = sorted({row.label for row in rows})
    if len(classes) < 2:
        raise InputError(f"has one label, {classes[0]}", where=table, todo="one class is nothing to learn: give more")
    images, remarks = pictures(directory, [row.file for row in rows], memory)
    labels = np.array([classes.index(row.label) for row in rows])
    groups = np.array([row.group for row in rows]) if "group" in columns else None
    if "part" not in columns:
        origin = f"{table} (test part split off here)"
        data = from_arrays(images, labels, groups=groups, classes=classes, name=name, origin=origin)
    else:
        tested = np.array([row.part in TESTS for row in rows])
        for mask, what in ((~tested, "train"), (tested, "test")):
            if not mask.any():
                raise InputError(f"no row is for {what}", where=table, todo=f"write {what} into the column of parts")
        data = from_arrays(
            images[~tested],
            labels[~tested],
            images[tested],
            labels[tested],
            groups=None if groups is None else groups[~tested],
            test_groups=None if groups is None else groups[tested],
            classes=classes,
            name=name,
            origin=str(table),
        )
    return data.told(f"{name}: {'; '.join(remarks)}" if remarks else "")


def _the_table(directory: Path) -> tuple[Path, dict[str, int]]:
    found = _tables(directory)
    if len(found) > 1:
        what = f"holds {len(found)} tables of labels: {listed(table.name for table in found)}"
        raise InputError(what, where=directory, todo="leave one, with a column split that says train or test")
    return next(iter(found.items()))


def _tables(directory: Path) -> dict[Path, dict[str, int]]:
    """CSV files with columns for file and label, and which columns these are."""
    with reported(directory):
        files = sorted(path for path in directory.iterdir() if path.suffix.lower() == ".csv" and path.is_file())
    found = {file: _columns(next(iter(_read(file, 1)), [])) for file in files if not file.name.startswith(".")}
    return {file: columns for file, columns in found.items() if {"file", "label"} <= columns.keys()}


def _columns(header: list[str]) -> dict[str, int]:
    """By meaning, the first column that is called so."""
    called = [cell.strip().lower() for cell in header]
    places = {what: [called.index(name) for name in names if name in called] for what, names in COLUMNS.items()}
    return {what: found[0] for what, found in places.items() if found}


def _read(file: Path, most: int | None = None) -> list[list[str]]:
    """The rows of a CSV, the header too, or the first of them."""
    with reported(file, csv.Error, UnicodeDecodeError), open_regular(file) as content:
        start = content.read(LARGEST + 1)
        if len(start) > LARGEST:
            what = f"is larger than {LARGEST // 2**20} MB"
            raise InputError(what, where=file, todo="one row for each image is all that is read: leave the rest out")
        rows = csv.reader(io.StringIO(start.decode("utf-8-sig"), newline=""))
        return [row for _, row in zip(range(most), rows, strict=False)] if most else list(rows)


def _rows(directory: Path, table: Path, columns: dict[str, int]) -> list[Row]:
    rows, seen, home = [], dict[Path, int](), directory.resolve()
    for number, cells in enumerate(_read(table)[1:], start=2):
        if not any(cells):
            continue
        where = f"{table}, row {number}"
        if len(cells) <= max(columns.values()):
            raise InputError(f"has {len(cells)} cells", where=where, todo="give one for each column of the header")
        said = {what: cells[place].strip() for what, place in columns.items()}
        if not said["label"]:
            raise InputError("has no label", where=where, todo="name its class, or leave the row out")
        file = directory / said["file"]
        if not said["file"] or "\0" in said["file"] or not file.resolve().is_relative_to(home):
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
        rows.append(Row(file, said["label"], said.get("group", ""), part))
    if not rows:
        raise InputError("has no rows", where=table, todo="give one for each image")
    return rows
