"""Words as numbers: which words there are, rows of them, the file of a vocabulary, and texts that nobody expects."""

from __future__ import annotations

import collections
import contextlib
import json
import re
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.data import DataSet, Split, Vocabulary, tokenised
from jaxtl.errors import InputError

pytest.importorskip("tokenizers")

UNICODE = st.text(st.characters(codec=None), max_size=40)  # halves of pairs (surrogates) too
TEXTS = st.lists(st.one_of(UNICODE, st.text("abc D,!\n", max_size=40)), min_size=1, max_size=6)
FILMS = ["A good film, a GOOD one.", "bad film!", "good"]


def counted(texts):
    """An oracle for plain letters: words and signs in small letters, by frequency and then by letters."""
    found = collections.Counter(word for text in texts for word in re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text.lower()))
    return sorted(found, key=lambda word: (-found[word], word))


def learned(texts, size=20):
    """A vocabulary, or None where no text has a word."""
    with contextlib.suppress(InputError):
        return Vocabulary.of(texts, size)
    return None


def test_the_most_frequent_words_come_first_and_ties_by_their_letters():
    assert Vocabulary.of(FILMS, 100).words == ("good", "a", "film", "!", ",", ".", "bad", "one")
    assert Vocabulary.of(FILMS, 4).words == ("good", "a", "film", "!")
    assert Vocabulary.of(["b a d c", "B A"], 3).words == ("a", "b", "c")


@given(st.lists(st.text("abAB01 ,.'\n", max_size=60), min_size=1, max_size=8), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_words_are_those_that_are_counted_by_hand(texts, size):
    vocabulary = learned(texts, size)
    assert (vocabulary.words if vocabulary else ()) == tuple(counted(texts)[:size])


@given(TEXTS)
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_texts_does_not_matter(texts):
    assert learned(texts) == learned(texts[::-1])


@given(TEXTS, TEXTS, st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_known_words_keep_their_numbers_and_new_ones_come_behind(texts, others, size):
    source = learned(texts, size)
    if source is None:
        return
    target = source.extended(others, size)
    assert target.words[: len(source.words)] == source.words
    assert target.known == len(source) <= len(target) <= len(source) + size
    assert len(set(target.words)) == len(target.words)
    new = target.words[len(source.words) :]
    every = learned(others, 10**6)
    assert new == tuple(word for word in (every.words if every else ()) if word not in source.words)[:size]
    before, after = (one.tokens(texts, 30).tokens for one in (source, target))
    np.testing.assert_array_equal(before[before != 1], after[before != 1])
    assert (after[before == 1] != 0).all()


def test_nothing_new_and_a_second_extension():
    source = Vocabulary.of(FILMS, 3)
    same = source.extended(["good film"], 5)
    assert (same.words, same.known, len(same)) == (source.words, 5, 5)
    twice = source.extended(["acting"], 5).extended(["acting, plot"], 1)
    assert (twice.words[3:], twice.known, len(twice)) == (("acting", ","), 6, 7)
    assert source.known == len(source) == 5


@given(TEXTS, TEXTS, st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_rows_have_zeros_behind_the_last_word_only(texts, others, length):
    vocabulary = learned(texts, 5)
    if vocabulary is None:
        return
    found = vocabulary.tokens(others, length)
    rows = found.tokens
    assert (rows.shape, rows.dtype) == ((len(others), length), np.int32)
    assert rows.min(initial=0) >= 0
    assert rows.max(initial=0) < len(vocabulary)
    lengths = (rows > 0).sum(axis=1)
    assert all((row[:n] > 0).all() for row, n in zip(rows, lengths, strict=True))
    assert found.empty == (lengths == 0).sum()
    assert found.unknown == pytest.approx((rows == 1).sum() / max(1, lengths.sum()))
    wide = vocabulary.tokens(others, 100)
    np.testing.assert_array_equal(wide.tokens[:, :length], rows)
    assert found.cut == ((wide.tokens > 0).sum(axis=1) > length).sum()


def test_rows_by_hand():
    found = Vocabulary.of(FILMS, 3).tokens(["Good [UNK] a", "", "[PAD]", "good " * 5], 4)
    assert found.tokens.tolist() == [[2, 1, 1, 1], [0] * 4, [1, 1, 1, 0], [2] * 4]
    assert (found.cut, found.empty, found.unknown) == (2, 1, 6 / 11)


@given(TEXTS, TEXTS)
@settings(max_examples=60, deadline=None)
def test_its_file_brings_it_back_and_the_library_reads_it(texts, others):
    import tokenizers

    source = learned(texts)
    if source is None:
        return
    vocabulary = source.extended(others, 3)
    content = vocabulary.to_bytes()
    again = Vocabulary.from_bytes(content)
    assert again == vocabulary
    assert again.to_bytes() == content
    library = tokenizers.Tokenizer.from_buffer(content)
    for text in (text for text in others if text.isprintable()):
        row = again.tokens([text], 100).tokens[0]
        assert row[row > 0].tolist() == library.encode(text).ids


def test_a_file_that_asks_for_other_work_is_refused():
    good = json.loads(Vocabulary.of(FILMS, 3).to_bytes())
    changes = [
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": ""}},
        {"pre_tokenizer": None},
        {"padding": {}},
        {"added_tokens": [{"id": 2, "content": "good"}]},
        {"model": good["model"] | {"known": 99}},
        {"model": good["model"] | {"known": 1}},
        {"model": good["model"] | {"known": True}},
        {"model": good["model"] | {"vocab": {"[PAD]": 0, "[UNK]": 1, "good": 7}}},
        {"model": good["model"] | {"vocab": {"good": 0, "[PAD]": 1, "[UNK]": 2}}},
        {"model": good["model"] | {"vocab": {"[PAD]": 0, "[UNK]": 1, "\ud800": 2}}},
        {"model": good["model"] | {"vocab": ["[PAD]"]}},
        {"model": []},
    ]
    for change in changes:
        with pytest.raises(InputError, match="is no vocabulary of words"):
            Vocabulary.from_bytes(json.dumps(good | change).encode())
    assert Vocabulary.from_bytes(json.dumps(good).encode()).words == ("good", "a", "film")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b"null", b"[" * 10**5, b"7", b'"x"'])
def test_what_is_no_vocabulary_is_refused(content):
    with pytest.raises(InputError, match=r"tokenizer\.json: is no vocabulary of words"):
        Vocabulary.from_bytes(content)


@pytest.mark.parametrize("text", ["word " * 10**6, "x" * 10**6, " " * 10**6 + "good", "good\n" * 10**6, "\0" * 10**6])
def test_a_line_of_a_million_words_is_bearable(text):
    vocabulary = Vocabulary.of(FILMS, 3)
    tracemalloc.start()
    found = vocabulary.tokens([text, "good"], 128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
    assert found.cut == 1
    assert found.tokens[1, :2].tolist() == [2, 0]
    words = Vocabulary.of([text, "good"], 10).words
    assert words == {"w": ("word", "good"), "g": ("good",)}.get(text[0], ("good",))


def test_a_word_is_not_cut_in_two_where_a_text_is():
    long = "incomprehensibilities " * 40
    rows = Vocabulary.of([long], 5).tokens([long], 12)
    assert set(rows.tokens[0].tolist()) <= {2, 0}
    assert rows.cut == 1


def test_words_that_are_long_beyond_reason_are_left_out():
    assert Vocabulary.of(["x" * 65 + " " + "y" * 64], 5).words == ("y" * 64,)


def test_accents_are_the_same_however_they_are_written():
    vocabulary = Vocabulary.of(["caf\u00e9"], 5)
    assert vocabulary.tokens(["CAFE\u0301 cafe"], 3).tokens.tolist() == [[2, 1, 0]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda v: Vocabulary.of("a text", 3), "texts: one text where several are expected"),
        (lambda v: Vocabulary.of(["a", 7], 3), "texts, number 1: 7 is no text"),
        (lambda v: Vocabulary.of(["a", None], 3), "texts, number 1: None is no text"),
        (lambda v: Vocabulary.of([], 3), "no word in 0 texts"),
        (lambda v: Vocabulary.of([" ", ""], 3), "no word in 2 texts"),
        (lambda v: Vocabulary.of(["a"], 0), "Vocabulary size: 0 is less than 1"),
        (lambda v: v.extended(["a"], 2.5), "Vocabulary size: 2.5 is no whole number"),
        (lambda v: v.tokens(["a"], 0), "length: 0 is less than 1"),
        (lambda v: v.tokens([b"a"], 3), "texts, number 0: a bytes is no text"),
    ],
)
def test_what_is_handed_over_in_the_wrong_place(wrong, said):
    with pytest.raises(InputError) as caught:
        wrong(Vocabulary.of(FILMS, 3))
    assert str(caught.value).startswith((said, "Vocabulary.of: " + said))
    assert len(str(caught.value).splitlines()) <= 2


