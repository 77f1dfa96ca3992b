"""Labelled texts: tables and folders of them, what is one example, and what is refused before any work."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxtl.data.texts import holds_texts, labelled_texts, unlabelled_texts
from jaxtl.errors import InputError

ROWS = [("a good film", "good"), ('dull, "very" dull\nindeed', "bad"), ("fine", "good"), ("Ärgerlich 😀", "bad")]


def table(path, rows=ROWS, header=("text", "label")):
    import csv

    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def folders(path, rows=ROWS):
    for number, (text, label) in enumerate(rows):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{number}.txt").write_text(text, encoding="utf-8")
    return path


def lines(path, rows=ROWS):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


@pytest.mark.parametrize("write", [table, lines, folders])
def test_texts_come_whole_with_their_labels(tmp_path, write):
    path = write(tmp_path / {table: "r.csv", lines: "r.jsonl", folders: "r"}[write])
    assert holds_texts(path)
    found = labelled_texts(path)
    assert (found.name, found.classes, found.test) == ("r", ("bad", "good"), None)
    said = {text: found.classes[label] for text, label in zip(found.train["text"], found.train.labels, strict=True)}
    assert said == dict(ROWS)
    assert len(found.files) == 4


def test_the_directory_of_a_table_is_the_table(tmp_path):
    table(tmp_path / "r.csv")
    assert holds_texts(tmp_path)
    assert len(labelled_texts(tmp_path).train) == 4


def test_groups_and_parts_of_a_table(tmp_path):
    rows = [(f"text {k}", "ab"[k % 2], f"g{k // 2}", "test" if k > 7 else "train") for k in range(10)]
    found = labelled_texts(table(tmp_path / "r.csv", rows, ("Text", "Class", "group", "split")))
    assert (len(found.train), len(found.test)) == (8, 2)
    assert found.train.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.test_files == ["row 10", "row 11"]


def test_copies_are_one_group_and_told(tmp_path):
    rows = [*ROWS, ("A  good film", "bad"), ("other", "bad")]
    found = labelled_texts(table(tmp_path / "r.csv", rows))
    groups = found.train.groups
    assert groups[0] == groups[4]
    assert len(set(groups.tolist())) == 5
    assert found.notices == [
        "2 texts are copies of each other, which are never parted; 1 of them are labelled differently"
    ]


def test_texts_in_both_parts_are_told(tmp_path):
    rows = [(text, label, "train") for text, label in ROWS] + [("FINE", "good", "test"), ("new", "bad", "test")]
    found = labelled_texts(table(tmp_path / "r.csv", rows, ("text", "label", "split")))
    assert found.notices[1:] == ["1 of 2 texts for testing are learned from too: take them out"]


def test_empty_texts_are_kept_and_counted(tmp_path):
    found = labelled_texts(table(tmp_path / "r.csv", [*ROWS, (" ", "bad"), ("", "good")]))
    assert len(found.train) == 6
    assert found.notices[0] == "2 of 6 texts are empty"


def test_a_line_of_a_million_words_is_read(tmp_path):
    found = labelled_texts(table(tmp_path / "r.csv", [*ROWS, ("word " * 10**6, "good")]))
    assert len(found.train["text"][4]) == 5 * 10**6


def test_files_that_are_no_texts_are_refused_or_left_out(tmp_path):
    folders(tmp_path)
    (tmp_path / "good" / "latin.txt").write_bytes("très bon".encode("latin-1"))
    (tmp_path / "good" / "notes.doc").write_text("x")
    with pytest.raises(
        InputError, match=r"2 of 6 files cannot be used: good/latin.txt \(is not in UTF-8: line 1 holds"
    ):
        labelled_texts(tmp_path)
    found = labelled_texts(tmp_path, skip_bad=True)
    assert len(found.train) == 4
    assert [file for file, _ in found.skipped] == ["good/latin.txt", "good/notes.doc"]


def test_pictures_are_no_texts(tmp_path):
    table(tmp_path / "p.csv", [("a.png", "cat")], ("file", "label"))
    assert not holds_texts(tmp_path / "p.csv")
    assert not holds_texts(tmp_path)
    assert not holds_texts(tmp_path / "nowhere")


def read(path):
    assert holds_texts(path)
    return labelled_texts(path)


MISTAKES = {  # header, rows, what is said
    "no column for the label": (("text", "stars"), ROWS, "r.csv: has no column for the label\n  call one of its"),
    "file and text": (("text", "file", "label"), [("a", "b", "c")], "has a column for the file and one for the text"),
    "no label in a row": (("text", "label"), [*ROWS, ("x", "")], "r.csv, row 6: has no label\n  name its class"),
    "all empty": (("text", "label"), [("", "a"), (" ", "b")] * 2, "r.csv: all 4 texts are empty\n  give texts"),
    "one label": (("text", "label"), [("x", "a"), ("y", "a")], "has one label, a\n  one class is nothing to learn"),
    "a class of one": (
        ("text", "label"),
        [*ROWS, ("x", "odd")],
        "a class needs 2 texts to learn from, and odd has one",
    ),
    "no rows": (("text", "label"), [], "r.csv: has no rows\n  give one for each text"),
    "no such part": (("text", "label", "split"), [("x", "a", "tain")], "row 2: 'tain' is no part"),
    "only for testing": (("text", "label", "split"), [("x", "a", "test")], "no row is for train"),
    "too few cells": (("text", "label"), [*ROWS, ("x",)], "row 6: has 1 cells"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_two_lines(tmp_path, mistake):
    header, rows, said = MISTAKES[mistake]
    path = table(tmp_path / "r.csv", rows, header)
    with pytest.raises(InputError) as caught:
        read(path)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_table_in_another_encoding_is_told_with_its_line(tmp_path):
    (tmp_path / "r.csv").write_bytes("text,label\nfine,good\ntrès bon,good\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"r\.csv: is not in UTF-8: line 3 holds the byte 0xe8\n  save it again"):
        holds_texts(tmp_path / "r.csv")


def test_several_tables_are_told(tmp_path):
    table(tmp_path / "a.csv")
    table(tmp_path / "b.csv")
    with pytest.raises(InputError, match=r"holds 2 tables of texts: a\.csv, b\.csv"):
        labelled_texts(tmp_path)


def test_texts_without_labels(tmp_path):
    places, texts = unlabelled_texts(table(tmp_path / "r.csv", [("a", "1"), ("", "2")], ("review", "id")))
    assert (places, texts) == (["row 2", "row 3"], ["a", ""])
    folders(tmp_path / "f")
    (tmp_path / "f" / "bad" / "x.bin").write_bytes(b"\xff")
    places, texts = unlabelled_texts(tmp_path / "f")
    assert places == ["bad/1.txt", "bad/3.txt", "bad/x.bin", "good/0.txt", "good/2.txt"]
    assert isinstance(texts[2], InputError)
    assert unlabelled_texts(tmp_path / "f" / "good" / "2.txt") == (["2.txt"], ["fine"])
    with pytest.raises(InputError, match="has no column for the text"):
        unlabelled_texts(table(tmp_path / "n.csv", [("a", "b")], ("words", "label")))
    with pytest.raises(InputError, match="no such file"):
        unlabelled_texts(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no files"):
        unlabelled_texts(tmp_path / "empty")


def test_a_field_of_texts_goes_through_a_split(tmp_path):
    train = labelled_texts(table(tmp_path / "r.csv")).train
    assert train.take(np.array([2, 0]))["text"].tolist() == ["fine", "a good film"]
    assert train.target == "class"
