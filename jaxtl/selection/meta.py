"""An anchor learned from many tasks: the parameters from which, and towards which, each task is best adapted.

    inner    w_i = argmin  L_i(w) + Σ λ ½‖w − θ‖²        any `train` whose penalty reads given["anchor"] = θ
    outer    θ  ← θ − lr · mean_i d loss_i(w_i)/dθ

λ says how hard to pull, θ towards what. A meta-gradient is a `grad_fn` like any other: `make_train_step(reptile(...),
tx, sample)` is a step, which `fit` trains, `sweep` sweeps and a checkpoint resumes. Its batch is {"support", "query"},
trees stacked [T, ...] over tasks, all of which are adapted side by side in one program.

Source: Rajeswaran, Finn, Kakade and Levine, "Meta-Learning with Implicit Gradients", 2019; Nichol, Achiam and
Schulman, "On First-Order Meta-Learning Algorithms", 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.selection.implicit import implicit_gradient
from jaxtl.step import Context, Fixed, GradFn, TrainState
from jaxtl.trees import Tree, map_named

Init = Callable[[Tree, jax.Array], TrainState]  # (θ, rng) -> the state from which a task starts
Train = Callable[[TrainState, Any, Fixed], tuple[TrainState, Any]]
Score = Callable[[TrainState, Any, Fixed], jax.Array]  # larger is better

INNER = "inner/"  # rates of the inner step are named "inner/penalty/LABEL": the outer step has rates too


def reptile(init: Init, train: Train, score: Score) -> GradFn:
    """θ − mean_i w_i: moves the anchor to where the tasks have gone; no second derivatives.

    At exact inner minima it is the gradient of the mean of min_w L_i(w)/λ + ½‖w − θ‖², the Moreau envelope.

    Args:
        init: (anchor, rng) -> state, such as `lambda anchor, rng: init_state(anchor, tx, rng)`.
        train: (state, support, fixed) -> (state, _), what `make_epoch` returns; gets given["anchor"].
        score: (state, query, fixed) -> scalar, larger is better; only told, as "loss" with a minus.

    Returns:
        A `grad_fn` for `make_train_step`, over batches {"support": [T, ...], "query": [T, ...]}.

    Raises:
        InputError: when traced, for a batch that is not of that kind.
    """

    def of_task(state, anchor, support, query, fixed):
        away = map_named(lambda _, a, w: a - w, anchor, state.params)
        return away, score(state, query, fixed)

    return _over_tasks(init, train, of_task)


def imaml(
    init: Init,
    train: Train,
    score: Score,
    grad_fn: GradFn,
    *,
    prepare: Callable[[Any], Any] = lambda support: support,
    damping: float = 0.0,
    iterations: int = 20,
) -> GradFn:
    """mean_i (I + ∇²L_i(w_i)/λ)⁻¹ ∇loss_i(w_i): how the loss after adaptation moves with the anchor.

    By the implicit function theorem at w_i, so that it needs no path and no λ: whatever penalty ties w to the anchor
    (Fisher, a rate a label) is differentiated as it is. Right where `train` has arrived at the minimum.

    Args:
        init, train, score: as in `reptile`; the score is differentiated.
        grad_fn: gradient of the whole inner objective, from `total_gradient`.
        prepare: support -> the batch of all its examples; the support as it is when left out.
        damping, iterations: as in `implicit_gradient`.

    Returns:
        A `grad_fn` for `make_train_step`, as `reptile`.

    Raises:
        InputError: when traced, for another batch, or an inner objective that does not read given["anchor"].
    """

    def of_task(state, anchor, support, query, fixed):
        def gradient(params, anchor):
            ctx = Context(state.step, state.rng, fixed.rates, {**fixed.given, "anchor": anchor})
            return grad_fn(params, state.model_state, prepare(support), ctx)[0]

        _refuse_unread(gradient, anchor)
        value, by_params = jax.value_and_grad(lambda params: -score(state._replace(params=params), query, fixed))(
            state.params
        )
        slope = implicit_gradient(gradient, state.params, anchor, by_params, damping=damping, iterations=iterations)
        return slope, -value

    return _over_tasks(init, train, of_task)


def _over_tasks(init: Init, train: Train, of_task: Callable) -> GradFn:
    """Adapt every task of a batch, and average what `of_task` makes of it."""

    def grad_fn(anchor, model_state, batch, ctx):
        rates = {name.removeprefix(INNER): ctx.rates.get(name) for name in ctx.rates if name.startswith(INNER)}
        fixed = Fixed(rates, {**ctx.given, "anchor": anchor})

        def adapted(rng, support, query):
            state, _ = train(init(anchor, rng), support, fixed)
            return of_task(state, anchor, support, query, fixed)

        rngs = jax.random.split(ctx.rng, _count(batch))
        gradients, scores = jax.vmap(adapted)(rngs, batch["support"], batch["query"])
        gradient = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), gradients)
        return gradient, {"loss": -jnp.mean(scores)}, model_state

    return grad_fn


def _count(batch: Any) -> int:
    """How many tasks are in a batch."""
    if not isinstance(batch, dict) or not {"support", "query"} <= batch.keys():
        todo = "let prepare make {'support': [tasks, ...], 'query': [tasks, ...]}"
        raise InputError("is no batch of tasks", where="meta-gradient", todo=todo)
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((batch["support"], batch["query"]))}
    if len(counts) != 1 or () in counts:
        todo = "stack the same number of tasks in front of every array"
        raise InputError(f"leaves begin with {sorted(counts)}", where="meta-gradient batch", todo=todo)
    return counts.pop()[0]


def _refuse_unread(gradient: Callable[[Tree, Tree], Tree], anchor: Tree) -> None:
    traced = jax.make_jaxpr(lambda seen: gradient(anchor, seen))(anchor).jaxpr
    read = {id(variable) for equation in traced.eqns for variable in equation.invars}
    if not any(id(variable) in read for variable in traced.invars):
        todo = 'let a penalty do so: Term(λ, l2, ("anchor",)); without one the minimum forgets where it began'
        raise InputError("the inner objective does not read it", where="given['anchor']", todo=todo)
