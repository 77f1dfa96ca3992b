"""Adapters: fixed numbers in float64, the same outputs merged, and what a decay on factors is."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, kernels
from jaxtl.methods.finetuning.adapters import (
    adapted,
    dora,
    factored_l2,
    lora,
    lora_scale,
    matrix,
    merged,
    pissa,
)
from jaxtl.models import Classifier, Cnn, as_forward, initial_model_state, initialise
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.program import Weights, make_program
from jaxtl.step import EVALUATE
from tests.problems import LABELS, TASK, assert_close, batch, context, forward, largest_gap, network

A = np.cos(np.arange(6.0)).reshape(3, 2)
B = np.sin(0.7 * np.arange(8.0)).reshape(2, 4)
W = np.sin(np.arange(12.0) ** 1.5).reshape(3, 4)
X = np.array([1.0, -2.0, 0.5])
KEY = jax.random.key(0)
TRUNK = {"trunk": {"kernel": True, "bias": False}, "head": {"kernel": False, "bias": False}}


def fixture(**more):
    return {"base": {"kernel": W}, "adapter": {"kernel": {"a": A, "b": B, **more}}}


def outputs(params, scale):
    with jax.enable_x64(True):
        return X @ np.asarray(merged(jax.tree.map(jnp.asarray, params), scale)["kernel"])


def test_lora_and_the_scale_that_does_not_fall_with_the_rank():
    expected = -0.492259, 3.357668, -2.957334, -3.339131
    np.testing.assert_allclose(outputs(fixture(), lora_scale(4, 2)), expected, atol=1e-6)
    expected = 0.246514, 3.387512, -3.650455, -4.429232
    np.testing.assert_allclose(outputs(fixture(), lora_scale(4, 2, stabilised=True)), expected, atol=1e-6)


def test_dora_has_a_length_for_every_column():
    lengths = np.linalg.norm(W, axis=0)
    np.testing.assert_allclose(lengths, [1.154080, 1.609030, 0.924735, 1.329553], atol=1e-6)
    expected = -0.897463, 2.788900, -1.008821, -1.594917
    np.testing.assert_allclose(outputs(fixture(m=lengths), 2.0), expected, atol=1e-6)
    made = dora({"kernel": jnp.asarray(W, jnp.float32)}, {"kernel": True}, 2, KEY)
    np.testing.assert_allclose(made["adapter"]["kernel"]["m"], lengths, rtol=1e-6)


def test_pissa_trains_the_largest_singular_directions():
    with jax.enable_x64(True):
        made = pissa({"kernel": jnp.asarray(W)}, {"kernel": True}, 1)
        own = made["adapter"]["kernel"]
        np.testing.assert_allclose(np.linalg.svd(W)[1], [2.068307, 1.479954, 0.274894], atol=1e-6)
        assert np.linalg.norm(made["base"]["kernel"]) == pytest.approx(1.505268, abs=1e-6)
        assert np.linalg.norm(own["a"]) == pytest.approx(np.sqrt(2.068307), abs=1e-6)
        np.testing.assert_allclose(merged(made, 1.0)["kernel"], W, rtol=1e-12)


def test_decay_on_factors_is_at_least_the_nuclear_norm_and_reaches_it():
    def decay(a, b):
        return 0.5 * (np.sum(a**2) + np.sum(b**2))

    nuclear = np.linalg.svd(A @ B)[1].sum()
    assert (decay(A, B), nuclear) == (pytest.approx(3.522143, abs=1e-6), pytest.approx(2.182990, abs=1e-6))
    u, s, v = np.linalg.svd(A @ B, full_matrices=False)
    a, b = u[:, :2] * np.sqrt(s[:2]), np.sqrt(s[:2])[:, None] * v[:2]
    np.testing.assert_allclose(a @ b, A @ B, atol=1e-12)
    assert decay(a, b) == pytest.approx(nuclear)


def test_l2_sp_of_a_product_is_that_of_the_merged_kernels():
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), fixture())
    base, scale = params["base"], 2.0
    value, slope = jax.value_and_grad(factored_l2(scale))(params)
    direct, expected = jax.value_and_grad(lambda params: l2(merged(params, scale), base))(params)
    assert float(value) == pytest.approx(float(direct), rel=1e-5)
    assert_close(slope["adapter"], expected["adapter"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lora, dora, lambda params, on, rank, rng: pissa(params, on, rank)])
def test_at_the_start_the_model_is_what_it_was_and_merged_it_is_what_it_became(make):
    model = Classifier(Cnn((6, 8), "batch"), (("head", 3),))
    shape = (8, 8, 1)
    params, state = initialise(model, KEY, shape), initial_model_state(model, shape)
    own = make(params, kernels(params), 3, KEY)
    images = {"image": jax.random.normal(KEY, (5, *shape))}
    plain, wrapped = jax.jit(_evaluated(as_forward(model))), jax.jit(_evaluated(adapted(as_forward(model), 2.0)))
    scale_free = make not in (lora, dora)
    wrapped = jax.jit(_evaluated(adapted(as_forward(model), 1.0))) if scale_free else wrapped
    np.testing.assert_allclose(wrapped(own, state, images), plain(params, state, images), rtol=1e-4, atol=1e-5)
    ends = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), own["adapter"])
    became = {"base": own["base"], "adapter": ends}
    whole = merged(became, 1.0 if scale_free else 2.0)
    assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, params)
    assert largest_gap(whole, params) > 0.01
    np.testing.assert_allclose(wrapped(became, state, images), plain(whole, state, images), rtol=1e-4, atol=1e-5)


def _evaluated(forward):
    return lambda params, state, batch: forward(params, state, batch, EVALUATE)[0]["head"]


def test_a_convolution_is_a_product_of_its_patches():
    """[h, w, in, out] as [h·w·in, out]: the change of a kernel is a convolution to r channels, then one of edge 1."""
    a, b = jax.random.normal(KEY, (9 * 2, 3)), jax.random.normal(jax.random.key(1), (3, 4))
    kernel, image = jax.random.normal(jax.random.key(2), (3, 3, 2, 4)), jax.random.normal(KEY, (1, 6, 6, 2))
    whole = merged({"base": {"kernel": kernel}, "adapter": {"kernel": {"a": a, "b": b}}}, 1.0)["kernel"]

    def convolved(kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=layout)

    expected = convolved(kernel) + convolved(a.reshape(3, 3, 2, 3)) @ b
    np.testing.assert_allclose(convolved(whole), expected, rtol=1e-4, atol=1e-4)
    assert matrix(kernel).shape == (18, 4)


def test_only_adapters_and_head_move_and_a_decay_goes_to_both_factors():
    own = lora(network(), TRUNK, 2, KEY)
    labels = {"base": LABELS, "adapter": jax.tree.map(lambda _: "adapter", own["adapter"])}
    groups = {TRANSFERRED: Group(frozen=True), NEW: Group(0.1), "adapter": Group(0.2)}
    pulls = {"adapter": {"zero": Term(0.5, l2), "source": Term(0.0, factored_l2(1.0))}}
    program = make_program(adapted(forward, 1.0), labels, TASK, groups, pulls)
    step, state = jax.jit(program.step), program.start(Weights(own), KEY)
    for _ in range(3):
        state, metrics = step(state, batch(), program.fixed())
    assert_close(state.params["base"]["trunk"], own["base"]["trunk"], rtol=0, atol=0)
    moved = state.params["adapter"]["trunk"]["kernel"]
    assert largest_gap(state.params["base"]["head"], own["base"]["head"]) > 1e-3
    assert all(largest_gap(moved[name], own["adapter"]["trunk"]["kernel"][name]) > 1e-4 for name in ("a", "b"))
    _, slopes = jax.value_and_grad(lambda params: l2({"a": params["a"], "b": params["b"]}))(moved)
    assert_close(slopes, moved)
    assert set(metrics) >= {"penalty/adapter/zero", "penalty/adapter/source"}


def test_what_is_frozen_is_told_to_the_model_under_its_own_names():
    own, seen = lora(network(), TRUNK, 2, KEY), []

    def watching(params, model_state, batch, ctx):
        seen.append(ctx.frozen)
        return forward(params, model_state, batch, ctx)

    frozen = frozenset({"base/trunk/kernel", "base/trunk/bias"})
    adapted(watching, 1.0)(own, {}, batch(), dataclasses.replace(context(), frozen=frozen))
    assert seen == [{"trunk/bias"}]


def test_ranks_are_at_most_those_of_the_kernel_and_a_dtype_stays():
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), network())
    made = lora(low, TRUNK, 100, KEY)
    own = made["adapter"]["trunk"]["kernel"]
    assert (own["a"].shape, own["b"].shape) == ((4, 4), (4, 5))
    assert {leaf.dtype for leaf in own.values()} == {jnp.dtype(jnp.float32)}
    assert merged(made, 1.0)["trunk"]["kernel"].dtype == jnp.bfloat16
    assert_close(merged(made, 1.0), low, rtol=0, atol=0)


def test_a_column_of_zeros_has_no_direction_and_no_slope_that_is_no_number():
    base = {"kernel": jnp.zeros((3, 2))}
    made = dora(base, {"kernel": True}, 1, KEY)
    slopes = jax.grad(lambda own: jnp.sum(merged({"base": base, "adapter": own}, 1.0)["kernel"]))(made["adapter"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    ("on", "rank", "what"),
    [
        ({**TRUNK, "trunk": {"kernel": True, "bias": True}}, 2, "trunk/bias is no matrix"),
        (jax.tree.map(lambda _: False, TRUNK), 2, "selects no kernel"),
        (TRUNK, 0, "0"),
        ({"trunk": True}, 2, "parameter without entry|entry without parameter"),
    ],
)
def test_what_cannot_be_adapted_is_refused(on, rank, what):
    for make in (lambda: lora(network(), on, rank, KEY), lambda: pissa(network(), on, rank)):
        with pytest.raises(InputError, match=what):
            make()
