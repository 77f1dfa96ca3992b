"""What a parameter pays: one equation per function, towards zero or towards an anchor.

The functions take trees, know no labels and no rates, and return one float32 scalar. `labelled` puts them together:
`{TRANSFERRED: Term(a, l2, ("anchor",)), NEW: Term(b, l2)}` is L2-SP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError, suggest
from jaxtl.labels import check_labels, everything, having, kernels, label_set, selected
from jaxtl.rates import checked_default, checked_scalar, rate_at
from jaxtl.trees import Tree, check_same, keep, paired, sum_leaves


def _away(fn: Callable[[jax.Array], jax.Array], params: Tree, anchor: Tree | None) -> jax.Array:
    """Σ fn(w), or Σ fn(w − anchor)."""
    if anchor is None:
        return sum_leaves(fn, params)
    _check_fits(params, anchor, "anchor")
    return sum_leaves(lambda w, a: fn(w - a), params, anchor)


def _check_fits(params: Tree, tree: Tree, name: str) -> None:
    """The same paths and shapes; bfloat16 parameters may be held to a float32 anchor."""
    check_same(params, tree, where=name, todo="give a tree with the parameters' paths and shapes", dtypes=False)


def l2(params: Tree, anchor: Tree | None = None) -> jax.Array:
    """Squared distance, ½ Σ (w − anchor)²; its gradient is w − anchor, so rate·l2 is coupled weight decay `rate`.

    Never ½‖w‖² through a norm: its gradient is NaN at 0.

    Args:
        params: tree of arrays of any float dtype; accumulated in float32.
        anchor: tree like `params`; zero when left out.

    Returns:
        Scalar.

    Example:
        >>> float(l2({"w": jnp.array([3.0, 4.0])}))
        12.5

    Source: Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional
    Networks", 2018 (with an anchor: L2-SP).
    """
    return _away(lambda d: 0.5 * d * d, params, anchor)


def l1(params: Tree, anchor: Tree | None = None) -> jax.Array:
    """Absolute distance, Σ |w − anchor|; its subgradient at 0 is 0.

    Example:
        >>> float(l1({"w": jnp.array([3.0, -4.0])}))
        7.0

    Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso", 1996.
    """
    return _away(lambda d: d * jnp.sign(d), params, anchor)  # the slope of jnp.abs at 0 is 1, not 0


def elastic_net(params: Tree, anchor: Tree | None = None, *, l1_ratio: float) -> jax.Array:
    """l1_ratio · l1 + (1 − l1_ratio) · l2.

    Args:
        params, anchor: as in `l2`.
        l1_ratio: between 0 (only l2) and 1 (only l1).

    Raises:
        InputError: l1_ratio outside [0, 1].

    Example:
        >>> float(elastic_net({"w": jnp.array([3.0, -4.0])}, l1_ratio=0.5))
        9.75

    Source: Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", 2005.
    """
    if not 0 <= l1_ratio <= 1:
        raise InputError(f"{l1_ratio} is outside [0, 1]", where="elastic_net l1_ratio")
    return l1_ratio * l1(params, anchor) + (1 - l1_ratio) * l2(params, anchor)


def group_lasso(params: Tree, anchor: Tree | None = None) -> jax.Array:
    """Σ_g √|g| · ‖w_g − anchor_g‖, a group being all weights into one output unit (the last axis of a kernel).

    An entry of a leaf with one axis is a group of its own. Value and gradient are exactly 0 where a group is 0.

    Example:
        >>> float(group_lasso({"kernel": jnp.array([[3.0, 0.0], [4.0, 0.0]])}))  # √2 · 5
        7.071...

    Source: Yuan and Lin, "Model Selection and Estimation in Regression with Grouped Variables", 2006.
    """

    def norms(d):
        groups = d.reshape(-1, d.shape[-1]) if d.ndim > 1 else d.reshape(1, -1)
        squares = jnp.sum(groups * groups, axis=0)
        moved = squares > 0  # the square root has an infinite slope at 0: keep 0 out of it, not only out of the result
        return jnp.sqrt(groups.shape[0]) * jnp.where(moved, jnp.sqrt(jnp.where(moved, squares, 1.0)), 0.0)

    return _away(norms, params, anchor)


def fisher(params: Tree, anchor: Tree, importance: Tree) -> jax.Array:
    """½ Σ importance · (w − anchor)²: each parameter is held as firmly as the source task needs it.

    Args:
        params: tree of arrays.
        anchor: tree like `params`.
        importance: tree like `params`, ≥ 0; the diagonal of the Fisher information for elastic weight consolidation.

    Example:
        >>> w, zero, f = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.zeros(2)}, {"w": jnp.array([4.0, 0.0])}
        >>> float(fisher(w, zero, f))
        2.0

    Source: Kirkpatrick et al., "Overcoming Catastrophic Forgetting in Neural Networks", 2017.
    """
    for name, tree in (("anchor", anchor), ("importance", importance)):
        _check_fits(params, tree, name)
    return sum_leaves(lambda w, a, f: 0.5 * f * (w - a) ** 2, params, anchor, importance)


def check_names(names: Any, where: str, field: str, example: str) -> None:
    """Several names.

    Raises:
        InputError: a text, which is a tuple of letters, or something else than text among them.
    """
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{field}={names!r} is no tuple of names", where=where, todo=f'write {field}=("{example}",)')


def check_reach(of: Any, where: str) -> None:
    """What a `Term`, a `Prox` or a `Ball` has in `given` and `on`.

    Raises:
        InputError: `given` is a text, or holds something else than text; `on` is no function.
    """
    check_names(of.given, where, "given", "anchor")
    if of.on is not None and not callable(of.on):
        what = f"on is a {type(of.on).__name__}, not a function"
        raise InputError(what, where=where, todo="write on=lambda params: mask")


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of an objective, rate · fn.

    As a penalty, fn(params, *given, *beside) -> scalar. As a loss, fn(outputs, batch, ctx) -> scalar.

    Args:
        rate: default, ≥ 0; `Fixed.rates` overrides it by name without recompiling. Or a function, step -> rate ≥ 0:
            what stands under its name is then a factor on it, 1 by default.
        fn: the equation.
        given: penalty only: names in `ctx.given` handed over after the parameters ("anchor", "importance").
        on: penalty only: params -> bool tree of the leaves that pay. None: kernels when towards zero, every leaf
            when towards something given.
        beside: penalty only: labels whose parameters are handed over after what is given, such as a scale that is
            learned; the penalty's gradient reaches them too.
    """

    rate: Any
    fn: Callable[..., jax.Array]
    given: tuple[str, ...] = ()
    on: Callable[[Tree], Tree] | None = None
    beside: tuple[str, ...] = ()

    def __post_init__(self):
        where = f"Term({getattr(self.fn, '__name__', '?')})"
        if not callable(self.fn):
            raise InputError(f"{self.fn!r} is no function", where=where, todo="write Term(rate, fn): Term(0.1, l2)")
        checked_default(self.rate, where, "rate")
        check_reach(self, where)
        check_names(self.beside, where, "beside", "new")


