"""Image folders: one directory for each class, with or without parts for training and testing above them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from jaxtl.data.dataset import DataSet
from jaxtl.data.files import listed, reported
from jaxtl.data.listing import Listing, data_set
from jaxtl.data.one_size import is_image
from jaxtl.data.resized import Resize
from jaxtl.errors import InputError

# What the parts may be called, in any capitalisation and in the order of looking.
TRAINS = ("train", "training")
TESTS = ("test", "testing", "val", "valid", "validation", "dev")
# Folders by what they hold and not by a class: their labels are somewhere else.
CONTENTS = ("image", "images", "img", "imgs", "jpegimages", "photos", "pictures", "mask", "masks", "labels")
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".parquet", ".txt", ".xml")


def holds_folders(directory: Path) -> bool:
    """Whether there are folders of images here, or below parts for training and testing."""
    parts = [*_parts(directory).values()]
    above = [*parts, *(folder for part in parts for folder in _folders(part))] or _folders(directory)
    return any(is_image(file) for folder in above for file in _files(folder))


def read_folders(directory: Path, name: str, memory: float = math.inf, resize: Resize | None = None) -> DataSet:
    """`train/CLASS/*.png` and `test/CLASS/*.png` (or `val`, ...), or `CLASS/*.png` with a fifth split off for testing.

    Args:
        directory: above the parts or the classes; hidden files are passed over. Parts may be called `TRAINS` and
            `TESTS` in any capitalisation.
        name: of the data set.
        memory: bytes; if its images take more, they are `Stored`.
        resize: how images of any size come to one.

    Returns:
        Classes in alphabetical order; images grey if all of them are, else in colour. `notice` tells which folders are
        not read, and what was done to images beyond decoding them.

    Raises:
        InputError: no test part or none for training, only one class, folders that are no classes, a class that is not
            among those of training, files that are no images or cannot be read, or images of several sizes.
    """
    return data_set(list_folders(directory), name, memory, resize)


def list_folders(directory: Path, every: bool = False) -> Listing:
    """The files of image folders with their labels, before any is opened.

    Args:
        directory: as for `read_folders`.
        every: what is there for training is all of it: files at any depth below their class, and of two parts that are
            not `train` the one called test alone is for testing. Then no test part is needed.

    Raises:
        InputError: see `read_folders`.
    """
    parts = _parts(directory)
    if not parts:
        trains, tests = [directory], list[Path]()
        origin = f"{directory} (image folders{'' if every else ', test part split off here'})"
    else:
        trains, tests = _train_and_test(directory, parts, every)
        origin = f"{directory} (image folders{f', tested on {tests[0].name}' if tests else ''})"
    unread = [folder.name for folder in _folders(directory) if folder not in (*trains, *tests)] if parts else []
    remarks = [f"not read: {listed(unread)}"] if unread else []
    if len(trains) > 1:
        remarks.append(f"{' and '.join(part.name for part in trains)} are learned from together")
    remarks += _beside(list(dict.fromkeys([directory, *trains, *tests])))
    classes = [folder.name for folder in _folders(trains[0])]
    by_part = {part: _labelled(part, every) for part in (*trains, *tests)}
    for part, own in by_part.items():
        _check_part(part, trains[0], classes, own)
    _check_classes(trains[0], classes)
    place = {name: number for number, name in enumerate(classes)}
    found = [(file, place[name], part in tests) for part, own in by_part.items() for file, name in own]
    files, numbers, tested = zip(*found, strict=True)
    labels = np.array(numbers)
    return Listing(directory, list(files), labels, np.array(tested), None, classes, origin, remarks)


def _labelled(part: Path, every: bool) -> list[tuple[Path, str]]:
    return [(file, folder.name) for folder in _folders(part) for file in _files(folder, every)]


def _check_part(part: Path, first: Path, classes: list[str], labelled: list[tuple[Path, str]]) -> None:
    known = set(classes)
    strangers = [folder.name for folder in _folders(part) if folder.name not in known]
    if strangers:
        todo = f"the classes of {first.name} are {listed(classes)}"
        raise InputError(f"has a class {strangers[0]}", where=part, todo=todo)
    if not labelled:
        what = "holds images and no folders of them" if any(map(is_image, _files(part))) else "holds no images"
        raise InputError(what, where=part, todo="put them into one folder for each class")


def _beside(directories: list[Path]) -> list[str]:
    """Images beside the folders instead of in them."""
    count = sum(is_image(file) and not file.is_dir() for directory in directories for file in _files(directory))
    return [f"not read: {count} images beside the folders"] if count else []


def _parts(directory: Path) -> dict[str, Path]:
    """The folders that are parts, by their names in small letters; a class may be called train or valid as well."""
    found: dict[str, Path] = {}
    folders = _folders(directory)
    for folder in folders:
        part = folder.name.lower()
        if part in found:
            what = f"holds both {found[part].name} and {folder.name}"
            raise InputError(what, where=directory, todo="put them together, or move one away")
        if part in (*TRAINS, *TESTS):
            found[part] = folder
    alone = len(found) == 1 < len(folders)
    return {} if alone and not _folders(next(iter(found.values()))) else found


def _train_and_test(directory: Path, parts: dict[str, Path], every: bool) -> tuple[list[Path], list[Path]]:
    trains = [parts[part] for part in TRAINS if part in parts]
    tests = [parts[part] for part in TESTS if part in parts]
    held = " and ".join(path.name for path in parts.values())
    if len(trains) != 1:
        todo = f"call the part for training train, and only that one; test parts are {', '.join(TESTS)}"
        raise InputError(f"has {held} and {'no' if not trains else 'more than one'} train", where=directory, todo=todo)
    if every:
        return trains + tests[1:], tests[:1]
    if not tests:
        todo = "add one, or give the directory of train itself: a test part is then split off"
        raise InputError(f"has {held} and no test or val", where=directory, todo=todo)
    return trains, tests[:1]


def _check_classes(directory: Path, classes: list[str]) -> None:
    """One class is nothing to learn, and folders of images beside a table of labels are not read as classes."""
    tables = [file.name for file in _files(directory) if file.suffix.lower() in TABLES and file.is_file()]
    beside = f"; {tables[0]} beside it is not read" if tables else ""
    todo = "make one folder for each class, named like it, and put its files into it"
    if len(classes) == 1:
        what = f"holds one folder, {classes[0]}, and one class is nothing to learn{beside}"
        raise InputError(what, where=directory, todo=todo)
    odd = [name for name in classes if name.lower() in CONTENTS]
    if odd and (tables or len(odd) == len(classes)):
        raise InputError(f"holds a folder {odd[0]}, which is no class{beside}", where=directory, todo=todo)


def _folders(directory: Path) -> list[Path]:
    with reported(directory):
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
        for path in paths:
            if path.is_symlink() and not os.path.exists(path):  # perhaps of a class, which would be left out
                raise InputError("is a link that leads nowhere", where=path, todo="mend it, or remove it")
        return [path for path in paths if path.is_dir()]


def _files(folder: Path, every: bool = False) -> list[Path]:
    """What a folder holds; every file at any depth, if so asked."""
    with reported(folder):
        if not every:
            return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    with reported(folder), os.scandir(folder) as entries:  # which say what they are without being asked one by one
        plain = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
        inside = len(os.listdir(folder)) > len(plain)
    below = [file for inner in _folders(folder) for file in _files(inner, every)] if inside else []
    return sorted([*below, *plain])
