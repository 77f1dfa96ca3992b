"""Labelled pictures of one's own, of any size: what there is to learn from, and what to be tested on once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.dataset import DataSet, Split, Target
from jaxtl.data.fields import checked_split
from jaxtl.data.folders import holds_folders, list_folders
from jaxtl.data.listing import Listing
from jaxtl.data.loading import load
from jaxtl.data.on_disk import Stored, memory_budget
from jaxtl.data.one_size import is_image
from jaxtl.data.resized import Resize, resized, resized_pictures
from jaxtl.data.tables import FORMATS, holds_table, list_table
from jaxtl.data.targets import Task, number_of, refuse_alike
from jaxtl.errors import InputError
from jaxtl.files import expanded

BLOCK = 256  # pictures at a time
LEAST = 2  # pictures of a class: one to learn from, one to be judged by
LEAST_NUMBERS = 10  # pictures with a number: fewer have no interval that covers nine of ten
TARGETS: dict[Task, Target] = {"classes": "class", "number": "number", "several": "labels"}


class Labelled(NamedTuple):
    """Pictures of one size with their labels.

    Attributes:
        name: short.
        train: image uint8 [N, edge, edge, 3], label, and group where something must not be divided.
        test: the same, looked at once; None where there is no such part.
        classes: names; () of numbers.
        origin: where they come from, in words.
        notices: what there is to know of them.
        files: what each training example is called; [] where they are no files.
        test_files: the same of the test part.
        skipped: (file, why) of what could not be used.
        white: of pictures of more than 8 bits, see `decode.white_levels`.
    """

    name: str
    train: Split
    test: Split | None
    classes: tuple[str, ...]
    origin: str
    notices: list[str]
    files: list[str]
    test_files: list[str]
    skipped: list[tuple[str, str]]
    white: dict[str, float]

    @property
    def task(self) -> Task:
        """What the labels are."""
        return next(task for task, target in TARGETS.items() if target == self.train.target)


def labelled(
    data: str | os.PathLike[str] | DataSet, how: Resize, memory: int | None = None, task: Task = "auto"
) -> Labelled:
    """Everything that is labelled, at one size.

    Args:
        data: a folder of images per class (with parts for training and testing, or none), a CSV or JSON lines of file
            and label, the directory of one; or a `DataSet` of images, or what `load` takes.
        how: edge, cache, what becomes of bad files.
        memory: bytes that images may take, by default `memory_budget()`; more are `Stored`.
        task: what the labels are, see `read_targets`; "auto" goes by them.

    Raises:
        InputError: nothing that can be learned from, labels of another kind; see `load`.
    """
    memory = memory_budget() if memory is None else memory
    if isinstance(data, DataSet):
        return _of_data_set(data, how, memory, task)
    path = expanded(data)
    if (path.is_file() and path.suffix.lower() in FORMATS) or (path.is_dir() and holds_table(path)):
        found = list_table(path, every=True, task=task)
    elif path.is_dir() and holds_folders(path):
        found = _by_name(list_folders(path, every=True), task)
    elif path.is_dir() and any(is_image(file) for file in path.iterdir()):
        todo = "put them into one folder for each class, or write a CSV with a row of file and label for each"
        raise InputError("holds pictures and nothing that says what they are", where=path, todo=todo)
    else:
        return _of_data_set(load(data), how, memory, task)
    return _of_listing(found, path.stem or path.resolve().name, how, memory)


def _as_slice(rows: np.ndarray) -> np.ndarray | slice:
    """Rows that follow each other as a slice, which copies nothing."""
    return slice(rows[0], rows[-1] + 1) if len(rows) and rows[-1] - rows[0] == len(rows) - 1 else rows


def _by_name(found: Listing, task: Task) -> Listing:
    """Folders whose names are what is asked for."""
    if task == "several":
        todo = "write a CSV with a row of file and label for each, such as a.jpg,red;round"
        raise InputError("a folder gives each picture one class", where="--task=several", todo=todo)
    if task != "number":
        return found
    values = [number_of(name) for name in found.classes]
    if None in values:
        what = f"the folder {found.classes[values.index(None)]} is called by no number"
        raise InputError(what, where=found.directory, todo="call each by its number, or leave --task=number out")
    return found._replace(labels=np.array(values, np.float64)[found.labels], classes=[])


def _of_listing(found: Listing, name: str, how: Resize, memory: int) -> Labelled:
    check_sizes(found.labels[~found.tested], found.classes, found.directory)
    read = resized_pictures(found.directory, found.files, how, memory)
    kept = found.kept(read.rows)
    check_sizes(kept.labels[~kept.tested], kept.classes, kept.directory)
    rows = [np.flatnonzero(~kept.tested), np.flatnonzero(kept.tested)]
    groups = None if kept.groups is None else np.unique(kept.groups, return_inverse=True)[1].astype(np.int32)
    marks = _marks(read.images)
    groups, copied = copies_together(marks, kept.labels, groups)
    target: Target = "number" if kept.labels.dtype.kind == "f" else "class" if kept.labels.ndim == 1 else "labels"
    parts = (
        (read.images[_as_slice(part)], kept.labels[part], target, None if groups is None else groups[part])
        for part in rows
    )
    train, test = (checked_split(*part, where=name) if len(part[1]) else None for part in parts)
    assert train is not None  # `check_sizes` has seen it
    names = [[str(kept.files[row].relative_to(kept.directory)) for row in part] for part in rows]
    notices = [*kept.remarks, *copied, *read.remarks, *copies_across(marks[rows[0]], marks[rows[1]])]
    origin = kept.origin
    return Labelled(
        name, train, test, tuple(kept.classes), origin, notices, names[0], names[1], read.skipped, read.white
    )


def _of_data_set(data: DataSet, how: Resize, memory: int, task: Task) -> Labelled:
    target = data.train.target
    if "image" not in data.train or data.train.images.ndim != 4 or target not in TARGETS.values():
        what = f"its examples have {', '.join(data.train.names)}, and their label is: {target}"
        raise InputError(what, where=data.name, todo="give pictures [N, H, W, C] with a label each")
    if data.train.images.dtype != np.uint8:
        raise InputError(f"pictures are {data.train.images.dtype}", where=data.name, todo="give uint8, 0 to 255")
    if task not in ("auto", own := next(name for name, one in TARGETS.items() if one == target)):
        todo = f"leave --task out, or give labels with target='{TARGETS[task]}'"
        raise InputError(f"its labels are {own}", where=f"--task={task}", todo=todo)
    parts = [_one_number_each(part, data.name) if target == "number" else part for part in (data.train, data.test)]
    check_sizes(parts[0].labels, data.classes, data.name)

    def square(part: Split) -> Split:
        images = part.images

        def read(rows: np.ndarray) -> np.ndarray:
            return np.stack([resized(image, how.edge) for image in np.asarray(images[rows])])

        stored: Any = Stored(read, np.arange(len(part)), (how.edge, how.edge, 3))
        return part.having(image=stored if stored.nbytes > memory else np.asarray(stored))

    train, test = map(square, parts)
    notices = [*([data.notice] if data.notice else []), *copies_across(_marks(train.images), _marks(test.images))]
    return Labelled(data.name, train, test, data.classes, data.origin, notices, [], [], [], {})


def _one_number_each(part: Split, where: str) -> Split:
    if part.labels.size != len(part):
        what = f"labels {list(part.labels.shape)}, several numbers for each picture"
        raise InputError(what, where=where, todo="give one number for each, [N]")
    return part.having(label=part.labels.reshape(-1))


def _marks(images: Any) -> np.ndarray:
    """[N] bytes, equal for equal pictures."""
    blocks = (np.asarray(images[start : start + BLOCK]) for start in range(0, len(images), BLOCK))
    return np.array(
        [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for block in blocks for image in block], "S32"
    )


def copies_together(
    marks: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, noun: str = "pictures"
) -> tuple[np.ndarray | None, list[str]]:
    """(groups [N] that no copies are divided by, None where there are neither; a notice of copies).

    A copy in what is learned from would answer for the one that is left out. Groups that share copies become one.
    """
    names, copy, counts = np.unique(marks, return_inverse=True, return_counts=True)
    if len(names) == len(marks):
        return groups, []
    different = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([copy, different]), axis=1)
    torn = int((np.bincount(pairs[0]) > 1).sum())
    said = f"{int(counts[counts > 1].sum()):,} {noun} are copies of each other, which are never parted"
    said += f"; {torn:,} of them are labelled differently" if torn else ""
    if groups is not None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        edges = coo_array((np.ones(len(copy)), (copy, len(names) + groups)), (len(names) + groups.max() + 1,) * 2)
        copy = connected_components(edges, directed=False)[1][copy]
    return copy.astype(np.int32), [said]


def copies_across(
    train: np.ndarray, test: np.ndarray, noun: str = "pictures", how: str = ", pixel for pixel"
) -> list[str]:
    """A notice of examples for testing that are learned from too: of them the test says nothing."""
    count = int(np.isin(test, train).sum())
    said = f"{count:,} of {len(test):,} {noun} for testing are learned from too{how}: take them out"
    return [said] if count else []


def check_sizes(labels: np.ndarray, classes: Sequence[str], where: object, noun: str = "pictures") -> None:
    """Refuse classes, labels or numbers of which nothing could be said."""
    if not classes:
        if len(labels) < LEAST_NUMBERS:
            what = f"{len(labels)} {noun} with a number to learn from"
            raise InputError(what, where=where, todo=f"give {LEAST_NUMBERS} at least")
        return refuse_alike(labels, where)
    several = labels.ndim == 2
    counts = labels.sum(axis=0) if several else np.bincount(labels, minlength=len(classes))
    few = [
        f"{name} has {'one' if count else 'none'}" for name, count in zip(classes, counts, strict=True) if count < LEAST
    ]
    if few:
        kind = "label" if several else "class"
        what = f"a {kind} needs {LEAST} {noun} to learn from, and {', '.join(few[:3])}{', ...' if few[3:] else ''}"
        what += f" ({len(few)} of {len(classes)})" if few[3:] else ""
        raise InputError(what, where=where, todo=f"add {noun}, or leave the {kind} out")
    every = [name for name, count in zip(classes, counts, strict=True) if count > len(labels) - LEAST]
    if several and every:
        what = f"a label needs {LEAST} {noun} without it, and nearly all have {every[0]}"
        raise InputError(what, where=where, todo=f"leave the label out, or add {noun} without it")


def unlabelled(path: str | os.PathLike[str]) -> tuple[Path, list[Path]]:
    """(the directory above them, pictures to be classified): of a folder at any depth, of a table, or one file.

    Raises:
        InputError: there is nothing, or no picture.
    """
    found = expanded(path)
    if found.is_dir():
        files = sorted(
            file
            for file in found.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(found).parts)
        )
        if not files:
            raise InputError("holds no files", where=found, todo="give a folder of pictures, or one picture")
        return found, files
    if not found.exists():
        raise InputError("no such file or directory", where=found, todo="give a folder of pictures, or one picture")
    return found.parent, [found]
