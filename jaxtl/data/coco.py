"""Pictures with boxes in COCO's JSON: lists of images, annotations and categories. What is read are numbers and names.

{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 7, "name": "cat"}],
 "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [x, y, w, h]}]}
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from jaxtl.data.annotations import MOST_BOXES, Annotations, parts_of
from jaxtl.data.files import decoded, listed, reported, start_of
from jaxtl.data.folders import TESTS, TRAINS
from jaxtl.data.tables import lies_in
from jaxtl.errors import InputError, kind_of
from jaxtl.files import content

LARGEST = 2**28  # bytes of a description: a million boxes, about
STARTS = 2**16  # bytes at which a file is looked at that is larger
KEYS = ("images", "annotations", "categories")
PLACES = ("", "images", "../images", "..")  # where pictures lie, as seen from the description
ROOM = "annotations"  # a folder in which descriptions may lie
TODO = "mend the description, or write it again"


class Said(NamedTuple):
    """One description, checked.

    Attributes:
        path: of it.
        images: id -> entry.
        categories: id -> name.
        boxes: id of the image -> [(box, id of the category)].
        crowds: how many boxes of crowds were left out.
    """

    path: Path
    images: dict[int, dict[str, Any]]
    categories: dict[int, str]
    boxes: dict[int, list[tuple[list[float], int]]]
    crowds: int


def descriptions(path: Path) -> list[Path]:
    """The descriptions in a folder, in its `annotations`, and in its folders for training and testing; or the file."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and _is_one(path) else []
    if not path.is_dir():
        return []
    with reported(path):
        inside = [one for one in sorted(path.iterdir()) if one.is_dir()]
        rooms = [path, *(one for one in inside if one.name.lower() in (ROOM, *TRAINS, *TESTS))]
        files = [file for room in rooms for file in sorted(room.iterdir()) if file.suffix.lower() == ".json"]
    return [file for file in files if file.is_file() and not file.name.startswith(".") and _is_one(file)]


def _is_one(file: Path) -> bool:
    """Whether it has the keys of one; anything may be called .json."""
    if file.stat().st_size > LARGEST:  # which is refused, if it begins like one
        return any(f'"{key}"'.encode() in start_of(file, STARTS) for key in KEYS)
    start = content(file, LARGEST)
    return all(f'"{key}"'.encode() in start for key in KEYS[:2])


def list_coco(path: Path) -> Annotations:
    """The pictures that descriptions name, and their boxes, before any is opened.

    Boxes of crowds (iscrowd) are left out, and counted. Several descriptions are told apart by the folder they lie in
    or by a word in their name (train, val, test).

    Args:
        path: of the description, or a folder that `descriptions` finds some in.

    Returns:
        Classes in the order of their ids, those without any box left out.

    Raises:
        InputError: no JSON of that form, an id that is there twice or nowhere, a picture that is not there or outside
            of the folder, a box of other than four finite numbers.
    """
    found = descriptions(path)
    directory = (path.parent.parent if path.parent.name == ROOM else path.parent) if path.is_file() else path
    said = [_said(file) for file in found]
    words = [_part(file, directory) for file in found]
    if len(found) > 1 and (alike := next((word for word in words if words.count(word) > 1), None)) is not None:
        named = listed(file.name for file, word in zip(found, words, strict=True) if word == alike)
        todo = "leave one, or put train, val or test into their names"
        raise InputError(f"holds {len(found)} descriptions, and nothing tells apart {named}", where=path, todo=todo)
    names = _names(said)
    places = {name: k for k, name in enumerate(names)}
    rows: dict[Path, tuple[list, tuple[int, int] | None, str]] = {}
    for one, word in zip(said, words, strict=True):
        for key, file in _files(one, directory).items():
            if file in rows:
                what = f"{one.images[key]['file_name']} is named twice"
                raise InputError(what, where=one.path, todo="give one entry for each picture")
            boxes = [(box, places[one.categories[own]]) for box, own in one.boxes.get(key, [])]
            rows[file] = boxes, _size(one, key), word
    files = sorted(rows)
    crowds = sum(one.crowds for one in said)
    remarks = [f"{crowds:,} boxes of crowds left out"] if crowds else []
    unused = sorted({name for one in said for name in one.categories.values()} - set(names))
    remarks += [f"categories without a box: {listed(unused)}"] if unused else []
    return Annotations(
        directory,
        files,
        [np.array([box for box, _ in rows[file][0]], np.float64).reshape(-1, 4) for file in files],
        [np.array([label for _, label in rows[file][0]], np.int32) for file in files],
        False,
        [rows[file][1] for file in files],
        parts_of(files, directory, [rows[file][2] for file in files]),
        names,
        f"{path} (COCO)",
        remarks,
    )


