"""What a prediction pays. Leaf losses are per example [B]; a term reduces; `make_loss_fn` adds the terms up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtl.errors import InputError
from jaxtl.labels import check_labels
from jaxtl.penalties import Term
from jaxtl.trees import Tree

Outputs = dict[str, Any]  # "features", each head by its name, "taps"
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


def masked_mean(values: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean of [B] values over the examples whose mask is 1; 0 when there are none."""
    if mask is None:
        return jnp.mean(values)
    _same_shape(values, mask, "mask")
    kept = jnp.where(mask > 0, values, 0.0)  # not values * mask: NaN * 0 is NaN
    return jnp.sum(kept) / jnp.maximum(jnp.sum(mask > 0), 1)


def per_example(loss: Callable[..., jax.Array], head: str = "head", target: str = "label") -> Callable[..., jax.Array]:
    """fn(outputs, batch, ctx) -> [B]: a leaf loss on one head's output and one field of the batch; an eval metric."""
    return lambda outputs, batch, ctx: loss(outputs[head], batch[target])


def mean_of(loss: Callable[..., jax.Array], head: str = "head", target: str = "label") -> Callable[..., jax.Array]:
    """fn(outputs, batch, ctx) -> scalar: the mean of a leaf loss over the batch, or over its "mask" where it has one.

    Example:
        >>> task = mean_of(softmax_cross_entropy)
        >>> float(task({"head": jnp.zeros((2, 4))}, {"label": jnp.array([0, 3])}, None))
        1.386...
    """
    values = per_example(loss, head, target)
    return lambda outputs, batch, ctx: masked_mean(values(outputs, batch, ctx), batch.get("mask"))


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

    def term(outputs, batch, ctx):
        known = batch[present] > 0
        if "mask" in batch:
            known &= batch["mask"] > 0
        labels = batch[target]
        wide = known.reshape(known.shape + (1,) * (labels.ndim - 1))
        # 0 in place of the label, not only of the loss: the slope of a NaN times 0 is NaN
        return masked_mean(loss(outputs[head], jnp.where(wide, labels, jnp.zeros_like(labels))), known)

    return term


def make_loss_fn(
    forward: Forward, terms: Mapping[str, Term], penalty: Callable | None = None, frozen: Tree | None = None
) -> Callable[..., tuple[dict[str, jax.Array], tuple[dict[str, jax.Array], Tree]]]:
    """Objective = Σ_name rate_name · term_name(outputs, batch, ctx) + penalty(params, ctx).

    Args:
        forward: (params, model_state, batch, ctx) -> (outputs, model_state).
        terms: loss terms by name; `ctx.rates` overrides each rate by that name.
        penalty: what `penalties.labelled` returns.
        frozen: bool tree like the parameters; no gradient is computed for its true leaves.

    Returns:
        loss_fn(params, model_state, batch, ctx) -> ({name: weighted scalar}, (metrics, model_state)); metrics holds
        each term before weighting and each label's weighted penalty as "penalty/LABEL".

    Raises:
        InputError: no term, a term called "penalty" or "loss", or (on use) one that is not a scalar.
    """
    if not terms or {"penalty", "loss"} & set(terms):
        raise InputError(
            f"terms are {sorted(terms)}", where="make_loss_fn", todo="name at least one, none as 'penalty'"
        )

    for name, term in terms.items():
        if term.given or term.on:
            raise InputError("given and on are read by penalties only", where=f"term '{name}'", todo="leave them out")

    def loss_fn(params, model_state, batch, ctx):
        if frozen is not None:
            check_labels(params, frozen, where="make_loss_fn frozen")
            params = jax.tree.map(lambda held, w: jax.lax.stop_gradient(w) if held else w, frozen, params)
        outputs, model_state = forward(params, model_state, batch, ctx)
        metrics = {name: _scalar(name, term.fn(outputs, batch, ctx)) for name, term in terms.items()}
        weighted = {name: ctx.rates.get(name, term.rate) * metrics[name] for name, term in terms.items()}
        if penalty is not None:
            weighted["penalty"], parts = penalty(params, ctx)
            metrics |= {f"penalty/{label}": value for label, value in parts.items()}
        return weighted, (metrics, model_state)

    return loss_fn


def _scalar(name: str, value: jax.Array) -> jax.Array:
    if jnp.shape(value) != ():
        raise InputError(f"has shape {jnp.shape(value)}", where=f"term '{name}'", todo="reduce it, e.g. with mean_of")
    return value


def _wide(values: jax.Array) -> jax.Array:
    """At least float32; float64 stays float64."""
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _same_shape(a: jax.Array, b: jax.Array, where: str) -> None:
    if a.shape != b.shape:
        raise InputError(f"shapes {a.shape} and {b.shape} differ", where=where, todo="broadcasting would hide it")


def _per_example(values: jax.Array) -> jax.Array:
    return values if values.ndim == 1 else jnp.mean(values, axis=tuple(range(1, values.ndim)))
