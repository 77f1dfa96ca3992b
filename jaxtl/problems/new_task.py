"""A trunk learned on one task, or on several, moved to another task with labels of other examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxtl.data.dataset import Split
from jaxtl.labels import NEW, TRANSFERRED, label_params
from jaxtl.losses import mean_of, softmax_cross_entropy, squared_error
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.problems.many_tasks import ManyTasks, make_net, measure_of_tasks, quality
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Recipe, Setting, Trained, rates_of
from jaxtl.step import EVALUATE
from jaxtl.transfer import transfer
from jaxtl.trees import Tree


class NewTask:
    """A further task of the same examples, labelled on others than those the trunks have learned from.

    Args:
        tasks: what the trunks were learned on.
        trunks: a draw -> trunks by name, learned on that draw.
    """

    points, own = 1, ManyTasks.own  # of a curve: nothing is shown of it

    def __init__(self, tasks: ManyTasks, trunks: Callable[[Draw], Mapping[str, Tree]]):
        config, self.tasks, self.origin, self.content = tasks.config, tasks, tasks.origin, tasks.content
        self.config, self.name, self.trunks = config, config.new_task, functools.lru_cache(trunks)
        self.title = f"{self.name}; {config.n_new} labelled examples"
        self.is_number = self.name in tasks.numbers
        self.measure = measure_of_tasks([self.name], [self.name] if self.is_number else [])
        self.net = make_net(config, tasks.shape, {self.name: tasks.tasks.classes[self.name] or 1})

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one use."""
        return self.tasks.key(draw, use)

    def start(self, draw: Draw) -> Weights:
        """A fresh network."""
        return Weights(self.net.init(self.key(draw, "new net")))

    def moved(self, trunk: str, draw: Draw) -> Weights:
        """One of the trunks of this draw under a fresh head."""
        fresh = self.start(draw).params
        return Weights(
            transfer(
                {"trunk": self.trunks(draw._replace(fold=None, folds=0))[trunk]}, fresh, reinit=[f"{self.name}/.*"]
            ).params
        )

    def seen(self, draw: Draw) -> np.ndarray:
        """Labelled examples of the new task: none of those that the trunks have learned from."""
        return self.tasks.labelled_order(draw)[self.config.n :][: self.config.n_new]

    def data(self, program: Program, start: Weights, draw: Draw) -> dict[str, Any]:
        """The labelled examples and their order."""
        part, seen = self.tasks.tasks.train, self.seen(draw)
        order = self.key(draw, "new order")
        return {"image": part.images[seen], self.name: part[self.name][seen], "order": order}

    def program(self) -> Program:
        """Trunk and head, pulled towards zero alike."""
        labels = label_params(self.net.init(jax.random.key(0)), [("trunk/.*", TRANSFERRED), (".*", NEW)])
        loss = squared_error if self.is_number else softmax_cross_entropy
        return make_program(
            self.net.forward,
            labels,
            {"task": Term(1.0, mean_of(loss, self.name, self.name))},
            {label: Group() for label in (TRANSFERRED, NEW)},
            {label: Term(0.0, l2) for label in (TRANSFERRED, NEW)},
            optimizer="nesterov",
            momentum=self.config.momentum,
            schedule=self.tasks.schedule,
            prepare=self.tasks.prepare,
            dense=self.config.model == "mlp",
        )

    def recipes(self, trunks: Mapping[str, str]) -> dict[str, Recipe]:
        """From nothing, and from every trunk.

        Args:
            trunks: by name, what it is in a line.
        """

        def moved(trunk: str) -> Callable:
            return lambda problem, draw: problem.moved(trunk, draw)

        search = ("learning_rate", "pull")
        found = {"scratch": Recipe(NewTask.program, search, "a fresh trunk", transfers=False)}
        moving = {trunk: Recipe(NewTask.program, search, means, start=moved(trunk)) for trunk, means in trunks.items()}
        return found | moving

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`."""
        return rates_of(program, setting, self.tasks.reach)

    @functools.cached_property
    def _outputs(self):
        return jax.jit(lambda params, image: self.net.forward(params, {}, {"image": image}, EVALUATE)[0][self.name])

    def score(self, weights: Weights, part: Split, index: np.ndarray) -> float:
        """Accuracy, or R² of numbers, on some examples."""
        found = np.asarray(self._outputs(weights.params, part.images[index]))
        return quality(found, part[self.name][index])

    def point(self, weights: Weights, draw: Draw) -> dict[str, float]:
        """Nothing is followed."""
        return {}

    def validate(self, trained: Trained, draw: Draw) -> float:
        """On the examples that choose."""
        return self.score(trained.weights, self.tasks.tasks.train, self.tasks.parts(draw.replicate)[0])

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """On the test examples, and on those it was trained on."""
        tasks = self.tasks.tasks
        tested = self.score(trained.weights, tasks.test, np.arange(len(tasks.test)))
        return {"test": tested, "train": self.score(trained.weights, tasks.train, self.seen(draw))}, {}
