"""Directories that tensorflow-datasets has prepared, read without TensorFlow: array_record files of encoded images.

No builder is made (see `described`), and no record is unpacked before its size is known (see `records`).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data import decode
from jaxtl.data.arrays import assembled
from jaxtl.data.dataset import DataSet
from jaxtl.data.described import AGAIN, Description, Shard, describe
from jaxtl.data.files import listed, reported
from jaxtl.data.on_disk import Stored
from jaxtl.data.records import LARGEST, check_records
from jaxtl.errors import InputError

BLOCK = 100  # records gone through at a time


def newest_version(directory: Path) -> Path | None:
    """The prepared version at or below a directory: `cifar10/3.0.2`, or `cifar10` with several such in it.

    Looks at file names only, since importing tensorflow-datasets costs half a second.
    """
    if not os.path.isdir(directory):  # whose name may be too long to be asked for by `Path.is_dir`
        return None
    with reported(directory):
        below = [child for child in directory.iterdir() if re.fullmatch(r"\d+(\.\d+)*", child.name)]
    versions = sorted(below, key=lambda child: [int(number) for number in child.name.split(".")], reverse=True)
    candidates = (directory, *versions)
    return next((path for path in candidates if (path / "dataset_info.json").is_file() and _readable(path)), None)


def _readable(directory: Path) -> bool:
    return any(directory.glob("*.array_record*"))


def refuse_tfrecord(directory: Path) -> None:
    """Prepared, but in the format that only TensorFlow reads."""
    if (directory / "dataset_info.json").is_file() and not _readable(directory):
        todo = 'prepare it with file_format="array_record"'
        raise InputError(
            "is prepared, but not as array_record, and only TensorFlow reads that", where=directory, todo=todo
        )


def read_prepared(directory: Path, memory: float = math.inf) -> DataSet:
    """A prepared classification set: one image feature of fixed shape, one class label, parts train and test.

    Where there is no part test, the part validation stands in for it, and `origin` says so. Images of 16 bits are
    scaled to 8, and `notice` says so.

    Args:
        directory: of one version, such as `~/tensorflow_datasets/cifar10/3.0.2`.
        memory: bytes; if its images take more, they are `Stored`, and the records are gone through once for the labels.

    Raises:
        InputError: damaged files, or features and parts other than these.
    """
    about = describe(directory)
    tests = [part for part in ("test", "validation") if part in about.parts]
    if "train" not in about.parts or not tests:
        what = f"has the parts {listed(about.parts)}"
        raise InputError(what, where=directory, todo="load it yourself and pass the parts to from_arrays")
    with _reported(directory):
        parts = [_Part(about, about.parts[part], directory) for part in ("train", tests[0])]
        needed = sum(len(part.records) for part in parts) * math.prod(about.shape)
        encoded = sum(part.unpacked for part in parts)
        stored = needed > memory or encoded > 2 * memory  # encoded images are kept while they are put in order
        found = [_in_order(part, keep=not stored) for part in parts]
        white = _white(parts) if about.deep else {}
        read = _read_stored if stored else _read_now
        arrays = [array for part, rows in zip(parts, found, strict=True) for array in read(part, rows, white)]
    tested = "" if tests[0] == "test" else ", tested on its part validation"
    origin = f"{directory} (tensorflow-datasets {about.full_name}{tested})"
    data = assembled(*arrays, classes=about.classes, name=about.name, origin=origin, where=directory)
    scaled = f"{about.name}: images {decode.SCALED} ({white.get('whole', 65535):g} is white)" if about.deep else ""
    return data.told(scaled)


def _reported(directory: Path) -> contextlib.AbstractContextManager[None]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    return reported(directory, DecodeError, RuntimeError, IndexError, TypeError, struct.error, todo=AGAIN)


class _Row(NamedTuple):
    """What is kept of a record."""

    place: Any  # what it is sorted by: the library shuffles what it writes, and a seed shall draw the same images
    row: int
    label: int
    encoded: bytes  # the image, if it is kept in memory


class _Part:
    """The records of a part: files whose sizes have been looked at."""

    def __init__(self, about: Description, shards: list[Shard], directory: Path):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        sizes = [check_records(shard.file) for shard in shards]
        self.about, self.directory = about, directory
        self.unpacked = sum(size for _, size in sizes)
        self.step = min(BLOCK, LARGEST // max([1, *(largest for largest, _ in sizes)]))
        self.records = ArrayRecordDataSource([str(shard.file) for shard in shards])
        if len(self.records) != (said := sum(shard.records for shard in shards)):
            raise ValueError(f"{len(self.records)} records, and dataset_info.json says {said}")

    def rows(self) -> Iterator[_Row]:
        """All records in the order of the files, a few at a time."""
        for start in range(0, len(self.records), self.step):
            numbers = range(start, min(start + self.step, len(self.records)))
            yield from map(self._row, self.records.__getitems__(numbers), numbers)

    def at(self, rows: Sequence[int]) -> list[bytes]:
        """The encoded images of some records."""
        return [self._row(record, 0).encoded for record in self.records.__getitems__(rows)]

    def _row(self, record: bytes, row: int) -> _Row:
        from tensorflow_datasets.proto import tf_example_pb2

        fields = tf_example_pb2.Example.FromString(record).features.feature
        label, encoded = fields[self.about.label].int64_list.value[0], fields[self.about.image].bytes_list.value[0]
        place: Any = row
        if self.about.identified:
            place = [*fields["id"].bytes_list.value, *fields["id"].int64_list.value]
        return _Row(place, row, label, encoded)

    def decoded(self, encoded: bytes, white: dict[str, float]) -> np.ndarray:
        """One image, uint8 [H, W, C]."""
        height, width, channels = self.about.shape
        with decode.opened(encoded, self.directory) as image:
            if sorted(image.size) == sorted((height, width)):  # before a pixel is decoded; it may have to be turned
                array = decode.pixels(image, channels == 1, white, self.directory)
                if array.shape == self.about.shape:
                    return array
            raise ValueError(f"an image of {image.height}x{image.width} pixels; features.json says {height}x{width}")


def _in_order(part: _Part, *, keep: bool) -> list[_Row]:
    rows = [row if keep else row._replace(encoded=b"") for row in part.rows()]
    return sorted(rows, key=lambda row: (row.place, row.row))


def _white(parts: list[_Part]) -> dict[str, float]:
    """What is white in images of 16 bits, by looking at all of them."""
    tops = []
    for part in parts:
        for row in part.rows():
            with decode.opened(row.encoded, part.directory) as image:
                tops += [decode.top_level(image, part.directory)] if image.mode in decode.DEEP else []
    return decode.white_levels(tops)


def _read_now(part: _Part, rows: list[_Row], white: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, in their order."""
    images = np.empty((len(rows), *part.about.shape), np.uint8)
    for number, row in enumerate(rows):  # into place at once: a list of them to be stacked would be a second copy
        images[number] = part.decoded(row.encoded, white)
    return images, np.array([row.label for row in rows])


def _read_stored(part: _Part, rows: list[_Row], white: dict[str, float]) -> tuple[Stored, np.ndarray]:
    """The same, but the images are read when they are asked for: only the labels stay in memory."""

    def read(numbers: np.ndarray) -> np.ndarray:
        with _reported(part.directory):
            return np.stack([part.decoded(encoded, white) for encoded in part.at(numbers.tolist())])

    order = np.array([row.row for row in rows])
    return Stored(read, order, part.about.shape), np.array([row.label for row in rows])
