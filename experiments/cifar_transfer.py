"""With a few labelled examples, what does pulling transferred and new parameters differently buy?

And is it more than what a slower trunk or a better-initialised head buys? A source model is trained on some classes;
eleven methods carry it to other classes with n labelled examples each, under one protocol with equal budgets.

    make run                                                   # CIFAR-10 where it is found, otherwise digits
    python -m experiments.cifar_transfer --config.data=PATH    # cifar10.npz, the binary archive, a TFDS directory
    python -m experiments.cifar_transfer --config.preset=full  # a Wide ResNet; written for a GPU, not yet measured

Measured on exact CIFAR-10, classes 0-4 → 5-9, n = 20, target accuracy in % (mean ± sd of 10 draws, seeds 2-11), by
`make run` in 2.3 minutes on 2 shared CPU cores with jax 0.10.2: scratch 57.4 ± 2.4, features 65.6 ± 1.0, fine_tune
66.1 ± 2.0, l2 66.1 ± 2.0, l2_differential 66.1 ± 2.0, l2_sp 67.2 ± 1.4, lr_ratio 66.7 ± 1.5, lp_ft 67.0 ± 1.9,
lp_l2_sp 67.6 ± 1.4, joint 67.1 ± 1.5, untuned 65.9 ± 2.0. Differences that were fixed beforehand, in points with 95 %
intervals: l2_differential − l2 +0.01 [−0.09, 0.10], l2_sp − l2_differential +1.10 [0.17, 2.02], lr_ratio −
l2_differential +0.55 [−0.17, 1.28], lp_ft − l2_sp −0.23 [−0.96, 0.51].
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import time
import zlib
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import backend, checkpoints, cli, report
from jaxtl.data import (
    DataSet,
    Split,
    channel_statistics,
    contrast,
    feed,
    gaussian_blur,
    gaussian_noise,
    hold_out,
    image_batches,
    imbalanced,
    keep_to_data,
    label_noise,
    load,
    normalise,
    on_device,
    per_class,
    pixelate,
    source_and_target,
    stratified_folds,
)
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, label_params, norm_by_label, some
from jaxtl.loop import Stoppable, fit, refuse_stop
from jaxtl.loop.finite import not_finite
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, initialise, resnet18, wide_resnet
from jaxtl.optimizers import Group, per_label, pull_per_rate
from jaxtl.penalties import Term, l2, labelled
from jaxtl.placement import by_example, here, make_mesh
from jaxtl.selection import Draw, Method, Range, RunStore, Setting, compare, planned_runs, sweep
from jaxtl.step import Context, Fixed, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.terminal import Terminal
from jaxtl.transfer import Adaptation, Transfer, matching_classes, repeat_channels, sum_channels, transfer
from jaxtl.trees import Tree, check_same
from jaxtl.writers import Progress, Writer


class Recipe(NamedTuple):
    """A method: what it is in one line, what is searched, where it starts, and which compiled program it runs in.

    All take the same number of steps; probing a head takes as many again, which cost next to nothing.
    """

    means: str
    search: tuple[str, ...]
    start: Literal["fresh", "source", "probed"] = "source"  # probed: its head is first trained on features
    program: Literal["pulled", "head", "joint", "untuned"] = "pulled"


RECIPES = {
    "scratch": Recipe(
        "from random parameters, pulled towards 0; nothing of the source is used", ("learning_rate", "pull"), "fresh"
    ),
    "features": Recipe(
        "the head alone is trained, pulled towards 0, on features of the source model, which stays as it is",
        ("learning_rate", "pull/new"),
        program="head",
    ),
    "fine_tune": Recipe("all parameters are trained from the source model on, pulled nowhere", ("learning_rate",)),
    "l2": Recipe("fine-tuning with one pull towards 0 for all kernels", ("learning_rate", "pull")),
    "l2_differential": Recipe(
        "fine-tuning with a pull towards 0 of its own for transferred and for new kernels",
        ("learning_rate", "pull/transferred", "pull/new"),
    ),
    "l2_sp": Recipe(
        "fine-tuning; transferred parameters are pulled towards the source model, new kernels towards 0",
        ("learning_rate", "pull/source", "pull/new"),
    ),
    "lr_ratio": Recipe(
        "fine-tuning in which the trunk learns more slowly than the head, pulled nowhere", ("learning_rate", "ratio")
    ),
    "lp_ft": Recipe(
        "the head alone first, on features of the source model, then fine-tuning of everything",
        ("learning_rate", "head_learning_rate"),
        "probed",
    ),
    "lp_l2_sp": Recipe(
        "the head alone first, as in lp_ft, then l2_sp",
        ("learning_rate", "head_learning_rate", "pull/source", "pull/new"),
        "probed",
    ),
    "joint": Recipe(
        "source and target are learned together by one trunk with two heads; the source's loss has a weight",
        ("learning_rate", "source_weight"),
        program="joint",
    ),
    "untuned": Recipe(
        "fine-tuning by Adam at 1e-3 with decay 1e-5 on the trunk and 1e-4 on the head; nothing is chosen",
        (),
        program="untuned",
    ),
}
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", RECIPES)], ...], cli.Items(0, distinct=True)]
Honest = Annotated[tuple[Annotated[str, cli.OneOf("method", (*RECIPES, "all"))], ...], cli.Items(0, distinct=True)]
SourceSizes = Annotated[tuple[Annotated[int, cli.Within(0, 2**31 - 1)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke, mnist, full: fills what is not given
    data: cli.Place = (
        "auto"  # a name (digits, cifar10, cifar100, mnist) or a path; auto: CIFAR-10 if found, else digits
    )
    data_dir: cli.Place = ""  # where named data sets are looked for
    source: cli.Place = ""  # another data set for the source task, e.g. cifar100
    source_checkpoint: cli.Place = ""  # weights of a source model instead of training one: .safetensors, .npz, a run
    splits: cli.Names = ("0-4:5-9",)  # source classes : target classes; "cat+dog:0-2+5"; an empty side is all
    n_per_class: cli.Counts = (20,)  # labelled target examples
    # how many times more examples the first class has than the last
    imbalance: Annotated[float, cli.Within(1, 1e6)] = 1.0
    label_noise: cli.Share = 0.0  # the part of the labelled examples whose label is wrong
    corruptions: bool = False  # also test on images with noise, blur, little contrast, coarse pixels
    source_examples: SourceSizes = (0,)  # examples the source model is trained on; 0 is all
    methods: Methods = ()  # some of the eleven; all when empty
    decay: Literal["loss", "coupled", "decoupled"] = "loss"  # how parameters are pulled towards 0
    head: Literal["fresh", "shared"] = "fresh"  # shared: copy the head's columns of classes both tasks name
    model: Literal["cnn", "mlp", "wide_resnet", "resnet18"] = "cnn"  # WRN-16-4, and ResNet-18 in its form for CIFAR
    widths: cli.Widths = (16, 32, 64)  # of cnn and mlp
    normalisation: Literal["group", "none"] = "group"  # none: the control, where decay changes the function itself
    input_size: cli.Count = 16  # larger images are averaged down towards this edge, for cnn
    source_steps: cli.Steps = 2500
    source_batch_size: cli.Count = 128
    source_learning_rate: cli.Rate = 0.1
    source_decay: cli.Rate = 5e-4
    mesh: cli.Mesh = ()  # all devices share its training: data:8, or data:2,parameters:4; () is one device
    steps: cli.Steps = 150
    batch_size: cli.Count = 50
    momentum: cli.Share = 0.9
    chunk: cli.Chunk = 0  # steps in one dispatch; 0: what suits the device
    trials: cli.Trials = 8  # settings tried for every tuned method
    tuning_draws: cli.Draws = 2  # choose the settings
    report_draws: cli.Draws = 10  # are reported
    validation: cli.Count = 1000  # target training images outside every subset that choose the "tuned" settings
    honest: Honest = ("features",)  # methods that also choose from their n labelled examples alone; or all
    folds: cli.Folds = 5
    learning_rate: cli.Span = (0.008, 0.25)  # ranges, searched log-uniformly
    pull: cli.Span = (0.03, 30.0)  # λ · Σ learning rates / (1 − momentum), without unit
    ratio: cli.Span = (0.01, 1.0)  # learning rate of the trunk / of the head
    source_weight: cli.Span = (0.03, 3.0)
    seed: cli.Seed = 0

    may_change: ClassVar = ("splits", "n_per_class", "source_examples", "methods", "honest")  # they only add runs
    glossary: ClassVar = {name: recipe.means for name, recipe in RECIPES.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "source_steps": 200,
            "steps": 30,
            "trials": 2,
            "tuning_draws": 1,
            "report_draws": 3,
            "validation": 100,
            "n_per_class": (5,),
        },
        "mnist": {"data": "mnist", "model": "mlp", "widths": (128,), "input_size": 28},
        # 4 problems, about 1,080 runs and 220,000 steps of a large network: planned for little more than an hour of one
        # GPU. With n draws no p of four contrasts is below 8/2ⁿ: 8 decide if all have one sign, 10 leave some room.
        "full": {
            "model": "wide_resnet",
            "n_per_class": (5, 20, 100, 1000),
            "source_steps": 10000,
            "steps": 200,
            "report_draws": 10,
        },
    }


TOWARDS = {  # what transferred parameters may be pulled towards; a method says how hard
    "zero": Term(0.0, l2),
    "source": Term(0.0, l2, ("anchor",)),
}
BASELINE = "l2"
CONTRASTS = (
    ("l2_differential", "l2"),
    ("l2_sp", "l2_differential"),
    ("lr_ratio", "l2_differential"),
    ("lp_ft", "l2_sp"),
)
TASK = Term(1.0, mean_of(softmax_cross_entropy))
CORRUPTIONS = {  # about severity 3 of 5 in CIFAR-10-C
    "noise": lambda image: gaussian_noise(image, jax.random.key(0), 20.0),
    "blur": lambda image: gaussian_blur(image, 0.8),
    "contrast": lambda image: contrast(image, 0.4),
    "pixels": lambda image: pixelate(image, 2),
}
LEARNING_RATES = ("learning_rate/transferred", "learning_rate/new")


# ---------------------------------------------------------------- images and models


class Images(NamedTuple):
    """How raw images reach a model."""

    shape: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, task: DataSet) -> Images:
        return cls(task.train.images.shape[1:], *channel_statistics(task.train.images))

    def batches(self, batch_size: int):
        """Shifted by up to an eighth of the shorter edge; mirrored if they are photographs, digits are not."""
        if len(self.shape) == 1:  # numbers, not pixels
            return image_batches(batch_size, self.mean, self.std)
        crop, photographs = min(self.shape[:2]) // 8, self.shape[-1] == 3
        return image_batches(batch_size, self.mean, self.std, crop=crop, flip=photographs)


def make_model(config: Config, shape: tuple[int, ...], **heads: int) -> Classifier:
    if config.model != "mlp" and len(shape) == 1:
        what = f"examples of {shape[0]} numbers are no images"
        raise InputError(what, where=f"--config.model={config.model}", todo="use --config.model=mlp")
    if config.model != "cnn":
        trunks: dict[str, Callable] = {
            "mlp": functools.partial(Mlp, config.widths),
            "wide_resnet": functools.partial(wide_resnet, 16, 4, config.normalisation),
            "resnet18": functools.partial(resnet18, config.normalisation),
        }
        return Classifier(trunks[config.model](), tuple(heads.items()))
    pooling = max(1, min(shape[:2]) // config.input_size)
    height, width = shape[0] // pooling, shape[1] // pooling
    most = min(height, width).bit_length()  # all blocks but the last halve both edges
    if len(config.widths) > most:
        what = f"{len(config.widths)} blocks halve images of {shape[0]}x{shape[1]}"
        what += f", averaged down to {height}x{width}," if pooling > 1 else ""
        todo = f"give {most} of --config.widths at most, or use --config.model=mlp"
        raise InputError(f"{what} to less than a pixel", where="--config.widths", todo=todo)
    return Classifier(Cnn(config.widths, config.normalisation, pooling), tuple(heads.items()))


@functools.partial(jax.jit, static_argnames=("model", "output"))
def output_of(model: Classifier, params: Tree, image: jax.Array, mean, std, output: str) -> jax.Array:
    ctx = Context(0, None, {}, {}, train=False)
    return as_forward(model)(params, {}, {"image": normalise(image, mean, std)}, ctx)[0][output]


def outputs(model, params: Tree, image: jax.Array, images: Images, output: str, block: int = 1000) -> np.ndarray:
    """Features or a head's logits of raw images, [N, ...]; in blocks of one size, so that one program serves all."""
    blocks = [image[i : i + block] for i in range(0, len(image), block)]
    short = len(blocks[0]) - len(blocks[-1])
    blocks[-1] = jnp.concatenate([blocks[-1], blocks[0][:short]])
    parts = [output_of(model, params, part, images.mean, images.std, output) for part in blocks]
    return np.concatenate(parts)[: len(image)]


