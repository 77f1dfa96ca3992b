import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.labels import everything, label_params
from jaxtl.losses import sigmoid_binary_cross_entropy, softmax_cross_entropy, squared_error
from jaxtl.penalties import Term, fisher, l1, l2, labelled
from jaxtl.selection import curvature, logistic_criteria, logistic_path, net_criteria, ridge_path
from jaxtl.step import Fixed

RULES = [("first/.*", "transferred"), ("second/.*", "new")]


def linear(params, model_state, batch, ctx):
    return {"head": batch["x"] @ params["kernel"] + params["bias"][None]}, model_state


def mlp(params, model_state, batch, ctx):
    features = jnp.tanh(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"][None])
    return {"head": features @ params["second"]["kernel"] + params["second"]["bias"][None]}, model_state


def kernel_penalty(rate, weights=None):
    """λ on the kernel, per feature where weights are given; the bias is free."""
    labels = {"kernel": "new", "bias": "free"}
    if weights is None:
        return labelled(labels, {"new": Term(rate, l2, ("anchor",))})
    importance = {"kernel": jnp.asarray(weights, jnp.float32)[:, None], "bias": jnp.zeros(1)}
    penalty = labelled(labels, {"new": Term(rate, fisher, ("anchor", "importance"))})
    return penalty, importance


# ---------------------------------------------------------------- where the net is linear


@pytest.mark.parametrize(("n", "features"), [(40, 6), (12, 30)])
def test_squared_error_of_a_linear_net_is_the_ridge_path(n, features):
    rng = np.random.default_rng(0)
    x, start, weights = rng.normal(1, 1, (n, features)), rng.normal(size=features), rng.uniform(0.2, 5, features)
    y = x @ rng.normal(size=features) + rng.normal(size=n)
    lams = [1.0, 0.01]
    path = ridge_path(x, y, lams, start, penalty_weights=weights)
    penalty, importance = kernel_penalty(0.0, weights)
    anchor = {"kernel": start[:, None].astype(np.float32), "bias": np.full(1, 7, np.float32)}
    batch = {"x": x.astype(np.float32), "label": y.astype(np.float32)}
    for i, lam in enumerate(lams):
        params = {"kernel": jnp.asarray(path.coef[i], jnp.float32), "bias": jnp.asarray(path.intercept[i], jnp.float32)}
        fixed = Fixed({"penalty/new": lam}, {"anchor": anchor, "importance": importance})
        found = net_criteria(linear, params, batch, penalty, fixed, loss=squared_error)
        np.testing.assert_allclose(found.df, path.df[i], rtol=1e-5)
        for name in ("aic", "aicc", "bic", "log_evidence"):
            np.testing.assert_allclose(getattr(found, name), getattr(path, name)[i], rtol=1e-3, atol=1e-2)


def test_every_target_of_a_linear_net_has_the_degrees_of_freedom_of_one():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    fixed = Fixed({}, {"anchor": params})
    batch = {"x": x.astype(np.float32), "label": y.astype(np.float32)}
    found = net_criteria(linear, params, batch, kernel_penalty(0.1), fixed, loss=squared_error)
    np.testing.assert_allclose(found.df, 3 * ridge_path(x, y, [0.1]).df[0], rtol=1e-6)


@pytest.mark.parametrize(("n", "features"), [(60, 5), (12, 30)])
def test_cross_entropy_of_a_linear_net_is_the_logistic_path(n, features):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(1, 1, (n, features)), np.arange(n) % 3
    lams = [0.3, 1e-3]
    path = logistic_path(x, labels, lams, 2)
    wanted = logistic_criteria(x, labels, lams, path)
    for i, lam in enumerate(lams):
        params = {"kernel": jnp.asarray(path.coef[i], jnp.float32), "bias": jnp.asarray(path.intercept[i], jnp.float32)}
        batch = {"x": x.astype(np.float32), "label": labels}
        found = net_criteria(linear, params, batch, kernel_penalty(lam), Fixed({}, {"anchor": params}))
        for name in ("df", "aic", "bic"):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name)[i], rtol=2e-5)


# ---------------------------------------------------------------- a net of two layers against dense matrices


def small(n=14, width=4, classes=3, inputs=5, seed=0):
    rng = np.random.default_rng(seed)
    first = {"kernel": rng.normal(size=(inputs, width)), "bias": rng.normal(size=width)}
    second = {"kernel": rng.normal(size=(width, classes)), "bias": rng.normal(size=classes)}
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), {"first": first, "second": second})
    batch = {"x": rng.normal(size=(n, inputs)).astype(np.float32), "label": np.arange(n) % classes}
    return params, batch


