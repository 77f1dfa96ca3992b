"""Clips on their way to a model, in the order of their frames or without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtl.data import DataSet, batches, channel_statistics, normalise
from jaxtl.data.moving_images import CLIP, FRAMES
from jaxtl.data.transforms import normalised
from jaxtl.models.clips import TIME
from jaxtl.transfer import Adaptation


class Clips(NamedTuple):
    """How clips reach a model: in the order of their frames, as they are, but for the statistics of these.

    Attributes:
        shape: [T, H, W, C].
        mean, std: [C] that they are normalised by.
    """

    shape: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray

    @property
    def field(self) -> str:
        """Of a part of a data set, that has them."""
        return CLIP

    @property
    def many(self) -> str:
        """What examples are called."""
        return "clips"

    @property
    def ordered(self) -> bool:
        """Whether the order of frames is seen."""
        return self.field == CLIP

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """What a model is given of one example."""
        return jax.ShapeDtypeStruct(self.shape, np.float32)

    def batch(self, raw: jax.Array) -> dict[str, jax.Array]:
        """What a model is given of raw clips [N, T, H, W, C]."""
        return {self.field: normalise(raw, self.mean, self.std)}

    def batches(self, batch_size: int) -> Callable:
        """The `prepare` of a step; a clip is not shifted: its frames are in many places."""
        return batches(batch_size, normalised(self.mean, self.std, self.field))

    def after(self, source: Any) -> Clips:
        """As a trunk is given them that has learned from images: by their statistics."""
        return self._replace(mean=source.mean, std=source.std)

    def changed(self, source: Any) -> tuple[list[tuple[str, Adaptation]], list[str]]:
        """(how parameters are adapted that are carried here from a model of images, which are fresh here)."""
        return [], [f"trunk/{TIME}/.*"] if self.ordered else []

    def seeing(self, task: DataSet, images: Any) -> tuple[DataSet, Any]:
        """The images of a source as its trunk is given them, also when clips have moved it."""
        return task, images


class Frames(Clips):
    """The same where the order of frames is no matter; a type of its own, since a compiled step reads no words."""

    @property
    def field(self) -> str:
        """Of a part of a data set, that has them."""
        return FRAMES


def are_clips(task: DataSet) -> bool:
    """Whether a task's examples are clips."""
    return CLIP in task.train or FRAMES in task.train


def clips_of(task: DataSet, *, read: bool = True) -> Clips:
    """How the clips of a task reach a model, with the statistics of its training part; not read, without them."""
    kind = Clips if CLIP in task.train else Frames
    clips = task.train[CLIP if CLIP in task.train else FRAMES]
    channels = clips.shape[-1]
    bare = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    return kind(clips.shape[1:], *(channel_statistics(clips) if read else bare))
