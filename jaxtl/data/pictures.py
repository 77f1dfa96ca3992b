"""A picture of samples by class: what is in a set, at one look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.data.dataset import DataSet
from jaxtl.data.on_disk import Stored
from jaxtl.data.splits import per_class
from jaxtl.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ACROSS = 10  # samples in a row
ROWS = 40  # classes shown at most; more would not be looked at
SIDE = 48  # pixels that the shorter side of a sample gets at least
GAP = 4  # white pixels between two samples
TEXT = 15  # pixels of a line
PIXELS = 2**26  # of all samples
LONGEST = 24  # letters of the name of a class


def samples_by_class(dataset: DataSet, seed: int = 0) -> Image:
    """Draw up to ten training images of each class in a row, with the name of the class in front.

    Args:
        dataset: of images [N, H, W, 1] or [N, H, W, 3]; floats are stretched from their least to their largest value.
        seed: of the draw, the one of `per_class`.

    Returns:
        A Pillow image.

    Raises:
        InputError: the examples are no images.
    """
    images = dataset.train.images
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        what = f"examples of shape {list(images.shape[1:])} are no images"
        raise InputError(what, where=dataset.name, todo="only grey and colour images can be shown")
    among = np.flatnonzero(dataset.train.labels < ROWS)
    labels = dataset.train.labels[among]
    across = min(ACROSS, int(np.bincount(labels).min()))
    drawn = _as_grey_levels(_read(images, among[per_class(labels, across, seed)]))
    rows = len(drawn) // across
    heading = f"{dataset.name}: {len(dataset.train):,} training images, {len(dataset.classes)} classes"
    heading += f", the first {rows} shown" if rows < len(dataset.classes) else ""
    return _captioned(_tiled(drawn, rows, across), heading, dataset.classes[:rows])


def _read(images: np.ndarray | Stored, rows: np.ndarray) -> np.ndarray:
    """Some images; of large ones every second pixel, or third, ..., so that all of them can be looked at together."""
    step = -(-max(images.shape[1:3]) // math.isqrt(PIXELS // len(rows)))
    return np.stack([np.asarray(images[row : row + 1])[0, ::step, ::step] for row in rows])


def _tiled(images: np.ndarray, rows: int, across: int) -> Image:
    """Images in colour, enlarged by a whole number, each with white to the right and below."""
    from PIL import Image

    images = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    room = math.isqrt(PIXELS // math.prod(images.shape[:3]))  # long and narrow ones are not enlarged without end
    times = max(1, min(-(-SIDE // min(images.shape[1:3])), room))
    images = images.repeat(times, axis=1).repeat(times, axis=2)
    images = np.pad(images, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    height, width = images.shape[1:3]
    grid = images.reshape(rows, across, height, width, 3).swapaxes(1, 2)
    return Image.fromarray(grid.reshape(rows * height, across * width, 3))


def _captioned(tiles: Image, heading: str, names: Sequence[str]) -> Image:
    """With a line above the tiles, and a name in front of each row of them."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT)
    heading, *names = ("".join(c if c.isprintable() else "?" for c in text) for text in (heading, *names))
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
    left, top = round(max(map(font.getlength, names))) + 3 * GAP, 2 * TEXT
    width = max(left + tiles.width, round(font.getlength(heading)) + 2 * GAP)
    picture = Image.new("RGB", (width, top + tiles.height), "white")
    picture.paste(tiles, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, top // 2), heading, fill="black", font=font, anchor="lm")
    for row, name in enumerate(names):
        middle = top + (2 * row + 1) * tiles.height // (2 * len(names)) - GAP // 2
        draw.text((GAP, middle), name, fill="black", font=font, anchor="lm")
    return picture


def _as_grey_levels(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    low, high = images.min(), images.max()
    return np.round((images - low) * (255 / max(high - low, np.finfo(np.float32).tiny))).astype(np.uint8)
