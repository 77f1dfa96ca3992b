"""One step from labels, terms, penalties and groups; what is said once holds everywhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.labels import label_params
from jaxtl.losses import make_loss_fn, mean_of, squared_error
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.program import Weights, make_program
from jaxtl.proximal import Prox, prox_l1
from jaxtl.step import Fixed, default_rates, init_state, make_train_step, total_gradient

PARAMS = {"trunk": {"kernel": jnp.array([[1.0, -1.0], [0.5, 2.0]])}, "head": {"kernel": jnp.array([[1.0], [2.0]])}}
LABELS = label_params(PARAMS, [("trunk/.*", "transferred"), ("head/.*", "new")])
BATCH = {"x": jnp.array([[1.0, 2.0], [3.0, -1.0]]), "label": jnp.array([[1.0], [0.0]])}
TASK = {"task": Term(1.0, mean_of(squared_error))}
PENALTIES = {"transferred": {"zero": Term(0.1, l2), "source": Term(0.2, l2, ("anchor",))}, "new": Term(0.3, l2)}


def forward(params, model_state, batch, ctx):
    return {"head": batch["x"] @ params["trunk"]["kernel"] @ params["head"]["kernel"]}, model_state


def program(**how):
    groups = {"transferred": Group(0.01), "new": Group(0.1)}
    return make_program(forward, LABELS, TASK, groups, PENALTIES, given={"anchor": PARAMS}, **how)


def test_a_program_is_the_step_that_its_parts_make():
    made = program(momentum=0.9, clip_norm=1.0)
    loss_fn = make_loss_fn(forward, TASK, labelled(LABELS, PENALTIES))
    tx = per_label(LABELS, {"transferred": Group(0.01), "new": Group(0.1)}, momentum=0.9, clip_norm=1.0)
    by_hand = make_train_step(total_gradient(loss_fn), tx)
    key = jax.random.key(0)
    ours, theirs = made.start(Weights(PARAMS), key), init_state(PARAMS, tx, key)
    for _ in range(3):
        ours, _ = made.step(ours, BATCH, made.fixed())
        theirs, _ = by_hand(theirs, BATCH, Fixed({}, {"anchor": PARAMS}))
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def test_its_rates_are_all_that_the_step_reads_but_decays_that_nobody_gave():
    made = program()
    read = default_rates(made.step, made.start(Weights(PARAMS), jax.random.key(0)), BATCH, made.fixed())
    assert set(read) - set(made.rates) == {"decay/transferred", "decay/new", "task"}
    assert {name: made.rates[name] for name in made.rates} == {
        "learning_rate/transferred": 0.01,
        "learning_rate/new": 0.1,
        "penalty/transferred/zero": 0.1,
        "penalty/transferred/source": 0.2,
        "penalty/new": 0.3,
    }


def test_freezing_is_said_once():
    groups = {"transferred": Group(frozen=True), "new": Group(0.1)}
    made = make_program(forward, LABELS, TASK, groups)
    start = made.start(Weights(PARAMS), jax.random.key(0))
    lowered = str(jax.make_jaxpr(made.step)(start, BATCH, made.fixed()))
    moving = str(jax.make_jaxpr(program().step)(program().start(Weights(PARAMS), start.rng), BATCH, program().fixed()))
    assert lowered.count("dot_general") == moving.count("dot_general") - 2  # no backward pass through the trunk
    state, _ = made.step(start, BATCH, made.fixed())
    np.testing.assert_array_equal(state.params["trunk"]["kernel"], PARAMS["trunk"]["kernel"])
    assert (np.asarray(state.params["head"]["kernel"]) != np.asarray(PARAMS["head"]["kernel"])).all()
    assert "learning_rate/transferred" not in made.rates


def test_rates_that_groups_start_without_may_be_set_and_proximal_ones_are_there():
    made = program(rates={"decay/new": 0.0})
    assert made.fixed({"decay/new": 0.5}).rates["decay/new"] == 0.5
    prox = {"transferred": Group(0.1), "new": Group(0.1, proximal=Prox(0.7, prox_l1))}
    assert make_program(forward, LABELS, TASK, prox).rates["penalty/new"] == 0.7


def test_parts_that_it_does_not_train_pass_it_by():
    labels = {"head": LABELS["head"]}
    made = make_program(
        lambda p, s, b, c: ({"head": b["x"] @ p["head"]["kernel"]}, s), labels, TASK, {"new": Group(0.1)}
    )
    state = made.start(Weights(PARAMS), jax.random.key(0))
    assert set(state.params) == {"head"}
    whole = made.whole(PARAMS, made.step(state, BATCH, made.fixed())[0].params)
    assert whole["trunk"] is PARAMS["trunk"]


def test_a_rate_that_no_part_reads_is_refused():
    with pytest.raises(InputError, match=r"rates\['penalty/knew'\]"):
        program().fixed({"penalty/knew": 1.0})
