"""Pictures made by strangers as uint8 arrays: the one place that opens one.

Two files that look alike in a viewer give the same array: they are turned as their EXIF orientation says, and what is
transparent lies on white. Pictures of more than 8 bits a channel are scaled to 8; nothing is clipped.

Pillow reads some fifty formats, and for PostScript it starts another program. Only those in `FORMATS` are tried here,
whatever a file is called, and the size in the header is looked at before a pixel is decoded.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxtl.data.files import kind_of, reported, start_of
from jaxtl.errors import InputError
from jaxtl.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

REPAIR = "repair it, get it again, or move it away"
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
PIXELS = 2**26  # of one picture: 67 millions
BYTES = 2**29  # of a file: more than `PIXELS` of 16 bits in four channels, as they are, would take
HEADER = 2**16  # bytes in which a PPM says its size, comments included
SCANNED = 2**30  # pixels that the scans of a progressive JPEG may come to: each is a pass over the whole picture
GREY = ("1", "L", "LA", "La")
WHOLE = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # modes of whole numbers of 16 or 32 bits
DEEP = (*WHOLE, "F")
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras, scanners and microscopes deliver, in whatever they are stored
WHITE = 255.0  # of pictures of 8 bits
INTERPRETATION = 262  # the TIFF tag; 0: small values are white
ORIENTATION = 0x112  # the EXIF tag; from 5 on, width and height are exchanged
TURNS = {  # what puts a picture upright, by its orientation
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class Header(NamedTuple):
    """What is known of a picture before it is decoded."""

    size: tuple[int, int]  # width and height, as it is looked at
    grey: bool
    remark: str  # what is done to it beyond decoding; "" if nothing

    @property
    def deep(self) -> bool:
        """Whether its values have to be seen to say what is white."""
        return self.remark == SCALED


SCALED, TURNED, LAID, PRINTED = "scaled to 8 bits", "turned upright", "laid on white", "converted from CMYK"


@contextlib.contextmanager
def opened(source: Path | bytes, where: object = "") -> Iterator[Image]:
    """A picture of one of `FORMATS` whose size is bearable; nothing of it is decoded yet.

    Args:
        source: a file, or the encoded bytes.
        where: named in errors; by default the file.

    Raises:
        InputError: no regular file, no picture, damaged, or of more than `PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    where = where or source
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    with (
        reported(where, *bombs, SyntaxError, TypeError, KeyError, struct.error, todo=REPAIR),
        contextlib.ExitStack() as stack,
    ):
        # Not by its path: Pillow would map it into memory, and maps turned TIFF files wrongly.
        file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(open_regular(source))
        if (size := file.seek(0, io.SEEK_END)) > BYTES:
            raise InputError(
                f"has {size / 1e6:.0f} MB", where=where, todo=f"pictures have {BYTES / 1e6:.0f} MB at most"
            )
        file.seek(0)
        _check_plain_header(file.read(HEADER), where)
        file.seek(0)
        try:
            image = stack.enter_context(Image.open(file, formats=FORMATS))
        except UnidentifiedImageError:
            words = kind_of(source[:64] if isinstance(source, bytes) else start_of(source))
            if words and not words.endswith("picture"):
                todo = f"give pictures as {', '.join(FORMATS)}"
                raise InputError(f"is {words}, which is not opened as a picture", where=where, todo=todo) from None
            raise InputError("cannot be read (no picture, or a damaged one)", where=where, todo=REPAIR) from None
        if image.width * image.height > PIXELS:
            what = f"has {image.width}x{image.height} pixels, and more than {PIXELS // 10**6} millions are refused"
            raise InputError(what, where=where, todo="make it smaller")
        yield image


def _check_plain_header(start: bytes, where: object) -> None:
    """Pillow goes through comments and blanks in the header of a PPM letter by letter."""
    if re.match(rb"P[0-9fFy][\s#]", start):
        words = re.sub(rb"#[^\r\n]*", b"", start).split(None, 3)
        if len(start) == HEADER and len(words) < (3 if start[1:2] in b"14" else 4):
            raise InputError(f"has a header of more than {HEADER} bytes", where=where, todo=REPAIR)


def header(file: Path) -> Header:
    """What a picture is, by its header.

    Raises:
        InputError: see `opened`; or it holds several pictures, or so many scans that decoding would not end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about its size: it is refused below in words of our own
        with opened(file) as image:
            if image.format != "MPO" and getattr(image, "is_animated", False):
                todo = "save the picture that is meant in a file of its own"
                raise InputError("holds several pictures (frames or pages)", where=file, todo=todo)
            if image.mode in DEEP and getattr(image, "tag_v2", {}).get(INTERPRETATION) == 0:
                raise InputError("has 0 for white in more than 8 bits", where=file, todo="save it with 0 for black")
            scans = file.read_bytes().count(b"\xff\xda") if image.info.get("progressive") else 1
            if scans * image.width * image.height > SCANNED:
                raise InputError(f"has {scans} scans, each over all of it", where=file, todo="save it again as a PNG")
            turned = _orientation(image)
            swapped = turned >= 5 and image.format != "TIFF"  # there Pillow has exchanged them already
            size = (image.height, image.width) if swapped else image.size
            done = {SCALED: image.mode in DEEP, LAID: image.has_transparency_data, PRINTED: image.mode == "CMYK"}
            remark = next((what for what, applies in done.items() if applies), TURNED if turned > 1 else "")
            return Header(size, image.mode in (*GREY, *DEEP), remark)


def _orientation(image: Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # asking would decode the picture; a tag after its pixels is found when it is
    try:
        return image.getexif().get(ORIENTATION, 1)
    except SyntaxError:  # no EXIF in its place: a viewer shows such a picture as it is stored
        return 1


def top_level(image: Image, where: object) -> tuple[str, float]:
    """("whole" or "float", largest value) of a picture of more than 8 bits.

    Raises:
        InputError: values that are negative, or no numbers, or floats above 1.
    """
    levels = np.asarray(image)
    low, high = float(levels.min()), float(levels.max())
    kind = "whole" if image.mode in WHOLE else "float"
    most = float(2 ** DEPTHS[-1] - 1) if kind == "whole" else 1.0
    if not 0 <= low <= high <= most:
        what = f"has values from {low:g} to {high:g}; pictures of {kind} numbers are read from 0 to {most:g}"
        todo = "bring them to 8 bits yourself, or pass them to from_arrays as float32"
        raise InputError(what, where=where, todo=todo)
    return kind, high


def white_levels(tops: Iterable[tuple[str, float]]) -> dict[str, float]:
    """What is white in the pictures of more than 8 bits of a set: the largest value that their bits can hold.

    Example:
        >>> white_levels([("whole", 900.0), ("whole", 4000.0), ("float", 0.5)])  # 12 bits, stored in 16
        {'whole': 4095.0, 'float': 1.0}
    """
    tops = list(tops)
    found = {}
    if whole := [top for kind, top in tops if kind == "whole"]:
        found["whole"] = float(next(2**bits - 1 for bits in DEPTHS if max(whole) < 2**bits))
    return found | ({"float": 1.0} if any(kind == "float" for kind, _ in tops) else {})


def pixels(image: Image, grey: bool, white: dict[str, float], where: object) -> np.ndarray:
    """A picture as it looks.

    Args:
        image: opened.
        grey: whether one channel is wanted instead of three.
        white: of `white_levels`, for a picture of more than 8 bits.
        where: named in errors.

    Returns:
        uint8 [H, W, 1] or [H, W, 3].

    Raises:
        InputError: transparency in more than 8 bits.
    """
    from PIL import Image

    image.load()  # which turns TIFF files; Pillow's `exif_transpose` fails over tags that it need not read
    if turn := TURNS.get(_orientation(image)):
        image = image.transpose(Image.Transpose[turn])
    if image.mode in DEEP:
        if image.has_transparency_data:
            todo = "bring it to 8 bits first"
            raise InputError("is transparent and has more than 8 bits", where=where, todo=todo)
        if (kind := "whole" if image.mode in WHOLE else "float") not in white:
            raise InputError("has more than 8 bits", where=where, todo="bring it to 8 bits first")
        scaled = np.rint(np.asarray(image) * (WHITE / white[kind])).astype(np.uint8)[..., None]
        return scaled if grey else scaled.repeat(3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    array = np.asarray(image.convert("L" if grey else "RGB"))
    return array[..., None] if grey else array
