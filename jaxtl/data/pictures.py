"""A picture of samples by class: what is in a set, at one look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxtl.data.dataset import DataSet
from jaxtl.data.splits import per_class
from jaxtl.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ACROSS = 10  # samples in a row
ROWS = 40  # classes shown at most; more would not be looked at
SIDE = 48  # pixels that the shorter side of a sample gets at least
NAME = 150  # pixels for the name of a class


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
    from PIL import Image, ImageDraw

    images = dataset.train.images
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        what = f"examples of shape {list(images.shape[1:])} are no images"
        raise InputError(what, where=dataset.name, todo="only grey and colour images can be shown")
    among = np.flatnonzero(dataset.train.labels < ROWS)
    count = min(ACROSS, int(np.bincount(dataset.train.labels[among]).min()))
    drawn = _as_grey_levels(images[per_class(dataset.train.labels, count, seed, among)])
    drawn = np.repeat(drawn, 3, axis=-1) if drawn.shape[-1] == 1 else drawn
    times = max(1, -(-SIDE // min(drawn.shape[1:3])))
    drawn = drawn.repeat(times, axis=1).repeat(times, axis=2)
    rows = len(drawn) // count
    height, width = drawn.shape[1:3]
    sheet = drawn.reshape(rows, count, height, width, 3).swapaxes(1, 2).reshape(rows * height, count * width, 3)
    picture = Image.new("RGB", (NAME + sheet.shape[1], sheet.shape[0]), "white")
    picture.paste(Image.fromarray(sheet), (NAME, 0))
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(dataset.classes[:rows]):
        draw.text((6, row * height + height // 2 - 6), name[:22], fill="black")
    return picture


def _as_grey_levels(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    low, high = images.min(), images.max()
    return np.round((images - low) * (255 / max(high - low, np.finfo(np.float32).tiny))).astype(np.uint8)
