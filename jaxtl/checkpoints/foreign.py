"""Files that strangers made, before a reader of their kind meets them.

Their first bytes tell what they are, and an archive must not grow in the memory.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from typing import IO

from jaxtl import archives
from jaxtl.errors import InputError

MOST_CONTENTS = 8 * 2**20  # bytes in which a file says what it holds: about 100 000 arrays
LONGEST = 500  # letters of a name
MOST_GROWTH = 100  # times the file, when it is unpacked; dense weights shrink to a half at best, zeros to a thousandth
UNPACKED = 64 * 2**20  # bytes that a small file may always grow to

STARTS = {
    b"PK\x03\x04": "a zip archive",
    b"\x93NUMPY": "a single array of NumPy (.npy)",
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes them",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "packed by gzip",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"version https://git-lfs": "a pointer of Git LFS (`git lfs pull` fetches what it points to)",
    b"<": "a web page or XML",
    b"{": "JSON",
    b"\xff\xd8\xff": "a picture",
    b"\x89PNG": "a picture",
}


def size_of(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def content_of(start: bytes) -> str:
    """What the first bytes of a file say that it is; "" when they say nothing."""
    if start[8:9] == b"{":
        return "a safetensors file"
    return next((kind for magic, kind in STARTS.items() if start.startswith(magic)), "")


def check_names(names: Iterable[str], where: object) -> None:
    """Refuse names that no message could repeat."""
    longest = max(map(len, names), default=0)
    if longest > LONGEST:
        todo = f"at most {LONGEST} are read: rename its arrays"
        raise InputError(f"the longest name in it has {longest} letters", where=where, todo=todo)


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """An archive whose members, all of them unpacked, stay in proportion to its size.

    Raises:
        InputError: what `archives` refuses, or members that would fill the memory.
        zipfile.BadZipFile, ...: it is damaged.
    """
    archive, size = archives.open_zip(file, MOST_CONTENTS), size_of(file)
    check_names(archive.namelist(), file.name)
    archives.check_members(archive, file)
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(UNPACKED, MOST_GROWTH * size):
        what = f"its {size} bytes would become {unpacked} when they are unpacked"
        raise InputError(what, where=file.name, todo="get weights that are stored as they are (numpy.savez)")
    return archive
