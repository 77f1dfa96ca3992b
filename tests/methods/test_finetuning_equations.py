"""Equations of fine-tuning against published numbers, PyTorch's and NumPy's arithmetic, and finite differences."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from problems import TASK, batch, context, forward, network
from scipy.special import log_softmax, softmax

from jaxtl.errors import InputError
from jaxtl.labels import TRANSFERRED, label_by_depth
from jaxtl.losses import make_loss_fn
from jaxtl.methods.finetuning.contrast import bi_tuning, contrastive, empty_queue, enqueued, following, unit
from jaxtl.methods.finetuning.depth import (
    AUTO_RGN,
    layer_scales,
    no_norms,
    relative_gradient_norms,
    relative_to_largest,
    slanted_triangle,
    surgical,
)
from jaxtl.methods.finetuning.features import batch_spectral_shrinkage, channel_attention, delta, losses_without
from jaxtl.methods.finetuning.parameter_space import annealed, diagonal_fisher, mixed, mixout
from jaxtl.methods.finetuning.predictions import (
    co_tuning,
    direct_relation,
    distillation,
    pure_classes,
    reverse_relation,
)
from jaxtl.methods.finetuning.widening import widen
from jaxtl.models import Classifier, Cnn, Mlp, initial_model_state, initialise, resnet18, stage_paths, wide_resnet
from jaxtl.step import total_gradient
from jaxtl.transfer import transfer
from jaxtl.trees import named_leaves

S = np.sin(np.arange(24.0) ** 2).reshape(8, 3)
W0 = np.sin(np.arange(6.0)).reshape(3, 2)
W = W0 + 0.3 * np.cos(np.arange(6.0) ** 2).reshape(3, 2)


def single(array):
    return jnp.asarray(array, jnp.float32)


# --- features ---


def nchw(values):
    """[2, 3, 2, 2] in PyTorch's order as [2, 2, 2, 3]."""
    return single(values.reshape(2, 3, 2, 2).transpose(0, 2, 3, 1))


def test_delta_is_the_published_number_and_attention_of_one_channel_leaves_that_one():
    places = np.arange(24.0)
    ours, theirs = {"conv": nchw(np.sin(places))}, {"conv": nchw(np.cos(places))}
    assert float(jnp.mean(delta(ours, theirs))) * 4 == pytest.approx(5.772327596, rel=1e-6)
    even = {"conv": jnp.full(3, 1 / 3)}
    np.testing.assert_allclose(delta(ours, theirs, even), delta(ours, theirs), rtol=1e-6)
    gap = np.asarray(ours["conv"] - theirs["conv"])[..., 1] ** 2
    alone = delta(ours, theirs, {"conv": jnp.array([0.0, 1.0, 0.0])})
    np.testing.assert_allclose(alone, 0.5 * 3 * gap.sum(axis=(1, 2)) / 4, rtol=1e-6)


def test_delta_is_0_with_gradient_0_at_the_source_and_right_elsewhere():
    taps, source = (
        {"a": single(S), "b": nchw(np.sin(np.arange(24.0)))},
        {"a": single(S + 0.1), "b": jnp.zeros((2, 2, 2, 3))},
    )
    taps = {"a": taps["a"][:2], "b": taps["b"]}
    source = {"a": source["a"][:2], "b": source["b"]}
    slope = jax.grad(lambda t: jnp.sum(delta(t, taps)))(taps)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), (taps, source))
        check_grads(lambda t: jnp.sum(delta(t, wide[1])), (wide[0],), 1, modes=["rev"])
    with pytest.raises(InputError, match="delta"):
        delta(taps, {"a": source["a"]})
    with pytest.raises(InputError, match="delta, 'a'"):
        delta(taps, {**source, "a": source["a"][:, :2]})


def test_attention_is_a_softmax_of_scores_over_five_and_zeroes_one_channel_at_a_time():
    lost = np.array([0.3, 0.1, 0.9, 0.2])
    expected = softmax((lost - lost.mean()) / lost.std() / 5)
    np.testing.assert_allclose(channel_attention(single(lost + 2), 2.0), expected, rtol=1e-5)
    np.testing.assert_allclose(channel_attention(jnp.ones(4), 1.0), 0.25)
    found = losses_without(lambda x: jnp.sum(x * jnp.arange(1.0, 4.0)), jnp.ones((3,)))
    assert found.tolist() == [5.0, 4.0, 3.0]


