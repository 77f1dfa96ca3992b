"""Many source models and several targets: class subsets of some data sets, and sources that should be of no use.

Training examples of a set that both sides come from are halved: no example serves a source and a target, whichever
classes they have in common.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import DataSet, hold_out
from jaxtl.data.splits import by_class
from jaxtl.errors import InputError
from jaxtl.models import initial_model_state, initialise
from jaxtl.problems.few_shot import FewShot
from jaxtl.problems.images import accuracy, inputs_of, outputs, predict
from jaxtl.problems.source import Source, make_model
from jaxtl.program import Weights
from jaxtl.protocol import Draw, replicate_seed

RANDOM = "random weights"
LOOKED_AT = 200  # source examples, for how far they are from the target's
USES = ("halves", "source classes", "target classes", "wrong labels", "looked at")  # of the random numbers of a set


class Tasks(NamedTuple):
    """By name: what source models are trained on, and what they are carried to."""

    sources: dict[str, DataSet]
    targets: dict[str, DataSet]


class View(NamedTuple):
    """What may be known of a source before it is tried on a target.

    Attributes:
        features: [N, D] of the labelled target examples, by the source's trunk as it is.
        labels: [N] as they are given.
        source_probs: [N, Cs] what the source model takes them for.
        source_features: [M, D] of examples of the source.
        source_accuracy: on the source's own test examples.
    """

    features: np.ndarray
    labels: np.ndarray
    source_probs: np.ndarray
    source_features: np.ndarray
    source_accuracy: float


def distinct(loaded: Iterable[DataSet]) -> list[DataSet]:
    """Data sets, each once.

    Raises:
        InputError: two different ones of one name, or one without classes.
    """
    found: dict[str, DataSet] = {}
    for data in loaded:
        if data.train.target != "class" or len(data.classes) < 2:
            todo = "give sets with a class for each example, two or more"
            raise InputError("has no classes to tell apart", where=data.origin, todo=todo)
        if data.name in found and found[data.name].origin != data.origin:
            todo = "rename one of the files"
            raise InputError(f"{data.origin} is called '{data.name}' too", where=found[data.name].origin, todo=todo)
        found.setdefault(data.name, data)
    return list(found.values())


def make_tasks(sets: Sequence[DataSet], both: int, subsets: int, targets: int, seed: int) -> Tasks:
    """All classes of every set and some halves of them as sources, other halves as targets, and wrong labels.

    Args:
        sets: see `distinct`.
        both: the first so many serve both sides; those behind them sources only.
        subsets: halves of the classes of each set, beside all classes: one at random and the others, and so on.
        targets: halves of the classes of each of the first sets.
        seed: of what is drawn.

    Returns:
        The tasks. A source with wrong labels has all images of its set, and its labels in random order.

    Raises:
        InputError: a set of which no half can be taken.
    """
    sources, wrong, wanted = list[DataSet](), list[DataSet](), list[DataSet]()
    for place, data in enumerate(sets):
        theirs, ours = two_halves(data, _rng(seed, place, "halves")) if place < both else (data, data)
        halves = _class_halves(data, subsets, _rng(seed, place, "source classes"))
        sources += [theirs, *(_called(f"half {k + 1}", by_class(theirs, half)) for k, half in enumerate(halves))]
        if place < both:
            halves = _class_halves(data, targets, _rng(seed, place, "target classes"))
            wanted += [_called(f"target {k + 1}", by_class(ours, half)) for k, half in enumerate(halves)]
            wrong.append(wrongly_labelled(theirs, _rng(seed, place, "wrong labels")))
    return Tasks({task.name: task for task in (*sources, *wrong)}, {task.name: task for task in wanted})


def untrained(config: Any, task: DataSet) -> Source:
    """A source model of random weights, for images as the task has them."""
    images, key = inputs_of(task), jax.random.key(replicate_seed(config.seed, 0))
    model = make_model(config, images, head=len(task.classes))
    weights = Weights(initialise(model, key, images.like), initial_model_state(model, images.like))
    predicted = predict(model, weights, jnp.asarray(task.test[images.field]), images)
    return Source(task, images, weights, accuracy(predicted, task.test.labels))


def start_from(problem: FewShot, source: Source, draw: Draw) -> Weights:
    """A source's trunk under a fresh head of the target."""
    return Weights(problem.transferred(draw, source).params, source.weights.model_state)


def features_of(problem: FewShot, source: Source, draw: Draw, image: jax.Array) -> np.ndarray:
    """[N, D] of raw target images by a source's trunk, as it is when training starts from it."""
    return outputs(problem.model, start_from(problem, source, draw), image, problem.images, "features")


def view(problem: FewShot, source: Source, draw: Draw) -> View:
    """What the labelled target examples of a draw, and no others, say of a source."""
    examples = problem.examples(draw)
    features = features_of(problem, source, draw, problem.target_images[examples.seen])
    head = jax.tree.map(np.asarray, source.weights.params["head"])
    logits = (features @ head["kernel"] + head["bias"]).astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return View(
        features,
        examples.labels[examples.seen],
        odds / odds.sum(axis=1, keepdims=True),
        _source_features(problem.config, source),
        source.accuracy,
    )


def _source_features(config: Any, source: Source) -> np.ndarray:
    """[M, D] of some training examples of a source, by its own model."""
    images = source.task.train[source.images.field]
    some = np.sort(_rng(config.seed, 0, "looked at").permutation(len(images))[:LOOKED_AT])
    model = make_model(config, source.images, head=len(source.task.classes))
    return outputs(model, source.weights, jnp.asarray(images[some]), source.images, "features")


def wrongly_labelled(task: DataSet, rng: np.random.Generator) -> DataSet:
    """The same training images with their labels in random order: as many of each class, and nothing to be learned."""
    labels = rng.permutation(task.train.labels)
    return _called("wrong labels", dataclasses.replace(task, train=task.train.having(label=labels)))


def _called(what: str, task: DataSet) -> DataSet:
    return dataclasses.replace(task, name=f"{task.name}, {what}")


def two_halves(data: DataSet, rng: np.random.Generator) -> tuple[DataSet, DataSet]:
    """(what sources are trained on, what targets draw from): halves of the training part, the same test part."""
    theirs, ours = hold_out(data.train.labels, len(data.train) // 2, int(rng.integers(2**31)), data.train.groups)
    parts = [dataclasses.replace(data, train=data.train.take(part)) for part in (theirs, ours)]
    return parts[0], parts[1]


def _class_halves(data: DataSet, count: int, rng: np.random.Generator) -> list[list[int]]:
    """Halves of the classes, at least two in each: at random, and of every second one those that the first left."""
    size, halves = max(2, len(data.classes) // 2), list[list[int]]()
    while len(halves) < count:
        order = rng.permutation(len(data.classes))
        halves += [sorted(order[:size].tolist()), sorted(order[-size:].tolist())]
    return halves[:count]


def _rng(seed: int, place: int, use: str) -> np.random.Generator:
    return np.random.default_rng([seed, place, USES.index(use)])
