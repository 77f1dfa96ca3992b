"""Pictures of any size with boxes, as files: brought onto one canvas, with the boxes; what cannot be used is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from jaxtl.clients import Progress, Silent
from jaxtl.data import decode
from jaxtl.data.annotations import Annotations, checked, in_pixels
from jaxtl.data.arrays import from_arrays
from jaxtl.data.coco import descriptions, list_coco
from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.files import check_memory, listed
from jaxtl.data.letterbox import canvas_of, factors, laid, laid_size
from jaxtl.data.one_size import header_of, refuse, remarks_on, top_of
from jaxtl.data.yolo import holds_yolo, list_yolo
from jaxtl.errors import InputError
from jaxtl.files import expanded

T = TypeVar("T")
THREADS = 4  # each may hold a picture of hundreds of megabytes
FINER = 2  # times the size that a JPEG is decoded to at least
TEST = 5  # one in so many pictures is for testing, where nothing says it
MULTIPLE = 16  # what edges of a canvas are multiples of: cells of a detector divide them
LEAST = 2  # pictures with a class: one to learn from, one to choose by
BAD = "mend them, move them away, or leave them out by --skip-bad"


class BoxedFiles(NamedTuple):
    """Pictures on one canvas.

    Attributes:
        name: short.
        train: image uint8 [N, rows, columns, 3], box float32 [N, M, 4] in pixels of the canvas, box_class int32 [N, M].
        test: the same; None where there is no such part.
        classes: names.
        origin: where they come from, in words.
        notices: what there is to know of them.
        files: of the pictures to learn from and of those for testing, what they are called.
        sizes: of both, [N, 2] width and height.
        truth: of both, float64 [N, M, 5] boxes in pixels of the picture, and classes, −1 for none.
        skipped: (file, why) of what could not be used.
        white: of pictures of more than 8 bits, see `decode.white_levels`.
    """

    name: str
    train: Split
    test: Split | None
    classes: tuple[str, ...]
    origin: str
    notices: list[str]
    files: tuple[list[str], list[str]]
    sizes: tuple[np.ndarray, np.ndarray]
    truth: tuple[np.ndarray, np.ndarray]
    skipped: list[tuple[str, str]]
    white: dict[str, float]

    @property
    def several(self) -> bool:
        """Whether pictures have several sizes."""
        return len(np.unique(np.concatenate(self.sizes), axis=0)) > 1


def holds_boxes(path: Path) -> bool:
    """Whether there are pictures with boxes here: a description of COCO, or texts of YOLO."""
    return bool(descriptions(path)) or holds_yolo(path)


def annotated(path: Path) -> Annotations:
    """What is said of the pictures of a folder, before any is opened.

    Raises:
        InputError: see `list_coco` and `list_yolo`; or both are there.
    """
    coco, yolo = bool(descriptions(path)), holds_yolo(path)
    if coco and yolo:
        todo = "leave one of them: move the JSON or the texts away"
        raise InputError("holds boxes both in COCO's JSON and in YOLO's texts", where=path, todo=todo)
    return list_coco(path) if coco else list_yolo(path)


def read_boxed_files(
    path: str | os.PathLike[str],
    longest: int,
    multiple: int,
    *,
    skip_bad: bool = False,
    progress: Progress = Silent,
    memory: float = float("inf"),
) -> BoxedFiles:
    """Pictures with boxes, on a canvas of the shape that they mostly have.

    Args:
        path: of a folder, or of COCO's JSON.
        longest: pixels of the longer edge of the canvas, 0 for that of the largest picture.
        multiple: what its edges are multiples of.
        skip_bad: leave pictures out that cannot be read or have a box outside, instead of refusing all.
        progress: (total, description) -> a display.
        memory: bytes that pictures may take.

    Raises:
        InputError: nothing that can be learned from; all pictures that are wrong are told at once.
    """
    said = annotated(expanded(path))
    wrong: dict[Path, InputError] = {}
    headers = dict(_each(said.files, header_of, wrong, progress, "looking at pictures"))
    boxes, cut = _checked(said, headers, wrong)
    tops = dict(_each([file for file in boxes if headers[file].deep], top_of, wrong, Silent, ""))
    white = decode.white_levels(tops.values())
    _refuse(said, wrong, skip_bad)
    used = [file for file in boxes if file not in wrong]
    sizes = [headers[file].size for file in used]
    canvas = canvas_of(sizes, max(longest or max(map(max, sizes)), multiple), multiple)
    check_memory(len(used) * canvas[0] * canvas[1] * 3, memory, said.directory)

    def read(file: Path) -> np.ndarray:
        return read_laid(file, canvas, white)[0]

    images = dict(_each(used, read, wrong, progress, "decoding pictures"))
    _refuse(said, wrong, skip_bad)
    rows = np.array([k for k, file in enumerate(said.files) if file in images])
    notices = [*said.remarks, *remarks_on([headers[file] for file in images], white)]
    notices += [f"{cut:,} boxes stuck out of their picture by a pixel at most, and were cut"] if cut else []
    parts = [rows[~said.tested[rows]], rows[said.tested[rows]]]
    empty = sum(not len(boxes[said.files[row]]) for row in rows)
    notices += [f"{empty:,} pictures without a box, which say where nothing is"] if empty else []
    truth = [_truth(said, part, boxes) for part in parts]
    scales = [np.array([factors(headers[said.files[row]].size, canvas) for row in part]) for part in parts]
    train, test = (
        Split(
            image=np.stack([images[said.files[row]] for row in part]),
            box=(true[..., :4] * scale[:, None]).astype(np.float32),
            box_class=true[..., 4].astype(np.int32),
        )
        if len(part)
        else None
        for part, true, scale in zip(parts, truth, scales, strict=True)
    )
    _check_classes(said, train)
    assert train is not None  # `_check_classes` has seen it
    names = tuple([str(said.files[row].relative_to(said.directory)) for row in part] for part in parts)
    shapes = tuple(np.array([headers[said.files[row]].size for row in part]).reshape(-1, 2) for part in parts)
    skipped = [(str(file.relative_to(said.directory)), error.what) for file, error in wrong.items()]
    name = said.directory.resolve().name
    return BoxedFiles(
        name,
        train,
        test,
        tuple(said.classes),
        said.origin,
        notices,
        (names[0], names[1]),
        (shapes[0], shapes[1]),
        (truth[0], truth[1]),
        skipped,
        white,
    )


def read_annotated(path: Path, name: str, memory: float) -> DataSet:
    """Pictures with boxes as a data set: "image", "box" and "box_class", on a canvas as large as the largest of them.

    Args:
        path: of the folder; without a part for testing a fifth is split off.
        name: of the set.
        memory: bytes that pictures may take.

    Raises:
        InputError: see `read_boxed_files`.
    """
    found = read_boxed_files(path, 0, MULTIPLE, memory=memory)
    train, test, origin = found.train, found.test, found.origin
    if test is None:
        order = np.random.default_rng(0).permutation(len(train))
        count = max(1, len(train) // TEST)
        train, test = train.take(np.sort(order[count:])), train.take(np.sort(order[:count]))
        origin += ", test part split off here"
    data = from_arrays(dict(train.fields), None, dict(test.fields), classes=found.classes, name=name, origin=origin)
    told = [*found.notices, "pictures of several sizes on one canvas"] if found.several else found.notices
    return data.told(f"{name}: {'; '.join(told)}" if told else "")


def read_laid(file: Path, canvas: tuple[int, int], white: dict[str, float]) -> tuple[np.ndarray, tuple[int, int]]:
    """(one file on a canvas uint8 [rows, columns, 3], width and height that it has as it is looked at).

    Raises:
        InputError: what `decode` refuses.
    """
    size = header_of(file).size
    with decode.opened(file) as image:
        if image.format == "JPEG" and image.mode == "RGB":
            edge = FINER * max(laid_size(size, canvas))
            image.draft("RGB", (edge, edge))  # by halves, each an average, while it is decoded
        return laid(decode.pixels(image, False, white, file), canvas, size), size


def _each(
    files: Sequence[Path], work: Callable[[Path], T], wrong: dict[Path, InputError], progress: Progress, title: str
) -> list[tuple[Path, T]]:
    """(file, what the work gives) of those that it does not refuse."""

    def attempt(file: Path) -> T | InputError:
        try:
            return work(file)
        except InputError as error:
            return error

    done = []
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool, progress(len(files), title) as display:
        for file, found in zip(files, pool.map(attempt, files), strict=True):
            if isinstance(found, InputError):
                wrong[file] = found
            else:
                done.append((file, found))
            display.advance(1)
    return done


def _refuse(said: Annotations, wrong: dict[Path, InputError], skip_bad: bool) -> None:
    if wrong and not skip_bad:
        refuse(said.directory, wrong, said.files, todo=BAD, many=10**9)
    if len(wrong) == len(said.files):
        refuse(said.directory, wrong, said.files, todo="give pictures that can be read")


def _checked(
    said: Annotations, headers: Mapping[Path, decode.Header], wrong: dict[Path, InputError]
) -> tuple[dict[Path, np.ndarray], int]:
    """Boxes in pixels of those that are within their pictures, and how many were cut."""
    found, cut = {}, 0
    for file, boxes, size in zip(said.files, said.boxes, said.sizes, strict=True):
        if file not in headers:
            continue
        real = headers[file].size
        if size is not None and size != real:
            what = f"has {real[0]}x{real[1]} pixels, and its description says {size[0]}x{size[1]}"
            wrong[file] = InputError(what, where=file, todo="boxes belong to another version of it: mend either")
            continue
        try:
            found[file], count = checked(in_pixels(boxes, said.relative, real), real, file)
            cut += count
        except InputError as error:
            wrong[file] = error
    return found, cut


def _truth(said: Annotations, rows: np.ndarray, boxes: dict[Path, np.ndarray]) -> np.ndarray:
    """[n, M, 5] boxes in pixels of their pictures with their classes; rows of class −1 are none."""
    most = max([1, *(len(said.labels[row]) for row in rows)])
    found = np.concatenate([np.zeros((len(rows), most, 4)), np.full((len(rows), most, 1), -1.0)], axis=2)
    for k, row in enumerate(rows):
        count = len(said.labels[row])
        found[k, :count, :4], found[k, :count, 4] = boxes[said.files[row]], said.labels[row]
    return found


def _check_classes(said: Annotations, train: Split | None) -> None:
    """Refuse classes of which nothing could be said."""
    labels = np.zeros((0, 1), np.int32) if train is None else np.asarray(train["box_class"])
    counts = [int((labels == k).any(axis=1).sum()) for k in range(len(said.classes))]
    few = [f"{name} is in {count or 'none'}" for name, count in zip(said.classes, counts, strict=True) if count < LEAST]
    if few:
        what = f"a class needs {LEAST} pictures to learn from, and {listed(few, 3)}"
        raise InputError(what, where=said.directory, todo="add pictures, or take the class out")
