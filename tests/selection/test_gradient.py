"""Slopes along rates, against finite differences and closed forms."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import LABELS, TASK, batch, forward, network
from ridge_problem import (
    AT_THE_END,
    HAND_INIT,
    RIDGE_EPOCH,
    RIDGE_INIT,
    RIDGE_PENALTY,
    RIDGE_STEP,
    RIDGE_TASK,
    closed,
    closed_form,
    linear,
    ridge_data,
    ridge_score,
)

from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.losses import make_loss_fn
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.selection.gradient import hypergradient
from jaxtl.selection.implicit import linearised
from jaxtl.step import Context, Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient

# A network: every rate that a step reads, with data that are sampled inside.
PENALTY = labelled(LABELS, {TRANSFERRED: Term(0.0, l2, ("anchor",)), NEW: Term(0.0, l2)})
LOSS = make_loss_fn(forward, TASK, PENALTY)
TX = per_label(LABELS, {TRANSFERRED: Group(0.1), NEW: Group(0.1)}, momentum=0.9, schedule=lambda t: 0.9**t)
DATA, GIVEN, PARAMS = {"train": batch(), "validation": batch(30)}, {"anchor": network(0.3)}, network()
POINT = {"penalty/transferred": 0.3, "penalty/new": 0.1, "learning_rate/new": 0.08}


def noisy(data, rng, step):
    images = data["train"]["image"]
    return {**data["train"], "image": images + 0.1 * jax.random.normal(rng, images.shape)}


STEP = make_train_step(total_gradient(LOSS), TX, noisy)


def init(point):
    rates = {name: value for name, value in point.items() if name != "seed"}
    return init_state(PARAMS, TX, jax.random.key(point.get("seed", 0))), rates


def score(state, data, fixed):
    ctx = Context(state.step, state.rng, {}, fixed.given, train=False)
    return -LOSS(state.params, {}, data["validation"], ctx)[1][0]["task"]


def single_run(point, steps, seed=0):
    """The score of one run, a step at a time, by nothing but the step."""
    run, state = compiled_step(), init_state(PARAMS, TX, jax.random.key(seed))
    rates = {name: jnp.float32(value) for name, value in point.items()}
    for _ in range(steps):
        state, _ = run(state, DATA, Fixed(rates, GIVEN))
    return float(score(state, DATA, Fixed(rates, GIVEN)))


@functools.cache
def compiled_step():
    return compile_step(STEP)


@functools.cache
def differences():
    """{seed: {rate: d score / d log(rate)}} of 6 steps, by central differences."""
    h = 0.02
    return {
        seed: {
            name: (
                single_run(POINT | {name: POINT[name] * np.exp(h)}, 6, seed)
                - single_run(POINT | {name: POINT[name] * np.exp(-h)}, 6, seed)
            )
            / (2 * h)
            for name in POINT
        }
        for seed in (0, 1)
    }


SEEDS = {"seed": np.arange(2)}


@pytest.mark.parametrize(("mode", "calls", "held"), [("forward", 2, SEEDS), ("reverse", 1, {}), ("reverse", 3, SEEDS)])
def test_slopes_are_finite_differences_through_the_whole_training(mode, calls, held):
    epoch = make_epoch(jax.checkpoint(STEP) if calls > 1 else STEP, 6 // calls)
    slope = jax.jit(hypergradient(init, epoch, score, calls=calls, mode=mode))(POINT, held, DATA, GIVEN)
    seeds = range(2) if held else [0]
    np.testing.assert_allclose(slope.score, np.mean([single_run(POINT, 6, seed) for seed in seeds]), rtol=1e-5)
    for name in POINT:
        wanted = np.mean([differences()[seed][name] for seed in seeds])
        np.testing.assert_allclose(slope.gradient[name], wanted, rtol=0.02, atol=2e-5, err_msg=name)
    assert slope.states.step.tolist() == [6] * len(seeds)


def test_going_back_call_by_call_needs_less_memory():
    def bytes_of(epoch, calls):
        slope = hypergradient(RIDGE_INIT, epoch, ridge_score, calls=calls, mode="reverse")
        lowered = jax.jit(slope).lower({"all": 1.0}, {}, ridge_data(), {})
        return lowered.compile().memory_analysis().temp_size_in_bytes

    stored, again = bytes_of(make_epoch(RIDGE_STEP, 400), 1), bytes_of(make_epoch(jax.checkpoint(RIDGE_STEP), 20), 20)
    assert again < stored / 5


# Ridge, where all is known.
MODES = pytest.mark.parametrize("mode", ["forward", "reverse", AT_THE_END], ids=["forward", "reverse", "implicit"])


@MODES
@pytest.mark.parametrize(("weight", "value", "wanted"), [("old", 0.625, -0.09375), ("own", 1.125, -0.34375)])
def test_three_examples_by_hand(mode, weight, value, wanted):
    data = {"train": {"x": jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), "y": jnp.array([1.0, 2.0, 2.0])}}
    slope = hypergradient(HAND_INIT, RIDGE_EPOCH, lambda state, *_: state.params[weight]["kernel"][0], mode=mode)
    found = jax.jit(slope)({"all": 1 / 3}, {}, data, {})  # nλ = 1, where d/d log λ is d/d(nλ)
    np.testing.assert_allclose(found.score, value, rtol=1e-5)
    np.testing.assert_allclose(found.gradient["all"], wanted, rtol=1e-4)


@MODES
def test_all_modes_agree_with_the_closed_form_where_training_has_converged(mode):
    data, logs, h = ridge_data(), np.log([0.05, 0.7]), 1e-4
    found = jax.jit(hypergradient(RIDGE_INIT, RIDGE_EPOCH, ridge_score, mode=mode))(
        {TRANSFERRED: 0.05, NEW: 0.7}, {}, data, {}
    )
    for i, label in enumerate((TRANSFERRED, NEW)):
        wanted = (closed_form(logs + h * np.eye(2)[i], data) - closed_form(logs - h * np.eye(2)[i], data)) / (2 * h)
        np.testing.assert_allclose(found.gradient[label], -wanted, rtol=2e-3, err_msg=label)


def test_implicit_adds_what_the_score_itself_reads():
    def penalised(state, data, fixed):
        return ridge_score(state, data, fixed) - fixed.rates["penalty/new"] ** 2

    point = {TRANSFERRED: 0.05, NEW: 0.7}
    slopes = [
        jax.jit(hypergradient(RIDGE_INIT, RIDGE_EPOCH, scored, mode=AT_THE_END))(point, {}, ridge_data(), {}).gradient
        for scored in (penalised, ridge_score)
    ]
    np.testing.assert_allclose(slopes[0][NEW] - slopes[1][NEW], -2 * 0.7**2, rtol=1e-4)


def test_the_gauss_newton_matrix_of_a_linear_model_is_its_hessian():
    def curvature(params):
        return total_gradient(make_loss_fn(linearised(linear, params), RIDGE_TASK, RIDGE_PENALTY))

    point, slopes = {TRANSFERRED: 0.05, NEW: 0.7}, []
    for mode in (AT_THE_END, dataclasses.replace(AT_THE_END, curvature=curvature)):
        slope = hypergradient(RIDGE_INIT, closed, ridge_score, mode=mode)
        slopes.append(jax.jit(slope)(point, {}, ridge_data(), {}).gradient)
    np.testing.assert_allclose([*slopes[0].values()], [*slopes[1].values()], rtol=1e-5)