LabelTerms = Mapping[str, Term | Mapping[str, Term]]


def labelled(labels: Tree, terms: LabelTerms) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """The penalty of a labelled model, Σ_label rate_label · fn_label(parameters with that label).

    A label may be pulled several ways at once: `{TRANSFERRED: {"zero": Term(0., l2), "source": Term(a, l2,
    ("anchor",))}}`. Rates are read from `ctx.rates` as "penalty/LABEL", or "penalty/LABEL/NAME" of a named pull.

    Args:
        labels: tree of strings like the parameters.
        terms: what each label pays; labels left out pay nothing.

    Returns:
        penalty(params, ctx) -> (total, {label: weighted}), float32 scalars.

    Raises:
        InputError: a label that no parameter has, two pulls that read one rate; on use: labels of other parameters, a
            mask that selects nothing or does not fit, a tree that was not given or does not fit, a term that gives no
            scalar.

    Example:
        >>> from types import SimpleNamespace
        >>> params = {"trunk": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(4)}}
        >>> labels = {"trunk": {"kernel": "transferred"}, "head": {"kernel": "new"}}
        >>> penalty = labelled(labels, {"transferred": Term(0.1, l2, ("anchor",)), "new": Term(0.5, l2)})
        >>> total, parts = penalty(params, SimpleNamespace(step=0, rates={}, given={"anchor": params}))
        >>> float(total), {label: float(value) for label, value in parts.items()}
        (1.0, {'transferred': 0.0, 'new': 1.0})
    """
    flat = _flat(terms, label_set(labels))

    def penalty(params, ctx):
        check_labels(params, labels)
        parts = {}
        for name, (label, term) in flat.items():
            where = f"penalty/{name}"
            mask = _paying(params, labels, label, term, where)
            given = (keep(_given(ctx, tree, params, where), mask) for tree in term.given)
            rate = rate_at(term.rate, where, ctx.rates, ctx.step)
            beside = (keep(params, having(labels, other)) for other in term.beside)
            paid = term.fn(keep(params, mask), *given, *beside)
            parts[name] = rate * checked_scalar(paid, where, "sum over the leaves")
        return sum(parts.values(), start=jnp.float32(0)), parts

    return penalty