def dense(params, batch, squared=False):
    """The summed Gauss–Newton matrix in float64, parameters in the order of the leaves, and the logits."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(batch["x"], np.float64)
    features = np.tanh(x @ p["first"]["kernel"] + p["first"]["bias"])
    logits = features @ p["second"]["kernel"] + p["second"]["bias"]
    classes, total = logits.shape[1], 0.0
    for row, f, z in zip(x, features, logits, strict=True):
        to_hidden = p["second"]["kernel"].T * (1 - f**2)  # [C, width]
        blocks = [
            to_hidden,
            np.einsum("i,cw->ciw", row, to_hidden).reshape(classes, -1),
            np.eye(classes),
            np.einsum("w,cd->cwd", f, np.eye(classes)).reshape(classes, -1),
        ]  # first/bias, first/kernel, second/bias, second/kernel
        jacobian = np.concatenate(blocks, axis=1)
        chances = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        curved = np.eye(classes) if squared else np.diag(chances) - np.outer(chances, chances)
        total = total + jacobian.T @ curved @ jacobian
    return total, logits


def spread(params, rates):
    """{path: rate} as one number per parameter, in the order of the leaves."""
    return np.concatenate([np.full(params[a][b].size, rates[f"{a}/{b}"]) for a in params for b in ("bias", "kernel")])


@functools.cache
def pulls(on=None):
    """The penalty of two labels; their rates come from `two_labels`, so that all tests share its programs."""
    terms = {"transferred": Term(0.0, l2, ("anchor",), on), "new": Term(0.0, l2, (), on)}
    return labelled(label_params(small()[0], RULES), terms)


def two_labels(transferred, new, anchor):
    return Fixed({"penalty/transferred": transferred, "penalty/new": new}, {"anchor": anchor})


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("n", [6, 60])
def test_two_labels_at_rates_of_their_own_against_dense_matrices(n, squared):
    params, batch = small(n)
    anchor = small(seed=1)[0]
    if squared:
        batch["label"] = np.random.default_rng(2).normal(size=(n, 3)).astype(np.float32)
    hessian, logits = dense(params, batch, squared)
    loss = squared_error if squared else softmax_cross_entropy
    found = net_criteria(mlp, params, batch, pulls(everything), two_labels(0.02, 0.3, anchor), loss=loss)

    rates = {"first/bias": 0.02, "first/kernel": 0.02, "second/bias": 0.3, "second/kernel": 0.3}
    delta = n * spread(params, rates)
    df = np.trace(np.linalg.solve(hessian + np.diag(delta), hessian))
    determinant = np.linalg.slogdet(np.eye(len(delta)) + hessian / delta)[1]
    away = [jax.tree.map(np.subtract, params["first"], anchor["first"]), params["second"]]
    paid = 0.5 * delta @ np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(away)]) ** 2
    if squared:
        rss = np.square(logits - batch["label"]).sum()
        twice, count = 3 * n * np.log(rss / (3 * n)), 3 * n
        evidence = -0.5 * (count * (np.log(2 * np.pi * (rss + 2 * paid) / count) + 1) + determinant)
    else:
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        twice, count = -2 * np.log(chances[np.arange(n), batch["label"]]).sum(), 2 * n
        evidence = -0.5 * twice - paid - 0.5 * determinant
    correction = 2 * df * (df + 1) / (count - df - 1) if count > df + 1 else np.inf
    wanted = (df, 0.0, twice + 2 * df, twice + 2 * df + correction, twice + np.log(n) * df, evidence, 0.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("n", [6, 60])
def test_parameters_without_a_rate_against_dense_matrices(n):
    params, batch = small(n)
    hessian, logits = dense(params, batch)
    found = net_criteria(mlp, params, batch, labelled(label_params(params, RULES), {"new": Term(0.05, l2)}))
    delta = n * spread(params, {"first/bias": 0.0, "first/kernel": 0.0, "second/bias": 0.0, "second/kernel": 0.05})
    df = np.trace(np.linalg.pinv(hessian + np.diag(delta), rcond=1e-10, hermitian=True) @ hessian)
    np.testing.assert_allclose(found.df, df, rtol=1e-4)

    free = delta == 0  # their own part of log det(H + Δ) is left out
    within = hessian[np.ix_(free, free)]
    paying = hessian[np.ix_(~free, ~free)]
    crossed = hessian[np.ix_(~free, free)]
    left = paying - crossed @ np.linalg.pinv(within, rcond=1e-10, hermitian=True) @ crossed.T
    determinant = np.linalg.slogdet(np.eye(len(left)) + left / delta[~free])[1]
    paid = 0.5 * n * 0.05 * np.square(params["second"]["kernel"]).sum()
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    fit = np.log(chances[np.arange(n), batch["label"]]).sum()
    np.testing.assert_allclose(found.log_evidence, fit - paid - 0.5 * determinant, rtol=1e-4)


def test_several_pulls_and_importance_add_up():
    params, batch = small()
    importance = jax.tree.map(lambda leaf: np.abs(np.sin(np.arange(leaf.size))).reshape(leaf.shape), params)
    importance = jax.tree.map(lambda leaf: 100 * leaf.astype(np.float32), importance)  # the first bias of each is free
    both = {"zero": Term(0.1, l2), "source": Term(0.2, fisher, ("anchor", "importance"))}
    penalty = labelled(label_params(params, [(".*", "new")]), {"new": both})
    found = net_criteria(mlp, params, batch, penalty, Fixed({}, {"anchor": params, "importance": importance}))
    hessian, _ = dense(params, batch)
    rates = {"first/bias": 0.0, "first/kernel": 0.1, "second/bias": 0.0, "second/kernel": 0.1}
    weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(importance)])
    delta = 14 * (spread(params, rates) + 0.2 * weights)
    df = np.trace(np.linalg.pinv(hessian + np.diag(delta), rcond=1e-12, hermitian=True) @ hessian)
    np.testing.assert_allclose(found.df, df, rtol=1e-4)
    estimate = net_criteria(
        mlp, params, batch, penalty, Fixed({}, {"anchor": params, "importance": importance}), probes=16
    )
    assert abs(estimate.df - df) < 4 * estimate.df_error


def test_degrees_of_freedom_run_from_none_to_the_rank():
    params, batch = small(n=8)
    rank = np.linalg.matrix_rank(dense(params, batch)[0], tol=1e-8)
    assert rank == 16  # 8 examples of 2 free probabilities
    found = [
        net_criteria(mlp, params, batch, pulls(everything), two_labels(rate, rate, params)).df
        for rate in (1e8, 1.0, 1e-2, 1e-4, 1e-9, 0.0)
    ]
    assert found[0] < 1e-5
    assert sorted(found) == found
    np.testing.assert_allclose(found[-2:], rank, rtol=1e-3)
    assert found[-1] == rank
    firm = net_criteria(mlp, params, batch, pulls(everything), two_labels(1e9, 0.0, params)).df
    free = dense(params, batch)[0][-15:, -15:]  # the second layer alone
    np.testing.assert_allclose(firm, np.linalg.matrix_rank(free, tol=1e-8), rtol=1e-6)


def test_frozen_trunk_leaves_the_last_layer():
    params, batch = small(n=40)
    frozen = {"first": {"kernel": True, "bias": True}, "second": {"kernel": False, "bias": False}}
    fixed = two_labels(5.0, 0.01, jax.tree.map(np.zeros_like, params))
    found = net_criteria(mlp, params, batch, pulls(), fixed, frozen=frozen)
    turned = OrderedDict((layer, OrderedDict(reversed(frozen[layer].items()))) for layer in ("second", "first"))
    assert net_criteria(mlp, params, batch, pulls(), fixed, frozen=turned) == found
    features = np.tanh(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"])
    head = labelled({"kernel": "new", "bias": "new"}, {"new": Term(0.01, l2)})
    alone = net_criteria(linear, params["second"], {"x": features, "label": batch["label"]}, head)
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    hessian = dense(params, batch)[0][-15:, -15:]
    delta = 40 * np.r_[np.zeros(3), np.full(12, 0.01)]
    df = np.trace(np.linalg.pinv(hessian + np.diag(delta), rcond=1e-12, hermitian=True) @ hessian)
    np.testing.assert_allclose(found.df, df, rtol=1e-5)


def test_rows_are_folded_and_taken_in_parts(monkeypatch):
    params, batch = small(n=301)
    hessian, _ = dense(params, batch)
    rates = {"first/bias": 0.02, "first/kernel": 0.02, "second/bias": 0.0, "second/kernel": 0.003}
    delta = 301 * spread(params, rates)
    df = np.trace(np.linalg.pinv(hessian + np.diag(delta), rcond=1e-12, hermitian=True) @ hessian)
    monkeypatch.setattr(curvature, "CHUNK", 2000)
    found = net_criteria(mlp, params, batch, pulls(), two_labels(0.02, 0.003, params))
    np.testing.assert_allclose(found.df, df, rtol=1e-4)


# ---------------------------------------------------------------- estimates


@pytest.mark.parametrize("on", [None, everything])
@pytest.mark.parametrize("rate", [1.0, 1e-2, 1e-5])
def test_probes_are_within_their_standard_error(rate, on, monkeypatch):
    params, batch = small(n=40, width=12, inputs=20)
    monkeypatch.setattr(curvature, "EXAMPLES", 16)
    fixed = two_labels(rate, 3 * rate, params)
    exact = net_criteria(mlp, params, batch, pulls(on), fixed)
    found = net_criteria(mlp, params, batch, pulls(on), fixed, probes=24)
    assert abs(found.df - exact.df) < 4 * found.df_error
    assert abs(found.log_evidence - exact.log_evidence) < 4 * found.log_evidence_error
    assert found.df_error < 0.1 * exact.df
    np.testing.assert_allclose(found.aic - exact.aic, 2 * (found.df - exact.df), rtol=1e-9)


def test_standard_error_is_the_spread_between_seeds():
    params, batch = small(n=30, width=6)
    penalty, fixed = pulls(everything), two_labels(0.01, 0.01, params)
    found = [net_criteria(mlp, params, batch, penalty, fixed, probes=8, seed=seed) for seed in range(12)]
    assert len({c.df for c in found}) == 12
    spread_of_df = np.std([c.df for c in found], ddof=1)
    assert 0.5 < spread_of_df / np.mean([c.df_error for c in found]) < 2
    spread_of_evidence = np.std([c.log_evidence for c in found], ddof=1)
    assert 0.5 < spread_of_evidence / np.mean([c.log_evidence_error for c in found]) < 2


@pytest.mark.parametrize("logits", [[0.0, 0.0], [1.0, -2.0, 0.5, 3.0], [-30.0, 40.0, 0.0], [0.0, 25.0, 25.0]])
def test_root_of_the_softmax(logits):
    chances = np.exp(np.array(logits) - max(logits))
    chances /= chances.sum()
    root = np.asarray(jax.jit(curvature.softmax_root)(jnp.array(logits)), np.float64)
    others = np.array([np.delete(chances, i).sum() for i in range(len(chances))])  # 1 − p, when p is nearly 1
    wanted = np.diag(chances * others) - np.outer(chances, chances) * (1 - np.eye(len(chances)))
    np.testing.assert_allclose(root @ root.T, wanted, rtol=1e-4, atol=1e-25)


def test_one_program_serves_all_nets():
    traced = []

    def forward(params, model_state, batch, ctx):
        traced.append(1)
        return mlp(params, model_state, batch, ctx)

    params, batch = small()
    first = net_criteria(forward, params, batch, pulls(), two_labels(0.1, 0.2, params))
    before = len(traced)
    second = net_criteria(forward, small(seed=3)[0], batch, pulls(), two_labels(0.3, 0.01, params))
    assert first.df != second.df
    assert len(traced) - before <= 1  # shapes are asked for once more


# ---------------------------------------------------------------- mistakes

PARAMS, BATCH = small()
GIVEN = {"anchor": PARAMS}
RATES = {"penalty/transferred": 0.1, "penalty/new": 0.2}
MIXED = {"mostly": Term(1.0, l2), "a little": Term(1e-3, l1)}
HELD = jax.tree.map(lambda _: True, PARAMS)


def with_nan(tree):
    return jax.tree.map(lambda leaf: np.where(leaf == leaf.max(), np.nan, leaf).astype(leaf.dtype), tree)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch": {**BATCH, "label": BATCH["label"][1:]}}, "lengths"),
        ({"batch": {"x": BATCH["x"][:0], "label": BATCH["label"][:0]}}, "at least one"),
        ({"batch": {**BATCH, "label": BATCH["label"] - 1}}, "labels -1..1 for 3 classes"),
        ({"batch": {**BATCH, "label": BATCH["label"] + 1}}, "labels 1..3 for 3 classes"),
        ({"batch": {**BATCH, "label": BATCH["label"] * 1.0}}, "labels float64"),
        ({"batch": {**BATCH, "x": with_nan(BATCH["x"])}}, "batch.*'x'.*not finite"),
        ({"batch": {**BATCH, "mask": np.ones(14)}}, "mask"),
        ({"batch": BATCH["x"]}, "no field 'label'"),
        ({"target": "y"}, "no field 'y'"),
        ({"params": with_nan(PARAMS)}, "params.*'first/bias'.*not finite"),
        ({"fixed": two_labels(0.1, -0.1, PARAMS)}, "negative"),
        ({"fixed": two_labels(0.1, np.nan, PARAMS)}, "not finite"),
        ({"penalty": labelled(label_params(PARAMS, RULES), {"new": Term(0.1, l1)}), "fixed": None}, "use l2"),
        ({"penalty": labelled(label_params(PARAMS, RULES), {"new": MIXED}), "fixed": None}, "use l2"),
        ({"penalty": lambda params, ctx: (jnp.sum(params["first"]["bias"]) ** 2, {}), "fixed": None}, "use l2"),
        ({"fixed": Fixed({"penalty/old": 0.1}, GIVEN)}, "penalty/old"),
        ({"fixed": Fixed({"decay/new": 0.1}, GIVEN)}, "acts in the optimizer"),
        ({"loss": sigmoid_binary_cross_entropy}, "sigmoid_binary_cross_entropy"),
        ({"loss": squared_error}, "targets int64"),
        ({"frozen": HELD}, "all parameters are frozen"),
        ({"frozen": {"first": True}}, "frozen"),
        ({"probes": 1}, "needs 2"),
        ({"probes": -2}, "needs 2"),
    ],
)
def test_bad_input_is_named_in_two_lines(change, named):
    good = {"forward": mlp, "params": PARAMS, "batch": BATCH, "penalty": pulls(), "fixed": Fixed(RATES, GIVEN)}
    with pytest.raises(InputError, match=named) as caught:
        net_criteria(**{**good, **change})
    assert len(str(caught.value).splitlines()) <= 2


def test_what_does_not_fit_memory_says_what_does(monkeypatch):
    fixed = Fixed(RATES, GIVEN)
    monkeypatch.setattr(curvature, "LARGEST_ROWS", 50)
    with pytest.raises(InputError, match="probes=16"):
        net_criteria(mlp, PARAMS, BATCH, pulls(), fixed)
    with pytest.raises(InputError, match="without a rate"):
        net_criteria(mlp, PARAMS, BATCH, pulls(), fixed, probes=4)
    assert 0 < net_criteria(mlp, PARAMS, BATCH, pulls(everything), fixed, probes=4).df < 28


def test_rates_of_learning_and_decay_of_nothing_do_not_disturb():
    bare = net_criteria(mlp, PARAMS, BATCH, pulls(), Fixed(RATES, GIVEN))
    more = Fixed({**RATES, "learning_rate/new": 0.1, "decay/new": 0.0}, GIVEN)
    assert net_criteria(mlp, PARAMS, BATCH, pulls(), more) == bare


def test_outputs_that_diverged_are_named():
    def forward(params, model_state, batch, ctx):
        return {"head": jnp.inf * mlp(params, model_state, batch, ctx)[0]["head"]}, model_state

    with pytest.raises(InputError, match="output 'head' is not finite"):
        net_criteria(forward, PARAMS, BATCH, pulls(), Fixed(RATES, GIVEN))


def test_nothing_depends_on_double_precision_being_on():
    for probes in (0, 4):
        off = net_criteria(mlp, PARAMS, BATCH, pulls(), Fixed(RATES, GIVEN), probes=probes)
        with jax.enable_x64(True):
            on = net_criteria(mlp, PARAMS, BATCH, pulls(), Fixed(RATES, GIVEN), probes=probes)
        np.testing.assert_allclose(on, off, rtol=1e-5)
    targets = {**BATCH, "label": np.ones((14, 3), np.float32)}
    with jax.enable_x64(True):
        assert net_criteria(mlp, PARAMS, targets, pulls(), Fixed(RATES, GIVEN), loss=squared_error).df > 3


@pytest.mark.parametrize(("probes", "on"), [(0, everything), (4, everything), (4, None)])
def test_gradients_that_are_not_finite_are_named(probes, on):
    def forward(params, model_state, batch, ctx):
        logits = mlp(params, model_state, batch, ctx)[0]["head"]
        return {"head": logits * (1 + jnp.sqrt(params["second"]["bias"][0]))}, model_state

    params = {**PARAMS, "second": {**PARAMS["second"], "bias": np.zeros(3, np.float32)}}
    with pytest.raises(InputError, match="gradients"):
        net_criteria(forward, params, BATCH, pulls(on), Fixed(RATES, GIVEN), probes=probes)
