"""Labelled texts of one's own: a CSV or JSON lines with columns text and label, or a folder of .txt files per class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtl import files
from jaxtl.data.dataset import Split
from jaxtl.data.files import decoded, listed
from jaxtl.data.folders import TESTS, TRAINS, holds_folders, list_folders
from jaxtl.data.labelled import Labelled, check_sizes, copies_across, copies_together
from jaxtl.data.one_size import refuse
from jaxtl.data.tables import FORMATS, cells_of, columns_of, header_of
from jaxtl.data.targets import Task, read_targets
from jaxtl.errors import InputError

ENDING = ".txt"
LARGEST = 2**30  # bytes of a table
LARGEST_FILE = 2**26  # bytes of a text by itself
NOUN = "texts"


class Table(NamedTuple):
    """The rows of a table that have a text.

    Attributes:
        texts: [N].
        places: [N] what each is called: "row 2".
        said: label, group and part by row; "" for what there is no column for.
        columns: which of those there are.
    """

    texts: list[str]
    places: list[str]
    said: list[dict[str, str]]
    columns: frozenset[str]


def holds_texts(path: Path) -> bool:
    """Whether there are labelled texts here, rather than pictures.

    Raises:
        InputError: a table with a column for texts and another for files.
    """
    if path.is_file() and path.suffix.lower() in FORMATS:
        return _is_table(path)
    if not path.is_dir():
        return False
    return bool(_tables(path)) or (not holds_folders(path) and _text_folders(path))


def _is_table(table: Path) -> bool:
    columns = columns_of(header_of(table, LARGEST))
    if {"file", "text"} <= columns.keys():
        todo = "leave one of them: pictures have a file, texts a text"
        raise InputError("has a column for the file and one for the text", where=table, todo=todo)
    return "text" in columns


def _tables(directory: Path) -> list[Path]:
    candidates = sorted(path for path in directory.iterdir() if path.suffix.lower() in FORMATS and path.is_file())
    return [path for path in candidates if not path.name.startswith(".") and _is_table(path)]


def _text_folders(directory: Path) -> bool:
    """Whether there are .txt files in folders here, at any depth."""
    return any(len(file.relative_to(directory).parts) > 1 for file in directory.rglob(f"*{ENDING}"))


def labelled_texts(data: str | os.PathLike[str], skip_bad: bool = False, task: Task = "auto") -> Labelled:
    """Everything that is labelled.

    Args:
        data: a CSV or JSON lines with columns text and label (and group and split, if there are any), the directory of
            one, or of folders of .txt files per class, perhaps below parts for training and testing.
        skip_bad: leave out files that are no texts, instead of refusing all.
        task: what the labels are, see `read_targets`.

    Returns:
        Splits with the field "text", an array of str; copies of a text are one group where no groups are given.

    Raises:
        InputError: nothing that can be learned from, a row without a label, no UTF-8.
    """
    path = files.expanded(data)
    if path.is_dir() and not (tables := _tables(path)):
        return _of_folders(path, skip_bad, task)
    if path.is_dir() and len(tables) > 1:
        what = f"holds {len(tables)} tables of texts: {listed(table.name for table in tables)}"
        raise InputError(what, where=path, todo="leave one, with a column split that says train or test")
    return _of_table(tables[0] if path.is_dir() else path, task)


def _of_table(table: Path, task: Task) -> Labelled:
    read = read_texts(table, lists=task in ("auto", "several"))
    if "label" not in read.columns:
        raise InputError("has no column for the label", where=table, todo="call one of its columns label")
    for place, said in zip(read.places, read.said, strict=True):
        if not said["label"]:
            raise InputError("has no label", where=f"{table}, {place}", todo="name its class, or leave the row out")
        if "part" in read.columns and said["part"].lower() not in (*TRAINS, *TESTS):
            todo = f"write one of {', '.join((*TRAINS, *TESTS))}"
            raise InputError(f"'{said['part']}' is no part", where=f"{table}, {place}", todo=todo)
    parts = [said["part"].lower() for said in read.said]
    held = {part for part in parts if part in TESTS}
    apart = held & set(TESTS[:2]) or held  # words for validation mean training where there are rows for test
    tested = np.array([part in apart for part in parts])
    if tested.all():
        raise InputError("no row is for train", where=table, todo="write train into the column of parts")
    groups = [said["group"] for said in read.said] if "group" in read.columns else None
    names = [said["label"] for said in read.said]
    return labelled_rows(table, read.texts, names, task, tested, groups, read.places, str(table), [], [])


def read_texts(table: Path, lists: bool = False) -> Table:
    """The texts of a CSV or of JSON lines, with what is said of each; `lists`: a label may be a list of names.

    Raises:
        InputError: no column for the text, no rows, a row of too few cells, no UTF-8.
    """
    rows = cells_of(table, lists=lists, largest=LARGEST)
    columns = columns_of(next(iter(rows), []))
    if "text" not in columns:
        todo = "call one of its columns text"
        raise InputError("has no column for the text", where=table, todo=todo)
    texts, places, said = list[str](), list[str](), list[dict[str, str]]()
    for number, cells in enumerate(rows[1:], start=2 if table.suffix.lower() == ".csv" else 1):
        if not any(cells):
            continue
        if len(cells) <= max(columns.values()):
            todo = "give one for each column of the header"
            raise InputError(f"has {len(cells)} cells", where=f"{table}, row {number}", todo=todo)
        found = {what: cells[place] for what, place in columns.items()}
        texts.append(found.pop("text"))
        places.append(f"row {number}")
        said.append({"label": "", "group": "", "part": ""} | {what: cell.strip() for what, cell in found.items()})
    if not texts:
        raise InputError("has no rows", where=table, todo="give one for each text")
    return Table(texts, places, said, frozenset(columns))


def _of_folders(directory: Path, skip_bad: bool, task: Task) -> Labelled:
    found = list_folders(directory, every=True)
    texts, wrong = read_files(found.files)
    if wrong and not skip_bad:
        refuse(
            directory, wrong, found.files, todo="mend them, move them away, or leave them out by --skip-bad", many=10**9
        )
    rows = np.array([row for row, file in enumerate(found.files) if file not in wrong], int)
    if not len(rows):
        refuse(directory, wrong, found.files, todo="give texts that can be read")
    kept = found.kept(rows)
    names = [found.classes[label] for label in kept.labels]
    called = [str(file.relative_to(directory)) for file in kept.files]
    skipped = [(str(file.relative_to(directory)), wrong[file].what) for file in found.files if file in wrong]
    origin = found.origin.replace("(image folders", "(text folders")
    return labelled_rows(
        directory, [texts[row] for row in rows], names, task, kept.tested, None, called, origin, kept.remarks, skipped
    )


def read_files(paths: Sequence[Path]) -> tuple[list[str], dict[Path, InputError]]:
    """(the text of each, "" of those that cannot be read; why not)."""
    texts, wrong = list[str](), dict[Path, InputError]()
    for path in paths:
        try:
            texts.append(_text_of(path))
        except InputError as error:
            texts.append("")
            wrong[path] = error
    return texts, wrong


def _text_of(path: Path) -> str:
    if path.suffix.lower() != ENDING:
        raise InputError(f"is no {ENDING} file", where=path, todo=f"give texts in UTF-8 that end in {ENDING}")
    return decoded(files.content(path, LARGEST_FILE), path)


def labelled_rows(
    path: Path,
    texts: list[str],
    names: list[str],
    task: Task,
    tested: np.ndarray,
    grouped: list[str] | None,
    called: list[str],
    origin: str,
    notices: list[str],
    skipped: list[tuple[str, str]],
) -> Labelled:
    """Texts that have been read, with the names of their labels; checked, and copies of one text put together.

    Args:
        path: where they lie.
        texts, names: [N] each.
        task: what the labels are.
        tested: bool [N], which are for testing.
        grouped: [N] names of groups, or None.
        called: [N], what each is called.
        origin: where they come from, in words.
        notices: what there is to know already.
        skipped: (file, why) of what could not be used.

    Raises:
        InputError: all are empty, or their labels can teach nothing.
    """
    empty = sum(not text.strip() for text in texts)
    if empty == len(texts):
        raise InputError(f"all {empty} texts are empty", where=path, todo="give texts that say something")
    learned = read_targets(names, task, lambda k: f"{path}, {called[k]}", path)
    labels, classes = learned.labels, learned.classes
    check_sizes(labels[~tested], classes, path, NOUN)
    notices = [*notices, *([learned.remark] if learned.remark else [])]
    notices += [f"{empty:,} of {len(texts):,} texts are empty"] if empty else []
    groups = np.unique(grouped, return_inverse=True)[1].astype(np.int32) if grouped else None
    marks = np.array([mark_of(text) for text in texts], "S32")
    groups, told = copies_together(marks, labels, groups, NOUN)
    notices += told
    notices += copies_across(marks[~tested], marks[tested], NOUN, "")
    array = np.empty(len(texts), object)
    array[:] = texts
    label = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32)
    whole = Split(text=array, label=label, **({} if groups is None else {"group": groups}))
    rows = [np.flatnonzero(~tested), np.flatnonzero(tested)]
    train, test = (whole.take(part) if len(part) else None for part in rows)
    assert train is not None  # `check_sizes` has seen it
    own, others = ([called[row] for row in part] for part in rows)
    name = path.stem or path.resolve().name
    return Labelled(name, train, test, tuple(classes), origin, notices, own, others, skipped, {})


def mark_of(text: str) -> bytes:
    """Equal for texts that differ in white space and capitals only."""
    words = " ".join(text.split()).casefold().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(words, digest_size=16).hexdigest().encode()


def unlabelled_texts(path: str | os.PathLike[str]) -> tuple[list[str], list[str | InputError]]:
    """(what each is called, its text or why there is none): of a table with a column text, a folder, or one file.

    Raises:
        InputError: there is nothing, or no such column.
    """
    found = files.expanded(path)
    if not found.exists():
        todo = "give a CSV or JSON lines with a column text, a folder of .txt files, or one"
        raise InputError("no such file or directory", where=found, todo=todo)
    if found.is_file() and found.suffix.lower() in FORMATS:
        read = read_texts(found)
        return read.places, list(read.texts)
    directory = found if found.is_dir() else found.parent
    paths = [found]
    if found.is_dir():
        every = sorted(file for file in found.rglob("*") if file.is_file())
        paths = [file for file in every if not any(part.startswith(".") for part in file.relative_to(found).parts)]
    if not paths:
        raise InputError("holds no files", where=found, todo="give a folder of .txt files, or a CSV with a column text")
    texts, wrong = read_files(paths)
    said = [wrong.get(file, text) for file, text in zip(paths, texts, strict=True)]
    return [str(file.relative_to(directory)) for file in paths], said
