"""What a price does to parameters in one step, solved instead of followed: zeros that are exactly zero.

    w ← prox_t(w − lr·∇task),      prox_t(v) = argmin_w ½‖w − v‖² + t·penalty(w),      t = lr·rate

A subgradient of l1 or of a norm has no limit at 0, so descent along it hops about 0 and never rests there. The minimum
above is known in closed form: soft-thresholding. The operators below belong to the penalties of the same name in
`penalties` (same groups, same factors); `Prox` and `Ball` go into `optimizers.Group`, which knows the step size.

Source: Parikh and Boyd, "Proximal Algorithms", 2014.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.labels import check_labels, everything, kernels, label_set, selected
from jaxtl.penalties import check_reach
from jaxtl.rates import checked_rate
from jaxtl.trees import Tree, check_same, keep, map_named, named_leaves, paired, sum_leaves


def prox_l1(params: Tree, amount: Any, anchor: Tree | None = None) -> Tree:
    """Soft-thresholding, d ← sign(d)·max(|d| − amount, 0) with d = w − anchor.

    Args:
        params: tree of arrays of any float dtype; computed in float32.
        amount: ≥ 0, learning rate times rate.
        anchor: tree like `params`; zero when left out.

    Returns:
        Tree like `params`.

    Example:
        >>> prox_l1({"w": jnp.array([3.0, -0.5, -2.0])}, 1.0)["w"].tolist()
        [2.0, -0.0, -1.0]

    Source: Donoho, "De-Noising by Soft-Thresholding", 1995.
    """
    return _around(lambda d: jnp.sign(d) * jnp.maximum(jnp.abs(d) - amount, 0.0), params, anchor)


def prox_elastic_net(params: Tree, amount: Any, anchor: Tree | None = None, *, l1_ratio: float) -> Tree:
    """prox_l1 by amount·l1_ratio, then divided by 1 + amount·(1 − l1_ratio).

    Args:
        params, amount, anchor: as in `prox_l1`.
        l1_ratio: between 0 (only l2) and 1 (only l1).

    Raises:
        InputError: l1_ratio outside [0, 1].

    Example:
        >>> prox_elastic_net({"w": jnp.array([3.5, 0.5])}, 1.0, l1_ratio=0.5)["w"].tolist()
        [2.0, 0.0]

    Source: Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", 2005.
    """
    if not 0 <= l1_ratio <= 1:
        raise InputError(f"{l1_ratio} is outside [0, 1]", where="prox_elastic_net l1_ratio")

    def shrink(d):
        thresholded = jnp.sign(d) * jnp.maximum(jnp.abs(d) - l1_ratio * amount, 0.0)
        return thresholded / (1 + (1 - l1_ratio) * amount)

    return _around(shrink, params, anchor)


def prox_group_lasso(params: Tree, amount: Any, anchor: Tree | None = None) -> Tree:
    """d_g ← d_g · max(1 − amount·√|g| / ‖d_g‖, 0): a group goes to the anchor as a whole, or keeps its direction.

    A group is all weights into one output unit (the last axis of a kernel); an entry of a leaf with one axis is a group
    of its own.

    Args:
        params, amount, anchor: as in `prox_l1`.

    Example:
        >>> prox_group_lasso({"kernel": jnp.array([[3.0, 0.5], [4.0, 0.5]])}, 2.5 / 2**0.5)["kernel"].tolist()
        [[1.5, 0.0], [2.0, 0.0]]

    Source: Yuan and Lin, "Model Selection and Estimation in Regression with Grouped Variables", 2006.
    """

    def shrink(d):
        groups = _groups(d)
        norms, threshold = jnp.linalg.norm(groups, axis=0), amount * len(groups) ** 0.5
        gone = norms <= threshold
        factor = jnp.where(gone, 0.0, 1 - threshold / jnp.where(gone, 1.0, norms))
        return (groups * factor[None]).reshape(d.shape)

    return _around(shrink, params, anchor)


def project(params: Tree, radius: Any, anchor: Tree | None = None) -> Tree:
    """The nearest point with ‖w − anchor‖ ≤ radius, one norm over all leaves: regularisation as a bound, not a price.

    Args:
        params, anchor: as in `prox_l1`.
        radius: ≥ 0.

    Example:
        >>> project({"w": jnp.array([3.0, 4.0])}, 2.5)["w"].tolist()
        [1.5, 2.0]

    Source: Gouk, Hospedales and Pontil, "Distance-Based Regularisation of Deep Networks for Fine-Tuning", 2021.
    """
    moved = params if anchor is None else map_named(lambda _, w, a: w - a, params, anchor)
    norm = jnp.sqrt(sum_leaves(jnp.square, moved))
    inside = norm <= radius
    factor = jnp.where(inside, 1.0, radius / jnp.where(inside, 1.0, norm))
    return _around(lambda d: d * factor, params, anchor)


def project_units(params: Tree, radius: Any, anchor: Tree | None = None) -> Tree:
    """d_j ← d_j · min(1, radius / Σ_i |d_ij|) with d = w − anchor: one bound for every output unit j (MARS norm).

    A unit is all weights into it, the last axis of a kernel; in a leaf with one axis each entry is a unit of its own,
    so that a bound on kernels alone wants `on=kernels`. PyTorch's kernels have units along the first axis.

    Args:
        params, anchor: as in `prox_l1`.
        radius: ≥ 0.

    Example:
        >>> project_units({"kernel": jnp.array([[3.0, 0.5], [-1.0, 0.5]])}, 2.0)["kernel"].tolist()
        [[1.5, 0.5], [-0.5, 0.5]]

    Source: Gouk, Hospedales and Pontil, "Distance-Based Regularisation of Deep Networks for Fine-Tuning", 2021.
    """

    def shrink(d):
        groups = _groups(d)
        norms = jnp.sum(jnp.abs(groups), axis=0)
        inside = norms <= radius
        factor = jnp.where(inside, 1.0, radius / jnp.where(inside, 1.0, norms))
        return (groups * factor[None]).reshape(d.shape)

    return _around(shrink, params, anchor)


def _around(fn: Callable[[jax.Array], jax.Array], params: Tree, anchor: Tree | None) -> Tree:
    """fn(w), or anchor + fn(w − anchor), for every leaf."""

    def wide(w):
        return w.astype(jnp.promote_types(w.dtype, jnp.float32))

    if anchor is None:
        return jax.tree.map(lambda w: fn(wide(w)).astype(w.dtype), params)
    _check_fits(params, anchor, "anchor")
    return map_named(lambda _, w, a: (a + fn(wide(w) - a)).astype(w.dtype), params, anchor)


def _check_fits(params: Tree, tree: Tree, name: str) -> None:
    """The same paths and shapes; bfloat16 parameters may be held to a float32 anchor."""
    check_same(params, tree, where=name, todo="give a tree like the parameters", dtypes=False)


def _groups(leaf: jax.Array) -> jax.Array:
    """[members, groups], as `penalties.group_lasso` has them."""
    return leaf.reshape(-1, leaf.shape[-1]) if leaf.ndim > 1 else leaf.reshape(1, -1)


@dataclasses.dataclass(frozen=True)
class Prox:
    """A price paid after each gradient step: w ← fn(w, lr·rate, *given).

    Args:
        rate: default, ≥ 0; `rates["penalty/LABEL"]` overrides it without recompiling, as it does a `penalties.Term`.
        fn: `prox_l1`, `prox_group_lasso`, `functools.partial(prox_elastic_net, l1_ratio=0.5)` or one of your own.
        given: names of the trees that `update(..., given=...)` hands over after the amount ("anchor").
        on: params -> bool tree of the leaves that pay. None: kernels when towards zero, every leaf when towards
            something given.
    """

    rate: Any
    fn: Callable[..., Tree]
    given: tuple[str, ...] = ()
    on: Callable[[Tree], Tree] | None = None
    kind: ClassVar[str] = "penalty"

    def __post_init__(self):
        if not callable(self.fn):
            raise InputError(f"{self.fn!r} is no function", where="Prox fn", todo="write Prox(rate, prox_l1)")
        _check(self, "rate")

    @property
    def number(self) -> Any:
        return self.rate

    def after(self, params: Tree, step_size: Any, rate: Any, given: tuple[Tree, ...]) -> Tree:
        return self.fn(params, step_size * rate, *given)


@dataclasses.dataclass(frozen=True)
class Ball:
    """A bound kept after each step, whatever the optimizer: ‖w − w⁰‖ ≤ radius over all of a label's weights.

    Args:
        radius: default, ≥ 0; `rates["radius/LABEL"]` overrides it without recompiling.
        given, on: as in `Prox`; `given=("anchor",)` makes the anchor the centre, which is 0 otherwise.
        fn: `project`, or `project_units` for a bound on every unit.
    """

    radius: Any
    given: tuple[str, ...] = ()
    on: Callable[[Tree], Tree] | None = None
    fn: Callable[..., Tree] = project
    kind: ClassVar[str] = "radius"

    def __post_init__(self):
        if not callable(self.fn):
            raise InputError(f"{self.fn!r} is no function", where="Ball fn", todo="write Ball(radius, fn=project)")
        _check(self, "radius")

    @property
    def number(self) -> Any:
        return self.radius

    def after(self, params: Tree, step_size: Any, radius: Any, given: tuple[Tree, ...]) -> Tree:
        return self.fn(params, radius, *given)


def _check(by: Prox | Ball, name: str) -> None:
    kind = type(by).__name__
    checked_rate(by.number, f"{kind} {name}")
    check_reach(by, kind)


def reached(params: Tree, labels: Tree, label: str, by: Prox | Ball) -> Tree:
    """Bool tree: the parameters with this label that a `Prox` or a `Ball` acts on.

    Raises:
        InputError: there are none.
    """
    on = by.on or (everything if by.given else kernels)
    mask = selected(params, labels, label, on, f"{by.kind}/{label}")
    if not any(jax.tree.leaves(mask)):
        raise InputError(
            f"`on` selects none of the parameters labelled '{label}', so this would do nothing",
            where=f"{by.kind}/{label}",
            todo=f"pass {type(by).__name__}(..., on=everything) or a mask of your own (kernels is the default)",
        )
    return mask


def check_plain(label: str, by: Prox | Ball, optimizer: Any, momentum: float) -> None:
    """Refuse a `Prox` where an optimizer does more than plain SGD.

    Args:
        label: whose step it is.
        by: a `Ball` is a projection, and goes with all of them.
        optimizer, momentum: as in `optimizers.per_label`.

    Raises:
        InputError: the step would not end at the minimum of task and penalty.
    """
    if isinstance(by, Prox) and (optimizer != "sgd" or momentum):
        used = f"'{optimizer}'" if isinstance(optimizer, str) else "an optimizer of your own"
        raise InputError(
            f"a proximal step is exact for plain SGD only, not for {used} with momentum {momentum}",
            where=f"groups['{label}']",
            todo="use 'sgd' without momentum, put the penalty in the loss, or bound the distance with a Ball",
        )


def own_number(by: Prox | Ball) -> Any:
    """The default rate or radius as an object that nobody else has, by which `charged` knows it again."""
    return np.array(by.number) if isinstance(by.number, numbers.Real) else by.number


def charged(name: str, default: Any, rates: Mapping) -> Any:
    """The rate or radius of a step, by its name.

    Args:
        name: "penalty/LABEL" or "radius/LABEL".
        default: of `own_number`, where `rates` does not have it.
        rates: those of a step remember what was asked of them before, and with which default.

    Raises:
        InputError: a `Term` in the loss that reads the same name has charged it before.
    """
    defaults = rates.asked.defaults if hasattr(rates, "asked") else {}
    if defaults.get(name, default) is not default:
        what = "is a penalty in the loss and a proximal step in the optimizer, so it would be paid twice"
        raise InputError(what, where=name, todo="keep one, or name the pull in the loss: {label: {name: Term(...)}}")
    return checked_rate(rates.get(name, default), f"rates['{name}']")


def proximal_updates(
    updates: Tree, params: Tree, labels: Tree, label: str, by: Prox | Ball, step_size: Any, value: Any, given: Mapping
) -> Tree:
    """The updates with which one label's parameters end where `by` puts them after the gradient step.

    Where that is 0 the update is −w, and w − w is exactly 0.
    """
    mask = reached(params, labels, label, by)
    for name in by.given:
        if name not in given:
            raise InputError(f"needs given['{name}']", where=f"{by.kind}/{label}", todo="hand it over as `given`")
        _check_fits(params, given[name], f"given['{name}']")
    trees = tuple(keep(paired(params, given[name]), mask) for name in by.given)
    stepped = keep(jax.tree.map(jnp.add, params, updates), mask)
    after = by.after(stepped, step_size, value, trees)
    check_same(stepped, after, where=f"{by.kind}/{label}", todo="give a tree like the parameters", dtypes=False)
    ended = named_leaves(after)
    return map_named(lambda path, w, u: (ended[path] - w).astype(u.dtype) if path in ended else u, params, updates)


class Zeros(NamedTuple):
    """How many of a label's kernel weights, and of their groups, are exactly zero (or exactly the anchor)."""

    weights: jax.Array
    of_weights: int
    groups: jax.Array
    of_groups: int


