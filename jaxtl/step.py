"""One training step for every method. All of it is pure but `compile_step`, the only `jax.jit` of training.

    data ─prepare→ batch ─grad_fn(params)→ gradients ─tx→ updates → the next state

What a run changes is in `TrainState`; what it only reads (rates, anchors, a source model) is in `Fixed`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxtl.devices.compiler import compiler_options
from jaxtl.devices.placement import constrain, shard_batch
from jaxtl.errors import InputError, check_takes, kind_of, suggest, whole_number
from jaxtl.losses import masked_sum, weights_of
from jaxtl.optimizers import check_own, update_of
from jaxtl.trees import Tree, check_arrays, is_key, named_leaves, shape_of

Metrics = dict[str, jax.Array]
GradFn = Callable[[Tree, Tree, Any, "Context"], tuple[Tree, Metrics, Tree]]


class Fixed(NamedTuple):
    """Read by every step, written by none, never donated.

    rates: numbers by name: "penalty/LABEL", "learning_rate/LABEL", "decay/LABEL", names of loss terms.
    given: trees by name: "anchor", "importance", a source model, …
    """

    rates: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}


class TrainState(NamedTuple):
    """All that a run changes, a pure pytree; `model_state` also holds a method's queues and averages."""

    step: jax.Array
    params: Tree
    model_state: Tree
    opt_state: Any
    rng: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["step", "rng", "rates", "given"], meta_fields=["train", "frozen"]
)
@dataclasses.dataclass(frozen=True)
class Context:
    """What the forward pass, the terms and the penalties see besides parameters and batch; `train` is static, and so is
    `frozen`, the paths of the parameters that are held: a module that has no other computes what it computed before."""

    step: Any
    rng: Any
    rates: Mapping[str, Any]
    given: Mapping[str, Any]
    train: bool = True
    frozen: frozenset[str] = frozenset()


EVALUATE = Context(0, None, {}, {}, train=False)  # for a model that is used, not trained


class Asked:
    """{name: default} of the rates that were read; equal to itself only, being static beside the values."""

    def __init__(self):
        self.defaults: dict[str, Any] = {}


class Rates(dict):
    """Rates that remember what was asked for, so that a name which nobody reads can be refused.

    A pytree, so that a context passes through `jax.checkpoint` and the like; its copies remember in one place.
    """

    def __init__(self, values: Mapping[str, Any], asked: Asked | None = None):
        super().__init__(values)
        self.asked = Asked() if asked is None else asked

    def get(self, name, default=None):
        self.asked.defaults[name] = default
        return super().get(name, default)

    def refuse_unread(self) -> None:
        known = self.asked.defaults
        for name in sorted(set(self) - set(known)):
            raise InputError("nobody reads this rate", where=f"rates['{name}']", todo=suggest(name, known))


jax.tree_util.register_pytree_node(
    Rates,
    lambda rates: (tuple(rates.values()), (tuple(rates), rates.asked)),
    lambda static, values: Rates(dict(zip(static[0], values, strict=True)), static[1]),
)


@functools.partial(jax.jit, static_argnums=0)
def _initial(tx: optax.GradientTransformation, params: Tree, rng: jax.Array, model_state: Tree) -> TrainState:
    def own(leaf):  # a weak dtype (`jnp.full(2, 0.5)`) becomes strong after a step, which would compile it twice
        return jnp.array(leaf, dtype=leaf.dtype, copy=True)

    params, rng, model_state = jax.tree.map(own, (params, rng, model_state))
    return TrainState(jnp.int32(0), params, model_state, tx.init(params), rng)


