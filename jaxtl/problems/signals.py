"""Windows of signals on their way to a model, as they are: each has been standardised by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxtl.data import DataSet, batches
from jaxtl.transfer import Adaptation

SIGNAL = "signal"  # the field of signals


class Signals(NamedTuple):
    """How signals reach a model.

    Attributes:
        shape: [T, C], samples and channels.
    """

    shape: tuple[int, ...]

    @property
    def field(self) -> str:
        """Of a part of a data set, that has them."""
        return SIGNAL

    @property
    def many(self) -> str:
        """What examples are called."""
        return "windows"

    @classmethod
    def of(cls, task: DataSet) -> Signals:
        """Those of a task."""
        return cls(task.train[SIGNAL].shape[1:])

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """What a model is given of one example."""
        return jax.ShapeDtypeStruct(self.shape, np.float32)

    def batch(self, raw: jax.Array) -> dict[str, jax.Array]:
        """What a model is given of windows [N, T, C]."""
        return {self.field: raw}

    def batches(self, batch_size: int) -> Callable:
        """The `prepare` of a step."""
        return batches(batch_size)

    def after(self, source: Signals) -> Signals:
        """As a trunk is given them that has learned from others."""
        return self

    def changed(self, source: Signals) -> tuple[list[tuple[str, Adaptation]], list[str]]:
        """(how parameters are adapted that are carried here from a model of others, which are fresh here)."""
        return [], []

    def seeing(self, task: DataSet, signals: Signals) -> tuple[DataSet, Signals]:
        """Another task as a trunk for these is given it, and how its windows then reach it."""
        return task, signals
