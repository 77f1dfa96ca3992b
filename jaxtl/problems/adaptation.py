"""Labelled source examples and unlabelled target examples of the same classes: unsupervised domain adaptation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import bounds
from jaxtl.data import DataSet, Split, hold_out, on_device
from jaxtl.errors import InputError
from jaxtl.labels import label_set, some
from jaxtl.models import initial_model_state, initialise
from jaxtl.optimizers import pull_per_rate
from jaxtl.problems.few_shot import falling
from jaxtl.problems.images import accuracy, classes_of, inputs_of, outputs, unread
from jaxtl.problems.source import make_model
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Selection, Setting, Trained, Truth, draw_key, rates_of, replicate_seed
from jaxtl.protocol.measures import ACCURACY, Measure
from jaxtl.selection.probes import a_distance
from jaxtl.selection.unlabelled import (
    confidence,
    deep_embedded,
    density_ratio,
    importance_weighted,
    mutual_information,
    neighbourhood_density,
    reverse_accuracy,
    source_accuracy,
)

USES = ("start", "source order", "target order", "run")  # of a draw's keys
TOLD = "told"  # the label of parameters that learn from target labels: the bound
ORACLE = "oracle"  # the selection by target labels: a bound too
DRAWN = 200  # examples of each domain whose features are kept, of the first replicate, to be looked at


@dataclasses.dataclass(frozen=True)
class AdaptationConfig:
    """The model and what is held out: fields of an experiment's Config."""

    model: Literal["cnn", "mlp"] = "cnn"
    widths: bounds.Widths = (16, 32, 64)
    normalisation: Literal["group", "batch", "none"] = "group"
    input_size: bounds.Count = 16  # larger images are averaged down towards this edge, for cnn
    adversary: bounds.Count = 64  # hidden units of the adversary
    source_steps: bounds.Steps = 200  # of the rows that begin with a source model: part of their steps
    source_learning_rate: bounds.Rate = 0.05  # of that model
    validation: bounds.Count = 1000  # source examples that are held out, and target examples that validators look at


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """What validators are given of a net: no target label is among it.

    Attributes:
        logits, labels: [N, C], [N] of held-out source examples.
        features: [N, D] of the same.
        learned: [M, D] features of source examples that it was trained on.
        target_logits, target_features: [M, C], [M, D] of target training examples.
    """

    logits: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    learned: np.ndarray
    target_logits: np.ndarray
    target_features: np.ndarray

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """[N] how much more often the target has examples like a held-out one."""
        return density_ratio(self.learned, self.target_features, self.features)


VALIDATORS: dict[str, Callable[[Seen], float]] = {  # larger is better
    "source": lambda seen: source_accuracy(seen.logits, seen.labels),
    "importance": lambda seen: importance_weighted(seen.logits, seen.labels, seen.weights),
    "embedded": lambda seen: deep_embedded(seen.logits, seen.labels, seen.weights),
    "confidence": lambda seen: confidence(seen.target_logits),
    "information": lambda seen: mutual_information(seen.target_logits),
    "neighbours": lambda seen: neighbourhood_density(seen.target_logits),
    "reverse": lambda seen: reverse_accuracy(seen.target_features, seen.target_logits, seen.features, seen.labels),
}
MEANS = {  # what they are, in a line
    "source": "accuracy on held-out source examples",
    "importance": "the same, examples weighted by how much more often the target has such",
    "embedded": "the same with a control variate: deep embedded validation",
    "confidence": "how sure answers to target examples are",
    "information": "sure, and not of one class for all: mutual information of example and answer",
    "neighbours": "soft neighbourhood density: target examples that are answered like many others",
    "reverse": "accuracy on held-out source examples of what is learned from the answers to target examples",
    ORACLE: "as on test data, on target training examples: nobody has their labels, a bound",
}


