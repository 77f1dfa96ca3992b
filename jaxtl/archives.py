"""Zip archives of arrays that strangers made: what they claim is looked at before memory is taken for it."""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
from typing import IO, Any, cast

import numpy as np

from jaxtl.errors import InputError

PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # all that writers of arrays use
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}  # by version
WRITTEN = "write the archive again, with numpy.savez or numpy.savez_compressed"


class _Sparing:
    """A file that gives at most an index at once: `zipfile` reads one of any length, and needs far more for it."""

    def __init__(self, file: IO[bytes], most: int):
        self.file, self.most = file, most

    def read(self, size: int = -1) -> bytes:
        if size > self.most:
            what = f"has an index of {size / 1e6:.0f} MB, more than {self.most / 1e6:.0f}"
            raise InputError(what, where=self.file.name, todo="no archive of arrays needs so many names")
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def open_zip(file: IO[bytes], index: int) -> zipfile.ZipFile:
    """An archive with a bearable table of contents; nothing in it is unpacked yet.

    Args:
        file: a regular file.
        index: bytes that its table of contents may have: half a million names take 30 MB and half a minute.

    Raises:
        InputError: an index without end.
        zipfile.BadZipFile, ...: it is damaged.
    """
    archive = zipfile.ZipFile(cast(IO[bytes], _Sparing(file, index)))
    archive.fp = file
    return archive


def check_members(archive: zipfile.ZipFile, file: IO[bytes]) -> None:
    """Whether all members have places of their own and are packed as arrays are.

    Raises:
        InputError: they do not, or are not.
    """
    members = archive.infolist()
    if sum(member.compress_size for member in members) > os.fstat(file.fileno()).st_size:
        raise InputError("its members lie upon each other", where=file.name, todo=WRITTEN)
    if odd := next((member for member in members if member.compress_type not in PACKED), None):
        what = f"{odd.filename:.100} is packed in a way that no writer of arrays uses"
        raise InputError(what, where=file.name, todo=WRITTEN)


def npy_dtype(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.dtype:
    """The dtype of an array that is as large as its header says: NumPy allocates what is said, before it reads.

    Raises:
        ValueError, ...: it is no array, or of another size; of Python objects the size is not known, and not compared.
    """
    with archive.open(member) as content:
        return npy_header(content, member.file_size, member.filename.removesuffix(".npy"))


def npy_header(content: IO[bytes], size: int, name: str) -> np.dtype:
    """The dtype that the header of an array announces, whose bytes are as many as it says; see `npy_dtype`."""
    version = np.lib.format.read_magic(content)
    if version not in HEADERS:
        raise ValueError(f"{name} is of npy version {version}")
    try:
        shape, _, dtype = HEADERS[version](content)
    except tokenize.TokenError as error:  # Python's own, by which NumPy reads it, grew strict
        raise ValueError(f"{name} has a header that is none") from error
    said, there = math.prod(shape) * dtype.itemsize, size - content.tell()
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} has a negative size")
    if not dtype.hasobject and said != there:
        raise ValueError(f"{name} announces {said} bytes {list(shape)} and has {there}")
    return dtype
