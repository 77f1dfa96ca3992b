"""What every reader asks of a file before it believes it: that it is one, how large it is, what it holds in truth."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxtl.errors import InputError
from jaxtl.files import open_regular

AGAIN = "get the file again: it is truncated, damaged or not what its name says"
WRITTEN = "the archive was written so: write it again"
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, OverflowError, MemoryError, RecursionError),
    *(zlib.error, zipfile.BadZipFile, tarfile.TarError),
)
PACKED = "a gzip archive"
KINDS = (  # what else may have been given the name of a picture or an archive: (start, its name in words)
    (b"%!PS", "a PostScript program"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript program"),
    (b"%PDF", "a PDF document"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"version https://git-lfs", "a pointer of Git LFS to a file that was not fetched"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", PACKED),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x93NUMPY", "a single NumPy array (.npy)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
OTHER_FILES = (  # of which a tar has no contents, whatever its header says
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE),
)


@contextlib.contextmanager
def reported(path: object, *errors: type[Exception], todo: str = AGAIN) -> Iterator[None]:
    """What a library says about a file that cannot be read becomes an `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except (*DAMAGE, *errors) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"cannot be read ({said[0]})", where=path, todo=todo) from error


def decoded(content: bytes, where: object) -> str:
    """A text in UTF-8, perhaps with the mark that some programs put in front.

    Raises:
        InputError: it is in another encoding.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"is not in UTF-8: line {line} holds the byte 0x{content[error.start]:02x}"
        raise InputError(what, where=where, todo="save it again, with UTF-8 as its encoding") from None


def listed(names: Iterable[str], most: int = 6) -> str:
    """Some names that somebody else chose, for a message: the first few, and of long ones the beginning.

    Example:
        >>> listed(["a", "b" * 100, "c"], most=2)
        'a, bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb..., ...'
    """
    first = list(itertools.islice(names, most + 1))
    cut = [name if len(name) <= 64 else f"{name[:61]}..." for name in first[:most]]
    return ", ".join([*cut, "..."] if len(first) > most else cut)


def start_of(path: Path, count: int = 64) -> bytes:
    """The first bytes of a file."""
    with reported(path), open_regular(path) as file:
        return file.read(count)


def kind_of(start: bytes) -> str:
    """What a file that begins like this is in truth, in words; "" if that is not known."""
    if start[4:8] == b"ftyp":
        return "a picture in HEIF or AVIF, or a film"
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((words for magic, words in KINDS if start.startswith(magic.lower())), "")


def unpacked(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """A file for reading; through gzip, if that is what it holds."""
    return gzip.open(path) if start_of(path, 2) == b"\x1f\x8b" else path.open("rb")


def tar_files(path: Path, wanted: Callable[[tarfile.TarInfo], bool], most: int) -> Iterator[tuple[str, bytes]]:
    """The wanted files of a tar, plain or packed by gzip, read in one pass without extracting anything.

    Headers are taken one by one: `tarfile.open` reads what stands between them (long names, pax records) into memory,
    whatever its size, and a few kilobytes may unpack to any size.

    Args:
        path: of the archive.
        wanted: whether a member is; its size has been told by then, and it may refuse.
        most: bytes that the archive may unpack to.

    Yields:
        (name, content) of each.
    """
    if (kind := kind_of(start_of(path))) and kind != PACKED:
        todo = "unpack it and give its directory"
        raise InputError(f"is {kind}, not a tar, plain or packed by gzip", where=path, todo=todo)
    left = most
    with unpacked(path) as stream:

        def spend(count: int) -> None:
            nonlocal left
            left -= count
            if left < 0:
                todo = "no set that is read from an archive is so large: unpack your own and give its directory"
                raise InputError(f"unpacks to more than {most / 1e6:.0f} MB", where=path, todo=todo)

        def take(count: int, keep: bool) -> bytes:
            spend(count)
            blocks = []
            while count and (block := stream.read(min(count, 2**20))):
                count -= len(block)
                blocks += [block] if keep else []
            if count:
                raise EOFError("it ends too early")
            return b"".join(blocks)

        while any(header := take(tarfile.BLOCKSIZE, True)):
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            size = 0 if member.type in OTHER_FILES else member.size
            if size < 0:
                raise tarfile.HeaderError("a size below 0")
            plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            keep = plain and wanted(member)
            data = take(size, keep)
            take(-size % tarfile.BLOCKSIZE, False)
            if keep:
                yield member.name, data
        while block := stream.read(2**20):  # on to the end, where gzip compares its checksum
            spend(len(block))


def check_memory(needed: int, memory: float, path: Path, noun: str = "images") -> None:
    """Refuse what unpacks to more than may be taken."""
    if needed > memory:
        what = f"unpacks to {needed / 1e9:.3g} GB, but {noun} may take {memory / 1e9:.3g} GB"
        todo = f"an npz is not read in parts: allow more memory, or write it as one folder of {noun} for each class"
        raise InputError(what, where=path, todo=todo)


def entries(archive: Mapping[str, np.ndarray], path: Path, *keys: str) -> list[np.ndarray]:
    """Arrays of an archive by their keys.

    Raises:
        InputError: it lacks one.
    """
    missing = [key for key in keys if key not in archive]
    if missing:
        raise InputError(f"has no {', '.join(missing)}", where=path, todo=f"it holds {listed(sorted(archive))}")
    return [archive[key] for key in keys]
