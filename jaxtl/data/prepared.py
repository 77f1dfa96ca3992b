"""Directories that tensorflow-datasets has prepared, read without TensorFlow: array_record files of encoded images."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data.dataset import DataSet, assembled
from jaxtl.data.readers import reported
from jaxtl.errors import InputError


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


def read_prepared(directory: Path) -> DataSet:
    """A prepared classification set: one image feature of fixed shape, one class label, parts train and test.

    Where there is no part test, the part validation stands in for it, and `origin` says so.

    Args:
        directory: of one version, such as `~/tensorflow_datasets/cifar10/3.0.2`.

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
        grey = builder.info.features[image].shape[-1] == 1
        arrays: list[np.ndarray] = []
        for part in ("train", tests[0]):
            records = sources[part].__getitems__(range(len(sources[part])))
            if "id" in builder.info.features:  # the library shuffles what it writes; a seed shall draw the same images
                records = sorted(records, key=lambda record: record["id"])
            arrays.append(np.stack([_decoded(record[image], grey) for record in records]))
            arrays.append(np.array([record[label] for record in records]))
    classes = builder.info.features[label].names
    tested = "" if tests[0] == "test" else ", tested on its part validation"
    origin = f"{directory} (tensorflow-datasets {builder.info.full_name}{tested})"
    return assembled(*arrays, classes=classes, name=builder.info.name, origin=origin, where=directory)


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


def _decoded(encoded: bytes, grey: bool) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("L" if grey else "RGB"))
