"""A source model and a few labelled images of each target class."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import bounds
from jaxtl.data import (
    DataSet,
    Split,
    contrast,
    gaussian_blur,
    gaussian_noise,
    hold_out,
    imbalanced,
    label_noise,
    on_device,
    per_class,
    pixelate,
    stratified_folds,
)
from jaxtl.labels import TRANSFERRED, norm_by_label, some
from jaxtl.models import Classifier, initial_model_state, initialise
from jaxtl.optimizers import pull_per_rate
from jaxtl.problems.images import classes_of, inputs_of, outputs
from jaxtl.problems.source import Source, make_model
from jaxtl.program import Program, Weights
from jaxtl.protocol import MEASURES, Draw, Setting, Trained, Truth, draw_key, pull_name, rates_of, replicate_seed
from jaxtl.transfer import Transfer, matching_classes, transfer
from jaxtl.trees import Tree

CORRUPTIONS = {  # about severity 3 of 5 in CIFAR-10-C
    "noise": lambda image: gaussian_noise(image, jax.random.key(0), 20.0),
    "blur": lambda image: gaussian_blur(image, 0.8),
    "contrast": lambda image: contrast(image, 0.4),
    "pixels": lambda image: pixelate(image, 2),
}
MeasureName = Annotated[str, bounds.OneOf("measure", [name for name in MEASURES if name != "r2"])]  # of classes
USES = ("head", "order", "source order", "run")  # of a draw's keys
SOURCE_HEAD = "source_head"  # what joint training adds to the model


@dataclasses.dataclass(frozen=True)
class LabelledConfig:
    """The labelled examples: fields of an experiment's Config that leaves all else of a `FewShot` as it is."""

    # how many times more examples the first class has than the last
    imbalance: Annotated[float, bounds.Within(1, 1e6)] = 1.0
    label_noise: bounds.Share = 0.0  # the part of the labelled examples whose label is wrong
    validation: bounds.Count = 1000  # target training images outside every subset that choose the "tuned" settings
    corruptions, decay, head, measure = False, "loss", "fresh", "accuracy"  # no fields here


@dataclasses.dataclass(frozen=True)
class FewShotConfig(LabelledConfig):
    """The labelled examples and what is asked of them: fields of an experiment's Config."""

    corruptions: bool = False  # also test on images with noise, blur, little contrast, coarse pixels
    decay: Literal["loss", "coupled", "decoupled"] = "loss"  # how parameters are pulled towards 0
    head: Literal["fresh", "shared"] = "fresh"  # shared: copy the head's columns of classes both tasks name
    measure = "accuracy"  # no field here: tables of an experiment have to speak of it


class Examples(NamedTuple):
    """Indices into the target's training part, and the labels that it is said to have."""

    seen: np.ndarray
    held: np.ndarray  # to validate on
    labels: np.ndarray  # wrong for some of the labelled examples, if so configured


