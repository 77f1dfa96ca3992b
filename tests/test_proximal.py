"""Proximal operators against their definition; proximal steps against scikit-learn, KKT conditions and closed form."""

import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import LABELS, assert_close, minus, network, train, wave
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso

from jaxtl import penalties
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, everything, kernels
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, squared_error
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, labelled
from jaxtl.proximal import (
    Ball,
    Prox,
    count_zeros,
    project,
    project_units,
    prox_elastic_net,
    prox_group_lasso,
    prox_l1,
)
from jaxtl.step import Fixed, init_state, make_train_step, program_of, total_gradient

HALF = {"l1_ratio": 0.5}
PAIRS = {
    "l1": (prox_l1, penalties.l1),
    "elastic_net": (functools.partial(prox_elastic_net, **HALF), functools.partial(penalties.elastic_net, **HALF)),
    "group_lasso": (prox_group_lasso, penalties.group_lasso),
}
LABEL = {"kernel": NEW}


# --- the operators ---


@pytest.mark.parametrize("towards", ["zero", "anchor"])
@pytest.mark.parametrize("name", PAIRS)
def test_an_operator_minimises_half_the_squared_distance_plus_its_own_penalty(name, towards):
    prox, penalty = PAIRS[name]
    point = {"kernel": wave(0.9, 3, 4, scale=2.0), "bias": wave(0.4, 5)}
    given = () if towards == "zero" else ({"kernel": wave(0.3, 3, 4), "bias": wave(0.2, 5)},)
    flat, restore = jax.flatten_util.ravel_pytree(point)

    def objective(values):
        return 0.5 * jnp.sum((values - flat) ** 2) + 0.7 * penalty(restore(values), *given)

    with jax.enable_x64(True):
        start = np.asarray(flat, np.float64) + 1e-3
        found = minimize(jax.jit(objective), start, method="Powell", options={"xtol": 1e-9, "ftol": 1e-14})
    ours = jax.flatten_util.ravel_pytree(prox(point, 0.7, *given))[0]
    assert float(objective(ours)) <= found.fun + 1e-5
    np.testing.assert_allclose(ours, found.x, atol=3e-3)
    assert np.any(ours != flat)


def test_operators_act_alike_under_jit_and_vmap_and_in_bfloat16():
    point, amounts = {"kernel": wave(0.9, 3, 4, scale=2.0)}, jnp.array([0.0, 0.3, 5.0])
    for prox, _ in PAIRS.values():
        together = jax.jit(jax.vmap(prox, (None, 0)))(point, amounts)["kernel"]
        for k, amount in enumerate(amounts):
            np.testing.assert_allclose(together[k], prox(point, amount)["kernel"], rtol=1e-6)
        assert_close(prox(point, 0.0), point, 1e-7)
        assert not np.any(prox(point, 5.0)["kernel"])
        small = jax.tree.map(lambda w: w.astype(jnp.bfloat16), point)
        assert prox(small, 0.3)["kernel"].dtype == jnp.bfloat16


def test_nan_is_not_taken_for_a_zero():
    point = {"kernel": jnp.array([[jnp.nan, 1.0], [0.1, 0.1]])}
    for prox in (*(prox for prox, _ in PAIRS.values()), project):
        assert np.isnan(prox(point, 10.0)["kernel"][0, 0])


def test_a_ball_of_units_bounds_each_of_them_in_training():
    anchor, ball = network(), Ball(0.02, ("anchor",), kernels, project_units)
    tx = per_label(LABELS, {TRANSFERRED: Group(0.5, proximal=ball), NEW: Group(0.5)}, "adam")
    moved = minus(train(tx, anchor, 5, fixed=Fixed(given={"anchor": anchor}))["trunk"], anchor["trunk"])
    norms = np.abs(moved["kernel"]).sum(axis=0)
    assert norms.max() == pytest.approx(0.02, rel=1e-3)
    assert np.abs(moved["bias"]).max() > 0.1, "vectors are free"


def test_a_projection_is_the_nearest_point_of_the_ball():
    point, centre = network(), network(0.5)
    distance = float(jnp.sqrt(2 * penalties.l2(point, centre)))
    ended = project(point, 0.25 * distance, centre)
    assert_close(ended, jax.tree.map(lambda w, a: a + 0.25 * (w - a), point, centre), 1e-6)
    assert_close(project(point, 1.01 * distance, centre), point, 1e-6)
    jax.tree.map(np.testing.assert_array_equal, project(point, 0.0, centre), centre)