@pytest.mark.parametrize(("smallest", "published"), [(1, 0.598292365), (2, 4.036010897)])
def test_batch_spectral_shrinkage_is_the_published_number_whichever_side_is_smaller(smallest, published):
    assert float(batch_spectral_shrinkage(single(S), smallest)) == pytest.approx(published, rel=2e-5)
    assert float(batch_spectral_shrinkage(single(S.T), smallest)) == pytest.approx(published, rel=2e-5)


def test_the_gradient_of_the_shrinkage_is_right_and_finite_where_singular_values_are_equal():
    with jax.enable_x64(True):
        check_grads(functools.partial(batch_spectral_shrinkage, smallest=2), (jnp.asarray(S),), 1, modes=["rev"])
    for values in (jnp.eye(4), jnp.zeros((5, 3)), jnp.ones((3, 3))):
        assert np.isfinite(jax.grad(batch_spectral_shrinkage)(values)).all()
    with pytest.raises(InputError, match="use 1 to 3"):
        batch_spectral_shrinkage(single(S), 4)


# --- predictions ---


def test_distillation_is_pytorchs_and_looks_at_no_gradient_of_the_teacher():
    ours, theirs = 2 * np.sin(np.arange(12.0)).reshape(3, 4), 2 * np.cos(np.arange(12.0)).reshape(3, 4)
    student, teacher = log_softmax(ours / 3, axis=1), log_softmax(theirs / 3, axis=1)
    expected = 9 * (np.exp(teacher) * (teacher - student)).sum(axis=1)
    np.testing.assert_allclose(distillation(single(ours), single(theirs), 3.0), expected, rtol=1e-5)
    slope = jax.grad(lambda z, t: jnp.sum(distillation(z, t, 3.0)), (0, 1))(single(ours), single(theirs))
    np.testing.assert_allclose(slope[0], 3 * (np.exp(student) - np.exp(teacher)), rtol=1e-4, atol=1e-6)
    assert not np.any(slope[1])
    assert float(jnp.abs(jax.grad(lambda z: jnp.sum(distillation(z, single(theirs))))(single(theirs))).max()) < 1e-6


def test_relations_are_means_of_classes_and_bayes_rule():
    probabilities = softmax(2 * np.sin(np.arange(24.0)).reshape(8, 3), axis=1)
    labels = np.array([0, 0, 0, 1, 1, 1, 3, 3])
    found = direct_relation(single(probabilities), jnp.asarray(labels), 4)
    for k in (0, 1, 3):
        np.testing.assert_allclose(found[k], probabilities[labels == k].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found[2], 1 / 3, rtol=1e-6)  # nobody knows
    given_source, marginal = softmax(np.cos(np.arange(6.0)).reshape(3, 2), axis=1), np.array([0.5, 0.3, 0.2])
    joint = given_source * marginal[:, None]
    np.testing.assert_allclose(
        reverse_relation(single(given_source), single(marginal)), (joint / joint.sum(axis=0)).T, rtol=1e-5
    )
    coef, intercept = np.cos(np.arange(6.0)).reshape(3, 2), np.array([0.1, -0.1])
    np.testing.assert_allclose(pure_classes(coef, intercept), softmax(np.eye(3) @ coef + intercept, axis=1), rtol=1e-5)


def test_co_tuning_is_cross_entropy_towards_the_relation():
    logits, relation = np.sin(np.arange(12.0)).reshape(4, 3), softmax(np.cos(np.arange(6.0)).reshape(2, 3), axis=1)
    labels = np.array([1, 0, 0, 1])
    expected = -(relation[labels] * log_softmax(logits, axis=1)).sum(axis=1)
    np.testing.assert_allclose(co_tuning(single(logits), single(relation), jnp.asarray(labels)), expected, rtol=1e-5)
    slope = jax.grad(lambda z: jnp.sum(co_tuning(z, single(relation), jnp.asarray(labels))))(single(logits))
    np.testing.assert_allclose(slope, softmax(logits, axis=1) - relation[labels], rtol=1e-4, atol=1e-6)


