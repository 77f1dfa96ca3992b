"""Meta-gradients, against closed forms of quadratic tasks and finite differences; and a start that helps."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.errors import InputError
from jaxtl.losses import make_loss_fn
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, everything, l2, labelled
from jaxtl.selection.meta import imaml, reptile
from jaxtl.step import Context, Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient

# Quadratic tasks: ½ (w − c)ᵀ A (w − c) for the support, ½ ‖w − q‖² for the query.
LAM, LABELS = 0.5, {"w": "all"}


def quadratic_forward(params, model_state, batch, ctx):
    away = params["w"] - batch["c"]
    return {"loss": 0.5 * away @ batch["A"] @ away}, model_state


def only(outputs, batch, ctx):
    return outputs["loss"]


PENALTY = labelled(LABELS, {"all": Term(LAM, l2, ("anchor",))})
GRADIENT = total_gradient(make_loss_fn(quadratic_forward, {"task": Term(1.0, only)}, PENALTY))
TX = per_label(LABELS, {"all": Group(0.3)})
EPOCH = make_epoch(make_train_step(GRADIENT, TX), 100)


def init(anchor, rng):
    return init_state(anchor, TX, rng)


def score(state, query, fixed):
    return -0.5 * jnp.sum((state.params["w"] - query["q"]) ** 2)


@functools.cache
def tasks(count=4, size=3):
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(count, size, size)) / 2
    curvatures = np.einsum("tij,tkj->tik", roots, roots) + 0.2 * np.eye(size)
    centres, queries = rng.normal(size=(2, count, size))
    support = {"A": curvatures.astype(np.float32), "c": centres.astype(np.float32)}
    return {"support": support, "query": {"q": queries.astype(np.float32)}}


def minima(anchor, lam=LAM):
    """(w_i, dw_i/dθ) in float64."""
    curvatures, centres = (np.float64(tasks()["support"][name]) for name in ("A", "c"))
    inverse = np.linalg.inv(curvatures + lam * np.eye(3))
    return np.einsum("tij,tj->ti", inverse, np.einsum("tij,tj->ti", curvatures, centres) + lam * anchor), lam * inverse


ANCHOR = np.array([0.5, -1.0, 2.0])


def meta_gradient(grad_fn, rates=None, anchor=ANCHOR):
    ctx = Context(0, jax.random.key(0), rates or {}, {})
    gradient, metrics, _ = jax.jit(grad_fn)({"w": jnp.float32(anchor)}, {}, tasks(), ctx)
    return gradient["w"], metrics["loss"]


@pytest.mark.parametrize("lam", [None, 2.0])
def test_imaml_is_the_closed_form(lam):
    rates = {} if lam is None else {"inner/penalty/all": lam}
    gradient, loss = meta_gradient(imaml(init, EPOCH, score, GRADIENT), rates)
    w, by_anchor = minima(ANCHOR, lam or LAM)
    gaps = w - tasks()["query"]["q"]
    np.testing.assert_allclose(gradient, np.einsum("tij,ti->j", by_anchor, gaps) / 4, rtol=1e-4)
    np.testing.assert_allclose(loss, 0.5 * np.square(gaps).sum() / 4, rtol=1e-5)


def test_reptile_is_the_slope_of_the_moreau_envelope():
    gradient, _ = meta_gradient(reptile(init, EPOCH, score))

    def envelope(anchor):
        w, _ = minima(anchor)
        away = w - np.float64(tasks()["support"]["c"])
        losses = 0.5 * np.einsum("ti,tij,tj->t", away, np.float64(tasks()["support"]["A"]), away)
        return np.mean(losses / LAM + 0.5 * np.square(w - anchor).sum(axis=1))

    slopes = [(envelope(ANCHOR + 1e-5 * e) - envelope(ANCHOR - 1e-5 * e)) / 2e-5 for e in np.eye(3)]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4)


@pytest.mark.parametrize("method", ["imaml", "reptile"])
def test_both_arrive_at_their_optimum_by_the_projects_own_step(method):
    grad_fn = imaml(init, EPOCH, score, GRADIENT) if method == "imaml" else reptile(init, EPOCH, score)
    outer = per_label(LABELS, {"all": Group(1.0)})
    run = compile_step(make_epoch(make_train_step(grad_fn, outer), 150))
    state, metrics = run(init_state({"w": jnp.zeros(3)}, outer, jax.random.key(1)), tasks(), Fixed())
    constant, slopes = minima(np.zeros(3))
    if method == "imaml":  # Σ Jᵀ (b + J θ − q) = 0
        normal = np.einsum("tij,tik->jk", slopes, slopes)
        wanted = np.linalg.solve(normal, np.einsum("tij,ti->j", slopes, tasks()["query"]["q"] - constant))
    else:  # Σ (b + J θ − θ) = 0
        wanted = np.linalg.solve((np.eye(3) - slopes).sum(axis=0), constant.sum(axis=0))
    np.testing.assert_allclose(state.params["w"], wanted, rtol=2e-3)
    assert method == "reptile" or metrics["loss"][-1] < metrics["loss"][0]


def test_the_outer_step_refuses_a_rate_that_the_inner_step_does_not_read():
    step = make_train_step(reptile(init, EPOCH, score), TX)
    with pytest.raises(InputError, match=r"rates\['penalty/none'\]: nobody reads this rate"):
        step(init({"w": jnp.zeros(3)}, jax.random.key(0)), tasks(), Fixed({"inner/penalty/none": 1.0}))


def test_an_anchor_that_nothing_reads_is_refused():
    free = total_gradient(make_loss_fn(quadratic_forward, {"task": Term(1.0, only)}))
    with pytest.raises(InputError, match=r"given\['anchor'\]: the inner objective does not read it"):
        meta_gradient(imaml(init, make_epoch(make_train_step(free, TX), 2), score, free))


def test_every_task_has_a_key_of_its_own():
    def wander(state, support, fixed):
        return state._replace(params={"w": state.params["w"] + jax.random.normal(state.rng, (3,))}), None

    key = jax.random.key(0)
    moves = [jax.random.normal(one, (3,)) for one in jax.random.split(key, 4)]
    gradient, _, _ = reptile(init, wander, score)({"w": jnp.zeros(3)}, {}, tasks(), Context(0, key, {}, {}))
    np.testing.assert_allclose(gradient["w"], -np.mean(moves, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"support": {}}, "is no batch of tasks"),
        ({"support": {"c": np.zeros((2, 3))}, "query": {"q": np.zeros((3, 3))}}, "leaves begin with"),
        ({"support": {"c": np.zeros(())}, "query": {"q": np.zeros(())}}, "leaves begin with"),
    ],
)
def test_other_batches_are_refused(batch, message):
    ctx = Context(0, jax.random.key(0), {}, {})
    with pytest.raises(InputError, match=message):
        reptile(init, EPOCH, score)({"w": jnp.zeros(3)}, {}, batch, ctx)


# Sinusoids of any amplitude and phase, from ten points each: what a network can only learn from other tasks.
SIZES = (1, 24, 24, 1)


def network(key):
    keys = jax.random.split(key, len(SIZES) - 1)
    return {
        f"layer_{i}": {"kernel": jax.random.normal(k, (a, b)) * (1.5 / a) ** 0.5, "bias": jnp.zeros(b)}
        for i, (k, a, b) in enumerate(zip(keys, SIZES[:-1], SIZES[1:], strict=True))
    }


def wave_forward(params, model_state, batch, ctx):
    hidden = batch["x"][:, None]
    for name in sorted(params):
        hidden = hidden @ params[name]["kernel"] + params[name]["bias"][None]
        hidden = jnp.tanh(hidden) if name != "layer_2" else hidden
    return {"head": hidden[:, 0]}, model_state


def mean_squared(outputs, batch, ctx):
    return jnp.mean((outputs["head"] - batch["y"]) ** 2)


def sample_waves(count):
    def sample(data, rng, step):
        def wave(key):
            keys = jax.random.split(key, 3)
            amplitude = jax.random.uniform(keys[0], (), minval=0.5, maxval=3.0)
            phase = jax.random.uniform(keys[1], (), maxval=np.pi)
            x = jax.random.uniform(keys[2], (30,), minval=-4.0, maxval=4.0)
            return {"x": x, "y": amplitude * jnp.sin(x + phase)}

        waves = jax.vmap(wave)(jax.random.split(rng, count))
        return {
            "support": {name: values[:, :10] for name, values in waves.items()},
            "query": {name: values[:, 10:] for name, values in waves.items()},
        }

    return sample


@pytest.mark.parametrize("method", [pytest.param("imaml", marks=pytest.mark.slow), "reptile"])
def test_a_learned_start_beats_a_fresh_one(method):
    fresh = network(jax.random.key(0))
    labels = jax.tree.map(lambda _: "all", fresh)
    penalty = labelled(labels, {"all": Term(0.05, l2, ("anchor",), on=everything)})
    gradient = total_gradient(make_loss_fn(wave_forward, {"task": Term(1.0, mean_squared)}, penalty))
    inner = per_label(labels, {"all": Group(0.03)}, momentum=0.8)
    adapt = make_epoch(make_train_step(gradient, inner), 20)

    def begin(anchor, rng):
        return init_state(anchor, inner, rng)

    def fits(state, query, fixed):
        return -mean_squared(wave_forward(state.params, {}, query, None)[0], query, None)

    moves = reptile(begin, adapt, fits)
    if method == "imaml":
        moves = imaml(begin, adapt, fits, gradient, damping=1.0, iterations=5)
    outer = per_label(labels, {"all": Group(6e-3)}, "adam", schedule=optax.cosine_decay_schedule(1.0, 200))
    run = compile_step(make_epoch(make_train_step(moves, outer, sample_waves(8)), 200))
    tell = jax.jit(lambda params: moves(params, {}, sample_waves(200)({}, jax.random.key(2), 0), ctx)[1]["loss"])
    ctx = Context(0, jax.random.key(3), {}, {})
    # a single run of 200 steps ends where roundings take it: 0.3 to 0.7 of the fresh loss with imaml
    runs = [run(init_state(fresh, outer, jax.random.key(seed)), {}, Fixed())[0] for seed in range(3)]
    learned = np.mean([tell(state.params) for state in runs])
    assert learned < (0.6 if method == "imaml" else 0.3) * tell(fresh)
