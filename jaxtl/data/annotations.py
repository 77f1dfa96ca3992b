"""What is said of pictures by boxes, before any is opened: COCO's JSON, or YOLO's lines of text beside the pictures.

boxes [K, 4] x0, y0, x1, y1 in pixels of the picture as it is looked at;  COCO: x, y, w, h;  YOLO: cx, cy, w, h of 1
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtl.data.folders import TESTS, TRAINS
from jaxtl.errors import InputError

MOST_BOXES = 1000  # of a picture
ROUNDING = 1.0  # pixels that a box may stick out, and is cut


class Annotations(NamedTuple):
    """Pictures and the boxes in them.

    Attributes:
        directory: above all files.
        files: [N] in alphabetical order.
        boxes: [N] of float64 [K, 4], as they are written.
        labels: [N] of int32 [K], places in `classes`.
        relative: whether boxes are centre, width and height as shares of the picture (YOLO), and not corner, width and
            height in pixels (COCO).
        sizes: [N] width and height that the description says, None where it says nothing.
        tested: [N] whether a picture is for testing.
        classes: names.
        origin: where it lies, in words.
        remarks: on what was left out.
    """

    directory: Path
    files: list[Path]
    boxes: list[np.ndarray]
    labels: list[np.ndarray]
    relative: bool
    sizes: list[tuple[int, int] | None]
    tested: np.ndarray
    classes: list[str]
    origin: str
    remarks: list[str]


def parts_of(files: Sequence[Path], directory: Path, said: Sequence[str] = ()) -> np.ndarray:
    """[N] whether a picture is for testing, by the folders that it lies in, or by what its description is called.

    Of `folders.TESTS` the first that is there is for testing, and the others are learned from.

    Example:
        >>> parts_of([Path("a/images/train/1.png"), Path("a/images/val/2.png")], Path("a")).tolist()
        [False, True]

    Raises:
        InputError: pictures for testing only.
    """
    words = [
        {part.lower() for part in file.relative_to(directory).parent.parts} | set(filter(None, [own]))
        for file, own in zip(files, said or [""] * len(files), strict=True)
    ]
    first = next((name for name in TESTS if any(name in own for own in words)), "")
    tested = np.array([first in own and not own & set(TRAINS) for own in words], bool)
    if tested.all():
        todo = f"put pictures to learn from beside them, in a folder {TRAINS[0]}"
        raise InputError(f"all {len(tested)} pictures are for testing ({first})", where=directory, todo=todo)
    return tested


def in_pixels(boxes: np.ndarray, relative: bool, size: tuple[int, int]) -> np.ndarray:
    """Boxes as corners.

    Args:
        boxes: [K, 4] as they are written.
        relative: see `Annotations`.
        size: width and height of the picture.

    Returns:
        [K, 4] float64 x0, y0, x1, y1 in pixels.

    Example:
        >>> in_pixels(np.array([[0.5, 0.5, 0.5, 1.0]]), True, (40, 20)).tolist()
        [[10.0, 0.0, 30.0, 20.0]]
        >>> in_pixels(np.array([[10.0, 0.0, 20.0, 20.0]]), False, (40, 20)).tolist()
        [[10.0, 0.0, 30.0, 20.0]]
    """
    at, extent = boxes[:, :2], boxes[:, 2:]
    if relative:
        scale = np.array(size, np.float64)
        at, extent = (at - extent / 2) * scale, extent * scale
    return np.concatenate([at, at + extent], axis=1)


def checked(boxes: np.ndarray, size: tuple[int, int], where: object) -> tuple[np.ndarray, int]:
    """(boxes within their picture, how many stuck out by rounding and were cut).

    Args:
        boxes: [K, 4] x0, y0, x1, y1.
        size: width and height.
        where: for messages.

    Raises:
        InputError: a box without area, or one that is outside of the picture by more than rounding.

    Example:
        >>> checked(np.array([[-0.4, 0.0, 5.0, 5.0]]), (10, 10), "a.png")
        (array([[0., 0., 5., 5.]]), 1)
    """
    edges = np.array([*size, *size], np.float64)
    inside = np.clip(boxes, 0.0, edges)
    out = np.abs(boxes - inside).max(axis=1, initial=0.0)
    empty = ~((inside[:, 2:] - inside[:, :2]) > 0).all(axis=1)
    if (bad := empty | ~(out <= ROUNDING)).any():
        k = int(np.argmax(bad))
        corners = ", ".join(f"{value:g}" for value in boxes[k])
        said = "is outside of" if out[k] > ROUNDING else "has no area in"
        what = f"box {k + 1} ({corners}) {said} its {size[0]}x{size[1]} pixels"
        raise InputError(what, where=where, todo="mend it, cut it at the edge, or leave it out")
    return inside, int((out > 0).sum())
