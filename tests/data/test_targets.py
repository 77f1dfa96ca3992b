"""What a column of labels is taken for, and what is wrong with one; copies in both parts; folders called by numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_labelled import fill, save

from jaxtl.data import from_arrays, load
from jaxtl.data.group_splits import group_folds
from jaxtl.data.labelled import labelled
from jaxtl.data.resized import Resize
from jaxtl.data.targets import MOST_CODES, read_targets
from jaxtl.errors import InputError


def read(cells, task="auto"):
    return read_targets(cells, task, lambda k: f"row {k + 2}", "t.csv")


def refused(call, *said):
    with pytest.raises(InputError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 2
    for words in said:
        assert words in str(caught.value)


NUMBERS = [f"{k}.5" for k in range(12)]
CODES = [str(k % 3) for k in range(30)]


@pytest.mark.parametrize(
    ("cells", "kind", "said"),
    [
        (NUMBERS, "f", "labels are numbers: regression; --task=classes for classes"),
        ([*NUMBERS, "-1e-3", "+7", ".25"], "f", "regression"),
        ([str(k) for k in range(MOST_CODES + 1)], "f", "regression"),
        (CODES, "i", "labels are 3 whole numbers: classes; --task=number for regression"),
        ([str(k) for k in range(MOST_CODES)] * 2, "i", "20 whole numbers: classes"),
        (["007", "008", "009"] * 5, "i", ""),
        (["cat", "dog"], "i", ""),
        (["1.5", "cat", "dog", "eel"], "i", ""),
    ],
)
def test_a_column_is_taken_for_what_it_looks_like_and_what_could_be_otherwise_is_told(cells, kind, said):
    found = read(cells)
    assert found.labels.dtype.kind == kind
    assert said in found.remark
    assert bool(said) == bool(found.remark)
    assert bool(found.classes) == (kind == "i")


def test_what_is_asked_for_is_not_guessed():
    assert read(NUMBERS, "classes").classes == sorted(NUMBERS)
    assert read(CODES, "number").labels.tolist() == [float(cell) for cell in CODES]
    assert read(["a;b", "c"], "classes").classes == ["a;b", "c"]
    assert read(["a", "b"], "several").labels.tolist() == [[1, 0], [0, 1]]
    for cells, task in ((NUMBERS, "classes"), (CODES, "number"), (["a", "b"], "several")):
        assert read(cells, task).remark == ""


def test_several_labels_are_names_between_semicolons_or_a_list():
    found = read(["red;round", '["round", "a;b"]', "[]", " red ; small", "[1]"])
    assert found.classes == ["1", "a;b", "red", "round", "small"]
    assert found.labels.tolist() == [[0, 0, 1, 1, 0], [0, 1, 0, 1, 0], [0] * 5, [0, 0, 1, 0, 1], [1, 0, 0, 0, 0]]
    assert "several at a time; --task=classes" in found.remark


@pytest.mark.parametrize(
    ("cells", "task", "said"),
    [
        ([*NUMBERS, "n/a"], "auto", ("row 14: 'n/a' is no number, one among 13 labels", "--task=classes")),
        ([*NUMBERS, "nan", "inf"], "auto", ("'nan' is no number, the first of 2 among 14",)),
        ([*NUMBERS, "NaN"], "number", ("'NaN' is no number", "leave the row out")),
        (["1,5", "2,5", "3,25"], "auto", ("'1,5' is no number", "write it with a point: 1.5")),
        (["7.5"] * 12, "auto", ("all 12 labels are the number 7.5",)),
        (["cat", "dog"], "number", ("'cat' is no number, the first of 2",)),
        (["5", "5"], "auto", ("has one label, 5", "one class is nothing to learn")),
        (["1700000000.5", "1700000001.5", "1700000002.5"], "auto", ("32 bits hardly tell apart",)),
        (["1e60", "2e60", "3.5e60"], "number", ("32 bits hardly tell apart",)),
        (["red;", "round"], "auto", ("row 2: 'red;' has an empty name", "names between semicolons")),
        (["red;;round", "round"], "auto", ("has an empty name",)),
        (["red;red", "round"], "auto", ("names red twice",)),
        (['["red"', "a;b"], "auto", ()),
        (["[red]", "b"], "auto", ("'[red]' is no list of names", "--task=classes")),
        (['["red", null]', "b"], "auto", ("is no list of names",)),
        (['["red"]', "[]", "red"], "auto", ("names one label, red", "name two at least")),
        (["[]", "[]"], "auto", ("names no label at all",)),
    ],
)
def test_what_is_wrong_with_labels(cells, task, said):
    if said:
        refused(lambda: read(cells, task), *said)
    else:
        assert read(cells, task).classes == ['["red"', "a", "b"]


# ---------------------------------------------------------------- from files


def table(room, cells, ending="csv"):
    """Pictures with these labels."""
    for k in range(len(cells)):
        save(room / f"{k}.png", 20, 20, k)
    if ending == "csv":
        lines = ["file,label", *(f'{k}.png,"{cell!s}"' for k, cell in enumerate(cells))]
    else:
        lines = [json.dumps({"file": f"{k}.png", "label": cell}) for k, cell in enumerate(cells)]
    (room / f"labels.{ending}").write_text("\n".join(lines))
    return room


def test_tables_of_numbers_and_of_several_labels(tmp_path):
    values = [k + 0.25 for k in range(12)]
    for ending in ("csv", "jsonl"):
        data = labelled(table(tmp_path / ending, values, ending), Resize(16))
        assert (data.task, data.classes, data.train.labels.tolist()) == ("number", (), values)
        assert "labels are numbers: regression; --task=classes for classes" in data.notices
    several = labelled(table(tmp_path / "many", [["a", "b"], ["a"], ["b"], []] * 2, "jsonl"), Resize(16))
    assert (several.task, several.classes) == ("several", ("a", "b"))
    assert several.train.labels.tolist() == [[1, 1], [1, 0], [0, 1], [0, 0]] * 2
    classes = labelled(tmp_path / "many" / "labels.jsonl", Resize(16), task="several")
    assert classes.train.target == "labels"


@pytest.mark.parametrize(
    ("cells", "ending", "task", "said"),
    [
        ([k + 0.5 for k in range(9)], "csv", "auto", ("9 pictures with a number", "give 10 at least")),
        (["1.5", "", "2.5"], "csv", "auto", ("labels.csv, row 3: has no label", "[] says that no label is true")),
        (
            [["a", "b"], ["a"], ["a"], ["a"], ["b"]],
            "jsonl",
            "auto",
            ("needs 2 pictures without it", "nearly all have a"),
        ),
        ([["a"], ["a", "b"], [], []], "jsonl", "auto", ("a label needs 2 pictures to learn from, and b has one",)),
        ([["a", "b"], ["a"], ["b"], []], "jsonl", "classes", ("line 1: holds a list",)),
        ([{"a": 1}, "b"], "jsonl", "auto", ("line 1: holds a dict",)),
        ([1.5, 2.5, "x"] * 4, "jsonl", "auto", ("row 3: 'x' is no number, the first of 4",)),
    ],
)
def test_a_mistake_in_a_table_is_told_before_a_picture_is_opened(tmp_path, monkeypatch, cells, ending, task, said):
    monkeypatch.setattr("jaxtl.data.labelled.resized_pictures", lambda *_: pytest.fail("opened"))
    room = table(tmp_path / "t", cells, ending)
    refused(lambda: labelled(room, Resize(16), task=task), *said)


def test_a_data_set_of_lists_is_not_one_of_classes(tmp_path):
    room = table(tmp_path / "t", [["a", "b"], ["a"], ["b"], []], "jsonl")
    refused(lambda: load(room), "holds a list")


def test_folders_that_are_called_by_numbers(tmp_path):
    room = fill(tmp_path / "ages", ("7", "12.5", "30"), count=4)
    assert labelled(room, Resize(16)).task == "classes"
    data = labelled(room, Resize(16), task="number")
    assert sorted(data.train.labels.tolist()) == [7.0] * 4 + [12.5] * 4 + [30.0] * 4
    assert data.files[int(data.train.labels.argmax())].startswith("30/")
    refused(lambda: labelled(room, Resize(16), task="several"), "--task=several: a folder gives each picture one class")
    fill(room, ("old",))
    refused(lambda: labelled(room, Resize(16), task="number"), "the folder old is called by no number")


def test_a_set_in_memory_says_what_its_labels_are():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    numbers = from_arrays(images, np.linspace(0, 1, 40), target="number")
    assert labelled(numbers, Resize(8)).task == "number"
    assert labelled(numbers, Resize(8), task="number").classes == ()
    refused(
        lambda: labelled(numbers, Resize(8), task="classes"), "--task=classes: its labels are number", "target='class'"
    )
    pairs = from_arrays(images, np.random.default_rng(1).normal(size=(40, 2)), target="number")
    refused(lambda: labelled(pairs, Resize(8)), "several numbers for each picture")


def test_pictures_that_are_learned_from_and_tested_are_counted(tmp_path):
    room = fill(tmp_path / "pets", parts=("train", "test"))
    save(room / "test" / "cat" / "new.png", 31, 31, 3)
    for memory in (None, 1):  # on disk too
        notices = labelled(room, Resize(16, cache=tmp_path / "cache"), memory).notices
        assert "8 of 9 pictures for testing are learned from too, pixel for pixel: take them out" in notices
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    given = from_arrays(images, np.arange(20) % 2, images[:3], np.arange(3) % 2)
    assert any(
        "3 of 3 pictures for testing are learned from too" in line for line in labelled(given, Resize(8)).notices
    )
    apart = from_arrays(images[:15], np.arange(15) % 2, images[15:], np.arange(5) % 2)
    assert labelled(apart, Resize(8)).notices == []


def test_groups_that_share_a_copy_become_one(tmp_path):
    room = table(tmp_path / "t", ["a", "b"] * 4)
    (room / "7.png").write_bytes((room / "0.png").read_bytes())
    rows = [f"{k}.png,{'ab'[k % 2]},patient {k // 2}" for k in range(8)]
    (room / "labels.csv").write_text("\n".join(["file,label,group", *rows]))
    data = labelled(room, Resize(16))
    groups = data.train.groups
    assert groups[0] == groups[1] == groups[6] == groups[7]
    assert len(np.unique(groups)) == 3
    assert (
        "2 pictures are copies of each other, which are never parted; 1 of them are labelled differently"
        in data.notices
    )


@pytest.mark.parametrize("most", ["MOST_COUNTS", "MOST_PLACES"])
def test_very_many_groups_are_dealt_whole_and_classes_stay_in_proportion(most, monkeypatch):
    rng = np.random.default_rng(0)
    groups = np.concatenate([np.arange(2000), rng.integers(0, 2000, 300)])
    labels = np.concatenate([np.arange(2000) % 7, (np.arange(2000) % 7)[groups[2000:]]])
    monkeypatch.setattr(f"jaxtl.data.group_splits.{most}", 1000)
    monkeypatch.setattr("sklearn.model_selection.StratifiedGroupKFold", None)
    left = np.zeros(len(labels), int)
    for train, out in group_folds(labels, 5, 3, groups):
        assert not set(groups[train]) & set(groups[out])
        assert np.abs(np.bincount(labels[out]) / len(out) - np.bincount(labels) / len(labels)).max() < 0.02
        left[out] += 1
    assert (left == 1).all()
