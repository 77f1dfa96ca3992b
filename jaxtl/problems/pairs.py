"""A few labelled examples in several modalities, all or some of them in pairs; a network for each modality."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from jaxtl import bounds
from jaxtl.bounds import refuse_beyond_memory
from jaxtl.data import Split, batches, channel_statistics, hold_out, on_device, paired
from jaxtl.data.modalities import Modalities, drawn_pairs, pairs_by_class, thinned
from jaxtl.errors import InputError
from jaxtl.labels import SHARED
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, initialise
from jaxtl.optimizers import pull_per_rate
from jaxtl.problems.few_shot import falling, seed_of
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Setting, Trained, Truth, draw_key, rates_of, replicate_seed
from jaxtl.step import EVALUATE
from jaxtl.trees import Tree

USES = ("start", "order", "run")  # of a draw's keys
EACH = "pull/modality"  # of a setting: the pull of each modality's network
PAIRS = "pairs"  # the batch of examples of which all modalities are there

Outputs = Mapping[str, Any]  # {"features", "heads"} -> by modality [B, ...]
Fuse = Callable[[Tree, Outputs, Mapping[str, jax.Array]], jax.Array]  # (shared parameters, outputs, present) -> log p


@dataclasses.dataclass(frozen=True)
class PairsConfig:
    """The networks and the pairs: fields of an experiment's Config."""

    model: Literal["mlp", "cnn"] = "mlp"
    widths: bounds.Widths = (64,)  # of the network of each modality; the last is that of their common space
    paired: Annotated[float, bounds.Within(0, 1, "low")] = 1.0  # the share of labelled examples that are in pairs
    # how many times more labelled examples the first class has than the last; n of it
    imbalance: Annotated[float, bounds.Within(1, 1e6)] = 1.0
    validation: bounds.Count = 200  # examples of each modality, in pairs, that choose the settings
    fitting: bounds.Count = 100  # further ones, that rules with numbers are fitted to


class Examples(NamedTuple):
    """By modality indices into its training part; the k-th of pairs belong together."""

    pairs: dict[str, np.ndarray]
    alone: dict[str, np.ndarray]


class Parts(NamedTuple):
    """By modality indices into its training part, disjoint; the k-th of pairs belong together."""

    chooses: dict[str, np.ndarray]  # pairs
    fits: dict[str, np.ndarray]  # pairs, the numbers of rules
    pool: dict[str, np.ndarray]  # what labelled examples are drawn from


