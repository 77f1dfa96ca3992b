"""Directories that tensorflow-datasets has prepared, read without TensorFlow: array_record files of encoded images."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.dataset import DataSet, assembled
from jaxtl.data.readers import reported
from jaxtl.data.stored import Stored
from jaxtl.errors import InputError

BLOCK = 100  # records gone through at a time


def newest_version(directory: Path) -> Path | None:
    """The prepared version at or below a directory: `cifar10/3.0.2`, or `cifar10` with several such in it.

    Looks at file names only, since importing tensorflow-datasets costs half a second.
    """
    if not directory.is_dir():
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

    Where there is no part test, the part validation stands in for it, and `origin` says so.

    Args:
        directory: of one version, such as `~/tensorflow_datasets/cifar10/3.0.2`.
        memory: bytes; if its images take more, they are `Stored`, and the records are gone through once for the labels.

    Raises:
        InputError: damaged files, or features and parts other than these.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

    with reported(directory, ParseError, RuntimeError, KeyError):
        builder = tfds.builder_from_directory(str(directory))
        image, label = _features(builder.info.features, directory)
        tests = [part for part in ("test", "validation") if part in builder.info.splits]
        if "train" not in builder.info.splits or not tests:
            what = f"has the parts {', '.join(builder.info.splits)}"
            raise InputError(what, where=directory, todo="load it yourself and pass the parts to from_arrays")
        # Images are decoded here: the library's own decoder asks for OpenCV on the terminal.
        sources = builder.as_data_source(decoders={image: tfds.decode.SkipDecoding()})
        shape, parts = builder.info.features[image].shape, [sources[part] for part in ("train", tests[0])]
        stored = sum(map(len, parts)) * math.prod(shape) > memory
        read = _read_stored if stored else _read_now
        arrays = [array for part in parts for array in read(_Part(part, image, label, shape, directory))]
    classes = builder.info.features[label].names
    tested = "" if tests[0] == "test" else ", tested on its part validation"
    origin = f"{directory} (tensorflow-datasets {builder.info.full_name}{tested})"
    return assembled(*arrays, classes=classes, name=builder.info.name, origin=origin, where=directory)


class _Part(NamedTuple):
    """The records of a part, encoded, and what is in them."""

    records: Any
    image: str
    label: str
    shape: tuple[int, ...]
    directory: Path

    def at(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        return self.records.__getitems__(rows)

    def decoded(self, record: dict[str, Any]) -> np.ndarray:
        from PIL import Image

        with Image.open(io.BytesIO(record[self.image])) as image:
            return np.asarray(image.convert("L" if self.shape[-1] == 1 else "RGB")).reshape(self.shape)


def _read_now(part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, in the order of `_place`."""
    records = part.at(range(len(part.records)))
    records = [records[row] for row in sorted(range(len(records)), key=lambda row: _place(records[row], row))]
    images = np.empty((len(records), *part.shape), np.uint8)
    for row, record in enumerate(records):  # into place at once: a list of them to be stacked would be a second copy
        images[row] = part.decoded(record)
    return images, np.array([record[part.label] for record in records])


def _read_stored(part: _Part) -> tuple[Stored, np.ndarray]:
    """The same, but the images are read when they are asked for: only the labels stay in memory."""
    found = []
    for start in range(0, len(part.records), BLOCK):
        records = part.at(range(start, min(start + BLOCK, len(part.records))))
        found += [(_place(record, row), row, record[part.label]) for row, record in enumerate(records, start)]
    found.sort()

    def read(rows: np.ndarray) -> np.ndarray:
        with reported(part.directory, RuntimeError):
            return np.stack([part.decoded(record) for record in part.at(rows.tolist())])

    return Stored(read, np.array([row for _, row, _ in found]), part.shape), np.array([label for *_, label in found])


def _place(record: dict[str, Any], row: int) -> Any:
    """What a record is sorted by: the library shuffles what it writes, and a seed shall draw the same images."""
    return record.get("id", row)


def _features(features: Any, directory: Path) -> tuple[str, str]:
    """The names of the image and the label, found by their types."""
    import tensorflow_datasets as tfds

    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if len(labels) > 1 and "label" in labels:
        labels = ["label"]
    if len(images) != 1 or len(labels) != 1 or None in features[images[0]].shape:
        what = f"has the features {', '.join(features)}; one image of fixed shape and one class label are needed"
        raise InputError(what, where=directory, todo="load it yourself and pass the arrays to from_arrays")
    return images[0], labels[0]