def predict(model, params: Tree, image: jax.Array, images: Images, head: str = "head") -> np.ndarray:
    """The class of every raw image, [N], uint8 where it holds them."""
    logits = outputs(model, params, image, images, head)
    return np.argmax(logits, axis=-1).astype(np.min_scalar_type(logits.shape[-1] - 1))


def in_channels(task: DataSet, channels: int) -> DataSet:
    """Images as a trunk for so many channels sees them: grey ones repeated, of colours the mean."""

    def adapted(part: Split) -> Split:
        images = np.asarray(part.images)
        if channels > 1:
            return Split(np.repeat(images, channels, axis=-1), part.labels)
        return Split(images.mean(axis=-1, keepdims=True).astype(images.dtype), part.labels)

    return dataclasses.replace(task, train=adapted(task.train), test=adapted(task.test))


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predicted == labels))


# ---------------------------------------------------------------- source


class Source(NamedTuple):
    """A trained source model and its task."""

    task: DataSet
    images: Images
    params: Tree
    accuracy: float


def make_source(config: Config, task: DataSet, examples: int, workdir: Path) -> Source:
    """A source model, trained here (an interrupted training goes on) or read from `config.source_checkpoint`."""
    images = Images.of(task)
    model = make_model(config, images.shape, head=len(task.classes))
    params = initialise(model, jax.random.key(config.seed), images.shape)
    if config.source_checkpoint:
        loaded = checkpoints.load_weights(config.source_checkpoint)
        todo = "model, widths, normalisation and source classes must be those it was trained with"
        check_same(loaded, params, where=config.source_checkpoint, todo=todo)
        keep_to_data(workdir, config.source_checkpoint, *jax.tree.leaves(loaded))
        params = jax.tree.map(jnp.asarray, loaded)
    else:
        params = train_source(config, task, images, model, params, examples, workdir)
        checkpoints.export(params, workdir / "source.safetensors")
    predicted = predict(model, params, jnp.asarray(task.test.images), images)
    return Source(task, images, params, accuracy(predicted, task.test.labels))