def by_hand(query, own, keys, filled, label, tau):
    """One example's contrast, key by key."""
    scores, positive = [query @ own / tau], [True]
    for c in range(len(keys)):
        for k in range(filled[c]):
            scores.append(query @ keys[c, k] / tau)
            positive.append(c == label)
    return -log_softmax(np.array(scores))[np.array(positive)].mean()


def test_contrast_is_that_of_a_loop_over_keys_and_what_is_not_filled_is_no_key():
    keys = np.asarray(unit(single(np.sin(np.arange(36.0) ** 2).reshape(3, 4, 3))))
    counts, labels = np.array([2, 0, 4]), np.array([0, 1, 2, 2])
    queries, own = (np.asarray(unit(single(np.cos(f * np.arange(12.0)).reshape(4, 3)))) for f in (1.0, 2.0))
    filled = np.arange(4)[None] < counts[:, None]
    contrast = functools.partial(contrastive, own=own, keys=keys, filled=filled, labels=labels, temperature=0.5)
    found = jax.jit(contrast)(queries)
    expected = [by_hand(*one, keys, counts, label, 0.5) for *one, label in zip(queries, own, labels, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    slope = jax.jit(jax.grad(lambda q: jnp.sum(contrast(q))))(queries)
    assert np.isfinite(slope).all()


def test_bi_tuning_teaches_features_projector_and_classifier_and_holds_all_keys():
    queue = enqueued(
        empty_queue(3, 6, 4),
        unit(single(np.sin(np.arange(30.0)).reshape(5, 6))),
        unit(single(np.cos(np.arange(20.0)).reshape(5, 4))),
        jnp.array([0, 1, 2, 0, 1]),
    )
    features, projected = single(np.sin(np.arange(10.0)).reshape(2, 5)), single(np.cos(np.arange(8.0)).reshape(2, 4))
    head, labels = network()["head"], jnp.array([2, 0])

    def loss(features, projected, own, queue, head):
        return jnp.sum(bi_tuning(features, projected, own, queue, head, labels))

    slopes = jax.jit(jax.grad(loss, (0, 1, 2, 3, 4), allow_int=True))(features, projected, projected, queue, head)
    assert all(np.any(leaf) for leaf in jax.tree.leaves((slopes[0], slopes[1], slopes[4])))
    assert not any(np.any(leaf) for leaf in (slopes[2], slopes[3].features, slopes[3].projected))


def test_a_queue_writes_over_the_oldest_key_of_each_class_and_takes_more_than_it_holds():
    queue = empty_queue(2, 1, 1, length=3)
    put = jax.jit(lambda queue, values, labels: enqueued(queue, values[:, None], values[:, None], labels))
    kept = [[], []]
    for values, labels in ((np.arange(1.0, 5.0), [0, 1, 0, 0]), (np.arange(5.0, 10.0), [0, 0, 0, 0, 1]), ([10.0], [1])):
        queue = put(queue, single(values), jnp.asarray(labels))
        for value, label in zip(values, labels, strict=True):
            kept[label] = (kept[label] + [float(value)])[-3:]
    assert [sorted(row) for row in queue.features[..., 0].tolist()] == [sorted(row) for row in kept]
    assert queue.counts.tolist() == [7, 3]


def test_a_slow_encoder_follows_without_a_gradient():
    slow, fast = network(), network(0.5)
    moved = following(slow, fast, 0.9)
    np.testing.assert_allclose(
        moved["head"]["bias"], 0.9 * slow["head"]["bias"] + 0.1 * fast["head"]["bias"], rtol=1e-6
    )
    slope = jax.grad(lambda fast: jnp.sum(following(slow, fast)["head"]["bias"]))(fast)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope))


# --- parameters ---


def linear(w, x):
    return x @ w


