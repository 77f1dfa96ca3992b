"""Pictures of any size brought to one square, and kept as uint8 on disk: a second run decodes nothing.

The shorter edge becomes EDGE pixels and the middle is cut out. Every pixel is an average of those that it covers
(Pillow's bicubic filter, whose support grows with the factor), so that nothing is aliased.

    CACHE/pictures/KEY.u8    uint8 [N, EDGE, EDGE, 3];  KEY: the content of every file, and all that decides a pixel
    CACHE/pictures/KEY.json   which files these are, what was done to them, which cannot be used
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl import files as whole_files
from jaxtl.clients import Progress, Silent
from jaxtl.data import decode
from jaxtl.data.on_disk import Stored
from jaxtl.data.one_size import header_of, refuse, remarks_on, top_of
from jaxtl.errors import InputError

METHOD = "bicubic, shorter edge, centre, 1"  # another number where pixels change
BLOCK = 256  # files at a time
THREADS = 4  # each may hold a picture of hundreds of megabytes
FINER = 2  # times the edge that a JPEG is decoded to at least
LONG = 64  # times as long as wide: nothing of such a picture would be left


class Resize(NamedTuple):
    """How pictures of any size come to one.

    Attributes:
        edge: of the square, in pixels.
        skip_bad: leave out files that cannot be used, instead of refusing all.
        cache: a directory for what was decoded; None keeps nothing.
        progress: (total, description) -> a display.
    """

    edge: int
    skip_bad: bool = False
    cache: Path | None = None
    progress: Progress = Silent


class Resized(NamedTuple):
    """Pictures that were brought to one size.

    Attributes:
        images: uint8 [n, EDGE, EDGE, 3]; `Stored` where they take more memory than they may.
        rows: [n] which of the files they are.
        skipped: (file, why) of the others.
        white: of pictures of more than 8 bits, see `decode.white_levels`.
        remarks: what was done to how many, in words.
    """

    images: np.ndarray | Stored
    rows: np.ndarray
    skipped: list[tuple[str, str]]
    white: dict[str, float]
    remarks: list[str]


def resized(image: Any, edge: int) -> np.ndarray:
    """A picture as a square: its shorter edge becomes `edge` pixels, and the middle of the longer one is kept.

    Args:
        image: uint8 [H, W, C], of 1 or 3 channels.
        edge: in pixels.

    Returns:
        uint8 [edge, edge, 3]; a picture of that size comes back as it is.

    Example:
        >>> resized(np.full((20, 40, 1), 7, np.uint8), 8).shape
        (8, 8, 3)
    """
    from PIL import Image

    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    height, width = image.shape[:2]
    if (height, width) == (edge, edge):
        return np.asarray(image)
    shorter = min(height, width)
    left, top = (width - shorter) / 2, (height - shorter) / 2
    box = (left, top, left + shorter, top + shorter)
    return np.asarray(Image.fromarray(image).resize((edge, edge), Image.Resampling.BICUBIC, box))


def read_picture(file: Path, edge: int, white: dict[str, float]) -> np.ndarray:
    """One file as a square uint8 [edge, edge, 3], upright, on white, in 8 bits.

    Raises:
        InputError: what `decode` refuses, or a strip of which nothing would be left.
    """
    with decode.opened(file) as image:
        if max(image.size) > LONG * min(image.size):
            what = f"is a strip of {image.width}x{image.height} pixels, of which the middle says nothing"
            raise InputError(what, where=file, todo="cut the part out that is meant")
        if image.format == "JPEG" and image.mode == "RGB":
            image.draft("RGB", (FINER * edge, FINER * edge))  # by halves, each an average, while it is decoded
        return resized(decode.pixels(image, False, white, file), edge)


def resized_pictures(directory: Path, files: Sequence[Path], how: Resize, memory: float = math.inf) -> Resized:
    """Every file as a square of one size, from the cache where nothing has changed.

    Args:
        directory: above the files, for what is said of them.
        files: in any format that `decode` opens; read in blocks, several at a time.
        how: edge, cache, what becomes of bad files.
        memory: bytes; images that take more are read from the cache when they are asked for.

    Raises:
        InputError: files that cannot be used, all told at once, unless they are to be skipped; none that can.
    """
    wrong: dict[Path, InputError] = {}
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        headers = _headers(files, how, pool, wrong)
        deep = [file for file, (found, _) in headers.items() if found.deep]
        tops = [top for _, top, error in _each(top_of, deep, pool, wrong) if error is None]
        white = decode.white_levels(tops)
        usable = [row for row, file in enumerate(files) if file not in wrong]
        place = _place(how, [headers[files[row]][1] for row in usable], white)
        kept = _kept(place, how.edge) if place else None
        if kept is None:
            images, good = _decoded([files[row] for row in usable], how, white, place, pool, wrong)
        else:
            images, good, bad = kept
            wrong |= {files[usable[k]]: InputError(why, where=files[usable[k]]) for k, why in bad}
    if wrong and not how.skip_bad:
        refuse(directory, wrong, files, todo="repair them, move them away, or leave them out by --skip-bad", many=10**9)
    rows = np.array([usable[k] for k in good], np.int64)
    if not len(rows):
        refuse(directory, wrong, files, todo="give pictures that can be read")
    skipped = [(str(file.relative_to(directory)), wrong[file].what) for file in files if file in wrong]
    remarks = remarks_on([headers[files[row]][0] for row in rows], white)
    images = images if images.nbytes > memory else np.asarray(images)
    return Resized(images, rows, skipped, white, remarks)


def _each(work: Any, files: Sequence[Path], pool: ThreadPoolExecutor, wrong: dict[Path, InputError]) -> Iterator:
    """(file, what the work gives, None), or (file, None, why not), in their order and a block at a time."""

    def attempt(file: Path) -> tuple[Path, Any, InputError | None]:
        try:
            return file, work(file), None
        except InputError as error:
            return file, None, error

    for start in range(0, len(files), BLOCK):
        for file, done, error in pool.map(attempt, files[start : start + BLOCK]):
            if error is not None:
                wrong[file] = error
            yield file, done, error


def _headers(
    files: Sequence[Path], how: Resize, pool: ThreadPoolExecutor, wrong: dict[Path, InputError]
) -> dict[Path, tuple[decode.Header, bytes]]:
    """What each file is, and the digest of its content."""

    def look(file: Path) -> tuple[decode.Header, bytes]:
        found = header_of(file)
        return found, hashlib.sha256(whole_files.content(file)).digest() if how.cache else b""

    found = {}
    with how.progress(len(files), "looking at pictures") as display:
        for file, seen, error in _each(look, files, pool, wrong):
            if error is None:
                found[file] = seen
            display.advance(1)
    return found


def _place(how: Resize, digests: Sequence[bytes], white: dict[str, float]) -> Path | None:
    """Where in the cache such pictures would lie, without its ending."""
    if how.cache is None:
        return None
    from PIL import __version__

    settings = json.dumps([METHOD, __version__, how.edge, sorted(white.items())])
    key = hashlib.sha256(settings.encode() + b"".join(digests)).hexdigest()[:32]
    return how.cache / "pictures" / key


def _decoded(
    files: Sequence[Path],
    how: Resize,
    white: dict[str, float],
    place: Path | None,
    pool: ThreadPoolExecutor,
    wrong: dict[Path, InputError],
) -> tuple[Any, list[int]]:
    """(images of the good ones, which these are), written to the cache a block at a time."""

    def read(file: Path) -> np.ndarray:
        return read_picture(file, how.edge, white)

    good, bad, blocks, row = [], [], [], 0
    shape = (len(files), how.edge, how.edge, 3)
    with how.progress(len(files), "decoding pictures") as display:

        def decoded() -> Iterator[np.ndarray]:
            nonlocal row
            for _, image, error in _each(read, files, pool, wrong):
                if error is None:
                    good.append(row)
                    yield image
                else:
                    bad.append((row, error.what))
                row += 1
                display.advance(1)

        if place is None:
            blocks = list(decoded())
            return (np.stack(blocks) if blocks else np.empty((0, *shape[1:]), np.uint8)), good
        _write(place.with_suffix(".u8"), decoded(), shape[1:])
    record = {"edge": how.edge, "good": good, "bad": bad}
    record["crc32"] = zlib.crc32(json.dumps([good, bad]).encode())
    whole_files.write(place.with_suffix(".json"), json.dumps(record))
    return _mapped(place.with_suffix(".u8"), (len(good), *shape[1:])), good


def _write(path: Path, images: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    """Raw pixels, one picture after the other: how many there will be is known at the end."""
    whole_files.make_room(path)
    with whole_files.whole(path) as partial, whole_files.Lines(partial) as out:
        for image in images:
            out.write(image.tobytes())


def _mapped(path: Path, shape: tuple[int, ...]) -> Stored:
    """The pictures of the cache, read when they are asked for."""
    pixels = np.memmap(path, np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, np.uint8)
    return Stored(lambda rows: np.asarray(pixels[rows]), np.arange(shape[0]), shape[1:])


def _kept(place: Path, edge: int) -> tuple[Stored, list[int], list[tuple[int, str]]] | None:
    """What the cache holds; None where it holds nothing, or not what it once wrote."""
    record, pixels = place.with_suffix(".json"), place.with_suffix(".u8")
    try:
        said = json.loads(whole_files.content(record))
        good, bad = said["good"], [(int(row), str(why)) for row, why in said["bad"]]
        whole = zlib.crc32(json.dumps([good, said["bad"]]).encode()) == said["crc32"] and said["edge"] == edge
        if not whole or os.stat(pixels).st_size != len(good) * edge * edge * 3:
            return None
    except (InputError, OSError, ValueError, TypeError, KeyError):
        return None
    return _mapped(pixels, (len(good), edge, edge, 3)), good, bad