def held_out(config: Any, task: DataSet, replicate: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(what chooses the "tuned" settings, what the labelled examples are drawn from): indices."""
    count = min(config.validation, len(task.train) // 4)
    return hold_out(task.train.labels, count, replicate_seed(config.seed, replicate), task.train.groups)


def labelled_examples(config: Any, task: DataSet, pool: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(the labelled examples of a draw, the labels of the whole training part as they are given)."""
    subset = per_class(task.train.labels, n, seed, among=pool, classes=task.classes)
    if config.imbalance > 1:
        subset = imbalanced(task.train.labels, config.imbalance, seed, among=subset)
    given = task.train.labels.copy()
    given[subset] = label_noise(given[subset], config.label_noise, seed)
    return subset, given


def seed_of(config: Any, draw: Draw) -> int:
    """What NumPy draws by."""
    return 1000 * config.seed + draw.seed


def falling(steps: int) -> Callable:
    """step -> factor on every learning rate: from 1 to 0 in so many steps, along a cosine."""
    return optax.cosine_decay_schedule(1.0, steps)


class FewShot:
    """n labelled examples of each target class, and a source model; a `protocol.Problem`.

    Every replicate has held-out examples of its own and, where it is handed several, a source model of its own.

    Attributes:
        source, held, pool: of the first replicate.
        moved: its source's trunk under a fresh head: labels and anchor, the same for every draw.
        model, joint_model: with the target's head, and with both heads.
        source_model: the source's head, for images of the source's size.
        schedule: step -> factor on every learning rate.
    """

    points = 5  # of a curve

    def __init__(self, config: Any, source: Source | Sequence[Source], task: DataSet, n: int):
        self.sources = [source] if isinstance(source, Source) else list(source)
        self.config, self.source, self.task, self.n = config, self.sources[0], task, n
        source = self.source
        self.title = f"{some(source.task.classes)} → {some(task.classes)}; {n} labelled examples per class"
        self.origin, self.content = task.origin, task.content
        own: Any = inputs_of(task)
        self.images, self.field = own.after(source.images), own.field
        self.seen_source, self.source_images = own.seeing(source.task, source.images)
        heads = {"head": len(task.classes), SOURCE_HEAD: len(source.task.classes)}
        self.model = self.net(own, head=len(task.classes))
        self.joint_model = self.net(own, **heads)
        self.source_model = self.net(self.source_images, **{SOURCE_HEAD: heads[SOURCE_HEAD]})
        self.held, self.pool = self.parts(0)
        self.target_images = jnp.asarray(task.train[own.field])
        self.source_data = on_device(self.seen_source.train, jax.random.key(0))
        self.test_images = jnp.asarray(task.test[own.field])
        self.source_test_images = jnp.asarray(self.seen_source.test[self.source_images.field])
        kinds = CORRUPTIONS if config.corruptions else {}
        self.worse = {name: jax.jit(corrupt)(self.test_images) for name, corrupt in kinds.items()}
        self.schedule = falling(config.steps)
        self.measure = MEASURES[config.measure]
        self.truth = Truth(task.test.labels, task.classes)
        self.moved = self.transferred(Draw(0))

    def net(self, inputs: Any, **heads: int) -> Classifier:
        """The model for such images or texts."""
        return make_model(self.config, inputs, **heads)

    # What a replicate has for itself.

    def source_of(self, draw: Draw) -> Source:
        """The source model of a draw's replicate, or the one of all."""
        return self.sources[draw.replicate if len(self.sources) > 1 else 0]

    @property
    def own(self) -> tuple[str, ...]:
        """In words."""
        return ("held-out examples", *(["source models"] if len(self.sources) > 1 else []))

    @functools.cache  # noqa: B019  (a problem lives as long as its run)
    def parts(self, replicate: int) -> tuple[np.ndarray, np.ndarray]:
        """See `held_out`."""
        return held_out(self.config, self.task, replicate)

    @functools.cache  # noqa: B019
    def anchor(self, replicate: int) -> Tree:
        """Where transferred parameters are pulled to."""
        return self.transferred(Draw(0, replicate=replicate)).anchor

    def given(self, draw: Draw) -> dict[str, Tree]:
        """What the programs of a draw read."""
        return {"anchor": self.anchor(draw.replicate)}

    # A draw is one seed for subset, head, order and augmentation, the same for every method.

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one of `USES`."""
        return draw_key(self.config.seed, draw, USES.index(use))

    def examples(self, draw: Draw) -> Examples:
        """What a draw trains on and is validated on; a fold is validated on the labelled examples it leaves out."""
        seed = seed_of(self.config, draw)
        held, pool = self.parts(draw.replicate)
        subset, given = labelled_examples(self.config, self.task, pool, self.n, seed)
        if draw.fold is None:
            return Examples(subset, held, given)
        groups = None if self.task.train.groups is None else self.task.train.groups[subset]
        folds = stratified_folds(given[subset], draw.folds, seed, classes=self.task.classes, groups=groups)
        train, validation = folds[draw.fold]
        return Examples(subset[train], subset[validation], given)

    def data(self, program: Program, start: Weights, draw: Draw) -> Any:
        """The labelled examples; for a program that trains the head alone, their features by the trunk as it starts."""
        examples, order = self.examples(draw), self.key(draw, "order")
        if set(program.labels) == {"head"}:
            return on_device(Split(*self.features(start, draw)), order)
        target = on_device(self.labelled(examples.labels), order, examples.seen)
        if SOURCE_HEAD not in program.labels:
            return target
        return {"target": target, "source": {**self.source_data, "order": self.key(draw, "source order")}}

    def labelled(self, labels: np.ndarray) -> Split:
        """The target's training part, with labels as they are given."""
        return Split(**{self.field: self.target_images, "label": labels})

    def features(self, start: Weights, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """([n, D] what a trunk makes of the labelled examples of a draw, [n] their labels)."""
        examples = self.examples(draw)
        found = outputs(self.model, start, self.target_images[examples.seen], self.images, "features")
        return found, examples.labels[examples.seen]

    # Where training starts, and with which rates.

    def fresh(self, draw: Draw) -> Weights:
        """Nothing from the source."""
        params = initialise(self.model, self.key(draw, "head"), self.images.like)
        return Weights(params, initial_model_state(self.model, self.images.like))

    def start(self, draw: Draw) -> Weights:
        """The source's trunk under a fresh head."""
        return Weights(self.transferred(draw).params, self.source_of(draw).weights.model_state)

    def transferred(self, draw: Draw, another: Source | None = None) -> Transfer:
        """What `start` copies, or would copy from another source, with labels, anchor and report."""
        of = another or self.source_of(draw)
        adapt, fresh = self.images.changed(of.images)
        source, target = of.weights.params, self.fresh(draw).params
        if self.config.head == "fresh":
            return transfer(source, target, reinit=["head/.*", *fresh], adapt=adapt)
        adapt = [*adapt, ("head/.*", matching_classes(of.task.classes, self.task.classes))]
        return transfer(source, target, reinit=fresh, adapt=adapt)

    @property
    def reach(self) -> dict[str, float]:
        """Of a learning rate 1 in a whole run, for rates in the loss and in the optimizer."""
        return self.reached_in(self.config.steps)

    @functools.cache  # noqa: B019
    def reached_in(self, steps: int) -> dict[str, float]:
        """`reach` in a run of so many steps, at whose end the learning rate is 0."""
        kinds: dict[str, Any] = {"penalty": "coupled", "decay": self.decay_kind}
        of = functools.partial(pull_per_rate, 1.0, steps, schedule=falling(steps))
        return {name: of(momentum=self.config.momentum, decay_kind=kind) for name, kind in kinds.items()}

    @property
    def decay_kind(self) -> Literal["coupled", "decoupled"]:
        """How a decay in the optimizer acts."""
        return "decoupled" if self.config.decay == "decoupled" else "coupled"

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`."""
        return rates_of(program, setting, self.reached_in(program.steps or self.config.steps))

    # What is measured, on which images.

    @functools.cached_property
    def norms(self) -> Callable:
        """(params, anchor) -> {"norm": ‖w‖, "distance": ‖w − w⁰‖} by label, but for a head of joint training alone."""

        def measure(params, anchor):
            own = {name: params[name] for name in self.moved.labels}
            of = functools.partial(norm_by_label, own, self.moved.labels)
            return {"norm": of(), "distance": of(anchor)}

        return jax.jit(measure)

    def model_of(self, weights: Weights) -> Classifier:
        """The one that these are the weights of."""
        return self.joint_model if SOURCE_HEAD in weights.params else self.model

    def logits(self, weights: Weights, image: jax.Array) -> np.ndarray:
        """[N, C] of raw target images."""
        return outputs(self.model_of(weights), weights, image, self.images, "head")

    def answers(self, weights: Weights, index: np.ndarray | None = None) -> np.ndarray:
        """[N, C] of some examples of the target's training part; without an index of its test part."""
        return self.logits(weights, self.test_images if index is None else self.target_images[index])

    def validation(self, weights: Weights, index: np.ndarray, labels: np.ndarray) -> float:
        """The measure on some of the target's training images."""
        return self.measure.score(labels[index], self.answers(weights, index))

    def point(self, weights: Weights, draw: Draw) -> dict[str, float]:
        """A point of the learning curves; no test image is looked at."""
        held, _ = self.parts(draw.replicate)
        figures = {"validation": self.validation(weights, held, self.task.train.labels)}
        for what, by_label in self.norms(weights.params, self.anchor(draw.replicate)).items():
            figures |= {f"{what}/{label}": float(value) for label, value in by_label.items()}
        return figures

    def validate(self, trained: Trained, draw: Draw) -> float:
        """The measure on the images that choose, larger being better."""
        examples = self.examples(draw)
        return self.measure.better(self.validation(trained.weights, examples.held, examples.labels))

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The measure on several images, rates and curves of a report run."""
        weights, examples, score = trained.weights, self.examples(draw), self.measure.score
        logits, labels = self.answers(weights), self.task.test.labels
        metrics = {
            "test": score(labels, logits),
            "train": self.validation(weights, examples.seen, examples.labels),
        }
        for name, image in self.worse.items():
            metrics[f"corrupted/{name}"] = score(labels, self.logits(weights, image))
        if trained.recipe.transfers:
            metrics["source"] = self.on_source(weights, draw)
        metrics |= self.rates_in_words(trained)
        curves = {name: np.array([row[name] for row in trained.curve]) for name in next(iter(trained.curve), {})}
        if trained.curve:
            curves["loss"] = curves.pop("task")  # without penalties, which differ from method to method
        if not trained.recipe.transfers:  # no way from the source, and nothing is transferred
            curves = {name: curve for name, curve in curves.items() if not name.startswith("distance/")}
            trunk = "another source's trunk" if trained.recipe.given else "fresh trunk"
            metrics, curves = by_what_it_is(metrics, trunk), by_what_it_is(curves, trunk)
        return metrics, {"prediction": classes_of(logits), **{f"curve/{name}": curve for name, curve in curves.items()}}

    def rates_in_words(self, trained: Trained) -> dict[str, float]:
        """λ of every pull, and lr/‖w‖² by label: before a normalisation, decay changes nothing but this."""
        found = {
            f"lambda/{pull_name(name)}": float(rate)
            for name, rate in {**trained.rates, **trained.learned}.items()
            if rate and name.startswith(("penalty/", "decay/"))
        }
        for label, norm in self.norms(trained.weights.params, self.moved.anchor)["norm"].items():
            if rate := trained.rates.get(f"learning_rate/{label}"):
                found[f"effective_rate/{label}"] = rate / float(norm) ** 2
        return found

    def on_source(self, weights: Weights, draw: Draw) -> float:
        """The measure of the source's head, or the one trained jointly, on the trunk as it is now."""
        params = {SOURCE_HEAD: self.source_of(draw).weights.params["head"], **weights.params}
        weights = weights._replace(params=params)
        logits = outputs(self.source_model, weights, self.source_test_images, self.source_images, SOURCE_HEAD)
        return self.measure.score(self.seen_source.test.labels, logits)


def by_what_it_is(figures: dict[str, Any], trunk: str) -> dict[str, Any]:
    """Figures of a net in which the label of what others transfer is on such a trunk."""
    return {re.sub(f"/{TRANSFERRED}$", f"/{trunk}", name): value for name, value in figures.items()}
