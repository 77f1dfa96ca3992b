"""Words as numbers: a vocabulary that is learned from training texts, and texts as rows of its numbers.

    token[k]:  2, 3, ... the k-th word of a text;  1 a word that the vocabulary lacks;  0 behind the last word

Words are in small letters, and every sign is one by itself, as BERT's tokenizer divides a text before it looks for
pieces of words. The file is a tokenizer.json of the library tokenizers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.errors import InputError, kind_of, whole_number
from jaxtl.text import beginning

SPECIAL = {"[PAD]": 0, "[UNK]": 1}  # no word is called so: brackets are signs by themselves
BLOCK = 512  # texts at a time
STEP = 8  # rows of nearly equal length share a compiled program
LETTERS = 16  # of a text, for each word that is kept, are looked at: English has about five a word
LONGEST = 64  # letters of a word: longer ones are codes and noise, and one of a million would be kept whole
PIECE = re.compile(
    r"(?s).{1,65536}(?!\S)|.{1,65536}"
)  # of a text, at a time: up to the end of a word where there is one
DIVIDED = {  # how a text becomes words
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},  # a letter and its accent are one sign, in whatever way they are written
            {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": False,
                "lowercase": True,
            },
        ],
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}


class Tokens(NamedTuple):
    """Texts as numbers of words.

    Attributes:
        tokens: int32 [N, T], 0 only behind the last word of a text.
        cut: how many texts have more than T words.
        empty: how many have none: rows of zeros.
        unknown: the share of words in `tokens` that the vocabulary lacks, in 0..1.
    """

    tokens: np.ndarray
    cut: int
    empty: int
    unknown: float


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words by their numbers.

    Attributes:
        words: those with the numbers 2, 3, ...
        known: how many numbers, 0 and 1 among them, the vocabulary had that this one extends; all where it extends
            none. Rows of an embedding from here on are new.

    Example:
        >>> source = Vocabulary.of(["A good film, a GOOD one."], size=3)
        >>> source.words, len(source)
        (('a', 'good', ','), 5)
        >>> target = source.extended(["good acting"], size=10)
        >>> target.words, target.known, len(target)
        (('a', 'good', ',', 'acting'), 5, 6)
        >>> target.tokens(["Good acting!", ""], length=4).tokens.tolist()
        [[3, 5, 1, 0], [0, 0, 0, 0]]
    """

    words: tuple[str, ...]
    known: int

    @classmethod
    def of(cls, texts: Sequence[str], size: int) -> Vocabulary:
        """The most frequent words of some texts, which should be training texts only.

        Args:
            texts: any.
            size: words at most, beside the numbers 0 and 1. Of equally frequent ones the first in the order of letters
                are taken; those of more than 64 letters are left out.

        Raises:
            InputError: no word in any of them, or the library is missing.
        """
        size = whole_number(size, "Vocabulary size")
        words = _ranked(texts)[:size]
        if not words:
            raise InputError(f"no word in {len(texts):,} texts", where="Vocabulary.of", todo="give texts with words")
        return cls(tuple(words), len(SPECIAL) + len(words))

    def extended(self, texts: Sequence[str], size: int) -> Vocabulary:
        """The same words under the same numbers, and behind them the most frequent ones of these texts that it lacks.

        Args:
            texts: training texts of another task.
            size: new words at most.

        Raises:
            InputError: the library is missing.
        """
        size, mine = whole_number(size, "Vocabulary size"), set(self.words)
        new = [word for word in _ranked(texts) if word not in mine][:size]
        return Vocabulary((*self.words, *new), len(self))

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} numbers, {len(self) - self.known:,} of them new)"

    def tokens(self, texts: Sequence[str], length: int) -> Tokens:
        """Every text as a row of numbers; of each no more letters are looked at than can matter.

        Args:
            texts: any, also empty ones.
            length: T, words that are kept of a text.

        Raises:
            InputError: what is no text, or the library is missing.
        """
        length, texts = whole_number(length, "length"), _checked(texts)
        rows, cut = np.zeros((len(texts), length), np.int32), 0
        for start in range(0, len(texts), BLOCK):
            block = [beginning(text, LETTERS * length) for text in texts[start : start + BLOCK]]
            whole = [text.rpartition(" ")[0] or text if shortened else text for text, shortened in block]
            encoded = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
            for row, one, (_, shortened) in zip(rows[start : start + BLOCK], encoded, block, strict=True):
                ids = one.ids
                row[: len(ids)] = ids[:length]
                cut += shortened or len(ids) > length
        words = np.count_nonzero(rows)
        return Tokens(rows, cut, int((rows[:, 0] == 0).sum()), float((rows == 1).sum() / max(1, words)))

    def to_bytes(self) -> bytes:
        """Its file: a tokenizer.json, which the library reads too; the same for the same words."""
        return json.dumps(_description(self.words, self.known), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Vocabulary:
        """What `to_bytes` has written; nothing else, since a tokenizer.json may ask for any work on a text.

        Raises:
            InputError: it is another file, or a damaged one.
        """
        try:
            found = json.loads(content)
            words, known = tuple(found["model"]["vocab"])[len(SPECIAL) :], found["model"]["known"]
            right = type(known) is int and len(SPECIAL) <= known <= len(SPECIAL) + len(words)
            right = right and found == _description(words, known)
            "".join(words).encode()  # half of a pair (a surrogate) is no text
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            right = False
        if not right:
            todo = "use the file that came with the model"
            raise InputError("is no vocabulary of words", where="tokenizer.json", todo=todo)
        return cls(words, known)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return _library().Tokenizer.from_buffer(self.to_bytes())


def _description(words: Sequence[str], known: int) -> dict[str, Any]:
    """The content of a tokenizer.json; `known` is of ours, and passed over by the library."""
    vocab = SPECIAL | {word: number for number, word in enumerate(words, len(SPECIAL))}
    around: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]", "known": known}
    return around | DIVIDED | {"post_processor": None, "decoder": None, "model": model}


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        todo = 'pip install "jaxtl[text]"'
        raise InputError("needs the library tokenizers", where="a vocabulary of words", todo=todo) from None
    return tokenizers


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise InputError("one text where several are expected", where="texts", todo="give a list of them")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{kind_of(text)} is no text", where=f"texts, number {place}", todo="give str each")
    return texts


