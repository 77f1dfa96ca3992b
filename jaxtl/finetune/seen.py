"""What frozen networks make of images and of texts, for experiments that train something small on top."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxtl.data import DataSet
from jaxtl.finetune import tfidf
from jaxtl.finetune.inputs import Pixels, Tokens
from jaxtl.finetune.work import kept_outputs
from jaxtl.loop import StoppableProgress
from jaxtl.models.pretrained import load_trunk

Images = Literal["efficientnet_lite0", "pixels"]  # pixels: as they are
Texts = Literal["minilm_l6", "words"]  # words: weighted by how rare they are
MOST_WORDS = 1000  # terms: those that most of the texts have


def seen_images(by: Images, task: DataSet, size: int, room: Path) -> DataSet:
    """A task with features [N, D] in place of its images.

    Args:
        by: whose features.
        task: images of 8 bits.
        size: edge to which they are brought for a network, in pixels.
        room: a directory that keeps what a network makes of them.

    Raises:
        InputError: weights that cannot be had.
    """

    def pixels(name: str, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32)

    def features(name: str, images: np.ndarray) -> np.ndarray:
        trunk = load_trunk(by, progress=StoppableProgress)
        how = Pixels(size, np.array(trunk.mean, np.float32), np.array(trunk.std, np.float32))
        return kept_outputs(room / name, trunk, how.prepared(images), None, how, StoppableProgress)[0]

    made: Callable[[str, np.ndarray], np.ndarray] = pixels if by == "pixels" else features
    train, test = (
        part.having(image=made(name, np.asarray(part.images)))
        for name, part in (("train", task.train), ("test", task.test))
    )
    return dataclasses.replace(task, train=train, test=test)


def seen_texts(by: Texts, texts: Sequence[str], room: Path) -> np.ndarray:
    """float32 [N, E], a row of length 1 for every text; of a long one its first window counts.

    Args:
        by: whose features; words are those of these very texts.
        texts: any.
        room: a directory that keeps what a network makes of them.

    Raises:
        InputError: weights that cannot be had.

    Example:
        >>> seen_texts("words", ["good film", "bad film"], Path()).shape
        (2, 5)
    """
    if by == "words":
        vocabulary = tfidf.Vocabulary.of(texts)
        usual = np.sort(np.argsort(vocabulary.weights, kind="stable")[:MOST_WORDS])
        chosen = tfidf.Vocabulary(tuple(vocabulary.terms[k] for k in usual), vocabulary.weights[usual])
        return chosen.vectors(texts).toarray()
    trunk = load_trunk(by, progress=StoppableProgress)
    assert trunk.tokenizer is not None  # it is one of texts
    how: Any = Tokens(trunk.tokenizer, trunk.size, trunk.size)
    tokens = how.prepared(texts)[:, : trunk.size]
    how = dataclasses.replace(how, length=tokens.shape[1])
    return kept_outputs(room, trunk, tokens, None, how, StoppableProgress)[0]
