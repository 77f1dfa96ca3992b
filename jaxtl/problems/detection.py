"""Boxes in pictures: a detector on the trunk of a classifier, and few pictures with boxes to learn from."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import bounds
from jaxtl.data import DataSet, batches, channel_statistics, hold_out, normalise, on_device
from jaxtl.data.boxed import flip_boxed
from jaxtl.data.transforms import normalised
from jaxtl.detection import decoded, detection_loss
from jaxtl.errors import InputError
from jaxtl.models import Cnn, initial_model_state, initialise
from jaxtl.models.detector import Detector, stride_of
from jaxtl.optimizers import pull_per_rate
from jaxtl.penalties import Term
from jaxtl.problems.few_shot import falling, seed_of
from jaxtl.problems.images import outputs
from jaxtl.problems.source import Source
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Setting, Trained, draw_key, rates_of, replicate_seed
from jaxtl.protocol.detections import MAP, average_precision_50, average_precisions
from jaxtl.transfer import Transfer, transfer
from jaxtl.trees import Tree

USES = ("order", "head", "run")  # of a draw's keys
BLOCK = 24  # pictures that are looked at together


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """The detector and what is held out: fields of an experiment's Config, beside `SourceConfig`'s."""

    pooling: bounds.Count = 2  # pictures are first averaged over blocks of this edge
    head_width: bounds.Width = 64  # channels of the detector's head: up to 8, or a multiple of it
    mirror: Literal["both", "across", "no"] = "both"  # how pictures are mirrored: also upside down, left to right, not
    found: Annotated[int, bounds.Within(1, 1000)] = 60  # boxes that are reported of a picture, the surest ones
    validation: bounds.Count = 60  # training pictures outside every draw that choose settings
    # No fields here: by SGD it hardly learns, and Adam divides a pull in the loss by the size of the gradient.
    optimizer, decay, normalisation = "adam", "decoupled", "group"


class Pictures(NamedTuple):
    """How pictures with boxes reach a detector.

    Attributes:
        shape: [H, W, C].
        mean, std: [C] that they are normalised by.
        axes: along which they are mirrored: 0, 1 (left to right) or 2.
    """

    shape: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    axes: int = 0

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """What a detector is given of one."""
        return jax.ShapeDtypeStruct(self.shape, np.float32)

    def batch(self, raw: jax.Array) -> dict[str, jax.Array]:
        """What a detector is given of raw ones [N, H, W, C]."""
        return {"image": normalise(raw, self.mean, self.std)}

    def batches(self, batch_size: int) -> Callable:
        """The `prepare` of a step."""
        flips = [flip_boxed(upright=self.axes == 1)] if self.axes else []
        return batches(batch_size, *flips, normalised(self.mean, self.std))


class Detection:
    """n pictures with boxes, and a source model whose trunk is carried over; a `protocol.Problem`.

    Recipes of `methods.finetuning` that read labels, anchor and objective run on it.

    Args:
        config: has the fields of `SourceConfig`, `DetectionConfig` and `Budget`.
        source: a classifier of images of as many channels, or one for each replicate.
        task: pictures with "box" and "box_class".
        n: pictures to learn from.

    Attributes:
        moved: the source's trunk under a fresh head: labels and anchor, the same for every draw.
        model, stride: the detector, and the pixels of a cell.
        objective: what its answers pay.

    Raises:
        InputError: pictures without boxes, or of other channels than the source's, fewer than asked for, edges that
            cells do not divide.
    """

    points = 3  # of a curve
    measure = MAP
    own = ("held-out examples",)

    def __init__(self, config: Any, source: Source | Sequence[Source], task: DataSet, n: int):
        self.sources = [source] if isinstance(source, Source) else list(source)
        self.config, self.task, self.n = config, task, n
        check_detection(config, self.sources[0].task, task, [n])
        axes = {"both": 2, "across": 1, "no": 0}[config.mirror]
        self.images: Any = Pictures(task.train.images.shape[1:], *channel_statistics(task.train.images), axes)
        self.model = _detector(config, task)
        self.stride = stride_of(self.model, self.images.shape)
        self.objective = Term(1.0, detection_loss(len(task.classes), self.stride))
        self.title = f"{self.sources[0].task.name} → boxes in {task.name}; {n} pictures"
        self.origin, self.content = task.origin, task.content
        self.pictures = {part: jnp.asarray(getattr(task, part).images) for part in ("train", "test")}
        self.truth_of = {part: true_boxes(getattr(task, part)) for part in ("train", "test")}
        self.schedule, self.decay_kind = falling(config.steps), config.decay
        self.moved = self.transferred(Draw(0))

    # A draw is one seed for pictures, head, order and mirroring, the same for every method.

    @functools.cache  # noqa: B019  (a problem lives as long as its run)
    def parts(self, replicate: int) -> tuple[np.ndarray, np.ndarray]:
        """(training pictures that choose the settings, those that draws are made of): indices."""
        count = _held(self.config, self.task)
        return hold_out(self.task.train.strata, count, replicate_seed(self.config.seed, replicate))

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one of `USES`."""
        return draw_key(self.config.seed, draw, USES.index(use))

    def examples(self, draw: Draw) -> np.ndarray:
        """The pictures [n] of a draw."""
        _, pool = self.parts(draw.replicate)
        return np.random.default_rng(seed_of(self.config, draw)).permutation(pool)[: self.n]

    def data(self, program: Program, start: Weights, draw: Draw) -> Any:
        """The pictures of a draw with their boxes."""
        part = self.task.train.having(image=self.pictures["train"])
        return on_device(part, self.key(draw, "order"), self.examples(draw))

    # Where training starts, and with which rates.

    def fresh(self, draw: Draw) -> Weights:
        """Nothing from the source."""
        params = initialise(self.model, self.key(draw, "head"), self.images.like)
        return Weights(params, initial_model_state(self.model, self.images.like))

    def transferred(self, draw: Draw) -> Transfer:
        """What `start` copies, with labels, anchor and report."""
        source = self.sources[draw.replicate if len(self.sources) > 1 else 0]
        return transfer(source.weights.params, self.fresh(draw).params, reinit=["head/.*"])

    def start(self, draw: Draw) -> Weights:
        """The source's trunk under a fresh head."""
        return Weights(self.transferred(draw).params)

    @functools.cache  # noqa: B019
    def anchor(self, replicate: int) -> Tree:
        """Where transferred parameters are pulled to."""
        return self.transferred(Draw(0, replicate=replicate)).anchor

    def given(self, draw: Draw) -> dict[str, Tree]:
        """What the programs of a draw read."""
        return {"anchor": self.anchor(draw.replicate)}

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`."""
        steps = program.steps or self.config.steps
        reach = pull_per_rate(1.0, steps, schedule=falling(steps), decay_kind="decoupled")
        return rates_of(program, setting, {"decay": reach})

    # What is measured, on which pictures.

    def found(self, weights: Weights, part: str, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """[N, K, 6] boxes that are found on pictures of the "train" or "test" part, see `decoded`."""
        said = outputs(self.model, weights, self.pictures[part][index], self.images, "head", BLOCK)
        return np.asarray(_boxes(said, self.stride, self.config.found))

    def score(self, weights: Weights, part: str, index: np.ndarray | slice = slice(None)) -> float:
        """mAP on some pictures."""
        return self.measure.score(self.truth_of[part][index], self.found(weights, part, index))

    def point(self, weights: Weights, draw: Draw) -> Mapping[str, float]:
        """A point of the learning curve: mAP on the pictures that choose."""
        held, _ = self.parts(draw.replicate)
        return {"validation": self.score(weights, "train", held)}

    def validate(self, trained: Trained, draw: Draw) -> float:
        """mAP on the pictures that choose."""
        return self.point(trained.weights, draw)["validation"]

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """mAP, AP50 and AP50 of each class on test pictures, once; and what was found there."""
        truth, found = self.truth_of["test"], self.found(trained.weights, "test")
        of_class = average_precisions(truth, found)[0]
        metrics = {
            "test": self.measure.score(truth, found),
            "train": self.score(trained.weights, "train", self.examples(draw)),
            "ap50": average_precision_50(truth, found),
            **{f"ap50/{name}": float(one) for name, one in zip(self.task.classes, of_class, strict=False)},
        }
        names = {"step": "step", "loss": "task", "validation": "validation"} if trained.curve else {}
        curves = {f"curve/{name}": np.array([row[its] for row in trained.curve]) for name, its in names.items()}
        return metrics, {"found": found, **curves}


@functools.partial(jax.jit, static_argnames=("stride", "most"))
def _boxes(said: jax.Array, stride: int, most: int) -> jax.Array:
    return decoded(said, stride, most)


def true_boxes(part: Any) -> np.ndarray:
    """[N, M, 5] boxes and classes of a part of a set, as `average_precisions` takes them."""
    return np.concatenate([part["box"], part["box_class"][..., None]], axis=2)


def _detector(config: Any, task: DataSet) -> Detector:
    trunk = Cnn(config.widths, config.normalisation, config.pooling)
    return Detector(trunk, len(task.classes), width=config.head_width, normalisation=config.normalisation)


def _held(config: Any, task: DataSet) -> int:
    """How many pictures choose."""
    return min(config.validation, len(task.train) // 4)


def check_detection(config: Any, source_task: DataSet, task: DataSet, sizes: Collection[int]) -> None:
    """Refuse what does not go together, before the source model is trained.

    Args:
        config: has the fields of `DetectionConfig`.
        source_task: what the source model classifies.
        task: pictures with boxes.
        sizes: pictures to learn from.

    Raises:
        InputError: pictures without boxes, or of other channels than the source's, or fewer than asked for; a detector
            that is too deep, too large, or whose cells do not divide the pictures.
    """
    if not {"image", "box", "box_class"} <= set(task.train.names):
        what = f"'{task.name}' has {', '.join(task.train.names)}, and no boxes"
        raise InputError(what, where="Detection", todo='give "image", "box" and "box_class", see data.boxed')
    ours, theirs = task.train.images.shape[-1], source_task.train.images.shape[-1]
    if ours != theirs:
        what = f"pictures have {ours} channels, the source model's {theirs}"
        raise InputError(what, where="Detection", todo="give a source model of as many channels")
    most = len(task.train) - _held(config, task)
    if max(sizes) > most:
        what = f"{max(sizes)} pictures, and there are {most} beside those that choose"
        raise InputError(what, where="--config.n_pictures", todo=f"give {most} at most")
    if config.head_width > 8 and config.head_width % 8:  # channels are normalised by eights
        what = f"{config.head_width} is no multiple of 8"
        raise InputError(what, where="--config.head_width", todo="give one, or 8 at most")
    model, kind = _detector(config, task), task.train.images.shape[1:]
    stride_of(model, kind)
    params = jax.eval_shape(lambda: initialise(model, jax.random.key(0), kind))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    what, todo = f"{config.trials:,} models of {size:,} parameters side by side", "use smaller ones, or fewer trials"
    bounds.refuse_beyond_memory(12.0 * size * (config.trials + 1), what, where="--config.head_width", todo=todo)
