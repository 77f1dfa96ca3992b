"""Models made of models, held against the equations in NumPy and against fixed numbers in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.methods.finetuning.averaging import AVERAGE, averaged, ema, ema_decay, of_average, with_average
from jaxtl.methods.finetuning.weight_space import (
    greedy_soup,
    lines,
    model_stock,
    stock_ratio,
    task_arithmetic,
    uniform_soup,
    wise_ft,
)
from jaxtl.optimizers import Group
from jaxtl.program import Weights, make_program
from tests.problems import LABELS, TASK, assert_close, batch, forward, network

STEPS = np.arange(6.0)
W0 = np.sin(STEPS).reshape(3, 2)
W, W2, W3 = (
    W0 + scale * np.cos(STEPS**2 + shift).reshape(3, 2) for scale, shift in ((0.3, 0.0), (0.25, 0.6), (0.2, -0.5))
)
ONE = {"kernel": TRANSFERRED}


def tree(values):
    return {"kernel": np.asarray(values)}


def kernel(found):
    return np.asarray(found["kernel"]).ravel()


@pytest.fixture(autouse=True)
def exact():
    """Fixed numbers are those of float64."""
    with jax.enable_x64(True):
        yield


def test_half_way_back_to_the_source():
    expected = 0.15, 0.922516, 0.811251, 0.004450, -0.900451, -0.810244
    np.testing.assert_allclose(kernel(wise_ft(tree(W), tree(W0), ONE, 0.5)), expected, atol=1e-6)


def test_only_what_has_an_anchor_goes_back_and_both_ends_are_exact():
    params, anchor = network(0.7), network(0.3)
    half = wise_ft(params, anchor, LABELS, 0.5)
    assert_close(half["head"], params["head"], rtol=0, atol=0)
    assert_close(half["trunk"], uniform_soup([params, anchor])["trunk"])
    assert_close(wise_ft(params, anchor, LABELS, 0.0)["trunk"], anchor["trunk"], rtol=0, atol=0)
    assert_close(wise_ft(params, anchor, LABELS, 1.0), params, rtol=1e-6, atol=1e-7)


def test_a_share_is_an_argument_of_a_compiled_function_and_keeps_dtypes():
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), network(0.7))
    anchor = network(0.3)
    along = jax.jit(jax.vmap(lambda share: wise_ft(low, anchor, LABELS, share)))(jnp.array([0.0, 0.5]))
    assert {leaf.dtype for leaf in jax.tree.leaves(along)} == {jnp.dtype(jnp.bfloat16)}
    expected = wise_ft(low, anchor, LABELS, 0.5)
    assert_close(jax.tree.map(lambda leaf: leaf[1], along), expected, rtol=1e-2, atol=1e-2)


def test_shares_of_lines_grow_by_block():
    params = {f"block_{k}": np.ones(2) for k in range(4)}
    anchor, labels = {name: np.zeros(2) for name in params}, dict.fromkeys(params, TRANSFERRED)
    found = lines(params, anchor, labels, lambda path: int(path[-1]) + 1, 4, 0.3)
    np.testing.assert_allclose([leaf[0] for leaf in found.values()], [0.3, 0.533333, 0.766667, 1.0], atol=1e-6)
    with pytest.raises(InputError, match="block 5 of block_3"):
        lines(params, anchor, labels, lambda path: int(path[-1]) + 2, 4, 0.3)


def test_model_stock_of_two_and_of_three():
    pair = model_stock([tree(W), tree(W2)], tree(W0), ONE)
    expected = 0.242122, 0.915490, 0.802121, -0.107303, -0.969239, -0.709999
    np.testing.assert_allclose(kernel(pair), expected, atol=1e-6)
    three = model_stock([tree(W), tree(W2), tree(W3)], tree(W0), ONE)
    expected = 0.217687, 0.946924, 0.777947, -0.063178, -0.961111, -0.741240
    np.testing.assert_allclose(kernel(three), expected, atol=1e-6)
    ratios = [stock_ratio(jnp.stack([w - W0 for w in ws])) for ws in ((W, W2), (W, W2, W3))]
    np.testing.assert_allclose(ratios, [0.956371, 0.957776], atol=1e-6)


def test_models_that_went_apart_are_drawn_to_the_source_and_not_beyond():
    cosine = -0.916390
    assert 2 * cosine / (1 + cosine) == pytest.approx(-21.9206, abs=1e-3)  # what the formula says
    away = [tree(W), tree(2 * W0 - W2)]
    np.testing.assert_array_equal(kernel(model_stock(away, tree(W0), ONE)), W0.ravel())
    alike = model_stock([tree(W), tree(W)], tree(W0), ONE)
    np.testing.assert_allclose(kernel(alike), W.ravel(), rtol=1e-12)
    still = model_stock([tree(W0), tree(W0)], tree(W0), ONE)  # nothing moved, and nothing is 0/0
    np.testing.assert_array_equal(kernel(still), W0.ravel())


def test_a_stock_averages_what_has_no_anchor():
    members = [network(0.7), network(0.9)]
    found = model_stock(members, network(0.3), LABELS)
    assert_close(found["head"], uniform_soup(members)["head"])


def test_tasks_are_added_and_taken_away():
    found = task_arithmetic(tree(W0), [tree(W), tree(W2)], [0.4, -0.3])
    np.testing.assert_allclose(kernel(found), (W0 + 0.4 * (W - W0) - 0.3 * (W2 - W0)).ravel(), rtol=1e-12)
    with pytest.raises(InputError, match="2 trees and 1 scales"):
        task_arithmetic(tree(W0), [tree(W), tree(W2)], [0.4])


def test_a_soup_is_the_mean_and_counters_are_not_averaged():
    members = [{"kernel": w, "count": jnp.int32(k)} for k, w in enumerate((W, W2, W3))]
    found = uniform_soup(members)
    np.testing.assert_allclose(found["kernel"], np.mean([W, W2, W3], axis=0), rtol=1e-12)
    assert (int(found["count"]), found["count"].dtype) == (0, jnp.int32)
    with pytest.raises(InputError, match="no model"):
        uniform_soup([])
    with pytest.raises(InputError, match="against"):
        uniform_soup([tree(W), tree(W[:2])])


def test_a_greedy_soup_is_that_of_exhaustive_search_along_its_order():
    rng, target = np.random.default_rng(0), 0.3
    for _ in range(20):
        members = [{"w": np.asarray(w)} for w in rng.normal(size=5)]
        asked = []

        def score(one, asked=asked):
            asked.append(one)
            return -abs(float(one["w"]) - target)

        soup, kept = greedy_soup(members, score)
        order = sorted(range(5), key=lambda k: -score(members[k]))
        chosen = order[:1]
        for k in order[1:]:
            without, with_it = (np.mean([members[i]["w"] for i in some]) for some in (chosen, [*chosen, k]))
            if -abs(with_it - target) >= -abs(without - target):
                chosen.append(k)
        assert kept == chosen
        assert len(asked) == 9 + 5  # 2K − 1, and ours
        assert -abs(float(soup["w"]) - target) >= score(members[order[0]])


def test_one_that_changes_nothing_is_kept():
    assert greedy_soup([tree(W)] * 3, lambda one: 0.0)[1] == [0, 1, 2]


def test_without_a_common_basin_the_mean_of_two_good_models_is_no_model():
    """The same net with its hidden units in another order says the same; the mean of both says nothing."""
    one = {"trunk": {"kernel": np.array([[1.0, -1.0]])}, "head": {"kernel": np.eye(2)}}
    other = {"trunk": {"kernel": one["trunk"]["kernel"][:, ::-1]}, "head": {"kernel": one["head"]["kernel"][::-1]}}
    x = np.linspace(-1, 1, 21)[:, None]

    def said(net):
        return np.maximum(x @ net["trunk"]["kernel"], 0) @ net["head"]["kernel"]

    np.testing.assert_array_equal(said(one), said(other))
    assert np.abs(said(one)).max() == 1
    assert not said(uniform_soup([one, other])).any()
    soup, kept = greedy_soup([one, other], lambda net: float(np.mean(said(net).argmax(1) == (x[:, 0] < 0))))
    assert kept == [0]
    assert soup is one


# ---------------------------------------------------------------- an average beside a run


def test_the_average_starts_fast_and_is_that_of_fixed_numbers():
    average = {"w": jnp.float64(1)}
    for step, value in enumerate((2.0, 3.0, 4.0), start=1):
        average = ema(average, {"w": value}, 0.999, step)
    assert float(average["w"]) == pytest.approx(3.601399, abs=1e-6)
    late = ema({"w": jnp.float64(1)}, {"w": 2.0}, 0.5, 10**6)
    assert float(late["w"]) == pytest.approx(1.5)
    counted = ema({"n": jnp.int32(3)}, {"n": jnp.int32(7)}, 0.5, 1)
    assert int(counted["n"]) == 7


def test_the_decay_is_a_part_of_the_run():
    assert ema_decay(150) == pytest.approx(1 - 1 / 30)
    assert ema_decay(2) == 0.0
    with pytest.raises(InputError, match="outside"):
        ema_decay(100, 0.0)


def test_a_run_with_an_average_moves_as_without_and_averages_what_it_has_been():
    groups = {TRANSFERRED: Group(0.1), NEW: Group(0.2)}
    plain = make_program(forward, LABELS, TASK, groups, optimizer="adam")
    program, params, data = averaged(plain, 0.7), network(), batch()
    state, alone = program.start(with_average(Weights(params), params), KEY), plain.start(Weights(params), KEY)
    expected, step, plain_step = params, jax.jit(program.step), jax.jit(plain.step)
    for t in range(1, 13):
        state, _ = step(state, data, program.fixed())
        alone, _ = plain_step(alone, data, plain.fixed())
        kept = min(0.7, (1 + t) / (10 + t))
        expected = jax.tree.map(lambda e, w, kept=kept: kept * e + (1 - kept) * np.asarray(w), expected, alone.params)
    assert_close(state.params, alone.params, rtol=0, atol=0)
    left = of_average(Weights(state.params, state.model_state))
    assert_close(left.params, expected, rtol=1e-5)
    assert AVERAGE not in left.model_state
    with pytest.raises(InputError, match="no average"):
        program.step(plain.start(Weights(params), KEY), data, program.fixed())


def test_an_average_of_half_precision_is_kept_in_single():
    low = {"w": jnp.ones(3, jnp.bfloat16)}
    weights = with_average(Weights(low), low)
    average = weights.model_state[AVERAGE]
    for step in range(1, 40):
        average = ema(average, {"w": 2 * low["w"]}, 0.999, 500 + step)
    assert average["w"].dtype == jnp.float32
    assert float(average["w"][0]) == pytest.approx(
        2 - np.prod([min(0.999, s / (s + 9)) for s in range(502, 541)]), rel=1e-5
    )
    left = of_average(Weights(low, {AVERAGE: average}))
    assert left.params["w"].dtype == jnp.bfloat16


KEY = jax.random.key(0)


def test_an_average_is_no_optimizers_business():
    """The same average by optax, which knows no warm-up: from where it is over, both are one."""
    values, own = [1.0, 4.0, 2.0], {"w": jnp.float64(5)}
    theirs = optax.ema(0.9, debias=False)
    state = theirs.init(own)._replace(ema=own)
    for step, value in enumerate(values, start=1000):
        own = ema(own, {"w": value}, 0.9, step)
        _, state = theirs.update({"w": jnp.float64(value)}, state)
    assert float(own["w"]) == pytest.approx(float(state.ema["w"]))
