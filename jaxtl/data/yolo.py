"""Pictures with boxes in YOLO's lines of text: `class cx cy w h`, as shares of the picture, in a .txt for each.

    images/a.jpg with labels/a.txt, or a.jpg with a.txt beside it;  classes.txt: a name a line;  or data.yaml: names

Of data.yaml the names alone are read, by a reader of lists and mappings of plain words; nothing else of YAML is.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from jaxtl.data.annotations import MOST_BOXES, Annotations, parts_of
from jaxtl.data.files import decoded, listed, reported
from jaxtl.data.one_size import is_image
from jaxtl.errors import InputError
from jaxtl.files import content

LARGEST = 2**22  # bytes of the boxes of a picture, and of the names
IMAGES, LABELS = "images", "labels"
PLAIN = ("classes.txt", "obj.names", "labels.txt")
YAML = ("data.yaml", "data.yml", "dataset.yaml")
FORM = "write class cx cy w h, shares from 0 to 1"
ITEM = r"""\s*(?:'((?:[^']|'')*)'|"([^"\\]*)"|([^\s'"\[\]{},&*!|>%@`#:-][^'"\[\]{},#:]*?))\s*"""
KEYED = r"\s*(\d{1,6}|'\d{1,6}'|\"\d{1,6}\")\s*:"


def holds_yolo(directory: Path) -> bool:
    """Whether there are pictures here with boxes in texts: by names of classes, or by a folder `labels`."""
    if not directory.is_dir():
        return False
    named = _names_file(directory) is not None
    return (
        any(_label_file(file, directory) is not None for file in _pictures(directory)) if named else _apart(directory)
    )


def _apart(directory: Path) -> bool:
    """Whether folders `images` and `labels` stand beside each other here, or below a part."""
    with reported(directory):
        rooms = [directory, *(one for one in sorted(directory.iterdir()) if one.is_dir())]
        return any((room / IMAGES).is_dir() and any((room / LABELS).rglob("*.txt")) for room in rooms)


def _pictures(directory: Path) -> list[Path]:
    with reported(directory):
        found = [file for file in directory.rglob("*") if is_image(file) and file.is_file()]
    return sorted(file for file in found if not any(p.startswith(".") for p in file.relative_to(directory).parts))


def _label_file(picture: Path, directory: Path) -> Path | None:
    """The boxes of a picture: in `labels` where it is in `images`, or beside it."""
    parts = list(picture.relative_to(directory).with_suffix(".txt").parts)
    candidates = [directory.joinpath(*parts)]
    if IMAGES in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index(IMAGES)
        candidates.insert(0, directory.joinpath(*parts[:last], LABELS, *parts[last + 1 :]))
    else:
        candidates.append(picture.parent / LABELS / parts[-1])
    return next((one for one in candidates if one.is_file() and one.name not in PLAIN), None)


def _names_file(directory: Path) -> Path | None:
    places = (directory, directory / LABELS)
    return next((room / name for name in (*YAML, *PLAIN) for room in places if (room / name).is_file()), None)


def list_yolo(directory: Path) -> Annotations:
    """The pictures of a folder and their boxes, before any is opened; one without a text has none.

    Folders called train, val, test, ... at any depth are parts.

    Args:
        directory: above all of them, with the names of the classes.

    Returns:
        Classes in the order of their numbers, those without any box left out.

    Raises:
        InputError: no names, a line that is no box, a class that has no name, boxes without a picture.
    """
    file = _names_file(directory)
    if file is None:
        todo = f"write a name a line into {PLAIN[0]}, in the order of their numbers"
        raise InputError("nothing says what the classes are called", where=directory, todo=todo)
    names = _names(file)
    files = _pictures(directory)
    texts = [_label_file(picture, directory) for picture in files]
    _refuse_alone(directory, {text for text in texts if text})
    rows = [_boxes(text, names) if text else (np.zeros((0, 4)), np.zeros(0, np.int32)) for text in texts]
    used = np.unique(np.concatenate([labels for _, labels in rows]) if rows else [])
    if not len(used):
        raise InputError("has no box", where=directory, todo=FORM)
    place = np.full(len(names), -1, np.int32)
    place[used] = np.arange(len(used))
    unused = [name for k, name in enumerate(names) if place[k] < 0]
    remarks = [f"categories without a box: {listed(unused)}"] if unused else []
    return Annotations(
        directory,
        files,
        [boxes for boxes, _ in rows],
        [place[labels] for _, labels in rows],
        True,
        [None] * len(files),
        parts_of(files, directory),
        [names[k] for k in used],
        f"{directory} (YOLO)",
        remarks,
    )