def test_the_fisher_information_of_a_linear_model_is_the_closed_form():
    fisher = jax.jit(functools.partial(diagonal_fisher, linear), static_argnames="block")
    x, w = single(np.sin(np.arange(40.0)).reshape(20, 2)), single(np.cos(np.arange(6.0)).reshape(2, 3))
    labels = jnp.asarray(np.arange(20) % 3)
    p = softmax(np.asarray(x) @ np.asarray(w), axis=1)
    gap = np.eye(3)[np.asarray(labels)] - p
    given = np.mean(np.square(np.asarray(x)[:, :, None] * gap[:, None]), axis=0)
    np.testing.assert_allclose(fisher(w, x, labels=labels, block=8), given, rtol=1e-4)
    many = jnp.tile(x, (200, 1))
    drawn = fisher(w, many, jax.random.key(0), block=500)
    true = np.mean(np.square(np.asarray(x))[:, :, None] * (p * (1 - p))[:, None], axis=0)
    np.testing.assert_allclose(drawn, true, rtol=0.1)
    for wrong in ({}, {"rng": jax.random.key(0), "labels": labels}):
        with pytest.raises(InputError, match="pass rng or labels"):
            diagonal_fisher(linear, w, x, **wrong)


def test_mixout_is_the_published_number_and_its_mean_is_where_it_started():
    with jax.enable_x64(True):
        mask = jnp.array([[True, False], [False, True], [True, True]])
        found = mixed(jnp.asarray(W), jnp.asarray(W0), mask, 0.5)
    published = (0, 1.165652, 0.517111, 0.141120, -0.756802, -0.958924)
    np.testing.assert_allclose(np.ravel(found), published, atol=2e-6)
    w, a = network(), network(0.5)
    rngs = jax.random.split(jax.random.key(0), 2000)
    mean = jax.jit(
        lambda rngs: jax.tree.map(lambda x: x.mean(axis=0), jax.vmap(lambda rng: mixout(w, a, rng, 0.3))(rngs))
    )(rngs)
    jax.tree.map(lambda m, x: np.testing.assert_allclose(m, x, atol=0.12), mean, w)
    compiled = jax.jit(mixout)
    jax.tree.map(np.testing.assert_array_equal, compiled(w, w, rngs[0], 0.9), w)
    jax.tree.map(np.testing.assert_array_equal, compiled(w, a, rngs[0], 0.0), w)


def test_the_task_weighs_more_as_time_goes_on():
    assert float(annealed(250, 0.1)(100)) == pytest.approx(3.059e-7, rel=1e-3)
    assert float(annealed(250, 0.1)(250)) == 0.5


# --- depth ---


def test_layer_scales_are_those_of_a_transformer_of_twelve_blocks():
    scales = layer_scales(14, 0.75)
    assert [round(scales[k], 6) for k in (0, 1, 12, 13)] == [0.023757, 0.031676, 0.75, 1.0]
    with pytest.raises(InputError, match="layer_scales decay"):
        layer_scales(3, 0.0)


def test_gradients_are_scaled_by_how_large_they_are_beside_their_weights():
    g, w = {"a": jnp.array([0.3, 0.4]), "b": jnp.array([0.13])}, {"a": jnp.array([3.0, 4.0]), "b": jnp.array([1.0])}
    labels = {"a": "depth:0", "b": "depth:1"}
    norms = relative_gradient_norms(g, w, labels)
    np.testing.assert_allclose(list(norms.values()), (0.1, 0.13), rtol=1e-6)
    np.testing.assert_allclose(list(relative_to_largest(norms).values()), (0.769231, 1.0), rtol=1e-5)
    still = jax.tree.map(jnp.zeros_like, g)
    assert list(relative_to_largest(relative_gradient_norms(still, w, labels)).values()) == [1.0, 1.0]
    assert relative_gradient_norms(g, still, labels)["depth:0"] == 0.0


