"""Pictures with boxes of one's own: COCO and YOLO say the same, coordinates come back, what is wrong has its line."""

from __future__ import annotations

import json
import struct
import zlib

import boxed_folders
import numpy as np
import pytest
from boxed_folders import BOXES, CLASSES, SIZES, coco, description, yolo
from PIL import Image

from jaxtl.data import boxed_files, letterbox, load
from jaxtl.data.boxed_files import annotated, holds_boxes, read_boxed_files
from jaxtl.data.coco import LARGEST
from jaxtl.data.yolo import yaml_names
from jaxtl.errors import InputError


def read(room, **how):
    return read_boxed_files(room, 64, 16, **how)


def test_coco_and_yolo_of_the_same_pictures_give_the_same_arrays(tmp_path):
    one, other = read(coco(tmp_path / "coco")), read(yolo(tmp_path / "yolo"))
    assert one.classes == other.classes == CLASSES
    assert one.files == other.files
    for name in ("image", "box", "box_class"):
        np.testing.assert_allclose(one.train[name], other.train[name], atol=1e-5)
    np.testing.assert_allclose(one.truth[0], other.truth[0], atol=1e-5)
    assert one.test is None
    assert one.train.images.shape == (6, 48, 64, 3)
    assert "1 pictures without a box, which say where nothing is" in one.notices
    assert one.notices == other.notices


def test_boxes_are_where_they_were_written(tmp_path):
    found = read(coco(tmp_path))
    for truth, boxes in zip(found.truth[0], BOXES, strict=True):
        own = truth[truth[:, 4] >= 0]
        assert [(c, x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1, c in own.tolist()] == [
            (*map(float, b),) for b in boxes
        ]


@pytest.mark.parametrize("size", [*SIZES, (640, 480), (1000, 7), (3, 999), (1, 1), (4031, 3023)])
@pytest.mark.parametrize("canvas", [(48, 64), (64, 64), (240, 320)])
def test_coordinates_come_back(size, canvas):
    random = np.random.default_rng(0)
    corners = np.sort(random.uniform(0, 1, (50, 2, 2)), axis=1).reshape(50, 4) * [*size, *size]
    laid = corners * letterbox.factors(size, canvas)
    assert (laid >= 0).all()
    assert (laid <= [canvas[1], canvas[0], canvas[1], canvas[0]]).all()
    np.testing.assert_allclose(letterbox.in_picture(laid, size, canvas), corners, rtol=1e-12, atol=1e-12)


def test_what_is_drawn_in_a_picture_is_there_on_the_canvas():
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:60, 40:120] = 255
    canvas = letterbox.laid(image, (64, 64))
    x0, y0, x1, y1 = np.array([40, 20, 120, 60]) * letterbox.factors((200, 100), (64, 64))
    white = canvas[..., 0] > 200
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    assert abs(columns[0] - x0) <= 1
    assert abs(columns[-1] + 1 - x1) <= 1
    assert abs(rows[0] - y0) <= 1 or rows[0] == 0
    assert (canvas[32:] == letterbox.GREY).all()
    assert abs(np.flatnonzero(white[:32].any(axis=1))[-1] + 1 - y1) <= 1


def test_boxes_beyond_an_edge_by_rounding_are_cut_and_counted(tmp_path):
    said = description()
    said["annotations"][0]["bbox"] = [-0.5, 6, 20, 42.6]
    found = read(coco(tmp_path, said))
    assert found.truth[0][0][0].tolist() == [0, 6, 19.5, 48, 0]
    assert "1 boxes stuck out of their picture by a pixel at most, and were cut" in found.notices


def test_crowds_are_left_out_and_counted(tmp_path):
    said = description()
    said["annotations"][3]["iscrowd"] = 1
    found = read(coco(tmp_path, said))
    assert "1 boxes of crowds left out" in found.notices
    assert (found.train["box_class"] >= 0).sum() == sum(map(len, BOXES)) - 1


def test_folders_are_parts_and_names_of_descriptions_are(tmp_path):
    said = description()
    for k, part in enumerate(("train", "val")):
        boxed_folders.pictures(tmp_path / "a" / part)
        one = {**said, "images": [dict(image) for image in said["images"]]}
        (tmp_path / "a" / part / "annotations.json").write_text(json.dumps(one))
        boxed_folders.pictures(tmp_path / "b" / part)
        for image in one["images"]:
            image["file_name"] = f"{part}/images/{image['file_name']}"
        (tmp_path / "b" / "annotations").mkdir(exist_ok=True)
        (tmp_path / "b" / "annotations" / f"instances_{part}{2017 + k}.json").write_text(json.dumps(one))
    for room in ("a", "b"):
        found = read(tmp_path / room)
        assert (len(found.train), len(found.test)) == (6, 6)
        assert all(name.startswith("val") for name in found.files[1])
    yolo(tmp_path / "c" / "train")
    yolo(tmp_path / "c" / "valid")
    (tmp_path / "c" / "data.yaml").write_text("train: ../train/images\nnc: 2\nnames: ['cat', 'dog']\n")
    found = read(tmp_path / "c")
    assert (len(found.train), len(found.test), found.classes) == (6, 6, CLASSES)


