"""Tasks by name, each with a batch of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jaxtl.errors import InputError, suggest
from jaxtl.losses import Forward


def each_task(forward: Forward) -> Forward:
    """The forward pass when every task has a batch of its own: {task: batch} -> {task: outputs}.

    The model state goes from one task to the next, in alphabetical order.
    """

    def forward_each(params, model_state, batch, ctx):
        outputs = {}
        for number, task in enumerate(sorted(batch)):
            own = dataclasses.replace(ctx, rng=jax.random.fold_in(ctx.rng, number))
            outputs[task], model_state = forward(params, model_state, batch[task], own)
        return outputs, model_state

    return forward_each


def on_task(task: str, term: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A loss term, or an eval metric, that sees the outputs and the batch of one task; the other half of `each_task`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxtl.losses import mean_of, squared_error
        >>> term = on_task("a", mean_of(squared_error))
        >>> float(term({"a": {"head": jnp.ones(1)}}, {"a": {"label": jnp.zeros(1)}}, None))
        0.5
    """
    return lambda outputs, batch, ctx: term(outputs[task], batch[task], ctx)


def check_tasks(tasks: Iterable[str], where: str) -> tuple[str, ...]:
    """The names of the tasks.

    Raises:
        InputError: none, one of them twice, or the penalty among them.
    """
    tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if not tasks or len(set(tasks)) < len(tasks):
        raise InputError(f"tasks are {list(tasks)}", where=where, todo="name each task once, and at least one")
    if "penalty" in tasks:
        raise InputError("the penalty is not a task", where=where, todo="leave it out: it is added as it is")
    return tasks


def losses_of(tasks: Iterable[str], weighted: Mapping[str, Any], where: str) -> list[jax.Array]:
    """The weighted loss of every task.

    Raises:
        InputError: a task that is no loss term.
    """
    for task in tasks:
        if task not in weighted:
            raise InputError(f"no loss term is called '{task}'", where=where, todo=suggest(task, weighted))
    return [weighted[task] for task in tasks]
