"""A model of yours on data of yours, in three words: `classification`, `train`, `evaluate`.

Each is a few lines on what stands below it: a `Program`, `sweep.run` (which is `fit`) and `make_eval_step`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import DataSet, Split, channel_statistics, image_batches, normalise, on_device
from jaxtl.errors import InputError, kind_of, suggest, whole_number
from jaxtl.losses import accuracy, mean_of, per_example, softmax_cross_entropy
from jaxtl.models import as_forward
from jaxtl.optimizers import Group
from jaxtl.penalties import LabelTerms, Term
from jaxtl.program import TASK, Program, Weights, make_program
from jaxtl.step import Fixed, TrainState, make_eval_step
from jaxtl.sweep import run
from jaxtl.transfer import Transfer
from jaxtl.trees import Tree

METRICS = {"accuracy": per_example(accuracy), "loss": per_example(softmax_cross_entropy)}


def classification(
    model: Any,
    data: DataSet,
    moved: Transfer,
    groups: Mapping[str, Group],
    penalties: LabelTerms | None = None,
    *,
    batch_size: int = 64,
    crop: int = 0,
    flip: bool = False,
    **more: Any,
) -> Program:
    """The program that trains a classifier: mean cross-entropy + Σ_label rate · penalty, on normalised batches.

    It is `make_program` with the forward pass of the model, one term "task", batches of the data set normalised by the
    statistics of its training part, and the anchor of the transfer. Whatever differs takes `make_program`.

    Args:
        model: called with (images, train); returns {"head": logits, ...}.
        data: images or features with a class each.
        moved: labels and anchor.
        groups: how the parameters of each label move.
        penalties: what they pay, by label; `Term(rate, l2, ("anchor",))` pulls towards the source.
        batch_size, crop, flip: as for `image_batches`.
        more: further arguments of `make_program`: optimizer, momentum, schedule, clip_norm.

    Returns:
        The program.

    Raises:
        InputError: no data set of images with a class each, no transfer, what `as_forward` and `make_program` refuse.

    Example:
        >>> from jaxtl.data import load
        >>> from jaxtl.models import Classifier, Mlp, initialise
        >>> from jaxtl.transfer import transfer
        >>> model = Classifier(Mlp((8,)), (("head", 10),))
        >>> source, fresh = (initialise(model, jax.random.key(seed), (8, 8, 1)) for seed in (0, 1))
        >>> moved = transfer(source, fresh, reinit=["head/.*"])
        >>> groups = {"transferred": Group(frozen=True), "new": Group(0.1)}
        >>> dict(classification(model, load("digits"), moved, groups).rates)
        {'learning_rate/new': 0.1}
    """
    _check_data(data, "train", "classification data")
    if not isinstance(moved, Transfer):
        todo = "pass what transfer(source, target) returns; without a source model use make_program"
        raise InputError(f"{kind_of(moved)} is no Transfer", where="classification moved", todo=todo)
    mean, std = channel_statistics(data.train.images)
    return make_program(
        as_forward(model),
        moved.labels,
        {TASK: Term(1.0, mean_of(softmax_cross_entropy))},
        groups,
        penalties,
        prepare=image_batches(batch_size, mean, std, crop=crop, flip=flip),
        given={"anchor": moved.anchor},
        **more,
    )


def train(
    program: Program,
    start: Weights | Tree,
    data: Any,
    *,
    steps: int,
    rates: Mapping[str, float] | None = None,
    seed: int = 0,
    **more: Any,
) -> tuple[Weights, list[dict[str, float]]]:
    """Run a program to its end: w_{t+1} = step(w_t, batch(seed, t), rates), `steps` times.

    With `workdir` it is saved there, and the same call goes on where an interrupted one was; see `fit` for what is kept
    and refused. The order of the data and all that is random are functions of (seed, step).

    Args:
        program: from `classification` or `make_program`.
        start: parameters, or `Weights` of a model that carries a state along (batch statistics).
        data: a `DataSet`, of which the training part is meant; a `Split`; or whatever the program's batches are made
            of: what `on_device` or `feed` return.
        steps: how many, counted from step 0.
        rates: in place of the program's own, {"penalty/new": 0.1}; another value never compiles anew.
        seed: of the order of the data, of augmentation and dropout.
        more: further arguments of `sweep.run`: workdir, evaluate, points, chunk, given, mesh, log, progress.

    Returns:
        (weights, history): of the whole model, and about `points` rows {"step", losses, figures of `evaluate`}.

    Raises:
        InputError: no program, a rate that it does not read, and what `fit` refuses.
        NotFinite: the loss or a parameter is not finite.
        Interrupted: a stop was requested.

    Example:
        >>> from jaxtl.losses import squared_error
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"head": batch["x"] @ params["kernel"]}, model_state
        >>> task = {"task": Term(1.0, mean_of(squared_error))}
        >>> program = make_program(forward, {"kernel": "new"}, task, {"new": Group(0.5)})
        >>> data = {"x": jnp.ones((2, 1)), "label": jnp.full(2, 3.0)}
        >>> weights, history = train(program, {"kernel": jnp.zeros(1)}, data, steps=20)
        >>> round(float(weights.params["kernel"][0]), 4), history[-1]["step"]
        (3.0, 20)
    """
    if not isinstance(program, Program):
        todo = "pass what classification or make_program returns"
        raise InputError(f"{kind_of(program)} is no Program", where="train program", todo=todo)
    order, rng = jax.random.split(jax.random.key(seed))
    data = data.train if isinstance(data, DataSet) else data
    data = on_device(data, order) if isinstance(data, Split) else data
    ended = run(program, _as_weights(start), data, rates or {}, rng, steps=steps, **more)
    return ended.weights, ended.curve


def evaluate(
    model: Any,
    weights: Weights | Tree,
    data: DataSet,
    *,
    part: Literal["train", "test"] = "test",
    batch_size: int = 500,
) -> dict[str, float]:
    """Accuracy and mean cross-entropy of a classifier on a part of a data set, each Σ metric / n over all examples.

    Images are normalised by the statistics of the training part, as `classification` does; the model runs as in
    evaluation.

    Args:
        model, weights: as they were trained.
        data: the data set.
        part: which of its parts.
        batch_size: examples at a time; it changes nothing but memory and time.

    Returns:
        {"accuracy": a fraction, "loss": in nats}.

    Raises:
        InputError: no data set of images with a class each, a part that there is not, and what `as_forward` refuses.

    Example:
        >>> from jaxtl.data import from_arrays
        >>> from jaxtl.models import Classifier, Mlp
        >>> data = from_arrays(np.array([[0.0], [2.0]] * 5), np.array([0, 1] * 5))
        >>> kernel = jnp.array([[-5.0, 5.0]])
        >>> evaluate(Classifier(Mlp(()), (("head", 2),)), {"head": {"kernel": kernel, "bias": jnp.zeros(2)}}, data)
        {'accuracy': 1.0, 'loss': 4.5...e-05}
    """
    if part not in ("train", "test"):
        raise InputError(f"no part '{part}'", where="evaluate part", todo=suggest(part, ("train", "test")))
    _check_data(data, part, "evaluate data")
    split = data.test if part == "test" else data.train
    mean, std = channel_statistics(data.train.images)
    weights, step, size = (
        _as_weights(weights),
        _evaluation(model),
        min(whole_number(batch_size, "evaluate batch_size"), len(split)),
    )
    state = TrainState(jnp.int32(0), weights.params, weights.model_state, (), jax.random.key(0))
    sums = dict.fromkeys([*METRICS, "count"], 0.0)
    for first in range(0, len(split), size):
        rows = np.arange(first, first + size)
        known = np.minimum(rows, len(split) - 1)  # the last batch is filled up, so that one program serves all
        image = normalise(jnp.asarray(split.images[known]), mean, std)
        batch = {"image": image, "label": split.labels[known], "mask": rows < len(split)}
        for name, value in step(state, batch, Fixed()).items():
            sums[name] += float(value)
    return {name: sums[name] / sums["count"] for name in METRICS}


@functools.lru_cache(maxsize=64)  # compiled once for a model
def _evaluation(model: Any) -> Callable:
    return jax.jit(make_eval_step(as_forward(model), METRICS))


def _as_weights(params: Weights | Tree) -> Weights:
    return params if isinstance(params, Weights) else Weights(params)


def _check_data(data: Any, part: str, where: str) -> None:
    if not isinstance(data, DataSet):
        todo = "make one: from_arrays(images, labels), or load(name_or_path)"
        raise InputError(f"{kind_of(data)} is no DataSet", where=where, todo=todo)
    split = data.test if part == "test" else data.train
    if "image" not in split or split.target != "class":
        what = f"a {part} example has {', '.join(split.names)}, and its label is: {split.target}"
        todo = "this is for images or features with a class each; use make_program with batches"
        raise InputError(what, where=where, todo=todo)
