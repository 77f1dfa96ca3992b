"""A program run to its end: many at once are what single ones are, batch statistics and all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError, NotFinite
from jaxtl.labels import label_params
from jaxtl.losses import mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, as_forward, initial_model_state, initialise
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.program import Weights, make_program
from jaxtl.sweep import run, run_all

MODEL = Classifier(Cnn((4,), normalisation="batch"), (("head", 2),))
START = Weights(initialise(MODEL, jax.random.key(0), (8, 8, 1)), initial_model_state(MODEL, (8, 8, 1)))
RNG = np.random.default_rng(0)
DATA = {"image": jnp.asarray(RNG.normal(3, 2, (16, 8, 8, 1)), jnp.float32), "label": jnp.arange(16) % 2}
RATES = [{"learning_rate/new": 0.05}, {"learning_rate/new": 0.1, "penalty/new": 0.3}]


def program():
    labels = label_params(START.params, [(".*", "new")])
    task = {"task": Term(1.0, mean_of(softmax_cross_entropy))}
    return make_program(as_forward(MODEL), labels, task, {"new": Group()}, {"new": Term(0.0, l2)})


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)


def test_a_model_with_batch_statistics_is_swept_and_ends_where_single_runs_do():
    made, key = program(), jax.random.key(1)
    swept = run_all(made, [START, START], DATA, RATES, key, steps=6)
    for one, rates in zip(swept, RATES, strict=True):
        alone = run(made, START, DATA, rates, key, steps=6)
        close(one.weights, alone.weights)
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), alone.weights.model_state, START.model_state)
        assert all(jax.tree.leaves(moved))


def test_a_curve_has_a_point_in_every_fifth_and_sees_the_whole_model():
    seen = []

    def evaluate(weights):
        seen.append(jax.tree.structure(weights) == jax.tree.structure(START))
        return {"figure": 1.0}

    ended = run(program(), START, DATA, RATES[0], jax.random.key(1), steps=10, evaluate=evaluate)
    assert [row["step"] for row in ended.curve] == [2, 4, 6, 8, 10]
    assert seen == [True] * 5
    assert ended.curve[0]["figure"] == 1.0


def test_what_diverges_is_none_in_a_sweep_and_an_error_alone():
    bad = {"learning_rate/new": 1e20}
    swept = run_all(program(), [START, START], DATA, [bad, RATES[0]], jax.random.key(1), steps=4)
    assert [one is None for one in swept] == [True, False]
    assert run_all(program(), [START, START], DATA, [bad, bad], jax.random.key(1), steps=4) == [None, None]
    with pytest.raises(NotFinite):
        run(program(), START, DATA, bad, jax.random.key(1), steps=4)


def test_starts_and_rates_come_one_for_one():
    with pytest.raises(InputError, match="1 starts and 2 rates"):
        run_all(program(), [START], DATA, RATES, jax.random.key(1), steps=4)
