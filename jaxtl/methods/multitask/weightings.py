"""How much each task's loss counts: weights from losses [T], for one backward pass of Σ wᵢ Lᵢ.

Fixed weights need nothing from here: they are the rates of the loss terms. A loss of exactly 0 is a task without labels
in this batch; no weight, mean or state is moved by it.

The papers want losses above 0. A likelihood may fall below: then the loss counts by its size, which grows as it falls,
so that weights stay positive and a task that learns is never taken for one that does not. Near 0 it has a pole there;
`weigh(..., lowest=)` moves that away, as the authors of FAMO subtract a lower bound of every loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.errors import InputError
from jaxtl.methods.multitask.tasks import check_tasks, losses_of
from jaxtl.trees import Tree

WEIGHTING = "weighting"  # of the model state: what a weighting carries from step to step
LOG_VARIANCES = "log_variances"  # of the parameters: what uncertainty weighting learns
WEIGHTING_STREAM = 0x3E16  # folded into the step's key, which the forward pass uses as well


# ---------------------------------------------------------------- the equations


def uncertainty(losses: jax.Array, log_variances: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Σ Lᵢ / (2 e^{sᵢ}) + sᵢ/2 with learned log-variances s.

    Below 0 there is no variance that fits a loss: sᵢ would fall for ever, so that it is not moved by it.

    Args:
        losses: [T].
        log_variances: [T].

    Returns:
        (weights [T] = e^{−s}/2, Σ s/2 over the tasks whose loss is above 0).

    Example:
        >>> [value.tolist() for value in uncertainty(jnp.array([1.0, 0.0]), jnp.array([0.5, 2.0]))]
        [[0.303..., 0.067...], 0.25]

    Source: Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses", 2018.
    """
    fixed = jnp.where(losses > 0, log_variances, jax.lax.stop_gradient(log_variances))
    return 0.5 * jnp.exp(-fixed), 0.5 * jnp.sum(jnp.where(losses > 0, log_variances, 0.0))


def dwa(last: jax.Array, before: jax.Array, temperature: float = 2.0) -> jax.Array:
    """T · softmax((last / before) / temperature): tasks whose loss falls slowly count more.

    Below 0 the ratio is before / last, which falls with the loss as well; between the two sides of 0 it is 1.

    Args:
        last: [T], mean losses of the epoch before this one.
        before: [T], of the epoch before that; 0 in either where there is none, which counts as a ratio of 1.
        temperature: > 0; the larger, the more equal.

    Returns:
        [T], adding up to T.

    Example:
        >>> dwa(jnp.array([1.0, 0.5]), jnp.array([1.0, 1.0])).tolist()
        [1.124353..., 0.875647...]

    Source: Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", 2019 (dynamic weight average).
    """
    known = last * before > 0
    above, below = jnp.where(last > 0, last, before), jnp.where(last > 0, before, last)
    ratio = jnp.where(known, above / jnp.where(known, below, 1.0), 1.0)
    return len(last) * jax.nn.softmax(ratio / temperature)


def gls(losses: jax.Array) -> jax.Array:
    """wᵢ = (Π L)^{1/T} / (T Lᵢ): then Σ wᵢ Lᵢ is the geometric mean of the losses, and its gradient is theirs.

    A loss below 0 counts by its size |Lᵢ|.

    Args:
        losses: [T]; 0 for a task that is absent, which gets 0 and does not count in T.

    Returns:
        [T], not negative.

    Example:
        >>> gls(jnp.array([1.0, 4.0])).tolist()
        [1.0, 0.25]

    Source: Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
    Learning", 2019.
    """
    present = losses != 0
    safe = jnp.where(present, jnp.abs(losses), 1.0)
    count = jnp.maximum(jnp.sum(present), 1)
    return jnp.where(present, jnp.exp(jnp.sum(jnp.log(safe)) / count) / (count * safe), 0.0)


def rlw(losses: jax.Array, rng: jax.Array) -> jax.Array:
    """softmax of standard normal numbers: [T], adding up to 1, drawn anew in every step.

    Source: Lin et al., "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning", 2022.
    """
    return jax.nn.softmax(jax.random.normal(rng, losses.shape, losses.dtype))