def init_state(
    params: Tree, tx: optax.GradientTransformation, rng: jax.Array, model_state: Tree | None = None
) -> TrainState:
    """A state at step 0 that owns its buffers: the caller's arrays survive donation.

    Args:
        params: tree of arrays.
        tx: the optimizer.
        rng: key of the run; step t uses `fold_in(rng, t)`.
        model_state: what the forward pass carries along (batch statistics); {} when left out.

    Returns:
        The state.

    Raises:
        InputError: a leaf that is no array, an optimizer without `init`, a seed in the place of a key.

    Example:
        >>> state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0))
        >>> int(state.step), state.params["w"].tolist()
        (0, [1.0, 1.0])
    """
    model_state = {} if model_state is None else model_state
    if not callable(getattr(tx, "init", None)):
        what = f"{kind_of(tx)} is no optimizer"
        raise InputError(what, where="init_state tx", todo="make one: per_label(labels, groups), optax.sgd(0.1)")
    for name, tree in (("params", params), ("rng", rng), ("model_state", model_state)):
        check_arrays(tree, where=f"init_state {name}")
    if not (is_key(rng) or (np.shape(rng)[-1:] == (2,) and rng.dtype == np.uint32)):
        raise InputError(f"{shape_of(rng)} is no random key", where="init_state rng", todo="pass jax.random.key(0)")
    return _initial(tx, params, rng, model_state)


def total_gradient(loss_fn: Callable) -> GradFn:
    """The gradient of the plain sum of all weighted terms and penalties.

    Args:
        loss_fn: as `losses.make_loss_fn` returns it.

    Returns:
        grad_fn(params, model_state, batch, ctx) -> (gradients, metrics with the total as "loss", model_state).
    """

    how = "pass what make_loss_fn returns"
    check_takes(loss_fn, 4, where="total_gradient loss_fn", todo=how)

    def total(params, model_state, batch, ctx):
        found = loss_fn(params, model_state, batch, ctx)
        match found:
            case (dict(weighted), (metrics, model_state)):
                pass
            case _:
                what = f"returns {kind_of(found)}, not ({{name: scalar}}, (metrics, model_state))"
                raise InputError(what, where="total_gradient loss_fn", todo=how)
        loss = sum(weighted.values(), start=jnp.float32(0))
        return loss, ({"loss": loss, **metrics}, model_state)

    def grad_fn(params, model_state, batch, ctx):
        for path, leaf in named_leaves(params).items():
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                todo = "make it float32, or keep it in model_state"
                raise InputError(f"{shape_of(leaf)} has no gradient", where=f"parameter '{path}'", todo=todo)
        gradients, (metrics, model_state) = jax.grad(total, has_aux=True)(params, model_state, batch, ctx)
        return gradients, metrics, model_state

    return grad_fn


def _identity(data, rng, step):
    return data


def make_train_step(
    grad_fn: GradFn, tx: optax.GradientTransformationExtraArgs, prepare: Callable = _identity
) -> Callable[[TrainState, Any, Fixed], tuple[TrainState, Metrics]]:
    """One step of gradient descent, as a pure function.

    Args:
        grad_fn: what `total_gradient` returns, or multi-task surgery.
        tx: what `optimizers.per_label` returns, or any optax transformation that takes `rates`.
        prepare: (data, rng, step) -> batch: sampling, normalising, augmenting, inside the compiled step.

    Returns:
        step(state, data, fixed) -> (state, metrics).

    Raises:
        InputError: no functions; when traced, a name in `fixed.rates` that neither a term, a penalty nor a group reads,
            and a state of another optimizer.
    """
    check_takes(grad_fn, 4, where="make_train_step grad_fn", todo="pass total_gradient(make_loss_fn(...))")
    check_takes(prepare, 3, where="make_train_step prepare", todo="pass a function (data, rng, step) -> batch")
    update = update_of(tx)

    def step(state, data, fixed):
        rates = fixed.rates if isinstance(fixed.rates, Rates) else Rates(fixed.rates)
        prepare_rng, model_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
        ctx = Context(state.step, model_rng, rates, fixed.given, frozen=getattr(tx, "frozen", frozenset()))
        batch = shard_batch(prepare(data, prepare_rng, state.step))
        check_own(tx, state.opt_state, state.params)
        found = grad_fn(state.params, state.model_state, batch, ctx)
        match found:
            case (gradients, metrics, model_state):
                pass
            case _:
                what = f"returns {kind_of(found)}, not (gradients, metrics, model_state)"
                raise InputError(what, where="make_train_step grad_fn", todo="pass total_gradient(loss_fn)")
        updates, opt_state = update(gradients, state.opt_state, state.params, rates=rates, given=fixed.given)
        rates.refuse_unread()
        params = optax.apply_updates(state.params, updates)
        return constrain(TrainState(state.step + 1, params, model_state, opt_state, state.rng)), metrics

    return step


