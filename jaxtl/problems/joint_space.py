"""Images and descriptions of their classes in one space, which is tested on classes that nobody has learned from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import bounds
from jaxtl.data import DataSet, channel_statistics, on_device
from jaxtl.errors import InputError
from jaxtl.models import Classifier, initialise
from jaxtl.models.space import INPUTS, Space
from jaxtl.optimizers import pull_per_rate
from jaxtl.problems.few_shot import falling
from jaxtl.problems.images import Images, accuracy, outputs
from jaxtl.problems.source import Source
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Setting, Trained, draw_key, rates_of, replicate_seed
from jaxtl.protocol.retrieval import recall_at
from jaxtl.selection import temperature
from jaxtl.trees import Tree

USES = ("start", "order", "run")  # of a draw's keys
FIRST = (1, 5)  # of what is found
ZERO_SHOT = "zero-shot/"  # a metric, before the name of another set


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """Which classes are for what: fields of an experiment's Config."""

    choosing_classes: bounds.Count = 20  # nobody learns from them, settings are chosen by them
    tested_classes: bounds.Count = 20  # nobody learns from them or chooses by them


class Described(NamedTuple):
    """Examples, and what is said of their classes.

    Attributes:
        task: its "image" [N, D] are features of images.
        texts: [C, E] float32 of length 1, what a frozen encoder makes of the description of each class.
    """

    task: DataSet
    texts: np.ndarray


class Classes(NamedTuple):
    """Numbers of classes, disjoint."""

    learned: np.ndarray
    choosing: np.ndarray
    tested: np.ndarray


