"""Texts as rows of tokens: windows, what is left out, and texts that nobody expects."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
from vocabulary import WORDS, description

from jaxtl.errors import InputError
from jaxtl.models import tokens
from jaxtl.models.tokens import Tokenizer

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(description(), 32, 4)


def words(row):
    return [WORDS[number] for number in row if number]


def test_a_text_becomes_its_pieces_between_two_ends(tokenizer):
    rows = tokenizer.rows(["The film is finely", "good"])
    assert words(rows.tokens[0]) == ["[CLS]", "the", "film", "is", "fine", "##ly", "[SEP]"]
    assert words(rows.tokens[1]) == ["[CLS]", "good", "[SEP]"]
    assert rows.tokens.shape == (2, tokens.SHORTEST)
    assert (rows.cut, rows.windows) == (0, 0)


def test_tokens_are_those_of_the_library(tokenizer):
    import tokenizers

    theirs = tokenizers.Tokenizer.from_buffer(description())
    texts = ["the dull film", "a very, very good film!", "", "Äöü ß — 日本 \u200b", "x" * 300]
    for row, text in zip(tokenizer.rows(texts).tokens, texts, strict=True):
        ids = theirs.encode(text).ids
        assert row[: len(ids)].tolist() == ids
        assert not row[len(ids) :].any()


def test_a_long_text_is_windows_of_about_equal_length_and_nothing_is_lost(tokenizer):
    rows = tokenizer.rows(["good " * 70, "bad"])
    assert rows.tokens.shape == (2, 96)
    assert rows.lengths.tolist() == [96, 16]
    windows = rows.tokens[0].reshape(3, 32)
    assert [len(words(window)) for window in windows] == [26, 26, 24]
    assert [word for window in windows for word in words(window)[1:-1]] == ["good"] * 70
    assert (rows.cut, rows.windows) == (0, 1)


def test_lengths_grow_by_powers_of_two_up_to_the_window(tokenizer):
    rows = tokenizer.rows(["good " * count for count in (0, 14, 15, 30, 31)])
    assert rows.lengths.tolist() == [16, 16, 32, 32, 64]


def test_what_lies_behind_the_last_window_is_counted(tokenizer):
    rows = tokenizer.rows(["good " * 120, "good " * 121])
    assert rows.tokens.shape == (2, 128)
    assert rows.cut == 1


@pytest.mark.parametrize("text", ["word " * 10**6, "x" * 10**6, " " * 10**6 + "good", "good\n" * 10**6, "\0" * 10**6])
def test_a_million_words_are_bearable(tokenizer, text):
    tracemalloc.start()
    rows = tokenizer.rows([text])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
    assert rows.cut == 1
    assert rows.tokens.shape[1] <= 128


@pytest.mark.parametrize("text", ["", " \n\t", "\0\x1b[2J", "\udc80 lone", "\ufffd", "\u202e", "😀" * 5])
def test_odd_texts_have_ends_at_least(tokenizer, text):
    row = tokenizer.rows([text]).tokens[0]
    found = words(row)
    assert (found[0], found[-1]) == ("[CLS]", "[SEP]")


def test_a_text_gives_no_commands(tokenizer):
    found = words(tokenizer.rows(["[SEP] good [PAD] [CLS]"]).tokens[0])
    assert found.count("[SEP]") == found.count("[CLS]") == 1


def test_without_the_library_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError) as caught:
        Tokenizer(b"", 32)
    assert str(caught.value).splitlines() == [
        "a trunk of texts: needs the library tokenizers",
        '  pip install "jaxtl[text]", or give --trunk=tfidf',
    ]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1]", "without padding"])
def test_what_describes_no_tokens_is_refused(content):
    if content == "without padding":
        content = description().replace(b"[PAD]", b"[PAX]")
    with pytest.raises(InputError, match=r"tokenizer\.json: "):
        Tokenizer(content, 32)


def test_no_texts_are_no_rows(tokenizer):
    assert tokenizer.rows([]).tokens.shape == (0, 16)
    np.testing.assert_array_equal(tokenizer.rows([]).lengths, [])
