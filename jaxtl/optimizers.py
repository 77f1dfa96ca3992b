"""How each label moves: its learning rate, its decay, or not at all, through `optax.partition`.

Rates are read by name ("learning_rate/LABEL", "decay/LABEL", and of a proximal step "penalty/LABEL" or "radius/LABEL"),
so changing one never recompiles a step.
"""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.decay import WHEN, When, check_reaches, decaying, is_plain, label_decayed
from jaxtl.errors import InputError, kind_of, suggest
from jaxtl.labels import check_labels, having, kernels, label_set
from jaxtl.proximal import Ball, Prox, charged, check_plain, own_number, proximal_updates, reached
from jaxtl.rates import checked_default, checked_rate, checked_scalar, rate_at
from jaxtl.scaling import scaler
from jaxtl.trees import Tree, differences, named_leaves, paired, sum_leaves

Schedule = Callable[[jax.Array], jax.Array]
ONE_FACTOR = "give a function: step -> one factor"


@dataclasses.dataclass(frozen=True)
class Group:
    """How the parameters of one label move.

    Args:
        learning_rate: ≥ 0; multiplied by the shared schedule. Or a function, step -> factor ≥ 0 on what stands under
            its name, 1 by default: a label whose learning rate is 0 in a step keeps its optimizer state as it was.
        decay: ≥ 0, towards 0.
        decay_kind: "coupled": gradient + decay·w goes through momentum or Adam, which is the penalty decay·½‖w‖²;
            "decoupled": w −= lr_t · (update + decay·w), after them (SGDW, AdamW).
        frozen: never move and hold no optimizer state.
        proximal: what is done to the parameters after each step: `Prox(rate, prox_l1)` pays a price with exact zeros,
            `Ball(radius)` keeps a bound.
        towards: what a decoupled decay goes to, by its name in `given` ("anchor"); 0 when left out.
        when: it is paid: "always", or where the step agrees, by "entry" or by "leaf"; see `decay.decayed`.
    """

    learning_rate: Any = 0.0
    decay: Any = 0.0
    decay_kind: Literal["coupled", "decoupled"] = "decoupled"
    frozen: bool = False
    proximal: Prox | Ball | None = None
    towards: str | None = None
    when: When = "always"

    def __post_init__(self):
        checked_default(self.learning_rate, "Group learning_rate", "")
        checked_rate(self.decay, "Group decay")
        if self.proximal is not None and not isinstance(self.proximal, Prox | Ball):
            raise InputError(f"{self.proximal!r}", where="Group proximal", todo="give Prox(rate, fn) or Ball(radius)")
        if self.decay_kind not in ("coupled", "decoupled"):
            raise InputError(
                f"'{self.decay_kind}'",
                where="Group decay_kind",
                todo=suggest(str(self.decay_kind), ("coupled", "decoupled")),
            )
        if self.when not in WHEN:
            raise InputError(f"'{self.when}'", where="Group when", todo=suggest(str(self.when), WHEN))
        if not is_plain(self) and self.decay_kind == "coupled":
            todo = 'put it in the loss: Term(rate, l2, ("anchor",))'
            raise InputError("a coupled decay is towards 0, and always", where="Group decay_kind", todo=todo)
        if self.frozen and (_given(self.learning_rate) or _given(self.decay) or self.proximal):
            what = "a frozen group has no learning rate, no decay and no proximal step"
            raise InputError(what, where="Group(frozen=True)")


class PerLabel(optax.GradientTransformationExtraArgs):
    """A transformation that says which parameters it never moves: a step runs their modules as in evaluation."""

    frozen: frozenset[str] = frozenset()


class PerLabelState(NamedTuple):
    """Steps taken, and the optimizer state of every group."""

    step: jax.Array
    groups: Any


