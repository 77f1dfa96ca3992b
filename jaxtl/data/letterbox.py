"""Pictures of any size and the boxes in them on one canvas, and boxes back to where they are in the picture.

A picture keeps its shape: it is made as large as the canvas takes it, and laid into the upper left corner; what it
leaves free is grey. So both edges have one factor each, width of the laid picture over that of the picture, and going
back is dividing by it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

GREY = 127  # what is beside a picture
LONG = 2.0  # times as long as wide, that a canvas is at most

Size = tuple[int, int]  # width and height


def canvas_of(sizes: Sequence[Size], longest: int, multiple: int) -> tuple[int, int]:
    """Rows and columns of a canvas of the shape that pictures mostly have.

    Args:
        sizes: (width, height) of each.
        longest: pixels of the longer edge, about; at least `multiple`.
        multiple: what both edges are multiples of.

    Returns:
        (rows, columns).

    Example:
        >>> canvas_of([(640, 480), (640, 480), (100, 100)], 320, 16), canvas_of([(1000, 100)], 64, 16)
        ((240, 320), (32, 64))
    """
    ratio = min(max(statistics.median(width / height for width, height in sizes), 1 / LONG), LONG)
    edges = longest * min(1.0, 1 / ratio), longest * min(1.0, ratio)
    rows, columns = (max(multiple, multiple * round(edge / multiple)) for edge in edges)
    return rows, columns


def laid_size(size: Size, canvas: tuple[int, int]) -> Size:
    """Width and height of a picture on a canvas (rows, columns): the largest of its shape, whole pixels, none of 0.

    Example:
        >>> laid_size((640, 480), (240, 320)), laid_size((100, 10), (64, 64))
        ((320, 240), (64, 6))
    """
    width, height = size
    factor = min(canvas[1] / width, canvas[0] / height)
    return max(1, min(canvas[1], round(width * factor))), max(1, min(canvas[0], round(height * factor)))


def laid(image: Any, canvas: tuple[int, int], size: Size | None = None) -> np.ndarray:
    """A picture on a canvas.

    Args:
        image: uint8 [H, W, C], of 1 or 3 channels.
        canvas: (rows, columns).
        size: width and height of the picture where `image` is a smaller version of it, as JPEGs are decoded.

    Returns:
        uint8 [rows, columns, 3]; every pixel is an average of those that it covers, as in `resized`.

    Example:
        >>> laid(np.zeros((10, 40, 1), np.uint8), (32, 32))[[7, 8], 0, 0].tolist()
        [0, 127]
    """
    from PIL import Image

    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    own = image.shape[1], image.shape[0]
    width, height = laid_size(size or own, canvas)
    if (width, height) != own:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    found = np.full((*canvas, 3), GREY, np.uint8)
    found[:height, :width] = image
    return found


def factors(size: Size, canvas: tuple[int, int]) -> np.ndarray:
    """[4] float64 by which x0, y0, x1, y1 in a picture become those on a canvas.

    Example:
        >>> factors((640, 480), (240, 320)).tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    across, down = (ours / theirs for ours, theirs in zip(laid_size(size, canvas), size, strict=True))
    return np.array([across, down, across, down])


def in_picture(boxes: np.ndarray, size: Size, canvas: tuple[int, int]) -> np.ndarray:
    """Boxes on a canvas as boxes in the picture that was laid on it, cut at its edges.

    Args:
        boxes: [K, 4] x0, y0, x1, y1 in pixels of the canvas.
        size: width and height of the picture.
        canvas: (rows, columns).

    Returns:
        [K, 4] float64 in pixels of the picture.

    Example:
        >>> in_picture(np.array([[8.0, 8.0, 16.0, 400.0]]), (640, 480), (240, 320)).tolist()
        [[16.0, 16.0, 32.0, 480.0]]
    """
    edges = np.array([*size, *size], np.float64)
    return np.clip(np.asarray(boxes, np.float64) / factors(size, canvas), 0.0, edges)