class JointSpace:
    """A map of image features to where the descriptions of their classes are; a `protocol.Problem`.

    Some classes are learned from, others choose, others are tested: each replicate deals them anew. An image is of the
    class whose description has the most similar direction.

    Args:
        config: has the fields of `SpaceConfig` and `Budget`.
        described: whose classes are dealt.
        others: further sets by name, of which no class is learned from; their test parts are tested too.

    Raises:
        InputError: fewer classes than are asked for, texts of other classes.
    """

    points, own = 1, ("classes that are learned, that choose, and that are tested",)

    def __init__(self, config: Any, described: Described, others: Mapping[str, Described] | None = None):
        self.config, self.task, self.texts, self.others = config, described.task, described.texts, dict(others or {})
        for one in (described, *self.others.values()):
            if len(one.texts) != len(one.task.classes) or one.texts.shape[1:] != self.texts.shape[1:]:
                what = f"texts {list(one.texts.shape)} for {len(one.task.classes)} classes"
                raise InputError(what, where=one.task.name, todo="give a row for each class, all of one width")
        left = len(self.task.classes) - config.choosing_classes - config.tested_classes
        if min(left, config.choosing_classes, config.tested_classes) < 2:
            what = f"of {len(self.task.classes)} classes {config.choosing_classes} choose, {config.tested_classes} test"
            raise InputError(what, where="--config.tested_classes", todo="leave two or more for each use")
        sets = [described, *self.others.values()]
        self.title = f"{self.task.name}: {left} classes learned, {config.tested_classes} others tested"
        self.origin = "; ".join(one.task.origin for one in sets)
        self.content = [part.labels for one in sets for part in (one.task.train, one.task.test)]
        self.images = Images.kept(self.task.train.images.shape[1:])
        self.model = Classifier(Space(self.texts.shape[1]), ())
        self.schedule = falling(config.steps)
        self.reach = {"penalty": pull_per_rate(1.0, config.steps, schedule=self.schedule, momentum=config.momentum)}

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one of `USES`."""
        return draw_key(self.config.seed, draw, USES.index(use))

    @functools.cache  # noqa: B019  (a problem lives as long as its run)
    def classes(self, replicate: int) -> Classes:
        """What the classes of a replicate are for."""
        order = np.random.default_rng(replicate_seed(self.config.seed, replicate)).permutation(len(self.texts))
        ends = [len(order) - self.config.choosing_classes - self.config.tested_classes, -self.config.tested_classes]
        return Classes(*(np.sort(part) for part in np.split(order, [ends[0], len(order) + ends[1]])))

    def start(self, draw: Draw) -> Weights:
        """A fresh map, for features as those of the learned classes are spread."""
        images = self.images_of("train", self.classes(draw.replicate).learned)[0]
        mean, std = channel_statistics(images)
        params = initialise(self.model, self.key(draw, "start"), self.images.like)
        return Weights(params, {INPUTS: {"trunk": {"mean": jnp.asarray(mean), "std": jnp.asarray(std)}}})

    def data(self, program: Program, start: Weights, draw: Draw) -> dict[str, Any]:
        """Training images of the learned classes."""
        rows = np.flatnonzero(np.isin(self.task.train.labels, self.classes(draw.replicate).learned))
        return on_device(self.task.train.take(rows), self.key(draw, "order"))

    def given(self, draw: Draw) -> dict[str, Tree]:
        """The descriptions, and which of them are of learned classes."""
        learned = np.isin(np.arange(len(self.texts)), self.classes(draw.replicate).learned)
        return {"texts": jnp.asarray(self.texts), "learned": jnp.asarray(learned)}

    def batches(self) -> Callable:
        """The `prepare` of a step."""
        return self.images.batches(self.config.batch_size)

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`."""
        return rates_of(program, setting, self.reach)

    # What is measured.

    def images_of(self, part: str, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(features, labels) of some classes, of "train", "test" or "all"."""
        parts = [getattr(self.task, name) for name in (("train", "test") if part == "all" else (part,))]
        own = [np.isin(one.labels, classes) for one in parts]
        return tuple(  # type: ignore[return-value]
            np.concatenate([np.asarray(one[field])[mine] for one, mine in zip(parts, own, strict=True)])
            for field in ("image", "label")
        )

    def similarity(self, weights: Weights, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """[N, C] cosines of images with descriptions."""
        found = outputs(self.model, weights, jnp.asarray(images), self.images, "features")
        return found @ texts.T / np.sqrt(found.shape[1])

    def zero_shot(self, weights: Weights, part: str, classes: np.ndarray, among: np.ndarray) -> float:
        """Accuracy on images of some classes, each being told from those that it is `among`."""
        images, labels = self.images_of(part, classes)
        return accuracy(among[self.similarity(weights, images, self.texts[among]).argmax(axis=1)], labels)

    def point(self, weights: Weights, draw: Draw) -> dict[str, float]:
        """Accuracy on the classes that choose."""
        choosing = self.classes(draw.replicate).choosing
        return {"validation": self.zero_shot(weights, "train", choosing, choosing)}

    def validate(self, trained: Trained, draw: Draw) -> float:
        """Accuracy on the classes that choose."""
        return self.point(trained.weights, draw)["validation"]

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Accuracy on tested classes among themselves, and what else is asked of a joint space.

        Metrics: "all classes" tested classes among all, "learned" test images of learned classes among themselves,
        "image to text@k" and "text to image@k" of tested classes, "zero-shot/NAME" of further sets.
        """
        weights, (learned, _, tested) = trained.weights, self.classes(draw.replicate)
        images, labels = self.images_of("all", tested)
        found, right = self.similarity(weights, images, self.texts[tested]), labels[:, None] == tested[None]
        metrics = {
            "test": accuracy(tested[found.argmax(axis=1)], labels),
            "all classes": self.zero_shot(weights, "all", tested, np.arange(len(self.texts))),
            "learned": self.zero_shot(weights, "test", learned, learned),
        }
        for k in (k for k in FIRST if k < len(tested)):
            metrics[f"image to text@{k}"] = recall_at(found, right, k)
            metrics[f"text to image@{k}"] = recall_at(found.T, right.T, k)
        for name, (task, texts) in self.others.items():
            said = self.similarity(weights, np.asarray(task.test.images), texts).argmax(axis=1)
            metrics[f"{ZERO_SHOT}{name}"] = accuracy(said, task.test.labels)
        return metrics, {}

    def as_source(self, weights: Weights, replicate: int) -> Source:
        """The map as a source model: its head are the descriptions, as sure as it is right on classes that choose."""
        choosing = self.classes(replicate).choosing
        images, labels = self.images_of("train", choosing)
        found = self.similarity(weights, images, self.texts[choosing])
        scale = 1 / temperature(found, np.searchsorted(choosing, labels))
        head = head_of(self.texts, scale)
        said = self.similarity(weights, np.asarray(self.task.test.images), self.texts).argmax(axis=1)
        params = {"trunk": weights.params["trunk"], "head": head}
        return Source(
            self.task, self.images, Weights(params, weights.model_state), accuracy(said, self.task.test.labels)
        )


def head_of(texts: np.ndarray, scale: float) -> dict[str, jax.Array]:
    """scale · cosine with each text, as a linear head on what `Space` gives.

    Example:
        >>> head = head_of(np.eye(3, 4, dtype=np.float32), 8.0)
        >>> head["kernel"].shape, float(head["kernel"][0, 0])
        ((4, 3), 4.0)
    """
    kernel = jnp.asarray(scale / np.sqrt(texts.shape[1]) * texts.T, jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(len(texts))}