def per_label(
    labels: Tree,
    groups: Mapping[str, Group],
    optimizer: str | Callable[[], optax.GradientTransformation] = "sgd",
    *,
    momentum: float = 0.0,
    schedule: Schedule | None = None,
    clip_norm: float | None = None,
    decay_mask: Callable[[Tree], Tree] = kernels,
) -> optax.GradientTransformationExtraArgs:
    """Different learning rates and decays for different labels: PyTorch's parameter groups, as one transformation.

    For SGD with momentum m and coupled decay δ: v ← m·v + g + δ·w;  w ← w − lr·s(t)·v.

    A `Prox` follows as w ← fn(w, lr·s(t)·rate). Its fixed point is the minimum of task + rate·penalty for plain SGD
    only, and with any other optimizer it is refused: momentum would need a larger amount, Adam one for every weight. It
    is not clipped. A `Ball` is a projection and goes with every optimizer.

    Args:
        labels: tree of strings like the parameters.
        groups: one `Group` for every label that occurs, and no other.
        optimizer: "sgd", "nesterov", "adam" (β 0.9, 0.999, ε 1e-8), or a function that makes the transformation from
            gradients to unscaled updates, e.g. `lambda: optax.scale_by_lion()`. It is tried on one matrix: a complete
            optimizer, whose updates are steps downhill already, would climb here.
        momentum: for "sgd" and "nesterov", in [0, 1).
        schedule: step -> factor on every learning rate; constant 1 when left out.
        clip_norm: the gradient's global norm over all labels that move is clipped to it, once, before everything else.
            A label whose learning rate is 0, in its group or by `rates`, does not move.
        decay_mask: params -> bool tree of the leaves that `decay` shrinks towards 0; towards an anchor it moves all.

    Returns:
        A transformation; `update(..., rates={"learning_rate/new": 0.1})` overrides rates by name, traced or not, and
        `given={"anchor": ...}` holds what decays and proximal steps are drawn to.

    Raises:
        InputError: a label without group, a group without label, momentum that is not read, an optimizer that is
            complete already, a `Prox` with another optimizer than plain SGD, a decay or a proximal step that reaches no
            parameter, or (on update) a rate of no group, and a price that the loss has charged already.

    Example:
        >>> params = {"trunk": {"kernel": jnp.ones(1)}, "head": {"kernel": jnp.ones(1)}}
        >>> labels = {"trunk": {"kernel": "transferred"}, "head": {"kernel": "new"}}
        >>> tx = per_label(labels, {"transferred": Group(frozen=True), "new": Group(0.5)})
        >>> updates, _ = tx.update(params, tx.init(params), params, rates={"learning_rate/new": 0.25})
        >>> float(updates["head"]["kernel"][0]), float(updates["trunk"]["kernel"][0])
        (-0.25, 0.0)
    """
    make = scaler(optimizer, momentum)
    if clip_norm is not None and not (isinstance(clip_norm, numbers.Real | jax.Array) and clip_norm > 0):
        raise InputError(f"{clip_norm} is not positive", where="per_label clip_norm", todo="leave it out to not clip")
    for name, fn in (("schedule", schedule), ("decay_mask", decay_mask)):
        if not callable(fn) and not (fn is None and name == "schedule"):
            raise InputError(f"{fn!r} is no function", where=f"per_label {name}", todo="give one, or leave it out")
    _check_groups(label_set(labels), groups)
    known = {f"{rate}/{label}" for label, g in groups.items() if not g.frozen for rate in ("learning_rate", "decay")}
    proximal = {label: group.proximal for label, group in groups.items() if group.proximal is not None}
    known |= {f"{by.kind}/{label}" for label, by in proximal.items()}
    defaults = {label: own_number(by) for label, by in proximal.items()}
    for label, by in proximal.items():
        check_plain(label, by, optimizer, momentum)

    def transformation(params: Tree, rates: Mapping, step, factor) -> optax.GradientTransformationExtraArgs:
        arranged, mask = paired(params, labels), paired(params, decay_mask(params))
        learning_rates = {label: _learning_rate(label, group, rates, step) for label, group in groups.items()}
        parts = {
            label: _group(label, group, rates, learning_rates[label], factor, make, mask)
            for label, group in groups.items()
        }
        tx = optax.partition(parts, lambda _: arranged)  # it would call labels that are a module with `__call__`
        if clip_norm is None:
            return tx
        held = having(arranged, *(label for label, group in groups.items() if group.frozen))
        clip = _clip_by_norm(clip_norm, jax.tree.map(lambda label: learning_rates[label], arranged))
        return optax.chain(optax.masked(optax.set_to_zero(), held), clip, tx)

    def init(params):
        check_labels(params, labels)
        check_reaches(params, labels, groups, decay_mask, {})
        for label, by in proximal.items():
            reached(params, labels, label, by)
        return PerLabelState(jnp.int32(0), transformation(params, {}, 0, 1.0).init(params))

    def update(updates, state, params=None, *, rates: Mapping | None = None, given: Mapping | None = None, **_extra):
        rates = {} if rates is None else rates
        if params is None:
            raise InputError("needs the parameters", where="per_label", todo="call update(gradients, state, params)")
        for name in rates:
            if name.startswith(("learning_rate/", "decay/", "radius/")) and name not in known:
                raise InputError("no group reads this rate", where=f"rates['{name}']", todo=suggest(name, known))
        check_reaches(params, labels, groups, decay_mask, rates)
        factor = 1.0 if schedule is None else checked_scalar(schedule(state.step), "per_label schedule", ONE_FACTOR)
        gradients = paired(params, updates)
        updates, inner = transformation(params, rates, state.step, factor).update(gradients, state.groups, params)
        for label, group in groups.items():
            if is_plain(group):
                continue
            mask = decaying(params, labels, label, group, decay_mask)
            step_size = factor * _learning_rate(label, group, rates, state.step)
            of = (mask, group, step_size, _decay(label, group, rates), given or {}, f"decay/{label}")
            updates = label_decayed(updates, params, gradients, *of)
        for label, by in proximal.items():
            value = charged(f"{by.kind}/{label}", defaults[label], rates)
            step_size = factor * _learning_rate(label, groups[label], rates, state.step)
            updates = proximal_updates(updates, params, labels, label, by, step_size, value, given or {})
        return updates, PerLabelState(state.step + 1, jax.tree.map(_as_before, inner, state.groups))

    tx = PerLabel(init, update)
    tx.frozen = frozenset(path for path, label in named_leaves(labels).items() if groups[label].frozen)
    return tx


