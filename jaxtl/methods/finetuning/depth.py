"""Along the depth of a network: slower stages near the input, stages that begin to move one after another, stages that
move by how much they are asked to. Labels are "depth:k", from input to output (`labels.label_by_depth`)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.labels import having, label_set
from jaxtl.step import GradFn, total_gradient
from jaxtl.trees import Tree, keep, map_named, sum_leaves

GRADUALLY = 1 / 2.6  # ULMFiT's factor from a layer to the one below


def layer_scales(stages: int, decay: float) -> list[float]:
    """decay^(stages − 1 − k) for k = 0, 1, …: the factor on each stage's learning rate, 1 for the last, the head.

    Args:
        stages: how many, with what stands before the first block and with the head.
        decay: > 0.

    Example:
        >>> [round(scale, 6) for scale in layer_scales(14, 0.75)[:2]]  # 12 blocks of a transformer
        [0.023757, 0.031676]

    Source: Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", 2020; Howard
    and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018 (decay 1/2.6).
    """
    if not decay > 0:
        raise InputError(f"{decay} is not positive", where="layer_scales decay", todo="use 0.65 to 0.95, or 1")
    return [decay ** (stages - 1 - k) for k in range(stages)]


def moving_from(start: float, scale: float = 1.0) -> Callable[[jax.Array], jax.Array]:
    """step -> scale from step `start` on, 0 before: a learning rate of `optimizers.Group` that unfreezes its label.

    Until then the optimizer keeps its state as it was. Batch statistics of the stage move from the beginning.

    Example:
        >>> [float(moving_from(2, 0.5)(step)) for step in range(4)]
        [0.0, 0.0, 0.5, 0.5]
    """
    return lambda step: jnp.where(jnp.asarray(step) >= start, scale, 0.0)


def unfreezing(stages: int, steps: int) -> list[float]:
    """At which step each stage begins to move: the last at once, every other an equal part of the first half later.

    Args:
        stages: how many.
        steps: of the whole run; in the second half of them all move.

    Example:
        >>> unfreezing(3, 100)
        [50.0, 25.0, 0.0]

    Source: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, who unfreeze a layer
    an epoch.
    """
    return [0.5 * steps * (stages - 1 - k) / max(stages - 1, 1) for k in range(stages)]


def slanted_triangle(steps: int, rise: float = 0.1, ratio: float = 32.0) -> Callable[[jax.Array], jax.Array]:
    """step -> factor on the learning rate: a short linear rise from 1/ratio to 1, and a long linear fall back to it.

    Args:
        steps: of the whole run.
        rise: the part of them that rises.
        ratio: of the largest to the smallest.

    Example:
        >>> [round(float(slanted_triangle(100)(step)), 4) for step in (0, 10, 100)]
        [0.0312, 1.0, 0.0312]

    Source: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018.
    """
    top = max(rise * steps, 1.0)

    def factor(step):
        t = jnp.asarray(step, jnp.float32)
        part = jnp.where(t < top, t / top, 1 - (t - top) / max(steps - top, 1.0))
        return (1 + jnp.clip(part, 0.0, 1.0) * (ratio - 1)) / ratio

    return factor


def relative_gradient_norms(gradients: Tree, params: Tree, labels: Tree) -> dict[str, jax.Array]:
    """‖g‖ / ‖w‖ of every label: how much each part of a network is asked to change, for what it is.

    Args:
        gradients, params: trees of arrays of the same paths.
        labels: tree of strings like them.

    Returns:
        {label: float32 scalar}; 0 where the parameters are all 0.

    Example:
        >>> g, w = {"a": jnp.array([0.3, 0.4]), "b": jnp.array([0.13])}, {"a": jnp.array([5.0, 0.0]), "b": jnp.ones(1)}
        >>> found = relative_gradient_norms(g, w, {"a": "depth:0", "b": "depth:1"})
        >>> {label: round(float(value), 6) for label, value in found.items()}
        {'depth:0': 0.1, 'depth:1': 0.13}

    Source: Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", 2023 (Auto-RGN).
    """

    def norm(tree, label):
        return jnp.sqrt(sum_leaves(jnp.square, keep(tree, having(labels, label))))

    found = {}
    for label in sorted(label_set(labels)):
        size = norm(params, label)
        found[label] = jnp.where(size > 0, norm(gradients, label) / jnp.where(size > 0, size, 1.0), 0.0)
    return found


def relative_to_largest(norms: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """r / max r: the factor on each learning rate; 1 for all where every gradient is 0.

    Example:
        >>> found = relative_to_largest({"a": jnp.float32(0.1), "b": jnp.float32(0.13)})
        >>> {label: round(float(value), 6) for label, value in found.items()}
        {'a': 0.769231, 'b': 1.0}
    """
    largest = jnp.max(jnp.stack(list(norms.values())))
    return {label: jnp.where(largest > 0, r / jnp.where(largest > 0, largest, 1.0), 1.0) for label, r in norms.items()}


AUTO_RGN = "relative_gradient_norms"  # in the model state: a mean for each label


def surgical(labels: Tree, batches: int = 5) -> Callable[[Callable], GradFn]:
    """loss_fn -> gradients times r / max r of their label, r the mean of ‖g‖/‖w‖ over about the last batches.

    With an optimizer that is linear in the gradient, SGD with any momentum, that is a learning rate for each label; its
    state goes on, where the published code begins it anew every epoch. Adam would divide the factor out again.

    Args:
        labels: tree of strings like the parameters.
        batches: that the mean is over.

    Returns:
        For `make_program(gradient=...)`; the model state has {AUTO_RGN: {label: 0.0}} at the start, see `no_norms`.
    """

    def gradient(loss_fn: Callable) -> GradFn:
        inner = total_gradient(loss_fn)

        def grad_fn(params, model_state, batch, ctx):
            rest = {name: tree for name, tree in model_state.items() if name != AUTO_RGN}
            gradients, metrics, rest = inner(params, rest, batch, ctx)
            weight = 1 / jnp.minimum(ctx.step + 1, batches)
            now, before = relative_gradient_norms(gradients, params, labels), model_state[AUTO_RGN]
            mean = {label: before[label] + weight * (r - before[label]) for label, r in now.items()}
            factors = relative_to_largest(mean)
            scaled = map_named(lambda _, g, label: (factors[label] * g).astype(g.dtype), gradients, labels)
            return scaled, metrics, {**rest, AUTO_RGN: mean}

        return grad_fn

    return gradient


def no_norms(labels: Tree) -> dict[str, dict[str, jax.Array]]:
    """What `surgical` finds in the model state at step 0."""
    return {AUTO_RGN: {label: jnp.float32(0) for label in sorted(label_set(labels))}}
