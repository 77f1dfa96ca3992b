"""One gradient for the trunk out of those of all tasks: one forward pass, a backward pass for each task."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.labels import check_labels
from jaxtl.methods.multitask.combine import gram_of
from jaxtl.methods.multitask.tasks import check_tasks, losses_of
from jaxtl.step import GradFn, Metrics
from jaxtl.trees import Tree, paired

Combine = Callable[[jax.Array, jax.Array], jax.Array]  # (gram [T, T], rng) -> weights [T]
COMBINE_STREAM = 0x7A5C  # folded into the step's key, which the forward pass uses as well


def surgery(loss_fn: Callable, combine: Combine, tasks: Iterable[str], shared: Tree) -> GradFn:
    """Gradients in which shared parameters move along Σ wᵢ gᵢ, w chosen from the inner products of the gᵢ.

    Every other parameter gets the plain gradient of all weighted terms, so that a head follows its own loss whatever
    w is. Penalties and terms that are not tasks are added as they are, to shared parameters too.

    Tasks go backward one by one: a `vmap` over them takes 1.5 times as long for a convolutional network on CPU, and
    would send every task through the batches of all others where tasks have their own.

    Args:
        loss_fn: as `losses.make_loss_fn` or `weigh` returns it.
        combine: (gram [T, T] float32, rng) -> weights [T]: `mgda_weights`, `functools.partial(cagrad_weights, c=0.4)`,
            or a function of your own.
        tasks: names of loss terms.
        shared: bool tree like the parameters: `labels.having(labels, "shared")`.

    Returns:
        grad_fn as from `step.total_gradient`. Its metrics are those of the loss, the plain total as "loss", the factor
        "weight/TASK" that the loss got in the trunk's gradient, and "cosine/A/B" of every two tasks' gradients (0 where
        one of them is zero).

    Raises:
        InputError: no task, one twice, the penalty as a task, nothing shared; on use: a task that is no loss term,
            `shared` of other parameters, weights of another shape.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020 (the name).
    """
    tasks = check_tasks(tasks, "surgery tasks")
    if not any(jax.tree.leaves(shared)):
        raise InputError("no parameter is shared", where="surgery shared", todo="mark the trunk: having(labels, ...)")

    def grad_fn(params, model_state, batch, ctx):
        check_labels(params, shared, where="surgery shared")
        trunk = paired(params, shared)

        def losses(params):
            weighted, aux = loss_fn(params, model_state, batch, ctx)
            rest = sum((value for name, value in weighted.items() if name not in tasks), start=jnp.float32(0))
            return (*losses_of(tasks, weighted, "surgery tasks"), rest), aux

        values, change, (metrics, after) = jax.linearize(losses, params, has_aux=True)
        *rows, rest = (_gradient(change, params, *place) for place in enumerate(values))
        gram = _gram(rows, trunk)
        weights = combine(gram, jax.random.fold_in(ctx.rng, COMBINE_STREAM))
        if jnp.shape(weights) != (len(tasks),):
            what = f"combine gives weights of shape {jnp.shape(weights)} to {len(tasks)} tasks"
            raise InputError(what, where="surgery", todo="return one weight a task, [T]")

        def added_up(is_shared, other, *of_tasks):
            factors = weights if is_shared else jnp.ones_like(weights)
            terms = (factor * row for factor, row in zip(factors, of_tasks, strict=True))
            return sum(terms, start=other).astype(other.dtype)

        gradients = jax.tree.map(added_up, trunk, rest, *rows)
        return gradients, {"loss": sum(values), **metrics, **_report(tasks, weights, gram, metrics)}, after

    return grad_fn


def _gradient(change: Callable, params: Tree, position: int, value: jax.Array) -> Tree:
    """The gradient of one of several losses from their common linearisation; parts the others need are not run."""
    one_loss = jax.linear_transpose(lambda step: change(step)[position], params)
    return one_loss(jnp.ones_like(value))[0]


def _gram(rows: Sequence[Tree], shared: Tree) -> jax.Array:
    """Inner products of the tasks' gradients over the shared leaves, [T, T] float32."""
    total = jnp.zeros((len(rows), len(rows)))
    for is_shared, *leaf in zip(jax.tree.leaves(shared), *map(jax.tree.leaves, rows), strict=True):
        if is_shared:
            total = total + gram_of(jnp.stack([row.ravel().astype(jnp.float32) for row in leaf]))
    return total


def _report(tasks: Sequence[str], weights: jax.Array, gram: jax.Array, metrics: Metrics) -> Metrics:
    """Weights, times those that `weigh` has reported already, and cosines."""
    report = {f"weight/{task}": weights[i] * metrics.get(f"weight/{task}", 1.0) for i, task in enumerate(tasks)}
    squares = jnp.diag(gram)
    for (i, a), (j, b) in itertools.combinations(enumerate(tasks), 2):
        lengths = jnp.sqrt(squares[i]) * jnp.sqrt(squares[j])
        report[f"cosine/{a}/{b}"] = gram[i, j] / jnp.where(lengths == 0, 1.0, lengths)
    return report