def _part(file: Path, directory: Path) -> str:
    """The part that a description is of, "" where nothing says it."""
    room = [] if file.parent == directory else [file.parent.name.lower()]
    words = [*re.findall("[a-z]+", file.stem.lower()), *room]
    return next((word for word in words if word in (*TRAINS, *TESTS)), "")


def _names(said: list[Said]) -> list[str]:
    """Of the classes that have a box, by their ids."""
    used = {(own, one.categories[own]) for one in said for boxes in one.boxes.values() for _, own in boxes}
    names = list(dict.fromkeys(name for _, name in sorted(used)))
    if not names:
        raise InputError("has no box", where=said[0].path, todo="annotations of pictures have a bbox [x, y, w, h]")
    return names


def _said(path: Path) -> Said:
    with reported(path, RecursionError, todo=TODO):
        whole = json.loads(decoded(content(path, LARGEST), path))
    if not isinstance(whole, dict) or not all(isinstance(whole.get(key), list) for key in KEYS):
        missing = listed(key for key in KEYS if not isinstance(whole, dict) or not isinstance(whole.get(key), list))
        raise InputError(f"has no list of {missing}", where=path, todo=f"COCO's JSON has {', '.join(KEYS)}")
    images = _by_id(whole["images"], "image", path)
    categories = {
        key: _text(entry, "name", f"category {key}", path)
        for key, entry in _by_id(whole["categories"], "category", path).items()
    }
    if len(set(categories.values())) < len(categories):
        raise InputError("two categories have one name", where=path, todo=TODO)
    boxes: dict[int, list[tuple[list[float], int]]] = {}
    crowds = 0
    for key, entry in _by_id(whole["annotations"], "annotation", path).items():
        where = f"{path}, annotation {key}"
        owner: Any = entry.get("image_id")
        own: Any = entry.get("category_id")
        for name, value, known in (("image", owner, images), ("category", own, categories)):
            if not _is_id(value) or value not in known:
                raise InputError(f"there is no {name} {kind_of(value)}", where=where, todo=TODO)
        if entry.get("iscrowd") in (1, True):
            crowds += 1
            continue
        boxes.setdefault(owner, []).append((_box(entry.get("bbox"), where), own))
        if len(boxes[owner]) > MOST_BOXES:
            raise InputError(f"image {owner} has more than {MOST_BOXES} boxes", where=path, todo="leave it out")
    return Said(path, images, categories, boxes, crowds)


def _is_id(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _by_id(entries: Iterable[Any], name: str, path: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for number, entry in enumerate(entries, start=1):
        key: Any = entry.get("id") if isinstance(entry, Mapping) else None
        if not _is_id(key):
            raise InputError(f"{name} {number} of the list has no whole number as id", where=path, todo=TODO)
        if key in found:
            raise InputError(f"{name} {key} is there twice", where=path, todo=f"give every {name} an id of its own")
        found[key] = entry
    return found


def _text(entry: Mapping[str, Any], key: str, what: str, path: Path) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InputError(f"{what} has no {key}", where=path, todo=TODO)
    return value


def _box(value: Any, where: str) -> list[float]:
    numbers = isinstance(value, list) and len(value) == 4
    if not numbers or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
        raise InputError("has no bbox of four numbers", where=where, todo="write [x, y, w, h]; outlines are not read")
    with reported(where, todo=TODO):
        box = [float(one) for one in value]
    if not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        shown = ", ".join(f"{one:g}" for one in box)
        raise InputError(f"bbox [{shown}] has no area", where=where, todo="write [x, y, w, h] with w and h above 0")
    return box


def _size(said: Said, key: int) -> tuple[int, int] | None:
    """Width and height, where the description says them."""
    width, height = (said.images[key].get(name) for name in ("width", "height"))
    return (width, height) if _is_id(width) and _is_id(height) else None


def _files(said: Said, directory: Path) -> dict[int, Path]:
    """Where the pictures are that a description names: id -> file."""
    home, inside, room = directory.resolve(), dict[Path, bool](), said.path.parent
    places = [*PLACES, *(f"../{part}" for part in (*TRAINS, *TESTS) if part == _part(said.path, directory))]
    found: dict[int, Path] = {}
    for key, entry in said.images.items():
        name = _text(entry, "file_name", f"image {key}", said.path)
        there = [one for place in places if (one := Path(os.path.normpath(room / place / name))).is_file()]
        ours = [one for one in there if one.is_relative_to(directory) and lies_in(home, one, inside)]
        if not ours:
            what = f"image {key}: '{name}' is {'outside of the folder' if there else 'not there'}"
            todo = f"name pictures relative to {room}, or put them into {room / 'images'}"
            raise InputError(what, where=said.path, todo=todo)
        found[key] = ours[0]
    return found
