"""The trunk of a fine-tuning: a pretrained one where it can be had, else a small network, which is said loudly."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.clients import Silent
from jaxtl.data import normalise
from jaxtl.errors import InputError
from jaxtl.finetune.inputs import Preparation
from jaxtl.finetune.tfidf import TFIDF
from jaxtl.loop import raise_if_stopped
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, cut, initialise
from jaxtl.models.pretrained import TRUNKS, Pretrained, load_trunk
from jaxtl.models.signals import SignalCnn, Spectrum
from jaxtl.models.torch_names import ARCHITECTURES
from jaxtl.program import Weights
from jaxtl.step import EVALUATE
from jaxtl.writers import Progress

AUTO, BEST, SMALL = "auto", "efficientnet_lite0", "small_cnn"
TEXTS_BY, WORDS_ALONE = "minilm_l6", TFIDF
SPECTRUM, SIGNAL_CNN = "spectrum", "signal_cnn"
NOT_TRAINED = (SMALL, SIGNAL_CNN)  # of random weights


def untrained() -> Pretrained:
    """A small CNN with random weights: three blocks, at 48 pixels."""
    model = small_module()
    params = initialise(Classifier(model, ()), jax.random.key(0), (48, 48, 3))["trunk"]
    origin = "random weights: nothing was learned before"
    return Pretrained(SMALL, model, params, {}, 48, (127.5,) * 3, (63.75,) * 3, "Apache-2.0", origin, 64, ("all",))


def small_module() -> Cnn:
    """Of `untrained`."""
    return Cnn((16, 32, 64))


def words_alone() -> Pretrained:
    """No network: texts are their weighted words, see `tfidf`."""
    origin = "no network: weighted words of the texts themselves"
    return Pretrained(WORDS_ALONE, Mlp(widths=()), {}, {}, 1, (), (), "Apache-2.0", origin, 1, ())


def trunk_of_signals(name: str, shape: tuple[int, int]) -> Pretrained:
    """The spectrum, which has nothing to be trained, or a small network along time with random weights.

    Args:
        name: "auto", "spectrum" or "signal_cnn".
        shape: (samples, channels) of a window.

    Raises:
        InputError: another name.
    """
    if name not in (AUTO, SPECTRUM, SIGNAL_CNN):
        todo = f"use {SPECTRUM} or {SIGNAL_CNN}, or leave it out"
        raise InputError("takes no signals, and these are recordings", where=f"--trunk={name}", todo=todo)
    model: Any = module_of(SPECTRUM if name == AUTO else name)
    params = initialise(Classifier(model, ()), jax.random.key(0), shape).get("trunk", {})
    if name == SIGNAL_CNN:
        origin = "random weights: nothing was learned before"
        return Pretrained(name, model, params, {}, shape[0], (), (), "Apache-2.0", origin, model.widths[-1], ("all",))
    origin = "no network: the log spectrum of each window"
    features = shape[0] // 2 * shape[1]
    return Pretrained(SPECTRUM, model, params, {}, shape[0], (), (), "Apache-2.0", origin, features, ())


class Polled(Progress):
    """Progress of work that ends at a block where a stop is requested."""

    def advance(self, n: int = 1, **values: float) -> None:
        """One block further.

        Raises:
            Interrupted: a stop was requested.
        """
        super().advance(n, **values)
        raise_if_stopped("before anything was trained")


class Quiet(Silent):
    """The same without a display."""

    def advance(self, n: int = 1) -> None:
        """One block further; see `Polled`."""
        raise_if_stopped("before anything was trained")

    def describe(self, description: str) -> None:
        """What comes next, untold."""


def trunk_of(
    name: str,
    progress: Any = Polled,
    best: str = BEST,
    instead: Callable[[], Pretrained] = untrained,
    told: str = "a small network learns from nothing",
) -> tuple[Pretrained, str]:
    """The trunk that is asked for, and a notice where another one takes its place.

    Args:
        name: "auto", "small_cnn", or what `models.pretrained.load_trunk` takes.
        progress: (total, description) -> a display of what is fetched.
        best: what "auto" means.
        instead: -> what takes its place where it cannot be had, `told` in a few words.

    Raises:
        InputError: a trunk that was asked for by name and cannot be had.
    """
    if name == SMALL:
        return untrained(), ""
    try:
        return _pretrained(best if name == AUTO else name, progress), ""
    except InputError as error:
        if name != AUTO:
            raise
        return instead(), f"no pretrained trunk is at hand ({error.what}): {told}"


def _pretrained(name: str, progress: Any) -> Pretrained:
    return load_trunk(name, progress=progress)


def module_of(name: str) -> Any:
    """The module of a trunk by its name, for weights that are at hand.

    Raises:
        InputError: no such trunk.
    """
    if name == SMALL:
        return small_module()
    if name == WORDS_ALONE:
        return words_alone().model
    if name in (SPECTRUM, SIGNAL_CNN):  # windows are called images here, as all that a network is given
        return Spectrum(("image",)) if name == SPECTRUM else SignalCnn(fields=("image",))
    architecture = TRUNKS[name].architecture if name in TRUNKS else name
    if architecture not in ARCHITECTURES:
        todo = "use the version of jaxtl that the model was made with"
        raise InputError("no such trunk is known", where=name, todo=todo)
    return ARCHITECTURES[architecture].make({})


class Passed(NamedTuple):
    """What a frozen network made of examples, and how fast."""

    array: np.ndarray
    seconds: float


def passed(
    trunk: Pretrained, inputs: Any, depth: int | None, prepared_by: Preparation, progress: Any = Polled
) -> Passed:
    """What a frozen trunk makes of every example: its features, or what it hands on after some of its stages.

    Args:
        trunk: all of it.
        inputs: [N, ...] as prepared, also `Stored`.
        depth: stages; None: all of them.
        prepared_by: has the blocks in which they go through it; what a shorter one leaves free is 0.
        progress: (total, description) -> a display.
    """
    part: Any = Classifier(trunk.model, ())
    if depth is not None:
        part = cut(part, depth)[0]
    weights, how, count = Weights(trunk.params, trunk.model_state), (prepared_by.mean, prepared_by.std), len(inputs)
    through = functools.partial(_through, part, depth is None, weights)
    like = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), jnp.float32)
    array = np.zeros((count, *jax.eval_shape(through, like, *how).shape[1:]), np.float32)
    shapes, seconds, measured = set[tuple[int, ...]](), 0.0, 0
    with progress(count, "features of the frozen trunk") as display:
        for rows, block in prepared_by.blocks(inputs):
            began = time.perf_counter()
            out = np.asarray(through(jnp.asarray(block), *how))
            if block.shape in shapes:  # the first of a shape has compiled its program
                seconds, measured = seconds + time.perf_counter() - began, measured + len(rows)
            shapes.add(block.shape)
            there: Any = (rows, *map(slice, out.shape[1:]))
            array[there] = out[: len(rows)]
            display.advance(len(rows))
    return Passed(array, seconds * count / measured if measured else 0.0)


@functools.partial(jax.jit, static_argnames=("part", "whole"))
def _through(part: Any, whole: bool, weights: Weights, block: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    images = normalise(block, mean, std)
    if whole:
        state = {name: {"trunk": tree} for name, tree in weights.model_state.items()}
        return as_forward(part)({"trunk": weights.params}, state, {"image": images}, EVALUATE)[0]["features"]
    return part.apply({"params": weights.params, **weights.model_state}, images, False)[0]


def depths(trunk: Pretrained) -> Sequence[int]:
    """Where it is cut to fine-tune what is above: near the end first, then deeper; 0 is all of it."""
    count = len(trunk.stages)
    return list(dict.fromkeys([*(depth for depth in (count - 1, count - 2, count - 3, count // 2) if depth > 0), 0]))
