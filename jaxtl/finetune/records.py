"""What a network is given of a window of a signal; and every preparation once more, from what its model has written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxtl import files
from jaxtl.data.labelled_signals import in_file, unlabelled_windows
from jaxtl.data.signal_files import CHANNELS
from jaxtl.errors import InputError
from jaxtl.finetune.inputs import MANY, TOKENIZER, Pixels, Preparation, Tokens, Words
from jaxtl.finetune.tfidf import Vocabulary

CHUNK = 1024  # windows
LONGEST = 2**20  # samples of a window


@dataclasses.dataclass(frozen=True, eq=False)
class Samples(Preparation):
    """Windows of signals, each standardised by itself.

    Attributes:
        length: samples of a window.
        channels: of a signal.
    """

    one: ClassVar[str] = "window"
    many: ClassVar[str] = "windows"
    chunk: ClassVar[int] = CHUNK
    dtype: ClassVar[Any] = np.float32

    length: int
    channels: int

    @property
    def mean(self) -> np.ndarray:
        """None is taken off."""
        return np.zeros(self.channels, np.float32)

    @property
    def std(self) -> np.ndarray:
        """They have it already."""
        return np.ones(self.channels, np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.length, self.channels

    def sources(self, where: str) -> tuple[list[str], list[Any]]:
        called, found = unlabelled_windows(where, self.length)
        return called, list(found)

    def read(self, source: tuple[Path, int]) -> np.ndarray | InputError:
        file, number = source
        try:
            found = in_file(file, self.length)[0]
        except InputError as error:
            return error
        if found.shape[2] != self.channels:
            what = f"has {found.shape[2]} channels, and the model {self.channels}"
            return InputError(what, where=file, todo="give recordings like those that were learned from")
        return found[number]

    def prepared(self, examples: Any) -> np.ndarray:
        return np.asarray(examples, np.float32).reshape(-1, *self.shape)

    def noise(self, count: int) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(count, *self.shape)).astype(np.float32)

    def in_words(self) -> str:
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return (
            f"Signals: windows of {self.length} samples and {channels}, each less its mean and divided by its deviation"
        )

    def record(self) -> dict[str, Any]:
        return {"samples": self.length, "channels": self.channels}


def recorded(said: dict[str, Any], directory: Path) -> Preparation:
    """What `record` has written.

    Raises:
        ValueError, TypeError, KeyError: it has not.
        InputError: a file that belongs to it is missing.
    """
    if "terms" in said:
        words = Vocabulary(tuple(map(str, said["terms"])), np.array(said["weights"], np.float32))
        if words.weights.shape != (len(words.terms),):
            raise ValueError("weights")
        return Words(words)
    if "samples" in said:
        samples, channels = int(said["samples"]), int(said["channels"])
        if not (0 < samples <= LONGEST and 0 < channels <= CHANNELS):
            raise ValueError("numbers")
        return Samples(samples, channels)
    if "window" in said:
        window, length = int(said["window"]), int(said["length"])
        if not (window >= 4 and length > 0 and (length <= window or length % window == 0)):
            raise ValueError("numbers")
        return Tokens(files.content(directory / TOKENIZER, MANY), window, length)
    mean, std = (np.array(said[name], np.float32).reshape(3) for name in ("mean", "std"))
    white = {str(name): float(level) for name, level in said["white"].items()}
    if not (0 < int(said["size"]) <= 1024 and (std > 0).all()):
        raise ValueError("numbers")
    return Pixels(int(said["size"]), mean, std, white)