def test_a_bound_on_units_is_the_published_one_along_the_axis_of_outputs():
    start = np.sin(np.arange(6.0)).reshape(3, 2)
    moved = start + 0.3 * np.cos(np.arange(6.0) ** 2).reshape(3, 2)
    with jax.enable_x64(True):
        params, anchor = {"kernel": jnp.asarray(moved)}, {"kernel": jnp.asarray(start)}
        ended = np.asarray(project_units(params, 0.5, anchor)["kernel"])
        assert_close(project_units(params, 0.8, anchor), params, 1e-12)
    published = (0.191475, 0.952069, 0.784141, -0.045386, -0.940171, -0.756028)
    np.testing.assert_allclose(np.ravel(ended), published, atol=6e-7)
    np.testing.assert_allclose(np.abs(moved - start).sum(axis=0), (0.783391, 0.732791), atol=6e-7)
    np.testing.assert_allclose(np.abs(ended - start).sum(axis=0), 0.5, rtol=1e-9)
    jax.tree.map(np.testing.assert_array_equal, project_units(network(), 0.0, network(0.5)), network(0.5))


def test_a_bound_on_units_reads_kernels_of_any_axes_and_every_entry_of_a_vector():
    kernel = {"kernel": wave(0.3, 3, 3, 2, 4)}
    ended = project_units(kernel, 1.5)["kernel"]
    np.testing.assert_allclose(np.abs(ended).sum(axis=(0, 1, 2)), 1.5, rtol=1e-6)
    assert project_units({"bias": jnp.array([3.0, -0.5])}, 1.0)["bias"].tolist() == [1.0, -0.5]


# --- in training ---


@pytest.fixture(scope="module")
def diabetes():
    x, y = load_diabetes(return_X_y=True)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    return x, y


def linear(params, model_state, batch, ctx):
    return {"head": sum(batch["x"][name] @ kernel for name, kernel in params["kernel"].items())}, model_state


LINEAR = make_loss_fn(linear, {"task": Term(1.0, mean_of(squared_error, target="y"))})


def descend(x, y, groups, proximal, steps=6000, schedule=None, rates=None):
    """The coefficients of a linear model, a leaf for each list of columns, by the step every experiment takes."""
    names = [f"{i:02d}" for i in range(len(groups))]
    blocks = {name: x[:, columns] for name, columns in zip(names, groups, strict=True)}
    data = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), {"x": blocks, "y": y[:, None]})
    params = {"kernel": {name: jnp.zeros((block.shape[1], 1)) for name, block in blocks.items()}}
    labels = jax.tree.map(lambda _: NEW, params)
    learning_rate = 0.99 / np.linalg.eigvalsh(x.T @ x / len(x))[-1]
    tx = per_label(labels, {NEW: Group(learning_rate, proximal=proximal)}, schedule=schedule)
    step = make_train_step(total_gradient(LINEAR), tx)
    state = init_state(params, tx, jax.random.key(0))
    state, _ = fit(step, state, data, Fixed(rates or {}), steps=steps, chunk=steps)
    return np.concatenate([np.asarray(state.params["kernel"][name])[:, 0] for name in names])


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("name", ["l1", "elastic_net"])
def test_coefficients_and_zeros_are_those_of_scikit_learn(diabetes, name, rate):
    x, y = diabetes
    fitted = Lasso(alpha=rate, fit_intercept=False, tol=1e-12, max_iter=100_000)
    if name == "elastic_net":
        fitted = ElasticNet(alpha=rate, **HALF, fit_intercept=False, tol=1e-12, max_iter=100_000)
    theirs = fitted.fit(x, y).coef_
    ours = descend(x, y, [list(range(10))], Prox(rate, PAIRS[name][0], on=everything))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    np.testing.assert_array_equal(ours == 0, theirs == 0)
    assert np.any(theirs == 0)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3])
def test_group_lasso_ends_where_no_direction_improves_it(diabetes, rate):
    x, y = diabetes
    groups = [[0, 1], [2, 3], [4, 5, 6, 7, 8], [9]]
    coefficients = descend(x, y, groups, Prox(rate, prox_group_lasso, on=everything))
    slope = x.T @ (y - x @ coefficients) / len(x)
    gone = 0
    for group in groups:
        w, price = coefficients[group], rate * np.sqrt(len(group))
        if np.any(w):
            np.testing.assert_allclose(slope[group], price * w / np.linalg.norm(w), atol=2e-5)
        else:
            assert np.linalg.norm(slope[group]) <= price + 2e-5
            gone += 1
    assert 0 < gone < len(groups)