def test_texts_beside_pictures_are_read_too(tmp_path):
    yolo(tmp_path)
    for text in [*(tmp_path / "labels").iterdir()]:
        text.rename(tmp_path / "images" / text.name)
    (tmp_path / "labels").rmdir()
    assert holds_boxes(tmp_path)
    assert (read(tmp_path).train["box_class"] >= 0).sum() == sum(map(len, BOXES))


def test_what_holds_no_boxes_is_none(tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "notes.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "settings.json").write_text('{"images": 3}')
    assert not holds_boxes(tmp_path)
    assert not holds_boxes(tmp_path / "nowhere")


def test_a_folder_with_boxes_is_a_data_set(tmp_path):
    for k in range(2):
        yolo(tmp_path / f"part_{k}")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]")
    data = load(tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (10, 2, CLASSES)
    assert data.train.names == ("image", "box", "box_class")
    assert data.train.images.shape[1:] == (48, 64, 3)
    assert "several sizes on one canvas" in data.notice


# ---------------------------------------------------------------- mistakes


def changed(**changes):
    """COCO's JSON with other entries: KIND_PLACE_KEY=value."""
    said = description()
    for name, value in changes.items():
        kind, place, key = name.split("__")
        said[kind][int(place)][key] = value
    return said


def twice(kind):
    said = description()
    said[kind].append({**said[kind][0]})
    return said


NAN = float("nan")
BAD = {
    "outside": (changed(annotations__0__bbox=[60, 6, 20, 16]), r"0.png \(box 1 \(60, 6, 80, 22\) is outside of its"),
    "far outside": (changed(annotations__0__bbox=[99, 6, 20, 16]), "is outside of its 64x48 pixels"),
    "no width": (changed(annotations__1__bbox=[1, 1, 0, 4]), r"annotation 1: bbox \[1, 1, 0, 4\] has no area"),
    "negative": (changed(annotations__1__bbox=[1, 1, 5, -4]), "has no area"),
    "NaN": (changed(annotations__1__bbox=[NAN, 1, 5, 4]), "annotation 1: bbox .* has no area"),
    "infinite": (changed(annotations__1__bbox=[1, 1, 1e999, 4]), "has no area"),
    "huge": (changed(annotations__1__bbox=[1, 1, 10**400, 4]), "annotation 1: cannot be read"),
    "text": (changed(annotations__1__bbox=[1, 1, "5", 4]), "annotation 1: has no bbox of four numbers"),
    "outline": (changed(annotations__1__bbox=[1, 1, 5]), "has no bbox of four numbers\n.*outlines are not read"),
    "class": (changed(annotations__2__category_id=8), "annotation 2: there is no category 8"),
    "true is no id": (changed(annotations__2__category_id=True), "there is no category True"),
    "image": (changed(annotations__2__image_id=5), "annotation 2: there is no image 5"),
    "absent": (changed(images__0__file_name="gone.png"), "image 100: 'gone.png' is not there"),
    "elsewhere": (changed(images__0__file_name="../../secret.png"), "image 100: '../../secret.png' is outside of the"),
    "unnamed": (changed(images__0__file_name=3), "image 100 has no file_name"),
    "twice named": (changed(images__1__file_name="0.png", images__1__width=64, images__1__height=48), "0.png is named"),
    "size": (changed(images__0__width=48, images__0__height=64), "has 64x48 pixels, and its description says 48x64"),
    "image twice": (twice("images"), "image 100 is there twice"),
    "annotation twice": (twice("annotations"), "annotation 0 is there twice"),
    "category twice": (twice("categories"), "category 7 is there twice"),
    "one name": (changed(categories__1__name="cat"), "two categories have one name"),
    "no list": ({**description(), "categories": {}}, "has no list of categories"),
    "no box": ({**description(), "annotations": []}, "has no box"),
    "rare": (
        changed(**{f"annotations__{k}__category_id": 9 for k in (3, 4)}, annotations__5__category_id=9),
        "cat is in 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_description_is_told_in_two_lines(name, tmp_path, record_property):
    record_property("tally", "bad inputs are told in one or two lines, with exit code 2 and nothing changed on disk")
    said, message = BAD[name]
    Image.new("RGB", (64, 48)).save(tmp_path / "secret.png")
    with pytest.raises(InputError, match=message) as error:
        read(coco(tmp_path / "a" / "b", said))
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000 + '"images" "annotations"', "cannot be read"),
        ('["images", "annotations"]', "has no list of images, annotations, categories"),
    ],
)
def test_what_is_no_json_of_that_form_is_told(text, message, tmp_path):
    room = coco(tmp_path)
    (room / "annotations.json").write_text(text + ' "images" "annotations"' if text == "{" else text)
    with pytest.raises(InputError, match=message):
        read(room)


