"""SCAFFOLD: gradients corrected by where a client's slope differs from that of all of them.

y ← y − η (g(y) + c − c_k).  c_k is the mean of the gradients that client k saw in its last round, c that over clients.

For plain SGD the mean of the gradients along the way is the second of the two published updates of c_k, which is
c_k − c + (x − y) / Tη; it means the same for any optimizer, schedule and learning rate by label.

Source: Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.step import GradFn, total_gradient
from jaxtl.trees import Tree, paired

CONTROL = "control"  # c − c_k, among the trees that are given
STATE, PASSED = "state", "passed"  # a model's own state, and Σ of the gradients that were seen


def controlled(loss_fn: Callable) -> GradFn:
    """g(y) + c − c_k, and g(y) kept for what c_k becomes: `make_program(..., gradient=controlled)`.

    What it makes runs in `rounds(..., controls=True)`, which gives and keeps the variates.

    Args:
        loss_fn: as `losses.make_loss_fn` returns it.

    Returns:
        As `step.total_gradient`.

    Raises:
        InputError: on use, outside of such rounds.
    """
    gradient = total_gradient(loss_fn)

    def corrected(params, model_state, batch, ctx):
        if CONTROL not in ctx.given:
            todo = "run it as rounds(program, controls=True)"
            raise InputError("no control variates are given", where="controlled", todo=todo)
        gradients, metrics, state = gradient(params, model_state[STATE], batch, ctx)
        passed = jax.tree.map(jnp.add, model_state[PASSED], gradients)
        gap = paired(gradients, ctx.given[CONTROL])
        return jax.tree.map(jnp.add, gradients, gap), metrics, {STATE: state, PASSED: passed}

    return corrected


def watched(params: Tree, model_state: Tree) -> dict[str, Tree]:
    """A model's state before a client's first step, as `controlled` carries it along."""
    return {STATE: model_state, PASSED: jax.tree.map(jnp.zeros_like, params)}


def check_watched(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse a step that passed the sum on as it was: its gradient is another, and all controls would stay 0.

    Raises:
        InputError: no leaf of the sum is a new one; while a step is traced.
    """
    pairs = zip(jax.tree.leaves(before[PASSED]), jax.tree.leaves(after[PASSED]), strict=True)
    if all(old is new for old, new in pairs):
        todo = "make it with make_program(..., gradient=controlled)"
        raise InputError("the program does not read control variates", where="rounds controls", todo=todo)
