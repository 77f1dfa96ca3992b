"""Images with boxes in them: from an archive, or digits set down on larger pictures; mirrored inside the step.

Fields: "image" uint8 [N, H, W, C], "box" float32 [N, M, 4] x0, y0, x1, y1 in pixels, and "box_class" int32 [N, M]. Rows
of class −1 hold no box.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import decode
from jaxtl.data.arrays import from_arrays
from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.files import WRITTEN, check_memory, entries
from jaxtl.data.transforms import Batch, Transform
from jaxtl.errors import InputError

KEYS = ("blob", "offsets", "image_split", "split_names", "image_size", "boxes", "box_image", "box_class", "class_names")
SIZES = (1, 2)  # times as large as it is, that a digit is set down


def holds_boxes(archive: Mapping[str, Any]) -> bool:
    """Whether an archive is of images with boxes."""
    return {"boxes", "box_image"} <= set(archive)


def read_boxed(archive: Mapping[str, np.ndarray], path: Path, name: str, memory: float) -> DataSet:
    """Encoded pictures of one size, one after another, with boxes by the number of their picture.

    'test' of `split_names` is for testing, all others to train.

    Args:
        archive: `blob` (the pictures) and `offsets` (picture i is blob[offsets[i] : offsets[i + 1]]), `image_size`
            (rows, columns), `image_split` (places in `split_names`), `boxes` [K, 4], `box_image` and `box_class` [K],
            `class_names`.
        path: of it, for messages.
        name: of the set.
        memory: bytes that the pictures may take.

    Returns:
        The set, with the fields "image", "box" and "box_class".

    Raises:
        InputError: keys missing, pictures that cannot be read or are of another size, boxes that are none.
    """
    blob, offsets, split, names, size, boxes, owner, labels, classes = entries(archive, path, *KEYS)
    images = _pictures(blob, offsets, size, path, memory)
    count = len(images)
    _check_boxes(boxes, owner, labels, count, images.shape[1:3], len(classes), path)
    known = names.tolist()
    if split.shape != (count,) or "test" not in known or split.max() >= len(known):
        raise InputError("the split does not say which pictures are for testing", where=path, todo=WRITTEN)
    fields = {"image": images, **_by_image(boxes, owner, labels, count)}
    test = split == known.index("test")
    parts = [{key: array[of] for key, array in fields.items()} for of in (~test, test)]
    if min(len(part["image"]) for part in parts) == 0:
        raise InputError("no picture to train on, or none for testing", where=path, todo=WRITTEN)
    return from_arrays(parts[0], None, parts[1], classes=classes.tolist(), name=name, origin=str(path))


def _pictures(blob: np.ndarray, offsets: np.ndarray, size: np.ndarray, path: Path, memory: float) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    cuts = offsets.ravel().tolist()
    if offsets.dtype.kind not in "ui" or len(cuts) < 2 or cuts != sorted(cuts) or cuts[0] or cuts[-1] != blob.size:
        raise InputError("the offsets do not cut the blob into pictures", where=path, todo=WRITTEN)
    if size.shape != (2,) or size.dtype.kind not in "ui" or size.min() < 1:
        raise InputError(f"image_size is {size.tolist()}, not rows and columns", where=path, todo=WRITTEN)
    height, width = map(int, size)
    check_memory((len(cuts) - 1) * height * width * 3, memory, path)
    images = np.empty((len(cuts) - 1, height, width, 3), np.uint8)
    for k, (start, end) in enumerate(itertools.pairwise(cuts)):
        where = f"{path}, picture {k}"
        with decode.opened(blob[start:end].tobytes(), where) as image:
            if image.size != (width, height):
                what = f"has {image.width}x{image.height} pixels, and image_size says {width}x{height}"
                raise InputError(what, where=where, todo=WRITTEN)
            images[k] = decode.pixels(image, False, {}, where)
    return images


def _check_boxes(
    boxes: np.ndarray,
    owner: np.ndarray,
    labels: np.ndarray,
    count: int,
    size: tuple[int, ...],
    classes: int,
    path: Path,
) -> None:
    """Whether every box has an area within a picture, a picture that there is, and a class with a name."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "uif" or not len(boxes):
        raise InputError(f"boxes {boxes.dtype} of shape {list(boxes.shape)}, not [K, 4]", where=path, todo=WRITTEN)
    for key, array, most in (("box_image", owner, count), ("box_class", labels, classes)):
        if array.shape != (len(boxes),) or array.dtype.kind not in "ui" or array.min() < 0 or array.max() >= most:
            what = f"{key} is not a number from 0 to {most - 1} for each of {len(boxes)} boxes"
            raise InputError(what, where=path, todo=WRITTEN)
    edges = np.array([*size[::-1], *size[::-1]])
    good = (boxes >= 0).all(1) & (boxes <= edges).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)  # NaN is not
    if not good.all():
        k = int(np.argmin(good))
        what = f"{int((~good).sum())} boxes have no area within their picture, the first is number {k}"
        raise InputError(f"{what}: {boxes[k].tolist()}", where=path, todo="leave them out, or cut them at the edge")