def _refuse_alone(directory: Path, read: set[Path]) -> None:
    """Boxes of a picture that is not there."""
    texts = [one for room in directory.rglob(LABELS) if room.is_dir() for one in sorted(room.rglob("*.txt"))]
    alone = [one for one in texts if one not in read and one.name not in PLAIN]
    if alone:
        what = f"{len(alone)} texts with boxes have no picture: {listed(one.name for one in alone)}"
        raise InputError(what, where=directory, todo="put the pictures beside them, or take the texts away")


def _boxes(text: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    lines = decoded(content(text, LARGEST), text).splitlines()
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    if len(rows) > MOST_BOXES:
        raise InputError(f"has more than {MOST_BOXES} boxes", where=text, todo="leave the picture out")
    found = []
    for number, words in rows:
        where = f"{text}, line {number}"
        if len(words) != 5:
            raise InputError(f"has {len(words)} words; outlines are not read", where=where, todo=FORM)
        if not re.fullmatch(r"\d{1,6}", words[0]) or int(words[0]) >= len(names):
            raise InputError(f"there is no class {words[0][:20]} among {len(names)}", where=where, todo=FORM)
        with reported(where, todo=FORM):
            box = [float(word) for word in words[1:]]
        if not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
            raise InputError(f"'{' '.join(words[1:])[:80]}' has no area", where=where, todo=FORM)
        found.append((int(words[0]), box))
    boxes = np.array([box for _, box in found], np.float64).reshape(-1, 4)
    return boxes, np.array([label for label, _ in found], np.int32)


def _names(file: Path) -> list[str]:
    """Of the classes, by their numbers.

    Raises:
        InputError: none, one that is there twice, or YAML of another form.
    """
    text = decoded(content(file, LARGEST), file)
    names = yaml_names(text, file) if file.name in YAML else [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names) or len(set(names)) < len(names):
        what = "has no names" if not any(names) else "has an empty name" if not all(names) else "has a name twice"
        raise InputError(what, where=file, todo="give every class a name of its own")
    return names


def yaml_names(text: str, where: object) -> list[str]:
    """The names in YOLO's data.yaml: a list, or a mapping from 0 on; of plain or quoted words, on one line or several.

    Raises:
        InputError: there are none, or they are written in another way.

    Example:
        >>> yaml_names("nc: 2\\nnames: ['a b', c]  # two", ""), yaml_names("names:\\n  0: a\\n  1: b\\ntrain: x", "")
        (['a b', 'c'], ['a', 'b'])
    """
    todo = "write names: [cat, dog], or a line for each: - cat"
    lines = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in text.splitlines()]
    start = next((k for k, line in enumerate(lines) if re.match(r"names\s*:", line)), None)
    if start is None:
        raise InputError("has no names", where=where, todo=todo)
    first = lines[start].partition(":")[2].strip()
    below = []
    for line in lines[start + 1 :]:
        if line and not re.match(r"\s|-\s|[\]}]", line):
            break
        below += [line.strip()] if line else []
    if first[:1] in ("[", "{"):
        flow, keyed = " ".join([first, *below]), first[0] == "{"
        bodies = [flow[1:-1].strip().removesuffix(",")] if flow[-1] == {"[": "]", "{": "}"}[first[0]] else []
    else:
        dashed = bool(below) and all(line.startswith("-") for line in below)
        keyed, bodies = not dashed, [] if first else [line.removeprefix("-") if dashed else line for line in below]
    names: list[str] = []
    for body in bodies:
        if (found := _words(body, len(names), keyed)) is None:
            names = []
            break
        names += found
    if not names:
        raise InputError("its names are no plain list", where=where, todo=todo)
    return names


def _words(text: str, first: int, keyed: bool) -> list[str] | None:
    """Plain or quoted words between commas, each behind its number if they have numbers; None of anything else."""
    form, names, at = re.compile((KEYED if keyed else "()") + ITEM + r"(?:,|$)"), list[str](), 0
    while at < len(text):
        found = form.match(text, at)
        if not found or (keyed and int(found[1].strip("'\"")) != first + len(names)):
            return None
        quoted, double, plain = found.groups()[1:]
        names.append(quoted.replace("''", "'") if quoted is not None else double if double is not None else plain)
        at = found.end()
    return names
