"""Image folders: one directory for each class, with or without parts for training and testing above them."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data import decode
from jaxtl.data.arrays import assembled, from_arrays
from jaxtl.data.dataset import DataSet
from jaxtl.data.files import listed, reported
from jaxtl.data.on_disk import Stored
from jaxtl.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# What the parts may be called, in any capitalisation and in the order of looking.
TRAINS = ("train", "training")
TESTS = ("test", "testing", "val", "valid", "validation", "dev")
# Folders by what they hold and not by a class: their labels are somewhere else.
CONTENTS = ("image", "images", "img", "imgs", "jpegimages", "photos", "pictures", "mask", "masks", "labels")
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".parquet", ".txt", ".xml")
SHOWN = 3  # of the files that cannot be used
MANY = 500  # of them: no more are looked for
REPAIR = "repair them or move them away"


def holds_folders(directory: Path) -> bool:
    """Whether there are folders of images here, or below parts for training and testing."""
    parts = [*_parts(directory).values()]
    above = [*parts, *(folder for part in parts for folder in _folders(part))] or _folders(directory)
    return any(_is_image(file) for folder in above for file in _files(folder))


def read_folders(directory: Path, name: str, memory: float = math.inf) -> DataSet:
    """`train/CLASS/*.png` and `test/CLASS/*.png` (or `val`, ...), or `CLASS/*.png` with a fifth split off for testing.

    Args:
        directory: above the parts or the classes; hidden files are passed over. Parts may be called `TRAINS` and
            `TESTS` in any capitalisation.
        name: of the data set.
        memory: bytes; if its images take more, they are `Stored`.

    Returns:
        Classes in alphabetical order; images grey if all of them are, else in colour. `notice` tells which folders are
        not read, and what was done to images beyond decoding them.

    Raises:
        InputError: no test part or none for training, only one class, folders that are no classes, a class that is not
            among those of training, files that are no images or cannot be read, or images of several sizes.
    """
    parts = _parts(directory)
    if not parts:
        ((pictures, labels, classes),), remarks = _read(directory, [directory], memory)
        origin = f"{directory} (image folders, test part split off here)"
        data = from_arrays(pictures, labels, classes=classes, name=name, origin=origin)
        return _with_notice(data, _beside([directory]) + remarks)
    train, test = _train_and_test(directory, parts)
    (first, second), remarks = _read(directory, [train, test], memory)
    unread = [folder.name for folder in _folders(directory) if folder not in (train, test)]
    remarks = ([f"not read: {listed(unread)}"] if unread else []) + _beside([directory, train, test]) + remarks
    origin = f"{directory} (image folders, tested on {test.name})"
    arrays = (*first[:2], *second[:2])
    data = assembled(*arrays, classes=first[2], name=name, origin=origin, where=directory)
    return _with_notice(data, remarks)


def _beside(directories: list[Path]) -> list[str]:
    """Images beside the folders instead of in them."""
    count = sum(_is_image(file) and not file.is_dir() for directory in directories for file in _files(directory))
    return [f"not read: {count} images beside the folders"] if count else []


def _with_notice(data: DataSet, remarks: list[str]) -> DataSet:
    return data.told(f"{data.name}: {'; '.join(remarks)}" if remarks else "")


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


def _train_and_test(directory: Path, parts: dict[str, Path]) -> tuple[Path, Path]:
    trains = [parts[part] for part in TRAINS if part in parts]
    tests = [parts[part] for part in TESTS if part in parts]
    held = " and ".join(path.name for path in parts.values())
    if len(trains) != 1:
        todo = f"call the part for training train, and only that one; test parts are {', '.join(TESTS)}"
        raise InputError(f"has {held} and {'no' if not trains else 'more than one'} train", where=directory, todo=todo)
    if not tests:
        todo = "add one, or give the directory of train itself: a test part is then split off"
        raise InputError(f"has {held} and no test or val", where=directory, todo=todo)
    return trains[0], tests[0]


_Part = tuple[np.ndarray | Stored, np.ndarray, list[str]]  # images, labels, class names


def _read(directory: Path, parts: list[Path], memory: float) -> tuple[list[_Part], list[str]]:
    """Each part, with the classes of the first, and remarks about what was done to their images."""
    classes = [folder.name for folder in _folders(parts[0])]
    number = {name: place for place, name in enumerate(classes)}
    contents: list[list[tuple[Path, int]]] = []
    for part in parts:
        strangers = [folder.name for folder in _folders(part) if folder.name not in number]
        if strangers:
            todo = f"the classes of {parts[0].name} are {listed(classes)}"
            raise InputError(f"has a class {strangers[0]}", where=part, todo=todo)
        contents.append([(file, number[folder.name]) for folder in _folders(part) for file in _files(folder)])
        if not contents[-1]:
            what = "holds images and no folders of them" if any(map(_is_image, _files(part))) else "holds no images"
            raise InputError(what, where=part, todo="put them into one folder for each class")
    _check_classes(parts[0], classes)
    images, remarks = pictures(directory, [file for content in contents for file, _ in content], memory)
    labels, first = np.array([label for content in contents for _, label in content]), len(contents[0])
    found = [(images[:first], labels[:first], classes), (images[first:], labels[first:], classes)]
    return found[: len(parts)], remarks


def pictures(directory: Path, files: list[Path], memory: float) -> tuple[np.ndarray | Stored, list[str]]:
    """The images of files of one size [N, H, W, C], on disk where they take more memory; and remarks about them.

    Raises:
        InputError: files that are no images, cannot be read or are of several sizes; all are told at once.
    """
    headers = _headers(directory, files)
    (width, height), grey = next(iter(headers.values())).size, all(found.grey for found in headers.values())
    white = decode.white_levels(_each(directory, [file for file in files if headers[file].deep], _top))
    shape = (height, width, 1 if grey else 3)

    def read(rows: np.ndarray) -> np.ndarray:
        return np.stack([_decoded(files[row], shape, white) for row in rows])

    images: np.ndarray | Stored
    if len(files) * math.prod(shape) > memory:
        images = Stored(read, np.arange(len(files)), shape)
    else:
        images = np.stack(_each(directory, files, lambda file: _decoded(file, shape, white)))
    return images, _remarks(headers.values(), white)


def _check_classes(directory: Path, classes: list[str]) -> None:
    """One class is nothing to learn, and folders of images beside a table of labels are not read as classes."""
    tables = [file.name for file in _files(directory) if file.suffix.lower() in TABLES and file.is_file()]
    beside = f"; {tables[0]} beside it is not read" if tables else ""
    todo = "make one folder for each class, named like it, and put its images into it"
    if len(classes) == 1:
        what = f"holds one folder, {classes[0]}, and one class is nothing to learn{beside}"
        raise InputError(what, where=directory, todo=todo)
    odd = [name for name in classes if name.lower() in CONTENTS]
    if odd and (tables or len(odd) == len(classes)):
        raise InputError(f"holds a folder {odd[0]}, which is no class{beside}", where=directory, todo=todo)


def _headers(directory: Path, files: list[Path]) -> dict[Path, decode.Header]:
    """The headers of all images, of one size; all that are wrong are told at once."""
    headers: dict[Path, decode.Header] = {}
    wrong: dict[Path, InputError] = {}
    for file in files:
        if len(wrong) == MANY:
            break
        try:
            if file.is_file() and not _is_image(file):
                todo = f"move it away; images end in {', '.join(IMAGES[:4])} ..."
                raise InputError("is no image", where=file, todo=todo)
            headers[file] = decode.header(file)
        except InputError as error:
            wrong[file] = error
    sizes = collections.Counter(found.size for found in headers.values())
    usual = sizes.most_common(1)[0][0] if sizes else (0, 0)
    like = next((file for file, found in headers.items() if found.size == usual), None)
    for file, (size, *_) in headers.items():
        if size != usual:
            what = f"is {size[0]}x{size[1]} pixels, {like} is {usual[0]}x{usual[1]}"
            wrong[file] = InputError(what, where=file, todo="bring all images to one size first")
    _refuse(directory, wrong, files)
    return headers


def _each(directory: Path, files: list[Path], work: Callable[[Path], Any]) -> list[Any]:
    """What the work gives for each file; all that it refuses are told at once."""
    done, wrong = [], {}
    for file in files:
        try:
            done.append(work(file))
        except InputError as error:
            wrong[file] = error
    _refuse(directory, wrong, files)
    return done


def _refuse(directory: Path, wrong: dict[Path, InputError], files: list[Path]) -> None:
    if len(wrong) == 1:
        raise next(iter(wrong.values()))
    if wrong:
        named = [file for file in files if file in wrong][:SHOWN]
        first = [f"{file.relative_to(directory)} ({wrong[file].what})" for file in named]
        more = ", ..." if len(wrong) > SHOWN else ""
        count = f"at least {MANY}" if len(wrong) >= MANY else len(wrong)
        what = f"{count} of {len(files)} files cannot be used: {', '.join(first)}{more}"
        todos = {error.todo for error in wrong.values()}
        raise InputError(what, where=directory, todo=todos.pop() if len(todos) == 1 else REPAIR)


def _top(file: Path) -> tuple[str, float]:
    with decode.opened(file) as image:
        return decode.top_level(image, file)


def _remarks(headers: Iterable[decode.Header], white: dict[str, float]) -> list[str]:
    """What was done to how many images, in words."""
    counts = collections.Counter(found.remark for found in headers if found.remark)
    level = f" ({', '.join(f'{value:g}' for value in white.values())} is white)"
    return [f"{count} images {what}{level if what == decode.SCALED else ''}" for what, count in sorted(counts.items())]


def _folders(directory: Path) -> list[Path]:
    with reported(directory):
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
        for path in paths:
            if path.is_symlink() and not os.path.exists(path):  # perhaps of a class, which would be left out
                raise InputError("is a link that leads nowhere", where=path, todo="mend it, or remove it")
        return [path for path in paths if path.is_dir()]


def _files(folder: Path) -> list[Path]:
    with reported(folder):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGES


def _decoded(file: Path, shape: tuple[int, int, int], white: dict[str, float]) -> np.ndarray:
    with decode.opened(file) as image:
        array: Any = decode.pixels(image, shape[-1] == 1, white, file)
        if array.shape != shape:
            what = f"is {array.shape[1]}x{array.shape[0]} pixels, not {shape[1]}x{shape[0]}"
            raise InputError(what, where=file, todo="bring all images to one size first")
        return array
