"""Two files that a viewer shows alike are loaded alike, and nothing is clipped or left out without a word."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxtl.data import decode, load
from jaxtl.errors import InputError

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
RAMP = np.arange(48).reshape(6, 8) * 1000 + 500  # 48 levels up to 47500


def folder(root, picture, ending="png", **how):
    """Eight copies of a picture in two classes."""
    for number in range(8):
        file = root / "ab"[number % 2] / f"{number}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file, **how)
    return root


def loaded(root, picture, ending="png", **how):
    """The first training image [H, W, C] of a folder of it, and what was said about it."""
    data = load(folder(root, picture, ending, **how))
    return data.train.images[0], data.notice


def refused(root, picture, ending="png", **how):
    with pytest.raises(InputError) as caught:
        loaded(root, picture, ending, **how)
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("ending", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", ">u2"), ("tif", np.int32), ("pgm", np.int32)]
)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_more_than_8_bits_are_scaled_by_the_bits_that_are_used(tmp_path, ending, dtype, bits):
    """Every level stays what it is within half of a level of 8 bits, whatever it is stored in."""
    white = 2**bits - 1
    levels = np.rint(RAMP * (white / RAMP.max())).astype(dtype)
    image, notice = loaded(tmp_path, Image.fromarray(levels), ending)
    np.testing.assert_array_equal(image[..., 0], np.rint(levels.astype(float) * (255 / white)))
    assert f"8 images scaled to 8 bits ({white} is white)" in notice
    assert bits < 16 or len(np.unique(image)) == 48


def test_one_scale_for_a_whole_set(tmp_path):
    """A dark picture stays dark beside a bright one: train, test and every class have the same white."""
    for part in ("train", "test"):
        for name, level in (("dark", 100), ("light", 4000)):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(np.full((4, 4), level, np.uint16)).save(tmp_path / part / name / "0.png")
    for memory in (None, 0):
        data = load(tmp_path, memory=memory)
        for split in (data.train, data.test):
            assert np.asarray(split.images)[:, 0, 0, 0].tolist() == [round(100 / 4095 * 255), round(4000 / 4095 * 255)]


def test_pictures_of_8_and_of_16_bits_in_one_set(tmp_path):
    folder(tmp_path, Image.fromarray(GREY))
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a/0.png")
    data = load(tmp_path)
    for image in (*data.train.images, *data.test.images):
        np.testing.assert_array_equal(image[..., 0], GREY)
    Image.fromarray(COLOUR).save(tmp_path / "b/1.png")
    assert load(tmp_path).train.images.shape[-1] == 3


def test_floats_from_0_to_1(tmp_path):
    levels = (RAMP / 65535).astype(np.float32)
    image, notice = loaded(tmp_path, Image.fromarray(levels), "tif")
    np.testing.assert_array_equal(image[..., 0], np.rint(levels * 255.0))
    assert "(1 is white)" in notice


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (RAMP.astype(np.float32), "values from 500 to 47500; pictures of float numbers are read from 0 to 1"),
        (np.full((4, 4), np.nan, np.float32), "values from nan"),
        (np.full((4, 4), np.inf, np.float32), "values from inf"),
        (-RAMP.astype(np.float32), "values from -47500"),
        (RAMP.astype(np.int32) * 1000, "read from 0 to 65535"),
        (-RAMP.astype(np.int32), "values from -47500 to -500"),
    ],
)
def test_values_that_no_scale_is_known_for(tmp_path, levels, said):
    assert said in refused(tmp_path, Image.fromarray(levels), "tif")


def test_white_that_is_stored_as_0(tmp_path):
    """Pillow turns such pictures of 8 bits round, and leaves those of 16 as they are."""
    file = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint16)).save(file, "TIFF")
    content = file.getvalue()
    entry = struct.pack("<HHIH", decode.INTERPRETATION, 3, 1, 1)
    assert content.count(entry) == 1
    folder(tmp_path, Image.fromarray(RAMP.astype(np.uint16)), "tif")
    (tmp_path / "a/0.tif").write_bytes(content.replace(entry, struct.pack("<HHIH", decode.INTERPRETATION, 3, 1, 0)))
    with pytest.raises(InputError, match="has 0 for white in more than 8 bits"):
        load(tmp_path)


def test_16_bits_of_colour_lose_their_lower_half_only(tmp_path):
    """Pillow opens them as 8 bits: the upper ones."""
    folder(tmp_path, Image.fromarray(COLOUR))
    rows = np.zeros((6, 1 + 8 * 6), np.uint8)  # a filter byte, then 8 pixels of 3 channels of 2 bytes
    rows[:, 1:] = (COLOUR.astype(">u2") * 257).astype(">u2").view(np.uint8).reshape(6, -1)
    chunks = (
        (b"IHDR", struct.pack(">2I5B", 8, 6, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    )
    coded = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + coded)
    np.testing.assert_array_equal(load(tmp_path).train.images[0], COLOUR)


TURNS = {  # how a picture that is upright is stored, by its orientation tag
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).T,
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_pictures_are_turned_upright(tmp_path, orientation, ending):
    upright = np.kron(np.array([[255, 0, 0, 80], [0, 160, 0, 0]], np.uint8), np.ones((8, 8), np.uint8))
    tag = Image.Exif()
    tag[decode.ORIENTATION] = orientation
    how = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(ending, {})
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    image, notice = loaded(tmp_path, stored, ending, exif=tag, **how)
    assert image.shape[:2] == upright.shape
    assert np.abs(image.astype(int).mean(-1) - upright).max() <= 3
    assert ("turned upright" in notice) == (orientation > 1)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_pictures_of_16_bits_are_turned_as_well(tmp_path, ending):
    tag = Image.Exif()
    tag[decode.ORIENTATION] = 6
    levels = RAMP.astype(np.uint16)
    image, _ = loaded(tmp_path, Image.fromarray(np.rot90(levels).copy()), ending, exif=tag)
    np.testing.assert_array_equal(image[..., 0], np.rint(levels * (255 / 65535)))


def test_an_orientation_that_cannot_be_read_is_none(tmp_path):
    for exif in (b"Exif\0\0", b"Exif\0\0garbage garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about the EXIF
            image, _ = loaded(tmp_path, Image.fromarray(GREY), "jpg", exif=exif, quality=100)
        assert np.abs(image[..., 0].astype(int) - GREY).max() <= 3


def cut_out(hidden, mode):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[2:5, 2:5] = (200, 200, 200, 255) if mode in ("LA", "1") else (200, 60, 30, 255)
    return Image.fromarray(pixels).convert("LA" if mode == "LA" else "RGBA")


@pytest.mark.parametrize(("mode", "ending"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "tif"), ("RGBA", "webp")])
def test_what_is_transparent_lies_on_white_whatever_is_hidden_under_it(tmp_path, mode, ending):
    how = {"lossless": True, "exact": True} if ending == "webp" else {}
    images = [loaded(tmp_path / f"{hidden}", cut_out(hidden, mode), ending, **how) for hidden in (0, 130, 255)]
    for image, notice in images:
        np.testing.assert_array_equal(image, images[0][0])
        assert (image[0, 0] == 255).all()
        assert image[3, 3].tolist() == ([200] if mode == "LA" else [200, 60, 30])
        assert ending == "webp" or "8 images laid on white" in notice


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_a_transparent_entry_of_a_palette_lies_on_white(tmp_path, ending):
    picture = Image.fromarray(np.tile(np.array([0, 1, 2, 2], np.uint8), (4, 1)))
    picture.putpalette([10, 20, 30, 200, 60, 30, 0, 0, 255])
    image, _ = loaded(tmp_path, picture, ending, transparency=0)
    assert image[0, :3].tolist() == [[255, 255, 255], [200, 60, 30], [0, 0, 255]]


@pytest.mark.parametrize("array", [GREY, COLOUR])
def test_a_transparent_colour_lies_on_white(tmp_path, array):
    key = int(array[1, 1]) if array.ndim == 2 else tuple(map(int, array[1, 1]))
    image, _ = loaded(tmp_path, Image.fromarray(array), transparency=key)
    expected = array.copy().reshape(6, 8, -1)
    expected[1, 1] = 255
    np.testing.assert_array_equal(image, expected)


@settings(deadline=None)
@given(st.integers(0, 255), st.integers(0, 255))
def test_half_transparent_grey_is_mixed_with_white(level, alpha):
    picture = Image.new("LA", (1, 1), (level, alpha))
    found = decode.pixels(picture, True, {}, "x")
    assert abs(float(found[0, 0, 0]) - (level * alpha + 255 * (255 - alpha)) / 255) <= 1


def test_transparency_in_16_bits_is_refused(tmp_path):
    assert "is transparent and has more than 8 bits" in refused(
        tmp_path, Image.fromarray(RAMP.astype(np.uint16)), transparency=500
    )


def test_palettes_bits_and_inks(tmp_path):
    few = Image.fromarray(COLOUR).quantize(8)
    for number, ending in enumerate(("png", "gif", "tif", "bmp")):
        image, _ = loaded(tmp_path / f"{number}", few, ending)
        np.testing.assert_array_equal(image, np.asarray(few.convert("RGB")))
    for number, ending in enumerate(("png", "tif", "bmp"), 4):
        image, _ = loaded(tmp_path / f"{number}", Image.fromarray(GREY > 100), ending)
        np.testing.assert_array_equal(image[..., 0], (GREY > 100) * 255)
    image, notice = loaded(tmp_path / "inks", Image.fromarray(COLOUR).convert("CMYK"), "tif")
    np.testing.assert_array_equal(image, COLOUR)
    assert "8 images converted from CMYK" in notice


@pytest.mark.parametrize("ending", ["gif", "png", "tif", "webp"])
def test_several_pictures_in_a_file_are_not_one(tmp_path, ending):
    more = [Image.fromarray(COLOUR[::-1])]
    said = refused(tmp_path, Image.fromarray(COLOUR), ending, save_all=True, append_images=more)
    assert "8 of 8 files cannot be used" in said
    assert "holds several pictures (frames or pages)" in said
    (tmp_path / "one").mkdir()
    loaded(tmp_path / "one", Image.fromarray(COLOUR), ending, save_all=True)


def test_a_jpeg_with_a_preview_is_its_first_picture(tmp_path):
    more = [Image.fromarray(COLOUR[::-1])]
    image, _ = loaded(
        tmp_path, Image.fromarray(COLOUR), "jpg", format="MPO", save_all=True, append_images=more, quality=100
    )
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, "JPEG", quality=100)
    np.testing.assert_array_equal(image, np.asarray(Image.open(file)))


def encoded(form, mode):
    picture = Image.fromarray(RAMP.astype(np.uint16)) if mode == "I;16" else Image.fromarray(COLOUR).convert(mode)
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


KINDS = ["PNG RGBA", "PNG I;16", "PNG P", "JPEG RGB", "WEBP RGB", "GIF P", "BMP RGB", "TIFF RGB", "TIFF F", "PPM L"]
ENCODED = {kind: encoded(*kind.split()) for kind in KINDS}


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what is damaged
@settings(deadline=None)
@given(
    st.sampled_from(sorted(ENCODED)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=4),
    st.floats(0, 1),
)
def test_any_damage_is_refused_or_read(name, changes, kept):
    content = bytearray(ENCODED[name])
    for place, new in changes:
        at = int(place * len(content))
        content[at : at + len(new)] = new
    content = content[: max(1, int(kept * len(content)))] if kept > 0.5 else content
    with contextlib.suppress(InputError), decode.opened(bytes(content), "x") as image:
        deep = image.mode in decode.DEEP
        white = decode.white_levels([decode.top_level(image, "x")]) if deep else {}
        found = decode.pixels(image, False, white, "x")
        assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)
