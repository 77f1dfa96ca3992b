"""Image folders: one directory for each class, with or without parts for training and testing above them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data.dataset import DataSet, assembled, from_arrays
from jaxtl.data.readers import reported
from jaxtl.data.stored import Stored
from jaxtl.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TESTS = ("test", "val", "validation")  # what a test part may be called, in the order of looking


def holds_folders(directory: Path) -> bool:
    """Whether there are folders of images here, or below `train`."""
    above = directory / "train" if (directory / "train").is_dir() else directory
    return any(_is_image(file) for folder in _folders(above) for file in _files(folder))


def read_folders(directory: Path, name: str, memory: float = math.inf) -> DataSet:
    """`train/CLASS/*.png` and `test/CLASS/*.png` (or `val`), or `CLASS/*.png` with a fifth split off for testing.

    Args:
        directory: above the parts or the classes; hidden files are passed over.
        name: of the data set.
        memory: bytes; if its images take more, they are `Stored`.

    Returns:
        Classes in alphabetical order; images grey if all of them are, else in colour.

    Raises:
        InputError: no test part, a class that is not among those of training, a file that is no image, or images of
            several sizes.
    """
    if not (directory / "train").is_dir():
        images, labels, classes = _read([directory], memory)[0]
        origin = f"{directory} (image folders, test part split off here)"
        return from_arrays(images, labels, classes=classes, name=name, origin=origin)
    test = next((directory / part for part in TESTS if (directory / part).is_dir()), None)
    if test is None:
        todo = "add one, or give the directory of train itself: a test part is then split off"
        raise InputError("has train and no test or val", where=directory, todo=todo)
    (images, labels, classes), (test_images, test_labels, _) = _read([directory / "train", test], memory)
    origin = f"{directory} (image folders, tested on {test.name})"
    parts = (images, labels, test_images, test_labels)
    return assembled(*parts, classes=classes, name=name, origin=origin, where=directory)


def _read(parts: list[Path], memory: float) -> list[tuple[np.ndarray | Stored, np.ndarray, list[str]]]:
    """Images, labels and class names of each part; the classes are those of the first."""
    classes = [folder.name for folder in _folders(parts[0])]
    contents: list[list[tuple[Path, int]]] = []
    for part in parts:
        strangers = [folder.name for folder in _folders(part) if folder.name not in classes]
        if strangers:
            todo = f"the classes of {parts[0].name} are {', '.join(classes[:6])}{' ...' if len(classes) > 6 else ''}"
            raise InputError(f"has a class {strangers[0]}", where=part, todo=todo)
        contents.append([(file, classes.index(folder.name)) for folder in _folders(part) for file in _files(folder)])
        if not contents[-1]:
            raise InputError("holds no images", where=part, todo="put them into one folder for each class")
    files = [file for content in contents for file, _ in content]
    shape = _common_shape(files)
    stored = len(files) * math.prod(shape) > memory
    return [
        (_images([file for file, _ in content], shape, stored), np.array([label for _, label in content]), classes)
        for content in contents
    ]


def _images(files: list[Path], shape: tuple[int, int, int], stored: bool) -> np.ndarray | Stored:
    def read(rows: np.ndarray) -> np.ndarray:
        return np.stack([_decoded(files[row], shape) for row in rows])

    rows = np.arange(len(files))
    return Stored(read, rows, shape) if stored else read(rows)


def _common_shape(files: list[Path]) -> tuple[int, int, int]:
    """[H, W, C] of all images, by their headers: one size, and grey (C = 1) if none is in colour."""
    headers = {file: _header(file) for file in files}
    (width, height), _ = headers[files[0]]
    for file, (size, _) in headers.items():
        if size != (width, height):
            what = f"is {size[0]}x{size[1]} pixels, {files[0]} is {width}x{height}"
            raise InputError(what, where=file, todo="bring all images to one size first")
    return height, width, 1 if all(grey for _, grey in headers.values()) else 3


def _folders(directory: Path) -> list[Path]:
    with reported(directory):
        return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    with reported(folder):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGES


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from PIL import Image

    if not _is_image(file):
        raise InputError("is no image", where=file, todo=f"move it away; images end in {', '.join(IMAGES[:4])} ...")
    with reported(file, Image.DecompressionBombError, SyntaxError), Image.open(file) as image:
        yield image


def _header(file: Path) -> tuple[tuple[int, int], bool]:
    """(width, height) of an image, and whether it is grey."""
    with _opened(file) as image:
        return image.size, image.mode in ("1", "L", "LA")


def _decoded(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    with _opened(file) as image:
        return np.asarray(image.convert("L" if shape[-1] == 1 else "RGB")).reshape(shape)
