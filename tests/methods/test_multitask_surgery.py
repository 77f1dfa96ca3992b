"""Surgery inside a training step: what moves the trunk, what moves the heads, what is added as it is."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from multitask_problem import (
    COMBINE,
    DECAYS,
    LABELS,
    PENALTY,
    TASKS,
    TERMS,
    TRUNK,
    batch,
    forward,
    gradients_of,
    loss_fn,
    network,
    own_gradients,
    trunk_row,
)
from problems import assert_close, context, largest_gap

from jaxtl.errors import InputError
from jaxtl.labels import everything
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of
from jaxtl.methods.multitask import equal_weights, mgda_weights, nash_weights, pcgrad_weights, surgery
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term
from jaxtl.step import Fixed, init_state, make_epoch, make_train_step, total_gradient


def plain(data=None, loss_fn=loss_fn):
    return jax.jit(total_gradient(loss_fn))(network(), {}, batch() if data is None else data, context())


# --- which gradient goes where ---


def test_equal_weights_are_the_total_gradient():
    ours, metrics, _ = gradients_of(equal_weights)
    theirs, expected, _ = plain()
    assert_close(ours, theirs)
    assert_close({name: metrics[name] for name in expected}, expected)


def test_a_mask_of_another_kind_of_tree_shares_the_same_leaves():
    turned = OrderedDict((name, OrderedDict(reversed(TRUNK[name].items()))) for name in reversed(TRUNK))
    found, *_ = jax.jit(surgery(loss_fn, mgda_weights, TASKS, turned))(network(), {}, batch(), context())
    expected, *_ = gradients_of(mgda_weights)
    assert_close(found, expected)


@pytest.mark.parametrize("name", ["mgda", "cagrad", "imtl_g", "nash"])
def test_the_trunk_moves_along_the_weighted_gradients_and_heads_follow_their_own_loss(name):
    own = own_gradients()
    rows = np.array([trunk_row(own[task]) for task in TASKS])
    weights = np.asarray(COMBINE[name](jnp.asarray(rows @ rows.T, jnp.float32)))
    assert np.ptp(weights) > 0.1  # so that no other weights would do
    found, metrics, _ = gradients_of(COMBINE[name])
    np.testing.assert_allclose([metrics[f"weight/{task}"] for task in TASKS], weights, rtol=1e-4)

    decayed = jax.tree.map(lambda label, w: DECAYS[label] * w, LABELS, network())  # penalties, by hand: kernels only
    pull = {name: np.ravel(layer["kernel"]) for name, layer in decayed.items()}
    biases = np.zeros(5)
    np.testing.assert_allclose(
        trunk_row(found), weights @ rows + np.concatenate([biases, pull["trunk"]]), rtol=1e-4, atol=1e-5
    )
    for task in TASKS:
        np.testing.assert_allclose(found[task]["bias"], own[task][task]["bias"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            np.ravel(found[task]["kernel"]), np.ravel(own[task][task]["kernel"]) + pull[task], rtol=1e-5, atol=1e-6
        )


def test_cosines_and_losses_are_told_by_name():
    own = own_gradients()
    _, metrics, _ = gradients_of(mgda_weights)
    for a, b in (("kind", "place"), ("kind", "sign"), ("place", "sign")):
        u, v = trunk_row(own[a]), trunk_row(own[b])
        cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        np.testing.assert_allclose(metrics[f"cosine/{a}/{b}"], cosine, rtol=1e-4)
    weighted, (raw, _) = loss_fn(network(), {}, batch(), context())
    for task in TASKS:
        assert metrics[task] == pytest.approx(float(raw[task]))
    assert metrics["loss"] == pytest.approx(sum(float(value) for value in weighted.values()), rel=1e-6)
    assert all(np.shape(value) == () for value in metrics.values())


def test_a_term_that_is_not_a_task_is_added_as_it_is():
    two = ("kind", "place")
    found, *_ = gradients_of(mgda_weights, tasks=two)
    own = own_gradients()
    rows = np.array([trunk_row(own[task]) for task in two])
    weights = np.asarray(mgda_weights(jnp.asarray(rows @ rows.T, jnp.float32)))
    penalty = trunk_row(jax.grad(lambda params: PENALTY(params, context())[0])(network()))
    np.testing.assert_allclose(
        trunk_row(found), weights @ rows + trunk_row(own["sign"]) + penalty, rtol=1e-4, atol=1e-5
    )


def count_products(grad_fn):
    """Matrix products that make the features, their gradient or the kernel's, in the program as it was traced."""
    program = jax.make_jaxpr(grad_fn)(network(), {}, batch(), context())
    results = [line.split("=")[0] for line in str(program).splitlines() if "dot_general" in line]
    return sum(shape in result for result in results for shape in ("f32[12,5]", "f32[4,5]", "f32[5,4]"))


def test_one_forward_pass_and_a_backward_pass_for_each_task():
    forwards = 0

    def counted(*arguments):
        nonlocal forwards
        forwards += 1
        return forward(*arguments)

    grad_fn = surgery(make_loss_fn(counted, TERMS, PENALTY), equal_weights, TASKS, TRUNK)
    # through the trunk: forward once; per task the gradient of the features and of the kernel
    assert count_products(grad_fn) == 1 + 2 * len(TASKS)
    assert forwards == 1
    assert count_products(total_gradient(loss_fn)) == 1 + len(TASKS) + 1


