"""Labelled pictures as people have them: any size, any layout, and what cannot be used told beforehand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from jaxtl.data import from_arrays, load
from jaxtl.data import resized as resizing
from jaxtl.data.labelled import labelled, unlabelled
from jaxtl.data.resized import Resize, resized
from jaxtl.errors import InputError


def save(path, width=40, height=30, level=100, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 50, width, dtype=np.uint8)[None, :, None]
    array = np.broadcast_to(level + ramp, (height, width, 3)).astype(np.uint8)
    Image.fromarray(array).save(path, **how)
    return array


def fill(room, names=("cat", "dog"), count=4, parts=("",)):
    for part in parts:
        for k, name in enumerate(names):
            for number in range(count):
                save(room / part / name / f"{number}.png", 30 + 7 * number, 50 - 5 * number, 20 + 90 * k + number)
    return room


def refused(room, *said, **how):
    with pytest.raises(InputError) as caught:
        labelled(room, Resize(16, **how))
    assert len(str(caught.value).splitlines()) <= 2
    for words in said:
        assert words in str(caught.value)


# ---------------------------------------------------------------- to one size


def test_the_shorter_edge_becomes_the_edge_and_the_middle_is_kept():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 16:44] = 200  # 20 to 40 is what is left
    image[4, 30] = 0
    assert (resized(image, 10)[4:, :] == 200).mean() > 0.9
    assert resized(image, 10)[2, 5].max() < 190
    assert (resized(image.swapaxes(0, 1), 10) == resized(image, 10).swapaxes(0, 1)).all()


def test_what_is_made_smaller_is_averaged_and_not_sampled():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # any single column is black or white
    small = resized(stripes, 8)
    assert np.abs(small.astype(int) - 127).max() < 12


def test_a_picture_of_the_size_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    assert (resized(image, 12) == image).all()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tif"])
def test_every_format_gives_the_same_picture(tmp_path, ending):
    save(tmp_path / "a" / "0.png", 90, 50)
    how = {"quality": 95} if ending == "jpg" else {"lossless": True} if ending == "webp" else {}
    save(tmp_path / "b" / f"0.{ending}", 90, 50, **how)
    one, other = (
        resizing.resized_pictures(tmp_path, [next((tmp_path / name).iterdir())], Resize(16)).images for name in "ab"
    )
    assert one.shape == (1, 16, 16, 3)
    assert np.abs(one.astype(int) - other).max() <= 3


def test_a_large_jpeg_is_decoded_coarsely_and_looks_the_same(tmp_path):
    save(tmp_path / "large.jpg", 1600, 1200, quality=95)
    with Image.open(tmp_path / "large.jpg", formats=("JPEG",)) as image:
        whole = resized(np.asarray(image), 32)
    found = resizing.read_picture(tmp_path / "large.jpg", 32, {})
    assert np.abs(found.astype(int) - whole).max() <= 2


def test_turned_transparent_grey_and_16_bit(tmp_path):
    upright = save(tmp_path / "cat" / "0.png", 60, 40)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "cat" / "1.png", exif=exif)
    clear = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
    clear.save(tmp_path / "cat" / "2.png")
    (tmp_path / "dog").mkdir()
    Image.new("L", (30, 20), 77).save(tmp_path / "dog" / "0.png")
    Image.fromarray(np.full((20, 30), 4095, np.uint16)).save(tmp_path / "dog" / "1.png")
    data = labelled(tmp_path, Resize(16))
    images = np.asarray(data.train.images)
    assert (images[0] == images[1]).all()
    assert (images[2] == 255).all()
    assert (images[3] == 77).all()
    assert (images[4] == 255).all()
    assert data.white == {"whole": 4095.0}
    assert any("scaled to 8 bits" in notice for notice in data.notices)


# ---------------------------------------------------------------- the cache


def test_a_second_look_decodes_nothing_and_a_changed_file_everything(tmp_path, monkeypatch):
    room, how = fill(tmp_path / "pets"), Resize(16, cache=tmp_path / "cache")
    first = np.asarray(labelled(room, how).train.images)

    def never(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(resizing, "read_picture", never)
        assert (np.asarray(labelled(room, how).train.images) == first).all()
        with pytest.raises(AssertionError, match="decoded again"):
            labelled(room, how._replace(edge=17))
    save(room / "cat" / "0.png", 33, 44, 222)
    assert (np.asarray(labelled(room, how).train.images)[0] != first[0]).any()


@pytest.mark.parametrize("damage", ["truncated", "record", "gone"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    room, how = fill(tmp_path / "pets"), Resize(16, cache=tmp_path / "cache")
    first = np.asarray(labelled(room, how).train.images)
    (pixels,) = (tmp_path / "cache" / "pictures").glob("*.u8")
    if damage == "truncated":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "record":
        pixels.with_suffix(".json").write_text('{"edge": 16, "good": [0], "bad": [], "crc32": 1}')
    else:
        pixels.unlink()
    assert (np.asarray(labelled(room, how).train.images) == first).all()


def test_more_than_the_memory_stays_on_disk(tmp_path):
    room, how = fill(tmp_path / "pets"), Resize(16, cache=tmp_path / "cache")
    there, stored = labelled(room, how), labelled(room, how, memory=1)
    assert type(there.train.images) is np.ndarray
    assert type(stored.train.images) is not np.ndarray
    assert (np.asarray(stored.train.images[[5, 2]]) == there.train.images[[5, 2]]).all()


# ---------------------------------------------------------------- what cannot be used


@pytest.fixture
def broken(tmp_path):
    room = fill(tmp_path / "pets")
    (room / "cat" / "torn.png").write_bytes((room / "cat" / "0.png").read_bytes()[:60])
    (room / "dog" / "notes.txt").write_text("good boy")
    save(room / "dog" / "strip.png", 2000, 4)
    return room


def test_bad_files_are_refused_by_name_with_a_count(broken):
    refused(broken, "3 of 11 files cannot be used", "cat/torn.png", "dog/notes.txt (is no image)", "--skip-bad")


@pytest.mark.parametrize("cached", [False, True])
def test_or_left_out_and_told(broken, tmp_path, cached):
    how = Resize(16, skip_bad=True, cache=tmp_path / "cache" if cached else None)
    for _ in range(2):
        data = labelled(broken, how)
        assert [name for name, _ in data.skipped] == ["cat/torn.png", "dog/notes.txt", "dog/strip.png"]
        assert data.files == [f"{name}/{k}.png" for name in ("cat", "dog") for k in range(4)]
        assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    refused(broken, "3 of 11 files", cache=how.cache)  # what is kept of them changes nothing


def test_a_class_needs_two_pictures(tmp_path):
    fill(tmp_path / "pets", count=2)
    labelled(tmp_path / "pets", Resize(16))
    save(tmp_path / "pets" / "eel" / "0.png")
    refused(tmp_path / "pets", "a class needs 2 pictures", "eel has one")
    (tmp_path / "pets" / "eel" / "1.png").write_bytes(b"no picture")
    refused(tmp_path / "pets", "eel has one", skip_bad=True)


def test_pictures_without_labels_are_told_what_is_missing(tmp_path):
    save(tmp_path / "loose" / "0.png")
    refused(tmp_path / "loose", "nothing that says what they are", "one folder for each class")
    refused(tmp_path / "nowhere", "no such file or directory")


def test_copies_are_one_group(tmp_path):
    room = fill(tmp_path / "pets")
    assert labelled(room, Resize(16)).train.groups is None
    (room / "dog" / "again.png").write_bytes((room / "dog" / "1.png").read_bytes())
    data = labelled(room, Resize(16))
    groups = data.train.groups
    assert (groups == groups[data.files.index("dog/again.png")]).sum() == 2
    assert len(np.unique(groups)) == 8
    assert "2 pictures are copies of each other, which are never parted" in data.notices


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("parts", "learned", "tested"),
    [
        (("",), 8, None),
        (("Train",), 8, None),
        (("train", "TEST"), 8, 8),
        (("train", "valid"), 8, 8),
        (("train", "Val", "test"), 16, 8),
    ],
)
def test_parts_in_any_case_or_none(tmp_path, parts, learned, tested):
    data = labelled(fill(tmp_path / "pets", parts=parts), Resize(16))
    assert (len(data.train), data.test and len(data.test)) == (learned, tested)
    assert data.classes == ("cat", "dog")


def test_files_at_any_depth_below_their_class(tmp_path):
    room = fill(tmp_path / "pets")
    save(room / "cat" / "2024" / "may" / "9.png")
    (room / "cat" / ".thumbs").mkdir()
    save(room / "cat" / ".thumbs" / "9.png")
    assert labelled(room, Resize(16)).files.count("cat/2024/may/9.png") == 1
    assert len(labelled(room, Resize(16)).files) == 9


ROWS = [("a.png", "cat", "ann"), ("b.png", "dog", "ann"), ("c.png", "cat", "ben"), ("d.png", "dog", "eve")]


def table(room, ending, splits=("",) * 4):
    rows = [dict(zip(("file", "label", "group"), row, strict=True)) for row in ROWS]
    for k, (row, part) in enumerate(zip(rows, splits, strict=True)):
        save(room / row["file"], 30, 20, 50 + 9 * k)
        row |= {"split": part} if part else {}
    if ending == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (room / f"labels.{ending}").write_text("\n".join(lines))
    return room


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("by", ["file", "directory"])
def test_a_table_of_file_and_label(tmp_path, ending, by):
    room = table(tmp_path / "pets", ending)
    data = labelled(room / f"labels.{ending}" if by == "file" else room, Resize(16))
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.train.groups.tolist() == [0, 0, 1, 2]
    assert data.test is None


def test_a_table_with_parts(tmp_path):
    room = table(tmp_path / "pets", "jsonl", ("train", "train", "val", "val"))
    save(room / "e.png", 30, 20, 120)
    lines = (room / "labels.jsonl").read_text() + '\n{"file": "e.png", "label": "cat", "group": "joe", "split": "test"}'
    (room / "labels.jsonl").write_text(lines)
    data = labelled(room, Resize(16))
    assert (len(data.train), len(data.test)) == (4, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("file,label\na.png,cat\na.png,dog", "row 3: a.png is in row 2 too"),
        ("file,label\na.png,cat\nz.png,dog", "there is no file z.png"),
        ("file,label\na.png,cat\n../b.png,dog", "is no file in"),
        ("file,label\na.png,cat\nb.png,", "has no label"),
        ("file,class2\na.png,cat", "has no column for the label"),
        ("file,label,split\na.png,cat,train\nb.png,dog,often", "'often' is no part"),
        ("", "has no column for the file"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path, content, said):
    for name in "ab":
        save(tmp_path / f"{name}.png", level=ord(name))
    (tmp_path / "t.csv").write_text(content)
    refused(tmp_path / "t.csv", said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file": "a.png", "label": "cat", "group": ["ann"]}', "line 1: holds a list"),
        ("[1]", "line 1: is no object"),
        ("{", "cannot be read"),
        ('{"file": "a.png", "label": null}', "holds None"),
    ],
)
def test_what_is_wrong_with_json_lines(tmp_path, line, said):
    save(tmp_path / "a.png")
    (tmp_path / "t.jsonl").write_text(line)
    refused(tmp_path / "t.jsonl", said)


def test_load_keeps_to_one_size_unless_it_is_asked_to_resize(tmp_path):
    room = fill(tmp_path / "pets", count=5)
    with pytest.raises(InputError, match="files cannot be used"):
        load(room)
    data = load(room, resize=Resize(16))
    assert data.train.images.shape == (8, 16, 16, 3)
    assert len(data.test) == 2


def test_arrays_and_sets_come_to_one_size_too():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype(np.uint8)
    data = from_arrays(images, np.arange(12) % 2, classes=["a", "b"])
    found = labelled(data, Resize(16))
    assert found.train.images.shape == (len(data.train), 16, 16, 3)
    assert (found.train.images[0] == resized(data.train.images[0], 16)).all()
    with pytest.raises(InputError, match="uint8"):
        labelled(from_arrays(images / 255.0, np.arange(12) % 2), Resize(16))


def test_pictures_to_be_predicted(tmp_path):
    save(tmp_path / "new" / "deep" / "0.png")
    save(tmp_path / "new" / "1.png")
    (tmp_path / "new" / ".hidden").write_text("")
    directory, found = unlabelled(tmp_path / "new")
    assert [str(file.relative_to(directory)) for file in found] == ["1.png", "deep/0.png"]
    assert unlabelled(tmp_path / "new" / "1.png")[1] == [tmp_path / "new" / "1.png"]
    for place in ("none", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"no such|no files"):
            unlabelled(tmp_path / place)
