"""The pictures of files as one array: of one size, or refused, all that are wrong at once."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data import decode
from jaxtl.data.on_disk import Stored
from jaxtl.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SHOWN = 3  # of the files that cannot be used
MANY = 500  # of them: no more are looked for
REPAIR = "repair them or move them away"


def pictures(directory: Path, files: list[Path], memory: float) -> tuple[np.ndarray | Stored, list[str]]:
    """The images of files of one size [N, H, W, C], on disk where they take more memory; and remarks about them.

    Raises:
        InputError: files that are no images, cannot be read or are of several sizes; all are told at once.
    """
    headers = _headers(directory, files)
    (width, height), grey = next(iter(headers.values())).size, all(found.grey for found in headers.values())
    white = decode.white_levels(_each(directory, [file for file in files if headers[file].deep], top_of))
    shape = (height, width, 1 if grey else 3)

    def read(rows: np.ndarray) -> np.ndarray:
        return np.stack([_decoded(files[row], shape, white) for row in rows])

    images: np.ndarray | Stored
    if len(files) * math.prod(shape) > memory:
        images = Stored(read, np.arange(len(files)), shape)
    else:
        images = np.stack(_each(directory, files, lambda file: _decoded(file, shape, white)))
    return images, remarks_on(headers.values(), white)


def _headers(directory: Path, files: list[Path]) -> dict[Path, decode.Header]:
    """The headers of all images, of one size; all that are wrong are told at once."""
    headers: dict[Path, decode.Header] = {}
    wrong: dict[Path, InputError] = {}
    for file in files:
        if len(wrong) == MANY:
            break
        try:
            headers[file] = header_of(file)
        except InputError as error:
            wrong[file] = error
    sizes = collections.Counter(found.size for found in headers.values())
    usual = sizes.most_common(1)[0][0] if sizes else (0, 0)
    like = next((file for file, found in headers.items() if found.size == usual), None)
    for file, (size, *_) in headers.items():
        if size != usual:
            what = f"is {size[0]}x{size[1]} pixels, {like} is {usual[0]}x{usual[1]}"
            wrong[file] = InputError(what, where=file, todo="bring all images to one size first")
    refuse(directory, wrong, files)
    return headers


def _each(directory: Path, files: list[Path], work: Callable[[Path], Any]) -> list[Any]:
    """What the work gives for each file; all that it refuses are told at once."""
    done, wrong = [], {}
    for file in files:
        try:
            done.append(work(file))
        except InputError as error:
            wrong[file] = error
    refuse(directory, wrong, files)
    return done


def refuse(
    directory: Path, wrong: Mapping[Path, InputError], files: Sequence[Path], todo: str = "", many: int = MANY
) -> None:
    """Say of some files what is wrong with them, in two lines; nothing where nothing is."""
    if len(wrong) == 1 and not todo:
        raise next(iter(wrong.values()))
    if wrong:
        named = [file for file in files if file in wrong][:SHOWN]
        first = [f"{file.relative_to(directory)} ({wrong[file].what})" for file in named]
        more = ", ..." if len(wrong) > SHOWN else ""
        count = f"at least {many}" if len(wrong) >= many else len(wrong)
        what = f"{count} of {len(files)} files cannot be used: {', '.join(first)}{more}"
        todos = {error.todo for error in wrong.values()}
        todo = todo or (todos.pop() if len(todos) == 1 else REPAIR)
        raise InputError(what, where=directory, todo=todo)


def top_of(file: Path) -> tuple[str, float]:
    """See `decode.top_level`."""
    with decode.opened(file) as image:
        return decode.top_level(image, file)


def remarks_on(headers: Iterable[decode.Header], white: dict[str, float]) -> list[str]:
    """What was done to how many images, in words."""
    counts = collections.Counter(found.remark for found in headers if found.remark)
    level = f" ({', '.join(f'{value:g}' for value in white.values())} is white)"
    return [f"{count} images {what}{level if what == decode.SCALED else ''}" for what, count in sorted(counts.items())]


def is_image(file: Path) -> bool:
    """Whether its name says so."""
    return file.suffix.lower() in IMAGES


def header_of(file: Path) -> decode.Header:
    """What a picture is by its name and its header.

    Raises:
        InputError: it is none, or `decode.header` refuses it.
    """
    if file.is_file() and not is_image(file):
        todo = f"move it away; images end in {', '.join(IMAGES[:4])} ..."
        raise InputError("is no image", where=file, todo=todo)
    return decode.header(file)


def _decoded(file: Path, shape: tuple[int, int, int], white: dict[str, float]) -> np.ndarray:
    with decode.opened(file) as image:
        array: Any = decode.pixels(image, shape[-1] == 1, white, file)
        if array.shape != shape:
            what = f"is {array.shape[1]}x{array.shape[0]} pixels, not {shape[1]}x{shape[0]}"
            raise InputError(what, where=file, todo="bring all images to one size first")
        return array
