"""Derivatives of a minimum, by hand and by solving again; the Gauss-Newton matrix, written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import TASK, batch, context, forward, network

from jaxtl.losses import make_loss_fn
from jaxtl.selection.implicit import implicit_gradient, linearised
from jaxtl.step import total_gradient

A = np.array([[3.0, 1.0, 0.5], [1.0, 2.0, 0.2], [0.5, 0.2, 1.0]], np.float32)
B = np.array([1.0, -2.0, 0.5], np.float32)
C = jnp.array([0.3, 1.0, -1.0])


def gradient(params, outer):
    """Of ½ wᵀ A w − bᵀ w + rate ½ ‖w − anchor‖², w in two leaves."""
    w = jnp.concatenate([params["a"], params["b"]])
    slope = A @ w - B + outer["rate"] * (w - outer["anchor"])
    return {"a": slope[:1], "b": slope[1:]}


def minimum(rate, anchor):
    return np.linalg.solve(A + rate * np.eye(3), B + rate * anchor)


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_a_quadratic_by_hand(damping):
    rate, anchor = 0.5, np.array([1.0, 0.0, -1.0], np.float32)
    w = jnp.asarray(minimum(rate, anchor), jnp.float32)
    params, cotangent = {"a": w[:1], "b": w[1:]}, {"a": C[:1], "b": C[1:]}
    found = implicit_gradient(gradient, params, {"rate": rate, "anchor": anchor}, cotangent, damping=damping)
    solved = np.linalg.solve(A + (rate + damping) * np.eye(3), C)
    np.testing.assert_allclose(found["rate"], -solved @ (w - anchor), rtol=1e-5)
    np.testing.assert_allclose(found["anchor"], rate * solved, rtol=1e-5)
    if not damping:
        moved = [C @ minimum(rate + h, anchor) for h in (1e-4, -1e-4)]
        np.testing.assert_allclose(found["rate"], (moved[0] - moved[1]) / 2e-4, rtol=1e-3)


def test_what_is_frozen_carries_nothing():
    rate, anchor = 0.5, np.zeros(3, np.float32)
    held = 0.8
    w = np.linalg.solve(A[1:, 1:] + rate * np.eye(2), B[1:] - A[1:, 0] * held)
    params, cotangent = {"a": jnp.array([held]), "b": jnp.float32(w)}, {"a": C[:1], "b": C[1:]}
    found = implicit_gradient(
        gradient, params, {"rate": rate, "anchor": anchor}, cotangent, frozen={"a": True, "b": False}
    )
    np.testing.assert_allclose(found["rate"], -np.linalg.solve(A[1:, 1:] + rate * np.eye(2), C[1:]) @ w, rtol=1e-5)


def test_another_curvature_takes_its_place():
    params, cotangent = {"a": jnp.zeros(1), "b": jnp.zeros(2)}, {"a": C[:1], "b": C[1:]}
    found = implicit_gradient(
        gradient,
        params,
        {"rate": 1.0, "anchor": jnp.ones(3)},
        cotangent,
        curvature=lambda params: jax.tree.map(lambda w: 4 * w, params),
    )
    np.testing.assert_allclose(found["anchor"], C / 4, rtol=1e-6)


def test_few_iterations_are_few():
    w = jnp.asarray(minimum(0.5, np.zeros(3)), jnp.float32)
    outer, params, cotangent = {"rate": 0.5, "anchor": jnp.zeros(3)}, {"a": w[:1], "b": w[1:]}, {"a": C[:1], "b": C[1:]}
    once = implicit_gradient(gradient, params, outer, cotangent, iterations=1)["anchor"]
    steepest = (C @ C) / (C @ (A + 0.5 * np.eye(3)) @ C) * C
    np.testing.assert_allclose(once, 0.5 * steepest, rtol=1e-5)


def test_linearised_is_the_forward_pass_to_first_order():
    params, ctx = network(), context()
    tangent = linearised(forward, params)
    other = jax.tree.map(lambda w: w + 1e-3 * jnp.cos(w), params)
    exact, near = (fn(other, {}, batch(), ctx)[0]["head"] for fn in (forward, tangent))
    start = forward(params, {}, batch(), ctx)[0]["head"]
    assert float(jnp.max(jnp.abs(exact - near))) < 0.02 * float(jnp.max(jnp.abs(exact - start)))
    again, state = tangent(params, {"kept": 1}, batch(), ctx)
    np.testing.assert_array_equal(again["head"], start)
    assert state == {"kept": 1}


def test_its_hessian_is_the_gauss_newton_matrix():
    flat, unravel = ravel_pytree(network())

    def logits(flat):
        return forward(unravel(flat), {}, batch(), None)[0]["head"]

    grad_fn = total_gradient(make_loss_fn(linearised(forward, network()), TASK))

    @jax.jit
    def ours(flat):
        return jax.jacfwd(lambda flat: ravel_pytree(grad_fn(unravel(flat), {}, batch(), context())[0])[0])(flat)

    jacobian, probabilities = jax.jit(lambda flat: (jax.jacrev(logits)(flat), jax.nn.softmax(logits(flat))))(flat)
    inner = np.einsum("nc,cd->ncd", probabilities, np.eye(3)) - np.einsum("nc,nd->ncd", probabilities, probabilities)
    wanted = np.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / len(probabilities)
    np.testing.assert_allclose(ours(flat), wanted, atol=1e-5)
    assert np.linalg.eigvalsh(wanted).min() > -1e-5
