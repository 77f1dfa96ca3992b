"""Labelled pictures of one's own, of any size: what there is to learn from, and what to be tested on once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.fields import checked_split
from jaxtl.data.folders import holds_folders, list_folders
from jaxtl.data.listing import Listing
from jaxtl.data.loading import load
from jaxtl.data.on_disk import Stored, memory_budget
from jaxtl.data.one_size import is_image
from jaxtl.data.overlap import copies
from jaxtl.data.resized import Resize, resized, resized_pictures
from jaxtl.data.tables import FORMATS, holds_table, list_table
from jaxtl.errors import InputError
from jaxtl.files import expanded

BLOCK = 256  # pictures at a time
LEAST = 2  # pictures of a class: one to learn from, one to be judged by


class Labelled(NamedTuple):
    """Pictures of one size with their labels.

    Attributes:
        name: short.
        train: image uint8 [N, edge, edge, 3], label, and group where something must not be divided.
        test: the same, looked at once; None where there is no such part.
        classes: names.
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


def labelled(data: str | os.PathLike[str] | DataSet, how: Resize, memory: int | None = None) -> Labelled:
    """Everything that is labelled, at one size.

    Args:
        data: a folder of images per class (with parts for training and testing, or none), a CSV or JSON lines of file
            and label, the directory of one; or a `DataSet` of images, or what `load` takes.
        how: edge, cache, what becomes of bad files.
        memory: bytes that images may take, by default `memory_budget()`; more are `Stored`.

    Raises:
        InputError: nothing that can be learned from; see `load`.
    """
    memory = memory_budget() if memory is None else memory
    if isinstance(data, DataSet):
        return _of_data_set(data, how, memory)
    path = expanded(data)
    if (path.is_file() and path.suffix.lower() in FORMATS) or (path.is_dir() and holds_table(path)):
        found = list_table(path, every=True)
    elif path.is_dir() and holds_folders(path):
        found = list_folders(path, every=True)
    elif path.is_dir() and any(is_image(file) for file in path.iterdir()):
        todo = "put them into one folder for each class, or write a CSV with a row of file and label for each"
        raise InputError("holds pictures and nothing that says what they are", where=path, todo=todo)
    else:
        return _of_data_set(load(data), how, memory)
    return _of_listing(found, path.stem or path.resolve().name, how, memory)


def _of_listing(found: Listing, name: str, how: Resize, memory: int) -> Labelled:
    check_sizes(found.labels[~found.tested], found.classes, found.directory)
    read = resized_pictures(found.directory, found.files, how, memory)
    kept = found.kept(read.rows)
    check_sizes(kept.labels[~kept.tested], kept.classes, kept.directory)
    rows = [np.flatnonzero(~kept.tested), np.flatnonzero(kept.tested)]
    groups = None if kept.groups is None else np.unique(kept.groups, return_inverse=True)[1].astype(np.int32)
    if groups is None and len(rows[0]):
        groups, copied = _copies_together(read.images, kept.labels)
        kept = kept._replace(remarks=[*kept.remarks, *copied])
    train, test = (
        checked_split(
            read.images[part], kept.labels[part], "class", None if groups is None else groups[part], where=name
        )
        if len(part)
        else None
        for part in rows
    )
    assert train is not None  # `check_sizes` has seen it
    names = [[str(kept.files[row].relative_to(kept.directory)) for row in part] for part in rows]
    notices = [*kept.remarks, *read.remarks, *([said] if test is not None and (said := copies(train, test)) else [])]
    origin = kept.origin
    return Labelled(
        name, train, test, tuple(kept.classes), origin, notices, names[0], names[1], read.skipped, read.white
    )


def _of_data_set(data: DataSet, how: Resize, memory: int) -> Labelled:
    if "image" not in data.train or data.train.images.ndim != 4 or data.train.target != "class":
        what = f"its examples have {', '.join(data.train.names)}, and their label is: {data.train.target}"
        raise InputError(what, where=data.name, todo="give pictures [N, H, W, C] with a class each")
    if data.train.images.dtype != np.uint8:
        raise InputError(f"pictures are {data.train.images.dtype}", where=data.name, todo="give uint8, 0 to 255")
    check_sizes(data.train.labels, data.classes, data.name)

    def square(part: Split) -> Split:
        images = part.images

        def read(rows: np.ndarray) -> np.ndarray:
            return np.stack([resized(image, how.edge) for image in np.asarray(images[rows])])

        stored: Any = Stored(read, np.arange(len(part)), (how.edge, how.edge, 3))
        return part.having(image=stored if stored.nbytes > memory else np.asarray(stored))

    notices = [data.notice] if data.notice else []
    return Labelled(
        data.name, square(data.train), square(data.test), data.classes, data.origin, notices, [], [], [], {}
    )


def _copies_together(images: Any, labels: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """(a group for each picture that copies share, None where there are none; a notice of them).

    A copy in what is learned from would answer for the one that is left out.
    """
    blocks = (np.asarray(images[start : start + BLOCK]) for start in range(0, len(images), BLOCK))
    marks = np.array([hashlib.blake2b(image.tobytes(), digest_size=16).digest() for block in blocks for image in block])
    names, group, counts = np.unique(marks, return_inverse=True, return_counts=True)
    if len(names) == len(marks):
        return None, []
    pairs = np.unique(np.stack([group, labels]), axis=1)
    torn = int((np.bincount(pairs[0]) > 1).sum())
    said = f"{int(counts[counts > 1].sum())} pictures are copies of each other, which are never parted"
    said += f"; {torn} of them are in several classes" if torn else ""
    return group.astype(np.int32), [said]


def check_sizes(labels: np.ndarray, classes: Sequence[str], where: object, noun: str = "pictures") -> None:
    """Refuse classes of which nothing could be said."""
    counts = np.bincount(labels, minlength=len(classes))
    few = [
        f"{name} has {'one' if count else 'none'}" for name, count in zip(classes, counts, strict=True) if count < LEAST
    ]
    if few:
        what = f"a class needs {LEAST} {noun} to learn from, and {', '.join(few[:3])}{', ...' if few[3:] else ''}"
        raise InputError(what, where=where, todo=f"add {noun}, or leave the class out")


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
