"""Raw images, texts or signals on their way to a model, and what the model says of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import DataSet, Split, channel_statistics, image_batches, normalise
from jaxtl.errors import InputError
from jaxtl.models import as_forward
from jaxtl.problems.clips import Clips, are_clips, clips_of
from jaxtl.problems.signals import SIGNAL, Signals
from jaxtl.problems.texts import TOKEN, Texts
from jaxtl.program import Weights
from jaxtl.step import EVALUATE, Context
from jaxtl.transfer import Adaptation, repeat_channels, sum_channels

STATISTICS = "batch_stats"
PASSES = 100  # batches over which they are taken: running averages keep 0.9 of a batch's in the next


class Images(NamedTuple):
    """How raw images reach a model.

    Attributes:
        shape: [H, W, C].
        mean, std: [C] that they are normalised by.
        augment: whether they are shifted, and photographs mirrored.
    """

    shape: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    augment: bool = True

    @property
    def field(self) -> str:
        """Of a part of a data set, that has them."""
        return "image"

    @property
    def many(self) -> str:
        """What examples are called."""
        return "images"

    @classmethod
    def of(cls, task: DataSet) -> Images:
        """Those of a task's training part."""
        return cls(task.train.images.shape[1:], *channel_statistics(task.train.images))

    @classmethod
    def kept(cls, shape: tuple[int, ...]) -> Images:
        """Of outputs of a frozen part of a model, which come as they are."""
        return cls(tuple(shape), np.zeros(shape[-1], np.float32), np.ones(shape[-1], np.float32), augment=False)

    def batch(self, raw: jax.Array) -> dict[str, jax.Array]:
        """What a model is given of raw images [N, ...]."""
        return {self.field: normalise(raw, self.mean, self.std)}

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """What a model is given of one example."""
        return jax.ShapeDtypeStruct(self.shape, np.float32)

    def batches(self, batch_size: int) -> Callable:
        """The `prepare` of a step: shifted by up to an eighth of the shorter edge; photographs are mirrored."""
        if len(self.shape) < 3 or not self.augment:  # numbers or samples, not pixels
            return image_batches(batch_size, self.mean, self.std)
        crop, photographs = min(self.shape[:2]) // 8, self.shape[-1] == 3
        return image_batches(batch_size, self.mean, self.std, crop=crop, flip=photographs)

    def after(self, source: Images) -> Images:
        """As a trunk is given them that has learned from others: by their statistics, if the channels are the same."""
        return source._replace(shape=self.shape) if source.shape[-1] == self.shape[-1] else self

    def changed(self, source: Images) -> tuple[list[tuple[str, Adaptation]], list[str]]:
        """(how parameters are adapted that are carried here from a model of others, which are fresh here)."""
        theirs, ours = source.shape[-1], self.shape[-1]
        rule = sum_channels if theirs > ours else repeat_channels
        return ([("trunk/(conv_0|stem|dense_0)/kernel", rule)] if theirs != ours else []), []

    def seeing(self, task: DataSet, images: Images) -> tuple[DataSet, Images]:
        """Another task as a trunk for these is given it, and how its images then reach it."""
        if images.shape[-1] == self.shape[-1]:
            return task, images
        task = in_channels(task, self.shape[-1])
        return task, Images.of(task)


Inputs: TypeAlias = Images | Texts | Clips | Signals


def inputs_of(task: DataSet) -> Inputs:
    """How a task's examples reach a model."""
    if are_clips(task):
        return clips_of(task)
    return _without_pixels(task) or Images.of(task)


def unread(task: DataSet) -> Inputs:
    """The same, before any image is looked at."""
    if are_clips(task):
        return clips_of(task, read=False)
    return _without_pixels(task) or Images.kept(task.train.images.shape[1:])


def _without_pixels(task: DataSet) -> Texts | Signals | None:
    if TOKEN in task.train:
        return Texts.of(task)
    return Signals.of(task) if SIGNAL in task.train else None


@functools.partial(jax.jit, static_argnames=("model", "output"))
def _output_of(model: Any, weights: Weights, raw: jax.Array, images: Inputs, output: str) -> jax.Array:
    return as_forward(model)(weights.params, weights.model_state, images.batch(raw), EVALUATE)[0][output]


def outputs(model, weights: Weights, image: jax.Array, images: Inputs, output: str, block: int = 1000) -> np.ndarray:
    """Features or a head's logits of raw examples, in blocks of one size, so that one program serves all.

    Args:
        model: a `Classifier`.
        weights: its own.
        image: [N, H, W, C] as they are in the data set, or tokens [N, T], or windows [N, T, C].
        images: how they reach the model.
        output: "features" or the name of a head.
        block: images at a time.

    Returns:
        [N, ...] float32.
    """
    blocks = [image[i : i + block] for i in range(0, len(image), block)]
    short = len(blocks[0]) - len(blocks[-1])
    blocks[-1] = jnp.concatenate([blocks[-1], blocks[0][:short]])
    parts = [_output_of(model, weights, part, images, output) for part in blocks]
    return np.concatenate(parts)[: len(image)]


