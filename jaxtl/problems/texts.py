"""Tokens of texts on their way to a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxtl.data import DataSet, batches
from jaxtl.transfer import Adaptation

TOKEN = "token"  # the field of texts
NEW_WORDS = "trunk/embedding/new"  # of words that only the target has


class Texts(NamedTuple):
    """How texts reach a model: as rows of so many tokens, of which there are so many kinds.

    Attributes:
        length: T, of a row.
        words: numbers that a source's tokens may be.
        new: further ones, of words that only the target has.
    """

    length: int
    words: int
    new: int

    @property
    def field(self) -> str:
        """Of a part of a data set, that has them."""
        return TOKEN

    @property
    def many(self) -> str:
        """What examples are called."""
        return "texts"

    @classmethod
    def of(cls, task: DataSet) -> Texts:
        """Those of a task whose words are counted."""
        return cls(task.train[TOKEN].shape[1], *task.words)

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """What a model is given of one example."""
        return jax.ShapeDtypeStruct((self.length,), np.int32)

    def batch(self, raw: jax.Array) -> dict[str, jax.Array]:
        """What a model is given of tokens [N, T]."""
        return {self.field: raw}

    def batches(self, batch_size: int) -> Callable:
        """The `prepare` of a step."""
        return batches(batch_size)

    def after(self, source: Texts) -> Texts:
        """As a trunk is given them that has learned from others: new words come after those it knows."""
        return self

    def changed(self, source: Texts) -> tuple[list[tuple[str, Adaptation]], list[str]]:
        """(how parameters are adapted that are carried here from a model of others, which are fresh here)."""
        return [], [NEW_WORDS] if self.new else []

    def seeing(self, task: DataSet, texts: Texts) -> tuple[DataSet, Texts]:
        """Another task as a trunk for these is given it, and how its texts then reach it."""
        return task, self._replace(length=texts.length)