def _flat(terms: LabelTerms, known: set[str]) -> dict[str, tuple[str, Term]]:
    """{name of a pull: (label, term)}; the name is that of its rate behind "penalty/"."""
    flat: dict[str, tuple[str, Term]] = {}
    for label, pulls in terms.items():
        where = f"penalty/{label}"
        if label not in known:
            raise InputError("no parameter has this label", where=where, todo=suggest(str(label), known))
        if not pulls:
            raise InputError("no pull is named", where=where, todo="give a Term, or leave the label out")
        if not isinstance(pulls, Term | Mapping):
            raise InputError(f"{pulls!r} is no Term", where=where, todo="write Term(rate, fn): Term(0.1, l2)")
        named = {label: pulls} if isinstance(pulls, Term) else {f"{label}/{name}": t for name, t in pulls.items()}
        for name, term in named.items():
            if not isinstance(term, Term):
                raise InputError(f"{term!r} is no Term", where=f"penalty/{name}", todo="write Term(rate, fn)")
            if name in flat:
                what = (
                    f"labels '{flat[name][0]}' and '{label}' have a pull of this name, and one would replace the other"
                )
                raise InputError(what, where=f"penalty/{name}", todo="rename the pull or the label")
            for other in sorted(set(term.beside) - known):
                what, todo = f"no parameter has the label '{other}' beside it", suggest(other, known)
                raise InputError(what, where=f"penalty/{name}", todo=todo)
            flat[name] = (label, term)
    return flat


def _paying(params: Tree, labels: Tree, label: str, term: Term, where: str) -> Tree:
    mask = selected(params, labels, label, term.on or (everything if term.given else kernels), where)
    if not any(jax.tree.leaves(mask)):
        raise InputError(
            f"`on` selects none of the parameters labelled '{label}', so this penalty would always be 0",
            where=where,
            todo="pass Term(..., on=everything) or a mask of your own (kernels takes no vectors but 'kernel')",
        )
    return mask


def _given(ctx, tree: str, params: Tree, where: str) -> Tree:
    if tree not in ctx.given:
        raise InputError(f"needs given['{tree}']", where=where, todo=f"pass Fixed(given={{'{tree}': ...}}) to the step")
    check_same(params, ctx.given[tree], where=f"given['{tree}']", todo="give a tree like the parameters")
    return paired(params, ctx.given[tree])
