"""Labelled pictures of one's own and a trunk: every draw is a part of them, and what it leaves out judges it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.data import Split, on_device, stratified_folds
from jaxtl.models import Classifier, cut, initial_model_state, initialise
from jaxtl.models.still import Still
from jaxtl.optimizers import pull_per_rate
from jaxtl.penalties import Term
from jaxtl.problems.images import Images, outputs
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Measure, Setting, Trained, draw_key, rates_of
from jaxtl.transfer import Transfer, transfer
from jaxtl.trees import among

BLOCK = 64  # pictures at a time, all blocks full, so that one program serves every number of them
USES = ("head", "order", "run")  # of a draw's keys
HEAD = "head"
INNER = 1000  # deals within draws have numbers from here on


class Examples(NamedTuple):
    """What is labelled.

    Attributes:
        labels: [N] integers; of several labels 0 and 1 [N, C], of numbers [N, 1], both float32.
        groups: [N] of what must not be divided, or None.
        classes: a name for each output of the head.
        weights: [N] of each example in the loss; None: all alike.
        strata: [N] integers that folds have equal shares of; None: the labels.
    """

    labels: np.ndarray
    groups: np.ndarray | None
    classes: tuple[str, ...]
    weights: np.ndarray | None = None
    strata: np.ndarray | None = None

    @property
    def dealt_by(self) -> np.ndarray:
        """[N] integers that folds have equal shares of."""
        return self.labels if self.strata is None else self.strata


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Which examples a draw learns from and which it is judged by.

    A report draw of seed s leaves out fold s mod `folds` of repeat s // `folds`; the draw `whole` learns from all. A
    draw with a fold of its own leaves that out too, of what it would have learned from: so it chooses its settings.

    Attributes:
        examples: all of them.
        folds, repeats: of the report draws.
        seed: of the deals.
    """

    examples: Examples
    folds: int
    repeats: int
    seed: int
    _deals: dict = dataclasses.field(default_factory=dict, repr=False)

    @property
    def whole(self) -> Draw:
        """Learns from every example."""
        return Draw(self.folds * self.repeats)

    @property
    def draws(self) -> range:
        """Seeds of the report draws."""
        return range(self.folds * self.repeats)

    def of(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """(rows to learn from, rows to be judged by), ascending."""
        rows, out = np.arange(len(self.examples.labels)), np.arange(0)
        if draw.seed in self.draws:
            repeat, fold = divmod(draw.seed, self.folds)
            rows, out = self._dealt(rows, self.folds, repeat)[fold]
        if draw.fold is not None:
            rows, out = self._dealt(rows, draw.folds, INNER + draw.seed)[draw.fold]
        return rows, out

    def _dealt(self, rows: np.ndarray, folds: int, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        if (folds, number) not in self._deals:
            self._deals[folds, number] = self._deal(rows, folds, number)
        return self._deals[folds, number]

    def _deal(self, rows: np.ndarray, folds: int, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Stratified, groups together, a class of few examples in as many folds as it has, and nothing in more."""
        groups = None if self.examples.groups is None else self.examples.groups[rows]
        labels = self.examples.dealt_by[rows]
        classes = self.examples.classes if self.examples.strata is None else ()
        seed, nothing = 100_000 * self.seed + number, np.arange(0)
        able = min(folds, int(np.bincount(labels).max()), *(() if groups is None else (len(np.unique(groups)),)))
        parts = stratified_folds(labels, able, seed, classes=classes, groups=groups, rare=True) if able > 1 else []
        return [(rows[train], rows[out]) for train, out in parts] + [(rows, nothing)] * (folds - len(parts))


class Inputs(NamedTuple):
    """What the trained part of a model is given, and how: raw pictures, or what the frozen part makes of them.

    Attributes:
        array: [N, ...] on the device.
        images: how it reaches the model.
    """

    array: jax.Array
    images: Images

    @property
    def mean(self) -> np.ndarray:
        """Of each channel."""
        return self.images.mean

    @property
    def std(self) -> np.ndarray:
        """Of each channel."""
        return self.images.std

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.images.shape

    def batches(self, batch_size: int) -> Callable:
        """The `prepare` of a step."""
        return self.images.batches(batch_size)

    @classmethod
    def kept(cls, array: Any) -> Inputs:
        """Of outputs of a frozen part, which come as they are."""
        return cls(jnp.asarray(array), Images.kept(array.shape[1:]))


def parted(model: Classifier, depth: int) -> tuple[Any, Classifier]:
    """(the frozen part or None, the part that is trained with its batch statistics held) of a model cut at a depth."""
    below, above = cut(model, depth) if depth else (None, model)
    return below, Classifier(Still(above.trunk), above.heads)


class Folder:
    """Labelled pictures and a trunk, some last stages of which are trained; a `protocol.Problem` for fine-tuning.

    Args:
        config: has the fields of `Budget`.
        trunk: the params and model_state of a pretrained trunk.
        model: the part that is trained, of `parted`.
        inputs: what it is given.
        features: [N, D] what the whole frozen trunk makes of the pictures, for heads that are trained alone.
        parts: who learns from what.
        measure: what is asked.
        kind: what a label is, see `finetune.kinds.Kind`: its objective and its heads are read.

    Attributes:
        objective: what an answer pays.
        moved: the trunk under a fresh head: labels and anchor, the same for every draw.
        schedule: step -> factor on every learning rate.
    """

    points = 1

    def __init__(
        self,
        config: Any,
        trunk: Any,
        model: Classifier,
        inputs: Inputs,
        features: jax.Array,
        parts: Parts,
        measure: Measure,
        kind: Any,
    ):
        self.config, self.model, self.images, self.parts, self.measure = config, model, inputs, parts, measure
        self.features, self.examples, self.kind = features, parts.examples, kind
        self.objective: Term = kind.objective(len(self.examples.classes))
        self.title, self.origin = f"{len(self.examples.labels)} labelled pictures", "one's own"
        self.content = (features, self.examples.labels)
        self.schedule = optax.cosine_decay_schedule(1.0, config.steps)
        like = jax.eval_shape(lambda: self.fresh(Draw(0)).params)["trunk"]
        self.trunk = Weights(among(like, trunk.params), trunk.model_state)
        width = features.shape[-1]
        head = {"kernel": np.zeros((width, len(self.examples.classes)), np.float32)}  # of which recipes ask the width
        self.source = SimpleNamespace(weights=Weights({HEAD: head}))
        self.moved = self.transferred(Draw(0))

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one of `USES`."""
        return draw_key(self.config.seed, draw, USES.index(use))

    # Where training starts, and with which rates.

    def fresh(self, draw: Draw) -> Weights:
        """Random weights for all that is trained."""
        params = initialise(self.model, self.key(draw, HEAD), self.images.shape)
        return Weights(params, initial_model_state(self.model, self.images.shape))

    def start(self, draw: Draw) -> Weights:
        """The trunk under a fresh head."""
        fresh = self.fresh(draw)
        state = {
            name: {"trunk": among(tree["trunk"], self.trunk.model_state[name])}
            for name, tree in fresh.model_state.items()
        }
        return Weights(self.transferred(draw).params, state)

    def transferred(self, draw: Draw) -> Transfer:
        """What `start` copies, with labels and anchor."""
        return transfer({"trunk": self.trunk.params}, self.fresh(draw).params, reinit=["head/.*"])

    @functools.cached_property
    def reach(self) -> dict[str, float]:
        """Of a learning rate 1 in a whole run."""
        of = functools.partial(pull_per_rate, 1.0, self.config.steps, schedule=self.schedule)
        return {"penalty": of(momentum=self.config.momentum, decay_kind="coupled")}

    @property
    def decay_kind(self) -> Literal["coupled", "decoupled"]:
        """How a decay in the optimizer would act."""
        return "coupled"

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`."""
        return rates_of(program, setting, self.reach)

    # What is trained on, and judged by.

    def data(self, program: Program, start: Weights, draw: Draw) -> Any:
        """All pictures, with the order in which a draw goes through its own: of one shape, whatever its size.

        Every example of the draw comes as often as every other in the run as a whole, once more or less.
        """
        array = self.features if set(program.labels) == {HEAD} else self.images.array
        fields: dict[str, Any] = {"image": array, "label": self.examples.labels}
        if self.examples.weights is not None:
            fields["mask"] = self.examples.weights.astype(np.float32)
        rows, _ = self.parts.of(draw)
        count = self.config.steps * self.config.batch_size
        generator = np.random.default_rng([self.config.seed, draw.seed, draw.folds, draw.fold or 0])
        times = -(-count // len(rows))
        index = np.concatenate([generator.permutation(rows) for _ in range(times)])[:count]
        return on_device(Split(**fields), self.key(draw, "order"), index)

    def logits(self, weights: Weights, rows: np.ndarray) -> np.ndarray:
        """[n, C] of some examples, in blocks that are all full."""
        filled = np.resize(rows, -(-len(rows) // BLOCK) * BLOCK)
        array, images = self.images.array[filled], self.images.images
        return outputs(self.model, weights, array, images, HEAD, BLOCK)[: len(rows)]

    def point(self, weights: Weights, draw: Draw) -> Mapping[str, float]:
        """Nothing is followed by a curve."""
        return {}

    def validate(self, trained: Trained, draw: Draw) -> float:
        """The measure on what the draw leaves out, larger being better."""
        _, out = self.parts.of(draw)
        return self.measure.better(self.measure.score(self.examples.labels[out], self.logits(trained.weights, out)))

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """The measure on what the draw leaves out, with what is said of each of them."""
        _, out = self.parts.of(draw)
        logits = self.logits(trained.weights, out)
        return {"test": self.measure.score(self.examples.labels[out], logits)}, {"logits": logits, "rows": out}