def update_of(tx: Any) -> Callable:
    """The optimizer's update, which is handed rates and given trees where it takes them.

    Its type does not tell: `optax.MultiSteps(...).gradient_transformation()` hands on to what it wraps.
    """
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        todo = "make one: per_label(labels, groups), optax.sgd(0.1)"
        raise InputError(f"{kind_of(tx)} is no optimizer", where="make_train_step tx", todo=todo)
    takes = inspect.signature(tx.update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return tx.update

    def update(gradients, opt_state, params, **extra):
        return tx.update(gradients, opt_state, params, **{name: extra[name] for name in extra if name in takes})

    return update


def check_own(tx: Any, opt_state: Any, params: Tree) -> None:
    """Refuse the state of another optimizer; while a step is traced, which costs nothing later."""
    lines = differences(opt_state, jax.eval_shape(tx.init, params), dtypes=False)
    if lines:
        what = f"is none of this step's optimizer: {lines[0]}"
        raise InputError(
            what, where="state.opt_state", todo="init_state(params, tx, ...) and the step take the same tx"
        )


def pull_per_rate(
    learning_rate: float,
    steps: int,
    *,
    schedule: Schedule | None = None,
    momentum: float = 0.0,
    decay_kind: Literal["coupled", "decoupled"] = "coupled",
) -> float:
    """How far a rate λ reaches in a whole run: the dimensionless pull is λ times this.

    Σ_t lr·s(t) / (1 − momentum) when λ goes through the momentum (in the loss, or coupled), Σ_t lr·s(t) when
    decoupled. Nothing but the pull acts: w shrinks by about e^−pull. Far below 1 a rate does not bite at all,
    whatever its size. For SGD; Adam divides a coupled pull by the gradient's size.

    Args:
        learning_rate: the group's.
        steps: how many.
        schedule, momentum, decay_kind: as in `per_label` and `Group`.

    Returns:
        pull / λ.

    Example:
        >>> pull_per_rate(0.1, 100, momentum=0.9)  # doctest: +ELLIPSIS
        100.0...
    """
    factors = np.ones(steps) if schedule is None else np.asarray(jax.vmap(schedule)(jnp.arange(steps)), np.float64)
    total = learning_rate * float(np.sum(factors))
    return total / (1 - momentum) if decay_kind == "coupled" else total


def _group(
    label: str, group: Group, rates: Mapping, learning_rate, factor, make, decay_mask: Tree
) -> optax.GradientTransformation:
    if group.frozen:
        return optax.set_to_zero()
    parts = [make()]
    if is_plain(group):
        decay = optax.add_decayed_weights(_decay(label, group, rates), mask=decay_mask)
        parts = [decay, *parts] if group.decay_kind == "coupled" else [*parts, decay]
    tx = optax.chain(*parts, optax.scale(-factor * learning_rate))
    return _kept_while_still(tx, learning_rate) if callable(group.learning_rate) else tx


def _kept_while_still(tx: optax.GradientTransformation, learning_rate) -> optax.GradientTransformation:
    """A momentum gathered while nothing moves would belong to parameters that were never tried."""

    def update(updates, state, params=None):
        updates, new = tx.update(updates, state, params)
        return updates, jax.tree.map(lambda a, b: jnp.where(learning_rate > 0, a, b), new, state)

    return optax.GradientTransformation(tx.init, update)


def _decay(label: str, group: Group, rates: Mapping) -> Any:
    return checked_rate(rates.get(f"decay/{label}", group.decay), f"rates['decay/{label}']")


def _learning_rate(label: str, group: Group, rates: Mapping, step) -> Any:
    return 0.0 if group.frozen else rate_at(group.learning_rate, f"learning_rate/{label}", rates, step)


def _clip_by_norm(bound: float, learning_rates: Tree) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`, but for the norm, which leaves out what does not move, and is float32 at least."""

    def clip(updates, params=None):
        counted = jax.tree.map(lambda rate, g: jnp.where(rate == 0, jnp.zeros_like(g), g), learning_rates, updates)
        squares = sum_leaves(jnp.square, counted)
        norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))  # the square root has no slope at 0
        inside = (squares == 0) | (norm < bound)
        return jax.tree.map(lambda g: jnp.where(inside, g, (g / norm * bound).astype(g.dtype)), updates)

    return optax.stateless(clip)


def _check_groups(labels: set[str], groups: Mapping[str, Group]) -> None:
    for label, group in groups.items():
        if not isinstance(group, Group):
            raise InputError(
                f"{group!r} is no Group", where=f"groups['{label}']", todo="write Group(learning_rate=0.1)"
            )
        if label not in labels:
            todo = suggest(str(label), labels)
            raise InputError("no parameter has this label", where=f"groups['{label}']", todo=todo)
    for label in sorted(labels - set(groups)):
        raise InputError("no group moves this label", where=f"groups['{label}']", todo="add one, or Group(frozen=True)")


def _as_before(new: jax.Array, old: jax.Array) -> jax.Array:
    """A float32 rate would turn a bfloat16 momentum into float32, which a scan refuses and a jit recompiles."""
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def _given(rate: Any) -> bool:
    return not (isinstance(rate, numbers.Real) and rate == 0)
