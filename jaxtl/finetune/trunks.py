"""The trunk of a fine-tuning: a pretrained one where it can be had, else a small network, which is said loudly."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import normalise
from jaxtl.errors import InputError
from jaxtl.models import Classifier, Cnn, as_forward, cut, initialise
from jaxtl.problems.images import Images
from jaxtl.program import Weights
from jaxtl.step import EVALUATE
from jaxtl.trees import Tree
from jaxtl.writers import Progress

AUTO, BEST, SMALL = "auto", "efficientnet_lite0", "small_cnn"
BLOCK = 64  # pictures at a time


class Trunk(NamedTuple):
    """A network without a head.

    Attributes:
        name: short.
        model: the module, (images, train) -> (features, taps).
        params, model_state: its own.
        size: the edge of its pictures in pixels, unless another is asked for.
        mean, std: [3] of what it is given: (pixel − mean) / std of pixels 0 to 255.
        licence, origin: in words.
        features: how many it gives.
        stages: what it can be cut between.
    """

    name: str
    model: Any
    params: Tree
    model_state: Tree
    size: int
    mean: np.ndarray
    std: np.ndarray
    licence: str
    origin: str
    features: int
    stages: tuple[str, ...]


def untrained() -> Trunk:
    """A small CNN with random weights: three blocks, at 48 pixels."""
    model = small_module()
    params = initialise(Classifier(model, ()), jax.random.key(0), (48, 48, 3))["trunk"]
    level = np.full(3, 127.5, np.float32)
    origin = "random weights: nothing was learned before"
    return Trunk(SMALL, model, params, {}, 48, level, level / 2, "Apache-2.0", origin, 64, ("all",))


def small_module() -> Cnn:
    """Of `untrained`."""
    return Cnn((16, 32, 64))


def trunk_of(name: str) -> tuple[Trunk, str]:
    """The trunk that is asked for, and a notice where another one takes its place.

    Args:
        name: "auto", "small_cnn", or what `models.pretrained.load_trunk` takes.

    Raises:
        InputError: a trunk that was asked for by name and cannot be had.
    """
    if name == SMALL:
        return untrained(), ""
    try:
        return _pretrained(BEST if name == AUTO else name), ""
    except InputError as error:
        if name != AUTO:
            raise
        return untrained(), f"no pretrained trunk is at hand ({error.what}): a small network learns from nothing"


def _pretrained(name: str) -> Trunk:
    try:
        from jaxtl.models.pretrained import load_trunk
    except ImportError:
        raise InputError("no pretrained trunks in this version", where=f"--trunk={name}", todo=f"use {SMALL}") from None
    found = load_trunk(name, progress=Progress)
    return Trunk(*(getattr(found, field) for field in Trunk._fields))


def module_of(name: str) -> Any:
    """The module of a trunk by its name, for weights that are at hand."""
    return small_module() if name == SMALL else _pretrained(name).model


def normalisation(trunk: Trunk, size: int) -> Images:
    """How raw pictures reach a trunk."""
    return Images((size, size, 3), np.asarray(trunk.mean, np.float32), np.asarray(trunk.std, np.float32))


class Passed(NamedTuple):
    """What a frozen network made of pictures, and how fast."""

    array: np.ndarray
    seconds: float


def passed(trunk: Trunk, images: Any, depth: int | None, size: int) -> Passed:
    """What a frozen trunk makes of every picture: its features, or what it hands on after some of its stages.

    Args:
        trunk: all of it.
        images: uint8 [N, H, W, 3], also `Stored`.
        depth: stages; None: all of them.
        size: of the pictures.
    """
    part: Any = Classifier(trunk.model, ())
    if depth is not None:
        part = cut(part, depth)[0]
    weights, how = Weights(trunk.params, trunk.model_state), normalisation(trunk, size)
    blocks, began = [], 0.0
    with Progress(len(images), "features of the frozen trunk") as progress:
        for start in range(0, len(images), BLOCK):
            rows = np.minimum(np.arange(start, start + BLOCK), len(images) - 1)  # the last one filled up
            block = jnp.asarray(np.asarray(images[rows]))
            out = np.asarray(_through(part, depth is None, weights, block, how.mean, how.std))
            blocks.append(out[: len(images) - start])
            began = began or time.perf_counter()  # the first block has compiled the program
            progress.advance(len(blocks[-1]))
    seconds = (time.perf_counter() - began) * len(images) / max(1, len(images) - BLOCK)
    return Passed(np.concatenate(blocks), seconds if len(blocks) > 1 else 0.0)


@functools.partial(jax.jit, static_argnames=("part", "whole"))
def _through(part: Any, whole: bool, weights: Weights, block: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    images = normalise(block, mean, std)
    if whole:
        state = {name: {"trunk": tree} for name, tree in weights.model_state.items()}
        return as_forward(part)({"trunk": weights.params}, state, {"image": images}, EVALUATE)[0]["features"]
    return part.apply({"params": weights.params, **weights.model_state}, images, False)[0]


def depths(trunk: Trunk) -> Sequence[int]:
    """Where it is cut to fine-tune what is above: before the last stage first, then deeper; 0 is all of it."""
    count = len(trunk.stages)
    return list(dict.fromkeys([*(depth for depth in (count - 1, count - 2) if depth > 0), 0]))