def traced(step: Callable, state: TrainState, data: Any, fixed: Fixed) -> tuple[dict[str, Any], Any]:
    """Every rate that a step reads, with the default it has there, and shapes of what it returns; traced, not run."""
    rates = Rates(fixed.rates)

    def run(state, data, given):
        return step(state, data, Fixed(rates, given))

    returned = jax.eval_shape(run, state, data, fixed.given)
    return rates.asked.defaults, returned


def default_rates(step: Callable, state: TrainState, data: Any, fixed: Fixed) -> dict[str, Any]:
    """Every rate that a step reads, with the default it has there; traced, not run."""
    return traced(step, state, data, fixed)[0]


def make_eval_step(forward: Callable, metrics: Mapping[str, Callable]) -> Callable[[TrainState, Any, Fixed], Metrics]:
    """Sums of per-example metrics over a batch, so that batches of any size add up exactly.

    Args:
        forward: as for `losses.make_loss_fn`; called with `ctx.train` false.
        metrics: {name: fn(outputs, batch, ctx) -> [B]}, see `losses.per_example`.

    Returns:
        evaluate(state, batch, fixed) -> {name: sum, …, "count": examples}; examples whose batch["mask"] is 0 are left
        out, which makes a padded last batch exact; where it holds weights, all sums are weighted, "count" too.
    """

    if not metrics:
        raise InputError("names none", where="make_eval_step metrics", todo="use {'right': per_example(accuracy)}")

    def evaluate(state, batch, fixed):
        ctx = Context(state.step, state.rng, fixed.rates, fixed.given, train=False)
        outputs, _ = forward(state.params, state.model_state, batch, ctx)
        values = {name: metric(outputs, batch, ctx) for name, metric in metrics.items()}
        mask = batch["mask"] if "mask" in batch else jnp.ones_like(next(iter(values.values())))
        for name, value in values.items():
            _check_per_example(name, value, mask)
        sums = {name: masked_sum(value, mask) for name, value in values.items()}
        return sums | {"count": jnp.sum(weights_of(mask))}

    return evaluate


def _check_per_example(name: str, values: jax.Array, mask: jax.Array) -> None:
    if jnp.ndim(values) != 1 or jnp.shape(values) != jnp.shape(mask):
        raise InputError(
            f"has shape {jnp.shape(values)}, not [B], or not that of the mask {jnp.shape(mask)}",
            where=f"metric '{name}'",
            todo="give one value an example: use per_example, not mean_of",
        )


@functools.lru_cache(maxsize=64)  # one epoch of a step is one function, and so one compiled program
def make_epoch(step: Callable, length: int) -> Callable[[TrainState, Any, Fixed], tuple[TrainState, Metrics]]:
    """`length` steps in one dispatch, by `lax.scan`; metrics are stacked [length].

    On CPU the gradient of a `lax.conv` kernel is many times slower inside a loop; `models.convolution` avoids that.
    """

    whole_number(length, "make_epoch length")

    def epoch(state, data, fixed):
        return jax.lax.scan(lambda state, _: step(state, data, fixed), state, length=length)

    return epoch


def program_of(step: Callable, chunk: int = 1, mesh: Mesh | None = None) -> Callable[[TrainState, Any, Fixed], Any]:
    """`chunk` steps in one dispatch, compiled once for all who ask for the same step: single runs and sweeps."""
    return _compiled(step if chunk == 1 else make_epoch(step, chunk), mesh)


@functools.lru_cache(maxsize=64)
def _compiled(fn: Callable, mesh: Mesh | None) -> Callable[[TrainState, Any, Fixed], Any]:
    return compile_step(fn, mesh)


def compile_step(fn: Callable, mesh: Mesh | None = None) -> Callable[[TrainState, Any, Fixed], Any]:
    """Compile a step or an epoch; the state's buffers are donated, so keep only the state that comes back.

    Args:
        fn: (state, data, fixed) -> (state, metrics).
        mesh: devices that share the work; the state and `fixed.given` lie there by `shard_params`, as `fit` puts them.

    Returns:
        The compiled function.
    """
    program = jax.jit(fn, donate_argnums=0, compiler_options=compiler_options())
    if mesh is None:
        return program

    def on_mesh(*arguments):
        with jax.set_mesh(mesh):
            return program(*arguments)

    return on_mesh