def test_surgery_averages_over_batches_and_leaves_the_way_of_each_stage():
    params = network()
    labels = label_by_depth(params, ["trunk/.*", "head/.*"])
    loss_fn = make_loss_fn(forward, TASK)
    plain, _, _ = jax.jit(total_gradient(loss_fn))(params, {}, batch(), context())
    grad_fn = jax.jit(surgical(labels)(loss_fn))
    scaled, _, state = grad_fn(params, no_norms(labels), batch(), context())
    factors = relative_to_largest(relative_gradient_norms(plain, params, labels))
    for path, leaf in named_leaves(scaled).items():
        factor = factors["depth:0" if path.startswith("trunk") else "depth:1"]
        np.testing.assert_allclose(leaf, factor * named_leaves(plain)[path], rtol=1e-4)
    assert set(state) == {AUTO_RGN}
    assert set(state[AUTO_RGN]) == {"depth:0", "depth:1"}


def test_a_slanted_triangle_rises_to_its_tenth_and_falls():
    factor = slanted_triangle(200)
    values = np.array([float(factor(step)) for step in (0, 10, 20, 110, 200)])
    np.testing.assert_allclose(values, [1 / 32, (1 + 0.5 * 31) / 32, 1.0, (1 + 0.5 * 31) / 32, 1 / 32], rtol=1e-5)


HEADS = (("head", 3),)


@pytest.mark.parametrize(
    ("trunk", "shape", "stages"),
    [
        (Mlp((4, 5)), (4,), 3),
        (Cnn((8, 8, 8), "none"), (8, 8, 1), 4),
        (wide_resnet(10, 1), (8, 8, 1), 5),
        (resnet18(), (8, 8, 3), 6),
    ],
    ids=["mlp", "cnn", "wide_resnet", "resnet18"],
)
def test_stages_cover_every_parameter_of_a_model_from_input_to_output(trunk, shape, stages):
    model = Classifier(trunk, HEADS)
    params = jax.eval_shape(lambda: initialise(model, jax.random.key(0), shape))
    labels = named_leaves(label_by_depth(params, stage_paths(model)))
    assert set(labels.values()) == {f"depth:{k}" for k in range(stages)}
    assert labels["head/kernel"] == f"depth:{stages - 1}"
    assert {label for path, label in labels.items() if is_first(path)} == {"depth:0"}


def is_first(path):
    """Whether a parameter is of what comes first."""
    return path.startswith(("trunk/dense_0", "trunk/conv_0", "trunk/norm_0", "trunk/stem"))


@pytest.mark.parametrize("normalisation", ["group", "batch"])
def test_a_wider_network_computes_the_same_function(normalisation):
    narrow = Classifier(Cnn((32, 64, 64), normalisation), HEADS)
    wide = Classifier(Cnn((64, 128, 128), normalisation), HEADS)
    shape, x = (8, 8, 1), single(np.sin(np.arange(192.0) ** 2)).reshape(3, 8, 8, 1)
    params, state = initialise(narrow, jax.random.key(0), shape), initial_model_state(narrow, shape)
    state = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.arange(leaf.size) / leaf.size, state)
    moved = transfer(params, initialise(wide, jax.random.key(1), shape), adapt=[(".*", widen)])
    stats = transfer(state, initial_model_state(wide, shape), adapt=[(".*", widen)]).params if state else {}
    before = jax.jit(lambda own: narrow.apply(own, x, False)["head"])({"params": params, **state})
    after = jax.jit(lambda own: wide.apply(own, x, False)["head"])({"params": moved.params, **stats})
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert set(named_leaves(moved.labels).values()) == {TRANSFERRED}


def test_widening_refuses_what_is_narrower_and_takes_widths_that_are_no_multiples():
    kernel = single(np.arange(6.0).reshape(2, 3))
    values, whole = widen(kernel, jnp.zeros((3, 5)))
    x = np.array([1.0, 2.0])
    hidden = np.array([1.0, 2.0, 1.0])  # unit 2 is a copy of unit 0
    assert whole is True
    np.testing.assert_allclose(hidden @ np.asarray(values), (x @ np.asarray(kernel))[np.arange(5) % 3])
    for other in ((1, 3), (2, 3, 4), (3, 2)):
        with pytest.raises(InputError, match="is no wider form of"):
            widen(kernel, jnp.zeros(other))
