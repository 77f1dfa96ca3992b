"""Decoupled decay against published numbers and its definition: towards 0 or an anchor, always, by entry, by leaf."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import LABELS, assert_close, network, train

from jaxtl.decay import decayed
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, everything
from jaxtl.losses import make_loss_fn, squared_error
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2
from jaxtl.program import Weights, make_program
from jaxtl.proximal import Ball
from jaxtl.step import Fixed

PLACES = np.arange(6.0)
W0, B0 = np.sin(PLACES).reshape(3, 2), np.array([0.1, -0.2])
TW, TB = W0 + 0.3 * np.cos(PLACES**2).reshape(3, 2), B0 + np.array([0.2, -0.1])
AW, AB = np.array([[1, 2], [0.5, 3], [4, 1]]), np.array([2.0, 1.0])
START = {"kernel": W0, "bias": B0}

ADAM = ((0.266115, 1.047720, 0.699996, -0.205762, -0.960785, -0.572046), (0.350659, -0.352997))
SGD = ((0.158378, 0.973760, 0.802023, -0.127398, -0.932524, -0.777620), (0.252168, -0.231789))
PUBLISHED = {  # ten steps: optimizer, group, where they end
    "Adam": ("adam", Group(0.1), ADAM),
    "SGD": ("sgd", Group(0.1), SGD),
    "AdamW towards the anchor": (
        "adam",
        Group(0.1, 0.5, towards="anchor"),
        ((0.248182, 1.014874, 0.745688, -0.154573, -0.922419, -0.647224), (0.303621, -0.307375)),
    ),
    "cautious pull": (
        "adam",
        Group(0.1, 0.5, towards="anchor", when="entry"),
        ((0.277907, 1.027866, 0.706020, -0.148120, -0.912310, -0.572046), (0.312406, -0.320327)),
    ),
    "cautious weight decay": (
        "adam",
        Group(0.1, 0.5, when="entry"),
        ((0.277907, 0.954298, 0.557935, -0.164317, -0.803542, -0.498204), (0.299240, -0.288356)),
    ),
    "SPD 1": (
        "adam",
        Group(0.1, 1.0, towards="anchor", when="leaf"),
        ((0.243633, 1.021126, 0.753167, -0.170171, -0.943853, -0.654496), (0.350765, -0.335434)),
    ),
    "SPD 0.5": (
        "adam",
        Group(0.1, 0.5, towards="anchor", when="leaf"),
        ((0.262911, 1.038796, 0.724648, -0.195646, -0.954284, -0.607783), (0.352934, -0.345862)),
    ),
}


def gradient(params, step):
    noise = 0.5 * np.sin((step + 1) * (np.arange(8.0) + 1) ** 2)
    return {
        "kernel": AW * (params["kernel"] - TW) + noise[:6].reshape(3, 2),
        "bias": AB * (params["bias"] - TB) + noise[6:],
    }


def ten_steps(optimizer, group, rates=None):
    with jax.enable_x64(True):
        tx = per_label({"kernel": NEW, "bias": NEW}, {NEW: group}, optimizer, decay_mask=everything)
        params = jax.tree.map(jnp.asarray, START)
        state = tx.init(params)
        update = jax.jit(lambda g, s, p: tx.update(g, s, p, given={"anchor": START}, rates=rates))
        for step in range(10):
            updates, state = update(gradient(params, step), state, params)
            params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", PUBLISHED)
def test_ten_steps_end_where_the_published_rule_does(name):
    optimizer, group, (kernel, bias) = PUBLISHED[name]
    params = ten_steps(optimizer, group)
    np.testing.assert_allclose(np.ravel(params["kernel"]), kernel, atol=6e-7)
    np.testing.assert_allclose(params["bias"], bias, atol=6e-7)


def test_a_rate_by_name_is_that_of_the_group():
    named = ten_steps("adam", Group(0.1, towards="anchor"), {f"decay/{NEW}": jnp.asarray(0.5)})
    jax.tree.map(np.testing.assert_array_equal, named, ten_steps("adam", Group(0.1, 0.5, towards="anchor")))


@pytest.mark.parametrize("when", ["always", "entry", "leaf"])
def test_nothing_is_pulled_at_the_anchor_and_jit_and_vmap_agree(when):
    w, a = network(), network(0.5)
    u, g = jax.tree.map(lambda x: -0.1 * x, a), jax.tree.map(lambda x, y: x - y, w, a)
    assert_close(decayed(u, w, g, 0.1, 0.0, a, when=when), u, 0.0, 0.0)
    if when != "leaf":  # which looks at where the step ends
        assert_close(decayed(u, w, g, 0.1, 3.0, w, when=when), u, 0.0, 0.0)
    still = jax.tree.map(jnp.zeros_like, u)
    assert_close(decayed(still, w, g, 0.1, 3.0, w, when=when), still, 0.0, 0.0)
    rates = jnp.array([0.0, 0.3, 1.0])
    together = jax.jit(jax.vmap(lambda rate: decayed(u, w, g, 0.1, rate, a, when=when)))(rates)
    for k, rate in enumerate(rates):
        assert_close(jax.tree.map(lambda x: x[k], together), decayed(u, w, g, 0.1, rate, a, when=when))  # noqa: B023


def test_a_leaf_whose_gradient_points_back_keeps_its_distance_at_the_rate_1():
    w, a = {"w": jnp.array([2.0, 1.0])}, {"w": jnp.array([1.0, 1.0])}
    u, back, on = {"w": jnp.array([0.5, 2.0])}, {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([-1.0, 0.0])}
    ended = w["w"] + decayed(u, w, back, 0.1, 1.0, a, when="leaf")["w"]
    assert float(jnp.linalg.norm(ended - a["w"])) == pytest.approx(1.0, abs=1e-6)
    assert_close(decayed(u, w, on, 0.1, 1.0, a, when="leaf"), u, 0.0, 0.0)


def quadratic_end(group, penalty=None):
    """Where Adam ends on ½ Σ curvature·(w − 1)² with the curvatures 1 and 100."""

    def forward(params, model_state, batch, ctx):
        return {"head": jnp.sqrt(jnp.array([1.0, 100.0])) * params["kernel"]}, model_state

    target = jnp.array([1.0, 10.0])
    term = Term(1.0, lambda outputs, batch, ctx: squared_error(outputs["head"][None], target[None])[0])
    schedule = optax.cosine_decay_schedule(1.0, 3000)
    penalties = {NEW: penalty} if penalty else None
    program = make_program(
        forward, {"kernel": NEW}, {"task": term}, {NEW: group}, penalties, optimizer="adam", schedule=schedule
    )
    state = program.start(Weights({"kernel": jnp.zeros(2)}), jax.random.key(0))
    fixed = program.fixed(given={"anchor": {"kernel": jnp.zeros(2)}})
    step = jax.jit(lambda state, _: program.step(state, {}, fixed))
    state, _ = jax.lax.scan(step, state, length=3000)
    return np.asarray(state.params["kernel"])


def test_a_cautious_pull_keeps_the_minimum_of_the_loss_and_a_penalty_moves_it():
    np.testing.assert_allclose(quadratic_end(Group(0.01, 0.1, towards="anchor", when="entry")), 1.0, atol=2e-3)
    ridge = quadratic_end(Group(0.01), Term(0.1, l2, ("anchor",)))
    np.testing.assert_allclose(ridge, [1 / 1.1, 100 / 100.1], atol=2e-3)


def test_only_the_label_that_decays_is_pulled_and_a_bound_holds_after_it():
    params, anchor = network(), network(0.5)
    loss_fn = make_loss_fn(lambda p, s, b, c: ({"head": jnp.zeros(1)}, s), {"task": Term(0.0, lambda *_: 0.0)})
    group = Group(0.1, 2.0, towards="anchor", proximal=Ball(0.05, ("anchor",)))
    tx = per_label(LABELS, {TRANSFERRED: group, NEW: Group(0.1)})
    ended = train(tx, params, 1, loss_fn=loss_fn, fixed=Fixed(given={"anchor": anchor}))
    assert_close(ended["head"], params["head"], 0.0, 0.0)
    distance = jnp.sqrt(2 * l2(ended["trunk"], anchor["trunk"]))
    assert float(distance) == pytest.approx(0.05, rel=1e-4)
    tx = per_label(LABELS, {TRANSFERRED: Group(0.1, 2.0, towards="anchor"), NEW: Group(0.1)})
    ended = train(tx, params, 1, loss_fn=loss_fn, fixed=Fixed(given={"anchor": anchor}))
    assert_close(ended["trunk"], jax.tree.map(lambda w, a: w - 0.2 * (w - a), params["trunk"], anchor["trunk"]))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Group(0.1, 0.1, when="often"), "Group when: 'often'"),
        (lambda: Group(0.1, 0.1, "coupled", towards="anchor"), "a coupled decay is towards 0, and always"),
        (lambda: Group(0.1, 0.1, "coupled", when="entry"), "a coupled decay is towards 0, and always"),
    ],
)
def test_what_makes_no_sense_is_told(wrong, told):
    with pytest.raises(InputError, match=told):
        wrong()


def test_an_anchor_that_is_missing_or_of_other_shapes_is_told():
    params = network()
    tx = per_label(LABELS, {TRANSFERRED: Group(0.1, 0.1, towards="anchor"), NEW: Group(0.1)})
    with pytest.raises(InputError, match=r"decay/transferred: needs given\['anchor'\]"):
        tx.update(params, tx.init(params), params)
    other = {**params, "head": {"kernel": jnp.zeros((5, 2)), "bias": jnp.zeros(2)}}
    with pytest.raises(InputError, match=r"given\['anchor'\]: head/bias"):
        tx.update(params, tx.init(params), params, given={"anchor": other})