def test_an_orthogonal_design_has_the_closed_form():
    x = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 6)))[0] * np.sqrt(40)
    y = x @ np.array([2.0, -1.0, 0.5, 0.2, -0.1, 0.0]) + 0.3
    least_squares = x.T @ y / 40
    ours = descend(x, y, [list(range(6))], Prox(0.4, prox_l1, on=everything), steps=200)
    expected = np.sign(least_squares) * np.maximum(np.abs(least_squares) - 0.4, 0)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_array_equal(ours == 0, expected == 0)


def test_the_step_size_is_that_of_the_schedule_and_of_the_rates(diabetes):
    x, y = diabetes
    fixed = functools.partial(descend, x, y, [list(range(10))], Prox(7.0, prox_l1, on=everything))
    constant = fixed(rates={"penalty/new": 0.1})
    halved = fixed(rates={"penalty/new": 0.1}, schedule=lambda step: jnp.where(step < 100, 1.0, 0.5), steps=12_000)
    slower = fixed(rates={"penalty/new": 0.1, "learning_rate/new": 0.05}, steps=18_000)
    np.testing.assert_allclose(halved, constant, atol=2e-5)
    np.testing.assert_allclose(slower, constant, atol=2e-5)
    assert 0 < np.sum(constant == 0) < 10


def test_another_price_is_not_another_program():
    labels = jax.tree.map(lambda _: NEW, {"kernel": {"00": 0}})
    tx = per_label(labels, {NEW: Group(0.1, proximal=Prox(0.0, prox_l1, on=everything))})
    step = make_train_step(total_gradient(LINEAR), tx)
    data = {"x": {"00": wave(0.7, 8, 3)}, "y": wave(0.3, 8, 1)}
    remaining = []
    for price in (0.0, 0.05, 5.0):
        state = init_state({"kernel": {"00": jnp.ones((3, 1))}}, tx, jax.random.key(0))
        state, _ = fit(step, state, data, Fixed({"penalty/new": price}), steps=60)
        remaining.append(float(penalties.l1(state.params)))
    assert remaining[0] > remaining[1] > remaining[2] == 0
    assert program_of(step, 1)._cache_size() == 1


def test_subgradient_steps_leave_no_zeros_and_proximal_steps_do(diabetes):
    x, y = diabetes
    data = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y[:, None], jnp.float32)}

    def forward(params, model_state, batch, ctx):
        return {"head": batch["x"] @ params["kernel"]}, model_state

    def ended(penalty, proximal):
        loss_fn = make_loss_fn(forward, {"task": Term(1.0, mean_of(squared_error, target="y"))}, penalty)
        tx = per_label(LABEL, {NEW: Group(0.2, proximal=proximal)})
        return count_zeros(train(tx, {"kernel": jnp.zeros((10, 1))}, 3000, loss_fn=loss_fn, data=data), LABEL)[NEW]

    assert int(ended(labelled(LABEL, {NEW: Term(0.1, penalties.l1)}), None).weights) == 0
    proximal = ended(None, Prox(0.1, prox_l1))
    assert (int(proximal.weights), proximal.of_weights, int(proximal.groups), proximal.of_groups) == (6, 10, 0, 1)


def shrunk(by, optimizer="sgd", momentum=0.0, steps=30, given=None):
    """What remains of a network trained with a proximal step on its transferred part only."""
    params = network()
    tx = per_label(LABELS, {TRANSFERRED: Group(0.1, proximal=by), NEW: Group(0.1)}, optimizer, momentum=momentum)
    return train(tx, params, steps, fixed=Fixed(given=given or {}))


def test_only_the_kernels_of_its_label_go_to_zero():
    ended = shrunk(Prox(50.0, prox_l1))
    assert not np.any(ended["trunk"]["kernel"])
    assert np.all(ended["trunk"]["bias"])
    assert np.all(ended["head"]["kernel"])


@pytest.mark.parametrize("prox", [prox_l1, prox_group_lasso])
def test_towards_an_anchor_every_leaf_of_the_label_ends_on_it(prox):
    anchor = network(0.5)
    ended = shrunk(Prox(50.0, prox, ("anchor",)), given={"anchor": anchor})
    jax.tree.map(np.testing.assert_array_equal, ended["trunk"], anchor["trunk"])
    assert not np.any(ended["head"]["kernel"] == anchor["head"]["kernel"])
    assert count_zeros(ended, LABELS, anchor)[TRANSFERRED].weights == 20


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("adam", 0.0)])
def test_a_ball_holds_whatever_the_optimizer(optimizer, momentum):
    anchor = network()
    held, free = (shrunk(Ball(r, ("anchor",)), optimizer, momentum, given={"anchor": anchor}) for r in (0.2, 1e9))
    distances = [float(jnp.sqrt(2 * penalties.l2(minus(p, anchor)["trunk"]))) for p in (held, free)]
    assert distances[0] == pytest.approx(0.2, rel=1e-5)
    assert distances[1] > 0.3