def famo(losses: jax.Array, logits: jax.Array) -> jax.Array:
    """wᵢ = zᵢ/Lᵢ / Σ zⱼ/Lⱼ with z = softmax(logits): all losses fall by the same factor when z is 1/T.

    A loss below 0 counts by its size |Lᵢ|, which then grows by that factor.

    Args:
        losses: [T]; 0 for a task that is absent, which gets 0.
        logits: [T], moved down `famo_slope` after every step.

    Returns:
        [T], not negative, adding up to 1.

    Example:
        >>> famo(jnp.array([1.0, 3.0]), jnp.zeros(2)).tolist()
        [0.75, 0.25]

    Source: Liu et al., "FAMO: Fast Adaptive Multitask Optimization", 2023.
    """
    present = losses != 0
    parts = jnp.where(present, jax.nn.softmax(logits) / jnp.where(present, jnp.abs(losses), 1.0), 0.0)
    total = jnp.sum(parts)
    return parts / jnp.where(total == 0, 1.0, total)


def famo_slope(logits: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """Jᵀ(log L_before − log L_after), J that of softmax(logits): down it, tasks whose loss fell less gain weight.

    Below 0 the fall is log |L_after| − log |L_before|.

    Args:
        logits: [T].
        before, after: [T] losses around a step; a task that is absent in either, or whose loss went through 0, counts
            as unchanged.

    Returns:
        [T].
    """
    known = before * after > 0
    fall = jnp.log(jnp.where(known, jnp.abs(before), 1.0)) - jnp.log(jnp.where(known, jnp.abs(after), 1.0))
    fall = jnp.where(before < 0, -fall, fall)
    shares = jax.nn.softmax(logits)
    return shares * (fall - jnp.sum(shares * fall))


# ---------------------------------------------------------------- in a training step


class Weighting(NamedTuple):
    """A weighting as `weigh` takes it; the functions `by_...` make one.

    init: number of tasks -> what it carries from step to step, for `model_state["weighting"]`; None for nothing.
    weights: (losses [T], params, carried, ctx) -> (weights [T], what the objective gains beside Σ wᵢ Lᵢ, carried).
        No gradient goes through the losses it sees.
    """

    weights: Callable[[jax.Array, Tree, Any, Any], tuple[jax.Array, Any, Any]]
    init: Callable[[int], Any] = lambda count: None


def weigh(loss_fn: Callable, weighting: Weighting, tasks: Iterable[str], lowest: Any = 0.0) -> Callable:
    """A loss function in which the tasks' losses, already times their rates, count by a weighting.

    What the weighting carries lies in `model_state["weighting"]`: pass `weighting.init(T)` there to `init_state`.

    Args:
        loss_fn: as `losses.make_loss_fn` returns it.
        weighting: `by_uncertainty()`, `by_dwa(...)`, `by_gls()`, `by_rlw()`, `by_famo()`.
        tasks: names of loss terms; other terms and penalties stay as they are.
        lowest: bound that the tasks' losses do not fall below, a number or [T]; what counts is the loss above it.

    Returns:
        loss_fn for `step.total_gradient` or `surgery`, with "weight/TASK" among its metrics.

    Raises:
        InputError: no task, one twice, the penalty as a task; on use: a task that is no loss term, a model state
            without what the weighting carries.
    """
    tasks = check_tasks(tasks, "weigh tasks")
    carries = weighting.init(len(tasks)) is not None
    bound = jnp.asarray(lowest, jnp.float32)
    if bound.shape not in ((), (len(tasks),)) or not np.all(np.isfinite(bound)):
        what = f"{lowest!r} for {len(tasks)} tasks"
        raise InputError(what, where="weigh lowest", todo="give a number, or one for each task")

    def weighed(params, model_state, batch, ctx):
        carried = None
        if carries:
            if WEIGHTING not in model_state:
                todo = f'pass init_state(..., {{"{WEIGHTING}": weighting.init({len(tasks)})}})'
                raise InputError("what the weighting carries is missing", where="model_state", todo=todo)
            carried = model_state[WEIGHTING]
            model_state = {name: part for name, part in model_state.items() if name != WEIGHTING}
        weighted, (metrics, model_state) = loss_fn(params, model_state, batch, ctx)
        if WEIGHTING in weighted:
            raise InputError("taken: rename the loss term, or weigh once only", where=f"loss term '{WEIGHTING}'")
        losses = jax.lax.stop_gradient(jnp.stack(losses_of(tasks, weighted, "weigh tasks")))
        below = jnp.where(losses == 0, 0.0, bound)  # a task that is absent stays so
        weights, gained, carried = weighting.weights(losses - below, params, carried, ctx)
        gained = gained - jnp.sum(weights * below)
        weighted |= {task: weights[i] * weighted[task] for i, task in enumerate(tasks)} | {WEIGHTING: gained}
        metrics |= {f"weight/{task}": weights[i] for i, task in enumerate(tasks)}
        return weighted, (metrics, {**model_state, WEIGHTING: carried} if carries else model_state)

    return weighed


def by_uncertainty() -> Weighting:
    """`uncertainty`; the log-variances are `params["log_variances"]`, [T], zeros to begin with.

    They are parameters with a label of their own, say "weighting": give it a group without decay and no penalty.
    """

    def weights(losses, params, carried, ctx):
        if LOG_VARIANCES not in params:
            todo = f'pass {{**params, "{LOG_VARIANCES}": jnp.zeros({len(losses)})}}, under a label of its own'
            raise InputError("uncertainty weighting learns numbers that are missing", where="params", todo=todo)
        return *uncertainty(losses, params[LOG_VARIANCES]), carried

    return Weighting(weights)


def by_dwa(steps_per_epoch: int, temperature: float = 2.0) -> Weighting:
    """`dwa` on the mean losses of the last two epochs; weights are 1 during the first two.

    Args:
        steps_per_epoch: ≥ 1; an epoch ends when so many steps divide the number taken.
        temperature: of the softmax, > 0.

    Raises:
        InputError: either out of its range.
    """
    for name, value in (("steps_per_epoch", steps_per_epoch), ("temperature", temperature)):
        if not value > 0:
            raise InputError(f"{value} is not positive", where=f"by_dwa {name}")

    def init(count):
        return {name: jnp.zeros(count) for name in ("sum", "count", "last", "before")}

    def weights(losses, params, carried, ctx):
        total, count = carried["sum"] + losses, carried["count"] + (losses != 0)
        last, before = carried["last"], carried["before"]
        going_on = {"sum": total, "count": count, "last": last, "before": before}
        ended = init(len(losses)) | {"last": total / jnp.maximum(count, 1), "before": last}
        ends = (ctx.step + 1) % steps_per_epoch == 0
        carried = jax.tree.map(lambda new, old: jnp.where(ends, new, old), ended, going_on)
        return dwa(last, before, temperature), 0.0, carried

    return Weighting(weights, init)


def by_gls() -> Weighting:
    """`gls`: the objective is the geometric mean of the tasks' losses."""
    return Weighting(lambda losses, params, carried, ctx: (gls(losses), 0.0, carried))


def by_rlw() -> Weighting:
    """`rlw` with a key of the step's."""

    def weights(losses, params, carried, ctx):
        return rlw(losses, jax.random.fold_in(ctx.rng, WEIGHTING_STREAM)), 0.0, carried

    return Weighting(weights)


def by_famo(learning_rate: float = 0.025, decay: float = 0.01) -> Weighting:
    """`famo`; Adam moves the logits down `famo_slope` plus decay · logits.

    The paper compares losses on one batch before and after a step. Here they are those of two batches that follow each
    other, which saves a forward pass and adds the noise between batches.

    Args:
        learning_rate, decay: of the logits.
    """
    tx = optax.chain(optax.add_decayed_weights(decay), optax.adam(learning_rate))

    def init(count):
        return {"logits": jnp.zeros(count), "losses": jnp.zeros(count), "optimizer": tx.init(jnp.zeros(count))}

    def weights(losses, params, carried, ctx):
        slope = famo_slope(carried["logits"], carried["losses"], losses)
        updates, optimizer = tx.update(slope, carried["optimizer"], carried["logits"])
        logits = carried["logits"] + updates
        seen = jnp.where(losses != 0, losses, carried["losses"])
        return famo(losses, logits), 0.0, {"logits": logits, "losses": seen, "optimizer": optimizer}

    return Weighting(weights, init)
