"""Leaf losses against NumPy float64; terms, weights and frozen leaves of `make_loss_fn`."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from problems import LABELS, TASK, assert_close, batch, context, forward, network, wave

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, having
from jaxtl.losses import (
    accuracy,
    make_loss_fn,
    masked_mean,
    mean_of,
    per_example,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed, init_state, make_eval_step, total_gradient

LOGITS = wave(0.9, 6, 3, scale=4.0)
CLASSES = np.array([0, 1, 2, 2, 1, 0])
cross_entropy = jax.jit(softmax_cross_entropy)


def log_softmax(logits):
    z = np.asarray(logits, np.float64)
    return z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))


def test_cross_entropy_of_class_numbers():
    expected = -log_softmax(LOGITS)[np.arange(6), CLASSES]
    np.testing.assert_allclose(cross_entropy(LOGITS, CLASSES), expected, rtol=1e-5)


def test_cross_entropy_of_probabilities():
    soft = np.exp(log_softmax(wave(0.4, 6, 3))).astype(np.float32)
    expected = -(np.asarray(soft, np.float64) * log_softmax(LOGITS)).sum(-1)
    np.testing.assert_allclose(cross_entropy(LOGITS, soft), expected, rtol=1e-5)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_label_outside_the_classes_gives_nan_for_its_example_only(wrong):
    losses = cross_entropy(LOGITS, np.where(np.arange(6) == 2, wrong, CLASSES))
    assert np.isnan(losses).tolist() == [False, False, True, False, False, False]


def test_binary_cross_entropy():
    z, y = np.asarray(LOGITS, np.float64), np.array([[0.0, 1.0, 0.3]] * 6, np.float32)
    expected = np.log1p(np.exp(z)) - z * y
    loss = jax.jit(sigmoid_binary_cross_entropy)
    np.testing.assert_allclose(loss(LOGITS, y), expected.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(loss(np.asarray(LOGITS)[:, 0], y[:, 0]), expected[:, 0], rtol=1e-5)


def test_squared_error_is_half_the_square_summed_over_outputs():
    targets = wave(0.2, 6, 3)
    expected = 0.5 * ((np.asarray(LOGITS, np.float64) - np.asarray(targets, np.float64)) ** 2).sum(-1)
    np.testing.assert_allclose(jax.jit(squared_error)(LOGITS, targets), expected, rtol=1e-6)
    assert squared_error(jnp.array([1.0, 4.0]), jnp.array([1, 2])).tolist() == [0, 2]


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_binary_cross_entropy, squared_error])
def test_bfloat16_is_computed_in_float32_and_float64_stays(loss):
    narrow, soft = np.asarray(LOGITS, jnp.bfloat16), np.exp(log_softmax(LOGITS)).astype(np.float32)
    values = jax.jit(loss)(narrow, soft)
    assert (values.dtype, values.shape) == (jnp.float32, (6,))
    np.testing.assert_allclose(values, jax.jit(loss)(narrow.astype(np.float32), soft), rtol=1e-6)
    with jax.enable_x64(True):
        assert jax.eval_shape(loss, np.asarray(LOGITS, np.float64), soft).dtype == np.float64


def test_losses_under_vmap():
    doubled = 2 * np.asarray(LOGITS)
    stacked = jax.jit(jax.vmap(cross_entropy))(np.stack([LOGITS, doubled]), np.stack([CLASSES, CLASSES]))
    np.testing.assert_allclose(np.asarray(stacked)[1], cross_entropy(doubled, CLASSES), rtol=1e-6)


def test_accuracy_is_one_where_the_largest_logit_is_the_labels():
    assert accuracy(jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.array([1, 1])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("loss", "predictions", "targets"),
    [
        (softmax_cross_entropy, (6, 3), (6, 1)),
        (softmax_cross_entropy, (6, 3), (5,)),
        (softmax_cross_entropy, (6, 3), (6, 4)),
        (accuracy, (6, 3), (6, 1)),
        (sigmoid_binary_cross_entropy, (6, 1), (6,)),
        (squared_error, (6, 1), (6,)),
        (squared_error, (6, 3), (3,)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss, predictions, targets):
    with pytest.raises(InputError, match=loss.__name__):
        loss(jnp.zeros(predictions), jnp.zeros(targets, jnp.int32))


def test_masked_mean_leaves_examples_out_even_if_they_are_nan():
    mean, values = jax.jit(masked_mean), np.array([1.0, np.nan, 3.0])
    assert float(mean(values, np.array([1, 0, 1]))) == 2
    assert float(mean(values, np.array([False, False, True]))) == 3
    assert float(mean(values, np.zeros(3, int))) == 0
    assert float(mean(values[::2])) == 2


WEIGHTS = np.array([0.5, 0.0, 2.0, 1.0, 0.0, 0.25], np.float32)
# loss, targets that are right, targets with what padding may hold where the weight is 0
MASKED = {
    "classes": (softmax_cross_entropy, CLASSES, np.where(WEIGHTS > 0, CLASSES, -1)),
    "probabilities": (
        softmax_cross_entropy,
        np.eye(3)[CLASSES],
        np.where(WEIGHTS[:, None] > 0, np.eye(3)[CLASSES], np.nan),
    ),
    "yes or no": (
        sigmoid_binary_cross_entropy,
        np.eye(3)[CLASSES],
        np.where(WEIGHTS[:, None] > 0, np.eye(3)[CLASSES], np.nan),
    ),
    "numbers": (squared_error, wave(0.2, 6, 3), np.where(WEIGHTS[:, None] > 0, wave(0.2, 6, 3), np.nan)),
    "infinite numbers": (squared_error, wave(0.2, 6, 3), np.where(WEIGHTS[:, None] > 0, wave(0.2, 6, 3), -np.inf)),
}


@pytest.mark.parametrize("zero_one", [True, False])
@pytest.mark.parametrize("name", MASKED)
def test_what_the_mask_leaves_out_is_in_neither_value_nor_gradient(name, zero_one):
    """Value and slope are those of the weighted mean over the others, also where a prediction itself is NaN."""
    loss, right, padded = MASKED[name]
    mask = (WEIGHTS > 0).astype(int) if zero_one else WEIGHTS
    holes = np.where(WEIGHTS[:, None] > 0, LOGITS, np.nan)

    def masked(logits, targets):
        return mean_of(loss)({"head": logits}, {"label": targets, "mask": mask}, None)

    def by_hand(logits):
        return jnp.sum(mask * loss(logits, right)) / np.sum(mask)

    value, slope = jax.jit(jax.value_and_grad(by_hand))(LOGITS)
    for logits, targets in ((LOGITS, right), (LOGITS, padded), (holes, padded)):
        found = jax.jit(jax.value_and_grad(masked))(jnp.asarray(logits), jnp.asarray(targets))
        np.testing.assert_allclose(found[0], value, rtol=1e-6)
        np.testing.assert_allclose(found[1], slope, rtol=1e-5, atol=1e-7)


def test_a_mean_over_nothing_is_0_with_a_gradient_of_0():
    batch = {"label": jnp.full(3, jnp.nan), "mask": jnp.zeros(3)}
    task = mean_of(squared_error)
    value, slope = jax.value_and_grad(lambda w: task({"head": w * jnp.ones(3)}, batch, None))(1.0)
    assert (float(value), float(slope)) == (0, 0)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_none_makes_the_mean_nan_instead_of_leaving_the_example_out(weight):
    assert np.isnan(masked_mean(np.ones(3), np.array([1.0, weight, 1.0])))
    evaluate = make_eval_step(
        lambda params, state, batch, ctx: ({"head": LOGITS}, state), {"accuracy": per_example(accuracy)}
    )
    state = init_state({}, optax.identity(), jax.random.key(0))
    sums = evaluate(state, {"label": CLASSES, "mask": np.array([1, 1, 1, 1, 1, weight])}, Fixed())
    assert np.isnan(sums["accuracy"])
    assert np.isnan(sums["count"])


def test_metrics_are_weighed_by_the_mask():
    evaluate = make_eval_step(
        lambda params, state, batch, ctx: ({"head": LOGITS}, state),
        {"accuracy": per_example(accuracy), "loss": per_example(softmax_cross_entropy)},
    )
    state = init_state({}, optax.identity(), jax.random.key(0))
    sums = evaluate(state, {"label": np.where(WEIGHTS > 0, CLASSES, -1), "mask": WEIGHTS}, Fixed())
    right = np.argmax(LOGITS, axis=1) == CLASSES
    assert float(sums["count"]) == 3.75
    np.testing.assert_allclose(sums["accuracy"], WEIGHTS @ right)
    np.testing.assert_allclose(sums["loss"], WEIGHTS @ np.asarray(cross_entropy(LOGITS, CLASSES)), rtol=1e-6)


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"mask: shapes \(3,\) and \(1,\) differ"):
        masked_mean(np.zeros(3), np.ones(1))


def test_mean_of_names_head_and_target_and_reads_the_mask():
    outputs, targets = {"other": LOGITS}, {"class": CLASSES}
    per = np.asarray(jax.jit(per_example(softmax_cross_entropy, "other", "class"))(outputs, targets, None))
    np.testing.assert_allclose(per, cross_entropy(LOGITS, CLASSES))
    mean = jax.jit(mean_of(softmax_cross_entropy, "other", "class"))
    np.testing.assert_allclose(mean(outputs, targets, None), per.mean(), rtol=1e-6)
    masked = mean(outputs, targets | {"mask": np.array([1, 1, 0, 0, 0, 0])}, None)
    np.testing.assert_allclose(masked, per[:2].mean(), rtol=1e-6)


# --- make_loss_fn ---


def size(outputs, batch, ctx):
    return jnp.mean(outputs["features"] ** 2)


def test_terms_are_weighted_and_reported_unweighted():
    terms = TASK | {"size": Term(0.5, size)}
    loss_fn = jax.jit(make_loss_fn(forward, terms))
    weighted, (metrics, state) = loss_fn(network(), {"kept": 1}, batch(), context({"task": 3.0}))
    outputs = jax.jit(forward)(network(), {}, batch(), None)[0]
    task = np.mean(cross_entropy(outputs["head"], batch()["label"]))
    features = np.mean(np.square(outputs["features"]))
    np.testing.assert_allclose([metrics["task"], metrics["size"]], [task, features], rtol=1e-6)
    np.testing.assert_allclose([weighted["task"], weighted["size"]], [3 * task, 0.5 * features], rtol=1e-6)
    assert state == {"kept": 1}


def test_the_penalty_is_one_summand_and_its_parts_are_metrics():
    penalty = labelled(LABELS, {NEW: Term(0.5, l2), TRANSFERRED: Term(0.25, l2)})
    weighted, (metrics, _) = jax.jit(make_loss_fn(forward, TASK, penalty))(network(), {}, batch(), context())
    assert weighted.keys() == {"task", "penalty"}
    assert metrics.keys() == {"task", "penalty/new", "penalty/transferred"}
    parts = np.asarray(metrics["penalty/new"]) + np.asarray(metrics["penalty/transferred"])
    np.testing.assert_allclose(weighted["penalty"], parts, rtol=1e-6)


def test_frozen_leaves_get_no_gradient_and_the_others_keep_theirs():
    gradients = [
        jax.jit(total_gradient(make_loss_fn(forward, TASK, frozen=frozen)))(network(), {}, batch(), context())[0]
        for frozen in (None, having(LABELS, TRANSFERRED))
    ]
    free, held = gradients
    assert all(np.any(leaf) for leaf in jax.tree.leaves(free))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(held["trunk"]))
    assert_close(held["head"], free["head"])


def test_the_backward_pass_of_a_frozen_trunk_is_not_computed():
    def dots(frozen):
        grad_fn = total_gradient(make_loss_fn(forward, TASK, frozen=frozen))
        program = jax.make_jaxpr(lambda params: grad_fn(params, {}, batch(), context()))(network())
        return str(program).count("dot_general")

    assert dots(having(LABELS, TRANSFERRED)) == dots(None) - 2  # back through the head, and the trunk's kernel


@pytest.mark.parametrize("terms", [{}, {"penalty": TASK["task"]}, {"loss": TASK["task"]}])
def test_no_term_and_reserved_names_are_refused(terms):
    with pytest.raises(InputError, match="make_loss_fn: terms are"):
        make_loss_fn(forward, terms)


def test_a_term_that_is_not_a_scalar_is_refused():
    loss_fn = make_loss_fn(forward, {"task": Term(1.0, per_example(softmax_cross_entropy))})
    with pytest.raises(InputError, match=r"term 'task': has shape \(12,\)\n  reduce it"):
        jax.eval_shape(loss_fn, network(), {}, batch(), context())


def test_what_only_a_penalty_reads_is_refused_in_a_term():
    with pytest.raises(InputError, match="term 'task': given, on and beside are read by penalties only"):
        make_loss_fn(forward, {"task": Term(1.0, lambda outputs, batch, ctx: 0.0, ("anchor",))})


def test_a_frozen_mask_of_other_parameters_is_refused():
    loss_fn = make_loss_fn(forward, TASK, frozen={"trunk": True})
    with pytest.raises(InputError, match="make_loss_fn frozen: head/bias is a parameter without entry"):
        loss_fn(network(), {}, batch(), context())


@pytest.mark.parametrize("name", ["penalty/new", "learning_rate/new", "decay/new", "radius/new"])
def test_a_term_with_the_name_of_another_rate_is_refused(name):
    with pytest.raises(InputError, match=f"term '{name}': other rates and metrics have such names"):
        make_loss_fn(forward, TASK | {name: TASK["task"]})


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (TASK["task"].fn, "term 'task': .* is no Term"),
        (Term(1.0, lambda *_: None), "term 'task': gives NoneType, not a number"),
        (Term(1.0, lambda outputs, batch, ctx: outputs), "term 'task': gives dict, not a number"),
        (Term(1.0, lambda *_: (1.0, 2.0)), "term 'task': gives tuple, not a number"),
    ],
)
def test_what_is_no_term_or_gives_no_number_is_refused(term, message):
    with pytest.raises(InputError, match=message):
        make_loss_fn(forward, {"task": term})(network(), {}, batch(), context())


def test_a_rate_by_name_that_is_no_number_is_refused():
    for rate in ("0.1", None, np.ones(2), -1.0):
        with pytest.raises(InputError, match=r"rates\['task'\]: "):
            make_loss_fn(forward, TASK)(network(), {}, batch(), context({"task": rate}))


def test_a_frozen_mask_of_another_kind_of_tree_freezes_the_same_leaves():
    frozen = having(LABELS, TRANSFERRED)
    turned = OrderedDict((name, FrozenDict(frozen[name])) for name in ("trunk", "head"))
    grad_fn = total_gradient(make_loss_fn(forward, TASK, frozen=turned))
    expected = total_gradient(make_loss_fn(forward, TASK, frozen=frozen))
    args = (network(), {}, batch(), context())
    assert_close(grad_fn(*args)[0], expected(*args)[0])