def test_a_description_that_is_too_large_is_not_read(tmp_path):
    room = coco(tmp_path)
    with (room / "annotations.json").open("r+b") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(InputError, match=f"has {LARGEST + 1} bytes, more than {LARGEST}"):
        read(room)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "line 1: there is no class 2 among 2"),
        ("-1 0.5 0.5 0.1 0.1", "there is no class -1"),
        ("0.0 0.5 0.5 0.1 0.1", "there is no class 0.0"),
        ("0 0.5 0.5 0.1", "has 4 words"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 6 words; outlines are not read"),
        ("0 0.5 nan 0.1 0.1", "has no area"),
        ("0 0.5 0.5 0 0.1", "has no area"),
        ("0 0.5 0.5 -0.1 0.1", "has no area"),
        ("0 0.5 x 0.1 0.1", "cannot be read"),
        ("0 0.9 0.5 0.5 0.1", r"0.png \(box 1 \(.*\) is outside of its 64x48 pixels\)"),
        ("0 64 24 10 10", "is outside of"),
        ("0 0.5 0.5 0.1 0.1\n" * 1001, "has more than 1000 boxes"),
    ],
)
def test_a_wrong_line_is_told(line, message, tmp_path):
    room = yolo(tmp_path)
    (room / "labels" / "0.txt").write_text(line)
    with pytest.raises(InputError, match=message) as error:
        read(room)
    assert len(str(error.value).splitlines()) <= 2


def test_names_that_are_missing_or_more_than_a_list_are_told(tmp_path):
    room = yolo(tmp_path)
    (room / "labels" / "9.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(InputError, match=r"1 texts with boxes have no picture: 9.txt"):
        read(room)
    (room / "labels" / "9.txt").unlink()
    (room / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(InputError, match="has a name twice"):
        read(room)
    (room / "classes.txt").unlink()
    with pytest.raises(InputError, match="nothing says what the classes are called"):
        read(room)
    coco(room)
    with pytest.raises(InputError, match="both in COCO's JSON and in YOLO's texts"):
        annotated(room)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [a, 'b, c', \"d\"]", ["a", "b, c", "d"]),
        ("names:\n- a\n- it's" + "\n", None),
        ("names:\n  - a b\n  - 'it''s'\nnc: 2", ["a b", "it's"]),
        ("names: {0: a, 1: b}", ["a", "b"]),
        ("names:\n  0: a\n  2: b", None),
        ("names: [\n  a,\n  b,\n]", ["a", "b"]),
        ("names: *other", None),
        ("names: !!python/object/apply:os.system ['x']", None),
        ("names: [[a]]", None),
        ("names: " + "[" * 50_000, None),
        ("names: [" + "a, " * 50_000 + "'", None),
        ("nc: 2", None),
    ],
)
def test_names_of_yaml_are_plain_words_or_refused(text, names):
    if names is None:
        with pytest.raises(InputError, match="names"):
            yaml_names(text, "data.yaml")
    else:
        assert yaml_names(text, "data.yaml") == names


def test_bad_pictures_are_told_at_once_and_left_out_if_asked(tmp_path):
    said = changed(annotations__0__bbox=[60, 6, 20, 16])
    room = coco(tmp_path, said)
    (room / "images" / "1.png").write_bytes(b"\x89PNG torn")
    header = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)  # of 3.6 thousand million pixels
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (room / "images" / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(InputError, match="3 of 6 files cannot be used") as error:
        read(room)
    assert "--skip-bad" in str(error.value)
    found = read(room, skip_bad=True)
    assert sorted(name for name, _ in found.skipped) == ["images/0.png", "images/1.png", "images/4.png"]
    assert len(found.train) == 3


def test_pictures_that_fill_the_memory_are_refused(tmp_path):
    with pytest.raises(InputError, match="images may take"):
        read(coco(tmp_path), memory=1000)


def test_a_turned_jpeg_is_read_as_it_is_looked_at(tmp_path):
    image = Image.fromarray(np.arange(3 * 400 * 600, dtype=np.uint32).astype(np.uint8).reshape(400, 600, 3))
    exif = Image.Exif()
    exif[0x112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    found, size = boxed_files.read_laid(tmp_path / "a.jpg", (48, 64), {})
    assert size == (400, 600)
    assert (found[:, 32:] == letterbox.GREY).all()
    assert not (found[:, 31] == letterbox.GREY).all()
