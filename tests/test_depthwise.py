"""Convolution by channel: the fast form and all its derivatives against the operator of the library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.models import depthwise
from jaxtl.models.convolution import Window, same_padding

# (height, width, channels, edges, stride): longer than a step of the loop, shorter than the kernel, uneven, strided
CASES = {
    "3x3": (9, 6, 5, (3, 3), 1),
    "5x5 on 3 pixels": (3, 3, 4, (5, 5), 1),
    "stride 2, even": (8, 10, 3, (3, 3), 2),
    "stride 2, odd": (9, 7, 3, (5, 5), 2),
    "stride 3": (10, 11, 2, (3, 5), 3),
    "stride beyond the kernel": (7, 7, 2, (1, 1), 2),
    "many rows": (13, 4, 2, (3, 3), 1),
}


@pytest.fixture(autouse=True)
def few_terms(monkeypatch):
    """Small steps of the loop, so that small images take several, and compile soon."""
    monkeypatch.setattr(depthwise, "TERMS", 5)


def arrays(case):
    height, width, channels, edges, stride = CASES[case]
    images = jax.random.normal(jax.random.key(0), (3, height, width, channels))
    kernel = jax.random.normal(jax.random.key(1), (*edges, 1, channels))
    return images, kernel, Window((stride, stride), same_padding((height, width), edges, stride))


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_operator_of_the_library(case):
    images, kernel, window = arrays(case)

    def form(by):
        def loss(images, kernel):
            return jnp.sum(jnp.sin(by(images, kernel, window)))

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(images, kernel)

    np.testing.assert_allclose(
        depthwise._forward(images, kernel, window), depthwise.plain(images, kernel, window), atol=1e-5
    )
    for one, other in zip(*map(jax.tree.leaves, (form(depthwise._forward), form(depthwise.plain))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["3x3", "stride 2, even"])
def test_derivatives_of_gradients(case):
    """Forwards through the gradients, as curvature asks, and backwards through them, as learned rates do."""
    images, kernel, window = arrays(case)

    def form(by):
        def gradients(images, kernel):
            return jax.grad(lambda x, k: jnp.sum(jnp.sin(by(x, k, window))), (0, 1))(images, kernel)

        def loss(images, kernel):
            to_image, to_kernel = gradients(images, kernel)
            return jnp.sum(jnp.cos(to_image)) + jnp.sum(jnp.cos(to_kernel / 10))

        def both(images, kernel):
            along = jax.jvp(gradients, (images, kernel), (jnp.cos(images), jnp.cos(kernel)))
            return along, jax.grad(loss, (0, 1))(images, kernel)

        return jax.jit(both)(images, kernel)

    for one, other in zip(*map(jax.tree.leaves, (form(depthwise._forward), form(depthwise.plain))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_side_by_side(axes):
    """As a sweep does: many models, many batches, or both, and the gradients of each."""
    images, kernel, window = arrays("stride 2, odd")
    many = [jnp.stack([a, a + 1]) if axis == 0 else a for a, axis in zip((images, kernel), axes, strict=True)]

    def gradients(by):
        def loss(x, k):
            return jnp.sum(jnp.sin(by(x, k, window)))

        return jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1)), axes))(*many)

    fast, plain = jax.tree.leaves(gradients(depthwise._forward)), jax.tree.leaves(gradients(depthwise.plain))
    for one, other in zip(fast, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_half_precision_is_summed_in_float32():
    images, kernel, window = arrays("5x5 on 3 pixels")
    low, kernel_low = images.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    out = depthwise._forward(low, kernel_low, window)
    assert out.dtype == jnp.bfloat16
    exact = depthwise.plain(low.astype(jnp.float32), kernel_low.astype(jnp.float32), window)
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))


def test_the_fast_form_is_taken_on_a_cpu():
    images, kernel, _ = arrays("3x3")
    program = str(jax.make_jaxpr(depthwise.convolve_by_channel)(images, kernel))
    assert "convolution_by_channel" in program
    assert "conv_general_dilated" not in program
