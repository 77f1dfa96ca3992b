"""What a prediction pays. Leaf losses are per example [B]; a term reduces; `make_loss_fn` adds the terms up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.errors import InputError, kind_of
from jaxtl.labels import check_labels
from jaxtl.penalties import Term
from jaxtl.rates import checked_scalar, rate_at
from jaxtl.trees import Tree, map_named, named_leaves

Outputs = dict[str, Any]  # "features", each head by its name, "taps"
# What stands before "/" in the names of other rates and metrics.
TAKEN = ("penalty", "learning_rate", "decay", "radius")
Forward = Callable[[Tree, Tree, Any, Any], tuple[Outputs, Tree]]  # (params, model_state, batch, ctx)


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """−log softmax(logits)[label] per example, in float32.

    A label outside 0…C−1 gives NaN, which stops the run; indexing alone would take the last class for −1.

    Args:
        logits: [B, C], any float dtype.
        labels: [B] integers, or [B, C] probabilities (soft targets).

    Returns:
        [B] float32.

    Example:
        >>> softmax_cross_entropy(jnp.array([[0.0, 0.0], [0.0, 0.0]]), jnp.array([1, 2])).tolist()
        [0.6931471824645996, nan]
    """
    logits = _wide(logits)
    if labels.ndim == logits.ndim:
        _same_shape(logits, labels, "softmax_cross_entropy")
        return optax.softmax_cross_entropy(logits, labels)
    _same_shape(logits[..., 0], labels, "softmax_cross_entropy")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.where((labels >= 0) & (labels < logits.shape[-1]), losses, jnp.nan)


def sigmoid_binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """−y·log σ(z) − (1−y)·log(1−σ(z)) per example, averaged over any further axes.

    Args:
        logits: [B] or [B, K].
        labels: as `logits`, in [0, 1].

    Returns:
        [B] float32.

    Example:
        >>> sigmoid_binary_cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0])).tolist()
        [0.6931471824645996, 0.6931471824645996]
    """
    _same_shape(logits, labels, "sigmoid_binary_cross_entropy")
    return _per_example(optax.sigmoid_binary_cross_entropy(_wide(logits), labels))


def squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """½ (prediction − target)² per example, summed over any further axes.

    With the mean over n examples as the task, scikit-learn's Ridge α is n · rate.

    Args:
        predictions, targets: [B] or [B, K].

    Returns:
        [B] float32.

    Example:
        >>> squared_error(jnp.array([1.0, 4.0]), jnp.array([1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    _same_shape(predictions, targets, "squared_error")
    difference = _wide(predictions) - targets
    return 0.5 * jnp.sum(difference * difference, axis=tuple(range(1, difference.ndim)))


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest logit is the label's, else 0: [B] float32."""
    _same_shape(logits[..., 0], labels, "accuracy")
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def weights_of(mask: jax.Array) -> jax.Array:
    """How much each example counts, by a mask: 1 or 0, or any weight ≥ 0, as float32. Others give NaN, which is seen.

    Example:
        >>> weights_of(jnp.array([1.0, 0.0, 0.5, -1.0])).tolist()
        [1.0, 0.0, 0.5, nan]
    """
    weights = jnp.asarray(mask).astype(jnp.float32)
    return jnp.where((weights >= 0) & (weights < jnp.inf), weights, jnp.nan)


def masked_sum(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Σ mask · values over [B]; what has the mask 0 may be NaN.

    The *gradient* with respect to what such a value was computed from is NaN times 0 all the same: give `where_counted`
    to the loss, as `mean_of` does.
    """
    _same_shape(values, mask, "mask")
    weights = weights_of(mask)
    return jnp.sum(jnp.where(weights == 0, 0.0, weights * values))


def masked_mean(values: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Σ mask · values / Σ mask over [B], the mean over the examples whose mask is 1; 0 when there are none.

    A mask may hold weights ≥ 0 instead; negative, NaN or infinite ones make the mean NaN. For gradients see
    `masked_sum`.

    Example:
        >>> values = jnp.array([1.0, jnp.nan, 3.0])
        >>> float(masked_mean(values, jnp.array([1, 0, 1]))), float(masked_mean(values, jnp.array([0.5, 0.0, 1.5])))
        (2.0, 2.5)
    """
    if mask is None:
        return jnp.mean(values)
    total = jnp.sum(weights_of(mask))
    return masked_sum(values, mask) / jnp.where(total == 0, 1.0, total)


def where_counted(field: jax.Array, mask: jax.Array) -> jax.Array:
    """A field [B, ...] with 0 in place of the examples whose mask is 0: neither value nor gradient looks at them."""
    shape = jnp.shape(mask) + (1,) * (jnp.ndim(field) - jnp.ndim(mask))
    return jnp.where(jnp.reshape(mask == 0, shape), jnp.zeros_like(field), field)


def per_example(loss: Callable[..., jax.Array], head: str = "head", target: str = "label") -> Callable[..., jax.Array]:
    """fn(outputs, batch, ctx) -> [B]: a leaf loss on one head's output and one field of the batch; an eval metric."""
    return lambda outputs, batch, ctx: loss(_named(outputs, head, "outputs"), _named(batch, target, "batch"))


def mean_of(loss: Callable[..., jax.Array], head: str = "head", target: str = "label") -> Callable[..., jax.Array]:
    """fn(outputs, batch, ctx) -> scalar: the mean of a leaf loss over the batch, weighed by its "mask" if it has one.

    What an example with the mask 0 holds (a padding label, NaN) is looked at neither in the value nor in the gradient.

    Example:
        >>> task = mean_of(softmax_cross_entropy)
        >>> float(task({"head": jnp.zeros((2, 4))}, {"label": jnp.array([0, 3])}, None))
        1.386...
    """

    def term(outputs, batch, ctx):
        predictions, targets = _named(outputs, head, "outputs"), _named(batch, target, "batch")
        mask = batch.get("mask")
        if mask is None:
            return masked_mean(loss(predictions, targets))
        return masked_mean(loss(where_counted(predictions, mask), where_counted(targets, mask)), mask)

    return term


def mean_of_present(loss: Callable[..., jax.Array], head: str, target: str, present: str) -> Callable[..., jax.Array]:
    """fn(outputs, batch, ctx) -> scalar: the mean of a leaf loss over the examples whose label is there.

    What stands where a label is missing (−1, NaN, anything) is not looked at, in the value or in the gradient. A batch
    without any label gives 0, which `methods.multitask` takes for a task that is absent.

    Args:
        loss: (predictions, targets) -> [B].
        head: name of the output.
        target: field of the batch with the labels, [B] or [B, K].
        present: field of the batch, [B], 1 where the label is there; the batch's own "mask" is heeded as well.

    Example:
        >>> term = mean_of_present(squared_error, "age", "age", "age_known")
        >>> batch = {"age": jnp.array([1.0, jnp.nan]), "age_known": jnp.array([1, 0])}
        >>> float(term({"age": jnp.array([3.0, 3.0])}, batch, None))
        2.0
    """

    own = mean_of(loss, head, target)

    def term(outputs, batch, ctx):
        known = weights_of(_named(batch, present, "batch"))
        if "mask" in batch:
            known = known * weights_of(batch["mask"])
        return own(outputs, {**batch, "mask": known}, ctx)

    return term


def make_loss_fn(
    forward: Forward, terms: Mapping[str, Term], penalty: Callable | None = None, frozen: Tree | None = None
) -> Callable[..., tuple[dict[str, jax.Array], tuple[dict[str, jax.Array], Tree]]]:
    """Objective = Σ_name rate_name · term_name(outputs, batch, ctx) + penalty(params, ctx).

    Args:
        forward: (params, model_state, batch, ctx) -> (outputs, model_state).
        terms: loss terms by name; `ctx.rates` overrides each rate by that name.
        penalty: what `penalties.labelled` returns.
        frozen: bool tree like the parameters; no gradient is computed for its true leaves, and `forward` finds their
            paths in `ctx.frozen`, see `models.as_forward`.

    Returns:
        loss_fn(params, model_state, batch, ctx) -> ({name: weighted scalar}, (metrics, model_state)); metrics holds
        each term before weighting and each label's weighted penalty as "penalty/LABEL".

    Raises:
        InputError: no term, a term called "penalty", "loss" or as the rates of other things are, or (on use) one that
            is not a scalar.
    """
    _check_terms(terms)

    for path, held in named_leaves(frozen).items():
        if not isinstance(held, bool | np.bool_):
            todo = "make it of labels: having(labels, 'transferred')"
            raise InputError(f"{held!r} is neither True nor False", where=f"make_loss_fn frozen, '{path}'", todo=todo)

    def loss_fn(params, model_state, batch, ctx):
        if frozen is not None:
            check_labels(params, frozen, where="make_loss_fn frozen")
            held = {path for path, held in named_leaves(frozen).items() if held}
            ctx = dataclasses.replace(ctx, frozen=ctx.frozen | held)
            params = map_named(lambda path, w: jax.lax.stop_gradient(w) if path in held else w, params)
        outputs, model_state = forward(params, model_state, batch, ctx)
        reduce = "reduce it, e.g. with mean_of"
        metrics = {
            name: checked_scalar(t.fn(outputs, batch, ctx), f"term '{name}'", reduce) for name, t in terms.items()
        }
        weighted = {name: rate_at(t.rate, name, ctx.rates, ctx.step) * metrics[name] for name, t in terms.items()}
        if penalty is not None:
            weighted["penalty"], parts = penalty(params, ctx)
            metrics |= {f"penalty/{label}": value for label, value in parts.items()}
        return weighted, (metrics, model_state)

    return loss_fn


def _check_terms(terms: Mapping[str, Term]) -> None:
    if not terms or {"penalty", "loss"} & set(terms):
        what, todo = f"terms are {sorted(terms)}", "name at least one, none as 'penalty'"
        raise InputError(what, where="make_loss_fn", todo=todo)
    for name, term in terms.items():
        where = f"term '{name}'"
        if not isinstance(term, Term):
            raise InputError(f"{term!r} is no Term", where=where, todo="write Term(rate, fn): Term(1.0, mean_of(loss))")
        if term.given or term.on or term.beside:
            raise InputError("given, on and beside are read by penalties only", where=where, todo="leave them out")
        if name.startswith(tuple(f"{first}/" for first in TAKEN)):
            raise InputError("other rates and metrics have such names", where=where, todo="rename the term")


def _named(tree: Any, name: str, what: str) -> Any:
    """A head's output, or a field of the batch."""
    if not isinstance(tree, Mapping) or tree.get(name) is None:
        todo = f"it holds {', '.join(map(str, tree))}" if isinstance(tree, Mapping) else "make it a dict"
        raise InputError(f"{kind_of(tree)} without '{name}'", where=f"the {what}", todo=todo)
    return tree[name]


def _wide(values: jax.Array) -> jax.Array:
    """At least float32; float64 stays float64."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _same_shape(a: jax.Array, b: jax.Array, where: str) -> None:
    if a.shape != b.shape:
        raise InputError(f"shapes {a.shape} and {b.shape} differ", where=where, todo="broadcasting would hide it")


def _per_example(values: jax.Array) -> jax.Array:
    return values if values.ndim == 1 else jnp.mean(values, axis=tuple(range(1, values.ndim)))
