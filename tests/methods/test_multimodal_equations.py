"""Fusion, alignment, feature fusion and worth of modalities against fixed numbers, NumPy, SciPy and PyTorch."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from jaxtl.errors import InputError
from jaxtl.methods import multimodal as mm

A, B = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.8, 0.6], [0.0, 1.0]])
RANDOM = np.random.default_rng(0)
PROBS = softmax(2 * RANDOM.normal(size=(3, 20, 4)), axis=-1).astype(np.float32)
PRESENT = (RANDOM.random((3, 20)) < 0.6).astype(np.float32)
LABELS = RANDOM.integers(4, size=20)
WEIGHTS, KERNEL, BIAS = np.float32([0.5, 2.0, 1.0]), np.float32(RANDOM.normal(size=(3, 4, 4))), np.float32(np.arange(4))
F, G = (RANDOM.normal(size=(12, 4)).astype(np.float32) for _ in range(2))


def single(values):
    return jnp.asarray(values, jnp.float32)


# compiled as one, which is how a step runs them: operation by operation they take a minute
RULES = {
    "average": lambda p, there, w: mm.fuse_average(p, there),
    "vote": lambda p, there, w: mm.fuse_vote(p, there),
    "product": lambda p, there, w: mm.fuse_product(p, there),
    "naive Bayes": lambda p, there, w: mm.fuse_product(p, there, power=1.0, prior=single([0.1, 0.2, 0.3, 0.4])),
    "weighted": lambda p, there, w: mm.fuse_weighted(p, w["weights"], there),
    "trained": lambda p, there, w: mm.fuse_trained(p, w["kernel"], single(BIAS), there),
}
QUICK = {name: jax.jit(rule) for name, rule in RULES.items()}
NUMBERS = {"weights": WEIGHTS, "kernel": KERNEL}
ALIGNMENTS = {
    "clip": jax.jit(lambda a, b: mm.clip_loss(a, b, 10.0)),
    "siglip": jax.jit(lambda a, b: mm.siglip_loss(a, b, 10.0, -10.0)),
    "cosine": jax.jit(mm.cosine_loss),
    "mse": jax.jit(mm.mse_loss),
    "cca": jax.jit(mm.cca_loss),
}


def fused(name, probs, present=None, numbers=NUMBERS):
    present = None if present is None else np.float32(present)
    return np.asarray(QUICK[name](np.float32(probs), present, numbers))


# ---------------------------------------------------------------- what modalities say


def test_fixed_numbers_of_fusion():
    two = [[[0.7, 0.2, 0.1]], [[0.2, 0.5, 0.3]]]
    np.testing.assert_allclose(fused("average", two), [[0.45, 0.35, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(fused("product", two), [[0.433263, 0.366174, 0.200562]], atol=1e-6)
    bayes = np.array([0.14, 0.1, 0.03]) / [0.5, 0.25, 0.25]
    found = mm.fuse_product(single(two), power=1.0, prior=single([0.5, 0.25, 0.25]))
    np.testing.assert_allclose(found, [bayes / bayes.sum()], rtol=1e-5)


def test_rules_are_numpys_example_by_example():
    for i, there in enumerate(PRESENT.T > 0):
        own = PROBS[there, i].astype(np.float64)
        if not len(own):
            continue
        logs, votes = np.log(own), np.bincount(own.argmax(axis=1), minlength=4)
        expected = {
            "average": own.mean(axis=0),
            "product": softmax(logs.mean(axis=0)),
            "naive Bayes": softmax(logs.sum(axis=0) - (len(own) - 1) * np.log([0.1, 0.2, 0.3, 0.4])),
            "vote": (votes + own.mean(axis=0)) / (len(own) + 1),
            "weighted": WEIGHTS[there] @ own / WEIGHTS[there].sum(),
            "trained": softmax(np.einsum("mc,mcd->d", logs, KERNEL[there]) + BIAS),
        }
        for name, answer in expected.items():
            np.testing.assert_allclose(fused(name, PROBS, PRESENT)[i], answer, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", RULES)
def test_an_absent_modality_is_one_that_never_was_and_none_leaves_every_class_as_likely(name):
    absent = np.array([[1.0] * 20, [0.0] * 20, [1.0] * 20])
    nonsense = PROBS.copy()
    nonsense[1] = np.nan
    without = {key: value[np.array([0, 2])] for key, value in NUMBERS.items()}
    found = fused(name, PROBS[[0, 2]], numbers=without)
    np.testing.assert_allclose(fused(name, nonsense, absent), found, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(fused(name, PROBS, np.ones((3, 20))), fused(name, PROBS))
    alone = np.zeros((3, 20))
    alone[2] = 1
    if name != "trained":
        assert (fused(name, PROBS, alone).argmax(axis=1) == PROBS[2].argmax(axis=1)).all()
    nothing = fused(name, PROBS, np.zeros((3, 20)))
    expected = [0.1, 0.2, 0.3, 0.4] if name == "naive Bayes" else [0.25] * 4
    np.testing.assert_allclose(nothing, np.tile(expected, (20, 1)), rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_answers_add_up_to_one_and_do_not_depend_on_the_order_of_modalities(name):
    order = np.array([2, 0, 1])
    turned = {key: value[order] for key, value in NUMBERS.items()}
    found = fused(name, PROBS, PRESENT)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(fused(name, PROBS[order], PRESENT[order], turned), found, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_rules_under_jit_and_vmap_and_gradients_without_nan_at_certainty(name):
    probs = np.stack([PROBS, PROBS[:, ::-1]])

    def rule(p):
        return RULES[name](p, single(PRESENT), jax.tree.map(single, NUMBERS))

    found = jax.jit(jax.vmap(rule))(single(probs))
    for k in range(2):
        np.testing.assert_allclose(found[k], fused(name, probs[k], PRESENT), rtol=2e-5, atol=1e-6)
    sure = single(np.eye(4)[np.tile(np.arange(4), 5)][None].repeat(3, axis=0))
    assert np.isfinite(jax.jit(jax.grad(lambda p: rule(p)[:, 0].sum()))(sure)).all()


def test_a_vote_is_the_majoritys_and_the_average_decides_ties():
    votes = PROBS.argmax(axis=-1)
    found = fused("vote", PROBS)
    for i in range(20):
        counts = np.bincount(votes[:, i], minlength=4)
        if counts.max() > 1:
            assert found[i].argmax() == counts.argmax()
    two = fused("vote", PROBS[:2])
    apart = votes[0] != votes[1]
    assert apart.any()
    np.testing.assert_array_equal(two[apart].argmax(axis=1), PROBS[:2].mean(axis=0)[apart].argmax(axis=1))


def test_temperature_one_changes_nothing_and_another_is_numpys():
    logits = np.float32(3 * RANDOM.normal(size=(2, 5, 4)))
    np.testing.assert_array_equal(mm.tempered(single(logits), jnp.ones(2)), jax.nn.softmax(single(logits)))
    found = mm.tempered(single(logits), single([0.5, 4.0]))
    np.testing.assert_allclose(found, softmax(logits / np.array([0.5, 4.0])[:, None, None], axis=-1), rtol=1e-5)


def test_modalities_are_dropped_as_often_as_is_said_and_never_all_of_them():
    there = jnp.asarray(np.tile([[1.0], [1.0], [0.0]], (1, 4000)))
    left = np.asarray(jax.jit(mm.drop_modalities, static_argnums=2)(jax.random.key(1), there, 0.4))
    assert not left[2].any()
    assert left[:2].any(axis=0).all()
    share = 0.6 + 0.4 * 0.4 / 2  # where both are drawn, either of them stays
    assert left[:2].mean(axis=1) == pytest.approx([share, share], abs=0.03)
    np.testing.assert_array_equal(mm.drop_modalities(jax.random.key(1), there, 0.0), there > 0)
    assert (np.asarray(mm.drop_modalities(jax.random.key(1), there, 1.0)).sum(axis=0) == 1).all()


# ---------------------------------------------------------------- one space


def test_fixed_numbers_of_alignment():
    with jax.enable_x64(True):
        assert float(mm.clip_loss(jnp.asarray(A), jnp.asarray(B), 10.0)) == pytest.approx(0.892118, abs=1e-6)
        assert float(mm.siglip_loss(jnp.asarray(A), jnp.asarray(B), 10.0, -10.0)) == pytest.approx(2.383458, abs=1e-6)
    assert float(mm.cosine_loss(single(A), single(3 * B))) == pytest.approx(1 - 0.8, abs=1e-6)
    assert float(mm.mse_loss(single(A), single(B))) == pytest.approx(0.25 * ((A - B) ** 2).sum(), abs=1e-6)


def test_clip_and_siglip_are_pytorchs_in_value_and_gradient():
    torch = pytest.importorskip("torch")
    for name in ("clip", "siglip"):
        value, slopes = jax.jit(jax.value_and_grad(ALIGNMENTS[name], argnums=(0, 1)))(F, G)
        a, b = (torch.tensor(side, requires_grad=True) for side in (F, G))
        of = torch.nn.functional
        similar = 10 * of.normalize(a) @ of.normalize(b).T
        if name == "clip":
            own = torch.arange(12)
            loss = 0.5 * (of.cross_entropy(similar, own) + of.cross_entropy(similar.T, own))
        else:
            loss = of.softplus(-(2 * torch.eye(12) - 1) * (similar - 10)).sum() / 12
        loss.backward()
        assert float(value) == pytest.approx(loss.item(), rel=1e-5)
        for mine, theirs in zip(slopes, (a.grad, b.grad), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_examples_of_one_class_are_as_right_an_answer():
    labels = np.arange(12) % 3
    positives = labels[:, None] == labels[None]
    similar = 10 * (F / np.linalg.norm(F, axis=1, keepdims=True)) @ (G / np.linalg.norm(G, axis=1, keepdims=True)).T
    sides = [log_softmax(side, axis=1)[positives].mean() for side in (similar, similar.T)]  # four of each
    assert float(mm.clip_loss(single(F), single(G), 10.0, positives)) == pytest.approx(-np.mean(sides), rel=1e-5)
    own = mm.clip_loss(single(F), single(G), 10.0, jnp.eye(12))
    assert float(own) == pytest.approx(float(mm.clip_loss(single(F), single(G), 10.0)), rel=1e-6)


def test_canonical_correlations_are_scipys_and_linear_maps_change_nothing():
    many_a, many_b = RANDOM.normal(size=(200, 3)), RANDOM.normal(size=(200, 3))
    many_b[:, 0] += 2 * many_a[:, 1]
    a, b = many_a - many_a.mean(axis=0), many_b - many_b.mean(axis=0)
    cross = np.linalg.inv(sqrtm(a.T @ a)) @ a.T @ b @ np.linalg.inv(sqrtm(b.T @ b))
    expected = 1 - (np.linalg.svd(cross, compute_uv=False) ** 2).mean()
    assert float(mm.cca_loss(single(many_a), single(many_b), 0.0)) == pytest.approx(expected, abs=1e-5)
    mixed = many_a @ RANDOM.normal(size=(3, 3)) + 7
    assert float(mm.cca_loss(single(mixed), single(many_b), 0.0)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_slopes_are_differences_and_jit_vmap_and_half_precision_agree(name):
    fn, nudge = ALIGNMENTS[name], np.zeros_like(F)
    nudge[3, 1] = 1.0
    with jax.enable_x64(True):
        a, b, step = (jnp.asarray(x, jnp.float64) for x in (F, G, nudge))
        slope = jax.jit(jax.grad(fn))(a, b)[3, 1]
        difference = (fn(a + 1e-5 * step, b) - fn(a - 1e-5 * step, b)) / 2e-5
        assert float(slope) == pytest.approx(float(difference), rel=1e-5, abs=1e-9)
    both, others = np.stack([F, 2 * G]), np.stack([G, F + 1])
    each = [float(fn(a, b)) for a, b in zip(both, others, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(fn))(both, others), each, rtol=1e-4)
    assert fn(single(F).astype(jnp.bfloat16), single(G).astype(jnp.bfloat16)).dtype == jnp.float32
    assert np.isfinite(jax.jit(jax.grad(fn))(jnp.zeros((12, 4)), single(G))).all()
    with pytest.raises(InputError, match="pairs, row by row"):
        fn(single(F), single(G[:, :2]))


@pytest.mark.parametrize("name", ["clip", "siglip", "cosine", "mse", "cca"])
def test_features_that_are_the_same_pay_least(name):
    fn = ALIGNMENTS[name]
    best = float(fn(single(F), single(F)))
    assert best < float(fn(single(F), single(G)))
    if name in ("cosine", "mse"):
        assert best == pytest.approx(0.0, abs=1e-6)
    if name == "cca":
        assert best == pytest.approx(0.0, abs=5e-3)  # the ridge


def test_the_scale_of_clip_is_held():
    assert [float(mm.clip_scale(single(s))) for s in (-3.0, 50.0)] == pytest.approx([1.0, 100.0])


# ---------------------------------------------------------------- features as one


SIZES = {"a": 3, "b": 2, "c": 4}
INITS = {
    "concatenated": lambda key: mm.init_concatenated(key, SIZES, 5),
    "gated": lambda key: mm.init_gated(key, SIZES, 6, 5),
    "low_rank": lambda key: mm.init_low_rank(key, SIZES, 2, 5),
}
FUSE = {name: jax.jit(getattr(mm, name)) for name in INITS}
FEATURES = {name: np.float32(RANDOM.normal(size=(7, size))) for name, size in SIZES.items()}
ALL = {name: np.ones(7, np.float32) for name in SIZES}


def made(name):
    return jax.jit(INITS[name])(jax.random.key(0))


def moved(tree):
    """The same structure with other numbers, so that no zero hides a mistake."""
    return jax.tree.map(lambda leaf: np.float32(np.asarray(leaf) + 0.3 * RANDOM.normal(size=leaf.shape)), tree)


def test_low_rank_is_the_full_outer_product_under_its_tensor():
    params = moved(made("low_rank"))
    long = {name: np.concatenate([FEATURES[name], np.ones((7, 1))], axis=1) for name in SIZES}
    outer = np.einsum("bi,bj,bk->bijk", *(long[name] for name in "abc"))
    w = {name: np.concatenate([params["kernel"][name], params["offset"][name][None]]) for name in SIZES}
    tensor = np.einsum("irc,jrc,krc,r->ijkc", w["a"], w["b"], w["c"], params["mix"])
    expected = np.einsum("bijk,ijkc->bc", outer, tensor) + np.asarray(params["bias"])
    np.testing.assert_allclose(FUSE["low_rank"](params, FEATURES, ALL), expected, rtol=1e-4, atol=1e-4)


def test_gates_are_a_softmax_of_all_features_and_concatenation_is_one_kernel():
    params = moved(made("gated"))
    side_by_side = np.concatenate([FEATURES[name] for name in "abc"], axis=1)
    gates = softmax(side_by_side @ np.concatenate([params["gate"][name] for name in "abc"]), axis=1)
    summed = sum(gates[:, [k]] * (FEATURES[n] @ params["projection"][n]) for k, n in enumerate("abc"))
    expected = summed @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(FUSE["gated"](params, FEATURES, ALL), expected, rtol=1e-4, atol=1e-5)
    params = moved(made("concatenated"))
    kernel = np.concatenate([params["kernel"][name] for name in "abc"])
    expected = side_by_side @ kernel + np.asarray(params["bias"])
    np.testing.assert_allclose(FUSE["concatenated"](params, FEATURES, ALL), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", INITS)
def test_an_absent_modality_is_not_looked_at_and_equals_one_that_never_was(name):
    fn, params = FUSE[name], moved(made(name))
    present = {**ALL, "b": np.zeros(7, np.float32)}
    nonsense = {**FEATURES, "b": np.full((7, 2), np.nan, np.float32)}
    found = fn(params, nonsense, present)
    fewer = {key: value for key, value in FEATURES.items() if key != "b"}
    own = params
    if name == "gated":
        own = {**params, "gate": {key: params["gate"][key][:, [0, 2]] for key in "ac"}}
    np.testing.assert_allclose(found, fn(own, fewer, {key: ALL[key] for key in fewer}), rtol=1e-5, atol=1e-6)
    slope = jax.jit(jax.grad(lambda features: fn(params, features, present).sum()))(nonsense)
    assert not np.any(slope["b"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    nothing = fn(params, FEATURES, {key: np.zeros(7, np.float32) for key in SIZES})
    assert np.ptp(nothing, axis=0) == pytest.approx(np.zeros(5), abs=1e-6)
    with pytest.raises(InputError, match="no modality 'd'"):
        fn(params, {**FEATURES, "d": FEATURES["a"]}, {**ALL, "d": ALL["a"]})


@pytest.mark.parametrize("name", INITS)
def test_order_of_features_jit_and_vmap_change_nothing(name):
    fn, params = FUSE[name], made(name)
    found = fn(params, FEATURES, ALL)
    turned = dict(reversed(FEATURES.items()))
    np.testing.assert_array_equal(fn(params, turned, ALL), found)
    stacked = jax.tree.map(lambda x: np.stack([x, x[::-1]]), FEATURES)
    both = jax.jit(jax.vmap(lambda features: fn(params, features, ALL)))(stacked)
    np.testing.assert_allclose(both[0], found, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[1], found[::-1], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- what each is worth


def test_fitted_weights_are_scipys_minimum_on_the_simplex():
    probs, labels = softmax(2 * RANDOM.normal(size=(3, 300, 4)), axis=-1), RANDOM.integers(4, size=300)
    probs[0, np.arange(300), labels] += 0.4
    probs[2, np.arange(300), labels] += 0.8
    probs /= probs.sum(axis=-1, keepdims=True)
    said = probs[:, np.arange(300), labels]
    found = np.asarray(mm.fit_weights(single(probs), jnp.asarray(labels), 2000))
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1.0, abs=1e-5)
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    theirs = minimize(lambda w: -np.log(w @ said).mean(), np.full(3, 1 / 3), bounds=[(0, 1)] * 3, constraints=simplex)
    np.testing.assert_allclose(found, theirs.x, atol=2e-3)
    turned = mm.fit_weights(single(probs[::-1]), jnp.asarray(labels), 2000)
    np.testing.assert_allclose(turned, found[::-1], atol=1e-5)


def test_precision_is_the_inverse_of_the_squared_error():
    wanted = np.eye(4)[LABELS]
    error = ((PROBS - wanted[None]) ** 2).sum(axis=-1).mean(axis=1)
    found = mm.precision_weights(single(PROBS), jnp.asarray(LABELS))
    np.testing.assert_allclose(found, (1 / error) / (1 / error).sum(), rtol=1e-5)


def test_shapley_values_are_the_mean_over_all_orders_and_add_up():
    values = {there: float(RANDOM.normal()) for there in itertools.product((False, True), repeat=4)}
    expected = np.zeros(4)
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        there = (False,) * 4
        for m in order:
            after = tuple(own or k == m for k, own in enumerate(there))
            expected[m] += (values[after] - values[there]) / len(orders)
            there = after
    found = mm.shapley(values.__getitem__, 4)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.sum() == pytest.approx(values[(True,) * 4] - values[(False,) * 4])
    alone = mm.leave_one_out(values.__getitem__, 4)
    assert alone[1] == values[(True,) * 4] - values[True, False, True, True]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="weights \\[2\\] for 3 modalities"):
        mm.fuse_weighted(single(PROBS), jnp.ones(2))
    with pytest.raises(InputError, match="present \\[3, 5\\]"):
        mm.fuse_average(single(PROBS), jnp.ones((3, 5)))
    with pytest.raises(InputError, match="a prior \\[3\\] for 4 classes"):
        mm.fuse_product(single(PROBS), prior=jnp.ones(3))
    with pytest.raises(InputError, match="for 3 modalities and 4 classes"):
        mm.fuse_trained(single(PROBS), jnp.ones((3, 4, 3)), jnp.ones(4))
    with pytest.raises(InputError, match="temperatures \\[2\\]"):
        mm.tempered(single(PROBS), jnp.ones(2))
    with pytest.raises(InputError, match="positives \\[3, 3\\] for 12 pairs"):
        mm.clip_loss(single(F), single(G), 1.0, jnp.eye(3))
    with pytest.raises(InputError, match="7 modalities"):
        mm.shapley(lambda there: 0.0, 7)
    with pytest.raises(InputError, match="labels \\[4\\]"):
        mm.fit_weights(single(PROBS), jnp.zeros(4, int))
