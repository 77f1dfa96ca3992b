"""A search along slopes, against scipy, a whole path, and moves by hand."""

from __future__ import annotations

import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ridge_problem import (
    AT_THE_END,
    RIDGE_EPOCH,
    RIDGE_INIT,
    best_in_closed_form,
    closed,
    closed_form,
    ridge_data,
    ridge_score,
    wide,
)

from jaxtl import writers
from jaxtl.errors import InputError, Interrupted, NotFinite
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.loop import request_stop, stop_request
from jaxtl.selection import learning, ridge_path
from jaxtl.selection.gradient import Slope
from jaxtl.selection.learning import learn_rates, resilient


@pytest.mark.parametrize("off", [0.01, 100.0])
def test_one_rate_ends_where_the_path_is_best(off):
    data = ridge_data()
    (x, y), (x_new, y_new) = wide(data["train"]), wide(data["validation"])
    lams = np.geomspace(1e-3, 10, 400)
    errors = [np.mean((x_new @ coef[:, 0] - y_new) ** 2) for coef in ridge_path(x, y, lams, fit_intercept=False).coef]
    best = lams[np.argmin(errors)]
    learned = learn_rates(RIDGE_INIT, RIDGE_EPOCH, ridge_score, {"all": off * best}, data, {}, steps=40)
    np.testing.assert_allclose(learned.point["all"], best, rtol=0.03)
    np.testing.assert_allclose(-learned.scores.max(), np.min(errors), rtol=1e-5)
    assert learned.settled
    assert -learned.scores[:8].max() < 1.01 * np.min(errors)


@pytest.mark.parametrize("mode", ["auto", AT_THE_END], ids=["forward", "implicit"])
@pytest.mark.parametrize("off", [(0.01, 100.0), (100.0, 0.01), (100.0, 100.0)], ids=str)
def test_a_rate_per_label_ends_where_scipy_does(mode, off):
    error, logs = best_in_closed_form(ridge_data())
    start = dict(zip((TRANSFERRED, NEW), off * np.exp(logs), strict=True))
    learned = learn_rates(RIDGE_INIT, RIDGE_EPOCH, ridge_score, start, ridge_data(), {}, steps=40, mode=mode)
    np.testing.assert_allclose(list(learned.point.values()), np.exp(logs), rtol=0.05)
    np.testing.assert_allclose(-learned.scores.max(), error, rtol=1e-4)
    assert error < 0.99 * min(closed_form(np.full(2, log), ridge_data()) for log in np.linspace(-5, 3, 50))


def test_rows_held_are_averaged_and_their_states_come_back():
    def fold_init(point):
        state, rates = RIDGE_INIT({"all": point["all"]})
        return state._replace(model_state={"fold": point["fold"]}), rates

    def fold_score(state, data, fixed):
        return ridge_score(state, data, fixed) * (1 + state.model_state["fold"])

    start = {"all": 0.3}
    learned = learn_rates(fold_init, RIDGE_EPOCH, fold_score, start, ridge_data(), {}, steps=1, held={"fold": [0, 3]})
    np.testing.assert_allclose(-learned.scores[0], 2.5 * closed_form(np.log([0.3, 0.3]), ridge_data()), rtol=1e-4)
    assert learned.states.model_state["fold"].tolist() == [0, 3]
    assert str(learned).endswith("(run 1 of 1, not settled)")


def test_a_start_that_diverges_is_left_downwards():
    start = {"learning_rate/new": 30.0, "learning_rate/transferred": 30.0}
    learned = learn_rates(RIDGE_INIT, RIDGE_EPOCH, ridge_score, start, ridge_data(), {}, steps=6, held={"all": 0.1})
    assert learned.taken_back.tolist() == [0, 1]
    np.testing.assert_allclose(learned.points["learning_rate/new"][:3], [30, 3, 0.3], rtol=1e-5)
    assert np.isfinite(learned.scores[learned.best])
    assert "2 taken back" in str(learned)


def test_a_run_that_diverges_is_left_halfway_back():
    def leap(gradients, state, params=None):
        return jax.tree.map(lambda g: jnp.float32(2.0), gradients), state

    learned = learn_rates(
        *(RIDGE_INIT, RIDGE_EPOCH, ridge_score, {"learning_rate/new": 0.2}, ridge_data(), {}),
        steps=3,
        held={"all": 0.1, "learning_rate/transferred": 0.1},
        optimizer=optax.GradientTransformation(lambda params: (), leap),
    )
    steps = np.diff(np.log(learned.points["learning_rate/new"]))
    assert learned.taken_back.tolist() == [1]
    np.testing.assert_allclose(steps, [2.0, -1.0], rtol=1e-4)


def test_a_slope_that_lies_is_told():
    """A move that loses although the slope says to go on is halved, until it is given up."""

    def reversed_slope(state, data, fixed):
        value = ridge_score(state, data, fixed)
        return 2 * jax.lax.stop_gradient(value) - value

    start = {"all": 1.0}
    learned = learn_rates(RIDGE_INIT, closed, reversed_slope, start, ridge_data(), {}, steps=40)
    assert learned.point == start
    assert learned.taken_back.tolist() == list(range(1, 9))
    assert not learned.settled
    np.testing.assert_allclose(np.log(learned.points["all"][1:]), 0.5 ** np.arange(8), rtol=1e-4)


def test_no_move_is_farther_than_ten_times():
    learned = learn_rates(
        *(RIDGE_INIT, RIDGE_EPOCH, ridge_score, {"all": 1e-4}, ridge_data(), {}), steps=2, optimizer=optax.sgd(1e9)
    )
    np.testing.assert_allclose(learned.points["all"], [1e-4, 1e-3], rtol=1e-5)