def _ranked(texts: Sequence[str]) -> list[str]:
    """All words of some texts, the most frequent first; equally frequent ones by their letters."""
    library, texts = _library(), _checked(texts)
    counting = library.Tokenizer.from_buffer(json.dumps(_description((), len(SPECIAL))).encode())
    every = library.trainers.WordLevelTrainer(vocab_size=2**31, min_frequency=1, show_progress=False)
    counting.train_from_iterator(_pieces(texts), every)
    number = counting.get_vocab()
    return [word for word in sorted(number, key=number.__getitem__) if len(word) <= LONGEST]


def _pieces(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        for piece in PIECE.finditer(text):
            yield piece[0].encode("utf-8", "replace").decode()


def tokenised(dataset: DataSet, vocabulary: Vocabulary, length: int) -> DataSet:
    """The same examples with the numbers of their words in place of their texts.

    Args:
        dataset: with the field "text", as `load_texts` gives it.
        vocabulary: learned from texts to train on.
        length: T at most, words that are kept of a text.

    Returns:
        The field "token", int32 [N, T], in front of the others, T no larger than the longest text asks for; `words`
        counts what it may be; `notice` tells of texts that are cut, of empty ones, and of the share of unknown words in
        both parts.

    Raises:
        InputError: no texts, or the library is missing.
    """
    parts, said = list[Split](), list[str]()
    for part, called in ((dataset.train, "training"), (dataset.test, "test")):
        if "text" not in part:
            what = f"its examples have {', '.join(part.names)}"
            raise InputError(what, where=dataset.name, todo="give texts, as load_texts does")
        found = vocabulary.tokens(part["text"], length)
        parts.append(Split(token=found.tokens, **part.without("text").fields))
        told = [f"{found.cut:,} of {len(part):,} are cut after {length:,} words"] if found.cut else []
        told += [f"{found.empty:,} of {len(part):,} have no word"] if found.empty else []
        told += [f"{100 * found.unknown:.1f} % of their words are unknown"]
        said.append(f"{called} texts: {', '.join(told)}")
    longest = max(int(np.count_nonzero(part["token"], axis=1).max(initial=1)) for part in parts)
    width = min(length, -(-longest // STEP) * STEP)
    parts = [part.having(token=part["token"][:, :width]) for part in parts]
    words = (vocabulary.known, len(vocabulary) - vocabulary.known)
    return dataclasses.replace(dataset, train=parts[0], test=parts[1], words=words).told("; ".join(said))
