"""The rooms together: transfer → labelled penalty → per-label optimizer → compiled step, on any pytree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from oracles import references
from problems import LABELS, TASK, assert_close, batch, forward, largest_gap, network, scaled, train, wave

from jaxtl.labels import NEW, TRANSFERRED, count_by_label, kernels, label_params
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy, squared_error
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.transfer import transfer

# --- ridge towards a source, in closed form ---

X, Y = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([1.0, 2.0, 4.0])
SOURCE = np.array([0.5, -1.0])


def linear(params, model_state, batch, ctx):
    """One weight a feature; the trunk has the first features and the head the others."""
    split = params["trunk"]["kernel"].shape[0]
    x = batch["image"]
    return {"head": x[:, :split] @ params["trunk"]["kernel"] + x[:, split:] @ params["head"]["kernel"]}, model_state


def fit_linear(moved, terms, x, y, rates=None, steps=3000):
    """Minimise ½‖x w − y‖² and the penalty: the sum of errors is len(x) times their mean, the rate of the task."""
    task = {"task": Term(len(x), mean_of(squared_error, target="target"))}
    loss_fn = make_loss_fn(linear, task, labelled(moved.labels, terms))
    groups = {label: Group(0.02) for label in count_by_label(moved.params, moved.labels)}
    tx = per_label(moved.labels, groups, momentum=0.9)
    data = {"image": jnp.asarray(x, jnp.float32), "target": jnp.asarray(y, jnp.float32)}
    fixed = Fixed(rates or {}, {"anchor": moved.anchor})
    end = train(tx, moved.params, steps, loss_fn=loss_fn, data=data, fixed=fixed)
    return np.concatenate([end["trunk"]["kernel"], end["head"]["kernel"]])


def transferred(trunk, head):
    """A source with this trunk, transferred to a model with this fresh head."""
    fresh = {"trunk": {"kernel": jnp.zeros(len(trunk))}, "head": {"kernel": jnp.asarray(head, jnp.float32)}}
    return transfer({"trunk": {"kernel": jnp.asarray(trunk, jnp.float32)}}, fresh, reinit=("head/.*",))


@pytest.mark.parametrize(("rate", "solution"), [(1.0, (1.2, 0.9)), (10.0, (0.967742, -0.193548))])
def test_the_full_path_reaches_ridge_towards_the_source(rate, solution):
    np.testing.assert_allclose(references.ridge(X, Y, np.full(2, rate), SOURCE), solution, rtol=3e-6)
    moved = transferred(SOURCE, np.zeros(0))
    end = fit_linear(moved, {TRANSFERRED: Term(rate, l2, ("anchor",))}, X, Y)
    np.testing.assert_allclose(end, solution, rtol=1e-5)


@pytest.mark.parametrize("rates", [(0.5, 4.0), (4.0, 0.5)])
def test_transferred_and_new_weights_are_pulled_by_rates_of_their_own(rates):
    x, y = np.asarray(wave(0.9, 12, 5), np.float64), np.asarray(wave(0.4, 12), np.float64)
    trunk = np.array([0.5, -1.0, 2.0])
    moved = transferred(trunk, (0.3, -0.3))
    per_weight = np.repeat(rates, (3, 2))
    solution = references.ridge(x, y, per_weight, np.concatenate([trunk, np.zeros(2)]))
    terms = {TRANSFERRED: Term(1.0, l2, ("anchor",)), NEW: Term(1.0, l2)}
    by_name = {"penalty/transferred": rates[0], "penalty/new": rates[1]}
    np.testing.assert_allclose(fit_linear(moved, terms, x, y, by_name), solution, atol=1e-5)


# --- all methods of one structure in one compiled program ---

TERMS = {
    TRANSFERRED: {"zero": Term(0.0, l2), "source": Term(0.0, l2, ("anchor",))},
    NEW: Term(0.0, l2),
}
OFF = {
    "penalty/transferred/zero": 0.0,
    "penalty/transferred/source": 0.0,
    "penalty/new": 0.0,
    "learning_rate/transferred": 0.1,
    "learning_rate/new": 0.1,
}
# name: (rates of the common program, terms of a program of its own, learning rate of its trunk)
METHODS = {
    "fine_tune": ({}, {}, 0.1),
    "l2": (
        {"penalty/transferred/zero": 0.3, "penalty/new": 0.3},
        {TRANSFERRED: Term(0.3, l2), NEW: Term(0.3, l2)},
        0.1,
    ),
    "l2_differential": (
        {"penalty/transferred/zero": 0.1, "penalty/new": 0.9},
        {TRANSFERRED: Term(0.1, l2), NEW: Term(0.9, l2)},
        0.1,
    ),
    "l2_sp": (
        {"penalty/transferred/source": 0.7, "penalty/new": 0.2},
        {TRANSFERRED: Term(0.7, l2, ("anchor",)), NEW: Term(0.2, l2)},
        0.1,
    ),
    "lr_ratio": ({"learning_rate/transferred": 0.01}, {}, 0.01),
}


def program(terms, trunk_rate, steps=10):
    tx = per_label(LABELS, {TRANSFERRED: Group(trunk_rate), NEW: Group(0.1)}, momentum=0.9)
    loss_fn = make_loss_fn(forward, TASK, labelled(LABELS, terms))
    return compile_step(make_epoch(make_train_step(total_gradient(loss_fn), tx), steps)), tx


def test_all_methods_are_one_compiled_program_and_each_is_its_own_method():
    common, tx = program(TERMS, 0.1)
    given, ends = {"anchor": network(1.9)}, {}
    for name, (rates, terms, trunk_rate) in METHODS.items():
        start = init_state(network(), tx, jax.random.key(0))
        ends[name] = common(start, batch(), Fixed(OFF | rates, given))[0].params
        alone, own_tx = program(terms, trunk_rate)
        own, _ = alone(init_state(network(), own_tx, jax.random.key(0)), batch(), Fixed({}, given))
        assert_close(ends[name], own.params, rtol=1e-5, atol=1e-5)
    assert common._cache_size() == 1
    names = list(METHODS)
    gaps = {(a, b): largest_gap(ends[a], ends[b]) for a in names for b in names if a < b}
    assert min(gaps.values()) > 1e-2, gaps


def test_another_anchor_does_not_compile_again():
    common, tx = program(TERMS, 0.1)
    rates = OFF | {"penalty/transferred/source": 0.7}
    ends = [
        common(init_state(network(), tx, jax.random.key(0)), batch(), Fixed(rates, {"anchor": network(speed)}))[
            0
        ].params
        for speed in (1.9, 0.3)
    ]
    assert common._cache_size() == 1
    assert largest_gap(*ends) > 1e-2


# --- any pytree ---


def check_trains(params, forward):
    """Labels, a penalty towards an anchor, decay, a frozen trunk: on parameters of any structure."""
    labels = label_params(params, [(r"head/.*", NEW), (".*", TRANSFERRED)])
    assert set(count_by_label(params, labels)) == {NEW, TRANSFERRED}
    assert sum(jax.tree.leaves(kernels(params))) == 2
    penalty = labelled(labels, {TRANSFERRED: Term(0.5, l2, ("anchor",))})
    loss_fn = make_loss_fn(forward, {"task": Term(1.0, mean_of(softmax_cross_entropy))}, penalty)
    fixed = Fixed({"penalty/transferred": 0.3}, {"anchor": scaled(0.9, params)})

    def end(trunk):
        tx = per_label(labels, {TRANSFERRED: trunk, NEW: Group(0.1, 0.3, "coupled")}, momentum=0.9)
        return train(tx, params, 5, loss_fn=loss_fn, fixed=fixed)

    for label, before, after in zip(*map(jax.tree.leaves, (labels, params, end(Group(frozen=True)))), strict=True):
        assert np.array_equal(before, after) == (label == TRANSFERRED)
    return end(Group(0.1))


@functools.cache
def expected():
    """The same training on nested dicts."""
    return check_trains(network(), forward)


class Network(nnx.Module):
    def __init__(self):
        self.trunk, self.head = (nnx.Linear(*sizes, rngs=nnx.Rngs(0)) for sizes in ((4, 5), (5, 3)))
        for name in ("trunk", "head"):
            for leaf, values in network()[name].items():
                getattr(getattr(self, name), leaf)[...] = values

    def __call__(self, x):
        return self.head(jnp.tanh(self.trunk(x)))


def test_an_nnx_state_trains():
    graph, params = nnx.split(Network(), nnx.Param)
    assert jax.tree.structure(params) == jax.tree.structure(nnx.state(Network(), nnx.Param))

    def run(params, model_state, batch, ctx):
        return {"head": nnx.merge(graph, params)(batch["image"])}, model_state

    with jax.numpy_rank_promotion("allow"):  # inside nnx.Linear
        end = check_trains(params, run)
        assert_close(nnx.to_pure_dict(end), expected(), rtol=1e-5)


def test_the_pure_dict_of_an_nnx_state_trains():
    graph, state = nnx.split(Network(), nnx.Param)

    def run(params, model_state, batch, ctx):
        whole = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(whole, params)
        return {"head": nnx.merge(graph, whole)(batch["image"])}, model_state

    with jax.numpy_rank_promotion("allow"):
        assert_close(check_trains(nnx.to_pure_dict(state), run), expected(), rtol=1e-5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.kernel + self.bias[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TwoLayers:
    trunk: Linear
    head: Linear

    def __call__(self, x):
        return self.head(jnp.tanh(self.trunk(x)))


def test_a_dataclass_in_the_manner_of_equinox_trains():
    params = TwoLayers(*(Linear(**network()[name]) for name in ("trunk", "head")))
    end = check_trains(params, lambda params, state, batch, ctx: ({"head": params(batch["image"])}, state))
    assert_close({name: dataclasses.asdict(getattr(end, name)) for name in ("trunk", "head")}, expected())


def test_a_list_of_layers_trains():
    params = {"layers": [network()["trunk"]], "head": network()["head"]}

    def run(params, model_state, batch, ctx):
        return forward({"trunk": params["layers"][0], "head": params["head"]}, model_state, batch, ctx)

    end = check_trains(params, run)
    assert_close({"trunk": end["layers"][0], "head": end["head"]}, expected())


# --- schedules through the whole path ---


def test_a_cosine_schedule_ends_where_it_stands():
    tx = per_label(
        LABELS,
        {TRANSFERRED: Group(0.1), NEW: Group(0.1)},
        momentum=0.9,
        schedule=optax.cosine_decay_schedule(1.0, 10),
    )
    step, ends = make_train_step(total_gradient(make_loss_fn(forward, TASK)), tx), []
    step, state = compile_step(step), init_state(network(), tx, jax.random.key(0))
    for _ in range(12):
        state, _ = step(state, batch(), Fixed())
        ends.append(jax.tree.map(np.asarray, state.params))
    assert largest_gap(ends[8], ends[9]) > 1e-6
    assert largest_gap(ends[9], ends[11]) == 0
