"""Decay beside the optimizer's update: how far weights shrink towards 0 or an anchor, always or only where both agree.

    w ← w − lr·(u + rate·d),      d = w or w − anchor,      u the optimizer's update before its learning rate

It goes through no momentum and no second moment. With `when="always"` this is AdamW, whose fixed point is not that of
the penalty in the loss; with "entry" and "leaf" a pull that the loss resists is left out, and its minimum stays.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.labels import everything, selected
from jaxtl.trees import Tree, check_same, keep, map_named, named_leaves, paired

When = Literal["always", "entry", "leaf"]
WHEN = ("always", "entry", "leaf")


def decayed(
    updates: Tree,
    params: Tree,
    gradients: Tree,
    step_size: Any,
    rate: Any,
    anchor: Tree | None = None,
    *,
    when: When = "always",
) -> Tree:
    """Updates Δ = −lr·u together with a decay that did not go through the optimizer.

    "always": Δ − lr·rate·d. "entry": Δ − lr·rate·1[u⊙d ≥ 0]⊙d, where the update itself goes that way. "leaf", for a
    whole leaf with g·d > 0: Δ − rate·r·(d + Δ), r = max(0, ‖d + Δ‖ − ‖d‖) / ‖d + Δ‖; the rate 1 keeps the leaf at the
    distance it had, and the learning rate is no factor of it.

    Args:
        updates: tree like `params`, to be added to them.
        params: tree of arrays; computed in float32 at least.
        gradients: of the loss, before the optimizer; read for "leaf".
        step_size: lr ≥ 0.
        rate: ≥ 0.
        anchor: tree like `params`; zero when left out.
        when: see above.

    Returns:
        Tree like `updates`.

    Example:
        >>> w, u, g = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([0.1, -0.1])}, {"w": jnp.array([-1.0, 1.0])}
        >>> decayed(u, w, g, 0.1, 0.5, when="always")["w"].round(3).tolist()
        [0.05000000074505806, -0.15000000596046448]
        >>> decayed(u, w, g, 0.1, 0.5, when="entry")["w"].round(3).tolist()
        [0.10000000149011612, -0.15000000596046448]

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019 ("always"); Chen et al., "Cautious
    Weight Decay", 2026 ("entry"); Tian et al., "Rethinking Weight Decay for Robust Fine-Tuning of Foundation Models",
    2024 ("leaf", there with an anchor: selective projection decay).
    """

    def one(_, w, update, gradient, *a):
        away, change, g = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (w, update, gradient))
        away = away - a[0] if a else away
        if when == "always":
            change = change - step_size * rate * away
        elif when == "entry":
            change = change - step_size * rate * jnp.where(change * away <= 0, away, 0.0)
        else:
            ended = away + change
            before, after = jnp.linalg.norm(away), jnp.linalg.norm(ended)
            grown = jnp.maximum(after - before, 0.0) / jnp.where(after > 0, after, 1.0)
            change = change - jnp.where(jnp.sum(g * away) > 0, rate * grown, 0.0) * ended
        return change.astype(update.dtype)

    return map_named(one, params, updates, gradients, *([] if anchor is None else [anchor]))


def is_plain(group: Any) -> bool:
    """Whether the decay of an `optimizers.Group` is the common one, towards 0 and always."""
    return group.towards is None and group.when == "always"


def label_decayed(
    updates: Tree,
    params: Tree,
    gradients: Tree,
    mask: Tree,
    group: Any,
    step_size: Any,
    rate: Any,
    given: Mapping[str, Tree],
    where: str,
) -> Tree:
    """`decayed`, for the parameters of one label.

    Args:
        updates, params, gradients, step_size, rate: as there, of the whole model.
        mask: bool tree of the parameters that decay.
        group: their `optimizers.Group`, which says when, and towards what by its name in `given`.
        given: trees by name.
        where: what to name in an error.

    Raises:
        InputError: the anchor was not given, or does not fit.
    """
    anchor = None
    if group.towards is not None:
        if group.towards not in given:
            raise InputError(f"needs given['{group.towards}']", where=where, todo="hand it over as `given`")
        tree, todo = given[group.towards], "give a tree like the parameters"
        check_same(params, tree, where=f"given['{group.towards}']", todo=todo, dtypes=False)
        anchor = keep(paired(params, tree), mask)
    own, moved, slopes = (keep(tree, mask) for tree in (params, updates, gradients))
    changed = named_leaves(decayed(moved, own, slopes, step_size, rate, anchor, when=group.when))
    return map_named(lambda path, old: changed.get(path, old), updates)


def decaying(params: Tree, labels: Tree, label: str, group: Any, mask: Callable[[Tree], Tree]) -> Tree:
    """Bool tree: the parameters with this label that decay, by a mask where it is towards 0, else all of them."""
    on = mask if group.towards is None else everything
    return selected(params, labels, label, on, "per_label decay_mask")


def check_reaches(params: Tree, labels: Tree, groups: Mapping[str, Any], mask: Callable, rates: Mapping) -> None:
    """A decay that is not 0, or that `rates` sets to what nobody here can know, shrinks some parameter.

    Raises:
        InputError: there is none that it could shrink.
    """
    for label, group in groups.items():
        reached = jax.tree.leaves(decaying(params, labels, label, group, mask))
        by_rate = f"decay/{label}" in rates
        is_zero = isinstance(group.decay, numbers.Real) and group.decay == 0
        if (by_rate or not is_zero) and not any(reached):
            what = f"decay {group.decay}" if not by_rate else "this decay"
            raise InputError(
                f"decay_mask selects no parameter labelled '{label}', so {what} would do nothing",
                where=f"rates['decay/{label}']" if by_rate else f"groups['{label}']",
                todo="pass decay_mask=everything or a mask of your own (kernels takes no vectors but 'kernel')",
            )