def count_zeros(params: Tree, labels: Tree, anchor: Tree | None = None) -> dict[str, Zeros]:
    """Exact zeros of w − anchor among the kernels of every label; groups as in `prox_group_lasso`.

    Example:
        >>> params = {"kernel": jnp.array([[0.0, 1.0], [0.0, 0.0]]), "bias": jnp.zeros(2)}
        >>> zeros = count_zeros(params, {"kernel": "new", "bias": "new"})["new"]
        >>> int(zeros.weights), zeros.of_weights, int(zeros.groups), zeros.of_groups
        (3, 4, 1, 2)
    """
    check_labels(params, labels)
    moved = params if anchor is None else map_named(lambda _, w, a: w - a, params, anchor)
    counts = {}
    for label in sorted(label_set(labels)):
        mask = selected(params, labels, label, kernels, "labels")
        leaves = [_groups(leaf) == 0 for leaf in jax.tree.leaves(keep(moved, mask))]
        weights = sum((jnp.sum(zero) for zero in leaves), start=jnp.int32(0))
        groups = sum((jnp.sum(jnp.all(zero, axis=0)) for zero in leaves), start=jnp.int32(0))
        counts[label] = Zeros(weights, sum(z.size for z in leaves), groups, sum(z.shape[1] for z in leaves))
    return counts