def test_a_search_ends_on_a_plateau():
    """Where the more the better, a rate grows until the score no longer shows it."""
    data = ridge_data()
    opposite = {**data, "validation": {**data["validation"], "y": -data["validation"]["y"]}}
    learned = learn_rates(RIDGE_INIT, closed, ridge_score, {"all": 1.0}, opposite, {}, steps=60)
    assert learned.settled
    assert len(learned.scores) < 16
    assert learned.point["all"] > 1e3


def test_a_rate_for_every_column():
    """Twenty rates, back through training: better on the validation data than the best two."""
    names = [f"column/{i}" for i in range(20)]

    def start(point):
        state, _ = RIDGE_INIT({"all": 1.0})
        return state, dict(point)

    def arrive(state, data, fixed):
        x, y = data["train"]["x"], data["train"]["y"]
        pulls = jnp.diag(jnp.stack([fixed.rates[name] for name in names]))
        w = jnp.linalg.solve(x.T @ x / len(x) + pulls, x.T @ y / len(x))
        return state._replace(params={"old": {"kernel": w[:4]}, "own": {"kernel": w[4:]}}), None

    learned = learn_rates(start, arrive, ridge_score, dict.fromkeys(names, 1.0), ridge_data(), {}, steps=12)
    assert list(learned.point) == names
    assert -learned.scores.max() < best_in_closed_form(ridge_data())[0]


@pytest.mark.parametrize(("rates", "mode"), [(3, "forward"), (4, "reverse")])
def test_auto_goes_forward_for_few_rates(monkeypatch, rates, mode):
    seen = []

    def spy(*args):
        seen.append(args[-1])
        return lambda logs, data, fixed: Slope(1.0, dict.fromkeys(logs, 1.0), "state")

    monkeypatch.setattr(learning, "_program", spy)
    learn_rates(RIDGE_INIT, closed, ridge_score, {str(i): 1.0 for i in range(rates)}, {}, {}, steps=1)
    assert seen == [mode]


def test_resilient_moves():
    tx = resilient(first=1.0, grow=1.5, shrink=0.5)
    state, moves = tx.init({"a": jnp.zeros(())}), []
    for gradient in (3.0, 1e-30, -2.0, -1.0, 0.0, 5.0):
        move, state = tx.update({"a": jnp.float32(gradient)}, state)
        moves.append(float(move["a"]))
    assert moves == [-1.0, -1.5, 0.75, 1.125, 0.0, -1.125]


def test_one_program_for_all_searches():
    traces = []

    def counted(state, data, fixed):
        traces.append(1)
        return closed(state, data, fixed)

    for first in (0.1, 2.0):
        learn_rates(RIDGE_INIT, counted, ridge_score, {"all": first}, ridge_data(), {}, steps=3)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": {}}, "names nothing to learn"),
        ({"start": {"all": 0.0}}, r"start\['all'\]: 0.0 is not a positive number"),
        ({"start": {"all": [1.0, 2.0]}}, "is not a positive number"),
        ({"start": {"all": np.nan}}, "is not a positive number"),
        ({"held": {"all": 1.0}}, "both learned and held"),
        ({"held": {"fold": [0, 1], "seed": [1, 2, 3]}}, "lengths differ"),
        ({"held": {"fold": [np.inf]}}, "is no list of finite numbers"),
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"calls": 0}, "calls: 0 is less than 1"),
        ({"mode": "backward"}, "mode: unknown: 'backward'"),
        ({"score": lambda state, data, fixed: state.params["old"]["kernel"]}, r"score: has shape \(4,\)"),
        ({"score": lambda state, data, fixed: jnp.sign(ridge_score(state, data, fixed))}, "slope is exactly 0"),
        (
            {"start": {"all": 1.0, "learning_rate/new": 0.1}, "mode": AT_THE_END},
            r"start\['learning_rate/new'\]: the score does not move with it",
        ),
        ({"start": {"all": 1.0, "learning_rate/old": 0.1}}, "no group reads this rate"),
    ],
)
def test_refuses(change, message):
    call = {"init": RIDGE_INIT, "train": RIDGE_EPOCH, "score": ridge_score, "start": {"all": 1.0}, "steps": 2}
    with pytest.raises(InputError, match=message):
        learn_rates(**(call | {"data": ridge_data(), "given": {}} | change))


def test_a_stop_ends_a_search():
    request_stop(signal.SIGTERM)
    try:
        with pytest.raises(Interrupted, match="after 0 of 3 runs"):
            learn_rates(RIDGE_INIT, closed, ridge_score, {"all": 1.0}, ridge_data(), {}, steps=3)
    finally:
        stop_request.signal_number = None


def test_it_tells_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(writers, "SHORT", 0.0)
    start = {"all": 1.0}
    learned = learn_rates(RIDGE_INIT, closed, ridge_score, start, ridge_data(), {}, steps=3, progress="learning")
    told = capsys.readouterr().out
    assert told.startswith("learning: 3/3")
    assert told.endswith(f"score {learned.scores[-1]:.4g}\n")


def test_nothing_finite_is_told():
    data = ridge_data()
    broken = {**data, "validation": {**data["validation"], "y": np.full(30, np.nan, np.float32)}}
    with pytest.raises(NotFinite, match="none of 3 runs is finite"):
        learn_rates(RIDGE_INIT, closed, ridge_score, {"all": 1.0}, broken, {}, steps=3)