class Pairs:
    """n labelled examples of each class in every modality; a `protocol.Problem`.

    A network for each modality has a trunk and a head, labelled by its name; what several share is labelled `SHARED`.
    What is said of an example follows from all networks by a rule, which is among the shared parameters.

    Args:
        config: has the fields of `PairsConfig` and `Budget`.
        sets: one for all replicates, or several that they take in turn, with the same test labels.
        n: labelled examples of each class, in each modality.
        fuse: the rules.

    Raises:
        InputError: sets that differ in their modalities or test labels.
    """

    points = 5  # of a curve

    def __init__(self, config: Any, sets: Modalities | Sequence[Modalities], n: int, fuse: Fuse):
        self.sets = [sets] if isinstance(sets, Modalities) else list(sets)
        first = self.sets[0]
        for other in self.sets[1:]:
            if other.names != first.names or not np.array_equal(other.test.labels, first.test.labels):
                what = f"{first.name} and {other.name} have other modalities or test labels"
                raise InputError(what, where="Pairs sets", todo="test on the same classes in the same order")
        self.config, self.n, self.fuse, self.names = config, n, fuse, first.names
        self.title = f"{first.name}; {n} labelled examples per class of {' and '.join(self.names)}"
        self.origin = "; ".join(dict.fromkeys(one.origin for one in self.sets))
        self.content = [array for one in self.sets for array in one.content]
        self.own = ("held-out examples", *(["speakers that are tested"] if len(self.sets) > 1 else []))
        self.truth = Truth(first.test.labels, first.classes)
        self.scales = [{name: channel_statistics(one.train[name][name]) for name in self.names} for one in self.sets]
        self.shapes = {name: first.train[name][name].shape[1:] for name in self.names}
        trunk = Mlp(config.widths) if config.model == "mlp" else Cnn(config.widths)
        self.tower = Classifier(trunk, (("head", len(first.classes)),))
        self.schedule = falling(config.steps)
        self.reach = {"penalty": pull_per_rate(1.0, config.steps, schedule=self.schedule, momentum=config.momentum)}

    # What a draw decides: which examples are labelled and in pairs, where networks start, the order of batches.

    def set_of(self, draw: Draw) -> Modalities:
        """That of a draw's replicate."""
        return self.sets[draw.replicate % len(self.sets)]

    def scaled(self, draw: Draw, name: str, raw: np.ndarray) -> np.ndarray:
        """What the network of a modality is given: mean 0 and deviation 1 over what its set has to learn from."""
        mean, std = self.scales[draw.replicate % len(self.sets)][name]
        return ((raw - mean) / std).astype(np.float32)

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one of `USES`."""
        return draw_key(self.config.seed, draw, USES.index(use))

    @functools.cache  # noqa: B019  (a problem lives as long as its run)
    def parts(self, replicate: int) -> Parts:
        """What the training part of a replicate is used for."""
        train, seed = self.set_of(Draw(0, replicate=replicate)).train, replicate_seed(self.config.seed, replicate)
        found: list[dict[str, np.ndarray]] = [{}, {}, {}]
        for name in self.names:
            rest = np.arange(len(train[name]))
            for k, count in enumerate((self.config.validation, self.config.fitting)):
                held, kept = hold_out(train[name].labels[rest], min(count, len(rest) // 3), seed + k)
                found[k][name], rest = rest[held], rest[kept]
            found[2][name] = rest
        for part in found[:2]:
            place = pairs_by_class({name: train[name].labels[rows] for name, rows in part.items()}, seed)
            part |= {name: rows[place[name]] for name, rows in part.items()}
        return Parts(*found)

    def examples(self, draw: Draw) -> Examples:
        """What a draw trains on."""
        labels = {name: self.set_of(draw).train[name].labels for name in self.names}
        pool = self.parts(draw.replicate).pool
        seed, ratio = seed_of(self.config, draw), self.config.imbalance
        pairs, alone = drawn_pairs(labels, self.n, self.config.paired, seed, pool)
        if ratio > 1:
            pairs = thinned(labels, pairs, ratio, seed)
            each = {name: {name: rows} for name, rows in alone.items() if len(rows)}
            alone |= {name: thinned(labels, own, ratio, seed)[name] for name, own in each.items()}
        return Examples(pairs, alone)

    def inputs(self, draw: Draw, index: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(by modality what its network is given of some training examples, the labels of the first's)."""
        train = self.set_of(draw).train
        found = {name: self.scaled(draw, name, train[name][name][rows]) for name, rows in index.items()}
        first = min(index)
        return found, train[first].labels[index[first]]

    def start(self, draw: Draw) -> Weights:
        """Fresh networks."""
        keys = jax.random.split(self.key(draw, "start"), len(self.names))
        return Weights(
            {name: initialise(self.tower, key, self.shapes[name]) for key, name in zip(keys, self.names, strict=True)}
        )

    def data(self, program: Program, start: Weights, draw: Draw) -> dict[str, Any]:
        """Pairs with all modalities, and by its name those of each modality that are alone, where there are such."""
        examples, order = self.examples(draw), self.key(draw, "order")
        inputs, labels = self.inputs(draw, examples.pairs)
        found = {PAIRS: on_device(Split(**inputs, label=labels), order)}
        for k, name in enumerate(self.names if self.unpaired else ()):
            alone, labels = self.inputs(draw, {name: examples.alone[name]})
            found[name] = on_device(Split(**alone, label=labels), jax.random.fold_in(order, k))
        return found

    @property
    def unpaired(self) -> int:
        """How many labelled examples of a class, in each modality, are in no pair."""
        return self.n - max(1, round(self.config.paired * self.n))

    def batches(self) -> Callable:
        """The `prepare` of a step: as large a share of a batch is of pairs as of the examples."""
        size = self.config.batch_size
        alone = min(size - 1, round(size * self.unpaired / self.n))
        others = dict.fromkeys(self.names, batches(max(1, alone))) if self.unpaired else {}
        return paired(**{PAIRS: batches(size - alone)}, **others)

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`; "pull/modality" goes to the networks of all modalities."""
        asked = {name: value for name, value in setting.items() if name != EACH}
        asked |= {f"pull/{name}": setting[EACH] for name in self.names if EACH in setting}
        return rates_of(program, asked, self.reach)

    # What the networks say, and what is made of it.

    def seen(self, params: Tree, inputs: Mapping[str, jax.Array], ctx: Any) -> Outputs:
        """{"features": by modality [B, D], "heads": by modality [B, C]}."""
        forward, found = as_forward(self.tower), {}
        for name, image in inputs.items():
            found[name], _ = forward(params[name], {}, {"image": image}, ctx)
        features = {name: outputs["features"] for name, outputs in found.items()}
        return {"features": features, "heads": {name: outputs["head"] for name, outputs in found.items()}}

    @functools.cached_property
    def _seen(self) -> Callable[[Tree, Mapping[str, jax.Array]], Outputs]:
        return jax.jit(lambda params, inputs: self.seen(params, inputs, EVALUATE))

    @functools.cached_property
    def _fused(self) -> Callable[[Tree, Outputs, Mapping[str, jax.Array]], jax.Array]:
        return jax.jit(self.fuse)

    def outputs(self, weights: Weights, inputs: Mapping[str, Any]) -> Outputs:
        """See `seen`, of [N, ...] in blocks of one size, so that one program serves all."""
        count, block = len(inputs[self.names[0]]), len(self.truth.labels)
        params = {name: weights.params[name] for name in self.names}
        rows = np.resize(np.arange(count), -(-count // block) * block).reshape(-1, block)
        parts = [self._seen(params, {name: inputs[name][some] for name in self.names}) for some in rows]
        return jax.tree.map(lambda *of: np.concatenate(of)[:count], *parts)

    def answers(self, weights: Weights, outputs: Outputs, there: Sequence[str] | None = None) -> np.ndarray:
        """log p [N, C] by the rule among the shared parameters; of the modalities named, or of all."""
        count = len(outputs["heads"][self.names[0]])
        known = self.names if there is None else there
        present: dict[str, Any] = {name: np.full(count, name in known, np.float32) for name in self.names}
        return np.asarray(self._fused(weights.params[SHARED], outputs, present))

    def said_of(self, weights: Weights, draw: Draw, index: Mapping[str, np.ndarray]) -> tuple[Outputs, np.ndarray]:
        """(what the networks say of some training pairs, their labels)."""
        inputs, labels = self.inputs(draw, index)
        return self.outputs(weights, inputs), labels

    # What is measured.

    def point(self, weights: Weights, draw: Draw) -> dict[str, float]:
        """A point of the learning curve: accuracy on the pairs that choose."""
        outputs, labels = self.said_of(weights, draw, self.parts(draw.replicate).chooses)
        return {"validation": right(self.answers(weights, outputs), labels)}

    def validate(self, trained: Trained, draw: Draw) -> float:
        """Accuracy on the pairs that choose."""
        return self.point(trained.weights, draw)["validation"]

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Accuracy on test pairs, with some modalities absent, on what is worse, and on the pairs learned from.

        Metrics: "there/A+B" with only A and B present, "fits/A" of A alone on pairs it has learned from, "worse/…".
        """
        weights, labels = trained.weights, self.truth.labels
        test, worse = self.set_of(draw).test, self.set_of(draw).worse
        inputs = {name: self.scaled(draw, name, test[name]) for name in self.names}
        outputs = self.outputs(weights, inputs)
        said = self.answers(weights, outputs)
        fitted, learned_labels = self.said_of(weights, draw, self.examples(draw).pairs)
        metrics = {"test": right(said, labels), "train": right(self.answers(weights, fitted), learned_labels)}
        for some in (some for size in range(1, len(self.names)) for some in itertools.combinations(self.names, size)):
            metrics[f"there/{'+'.join(some)}"] = right(self.answers(weights, outputs, some), labels)
        for name in self.names:
            metrics[f"fits/{name}"] = right(self.answers(weights, fitted, [name]), learned_labels)
        for what, other in worse.items():
            changed = {name: self.scaled(draw, name, array) for name, array in other.items()}
            outputs = self.outputs(weights, {**inputs, **changed})
            metrics[f"worse/{what}"] = right(self.answers(weights, outputs), labels)
        curve = {name: np.array([row[name] for row in trained.curve]) for name in ("step", "loss", "validation")}
        kept = {f"curve/{name}": values for name, values in curve.items()} if trained.curve else {}
        return metrics, {"prediction": said.argmax(axis=-1).astype(np.uint8), **kept}


def right(said: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose class is the likeliest."""
    return float(np.mean(said.argmax(axis=-1) == labels))


def check_pairs(config: Any, sets: Sequence[Modalities], sizes: Sequence[int], models: int) -> None:
    """Refuse more labelled examples than there are, and networks that do not fit into memory.

    Args:
        config: has the fields of `PairsConfig` and `Budget`.
        sets: that replicates take in turn.
        sizes: labelled examples of a class.
        models: as many are trained side by side.

    Raises:
        InputError: naming the flag.
    """
    for n, k in itertools.product(sizes, range(len(sets))):
        problem = Pairs(config, sets, n, lambda shared, outputs, present: outputs["heads"][min(present)])
        try:
            problem.examples(Draw(0, replicate=k))
        except InputError as error:
            raise InputError(
                f"{error.where}: {error.what}", where=f"--config.n_per_class={n}", todo=error.todo
            ) from None
    like = {
        name: jax.eval_shape(lambda shape=shape: initialise(problem.tower, jax.random.key(0), shape))
        for name, shape in problem.shapes.items()
    }
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like))
    what = f"{models:,} times the networks of {len(like)} modalities, {size:,} parameters side by side"
    refuse_beyond_memory(12.0 * size * (models + 1), what, where="--config.widths", todo="use smaller ones")
