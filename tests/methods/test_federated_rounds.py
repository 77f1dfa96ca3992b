"""Rounds of clients against loops in NumPy, and what holds of them: order, padding, one client, one step."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federated_problem import (
    SIZES,
    close,
    compiled,
    data_of,
    forward,
    local_program,
    numpy_rounds,
    run,
    scaffold_program,
    weights,
)

from jaxtl.data import local_epochs
from jaxtl.errors import InputError
from jaxtl.loop import fit
from jaxtl.methods.federated import fed_adagrad, fed_adam, fed_yogi, rounds
from jaxtl.optimizers import Group
from jaxtl.step import make_epoch

K = len(SIZES)
VISIT = local_epochs(4, 2)
STILL = (("shared", Group(0.0)), ("new", Group(0.0)))


@functools.cache
def made(local=None, visit=VISIT, **how):
    return rounds(local or local_program(), visit, **{"clients": K, **how})


@pytest.mark.parametrize("mu", [None, 0.3])
def test_averaging_and_the_proximal_term_are_those_of_a_loop(mu):
    data = data_of()
    state, metrics = run(made(local_program(mu=mu) if mu else None), data)
    close(state.params, numpy_rounds(data, 4, 2, 4, mu=mu or 0.0)[0])
    assert int(state.step) == 4
    assert float(metrics["loss"]) > 0


@pytest.mark.parametrize("weighted", [True, False])
def test_control_variates_are_those_of_the_paper(weighted):
    data = data_of(weights=None if weighted else np.ones(K))
    state, _ = run(made(scaffold_program(), controls=True), data)
    expected, controls = numpy_rounds(data, 4, 2, 4, scaffold=True)
    close(state.params, expected)
    for k in range(K):
        own = {part: {"kernel": state.model_state.controls[f"{part}/kernel"][k]} for part in ("trunk", "head")}
        close(own, controls[k], rtol=1e-4, atol=1e-5)
    plain, _ = run(made(), data)
    assert np.max(np.abs(plain.params["head"]["kernel"] - state.params["head"]["kernel"])) > 1e-3


def moments(second, beta1, tau, rate):
    """Algorithm 2 of Reddi et al., line by line."""

    def server(x, delta, memory):
        m, v = memory or ([np.zeros_like(w) for w in x], [np.full_like(w, tau**2) for w in x])
        m = [beta1 * a + (1 - beta1) * d for a, d in zip(m, delta, strict=True)]
        v = [second(a, d**2) for a, d in zip(v, delta, strict=True)]
        moved = [w + rate * a / (np.sqrt(b) + tau) for w, a, b in zip(x, m, v, strict=True)]
        return moved, (m, v)

    return server


def averaged_momentum(x, delta, memory):
    """v ← βv + Δ, x ← x + v (Hsu et al.)."""
    v = [0.9 * a + d for a, d in zip(memory or [0.0, 0.0], delta, strict=True)]
    return [w + a for w, a in zip(x, v, strict=True)], v


@pytest.mark.parametrize(
    ("server", "momentum", "rate", "oracle"),
    [
        ("sgd", 0.9, 1.0, averaged_momentum),
        (fed_adagrad, 0.0, 0.1, moments(lambda v, s: v + s, 0.0, 1e-3, 0.1)),
        (fed_adam, 0.0, 0.03, moments(lambda v, s: 0.99 * v + 0.01 * s, 0.9, 1e-3, 0.03)),
        (fed_yogi, 0.0, 0.03, moments(lambda v, s: v - 0.01 * s * np.sign(v - s), 0.9, 1e-3, 0.03)),
    ],
)
def test_servers_are_those_of_their_papers(server, momentum, rate, oracle):
    data = data_of()
    how = {"server": server, "momentum": momentum}
    state, _ = run(made(**how), data, rates={"server_learning_rate": rate})
    close(state.params, numpy_rounds(data, 4, 2, 4, server=oracle)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("controls", [False, True])
def test_clients_are_drawn_by_seed_without_replacement_and_only_they_count(controls):
    data, program = data_of(), scaffold_program() if controls else local_program()
    how = {"clients": K, "controls": controls}
    seen = []

    def visit(data, client, number):
        jax.debug.callback(lambda k, r: seen.append((int(r), int(k))), client, number)
        return VISIT(data, client, number)

    program = rounds(program, visit, sampled=2, **how)
    state, _ = run(program, data)
    jax.effects_barrier()
    drawn = {number: [k for r, k in seen if r == number] for number in range(4)}
    assert all(len(set(own)) == 2 == len(own) for own in drawn.values())
    assert len(set(map(tuple, drawn.values()))) > 1
    close(state.params, numpy_rounds(data, 4, 2, 4, scaffold=controls, drawn=drawn.__getitem__)[0], rtol=1e-4)
    seen.clear()
    run(program, data, 4, seed=2)
    jax.effects_barrier()
    assert [{k for r, k in seen if r == number} for number in range(4)] != [{*own} for own in drawn.values()]


def test_all_clients_are_drawn_equally_often_and_fillers_never():
    data = data_of((3, 3, 3, 3))
    data = {**data, "weight": jnp.array([1.0, 1.0, 0.0, 1.0])}
    program = rounds(local_program(), local_epochs(4), clients=4, sampled=2, personal=("new",))
    step, counts = jax.jit(program.step), np.zeros(4)
    for seed in range(60):
        state = program.start(weights(), jax.random.key(seed))
        before = np.asarray(state.model_state.own["head/kernel"])
        state, _ = step(state, data, program.fixed())
        counts += np.any(np.asarray(state.model_state.own["head/kernel"]) != before, axis=(1, 2))
    assert counts[2] == 0
    assert counts.sum() == 120
    assert np.all(np.abs(counts[[0, 1, 3]] - 40) < 15)


def test_one_client_is_plain_training_to_rounding():
    """With momentum and a schedule, in one round; without momentum, in several."""
    data = data_of((12,))
    for momentum, count in ((0.9, 1), (0.0, 3)):
        local = local_program(momentum=momentum, schedule=lambda step: 0.9**step)
        step, visit = jax.jit(local.step), jax.jit(VISIT)
        state, _ = run(rounds(local, VISIT, clients=1), data, count)
        plain, number = local.start(weights(), jax.random.key(1)), 0
        for number in range(count):
            rows, _ = visit(data, 0, number)
            for own in rows:
                plain, _ = step(plain, {name: a[own] for name, a in data["examples"].items()}, local.fixed())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), state.params, plain.params)


def test_one_step_on_all_examples_is_a_step_of_gradient_descent_on_all_data():
    data = data_of()
    state, _ = run(rounds(local_program(), local_epochs(100), clients=K), data, 3)
    local = local_program()
    plain = local.start(weights(), jax.random.key(0))
    for _ in range(3):
        plain, _ = compiled(local)(plain, data["examples"], local.fixed())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), state.params, plain.params)


@pytest.mark.parametrize("sampled", [K, 3])
def test_order_and_padding_of_clients_change_nothing(sampled):
    data = data_of()
    order = np.array([3, 0, 4, 1, 2])
    shuffled = {**data, **{name: data[name][order] for name in ("index", "count", "weight", "client")}}
    padded = {
        **data,
        "index": jnp.pad(data["index"], ((0, 2), (0, 3)), constant_values=5),
        "count": jnp.pad(data["count"], (0, 2)),
        "weight": jnp.pad(data["weight"], (0, 2)),
        "client": jnp.arange(K + 2),
    }
    program = scaffold_program(momentum=0.5)

    def ended(data, clients, sampled):
        return run(made(program, clients=clients, sampled=sampled, controls=True, personal=("new",)), data)

    state, metrics = ended(data, K, sampled)
    for other, clients, asked in ((shuffled, K, sampled), (padded, K + 2, K + 2 if sampled == K else sampled)):
        found, its = ended(other, clients, asked)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), found.params, state.params)
        assert float(its["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
        place = np.argsort(np.asarray(other["client"]))[:K]
        own = found.model_state.own["head/kernel"][place]
        np.testing.assert_allclose(own, state.model_state.own["head/kernel"], 1e-5, 1e-6)


def test_what_stands_where_nothing_counts_is_not_looked_at():
    """The first example fills up rows and batches: NaN there reaches nobody but the client that has it."""
    data = data_of()
    data = {**data, "weight": data["weight"].at[0].set(0.0)}
    examples = {name: a.at[0].set(jnp.nan) for name, a in data["examples"].items()}
    program = made()
    state, metrics = run(program, {**data, "examples": examples})
    other, _ = run(program, data)
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)
    assert np.isfinite(float(metrics["loss"]))


def test_a_client_without_examples_keeps_its_control_variate_whatever_its_weight():
    data = data_of()
    data = {**data, "count": data["count"].at[2].set(0)}
    state, _ = run(made(scaffold_program(), controls=True), data, 2)
    controls = state.model_state.controls["head/kernel"]
    np.testing.assert_array_equal(controls[2], 0.0)
    assert np.all(np.isfinite(controls))
    assert np.all(np.any(controls[np.array([0, 1, 3, 4])] != 0, axis=(1, 2)))


def test_a_client_that_is_done_holds_its_state():
    """A penalty and a momentum would go on moving it: the clients of one example take one step, and no more."""
    data = data_of((1, 9))
    program = rounds(local_program(mu=5.0, momentum=0.9), local_epochs(1), clients=2, personal=("shared", "new"))
    state, _ = run(program, data, 1)
    alone = rounds(local_program(mu=5.0, momentum=0.9), local_epochs(1), clients=1, personal=("shared", "new"))
    own = {**data, **{name: data[name][:1] for name in ("count", "weight", "client")}, "index": data["index"][:1, :1]}
    ended, _ = run(alone, own, 1)
    for path, leaf in ended.model_state.own.items():
        np.testing.assert_allclose(state.model_state.own[path][0], leaf[0], 1e-6, 1e-7)


def test_side_by_side_is_one_after_another():
    data, how = data_of(), {"clients": K, "sampled": 3, "controls": True, "personal": ("new",)}
    program = scaffold_program()
    one, _ = run(rounds(program, VISIT, **how), data)
    object.__setattr__(program, "dense", True)
    other, _ = run(rounds(program, VISIT, **how), data)
    leaves = zip(
        jax.tree.leaves((one.params, one.model_state)), jax.tree.leaves((other.params, other.model_state)), strict=True
    )
    for a, b in leaves:
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)


def test_a_run_that_is_stopped_goes_on_bit_for_bit(tmp_path):
    data = data_of()
    program = rounds(
        scaffold_program(momentum=0.5), VISIT, clients=K, sampled=3, controls=True, server=fed_yogi, personal=("new",)
    )

    def fitted(steps, workdir):
        state = program.start(weights(), jax.random.key(4))
        return fit(program.step, state, data, program.fixed(), steps=steps, chunk=2, workdir=workdir)[0]

    whole = fitted(6, None)
    fitted(2, tmp_path / "run")
    resumed = fitted(6, tmp_path / "run")
    for a, b in zip(jax.tree.leaves(whole._replace(rng=0)), jax.tree.leaves(resumed._replace(rng=0)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rates_change_without_compiling_and_unknown_ones_are_refused():
    program = made(local_program(mu=0.3))
    assert {*program.rates} == {
        "learning_rate/shared",
        "learning_rate/new",
        "penalty/shared",
        "penalty/new",
        "server_learning_rate",
    }
    step, data = compiled(program), data_of()
    sizes, ended = set(), []
    for mu in (0.0, 0.5, 1.0):
        ended.append(run(program, data, 1, rates={"penalty/shared": jnp.float32(mu)})[0].params)
        sizes.add(step._cache_size())
    assert len(sizes) == 1
    assert np.any(ended[0]["trunk"]["kernel"] != ended[1]["trunk"]["kernel"])
    with pytest.raises(InputError, match="no part of this program reads it"):
        program.fixed({"mu": 1.0})
    with pytest.raises(InputError, match="nobody reads this rate"):
        traced(program, data, program.fixed()._replace(rates={"mu": 1.0}))


def test_a_chunk_of_rounds_is_its_rounds():
    program, data = made(), data_of()
    state, _ = run(program, data, 3)
    chunk, metrics = jax.jit(make_epoch(program.step, 3))(
        program.start(weights(), jax.random.key(1)), data, program.fixed()
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6, 1e-7), chunk.params, state.params)
    assert metrics["loss"].shape == (3,)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"clients": 0}, "rounds clients: 0 is less than 1"),
        ({"sampled": 6}, "6 of 5 clients"),
        ({"sampled": 0}, "rounds sampled: 0 is less than 1"),
        ({"personal": ("head",)}, "no parameter has the label 'head'"),
        ({"personal": "new"}, "'new' is no tuple of labels"),
        ({"personal_first": 0.5}, "personal labels are none"),
        ({"personal": ("new",), "personal_first": 1.5}, "personal_first: 1.5"),
        ({"server": "fed_adam"}, "unknown: 'fed_adam'"),
        ({"server_learning_rate": -1.0}, "negative"),
    ],
)
def test_what_does_not_fit_is_refused(how, message):
    with pytest.raises(InputError, match=message):
        rounds(local_program(), VISIT, **{"clients": K, **how})


def traced(program, data, fixed=None, **changes):
    state = program.start(weights(), jax.random.key(0))._replace(**changes)
    return jax.eval_shape(program.step, state, data, fixed or program.fixed())


def test_data_programs_and_states_that_do_not_fit_are_refused_while_tracing():
    program, data = made(), data_of()
    with pytest.raises(InputError, match="of 5 clients, not 4"):
        traced(made(clients=4), data)
    with pytest.raises(InputError, match="no 'client'"):
        traced(program, data["examples"])
    with pytest.raises(InputError, match="the state holds no clients"):
        traced(program, data, model_state={})
    with pytest.raises(InputError, match="does not read control variates"):
        traced(made(controls=True), data)
    with pytest.raises(InputError, match="no control variates are given"):
        traced(scaffold_program(), data["examples"])
    with pytest.raises(InputError, match="has no update of its own"):
        program.tx.update({}, {})


def test_the_loss_of_a_round_is_the_mean_over_steps_and_clients():
    data = data_of()
    still = local_program(groups=STILL)
    _, metrics = run(rounds(still, local_epochs(100), clients=K), data, 1)
    error = np.asarray(forward(weights().params, {}, data["examples"], None)[0]["head"] - data["examples"]["label"])
    assert float(metrics["loss"]) == pytest.approx(0.5 * np.mean(np.sum(error**2, axis=1)), rel=1e-5)
