"""How large the records of an array_record file are, by the headers that stand along it, before one is unpacked.

The file is a chain of chunks in blocks of 64 KiB (the format of Riegeli): each block begins with a header of 24 bytes,
each chunk with one of 40 that says how many bytes it takes, how many records it holds and how many bytes these unpack
to. https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from jaxtl.errors import InputError
from jaxtl.files import open_regular

BLOCK = 2**16
BLOCK_HEADER = 24
CHUNK_HEADER = struct.Struct("<8xQ8xQQ")  # bytes it takes; type and number of records; bytes it unpacks to
LARGEST = 2**28  # bytes that a chunk may unpack to
RATIO = 200  # how many times its size a file may unpack to; what records hold of pictures is encoded already
TRANSPOSED = ord("t")  # a form that no set is written in: its records are spread over the chunk


def check_records(file: Path) -> tuple[int, int]:
    """Bytes that the largest chunk of a file unpacks to, and those of all.

    Raises:
        InputError: it is no regular file, or one of its chunks or all of them unpack to more than is sane.
        ValueError, struct.error: the chunks do not follow one another.
    """
    largest = unpacked = 0
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        for kind, decoded in _chunks(stream.fileno(), size):
            largest, unpacked = max(largest, decoded), unpacked + decoded
            if largest > LARGEST or unpacked > RATIO * size:
                what = f"holds records of {max(largest, unpacked) / 1e6:.0f} MB in {size / 1e6:.3g} MB"
                raise InputError(what, where=file, todo="records of pictures are smaller; prepare the set again")
            if kind == TRANSPOSED:
                raise InputError("holds transposed records", where=file, todo="prepare the set again without this")
    return largest, unpacked


def _chunks(file: int, size: int) -> Iterator[tuple[int, int]]:
    """(type, bytes unpacked) of each chunk."""
    begin = 0
    while begin < size:
        begin += max(0, BLOCK_HEADER - begin % BLOCK)
        room = BLOCK - begin % BLOCK  # until the header of a block comes between
        header = os.pread(file, CHUNK_HEADER.size + BLOCK_HEADER, begin)
        within = room >= CHUNK_HEADER.size
        header = header if within else header[:room] + header[room + BLOCK_HEADER :]
        taken, kind, decoded = CHUNK_HEADER.unpack_from(header)
        yield kind & 0xFF, decoded
        data = begin + CHUNK_HEADER.size + (0 if within else BLOCK_HEADER)
        end = max(_after(data, taken), begin + (kind >> 8))  # a record takes at least a byte of the file
        if end > size:
            raise ValueError("its chunks do not follow one another")
        begin = end


def _after(position: int, count: int) -> int:
    """The position behind `count` bytes, none of which is in the header of a block."""
    before = position + -position // BLOCK * BLOCK_HEADER + count
    return before - -before // (BLOCK - BLOCK_HEADER) * BLOCK_HEADER
