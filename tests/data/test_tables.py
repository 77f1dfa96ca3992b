"""Images with a CSV of labels: read by its columns, parts and groups kept, and every mistake told with its row."""

import numpy as np
import pytest
from test_folders import picture, refused

from jaxtl.data import load


def written(directory, rows, header="file,label", table="labels.csv"):
    directory.mkdir(exist_ok=True)
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (directory / table).write_text("\n".join(lines) + "\n", encoding="utf-8")


def pets(directory, count=12):
    """Pixels by file name; of three cats and a dog, photographed again and again."""
    return {f"images/{k}.png": picture(directory / f"images/{k}.png", k) for k in range(count)}


def test_rows_are_images_with_their_labels_and_a_fifth_tests(tmp_path):
    pixels = pets(tmp_path / "pets")
    written(tmp_path / "pets", [(name, "dog" if k % 3 else "cat") for k, name in enumerate(pixels)])
    data = load(tmp_path / "pets")
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("pets", ("cat", "dog"), 10, 2)
    label = {array.tobytes(): int(k % 3 > 0) for k, array in enumerate(pixels.values())}
    for part in (data.train, data.test):
        assert [label[image.tobytes()] for image in part.images] == part.labels.tolist()
    assert data.train.groups is None
    assert "labels.csv" in data.origin


@pytest.mark.parametrize("header", ["Filename,Class,GROUP,Split", "path , target , group , part"])
def test_parts_and_groups_are_those_of_the_table(tmp_path, header):
    names = list(pets(tmp_path / "pets"))
    rows = [(name, "ab"[k % 2], f"pet {k % 4}", "val" if k % 4 == 3 else "Train") for k, name in enumerate(names)]
    written(tmp_path / "pets", [*rows[:5], ("", "", "", ""), *rows[5:]], header)
    data = load(tmp_path / "pets")
    assert (len(data.train), len(data.test)) == (9, 3)
    assert (len(set(data.train.groups)), set(data.train.groups) & set(data.test.groups)) == (3, set())
    assert data.notice == ""
    small = load(tmp_path / "pets", memory=0)
    np.testing.assert_array_equal(np.asarray(small.test.images), data.test.images)


def test_a_group_is_not_divided_where_the_test_part_is_split_off(tmp_path):
    names = list(pets(tmp_path / "pets", 24))
    written(tmp_path / "pets", [(name, "ab"[k % 2], k // 2 % 6) for k, name in enumerate(names)], "file,label,group")
    data = load(tmp_path / "pets")
    assert not set(data.train.groups) & set(data.test.groups)
    assert len(data.train) + len(data.test) == 24


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        ([("images/0.png", "a"), ("images/99.png", "b")], "file,label", ("row 3", "there is no file images/99.png")),
        ([("images/0.png", "a"), ("../other.png", "b")], "file,label", ("row 3", "'../other.png' is no file in")),
        ([("/etc/passwd", "a"), ("images/1.png", "b")], "file,label", ("row 2", "is no file in")),
        ([("images/0.png", "a"), ("images/0.png", "b")], "file,label", ("row 3", "images/0.png is in row 2 too")),
        ([("images/0.png", "a"), ("images/1.png", "")], "file,label", ("row 3", "has no label")),
        ([("images/0.png", "a"), ("images/1.png",)], "file,label", ("row 3", "has 1 cells")),
        ([("images/0.png", "a"), ("images/1.png", "a")], "file,label", ("has one label, a",)),
        ([("images/0.png", "a", "train"), ("images/1.png", "b", "use")], "file,label,split", ("'use' is no part",)),
        ([("images/0.png", "a", "train"), ("images/1.png", "b", "train")], "file,label,split", ("no row is for test",)),
        ([], "file,label", ("has no rows",)),
        ([("labels.csv", "a"), ("images/1.png", "b")], "file,label", ("labels.csv: is no image",)),
    ],
)
def test_a_mistake_is_told_with_its_row(tmp_path, rows, header, says):
    pets(tmp_path / "pets", 3)
    picture(tmp_path / "other.png", 0)
    written(tmp_path / "pets", rows, header)
    refused(tmp_path / "pets", *says)


def test_two_tables_are_one_too_many_and_one_of_something_else_is_none(tmp_path):
    names = list(pets(tmp_path / "pets", 4))
    written(tmp_path / "pets", [(name, "ab"[k % 2]) for k, name in enumerate(names)])
    written(tmp_path / "pets", [("ann", 3)], "owner,age", "owners.csv")
    assert load(tmp_path / "pets").classes == ("a", "b")
    written(tmp_path / "pets", [(name, "ab"[k % 2]) for k, name in enumerate(names)], table="train.csv")
    refused(tmp_path / "pets", "holds 2 tables of labels: labels.csv, train.csv")


def test_a_link_that_leads_out_of_the_directory_is_not_followed(tmp_path):
    names = list(pets(tmp_path / "pets", 4))
    picture(tmp_path / "secret.png", 0)
    (tmp_path / "pets/images/link.png").symlink_to(tmp_path / "secret.png")
    written(tmp_path / "pets", [*((name, "ab"[k % 2]) for k, name in enumerate(names)), ("images/link.png", "a")])
    refused(tmp_path / "pets", "'images/link.png' is no file in")


@pytest.mark.parametrize(
    "content", [b"file,label\n\xff\xfe,a\n", b'file,label\n"images/0.png,a\n' + b"x" * 200_000, b"\0" * 100]
)
def test_what_is_no_table_is_told_in_two_lines(tmp_path, content):
    pets(tmp_path / "pets", 3)
    (tmp_path / "pets/labels.csv").write_bytes(content)
    refused(tmp_path / "pets")
