"""What a network is given of an example, and how it is made: pixels of a picture, tokens of a text, or weighted words.

One object for each, which a model keeps; all else of a fine-tuning knows arrays only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxtl.data.decode import white_levels
from jaxtl.data.labelled import unlabelled
from jaxtl.data.one_size import header_of, top_of
from jaxtl.data.resized import read_picture, resized
from jaxtl.data.texts import unlabelled_texts
from jaxtl.errors import InputError
from jaxtl.finetune.tfidf import Vocabulary
from jaxtl.models.tokens import Tokenizer
from jaxtl.problems.folder import BLOCK

TOKENIZER = "tokenizer.json"  # beside a model
TOKENS = 8192  # of a block: an attention of all windows in it takes a tenth of a gigabyte
CHUNK = 1024  # texts
MANY = 2**26  # bytes of a tokenizer

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


class Preparation:
    """How an example becomes what a network is given.

    Attributes:
        one, many: what an example is called, and several.
        chunk: of how many the arrays are in memory at a time.
        mean, std: by which the network's input is normalised, by channel.
        dtype: of what an exported model is given.
    """

    one: ClassVar[str]
    many: ClassVar[str]
    chunk: ClassVar[int]
    dtype: ClassVar[Any]
    mean: Any
    std: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the network is given of one example."""
        raise NotImplementedError

    def module(self, trunk: Any) -> Any:
        """The trunk for what is given to it."""
        return trunk

    def sources(self, where: str) -> tuple[list[str], list[Any]]:
        """(what each is called, what `read` takes) of what is to be predicted."""
        raise NotImplementedError

    def read(self, source: Any) -> Any:
        """An example, or an `InputError` that says why there is none."""
        return source

    def prepared(self, examples: Any) -> Any:
        """Examples as an array [N, ...]."""
        raise NotImplementedError

    def blocks(self, array: Any) -> Blocks:
        """(rows, what is prepared of them, filled up to one of a few shapes)."""
        for start in range(0, array.shape[0], BLOCK):
            filled = np.minimum(np.arange(start, start + BLOCK), array.shape[0] - 1)
            yield filled[: array.shape[0] - start], self.dense(array[filled])

    def dense(self, block: Any) -> np.ndarray:
        """A block as the network takes it."""
        return np.asarray(block)

    def noise(self, count: int) -> np.ndarray:
        """Something to hold an exported model against.

        Raises:
            InputError: there is no network to be exported.
        """
        raise NotImplementedError

    def in_words(self) -> str:
        """How an example is prepared, for the card."""
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        """As JSON has it, see `records.recorded`."""
        raise NotImplementedError

    def beside(self) -> dict[str, bytes]:
        """Files that belong to the model."""
        return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels(Preparation):
    """Squares of one size.

    Attributes:
        size: edge, in pixels.
        mean, std: [3] of pixels 0 to 255, by which they are normalised.
        white: of pictures of more than 8 bits, see `decode.white_levels`.
    """

    one: ClassVar[str] = "picture"
    many: ClassVar[str] = "pictures"
    chunk: ClassVar[int] = BLOCK
    dtype: ClassVar[Any] = np.float32

    size: int
    mean: np.ndarray
    std: np.ndarray
    white: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size, self.size, 3

    def sources(self, where: str) -> tuple[list[str], list[Any]]:
        directory, found = unlabelled(where)
        return [str(file.relative_to(directory)) for file in found], list(found)

    def read(self, source: str | Path) -> np.ndarray | InputError:
        file = Path(source)
        try:
            white = self.white
            if header_of(file).deep:  # a depth that training has not seen is white by itself
                white = white_levels([top_of(file)]) | white
            return read_picture(file, self.size, white)
        except InputError as error:
            return error

    def prepared(self, examples: Any) -> np.ndarray:
        """Pictures may have any size, and also be `Stored`."""
        return np.stack([resized(image, self.size) for image in np.asarray(examples)])

    def noise(self, count: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (count, *self.shape)).astype(np.float32)

    def in_words(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return (
            f"Pictures: upright, transparency on white, shorter edge to {self.size} pixels, the middle cut out, RGB 0 "
            f"to 255, then (x − mean) / std with mean {mean} and std {std}"
        )

    def record(self) -> dict[str, Any]:
        mean, std = (np.asarray(values, float).tolist() for values in (self.mean, self.std))
        return {"size": self.size, "mean": mean, "std": std, "white": self.white}


class OfTexts(Preparation):
    """What is common to both ways from a text."""

    one, many, chunk, dtype = "text", "texts", CHUNK, np.int32
    mean, std = np.zeros(1, np.float32), np.ones(1, np.float32)  # as they are

    def sources(self, where: str) -> tuple[list[str], list[Any]]:
        called, texts = unlabelled_texts(where)
        return called, list(texts)


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens(OfTexts):
    """Rows of tokens, of one window or of several.

    Attributes:
        description: how a text becomes tokens, see `tokens.Tokenizer`.
        window: tokens that see each other.
        length: of the longest row that was learned from.
    """

    description: bytes
    window: int
    length: int

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """What makes tokens of a text."""
        return Tokenizer(self.description, self.window)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    def module(self, trunk: Any) -> Any:
        return trunk.clone(window=self.window)

    def prepared(self, examples: Sequence[str]) -> np.ndarray:
        return self.tokenizer.rows(examples).tokens

    def blocks(self, array: np.ndarray) -> Blocks:
        """Texts of about one length together, so that short ones are fast; what fills them up changes nothing."""
        array = np.asarray(array)
        needed = np.where(array > 0, np.arange(1, array.shape[1] + 1), 0).max(axis=1, initial=1)
        windows = np.array([_power(-(-int(n) // self.window)) for n in needed])
        short = np.array([min(max(_power(int(n)), 16), self.window) for n in needed])
        lengths = np.minimum(np.where(windows > 1, windows * self.window, short), array.shape[1])
        for length in np.unique(lengths):
            rows, size = np.flatnonzero(lengths == length), max(1, min(BLOCK, TOKENS // int(length)))
            for start in range(0, len(rows), size):
                filled = rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]
                yield filled[: len(rows) - start], array[filled, :length]

    def noise(self, count: int) -> np.ndarray:
        tokens = np.random.default_rng(0).integers(1, self.tokenizer.words, (count, self.length)).astype(np.int32)
        tokens[0, min(self.window, self.length) // 2 :] = 0
        return tokens

    def in_words(self) -> str:
        return (
            f"Texts: tokens by {TOKENIZER}, int32 [batch, {self.length}], 0 where there is none, in windows of up to "
            f"{self.window} with one token before and one behind; the mean is over the tokens of all windows"
        )

    def record(self) -> dict[str, Any]:
        return {"window": self.window, "length": self.length}

    def beside(self) -> dict[str, bytes]:
        return {TOKENIZER: self.description}


@dataclasses.dataclass(frozen=True, eq=False)
class Words(OfTexts):
    """Weighted words of a text, without a network.

    Attributes:
        vocabulary: of what was learned from.
    """

    vocabulary: Vocabulary

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.vocabulary.terms),)

    def prepared(self, examples: Sequence[str]) -> Any:
        return self.vocabulary.vectors(examples)

    def dense(self, block: Any) -> np.ndarray:
        return block.toarray()

    def noise(self, count: int) -> np.ndarray:
        todo = "use .safetensors, which has the words beside the weights"
        raise InputError("is a table of words, and no network", where="the model", todo=todo)

    def in_words(self) -> str:
        return (
            f"Texts: {len(self.vocabulary.terms):,} words and pairs of words, (1 + ln count) · weight, of length 1; "
            "terms and weights are in the model's JSON"
        )

    def record(self) -> dict[str, Any]:
        return {"terms": list(self.vocabulary.terms), "weights": self.vocabulary.weights.tolist()}


def _power(number: int) -> int:
    """Of two, from it on."""
    return 1 << (number - 1).bit_length()