def test_the_forward_pass_and_the_order_of_pcgrad_have_keys_of_their_own():
    seen = {}

    def spy(gram, rng):
        seen["combine"] = rng
        return equal_weights(gram)

    def drawing(params, model_state, batch, ctx):
        seen["forward"] = ctx.rng
        return {"a": params["w"]}, ({}, {})

    surgery(drawing, spy, "a", {"w": True})({"w": jnp.float32(1)}, {}, None, context())
    assert not np.array_equal(*(jax.random.key_data(key) for key in seen.values()))


def test_what_the_forward_pass_carries_comes_back():
    def counting(params, model_state, batch, ctx):
        return forward(params, {}, batch, ctx)[0], {"calls": model_state["calls"] + 1}

    grad_fn = surgery(make_loss_fn(counting, TERMS), mgda_weights, TASKS, TRUNK)
    assert jax.jit(grad_fn)(network(), {"calls": jnp.int32(4)}, batch(), context())[2] == {"calls": 5}


def test_bfloat16_parameters_get_bfloat16_gradients_and_float32_weights():
    narrow = jax.tree.map(lambda w: w.astype(jnp.bfloat16), network())
    found, metrics, _ = gradients_of(mgda_weights, params=narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    assert metrics["weight/kind"].dtype == jnp.float32
    assert_close(found, gradients_of(mgda_weights)[0], rtol=0.1, atol=0.1)


def test_a_grid_of_rates_runs_side_by_side():
    params, data = network(), batch()

    def trunk(rate):
        ctx = context({"place": rate})
        return surgery(loss_fn, nash_weights, TASKS, TRUNK)(params, {}, data, ctx)[0]["trunk"]["kernel"]

    rates = jnp.array([0.1, 0.5, 5.0])
    together = jax.jit(jax.vmap(trunk))(rates)
    np.testing.assert_allclose(together, [jax.jit(trunk)(rate) for rate in rates], rtol=1e-4, atol=1e-5)
    assert largest_gap(together[0], together[2]) < 1e-2  # the bargain does not see the scale of a loss


# --- through the whole path ---


def groups(rate):
    return {label: Group(rate) for label in DECAYS}


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "nash"])
def test_a_few_steps_of_fit_lower_every_loss(name):
    tx = per_label(LABELS, groups(0.05 if name == "nash" else 0.1))
    step = make_train_step(surgery(make_loss_fn(forward, TERMS), COMBINE[name], TASKS, TRUNK), tx)
    start = init_state(network(), tx, jax.random.key(0))
    _, history = fit(step, start, batch(), Fixed(), steps=60, every=20, chunk=20)
    assert {f"weight/{task}" for task in TASKS} < set(history[0])
    for task in TASKS:
        assert history[-1][task] < history[0][task]


def test_metrics_of_an_epoch_are_stacked():
    tx = per_label(LABELS, groups(0.1))
    epoch = make_epoch(make_train_step(surgery(loss_fn, pcgrad_weights, TASKS, TRUNK), tx), 3)
    _, metrics = jax.jit(epoch)(init_state(network(), tx, jax.random.key(0)), batch(), Fixed({"place": 0.2}))
    assert {np.shape(value) for value in metrics.values()} == {(3,)}


# --- mistakes ---


@pytest.mark.parametrize(
    ("tasks", "shared", "message"),
    [
        ((), TRUNK, "at least one"),
        (("kind", "kind"), TRUNK, "each task once"),
        (("kind", "penalty"), TRUNK, "not a task"),
        (("kind", "plase"), TRUNK, "did you mean 'place'"),
        (TASKS, jax.tree.map(lambda _: False, TRUNK), "no parameter is shared"),
        (TASKS, {"trunk": TRUNK["trunk"]}, "a parameter without entry"),
    ],
)
def test_mistakes_are_named(tasks, shared, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(surgery(loss_fn, equal_weights, tasks, shared), network(), {}, batch(), context())


def test_weights_of_another_shape_are_refused():
    for wrong in (lambda gram, rng: jnp.ones(2), lambda gram, rng: gram):
        with pytest.raises(InputError, match="one weight a task"):
            jax.eval_shape(surgery(loss_fn, wrong, TASKS, TRUNK), network(), {}, batch(), context())


def test_one_task_whose_every_parameter_is_shared_is_plain_training():
    alone = make_loss_fn(forward, {"kind": TERMS["kind"]}, PENALTY)
    grad_fn = surgery(alone, mgda_weights, "kind", everything(network()))
    found, metrics, _ = jax.jit(grad_fn)(network(), {}, batch(), context())
    assert_close(found, plain(loss_fn=alone)[0])
    assert metrics["weight/kind"] == 1


def test_a_task_that_no_parameter_enters_has_no_gradient():
    terms = TERMS | {"sign": Term(1.0, mean_of(lambda a, b: jnp.ones(12), "sign", "sign"))}
    found, metrics, _ = gradients_of(mgda_weights, loss_fn=make_loss_fn(forward, terms))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    assert metrics["weight/sign"] == 0
