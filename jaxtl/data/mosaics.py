"""Mosaics in a NumPy archive: many images of one size, tile by tile, in a few encoded pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxtl.data import decode
from jaxtl.data.arrays import assembled
from jaxtl.data.dataset import DataSet
from jaxtl.data.files import WRITTEN, check_memory, entries, reported
from jaxtl.errors import InputError

TAKEN = ("blob", "offsets", "labels", "split")  # what else stands in an archive under a set's name
SMALLEST = 8  # pixels of a tile's edge, where it has to be found out


def decoded_mosaics(archive: Mapping[str, np.ndarray], path: Path, part: str, memory: float) -> tuple[np.ndarray, str]:
    """Images uint8 [N, tile, tile, C], and how they were encoded, in words."""
    labels, columns = entries(archive, path, f"{part}_labels", "columns")
    where = f"{path}, {part}"
    if columns.shape != () or columns.dtype.kind not in "ui" or columns < 1:
        raise InputError(f"columns is {columns}, not the number of tiles in a row", where=where, todo=WRITTEN)
    coded, _, how = _coded(archive, path, part, memory)
    return _cut(coded, [int(columns)] * len(coded), len(labels), path, where), how


def _coded(
    archive: Mapping[str, np.ndarray], path: Path, part: str, memory: float
) -> tuple[list[bytes], list[tuple[int, int]], str]:
    """(encoded mosaics, their heights and widths, how they were encoded in words); no pixel is decoded yet."""
    blob, offsets = entries(archive, path, f"{part}_blob", f"{part}_offsets")
    where, cuts = f"{path}, {part}", offsets.ravel().tolist()
    if offsets.dtype.kind not in "ui" or cuts != sorted(cuts) or cuts[:1] != [0] or cuts[-1] != blob.size:
        raise InputError("the offsets do not cut the blob into mosaics", where=where, todo=WRITTEN)
    coded = [blob[start:end].tobytes() for start, end in itertools.pairwise(cuts)]
    sizes, how = [], "encoded without loss"
    for mosaic in coded:
        with decode.opened(mosaic, where) as image:
            sizes.append((image.height, image.width))
            if image.format != "PNG" and mosaic[12:16] != b"VP8L":  # VP8L is WebP without loss
                how = f"re-encoded as {image.format}, not the original pixels"
        check_memory(sum(height * width * 3 for height, width in sizes), memory, path)
    return coded, sizes, how


def _cut(coded: Sequence[bytes], columns: Sequence[int], count: int, path: Path, where: str) -> np.ndarray:
    """The tiles of all mosaics, as many as there are examples; only the last mosaic may have further ones."""
    tiles = [_tiles(mosaic, across, where) for mosaic, across in zip(coded, columns, strict=True)]
    with reported(path):
        images = np.concatenate(tiles)
    if not 0 <= len(images) - count < len(tiles[-1]):
        raise InputError(f"{count} labels for {len(images)} tiles", where=where, todo=WRITTEN)
    return images[:count]


def _tiles(coded: bytes, across: int, where: str) -> np.ndarray:
    """The square tiles [N, tile, tile, C] of one mosaic, row by row; grey ones have one channel."""
    with decode.opened(coded, where) as image:
        mosaic = decode.pixels(image, image.mode == "L", {}, where)
    tile = mosaic.shape[1] // across
    if not tile or mosaic.shape[0] % tile or mosaic.shape[1] % across:
        what = f"a mosaic of {mosaic.shape[1]}x{mosaic.shape[0]} pixels has no {across} square tiles in a row"
        raise InputError(what, where=where, todo=WRITTEN)
    grid = mosaic.reshape(-1, tile, across, tile, mosaic.shape[-1])
    return grid.swapaxes(1, 2).reshape(-1, tile, tile, mosaic.shape[-1])


# ---------------------------------------------------------------- one set, whose examples say where they belong


def sheets_of(archive: Mapping[str, np.ndarray]) -> list[str]:
    """Names of sets that are mosaics with a split of their own: "cells" of `cells_blob` and `cells_split`."""
    names = [key.removesuffix("_blob") for key in archive if key.endswith("_blob")]
    return sorted(name for name in names if f"{name}_split" in archive)


def read_sheets(archive: Mapping[str, np.ndarray], path: Path, name: str, memory: float) -> DataSet:
    """A set of mosaics whose every example is of a part: 'test' of `split_names` is for testing, all others to train.

    Further numbers of each example, such as `cells_lab`, come along as fields of that name. How many tiles stand in a
    row is found out: the one edge that gives as many tiles as there are labels.

    Raises:
        InputError: keys missing, contents that do not fit together, no edge or several that would do.
    """
    labels, split, names = entries(archive, path, f"{name}_labels", f"{name}_split", "split_names")
    coded, sizes, how = _coded(archive, path, name, memory)
    where = f"{path}, {name}"
    edge = _edge(sizes, len(labels), where)
    images = _cut(coded, [width // edge for _, width in sizes], len(labels), path, where)
    fields: dict[str, np.ndarray] = {"image": images}
    for key in archive:
        word = key.removeprefix(f"{name}_")
        array = archive[key] if key != word and word not in TAKEN else labels[:0]
        if array.shape == labels.shape and array.dtype.kind in "uif":
            fields[word] = array
    if split.shape != labels.shape or "test" not in (known := names.tolist()):
        raise InputError("the split does not say which examples are for testing", where=where, todo=WRITTEN)
    test = split == known.index("test")
    parts = [{key: array[of] for key, array in fields.items()} for of in (~test, test)]
    classes = archive[f"{name}_label_names"].tolist() if f"{name}_label_names" in archive else None
    origin = f"{path}#{name} (images {how})"
    given = (parts[0], labels[~test], parts[1], labels[test])
    return assembled(*given, classes=classes, name=name, origin=origin, where=path)


def _edge(sizes: Sequence[tuple[int, int]], count: int, where: str) -> int:
    """Of the square tiles of which there are as many as examples, and less than a row more."""
    common = math.gcd(*(length for size in sizes for length in size))
    edges = [edge for edge in range(SMALLEST, common + 1) if common % edge == 0]
    spare = {edge: sum(h * w for h, w in sizes) // edge**2 - count for edge in edges}
    fitting = [edge for edge in edges if 0 <= spare[edge] < sizes[-1][1] // edge]
    if len(fitting) != 1:
        what = f"{len(fitting)} edges of tiles give {count} images"
        raise InputError(what, where=where, todo="write one image per label, and less than a row of tiles more")
    return fitting[0]
