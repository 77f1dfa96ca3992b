"""One step from labels, terms, penalties and groups; what is said once holds everywhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.labels import label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, squared_error
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.program import Weights, alternate, make_program
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


def held(moving):
    """A program that moves one label and holds the other."""
    groups = {label: Group(0.02) if label == moving else Group(frozen=True) for label in ("transferred", "new")}
    return make_program(forward, LABELS, TASK, groups, {moving: Term(0.1, l2)}, momentum=0.9)


def test_phases_of_a_step_are_their_steps_by_hand_each_with_its_own_momentum():
    first, second = held("transferred"), held("new")
    both = alternate(trunk=first, head=second)
    key = jax.random.key(0)
    state = both.start(Weights(PARAMS), key)
    by_hand, other = first.start(Weights(PARAMS), key), second.start(Weights(PARAMS), key)
    step = jax.jit(both.step)
    for t in range(4):
        state, metrics = step(state, BATCH, both.fixed({"learning_rate/new": 0.01}))
        by_hand, one = jax.jit(first.step)(by_hand, BATCH, first.fixed())
        other, two = jax.jit(second.step)(
            other._replace(params=by_hand.params), BATCH, second.fixed({"learning_rate/new": 0.01})
        )
        by_hand = by_hand._replace(params=other.params)
        assert int(state.step) == t + 1
        np.testing.assert_allclose(metrics["loss"], one["loss"] + two["loss"], rtol=1e-6)
        np.testing.assert_allclose(metrics["head/task"], two["task"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.params, other.params)
    assert set(both.rates) == {"learning_rate/transferred", "learning_rate/new", "penalty/transferred", "penalty/new"}


def test_phases_go_through_fit_and_go_on_where_they_were_stopped(tmp_path):
    both = alternate(trunk=held("transferred"), head=held("new"))

    def start():
        return both.start(Weights(PARAMS), jax.random.key(0))

    whole, _ = fit(both.step, start(), BATCH, both.fixed(), steps=6, chunk=2, every=2)
    fit(both.step, start(), BATCH, both.fixed(), steps=4, chunk=2, every=2, workdir=tmp_path)
    ended, _ = fit(both.step, start(), BATCH, both.fixed(), steps=6, chunk=2, every=2, workdir=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, whole.params, ended.params)


def test_phases_that_do_not_go_together_are_refused():
    one = held("new")
    with pytest.raises(InputError, match="1 programs"):
        alternate(one=one)
    fewer = make_program(forward, {"head": LABELS["head"]}, TASK, {"new": Group(0.1)})
    with pytest.raises(InputError, match="'other' labels other parameters than 'one'"):
        alternate(one=one, other=fewer)
    faster = make_program(forward, LABELS, TASK, {"transferred": Group(0.1), "new": Group(0.2)})
    with pytest.raises(InputError, match=r"learning_rate/new is 0\.2 in 'other' and 0\.02 before"):
        alternate(one=one, other=faster)
    both = alternate(trunk=held("transferred"), head=one)
    state = both.start(Weights(PARAMS), jax.random.key(0))
    with pytest.raises(InputError, match="learning_rate/old"):
        both.step(state, BATCH, Fixed({"learning_rate/old": 0.1}))
