"""A start that is learned from many small tasks of the source, to be adapted to the target."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import bounds
from jaxtl.data import Split, normalise
from jaxtl.devices import backend
from jaxtl.errors import InputError
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, softmax_cross_entropy
from jaxtl.models import as_forward
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.problems.few_shot import FewShot
from jaxtl.problems.images import accuracy, predict
from jaxtl.problems.source import CLASSIFY
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw
from jaxtl.selection import imaml, reptile
from jaxtl.step import EVALUATE, Fixed, TrainState, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.sweep import Sweep, sweep
from jaxtl.trees import Tree

ADAPTED = "adapted"  # the label of all parameters
OUTER = {"reptile": ("sgd", 0.1), "iMAML": ("adam", 1e-3)}  # how each moves the start


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """The small tasks and how they are learned: fields of an experiment's Config."""

    meta_steps: bounds.Steps = 300
    tasks: bounds.Count = 8  # side by side in a step of meta-learning
    inner_steps: bounds.Steps = 40
    inner_learning_rate: bounds.Rate = 0.02
    inner_penalty: bounds.Rate = 1.0


class SmallTasks:
    """Inner problems: n examples of a few classes, all parameters pulled towards where they start.

    Args:
        problem: its source gives small tasks, its draws are adapted to; its config has the fields of `MetaConfig`. A
            model without batch statistics.
    """

    def __init__(self, problem: FewShot):
        self.problem, self.config = problem, problem.config
        self.labels = jax.tree.map(lambda _: ADAPTED, problem.moved.labels)
        self.forward = as_forward(problem.model)
        self.pull = {ADAPTED: Term(self.config.inner_penalty, l2, ("anchor",))}
        self.inner, self.on_target = (self._program(schedule) for schedule in (None, problem.schedule))
        self.train = make_epoch(self.inner.step, self.config.inner_steps)
        self.train_on_target = make_epoch(self.on_target.step, self.config.steps)

    def _program(self, schedule) -> Program:
        groups = {ADAPTED: Group(self.config.inner_learning_rate)}
        how = {"optimizer": "nesterov", "momentum": self.config.momentum, "schedule": schedule}
        return make_program(self.forward, self.labels, {"task": CLASSIFY}, groups, self.pull, **how)

    def score(self, state: TrainState, query: Mapping[str, jax.Array], fixed: Fixed) -> jax.Array:
        """Minus the log-loss of a task's query."""
        logits = self.forward(state.params, {}, query, EVALUATE)[0]["head"]
        return -jnp.mean(softmax_cross_entropy(logits, query["label"]))

    def right(self, state: TrainState, data: Any, fixed: Fixed) -> jax.Array:
        """Accuracy on held-out examples of the target."""
        held = fixed.given["held"]
        return jnp.mean(jnp.argmax(self.forward(state.params, {}, held, EVALUATE)[0]["head"], axis=-1) == held["label"])

    # Learning a start.

    def sample(self, data: jax.Array, rng: jax.Array, step: Any) -> dict[str, Any]:
        """Small tasks, [tasks, ...]: as many of the source's classes as the target has, in any order.

        Support and query come from different halves of the images.
        """
        count, half, n = len(data), data.shape[1] // 2, self.problem.n
        kept = min(count, len(self.problem.task.classes))

        def task(rng):
            order_rng, support_rng, query_rng = jax.random.split(rng, 3)
            classes = jax.random.permutation(order_rng, count)[:kept]

            def part(rng, first):
                which = first + jax.random.randint(rng, (kept, n), 0, half)
                images = data[classes[:, None], which].reshape(-1, *data.shape[2:])
                return self._batch(images, jnp.repeat(jnp.arange(kept), n))

            return {"support": part(support_rng, 0), "query": part(query_rng, half)}

        return jax.vmap(task)(jax.random.split(rng, self.config.tasks))

    def learn(self, kind: Literal["reptile", "iMAML"], starts: Mapping[str, Tree]) -> dict[str, tuple[Tree, float]]:
        """Meta-learning on the source's training images, all starts by one compiled step.

        Args:
            kind: see `jaxtl.selection.reptile` and `imaml`.
            starts: {name: parameters}.

        Returns:
            {name: (parameters afterwards, seconds)}.

        Raises:
            InputError: a source class with a single image.
            Interrupted, NotFinite: as `fit`.
        """
        config = self.config
        how, learning_rate = OUTER[kind]
        schedule = optax.cosine_decay_schedule(1.0, config.meta_steps)
        tx = per_label(self.labels, {ADAPTED: Group(learning_rate)}, how, schedule=schedule)
        step, data = make_train_step(self._gradient(kind), tx, self.sample), by_class(self.problem.source.task.train)
        chunk, found = backend.steps_per_dispatch(config.chunk, config.meta_steps), {}
        for name, start in starts.items():
            began = time.perf_counter()
            state = init_state(start, tx, jax.random.key(config.seed))
            state, _ = fit(step, state, data, Fixed(), steps=config.meta_steps, chunk=chunk, progress=name)
            found[name] = state.params, time.perf_counter() - began
        return found

    def _gradient(self, kind: str):
        """Of the start."""

        def init(anchor, rng):
            return self.inner.start(Weights(anchor), rng)

        if kind == "reptile":
            return reptile(init, self.train, self.score)
        inner = total_gradient(make_loss_fn(self.forward, {"task": CLASSIFY}, labelled(self.labels, self.pull)))
        return imaml(init, self.train, self.score, inner)

    # Using it.

    def adapt(self, start: Tree, draw: Draw, settings: Sequence[tuple[float, float]]) -> Sweep:
        """Every setting from one start, on the labelled examples of a draw; scores are held-out accuracies.

        Args:
            start: parameters.
            draw: on what.
            settings: (learning rate, λ towards the start).
        """
        problem, (learning_rates, penalties) = self.problem, zip(*settings, strict=True)
        examples, labels = problem.examples(draw), problem.task.train.labels
        data = self._batch(problem.target_images[examples.seen], examples.labels[examples.seen])
        held = self._batch(problem.target_images[problem.held], labels[problem.held])
        columns = {
            "params": jax.tree.map(lambda leaf: jnp.stack([leaf] * len(settings)), start),
            "learning_rate": np.array(learning_rates),
            "penalty": np.array(penalties),
        }
        given = {"anchor": start, "held": held}
        return sweep(self._begin, self.train_on_target, self.right, columns, data, given, batching="vmap")

    def test(self, swept: Sweep, setting: int) -> float:
        """Accuracy on test images of one of the settings."""
        problem, params = self.problem, jax.tree.map(lambda leaf: leaf[setting], swept.states.params)
        predicted = predict(problem.model, Weights(params), problem.test_images, problem.images)
        return accuracy(predicted, problem.task.test.labels)

    def _begin(self, point):
        """Of a sweep on the target."""
        rates = {f"{rate}/{ADAPTED}": point[rate] for rate in ("learning_rate", "penalty")}
        return self.on_target.start(Weights(point["params"]), jax.random.key(0)), rates

    def _batch(self, images: jax.Array, labels: Any) -> dict[str, jax.Array]:
        mean, std = self.problem.images.mean, self.problem.images.std
        return {"image": normalise(images, mean, std), "label": jnp.asarray(labels)}


def by_class(part: Split) -> jax.Array:
    """Images [classes, as many as the smallest class has, ...].

    Raises:
        InputError: a class with a single image.
    """
    places = [np.flatnonzero(part.labels == label) for label in range(part.labels.max() + 1)]
    count = min(map(len, places))
    if count < 2:
        what = "a source class has a single image, and small tasks need one to learn from and one to be judged by"
        raise InputError(what, where="--config.split", todo="choose other source classes")
    return jnp.asarray(np.stack([part.images[index[:count]] for index in places]))
