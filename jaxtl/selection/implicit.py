"""Derivatives of a minimum, without the way that led there.

At a minimum w of an objective that also reads something else, u (rates, an anchor), ∇L(w, u) = 0 gives
dw/du = −H⁻¹ ∂∇L/∂u with the curvature H = ∂∇L/∂w. Nothing is inverted: conjugate gradients need products with H only.

Source: Pedregosa, "Hyperparameter optimization with approximate gradient", 2016; Rajeswaran, Finn, Kakade and Levine,
"Meta-Learning with Implicit Gradients", 2019.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from jaxtl.trees import Tree, map_named, paired


def implicit_gradient(
    gradient: Callable[[Tree, Tree], Tree],
    params: Tree,
    outer: Tree,
    cotangent: Tree,
    *,
    curvature: Callable[[Tree], Tree] | None = None,
    damping: float = 0.0,
    iterations: int = 100,
    frozen: Tree | None = None,
) -> Tree:
    """How a function of a minimum moves with what the minimum depends on: −(∂gradient/∂outer)ᵀ H⁻¹ cotangent.

    Args:
        gradient: (params, outer) -> gradient of the objective, zero at `params`; H is its derivative there.
        params: the minimum.
        outer: tree of what else the objective reads.
        cotangent: derivative of the function by the parameters, at `params`.
        curvature: params -> another gradient, whose derivative takes the place of H (see `linearised`).
        damping: added to the diagonal of H, >= 0.
        iterations: of conjugate gradients, at most.
        frozen: bool tree like the parameters, true for those that do not move.

    Returns:
        A tree like `outer`.

    Example:
        >>> slope = implicit_gradient(lambda w, rate: w - 3.0 + rate * w, 1.5, 1.0, 1.0)  # w = 3/(1 + rate)
        >>> float(slope)  # −3/(1 + rate)²
        -0.75
    """
    params, outer, cotangent = jax.tree.map(jnp.asarray, (params, outer, paired(params, cotangent)))
    slope = (lambda params: gradient(params, outer)) if curvature is None else curvature

    def moving(tree):
        if frozen is None:
            return tree
        return map_named(lambda _, leaf, held: jnp.zeros_like(leaf) if held else leaf, tree, frozen)

    def product(vector):
        curved = moving(jax.jvp(slope, (params,), (vector,))[1])
        return jax.tree.map(lambda c, v: c + damping * v, curved, vector)

    solution, _ = cg(product, moving(cotangent), maxiter=iterations)
    _, pull = jax.vjp(lambda outer: gradient(params, outer), outer)
    return jax.tree.map(jnp.negative, pull(solution)[0])


def linearised(forward: Callable, around: Tree) -> Callable:
    """A forward pass to first order in the parameters, outputs(a) + ∂outputs/∂params · (params − a).

    The Hessian of an objective of it is the Gauss-Newton matrix, which is never negative if the loss is convex in the
    outputs: what to solve with where a network's own Hessian is not positive.

    Args:
        forward: as for `losses.make_loss_fn`; its outputs are arrays of floats.
        around: a, the parameters.

    Returns:
        A forward pass like `forward`; its model state is that at `around`.

    Example:
        >>> forward = lambda params, model_state, batch, ctx: ({"head": params**2}, model_state)
        >>> outputs, _ = linearised(forward, jnp.float32(3.0))(jnp.float32(4.0), {}, None, None)
        >>> float(outputs["head"])  # 9 + 6 · 1
        15.0

    Source: Martens, "New Insights and Perspectives on the Natural Gradient Method", 2020.
    """

    def tangent(params, model_state, batch, ctx):
        away = map_named(lambda _, a, w: w - a, around, params)
        outputs, change, model_state = jax.jvp(
            lambda a: forward(a, model_state, batch, ctx), (around,), (away,), has_aux=True
        )
        return jax.tree.map(jnp.add, outputs, change), model_state

    return tangent