def test_trees_of_another_kind_are_met_by_path():
    point, anchor = {"a": wave(0.9, 3, 4), "b": wave(0.4, 3, 4)}, {"a": wave(0.3, 3, 4), "b": wave(0.2, 3, 4)}
    other = OrderedDict(b=anchor["b"], a=anchor["a"])
    for operator in (*(prox for prox, _ in PAIRS.values()), project):
        assert_close(operator(point, 0.2, other), operator(point, 0.2, anchor))
    labels = OrderedDict(b="y", a="x")
    counts = count_zeros({"a": jnp.zeros((2, 3)), "b": jnp.ones((2, 2))}, labels)
    assert (int(counts["x"].weights), int(counts["y"].weights)) == (6, 0)


def test_zeros_are_counted_by_label_in_weights_and_groups():
    params = jax.tree.map(jnp.zeros_like, network())
    params["head"]["kernel"] = params["head"]["kernel"].at[0, 0].set(1.0)
    counts = count_zeros(params, LABELS)
    assert counts[TRANSFERRED] == (20, 20, 5, 5)
    assert counts[NEW] == (14, 15, 2, 3)


# --- refused ---


@pytest.mark.parametrize(("optimizer", "momentum"), [("adam", 0.0), ("sgd", 0.9), (optax.scale_by_lion, 0.0)])
def test_a_price_with_an_optimizer_it_is_not_exact_for_is_refused(optimizer, momentum):
    with pytest.raises(InputError, match="exact for plain SGD only"):
        per_label(LABEL, {NEW: Group(0.1, proximal=Prox(0.1, prox_l1))}, optimizer, momentum=momentum)


def test_a_price_is_not_paid_twice_and_a_named_pull_may_stand_beside_it():
    by = Prox(0.0, prox_l1)
    for pull, refused in ((Term(0.0, penalties.l2), True), ({"ridge": Term(0.1, penalties.l2)}, False)):
        groups = {TRANSFERRED: Group(0.1, proximal=by), NEW: Group(0.1)}
        tx, penalty = per_label(LABELS, groups), labelled(LABELS, {TRANSFERRED: pull})
        if refused:
            with pytest.raises(InputError, match=r"penalty/transferred: .* paid twice"):
                train(tx, network(), 2, penalty=penalty)
        else:
            rates = {"penalty/transferred": 50.0, "penalty/transferred/ridge": 0.2}
            ended = train(tx, network(), 20, penalty=penalty, fixed=Fixed(rates))
            assert not np.any(ended["trunk"]["kernel"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prox(-1.0, prox_l1), "Prox rate: -1.0 is negative"),
        (lambda: Ball(float("nan")), "Ball radius: nan is negative or NaN"),
        (lambda: prox_elastic_net({}, 1.0, l1_ratio=1.5), "1.5 is outside"),
        (lambda: Group(frozen=True, proximal=Ball(1.0)), "a frozen group has no"),
        (lambda: Prox(0.1, "l1"), "Prox fn: 'l1' is no function"),
        (lambda: Prox(0.1, prox_l1, "anchor"), "Prox: given='anchor' is no tuple of names"),
        (lambda: Ball(1.0, on=LABEL), "Ball: on is a dict, not a function"),
        (lambda: shrunk(Prox(0.1, lambda params, amount: {})), "penalty/transferred: trunk/kernel: .* against nothing"),
        (lambda: shrunk(Ball(1.0, on=lambda p: p)), "radius/transferred: the mask has .* at head/bias"),
        (lambda: shrunk(Prox(1.0, prox_l1, ("anchor",))), r"penalty/transferred: needs given\['anchor'\]"),
        (lambda: shrunk(Ball(1.0, ("anchor",)), given={"anchor": {}}), r"given\['anchor'\]: .* against nothing"),
        (lambda: prox_l1({"w": jnp.ones(3)}, 1.0, {"w": jnp.ones(1)}), "anchor: w: "),
        (lambda: shrunk(Ball(1.0, on=lambda p: jax.tree.map(lambda _: False, p))), "radius/transferred: `on` selects"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_radius_that_nobody_reads_is_refused():
    tx = per_label(LABELS, {TRANSFERRED: Group(0.1), NEW: Group(0.1, proximal=Ball(1.0))})
    with pytest.raises(InputError, match=r"radius/transferred'\]: no group reads this rate"):
        tx.update(network(), tx.init(network()), network(), rates={"radius/transferred": 1.0})
