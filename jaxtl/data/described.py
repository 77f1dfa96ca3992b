"""What a directory of tensorflow-datasets says about itself, read as text: nothing that it names is imported.

The library's own way, `tfds.builder_from_directory`, imports the Python class that features.json names for a feature,
and a directory that somebody else has made may bring that class along. Here the names are compared with those of the
few features that are read; records are read without a builder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxtl.data.decode import PIXELS
from jaxtl.data.files import listed, reported
from jaxtl.errors import InputError
from jaxtl.files import content

BUILT_IN = "tensorflow_datasets.core.features."
DICTIONARY = f"{BUILT_IN}features_dict.FeaturesDict"
IMAGE = f"{BUILT_IN}image_feature.Image"
LABEL = f"{BUILT_IN}class_label_feature.ClassLabel"
NAME = r"\w[\w.-]{,199}"  # of a set and of a file in its directory
DTYPES = ("uint8", "uint16")
MOST_SHARDS = 20_000  # files of records
MOST = 2**24  # bytes of a description
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
YOURSELF = "load it yourself and pass the arrays to from_arrays"
AGAIN = "prepare it again, or get it again: it is truncated, damaged or of another format"


class Shard(NamedTuple):
    """A file of records, and how many are said to be in it."""

    file: Path
    records: int


class Description(NamedTuple):
    """A classification set: one image of fixed shape and one label in each record."""

    name: str
    full_name: str
    image: str
    shape: tuple[int, int, int]
    label: str
    classes: tuple[str, ...]
    identified: bool  # records have a field "id"
    deep: bool  # images have 16 bits
    parts: dict[str, list[Shard]]


def describe(directory: Path) -> Description:
    """The description of a prepared version.

    Args:
        directory: with dataset_info.json and features.json.

    Raises:
        InputError: damaged, or features that are not one image of fixed shape and one class label, or not built in.
    """
    with reported(directory, KeyError, TypeError, AttributeError, todo=AGAIN):
        info, features = (_json(directory / name) for name in ("dataset_info.json", "features.json"))
        for feature, name in _classes(features):
            if not re.fullmatch(rf"{re.escape(BUILT_IN)}\w+\.\w+", name):
                what = f"features.json gives {listed([feature])} the class {listed([name])}"
                raise InputError(f"{what}: code of others is never imported", where=directory, todo=YOURSELF)
        if features["pythonClassName"] != DICTIONARY:
            raise InputError("features.json describes no dictionary of features", where=directory, todo=YOURSELF)
        if not re.fullmatch(NAME, info["name"]):
            raise InputError(f"has the name {listed([info['name']])}, which names no set", where=directory, todo=AGAIN)
        kinds = features["featuresDict"]["features"]
        image, shape, label = _image_and_label(kinds, directory)
        deep = kinds[image]["image"].get("dtype") == DTYPES[1]
        parts = {part["name"]: _shards(part, info["name"], directory) for part in info.get("splits", [])}
        full_name = "/".join(filter(None, (info["name"], info.get("configName"), info["version"])))
        most = max((sum(shard.records for shard in shards) for shards in parts.values()), default=0)
        classes = _class_names(kinds[label], label, directory, most)
        return Description(info["name"], full_name, image, shape, label, classes, "id" in kinds, deep, parts)


def licence_and_citation(directory: Path) -> tuple[str, str]:
    """What a prepared version says about them; "" where it says nothing.

    Raises:
        InputError: its description is damaged.
    """
    with reported(directory, AttributeError, todo=AGAIN):
        info = _json(directory / "dataset_info.json")
        return str(info.get("redistributionInfo", {}).get("license", "")), str(info.get("citation", ""))


def _json(file: Path) -> Any:
    return json.loads(content(file, MOST))


def _classes(features: Any) -> Iterator[tuple[str, str]]:
    """(feature, name of its class) of every feature, however deep; also in the form before version 4.4 ("type")."""
    left = [("the set", features)]
    while left:
        name, found = left.pop()
        if isinstance(found, dict):
            yield from ((name, found[key]) for key in ("pythonClassName", "type") if isinstance(found.get(key), str))
            left += found.items()
        elif isinstance(found, list):
            left += [(name, value) for value in found]


def _image_and_label(kinds: dict[str, Any], directory: Path) -> tuple[str, tuple[int, int, int], str]:
    """The names of the image and the label, found by their types, and the shape of the image."""
    images = [key for key, kind in kinds.items() if kind["pythonClassName"] == IMAGE]
    labels = [key for key, kind in kinds.items() if kind["pythonClassName"] == LABEL]
    if len(labels) > 1 and "label" in labels:
        labels = ["label"]
    given = kinds[images[0]]["image"] if len(images) == 1 else {}
    shape = [int(size) for size in given.get("shape", {}).get("dimensions", [])]
    bearable = len(shape) == 3 and min(shape) > 0 and shape[0] * shape[1] <= PIXELS and shape[2] <= 4
    if len(labels) != 1 or not bearable:
        what = f"has the features {listed(kinds)}; one image of fixed shape and one class label are needed"
        raise InputError(what, where=directory, todo=YOURSELF)
    if (dtype := given.get("dtype", "uint8")) not in DTYPES:
        raise InputError(f"has images of {dtype}; {' and '.join(DTYPES)} are read", where=directory, todo=YOURSELF)
    return images[0], (shape[0], shape[1], 1 if shape[2] < 3 else 3), labels[0]


def _shards(part: dict[str, Any], name: str, directory: Path) -> list[Shard]:
    """The files of a part: in this directory, whatever the template of their names says."""
    if len(part["shardLengths"]) > MOST_SHARDS:
        what = f"names {len(part['shardLengths'])} files of records, more than {MOST_SHARDS}"
        raise InputError(what, where=directory, todo="prepare it again in fewer files")
    counts = [int(count) for count in part["shardLengths"]]
    digits = max(5, len(str(len(counts))))
    words = {"DATASET": name, "SPLIT": part["name"], "FILEFORMAT": "array_record"}
    words["NUM_SHARDS"] = f"{len(counts):0{digits}d}"
    template = re.sub(
        r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), part.get("filepathTemplate") or TEMPLATE
    )
    shards = []
    for number, count in enumerate(counts):
        index = f"{number:0{digits}d}"
        file = template.replace("{SHARD_X_OF_Y}", f"{index}-of-{words['NUM_SHARDS']}").replace("{SHARD_INDEX}", index)
        if not re.fullmatch(NAME, file) or count < 0:
            raise InputError(
                f"names a file of records {listed([file])}, which is none in it", where=directory, todo=AGAIN
            )
        shards.append(Shard(directory / file, count))
    return shards


def _class_names(kind: dict[str, Any], label: str, directory: Path, most: int) -> tuple[str, ...]:
    """From LABEL.labels.txt, or numbers; every class has an example, so there are at most as many as records."""
    file = directory / f"{label}.labels.txt"
    if re.fullmatch(r"\w[\w .-]*", label) and (file.exists() or file.is_symlink()):
        names = content(file, MOST).decode("utf-8").split("\n")
        return tuple(name.strip() for name in names if name.strip())
    count = int(kind["classLabel"].get("numClasses", 0))
    if not 0 < count <= most:
        raise InputError(f"is said to have {count} classes in {most} records", where=directory, todo=AGAIN)
    return tuple(map(str, range(count)))