def train_source(
    config: Config, task: DataSet, images: Images, model, params: Tree, examples: int, workdir: Path
) -> Tree:
    labels = label_params(params, [(".*", NEW)])
    penalty = labelled(labels, {NEW: Term(config.source_decay, l2)})
    loss_fn = make_loss_fn(as_forward(model), {"task": TASK}, penalty)
    schedule = optax.cosine_decay_schedule(1.0, config.source_steps)
    groups = {NEW: Group(config.source_learning_rate)}
    tx = per_label(labels, groups, "nesterov", momentum=config.momentum, schedule=schedule)
    step = make_train_step(total_gradient(loss_fn), tx, images.batches(config.source_batch_size))
    order, run = jax.random.split(jax.random.key(config.seed))
    index = hold_out(task.train.labels, examples, config.seed)[0] if examples else None
    chunk = backend.steps_per_dispatch(config.chunk, config.source_steps)
    mesh = make_mesh(config.mesh) if config.mesh else None
    sharding = by_example(mesh) if mesh else None
    keep_to_data(workdir, task.origin, *task.content)
    with Writer(workdir) as writer:
        state, _ = fit(
            step,
            init_state(params, tx, run),
            feed(task.train, order, index, batch_size=config.source_batch_size, sharding=sharding),
            Fixed(),
            mesh=mesh,
            steps=config.source_steps,
            chunk=chunk,
            every=max(1, config.source_steps // 10 // chunk) * chunk,
            workdir=workdir,
            log=writer,
            progress="training the source model",
        )
    return here(state.params)


# ---------------------------------------------------------------- target


class Examples(NamedTuple):
    """Indices into the target's training part, and the labels that it is said to have."""

    seen: np.ndarray
    held: np.ndarray  # to validate on
    labels: np.ndarray  # wrong for some of the labelled examples, if so configured


def held_out(config: Config, task: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """(what chooses the "tuned" settings, what the labelled examples are drawn from)."""
    return hold_out(task.train.labels, min(config.validation, len(task.train) // 4), config.seed)


def seed_of(config: Config, draw: int) -> int:
    """What the labelled examples of a draw are drawn with."""
    return 1000 * config.seed + draw


def labelled_examples(config: Config, task: DataSet, pool: np.ndarray, n: int, seed: int):
    """(the labelled examples of a draw, the labels of the whole training part as they are given)."""
    subset = per_class(task.train.labels, n, seed, among=pool, classes=task.classes)
    if config.imbalance > 1:
        subset = imbalanced(task.train.labels, config.imbalance, seed, among=subset)
    given = task.train.labels.copy()
    given[subset] = label_noise(given[subset], config.label_noise, seed)
    return subset, given


class Program(NamedTuple):
    """One compiled step. The methods that run in it differ in their rates and starting points only."""

    tx: optax.GradientTransformationExtraArgs
    step: Any
    reads: tuple[str, ...]  # the rates that a method sets
    trains: tuple[str, ...]  # the parts of the model that it moves
    init: Any  # a point of a sweep -> (state, rates)
    train: Any  # what a sweep calls
    calls: int  # how often
    batching: str

    def own(self, params: Tree) -> Tree:
        """The parameters that the program sees."""
        return {name: params[name] for name in self.trains}


def unscored(state, data, fixed) -> jax.Array:
    """Settings are scored by `compare`, one model at a time."""
    return jnp.float32(0)


class Trained(NamedTuple):
    """What one run of one method leaves."""

    method: str
    params: Tree
    rates: dict[str, float]
    examples: Examples
    curve: list[dict[str, float]]


class Problem:
    """n labelled examples of each target class, a source model, and the methods that bring them together."""

    def __init__(self, config: Config, source: Source, task: DataSet, n: int):
        self.config, self.source, self.task, self.n = config, source, task, n
        own = Images.of(task)
        same = own.shape[-1] == source.images.shape[-1]  # the trunk expects the statistics that it was trained with
        self.images = source.images._replace(shape=own.shape) if same else own
        self.model = make_model(config, own.shape, head=len(task.classes))
        self.held, self.pool = held_out(config, task)
        self.target_images = jnp.asarray(task.train.images)
        self.seen_source = source.task if same else in_channels(source.task, own.shape[-1])
        self.source_images = Images.of(self.seen_source) if self.seen_source is not source.task else source.images
        self.source_data = on_device(self.seen_source.train, jax.random.key(0))
        self.test_images, self.source_test_images = map(jnp.asarray, (task.test.images, self.seen_source.test.images))
        kinds = CORRUPTIONS if config.corruptions else {}
        self.worse = {name: jax.jit(corrupt)(self.test_images) for name, corrupt in kinds.items()}
        self.schedule = optax.cosine_decay_schedule(1.0, config.steps)
        self.reach = {
            kind: pull_per_rate(1.0, config.steps, schedule=self.schedule, momentum=config.momentum, decay_kind=kind)
            for kind in ("coupled", "decoupled")
        }
        self.moved = self.transferred(Draw(0))  # labels and anchor, the same for every draw
        heads = {"head": len(task.classes), "source_head": len(source.task.classes)}
        self.joint_model = make_model(config, own.shape, **heads)
        self.source_model = make_model(config, source.images.shape, **heads)  # for images of its size
        self.programs = {
            "pulled": self.pulled(),
            "head": self.head(),
            "joint": self.joint(),
            "untuned": self.untuned(),
        }

    def methods(self) -> list[Method]:
        config = self.config
        ranges = {name: Range(*getattr(config, name)) for name in ("learning_rate", "ratio", "source_weight")}
        ranges["head_learning_rate"], pull = ranges["learning_rate"], Range(*config.pull)
        searches = {name: {key: ranges.get(key, pull) for key in RECIPES[name].search} for name in methods_of(config)}
        return [
            Method(name, search, functools.partial(self.train, name), functools.partial(self.train_all, name))
            for name, search in searches.items()
        ]

    @functools.cached_property
    def norms(self):
        """params -> {"norm": ‖w‖, "distance": ‖w − w⁰‖} by label; a head that only joint training has is left out."""

        def measure(params):
            own = {name: params[name] for name in self.moved.labels}
            of = functools.partial(norm_by_label, own, self.moved.labels)
            return {"norm": of(), "distance": of(self.moved.anchor)}

        return jax.jit(measure)

    # A draw is one seed for subset, head, order and augmentation, the same for every method.

    def key(self, draw: Draw, use: str) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(self.config.seed), draw.seed)
        return jax.random.fold_in(key, ("head", "order", "source order", "run").index(use))

    def examples(self, draw: Draw) -> Examples:
        seed = seed_of(self.config, draw.seed)
        subset, given = labelled_examples(self.config, self.task, self.pool, self.n, seed)
        if draw.fold is None:
            return Examples(subset, self.held, given)
        train, validation = stratified_folds(given[subset], draw.folds, seed, classes=self.task.classes)[draw.fold]
        return Examples(subset[train], subset[validation], given)

    def fresh(self, draw: Draw) -> Tree:
        return initialise(self.model, self.key(draw, "head"), self.images.shape)

    def transferred(self, draw: Draw) -> Transfer:
        """The source's trunk under a fresh head."""
        adapt: list[tuple[str, Adaptation]] = []
        theirs, ours = self.source.images.shape[-1], self.images.shape[-1]
        if theirs != ours:
            rule = sum_channels if theirs > ours else repeat_channels
            adapt.append(("trunk/(conv_0|stem|dense_0)/kernel", rule))
        if self.config.head == "fresh":
            return transfer(self.source.params, self.fresh(draw), reinit=["head/.*"], adapt=adapt)
        adapt.append(("head/.*", matching_classes(self.source.task.classes, self.task.classes)))
        return transfer(self.source.params, self.fresh(draw), adapt=adapt)

    # The programs. Rates start at 0 here and are set by each run, by name, without recompiling.

    def program(self, labels: Tree, terms, groups, reads, *, forward=None, penalty=None, prepare=None) -> Program:
        loss_fn = make_loss_fn(forward or as_forward(self.model), {"task": TASK, **terms}, penalty)
        tx = per_label(labels, groups, "nesterov", momentum=self.config.momentum, schedule=self.schedule)
        return self.compiled(tx, loss_fn, prepare or self.images.batches(self.config.batch_size), reads, tuple(labels))

    def compiled(self, tx, loss_fn, prepare, reads: tuple[str, ...], trains: tuple[str, ...]) -> Program:
        step, steps = make_train_step(total_gradient(loss_fn), tx, prepare), self.config.steps

        def init(point):
            return init_state(point["params"], tx, point["rng"]), point["rates"]

        if trains == ("head",):  # no convolutions: all steps of all settings side by side, on any device
            return Program(tx, step, reads, trains, init, make_epoch(step, steps), 1, "vmap")
        chunk = backend.steps_per_dispatch(self.config.chunk, steps)
        train = step if chunk == 1 else make_epoch(step, chunk)
        return Program(tx, step, reads, trains, init, train, steps // chunk, backend.batching())

    def pulled(self) -> Program:
        """Transferred parameters are pulled towards zero, towards the source, or not at all; new ones towards zero."""
        labels = self.moved.labels
        penalty = labelled(labels, {TRANSFERRED: TOWARDS, NEW: Term(0.0, l2)})
        groups = {label: Group(decay_kind=self.kind) for label in (TRANSFERRED, NEW)}
        reads = (*LEARNING_RATES, *self.pulls.values())
        return self.program(labels, {}, groups, reads, penalty=penalty)

    def head(self) -> Program:
        """The head alone, on features that the frozen trunk gives once: seconds instead of minutes for all folds."""
        labels = {"head": self.moved.labels["head"]}
        penalty = labelled(labels, {NEW: Term(0.0, l2)})
        groups = {NEW: Group(decay_kind=self.kind)}
        reads = ("learning_rate/new", self.pulls[NEW])
        width = self.source.params["head"]["kernel"].shape[0]
        prepare = image_batches(self.config.batch_size, np.zeros(width), np.ones(width))
        forward = as_forward(Classifier(Mlp(widths=()), self.model.heads))
        return self.program(labels, {}, groups, reads, forward=forward, penalty=penalty, prepare=prepare)

    def joint(self) -> Program:
        """Σ ℓ_target + source_weight · Σ ℓ_source: one trunk, two heads, a batch of each task."""
        forward, source_forward = as_forward(self.joint_model), as_forward(self.source_model)
        target, source = (images.batches(self.config.batch_size) for images in (self.images, self.source_images))

        def prepare(data, rng, step):
            target_rng, source_rng = jax.random.split(rng)
            batch = target(data["target"], target_rng, step)
            return {**batch, "source": source(data["source"], source_rng, step)}

        def both(params, model_state, batch, ctx):
            outputs, model_state = forward(params, model_state, batch, ctx)
            source_outputs, model_state = source_forward(params, model_state, batch["source"], ctx)
            return {**outputs, "source": source_outputs}, model_state

        def source_loss(outputs, batch, ctx):
            return jnp.mean(softmax_cross_entropy(outputs["source"]["source_head"], batch["source"]["label"]))

        labels = {**self.moved.labels, "source_head": jax.tree.map(lambda _: TRANSFERRED, self.source.params["head"])}
        groups = {label: Group() for label in (TRANSFERRED, NEW)}
        terms = {"source": Term(0.0, source_loss)}
        return self.program(labels, terms, groups, (*LEARNING_RATES, "source"), forward=both, prepare=prepare)

    def untuned(self) -> Program:
        """The common recipe: Adam at 1e-3, coupled decay 1e-5 on the trunk and 1e-4 on the head."""
        groups = {TRANSFERRED: Group(1e-3, 1e-5, "coupled"), NEW: Group(1e-3, 1e-4, "coupled")}
        tx = per_label(self.moved.labels, groups, "adam")
        loss_fn = make_loss_fn(as_forward(self.model), {"task": TASK})
        return self.compiled(tx, loss_fn, self.images.batches(self.config.batch_size), (), tuple(self.moved.labels))

    @property
    def kind(self) -> Literal["coupled", "decoupled"]:
        """How a pull acts; a penalty in the loss goes through the momentum as coupled decay does."""
        return "decoupled" if self.config.decay == "decoupled" else "coupled"

    @property
    def pulls(self) -> dict[str, str]:
        """The rate behind every "pull/NAME" of a setting: a label's own pull goes to zero, the others elsewhere."""
        in_loss = self.config.decay == "loss"
        zero = {TRANSFERRED: "penalty/transferred/zero" if in_loss else "decay/transferred"}
        zero[NEW] = "penalty/new" if in_loss else "decay/new"
        return zero | {name: f"penalty/transferred/{name}" for name in TOWARDS if name != "zero"}

    # One run.

    def rates(self, method: str, setting: dict[str, float]) -> dict[str, float]:
        """A setting as rates; λ is the pull over Σ learning rates / (1 − momentum) of its label."""
        reads = self.programs[RECIPES[method].program].reads
        if not reads:
            return {}
        rate = {NEW: setting["learning_rate"], TRANSFERRED: setting["learning_rate"] * setting.get("ratio", 1.0)}
        asked = {f"learning_rate/{label}": value for label, value in rate.items()}
        for name, read in self.pulls.items():
            pull = setting.get(f"pull/{name}", setting.get("pull", 0.0) if name in rate else 0.0)
            kind = "coupled" if read.startswith("penalty/") else self.config.decay
            asked[read] = pull / (rate.get(name, rate[TRANSFERRED]) * self.reach[kind])
        asked["source"] = setting.get("source_weight", 0.0)
        return {read: asked[read] for read in reads}

    def train(self, name: str, setting: Setting, draw: Draw) -> Trained:
        """One setting on a report draw, followed by learning curves."""
        (trained,) = self.train_by(self.follow, name, [setting], draw)
        return trained

    def train_all(self, name: str, settings: list[Setting], draw: Draw) -> list[Trained | None]:
        """All settings on one draw in one sweep; None for those that diverged."""
        trained = self.train_by(self.sweep, name, settings, draw)
        return [None if not_finite(one.params) else one for one in trained]

    def train_by(self, run, name: str, settings: list[Setting], draw: Draw) -> list[Trained]:
        recipe, examples = RECIPES[name], self.examples(draw)
        params = self.fresh(draw) if recipe.start == "fresh" else self.transferred(draw).params
        starts = [params] * len(settings)
        if recipe.start == "probed":
            probing = [self.rates("features", {"learning_rate": one["head_learning_rate"]}) for one in settings]
            probed = run("head", starts, self.data("head", params, examples, draw), probing, draw)
            starts = [params for params, _ in probed]
        if recipe.program == "joint":
            starts = [{**start, "source_head": self.source.params["head"]} for start in starts]
        rates = [self.rates(name, setting) for setting in settings]
        ended = run(recipe.program, starts, self.data(recipe.program, params, examples, draw), rates, draw)
        return [
            Trained(name, params, rate, examples, curve) for (params, curve), rate in zip(ended, rates, strict=True)
        ]

    def data(self, program: str, params: Tree, examples: Examples, draw: Draw) -> dict[str, Any]:
        """What the program's steps read; for the head alone, features of the labelled examples."""
        order = self.key(draw, "order")
        if program == "head":
            features = outputs(self.model, params, self.target_images[examples.seen], self.images, "features")
            return on_device(Split(features, examples.labels[examples.seen]), order)
        target = on_device(Split(self.target_images, examples.labels), order, examples.seen)
        if program != "joint":
            return target
        return {"target": target, "source": {**self.source_data, "order": self.key(draw, "source order")}}

    # Two ways to run a program from some starts, one rate each: [(all parameters afterwards, points of the curves)].

    def sweep(self, name: str, starts: list[Tree], data, rates: list[dict[str, float]], draw: Draw):
        """All of them in one compiled program."""
        program = self.programs[name]
        columns = {
            "params": jax.tree.map(lambda *leaves: jnp.stack(leaves), *(program.own(start) for start in starts)),
            "rates": {rate: np.array([asked[rate] for asked in rates], np.float32) for rate in program.reads},
            "rng": jnp.stack([self.key(draw, "run")] * len(starts)),
        }
        swept = sweep(
            program.init,
            program.train,
            unscored,
            columns,
            data,
            {"anchor": self.moved.anchor},
            calls=program.calls,
            batching=program.batching,
        )
        states = jax.device_get(swept.states)  # on the host, or what starts from them is bound to a device
        return [({**start, **jax.tree.map(itemgetter(k), states.params)}, []) for k, start in enumerate(starts)]

    def follow(self, name: str, starts: list[Tree], data, rates: list[dict[str, float]], draw: Draw):
        """One after another, with points of learning curves on the way."""
        program, steps = self.programs[name], self.config.steps
        fifth = max(1, steps // 5)
        chunk = backend.steps_per_dispatch(self.config.chunk, steps, fifth)
        ended = []
        for start, asked in zip(starts, rates, strict=True):

            def point(state, start=start):
                return self.point({**start, **state.params})

            state, curve = fit(
                program.step,
                init_state(program.own(start), program.tx, self.key(draw, "run")),
                data,
                Fixed(asked, {"anchor": self.moved.anchor}),
                steps=steps,
                chunk=chunk,
                every=max(1, fifth // chunk) * chunk,
                evaluate=point,
            )
            ended.append((jax.block_until_ready({**start, **state.params}), curve))
        return ended

    # What is measured, on which images.

    def model_of(self, params: Tree) -> Classifier:
        return self.joint_model if "source_head" in params else self.model

    def validation(self, params: Tree, index: np.ndarray, labels: np.ndarray) -> float:
        """Accuracy on some of the target's training images."""
        predicted = predict(self.model_of(params), params, self.target_images[index], self.images)
        return accuracy(predicted, labels[index])

    def point(self, params: Tree) -> dict[str, float]:
        """A point of the learning curves; no test image is looked at."""
        figures = {"validation": self.validation(params, self.held, self.task.train.labels)}
        for what, by_label in self.norms(params).items():
            figures |= {f"{what}/{label}": float(value) for label, value in by_label.items()}
        return figures

    def validate(self, trained: Trained, draw: Draw) -> float:
        return self.validation(trained.params, trained.examples.held, trained.examples.labels)

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        params, recipe, examples = trained.params, RECIPES[trained.method], trained.examples
        predicted = predict(self.model_of(params), params, self.test_images, self.images)
        metrics = {
            "test": accuracy(predicted, self.task.test.labels),
            "train": self.validation(params, examples.seen, examples.labels),
        }
        worse = {name: predict(self.model_of(params), params, image, self.images) for name, image in self.worse.items()}
        metrics |= {f"corrupted/{name}": accuracy(found, self.task.test.labels) for name, found in worse.items()}
        if recipe.start != "fresh":
            metrics["source"] = self.source_accuracy(params)
        metrics |= {
            f"lambda/{name}": trained.rates[read] for name, read in self.pulls.items() if trained.rates.get(read)
        }
        metrics |= self.effective_rates(trained)
        curves = {name: np.array([row[name] for row in trained.curve]) for name in trained.curve[0]}
        curves["loss"] = curves.pop("task")  # without penalties, which differ from method to method
        if recipe.start == "fresh":  # no way from the source, and nothing is transferred
            curves = {name: curve for name, curve in curves.items() if not name.startswith("distance/")}
            metrics, curves = by_what_it_is(metrics), by_what_it_is(curves)
        return metrics, {"prediction": predicted, **{f"curve/{name}": curve for name, curve in curves.items()}}

    def source_accuracy(self, params: Tree) -> float:
        """Of the source's head, or the one trained jointly, on the trunk as it is now."""
        params = {"source_head": self.source.params["head"], **params}
        predicted = predict(self.source_model, params, self.source_test_images, self.source_images, "source_head")
        return accuracy(predicted, self.seen_source.test.labels)

    def effective_rates(self, trained: Trained) -> dict[str, float]:
        """lr/‖w‖² by label: before a normalisation, decay changes nothing but this."""
        norms = self.norms(trained.params)["norm"]
        rates = {label: trained.rates.get(f"learning_rate/{label}") for label in norms}
        return {f"effective_rate/{label}": rate / float(norms[label]) ** 2 for label, rate in rates.items() if rate}


def by_what_it_is(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures of a net in which the label of what others transfer is on a trunk that starts at random."""
    return {re.sub(f"/{TRANSFERRED}$", "/fresh trunk", name): value for name, value in figures.items()}


# ---------------------------------------------------------------- the experiment


def main(config: Config, workdir: Path) -> None:
    started = time.perf_counter()
    check(config)
    console = Terminal()
    report.print_plan(console, config.report_draws, len(contrasts_of(methods_of(config))))
    data = load(config.data, config.data_dir or None, progress=Stoppable)
    source_data = load(config.source, config.data_dir or None, progress=Stoppable) if config.source else data
    report.print_data(console, source=source_data, target=data)
    results = []
    tasks = [chosen(split, "splits", source_data, data, console) for split in config.splits]
    for source_task, task in tasks:
        check_tasks(config, source_task, task)
        check_examples(config, task)
        check_memory(config, task, config.trials)
    for split, (source_task, task) in zip(config.splits, tasks, strict=True):
        for examples in config.source_examples:
            room = workdir / f"{room_of(split)}-source_{examples or 'all'}"
            source = make_source(config, source_task, examples, room / "source")
            console.print(f"source model: {source.accuracy:.1%} of its {len(source_task.test)} test images are right")
            for n in config.n_per_class:
                problem = Problem(config, source, task, n)
                console.print(f"target: {some(task.classes)}; {n} labelled examples of each")
                report.print_batches(console, config.batch_size, n * len(task.classes))
                report.print_transfer(console, problem.moved)
                result = run(config, problem, split, examples, room / f"n_{n}")
                report.print_result(result, console, baseline=BASELINE, preset=config.preset)
                results.append(result)
    origin = data.origin if data is source_data else f"{source_data.origin} → {data.origin}"
    notices = dict.fromkeys(notice for _, task in tasks for notice in task.notice.split("; ") if notice)
    header = cli.header("cifar_transfer", config, started, data=origin, notice="; ".join(notices))
    for path in report.write_files(workdir, header, results, baseline=BASELINE):
        console.print(f"wrote {path}")


def chosen(split: str, flag: str, source: DataSet, target: DataSet, console: Terminal) -> tuple[DataSet, DataSet]:
    """The tasks of a split; if images had to be divided between them, a line says so."""
    where = f"--config.{flag}={split if len(split) <= 60 else f'{split[:60]}…'}"
    tasks = source_and_target(split, source, target, where=where)
    for role, task in zip(("source", "target"), tasks, strict=True):
        if len(task.classes) == 1:
            what = f"the {role} has one class, '{task.classes[0]}', and nothing to tell it from"
            raise InputError(what, where=where, todo="name two classes or more on both sides")
    if tasks[1].notice != target.notice:
        told = tasks[1].notice.removeprefix(f"{target.notice}; ")
        console.print(f"NOTE: {told}", style="bold yellow", soft_wrap=True)
    return tasks


def run(config: Config, problem: Problem, split: str, examples: int, workdir: Path) -> report.Result:
    """All methods on one problem, under the protocol of `compare`."""
    methods = problem.methods()
    names = [method.name for method in methods]
    honest = names if "all" in config.honest else [name for name in config.honest if name in names]
    honest = [name for name in honest if RECIPES[name].search]
    tuning = range(config.tuning_draws)
    reporting = range(config.tuning_draws, config.tuning_draws + config.report_draws)
    keep_to_data(workdir, problem.task.origin, *problem.task.content)
    store = RunStore(workdir, of=cli.identity(config, split, examples, problem.n))
    total = planned_runs(methods, config.trials, tuning, reporting, honest, config.folds)
    with Progress(total, "comparing") as progress:

        def tell(description: str) -> None:
            refuse_stop(f"before {description}")
            progress.describe(description)
            progress.advance(1)

        runs, contrasts = compare(
            methods,
            config.trials,
            tuning,
            reporting,
            validate=problem.validate,
            test=problem.test,
            honest=honest,
            folds=config.folds,
            contrasts=contrasts_of(names),
            store=store,
            progress=tell,
        )
    source, target = problem.source.task, problem.task
    title = f"{some(source.classes)} → {some(target.classes)}; {problem.n} labelled examples per class"
    size = examples or len(source.train)
    axes: dict[str, float | int | str] = {"split": split, "n_per_class": problem.n, "source_examples": size}
    truth = report.Truth(target.test.labels, target.classes)
    return report.Result(title, axes, runs, contrasts, store.arrays, truth=truth)


def contrasts_of(names: Sequence[str]) -> list[tuple[str, str]]:
    return [pair for pair in CONTRASTS if set(pair) <= set(names)]


def room_of(split: str) -> str:
    """A directory's name for a split, whatever its classes are called: "0-4_to_5-9"."""
    name = re.sub(r"[^\w.+-]", "_", split.replace(":", "_to_"))
    plain = name == split.replace(":", "_to_") and len(name) <= 100
    return name if plain else f"{name[:40]}-{zlib.crc32(split.encode()):08x}"


def methods_of(config: Config) -> tuple[str, ...]:
    return config.methods or tuple(RECIPES)


def check(config: Config) -> None:
    cli.check(config)
    if config.mesh:
        make_mesh(config.mesh)
    for flag in ("source_steps", "steps"):
        if config.chunk and getattr(config, flag) % config.chunk:
            what = f"{getattr(config, flag)} is no multiple of {config.chunk}"
            raise InputError(
                what, where=f"--config.{flag}", todo="give a --config.chunk that divides it, or leave it out"
            )
    methods = len(methods_of(config))
    draws = config.tuning_draws + len(config.honest) * config.folds * config.report_draws
    what = f"{methods} methods × {config.trials} trials × {draws} draws and folds"
    cli.refuse_too_many_runs(methods * config.trials * draws, what, where="--config.trials")


def check_examples(config: Config, task: DataSet) -> None:
    """Refuse more labelled examples than there are before the first model is trained, not after it."""
    try:
        pool = held_out(config, task)[1]
    except InputError as error:
        raise InputError(error.what, where=f"--config.validation={config.validation}", todo=error.todo) from None
    folded = {"all", *methods_of(config)} & set(config.honest)
    for n in config.n_per_class:
        for draw in range(config.tuning_draws + config.report_draws):  # a long tail is not the same in all of them
            seed = seed_of(config, draw)
            try:
                subset, given = labelled_examples(config, task, pool, n, seed)
                if folded:
                    stratified_folds(given[subset], config.folds, seed, classes=task.classes)
            except InputError as error:
                raise InputError(error.what, where=f"--config.n_per_class={n}", todo=error.todo) from None


def check_tasks(config: Config, source: DataSet, task: DataSet) -> None:
    """Refuse tasks between which no model can be carried over, before the first is trained."""
    if config.head == "shared" and not set(source.classes) & set(task.classes):
        what = f"{some(source.classes)} and {some(task.classes)} have no class in common"
        todo = "use --config.head=fresh, or name a class on both sides of the split"
        raise InputError(what, where="--config.head=shared", todo=todo)
    for examples in filter(None, config.source_examples):
        try:
            hold_out(source.train.labels, examples, config.seed)
        except InputError:
            what = f"{examples} of {len(source.train)} training images, and each class keeps one"
            raise InputError(what, where="--config.source_examples", todo="give fewer; 0 is all") from None
    theirs, ours = source.train.images.shape[1:], task.train.images.shape[1:]
    for shape in (theirs, ours):
        make_model(config, shape, head=1)
    if config.corruptions:
        check_corruptions(task.test.images)
    if theirs == ours:
        if config.source:
            check_units(source.train.images, task.train.images)
    elif {len(theirs), len(ours)} != {3} or not (theirs[-1] == ours[-1] or {theirs[-1], ours[-1]} == {1, 3}):
        what = f"source examples are {by_x(theirs)}, the target's {by_x(ours)}"
        raise InputError(what, where="--config.source", todo="give grey or colour images for both")
    elif config.model == "mlp" and theirs[:2] != ours[:2]:
        what = f"an mlp for source images of {by_x(theirs[:2])} cannot see the target's of {by_x(ours[:2])}"
        raise InputError(what, where="--config.model=mlp", todo="use --config.model=cnn, or bring both to one size")


def by_x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def levels(images: Any) -> tuple[float, float]:
    """(lowest, highest) value of a thousand images; all that 8 bits hold where they are of them."""
    some_of_them = np.asarray(images[:: -(-len(images) // 1000)])
    return (0, 255) if images.dtype == np.uint8 else (float(some_of_them.min()), float(some_of_them.max()))


def check_units(theirs: Any, ours: Any) -> None:
    """The trunk sees the target's images with the statistics of the source's: both must be in one unit."""
    (low, high), (own_low, own_high) = levels(theirs), levels(ours)
    small, large = sorted([max(-low, high), max(-own_low, own_high)])
    if large > 10 * small > 0:
        what = f"source images are from {low:g} to {high:g}, the target's from {own_low:g} to {own_high:g}"
        raise InputError(what, where="--config.source", todo="bring both to one unit, such as grey levels 0 to 255")


def check_corruptions(images: Any) -> None:
    low, high = levels(images)
    if images.ndim != 4 or images.shape[1] % 2 or images.shape[2] % 2:
        what = f"coarse pixels are blocks of 2x2, and test images are {by_x(images.shape[1:])}"
        raise InputError(what, where="--config.corruptions", todo="leave it out, or give images of even edges")
    if low < 0 or not 1 < high <= 255:
        what = f"they are made for grey levels 0 to 255, and test images are from {low:g} to {high:g}"
        raise InputError(what, where="--config.corruptions", todo="leave it out, or give images as uint8")


def check_memory(config: Config, task: DataSet, models: int) -> None:
    """Refuse a network of which so many do not fit into memory, each with its gradient and momentum."""
    model = make_model(config, task.train.images.shape[1:], head=len(task.classes))
    start = functools.partial(initialise, model, shape=task.train.images.shape[1:])
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(start, jax.random.key(0))))
    what = f"{models:,} models of {size:,} parameters side by side"
    todo = "use smaller ones, or fewer settings at a time"
    cli.refuse_beyond_memory(12.0 * size * (models + 1), what, where="--config.widths", todo=todo)


if __name__ == "__main__":
    cli.run(main, Config)