def _by_image(boxes: np.ndarray, owner: np.ndarray, labels: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """[N, M, 4] and [N, M], in the order in which the boxes of a picture came."""
    order = np.argsort(owner, kind="stable")
    owner = owner[order].astype(np.int64)
    many = np.bincount(owner, minlength=count)
    row = np.arange(len(owner)) - (np.cumsum(many) - many)[owner]
    found = np.zeros((count, many.max(), 4), np.float32), np.full((count, many.max()), -1, np.int32)
    found[0][owner, row], found[1][owner, row] = boxes[order], labels[order]
    return dict(zip(("box", "box_class"), found, strict=True))


def set_down(data: DataSet, count: int, test_count: int, size: tuple[int, int], most: int, seed: int = 0) -> DataSet:
    """Pictures with a few images of a set here and there: real examples in places that are made up.

    One to `most` of them, as large as they are or twice as large, none over another; a box is around the ink.

    Args:
        data: small grey images, bright on black.
        count, test_count: pictures to train on and to test on; their digits are of the own part of the set.
        size: rows and columns of a picture.
        most: images on a picture.
        seed: of places and choices.

    Returns:
        The set, with a notice that says so.

    Raises:
        InputError: a size into which the largest image does not fit.

    Example:
        >>> from jaxtl.data import load
        >>> data = set_down(load("digits"), 4, 2, (24, 32), 3)
        >>> data.train.images.shape, data.train["box"].shape, len(data.test)
        ((4, 24, 32, 1), (4, 3, 4), 2)
    """
    edge = SIZES[-1] * max(data.train.images.shape[1:3])
    if min(size) < edge:
        raise InputError(f"{size[0]}x{size[1]} pixels", where="set_down size", todo=f"give {edge} each at least")
    random = np.random.default_rng(seed)
    parts = [_set_down(part, many, size, most, random) for part, many in ((data.train, count), (data.test, test_count))]
    origin = f"{data.origin}, set down at random places of {size[0]}x{size[1]} pixels"
    made = from_arrays(parts[0], None, parts[1], classes=data.classes, name=f"{data.name} set down", origin=origin)
    return made.told("real digits in places that are made up: a check of the code, and no picture of the world")


def _set_down(
    part: Split, count: int, size: tuple[int, int], most: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    images = np.zeros((count, *size, part.images.shape[-1]), part.images.dtype)
    boxes, labels = np.zeros((count, most, 4), np.float32), np.full((count, most), -1, np.int32)
    for n in range(count):
        taken = np.zeros(size, bool)
        for m in range(random.integers(1, most + 1)):
            k, scale = random.integers(len(part)), random.choice(SIZES)
            tile = part.images[k].repeat(scale, axis=0).repeat(scale, axis=1)
            height, width = tile.shape[:2]
            y, x = (int(random.integers(0, total - own + 1)) for total, own in zip(size, (height, width), strict=True))
            if taken[y : y + height, x : x + width].any() or not tile.any():
                continue  # the row stays without a box
            taken[y : y + height, x : x + width] = True
            images[n, y : y + height, x : x + width] = tile
            rows, columns = (np.flatnonzero(tile.any(axis=(axis, 2))) for axis in (1, 0))
            boxes[n, m] = [x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1]
            labels[n, m] = part.labels[k]
    return {"image": images, "box": boxes, "box_class": labels}


def flip_boxed(*, upright: bool = False) -> Transform:
    """Half of the images mirrored left to right with their boxes; also upside down where nothing stands upright.

    Args:
        upright: there is an above and a below, which stay.

    Example:
        >>> flip, batch = flip_boxed(), {"image": jnp.zeros((9, 4, 6, 1)), "box": jnp.tile(jnp.arange(4.0), (9, 1, 1))}
        >>> sorted({tuple(row) for row in flip(batch, jax.random.key(0))["box"][:, 0].tolist()})
        [(0.0, 1.0, 2.0, 3.0), (4.0, 1.0, 6.0, 3.0)]
    """

    def transform(batch: Batch, rng: jax.Array) -> Batch:
        images, boxes = batch["image"], batch["box"]
        for k, key in enumerate(jax.random.split(rng)[: 1 if upright else 2]):  # across, then down
            turned = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
            length = images.shape[2 - k]
            images = jnp.where(turned, jnp.flip(images, 2 - k), images)
            mirrored = boxes.at[..., k].set(length - boxes[..., k + 2]).at[..., k + 2].set(length - boxes[..., k])
            boxes = jnp.where(turned[..., 0], mirrored, boxes)
        return {**batch, "image": images, "box": boxes}

    return transform
