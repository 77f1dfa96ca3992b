"""Ways to learn several tasks, each with and without a tuned L2 pull; rows of a table on `problems.ManyTasks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.labels import SHARED, having, label_params, label_set
from jaxtl.losses import make_loss_fn
from jaxtl.methods.multitask.combine import (
    cagrad_weights,
    equal_weights,
    imtl_g_weights,
    mgda_weights,
    nash_weights,
    pcgrad_weights,
)
from jaxtl.methods.multitask.gradients import surgery
from jaxtl.methods.multitask.weightings import (
    LOG_VARIANCES,
    WEIGHTING,
    by_dwa,
    by_famo,
    by_gls,
    by_rlw,
    by_uncertainty,
    weigh,
)
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.problems import ManyTasks
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Recipe
from jaxtl.step import Context, total_gradient
from jaxtl.trees import Tree

WEIGHTINGS: dict[str, Callable] = {  # from losses, in one backward pass; made for a number of steps in an epoch
    "uncertainty": lambda epoch: by_uncertainty(),
    "dwa": by_dwa,
    "gls": lambda epoch: by_gls(),
    "rlw": lambda epoch: by_rlw(),
    "famo": lambda epoch: by_famo(),
}
SURGERIES = {  # from gradients, a backward pass for each task
    "pcgrad": pcgrad_weights,
    "mgda": mgda_weights,
    "cagrad": cagrad_weights,
    "imtl_g": imtl_g_weights,
    "nash": nash_weights,
}
MEANS = {  # what the methods are, one line each
    "single": "a model for each task; nothing is shared",
    "equal": "the plain sum of the tasks' losses on a shared trunk",
    "fixed": "a sum with a weight for each task, chosen by validation",
    "uncertainty": "a loss counts by 1/(2σ²), with a σ for each task that is learned beside the network",
    "dwa": "dynamic weight average: a task whose loss fell slowly in the last epochs counts more",
    "gls": "the geometric mean of the losses instead of their sum",
    "rlw": "random weights, drawn anew in every step",
    "famo": "weights that are learned so that all losses fall by the same factor",
    "pcgrad": "each gradient is projected off those that it conflicts with, then all are added up",
    "mgda": "the shortest vector among all averages of the gradients",
    "cagrad": "near the mean gradient, the direction that is best for the worst task",
    "imtl_g": "the combination with equal projections on all gradients' directions",
    "nash": "the Nash bargaining solution: no other direction raises the product of the tasks' gains",
}
WITH_PULLS = "with a tuned pull towards 0 on the trunk and another on the heads"
PULLED = "_l2"  # after the name of a method: with a tuned pull towards 0 on the trunk, and another on the heads
MANY = 500  # labelled examples, enough for the cosines of their gradients


def program(problem: ManyTasks, labels: Tree, forward: Callable, **how: Any) -> Program:
    """The losses of all tasks, and a pull towards 0 on trunk and heads."""
    return make_program(
        forward,
        labels,
        problem.terms,
        {label: Group() for label in label_set(labels)},
        {label: Term(0.0, l2) for label in problem.labels},
        optimizer="nesterov",
        momentum=problem.config.momentum,
        schedule=problem.schedule,
        prepare=problem.prepare,
        dense=problem.config.model == "mlp",
        **how,
    )


def summed(problem: ManyTasks) -> Program:
    """Σ wᵢ Lᵢ with fixed weights."""
    return program(problem, _labels(problem), problem.net.forward)


def single(problem: ManyTasks) -> Program:
    """A trunk for each task: as many models as tasks, trained side by side."""
    labels = label_params(start_apart(problem, Draw(0)).params, problem.apart.rules)
    return program(problem, labels, problem.apart.forward)


def operated(combine: Callable) -> Callable[[ManyTasks], Program]:
    """One gradient for the trunk out of those of all tasks."""

    def make(problem: ManyTasks) -> Program:
        labels = _labels(problem)

        def gradient(loss_fn):
            return surgery(loss_fn, combine, problem.names, having(labels, SHARED))

        return program(problem, labels, problem.net.forward, gradient=gradient)

    return make


def weighed(name: str) -> tuple[Callable[[ManyTasks], Program], Callable[[ManyTasks, Draw], Weights]]:
    """The program of a weighting from losses, and a start with what it learns and carries."""

    def weighting(problem: ManyTasks):
        return WEIGHTINGS[name](max(1, problem.config.n // problem.config.batch_size))

    def start(problem: ManyTasks, draw: Draw) -> Weights:
        params, carry = problem.start(draw).params, weighting(problem).init(len(problem.names))
        learned = {LOG_VARIANCES: jnp.zeros(len(problem.names))} if name == "uncertainty" else {}
        return Weights({**params, **learned}, {} if carry is None else {WEIGHTING: carry})

    def make(problem: ManyTasks) -> Program:
        own = [(LOG_VARIANCES, WEIGHTING)] if name == "uncertainty" else []  # a label of its own: never decayed
        labels = label_params(start(problem, Draw(0)).params, [*problem.net.rules, *own])

        def gradient(loss_fn):
            return total_gradient(weigh(loss_fn, weighting(problem), problem.names))

        return program(problem, labels, problem.net.forward, gradient=gradient)

    return make, start


def start_apart(problem: ManyTasks, draw: Draw) -> Weights:
    """A fresh trunk for each task."""
    return Weights(problem.apart.init(problem.key(draw, "net")))


def cosines(problem: ManyTasks) -> Callable:
    """What `ManyTasks` may watch: cosines between the tasks' gradients on the trunk, over many examples at once,
    whatever weighs them in training."""
    loss_fn = make_loss_fn(problem.net.forward, problem.terms)
    of = surgery(loss_fn, equal_weights, problem.names, having(_labels(problem), SHARED))
    ctx = Context(0, jax.random.key(0), {}, {})
    gradients = jax.jit(lambda params, batch: of(params, {}, batch, ctx)[1])

    def watched(params: Tree, data: dict[str, jax.Array]) -> dict[str, float]:
        found = gradients(params, {name: column[:MANY] for name, column in data.items()})
        return {name: float(value) for name, value in found.items() if name.startswith("cosine/")}

    return watched


def _labels(problem: ManyTasks) -> Tree:
    return label_params(problem.start(Draw(0)).params, problem.net.rules)


def recipes(tasks: tuple[str, ...]) -> dict[str, Recipe]:
    """Every method without and with L2, in the order of the table.

    Args:
        tasks: whose weights are searched by "fixed".
    """
    fixed = tuple(f"weight/{task}" for task in tasks)
    makers: dict[str, tuple] = {"single": (single, (), start_apart), "equal": (summed, (), None)}
    makers["fixed"] = (summed, fixed, None)
    makers |= {name: (make, (), start) for name in WEIGHTINGS for make, start in [weighed(name)]}
    makers |= {name: (operated(combine), (), None) for name, combine in SURGERIES.items()}
    pulls = {"": (), PULLED: ("pull/shared", "pull/task")}
    return {
        f"{name}{after}": Recipe(make, ("learning_rate", *search, *own), means, start=start, transfers=False)
        for name, (make, search, start) in makers.items()
        for after, own in pulls.items()
        for means in [f"{name}, {WITH_PULLS}" if after else MEANS[name]]
    }
