"""Texts as rows of tokens, by the description that comes with a trunk (tokenizer.json of the library tokenizers).

A row is one window of a text, or several beside each other:  [CLS] t t t [SEP] 0 0 | [CLS] t t t [SEP] 0 0 | ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxtl.errors import InputError
from jaxtl.text import beginning

BLOCK = 512  # texts at a time
LETTERS = 16  # of a text, for each token that is kept, are looked at: English has about five a token
SHORTEST = 16  # tokens of a row
WINDOWS = 8  # of a text; what lies behind them is left out, and counted


class Rows(NamedTuple):
    """Tokens of texts.

    Attributes:
        tokens: int32 [N, T], 0 where there is none; T is a power of two up to the window, or a multiple of it.
        lengths: [N], how much of a row a text takes, in such steps too.
        cut: how many texts were longer than `WINDOWS` windows.
        windows: how many texts take more than one.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    cut: int
    windows: int


class Tokenizer:
    """What makes tokens of a text.

    Args:
        content: of a tokenizer.json; it is read and not executed.
        window: tokens that see each other, with one before and one behind the text.
        windows: of a text, at most.

    Raises:
        InputError: the library is missing, or this is no such description.
    """

    def __init__(self, content: bytes, window: int, windows: int = WINDOWS):
        try:
            import tokenizers
        except ImportError:
            todo = 'pip install "jaxtl[text]", or give --trunk=tfidf'
            raise InputError("needs the library tokenizers", where="a trunk of texts", todo=todo) from None
        self.window, self.windows = window, windows
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises nothing more special
            what = f"is no description of tokens ({str(error).splitlines()[0]:.80})"
            raise InputError(what, where="tokenizer.json", todo="use the file that came with the weights") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        ends = self._tokenizer.encode("").ids
        if len(ends) != 2 or 0 in ends or self._tokenizer.token_to_id("[PAD]") != 0:
            what = "does not put one token before and one behind a text, and 0 where there is none"
            raise InputError(what, where="tokenizer.json", todo="use that of a BERT")
        self._first, self._last = ends
        self._tokenizer.encode_special_tokens = True  # what a text says is no command

    @property
    def words(self) -> int:
        """Of the vocabulary."""
        return self._tokenizer.get_vocab_size()

    def rows(self, texts: Sequence[str]) -> Rows:
        """Every text as a row of tokens.

        A text that is longer than a window is divided into windows of about equal length. Of each no more letters are
        looked at than can matter, so that a line of a million words takes no more memory than one of a thousand.

        Args:
            texts: anything, also empty ones.

        Returns:
            The rows, as short as the longest text allows.
        """
        found, cut = list[list[list[int]]](), 0
        for start in range(0, len(texts), BLOCK):
            block = [beginning(text, LETTERS * self.window * self.windows) for text in texts[start : start + BLOCK]]
            encoded = self._tokenizer.encode_batch([text for text, _ in block], add_special_tokens=False)
            for one, (_, shortened) in zip(encoded, block, strict=True):
                pieces, longer = self._pieces(one.ids)
                found.append(pieces)
                cut += longer or shortened
        lengths = np.array([self._length(pieces) for pieces in found], np.int64)
        tokens = np.zeros((len(found), int(lengths.max(initial=SHORTEST))), np.int32)
        for row, pieces in zip(tokens, found, strict=True):
            for k, piece in enumerate(pieces):
                row[k * self.window : k * self.window + len(piece)] = piece
        return Rows(tokens, lengths, cut, sum(len(pieces) > 1 for pieces in found))

    def _pieces(self, ids: list[int]) -> tuple[list[list[int]], bool]:
        """Windows with their ends, and whether something is left behind them."""
        room = self.window - 2
        kept = ids[: room * self.windows]
        count = max(1, -(-len(kept) // room))
        each = -(-len(kept) // count)
        pieces = [kept[k * each : (k + 1) * each] for k in range(count)]
        return [[self._first, *piece, self._last] for piece in pieces], len(ids) > len(kept)

    def _length(self, pieces: list[list[int]]) -> int:
        if len(pieces) > 1:
            return len(pieces) * self.window
        return min(self.window, max(SHORTEST, 1 << (len(pieces[0]) - 1).bit_length()))