def with_statistics_of(problem: Any, weights: Weights, data: Any, rng: jax.Array) -> Weights:
    """Weights with the statistics of batch normalisation of some data; without such, as they are.

    Args:
        problem: has `model`, `images`, and `batch_size` in its config.
        weights: of the whole model.
        data: what its `prepare` reads.
        rng: a key.
    """
    if STATISTICS not in weights.model_state:
        return weights
    return weights._replace(model_state=_passed(problem)(weights, data, rng))


@functools.lru_cache(maxsize=8)
def _passed(problem: Any) -> Callable:
    """(weights, data, key) -> the model state after some batches, compiled once for a problem."""
    forward, prepare = as_forward(problem.model), problem.images.batches(problem.config.batch_size)

    @jax.jit
    def passed(weights, data, rng):
        def one(state, step):
            key = jax.random.fold_in(rng, step)
            return forward(weights.params, state, prepare(data, key, step), Context(step, key, {}, {}))[1], None

        return jax.lax.scan(one, weights.model_state, jnp.arange(PASSES))[0]

    return passed


def predict(model, weights: Weights, image: jax.Array, images: Inputs, head: str = "head") -> np.ndarray:
    """The class of every raw image, [N], uint8 where it holds them; arguments as for `outputs`."""
    return classes_of(outputs(model, weights, image, images, head))


def classes_of(logits: np.ndarray) -> np.ndarray:
    """The class with the largest logit [N] of [N, C], uint8 where it holds them."""
    return np.argmax(logits, axis=-1).astype(np.min_scalar_type(logits.shape[-1] - 1))


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The part of [N] predictions that are right, a fraction."""
    return float(np.mean(predicted == labels))


def in_channels(task: DataSet, channels: int) -> DataSet:
    """Images as a trunk for so many channels sees them: grey ones repeated, of colours the mean."""

    def adapted(part: Split) -> Split:
        images = np.asarray(part.images)
        if channels > 1:
            return Split(np.repeat(images, channels, axis=-1), part.labels)
        return Split(images.mean(axis=-1, keepdims=True).astype(images.dtype), part.labels)

    return dataclasses.replace(task, train=adapted(task.train), test=adapted(task.test))


def averaged_down(task: DataSet, edge: int, where: str = "averaged_down edge") -> DataSet:
    """Images of which each pixel is the mean of a square block, so that the longer edge is at most `edge`.

    Args:
        task: images [N, H, W, C]; what is left over at the lower and the right edge is cut off.
        edge: in pixels.
        where: what to name in an error.

    Returns:
        The task with images of the same dtype.

    Raises:
        InputError: examples that are no images, or so narrow that nothing is left.

    Example:
        >>> from jaxtl.data import load
        >>> averaged_down(load("digits"), 4).train.images.shape[1:]
        (4, 4, 1)
    """
    shape = task.train.images.shape[1:]
    factor = -(-max(shape[:2]) // edge)
    height, width = (size // factor for size in shape[:2]) if len(shape) == 3 else (0, 0)
    if not (height and width):
        what = f"examples of {'x'.join(map(str, shape))} cannot be averaged down to images of edge {edge}"
        raise InputError(what, where=where, todo="give a larger one, or images that are not so narrow")

    def small(part: Split) -> Split:
        kept = part.images[:, : height * factor, : width * factor]
        blocks = kept.reshape(len(kept), height, factor, width, factor, -1)
        return part.having(image=blocks.mean(axis=(2, 4)).astype(part.images.dtype))

    return dataclasses.replace(task, train=small(task.train), test=small(task.test))


def in_own_units(task: DataSet) -> DataSet:
    """Images in units of their own: (x − mean) / std of each channel over the training part, float32.

    What a trunk has learned of images in such units it can be given of others, whatever both are measured in.

    Example:
        >>> from jaxtl.data import load
        >>> images = in_own_units(load("digits")).train.images
        >>> abs(float(images.mean())) < 1e-5, round(float(images.std()), 3)
        (True, 1.0)
    """
    mean, std = channel_statistics(task.train.images)

    def own(part: Split) -> Split:
        return part.having(image=((np.asarray(part.images) - mean) / std).astype(np.float32))

    return dataclasses.replace(task, train=own(task.train), test=own(task.test))