def test_without_the_library_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError) as caught:
        Vocabulary.of(FILMS, 3)
    assert str(caught.value).splitlines() == [
        "a vocabulary of words: needs the library tokenizers",
        '  pip install "jaxtl[text]"',
    ]


def films(train, test):
    parts = []
    for texts in (train, test):
        array = np.empty(len(texts), object)
        array[:] = texts
        label = np.arange(len(texts), dtype=np.int32) % 2
        parts.append(Split(text=array, label=label, group=np.arange(len(texts), dtype=np.int32)))
    return DataSet("films", *parts, ("bad", "good"), "by hand", "read")


def test_a_set_of_texts_becomes_one_of_tokens_and_tells_what_was_lost():
    data = films(FILMS, ["unheard words", ""])
    found = tokenised(data, Vocabulary.of(data.train["text"], 100), 4)
    assert found.train.names == ("token", "label", "group")
    assert found.train["token"].tolist() == [[3, 2, 4, 6], [8, 4, 5, 0], [2, 0, 0, 0]]
    assert found.test["token"].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert found.notice == (
        "read; training texts: 1 of 3 are cut after 4 words, 0.0 % of their words are unknown; "
        "test texts: 1 of 2 have no word, 100.0 % of their words are unknown"
    )
    np.testing.assert_array_equal(found.train.labels, data.train.labels)
    assert "text" in data.train


def test_nothing_is_learned_from_test_texts():
    one, other = (films(FILMS, test) for test in (["seen nowhere"], ["something else"]))
    made = [Vocabulary.of(data.train["text"], 100) for data in (one, other)]
    assert made[0] == made[1]
    assert not {"seen", "nowhere"} & set(made[0].words)
    before = made[0].to_bytes()
    tokenised(one, made[0], 4)
    assert made[0].to_bytes() == before


def test_a_set_without_texts_is_refused():
    data = films(FILMS, FILMS)
    numbers = DataSet("x", data.train.without("text"), data.test.without("text"), ("a", "b"), "by hand")
    with pytest.raises(InputError, match="x: its examples have label, group"):
        tokenised(numbers, Vocabulary.of(FILMS, 3), 4)