class Adaptation:
    """A labelled source, an unlabelled target, one network for both; a `protocol.Problem`.

    Target labels are read in three places: `data` of a program that is a bound, the selection `ORACLE`, and `test`.

    Args:
        config: has the fields of `AdaptationConfig` and `Budget`.
        source, target: of the same classes, images or signals of one shape.
        measure: what test examples are asked, and target training examples by the oracle.

    Raises:
        InputError: other classes, other shapes, a model that is too deep for them.
    """

    points = 5  # of a curve
    own = ("held-out examples",)

    def __init__(self, config: Any, source: DataSet, target: DataSet, measure: Measure = ACCURACY):
        if source.classes != target.classes:
            what = f"source classes are {some(source.classes)}, the target's {some(target.classes)}"
            raise InputError(what, where="Adaptation", todo="give both the same classes, in the same order")
        self.images: Any = inputs_of(source)
        shapes = [unread(data).like.shape for data in (source, target)]
        if shapes[0] != shapes[1] or self.images.field not in target.train:
            ours, theirs = ("x".join(map(str, shape)) for shape in shapes)
            what = f"source {self.images.many} are {ours}, the target's {theirs}"
            raise InputError(what, where="Adaptation", todo="bring both to one size")
        self.config, self.source, self.target, self.measure = config, source, target, measure
        self.title = f"{source.name} → {target.name}"
        self.origin, self.content = f"{source.origin} → {target.origin}", (*source.content, *target.content)
        self.field = self.images.field
        self.model = make_model(config, self.images, head=len(source.classes))
        self.source_images, self.target_images = (jnp.asarray(data.train[self.field]) for data in (source, target))
        self.test_images = jnp.asarray(target.test[self.field])
        self.truth = Truth(target.test.labels, target.classes)
        self._last: tuple[Weights, Seen] | None = None

    @functools.cache  # noqa: B019  (a problem lives as long as its run)
    def parts(self, replicate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(held-out source examples, those that are learned from, target examples that validators see): indices."""
        seed, labels = replicate_seed(self.config.seed, replicate), self.source.train.labels
        held, rest = hold_out(labels, min(self.config.validation, len(labels) // 4), seed, self.source.train.groups)
        count = len(self.target.train)
        looked_at = np.random.default_rng(seed).permutation(count)[: self.config.validation]  # by no label
        return held, rest, np.sort(looked_at)

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one of `USES`."""
        return draw_key(self.config.seed, draw, USES.index(use))

    def start(self, draw: Draw) -> Weights:
        """A fresh network."""
        params = initialise(self.model, self.key(draw, "start"), self.images.like)
        return Weights(params, initial_model_state(self.model, self.images.like))

    def data(self, program: Program, start: Weights, draw: Draw) -> dict[str, Any]:
        """A labelled source and an unlabelled target; for a bound, the labelled target in place of the source."""
        orders = {side: self.key(draw, f"{side} order") for side in ("source", "target")}
        target = Split(**{self.field: self.target_images})
        if TOLD in label_set(program.labels):
            return {"source": on_device(target.having(label=self.target.train.labels), orders["source"])}
        source = Split(**{self.field: self.source_images, "label": self.source.train.labels})
        _, learned, _ = self.parts(draw.replicate)
        return {"source": on_device(source, orders["source"], learned), "target": on_device(target, orders["target"])}

    @functools.cache  # noqa: B019
    def reached_in(self, steps: int) -> dict[str, float]:
        """Of a learning rate 1 in a run of so many steps, at whose end it is 0."""
        return {"penalty": pull_per_rate(1.0, steps, momentum=self.config.momentum, schedule=falling(steps))}

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`."""
        return rates_of(program, setting, self.reached_in(program.steps or self.config.steps))

    def answers(self, weights: Weights, images: jax.Array, output: str = "head") -> np.ndarray:
        """Logits [N, C], or features, of raw examples of either domain."""
        own = weights._replace(params={name: weights.params[name] for name in ("trunk", "head")})
        return outputs(self.model, own, images, self.images, output)

    def seen(self, weights: Weights, draw: Draw) -> Seen:
        """What validators are given; that of the last net is kept, for they all ask for it."""
        if self._last is None or self._last[0] is not weights:
            held, learned, looked_at = self.parts(draw.replicate)
            source, target = self.source_images[held], self.target_images[looked_at]
            found = Seen(
                self.answers(weights, source),
                self.source.train.labels[held],
                self.answers(weights, source, "features"),
                self.answers(weights, self.source_images[learned[: len(looked_at)]], "features"),
                self.answers(weights, target),
                self.answers(weights, target, "features"),
            )
            self._last = weights, found
        return self._last[1]

    def selections(self, methods: tuple[str, ...], first: str) -> list[Selection]:
        """Every way to choose among settings of some methods: one validator first, at the end the oracle."""

        def by(fn: Callable[[Seen], float]) -> Callable[[Trained, Draw], float]:
            return lambda trained, draw: fn(self.seen(trained.weights, draw))

        names = [first, *(name for name in VALIDATORS if name != first)]
        ways = [Selection(name, "tuning", by(VALIDATORS[name]), methods) for name in names]
        return [*ways, Selection(ORACLE, "tuning", self.oracle, methods, bound=True)]

    def oracle(self, trained: Trained, draw: Draw) -> float:
        """The measure on the target examples that validators see, by their labels, larger being better."""
        _, _, looked_at = self.parts(draw.replicate)
        logits = self.answers(trained.weights, self.target_images[looked_at])
        return self.measure.better(self.measure.score(self.target.train.labels[looked_at], logits))

    def point(self, weights: Weights, draw: Draw) -> Mapping[str, float]:
        """A point of the learning curve: how it does on held-out source examples."""
        held, _, _ = self.parts(draw.replicate)
        said = classes_of(self.answers(weights, self.source_images[held]))
        return {"validation": accuracy(said, self.source.train.labels[held])}

    def validate(self, trained: Trained, draw: Draw) -> float:
        """How it does on held-out source examples; finite unless it diverged."""
        return self.point(trained.weights, draw)["validation"]

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The measure on target test examples, once, and how far apart the domains' features are."""
        logits = self.answers(trained.weights, self.test_images)
        seen = self.seen(trained.weights, draw)
        metrics = {
            "test": self.measure.score(self.target.test.labels, logits),
            "source": source_accuracy(seen.logits, seen.labels),
            "a_distance": a_distance(seen.features, seen.target_features),
        }
        arrays = {"prediction": classes_of(logits)}
        if draw.replicate == 0:
            features = {"source": seen.features, "target": seen.target_features}
            arrays |= {f"{side}_features": part[:DRAWN].astype(np.float16) for side, part in features.items()}
        return metrics, arrays
