"""What an example is, a picture, a text or a window: how labelled ones are read, by which trunk, what is told of it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl import files
from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.labelled import Labelled, labelled
from jaxtl.data.labelled_signals import holds_recordings, labelled_signals
from jaxtl.data.resized import Resize
from jaxtl.data.texts import holds_texts, labelled_texts
from jaxtl.errors import InputError
from jaxtl.finetune.checks import check_apart, check_methods
from jaxtl.finetune.inputs import Pixels, Preparation, Tokens
from jaxtl.finetune.options import Options
from jaxtl.finetune.records import Samples
from jaxtl.finetune.tfidf import TFIDF
from jaxtl.finetune.trunks import AUTO, TEXTS_BY, WORDS_ALONE, trunk_of, trunk_of_signals, words_alone
from jaxtl.models.pretrained import Pretrained
from jaxtl.report import Plot, Section
from jaxtl.report.plots import answers

SHORTEST_WINDOW = 16
WINDOW, SHORTEST = 1024, 64  # samples of a window, where nothing is said, and at least
ALONE = "words alone are weighed"
LETTERS = 300  # of a text on a page

Say = Callable[..., None]
Words = Sequence[tuple[str, str]]  # (what it is, what was said)


class Begun(NamedTuple):
    """What a fine-tuning begins with.

    Attributes:
        trunk: the pretrained network.
        notice: where another one takes the place of the best; "" otherwise.
        data: all that is labelled.
        inputs: [N, ...] what the network is given of it.
        prepared_by: how that is made of an example.
    """

    trunk: Pretrained
    notice: str
    data: Labelled
    inputs: Any
    prepared_by: Preparation


class Modality:
    """What an example is; one object for each, `PICTURES`, `TEXTS` and `SIGNALS`.

    Attributes:
        one, many: what an example is called, and several.
    """

    one: str
    many: str

    def begin(self, options: Options, data: Any, workdir: Path, display: Any, say: Say) -> Begun:
        """Read, check and prepare; nothing is trained.

        Raises:
            InputError: data that cannot be learned from, a trunk or a setting that means nothing for them.
        """
        raise NotImplementedError

    def content(self, data: Labelled) -> list[Any]:
        """Arrays that stand for all that is learned from."""
        raise NotImplementedError

    def examples(self, part: Split) -> Any:
        """What a model is asked about, of a part."""
        raise NotImplementedError

    def wrong(self, heading: str, part: Split, rows: np.ndarray, called: Sequence[str], words: Words) -> Section:
        """Some examples of which something else was said, with what they are and what was said of each."""
        raise NotImplementedError


class Pictures(Modality):
    """Files of any size, brought to one."""

    one, many = "picture", "pictures"

    def begin(self, options: Options, data: Any, workdir: Path, display: Any, say: Say) -> Begun:
        trunk, notice = trunk_of(options.trunk, display)
        if not trunk.mean:
            todo = "leave --trunk out, or give one of pictures"
            raise InputError("takes texts, and these are pictures", where=f"--trunk={options.trunk}", todo=todo)
        if notice:
            say(f"NOTE: {notice}", style="bold yellow")
        size = options.size or trunk.size
        check_methods(options.methods, trunk)
        check_apart(data, workdir)
        resize = Resize(size, options.skip_bad, files.default_directory(), display)
        found = labelled(data, resize, task=options.task)
        mean, std = np.asarray(trunk.mean, np.float32), np.asarray(trunk.std, np.float32)
        return Begun(trunk, notice, found, found.train.images, Pixels(size, mean, std, found.white))

    def content(self, data: Labelled) -> list[Any]:
        return list(data.train.fields.values())

    def examples(self, part: Split) -> Any:
        return part.images

    def wrong(self, heading: str, part: Split, rows: np.ndarray, called: Sequence[str], words: Words) -> Section:
        draw = functools.partial(answers.surely_wrong, np.asarray(part.images[rows]), words)
        plot = Plot("wrong", heading.partition(",")[0], draw)
        return Section(heading, (), _lines(called, words), [plot])


class Texts(Modality):
    """Strings of any length."""

    one, many = "text", "texts"

    def begin(self, options: Options, data: Any, workdir: Path, display: Any, say: Say) -> Begun:
        check_apart(data, workdir)
        found = labelled_texts(data, options.skip_bad, options.task)
        trunk, notice = _encoder(options.trunk, display)
        if trunk.mean:
            todo = f"leave --trunk out, or give {TEXTS_BY}, {WORDS_ALONE} or one of texts"
            raise InputError("takes pictures, and these are texts", where=f"--trunk={options.trunk}", todo=todo)
        if notice:
            say(f"NOTE: {notice}", style="bold yellow")
        check_methods(options.methods, trunk)
        if trunk.name == WORDS_ALONE:
            if found.task != "classes":
                todo = 'connect once, or pip install "jaxtl[text]"'
                raise InputError("words alone learn classes only", where=f"--trunk={options.trunk}", todo=todo)
            nothing = np.zeros((len(found.train), 1), np.float32)
            return Begun(trunk, notice, found, nothing, Tokens(b"", 1, 1))
        return self._of_tokens(options, found, trunk, notice)

    def _of_tokens(self, options: Options, found: Labelled, trunk: Pretrained, notice: str) -> Begun:
        model: Any = trunk.model
        window = options.size or trunk.size
        if not SHORTEST_WINDOW <= window <= model.places:
            what = f"{window} tokens, and {trunk.name} sees {SHORTEST_WINDOW} to {model.places} at a time"
            raise InputError(what, where=f"--size={options.size}", todo="leave it out")
        if trunk.tokenizer is None:
            todo = "put the tokenizer.json that came with the weights beside them"
            raise InputError("nothing says how a text becomes tokens", where=f"--trunk={options.trunk}", todo=todo)
        trunk = trunk._replace(model=model.clone(window=window), size=window)
        maker = Tokens(trunk.tokenizer or b"", window, 1).tokenizer
        if maker.words > model.words:
            todo = "use the tokenizer.json that came with the weights"
            raise InputError(f"has {maker.words} words, the trunk {model.words}", where="tokenizer.json", todo=todo)
        rows = maker.rows(found.train["text"])
        longest = maker.windows * (window - 2)
        notices = (
            [f"{rows.windows:,} texts are longer than {window - 2} tokens: windows of them"] if rows.windows else []
        )
        notices += (
            [f"{rows.cut:,} texts are longer than {longest:,} tokens: their ends are left out"] if rows.cut else []
        )
        found = found._replace(notices=[*found.notices, *notices])
        return Begun(trunk, notice, found, rows.tokens, Tokens(trunk.tokenizer or b"", window, rows.tokens.shape[1]))

    def content(self, data: Labelled) -> list[Any]:
        joined = "\0".join(f"{len(text)} {text}" for text in data.train["text"]).encode("utf-8", "surrogatepass")
        fields = data.train.without("text").fields.values()
        return [np.frombuffer(joined, np.uint8), *fields]

    def examples(self, part: Split) -> Any:
        return part["text"]

    def wrong(self, heading: str, part: Split, rows: np.ndarray, called: Sequence[str], words: Words) -> Section:
        shown = [shortened(text) for text in part["text"][rows]]
        lines = [f"{line}: “{text}”" for line, text in zip(_lines(called, words), shown, strict=True)]
        return Section(heading, (), lines)


def _encoder(name: str, display: Any) -> tuple[Pretrained, str]:
    """A trunk of texts, and a notice where there is none."""
    if name == WORDS_ALONE:
        return words_alone(), ""
    if name == AUTO and not _has_tokenizers():
        told = f'no library tokenizers (pip install "jaxtl[text]"), so no pretrained trunk: {ALONE}'
        return words_alone(), told
    return trunk_of(name, display, TEXTS_BY, words_alone, ALONE)


def _has_tokenizers() -> bool:
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        return False
    return True


def shortened(text: str, most: int = LETTERS) -> str:
    """A text on one line: its beginning and its end.

    Example:
        >>> shortened("a  long\\ntext with an end", 13)
        'a long t… end'
    """
    words = " ".join(text[: 4 * most].split())
    if len(words) <= most and len(text) <= 4 * most:
        return words
    end = " ".join(text[-most:].split())
    tail = most // 3
    return f"{words[: most - tail - 1]}…{end[-tail:]}"


def _lines(called: Sequence[str], words: Words) -> list[str]:
    return [f"{name}: {own}, {said}" for name, (own, said) in zip(called, words, strict=True)]


class Signals(Modality):
    """Recordings of any length, in windows."""

    one, many = "window", "windows"

    def begin(self, options: Options, data: Any, workdir: Path, display: Any, say: Say) -> Begun:
        check_apart(data, workdir)
        if options.task not in ("auto", "classes"):
            what = f"--task={options.task} needs a table, and recordings are in a folder for each class"
            raise InputError(what, where="--task", todo="leave it out")
        if TFIDF in options.methods:
            raise InputError(f"{TFIDF} weighs words, and these are recordings", where="--methods", todo="leave it out")
        length = options.size or WINDOW
        if length < SHORTEST or length % 2:
            todo = f"use an even number from {SHORTEST} on"
            raise InputError(f"windows of {length} samples", where=f"--size={options.size}", todo=todo)
        found = labelled_signals(data, length, options.skip_bad)
        windows = found.train["signal"]
        trunk = trunk_of_signals(options.trunk, windows.shape[1:])
        check_methods(options.methods, trunk)
        return Begun(trunk, "", found, windows, Samples(*windows.shape[1:]))

    def content(self, data: Labelled) -> list[Any]:
        return list(data.train.fields.values())

    def examples(self, part: Split) -> Any:
        return part["signal"]

    def wrong(self, heading: str, part: Split, rows: np.ndarray, called: Sequence[str], words: Words) -> Section:
        return Section(heading, (), _lines(called, words))


PICTURES, TEXTS, SIGNALS = Pictures(), Texts(), Signals()


def modality_of(data: str | os.PathLike[str] | DataSet) -> Modality:
    """What the examples of a folder, a table or a data set are.

    Raises:
        InputError: a table with a column for files and another for texts.
    """
    if isinstance(data, DataSet):
        return PICTURES
    place = files.expanded(data)
    if holds_texts(place):
        return TEXTS
    return SIGNALS if holds_recordings(place) else PICTURES
