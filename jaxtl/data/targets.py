"""What the cells of a column of labels are: classes, several labels at a time, or numbers; by a rule, and told."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxtl.errors import InputError

Task = Literal["auto", "classes", "number", "several"]
MOST_CODES = 20  # different whole numbers up to which they are taken for the codes of classes
SEPARATOR = ";"
NUMBER = re.compile(r"[+-]?(0|[1-9]\d*|(?=\.))(\.\d*)?([eE][+-]?\d+)?")  # "007" is a code and "3,5" a slip


class Targets(NamedTuple):
    """What is to be learned.

    Attributes:
        labels: [N] places in `classes`; or 0 and 1 [N, C] of several labels; or numbers [N] float64.
        classes: the names, in alphabetical order; [] of numbers.
        remark: what was decided, where the cells could mean something else too; "" otherwise.
    """

    labels: np.ndarray
    classes: list[str]
    remark: str


def read_targets(cells: Sequence[str], task: Task, place: Callable[[int], str], where: object) -> Targets:
    """Labels of the kind that is asked for, or of the one that the cells are.

    "auto": several where any cell is a JSON list or holds a semicolon; numbers where all cells are and they are not few
    whole numbers, 20 different ones at most; otherwise classes.

    Args:
        cells: of the column, none of them empty.
        task: what they are.
        place: of a cell by its number, for what is said of it.
        where: the table, for what is said of all.

    Raises:
        InputError: a cell that is no number among numbers, a separator with nothing behind it, one class or value only.

    Example:
        >>> read_targets(["1.5", "2", "4.25"], "auto", str, "t.csv").remark
        'labels are numbers: regression; --task=classes for classes'
        >>> read_targets(["red;round", "red"], "auto", str, "t.csv").labels.tolist()
        [[1, 1], [1, 0]]
    """
    if task == "several" or (task == "auto" and any(SEPARATOR in cell or _listed(cell) for cell in cells)):
        return _several(cells, place, where, asked=task == "several")
    values = [number_of(cell) for cell in cells]
    known = np.array([value for value in values if value is not None])
    slips = sum(number_of(cell.replace(",", ".")) is not None for cell in cells)  # numbers with a decimal comma too
    few = _few(known)
    if task == "number" or (task == "auto" and 2 * slips >= len(cells) and not few):
        return _numbers(cells, values, place, where, asked=task == "number")
    remark = ""
    if task == "auto" and few and len(known) == len(cells):
        remark = f"labels are {len(np.unique(known))} whole numbers: classes; --task=number for regression"
    return _classes(cells, where, remark)


def number_of(cell: str) -> float | None:
    """A finite number; None of any other text, of codes such as 007 too.

    Example:
        >>> number_of("-2.5e3"), number_of("7"), number_of("007"), number_of("nan"), number_of("")
        (-2500.0, 7.0, None, None, None)
    """
    value = float(cell) if NUMBER.fullmatch(cell) and cell.strip("+-.") else math.nan
    return value if math.isfinite(value) else None


def _few(values: np.ndarray) -> bool:
    return len(values) > 0 and bool((values == np.round(values)).all()) and len(np.unique(values)) <= MOST_CODES


def _listed(cell: str) -> bool:
    return cell.startswith("[") and cell.endswith("]")


def _classes(cells: Sequence[str], where: object, remark: str) -> Targets:
    classes, labels = np.unique(np.array(cells), return_inverse=True)
    if len(classes) < 2:
        what = f"has one label, {classes[0]}"
        raise InputError(what, where=where, todo="one class is nothing to learn: give more")
    return Targets(labels, classes.tolist(), remark)


def _numbers(
    cells: Sequence[str], values: Sequence[float | None], place: Callable[[int], str], where: object, *, asked: bool
) -> Targets:
    bad = [row for row, value in enumerate(values) if value is None]
    if bad:
        cell = cells[bad[0]]
        point = cell.replace(",", ".", 1)
        what = f"'{cell}' is no number, " + ("one" if len(bad) == 1 else f"the first of {len(bad)}")
        what += f" among {len(cells)} labels"
        todo = f"write it with a point: {point}" if number_of(point) is not None else "write one, or leave the row out"
        raise InputError(what, where=place(bad[0]), todo=todo + ("" if asked else "; --task=classes for classes"))
    labels = np.array(values, np.float64)
    refuse_alike(labels, where)
    return Targets(labels, [], "" if asked else "labels are numbers: regression; --task=classes for classes")


def refuse_alike(labels: np.ndarray, where: object) -> None:
    """Refuse numbers of which there is nothing to learn, or that float32 does not tell apart."""
    spread, largest = float(np.std(labels, dtype=np.float64)), float(np.abs(labels).max())
    if (labels == labels[0]).all():
        what = f"all {len(labels)} labels are the number {labels[0]:g}"
        raise InputError(what, where=where, todo="there is nothing to learn: give others")
    if not largest <= 1e30 or np.spacing(np.float32(largest)) > 1e-3 * spread:
        what = f"labels reach {largest:g} and differ by {spread:g}, which 32 bits hardly tell apart"
        raise InputError(what, where=where, todo="take a number off all of them, or write them in another unit")


def _several(cells: Sequence[str], place: Callable[[int], str], where: object, *, asked: bool) -> Targets:
    todo = 'write names between semicolons, or a list such as ["red", "round"]; [] where none is true'
    todo += "" if asked else "; --task=classes for classes"
    named = [_names(cell, place(row), todo) for row, cell in enumerate(cells)]
    classes = sorted({name for names in named for name in names})
    if len(classes) < 2:
        what = f"names one label, {classes[0]}" if classes else "names no label at all"
        raise InputError(what, where=where, todo="name two at least, or write yes and no: that is two classes")
    number = {name: column for column, name in enumerate(classes)}
    labels = np.zeros((len(cells), len(classes)), np.int32)
    for row, names in enumerate(named):
        labels[row, [number[name] for name in names]] = 1
    shown = next(cell for cell in (*cells, "") if SEPARATOR in cell or _listed(cell) or not cell)
    remark = f"labels such as '{shown}' name several at a time; --task=classes takes each text for a class"
    return Targets(labels, classes, "" if asked else remark)


def _names(cell: str, where: str, todo: str) -> list[str]:
    """Of one cell: a JSON list, perhaps an empty one, or names between semicolons."""
    if _listed(cell):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            raise InputError(f"'{cell}' is no list of names", where=where, todo=todo) from None
        if not all(isinstance(name, str | int | float) for name in found):
            raise InputError(f"'{cell}' is no list of names", where=where, todo=todo)
        names = [str(name).strip() for name in found]
    else:
        names = [name.strip() for name in cell.split(SEPARATOR)]
    if not all(names):
        raise InputError(f"'{cell}' has an empty name", where=where, todo=todo)
    twice = next((name for k, name in enumerate(names) if name in names[:k]), None)
    if twice is not None:
        raise InputError(f"'{cell}' names {twice} twice", where=where, todo="name each label once")
    return names
