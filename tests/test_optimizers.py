"""`per_label` against PyTorch's parameter groups, the two forms of decay, and what a label can and cannot do."""

import functools
import importlib.util
import subprocess
import sys
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict
from oracles import torch_parameter_groups as oracle
from problems import (
    LABELS,
    TASK,
    assert_close,
    batch,
    forward,
    largest_gap,
    minus,
    network,
    quadratic,
    scaled,
    train,
    zeros,
)

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, everything, having, kernels
from jaxtl.losses import make_loss_fn
from jaxtl.optimizers import Group, per_label, pull_per_rate
from jaxtl.penalties import Term, l2, labelled
from jaxtl.proximal import Ball
from jaxtl.step import Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.trees import named_leaves

RATES = {TRANSFERRED: 0.3, NEW: 0.05}
STEPS = 20


def groups(kind, decay=RATES, learning_rate=0.05):
    return {label: Group(learning_rate, decay[label], kind) for label in (TRANSFERRED, NEW)}


def updates(tx, gradients, params, rates=None):
    return jax.jit(lambda: tx.update(gradients, tx.init(params), params, rates=rates)[0])()


# --- PyTorch's parameter groups ---


@pytest.fixture(scope="module")
def stored():
    with np.load(oracle.STORED, allow_pickle=False) as arrays:
        return dict(arrays)


def unflatten(arrays, prefix=""):
    return {
        module: {name: jnp.asarray(arrays[f"{prefix}{module}/{name}"]) for name in ("kernel", "bias")}
        for module in ("trunk", "head")
    }


@pytest.mark.parametrize("case", oracle.CASES)
def test_same_parameters_as_pytorch_parameter_groups_after_50_steps(case, stored):
    optimizer, momentum, kind, scheduled, clipped = oracle.CASES[case]
    rates = oracle.learning_rates(optimizer)
    tx = per_label(
        LABELS,
        {label: Group(rates[label], oracle.DECAY[label], kind) for label in rates},
        optimizer,
        momentum=momentum,
        schedule=optax.cosine_decay_schedule(1.0, oracle.STEPS) if scheduled else None,
        clip_norm=oracle.CLIP_NORM if clipped else None,
    )

    def mini_batch(data, rng, step):
        chosen = data["batches"][step]
        return {"image": data["images"][chosen], "label": data["classes"][chosen]}

    step = compile_step(make_train_step(total_gradient(make_loss_fn(forward, TASK)), tx, mini_batch))
    state = init_state(unflatten(stored), tx, jax.random.key(0))
    data = {name: jnp.asarray(stored[name]) for name in ("images", "classes", "batches")}
    for _ in range(oracle.STEPS):
        state, _ = step(state, data, Fixed())
    assert_close(state.params, unflatten(stored, f"{case}/"), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_pytorch_still_gives_the_stored_arrays(tmp_path, stored):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch: pip install '.[oracles]'")
    subprocess.run([sys.executable, oracle.__file__, tmp_path / "again.npz"], check=True, timeout=300)
    with np.load(tmp_path / "again.npz", allow_pickle=False) as again:
        assert set(again.files) == set(stored)
        for name in again.files:
            np.testing.assert_allclose(again[name], stored[name], rtol=1e-5, atol=1e-6, err_msg=name)


# --- a penalty in the loss, coupled decay, decoupled decay ---


@functools.cache
def decayed(kind, optimizer, momentum):
    if kind == "loss":
        penalty = labelled(LABELS, {label: Term(rate, l2) for label, rate in RATES.items()})
        tx = per_label(LABELS, groups("coupled", {TRANSFERRED: 0.0, NEW: 0.0}), optimizer, momentum=momentum)
    else:
        penalty, tx = None, per_label(LABELS, groups(kind), optimizer, momentum=momentum)
    return train(tx, network(), STEPS, penalty=penalty)


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("adam", 0)])
def test_a_penalty_in_the_loss_is_coupled_decay_to_rounding(optimizer, momentum):
    assert_close(decayed("loss", optimizer, momentum), decayed("coupled", optimizer, momentum), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("optimizer", "momentum", "same"), [("sgd", 0, True), ("sgd", 0.9, False), ("adam", 0, False)])
def test_decoupled_decay_is_the_penalty_only_for_sgd_without_momentum(optimizer, momentum, same):
    gap = largest_gap(decayed("coupled", optimizer, momentum), decayed("decoupled", optimizer, momentum))
    assert gap < 1e-6 if same else gap > 0.05


def end_of(kind, curvature, optimizer="sgd", momentum=0.0, learning_rate=0.05, target=3.0, steps=3000):
    """Where a long run on Σ ½ curvature (w − target)² with rate 0.1 ends."""
    labels = {"w": {"kernel": NEW}}
    penalty = labelled(labels, {NEW: Term(0.1, l2)}) if kind == "loss" else None
    group = Group(learning_rate, 0.0 if kind == "loss" else 0.1, "coupled" if kind == "loss" else kind)
    tx = per_label(labels, {NEW: group}, optimizer, momentum=momentum)
    start = {"w": {"kernel": jnp.zeros(len(curvature))}}
    return train(tx, start, steps, loss_fn=quadratic(curvature, target, penalty))["w"]["kernel"]


def ridge(curvature, rate, target=3.0):
    return np.array(curvature) * target / (np.array(curvature) + rate)


@pytest.mark.parametrize("kind", ["loss", "coupled"])
def test_with_momentum_a_coupled_rate_is_ridge(kind):
    end = end_of(kind, (1.0, 10.0), momentum=0.9)
    np.testing.assert_allclose(end, ridge((1.0, 10.0), 0.1), rtol=1e-5)
    np.testing.assert_allclose(end, (2.727, 2.970), atol=5e-4)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum_weakens_the_pull_of_a_decoupled_rate_by_1_minus_momentum(momentum):
    """The gradient is amplified to 1/(1 − momentum) of itself, a coupled pull with it, a decoupled pull not."""
    end = end_of("decoupled", (1.0, 10.0), momentum=momentum)
    np.testing.assert_allclose(end, ridge((1.0, 10.0), 0.1 * (1 - momentum)), rtol=1e-5)
    if momentum == 0.9:
        np.testing.assert_allclose(end, (2.970, 2.997), atol=5e-4)


def test_adam_reaches_ridge_when_coupled_and_not_when_decoupled():
    settings = {"curvature": (1.0, 100.0), "optimizer": "adam", "learning_rate": 0.01, "target": 1.0}
    solution = ridge((1.0, 100.0), 0.1, target=1.0)
    np.testing.assert_allclose(solution, (0.909, 0.999), atol=5e-4)
    np.testing.assert_allclose(end_of("coupled", **settings), solution, atol=1e-3)
    assert end_of("decoupled", **settings)[0] > 0.99


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_pull_per_rate_foretells_how_far_weights_shrink(kind):
    schedule, steps, momentum, rate = optax.cosine_decay_schedule(1.0, 2000), 2000, 0.9, 0.2
    pull = rate * pull_per_rate(1e-3, steps, schedule=schedule, momentum=momentum, decay_kind=kind)
    tx = per_label(LABELS, groups(kind, {TRANSFERRED: rate, NEW: 0.0}, 1e-3), momentum=momentum, schedule=schedule)
    flat = make_loss_fn(lambda params, state, batch, ctx: ({}, state), {"task": Term(1.0, lambda *_: jnp.float32(0))})
    end = train(tx, network(), steps, loss_fn=flat)
    shrunk = np.log(np.asarray(network()["trunk"]["kernel"]) / np.asarray(end["trunk"]["kernel"]))
    np.testing.assert_allclose(shrunk, pull, rtol=0.02)
    assert_close(end["head"], network()["head"])


# --- clipping ---


def test_clipping_is_global_over_the_labels_and_happens_once():
    gradients = scaled(10, network(1.3))
    norm = np.linalg.norm(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradients)]))
    tx = per_label(LABELS, {TRANSFERRED: Group(1.0), NEW: Group(0.5)}, clip_norm=2.0)
    moved = updates(tx, gradients, network())
    assert_close(moved["trunk"], scaled(-2 / norm, gradients["trunk"]))
    assert_close(moved["head"], scaled(-1 / norm, gradients["head"]))


def test_a_gradient_below_the_bound_is_not_clipped():
    tx = per_label(LABELS, {TRANSFERRED: Group(1.0), NEW: Group(1.0)}, clip_norm=1e6)
    assert_close(updates(tx, network(1.3), network()), scaled(-1, network(1.3)))


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_a_penalty_passes_through_clipping_and_optimizer_decay_does_not(kind):
    kernels = {"w": {"kernel": jnp.full(4, 10.0, jnp.float32)}}  # norm 20
    labels = {"w": {"kernel": NEW}}
    penalty = labelled(labels, {NEW: Term(1.0, l2)})
    in_loss = per_label(labels, {NEW: Group(0.1)}, clip_norm=1.0)
    end = train(in_loss, kernels, 1, loss_fn=quadratic((0.0,) * 4, 0.0, penalty))
    np.testing.assert_allclose(np.linalg.norm(minus(kernels, end)["w"]["kernel"]), 0.1, rtol=1e-4)
    in_optimizer = per_label(labels, {NEW: Group(0.1, 1.0, kind)}, clip_norm=1.0)
    end = train(in_optimizer, kernels, 1, loss_fn=quadratic((0.0,) * 4, 0.0))
    np.testing.assert_allclose(np.linalg.norm(minus(kernels, end)["w"]["kernel"]), 2.0, rtol=1e-4)


# --- frozen labels ---


def test_a_frozen_label_holds_no_optimizer_state():
    tx = per_label(LABELS, {TRANSFERRED: Group(frozen=True), NEW: Group(0.1)}, "adam")
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(tx.init(network())))
    head = [leaf.size for leaf in jax.tree.leaves(network()["head"])]
    assert sizes == sorted([1, 1, *head, *head])  # our step, Adam's count, two moments of the head


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", "coupled"), ("adam", "decoupled")])
def test_a_frozen_label_does_not_move_whatever_decays_beside_it(optimizer, kind):
    tx = per_label(LABELS, {TRANSFERRED: Group(frozen=True), NEW: Group(0.05, 0.5, kind)}, optimizer)
    end = train(tx, network(), 3)
    assert largest_gap(end["trunk"], network()["trunk"]) == 0
    assert largest_gap(end["head"], network()["head"]) > 1e-3


def test_freezing_in_the_optimizer_and_in_the_loss_is_the_same_training():
    tx = per_label(LABELS, {TRANSFERRED: Group(frozen=True), NEW: Group(0.1)}, momentum=0.9)
    held = make_loss_fn(forward, TASK, frozen=having(LABELS, TRANSFERRED))
    assert_close(train(tx, network(), 5), train(tx, network(), 5, loss_fn=held))


# --- rates, schedule, masks ---


def test_the_schedule_is_shared_and_advances_once_a_step():
    tx = per_label(LABELS, {TRANSFERRED: Group(1.0), NEW: Group(0.5)}, schedule=lambda step: 1.0 / (1.0 + step))
    state, ones, update = tx.init(network()), jax.tree.map(np.ones_like, network()), jax.jit(tx.update)
    for step in range(4):
        moved, state = update(ones, state, network())
        assert int(state.step) == step + 1
        np.testing.assert_allclose(moved["trunk"]["bias"], -1 / (1 + step), rtol=1e-6)
        np.testing.assert_allclose(moved["head"]["bias"], -0.5 / (1 + step), rtol=1e-6)


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_decay_reaches_kernels_unless_the_mask_says_otherwise(kind):
    usual = updates(per_label(LABELS, groups(kind)), zeros(network()), network())
    assert_close(usual["head"]["kernel"], scaled(-0.05 * 0.05, network()["head"]["kernel"]))
    assert (usual["head"]["bias"] == 0).all()
    every = updates(per_label(LABELS, groups(kind), decay_mask=everything), zeros(network()), network())
    assert_close(every["head"], scaled(-0.05 * 0.05, network()["head"]))


def test_rates_by_name_replace_the_groups_own():
    other = {TRANSFERRED: Group(0.01, 0.4, "coupled"), NEW: Group(0.2, 0.1, "decoupled")}
    start = {TRANSFERRED: Group(1.0, 1.0, "coupled"), NEW: Group(1.0, 1.0, "decoupled")}
    rates = {"decay/transferred": 0.4, "decay/new": 0.1, "learning_rate/transferred": 0.01, "learning_rate/new": 0.2}
    by_name = train(per_label(LABELS, start, "adam"), network(), 5, fixed=Fixed(rates))
    assert_close(by_name, train(per_label(LABELS, other, "adam"), network(), 5))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_many_rates_at_once_by_vmap_are_the_runs_one_by_one(dtype):
    tx = per_label(LABELS, groups("coupled"), momentum=0.9)
    epoch = make_epoch(make_train_step(total_gradient(make_loss_fn(forward, TASK)), tx), 5)
    params = jax.tree.map(lambda w: np.asarray(w, dtype), network())
    data = batch() | {"image": np.asarray(batch()["image"], dtype)}
    state = init_state(params, tx, jax.random.key(0))

    def end(rate, decay):
        return epoch(state, data, Fixed({"learning_rate/new": rate, "decay/transferred": decay}))[0]

    rates, decays = np.array([0.01, 0.1, 0.3], np.float32), np.array([0.5, 0.0, 0.1], np.float32)
    together, one = jax.jit(jax.vmap(end))(rates, decays), jax.jit(end)
    assert together.opt_state.step.tolist() == [5, 5, 5]
    assert {leaf.dtype for leaf in jax.tree.leaves(together.params)} == {jnp.dtype(dtype)}
    tolerance = 1e-6 if dtype == jnp.float32 else 0.02
    for position in range(3):
        mine = jax.tree.map(lambda leaf, at=position: np.asarray(leaf)[at], together.params)
        assert_close(mine, one(rates[position], decays[position]).params, rtol=tolerance, atol=tolerance)


def test_an_optimizer_of_ones_own():
    tx = per_label(LABELS, {TRANSFERRED: Group(0.1), NEW: Group(0.2)}, lambda: optax.scale_by_sign())
    moved = updates(tx, network(1.3), network())
    assert_close(moved["head"], jax.tree.map(lambda g: -0.2 * np.sign(g), network(1.3)["head"]))


# --- refusals ---

BOTH = {TRANSFERRED: Group(0.1), NEW: Group(0.1)}


@pytest.mark.parametrize("name", ["learning_rate", "decay"])
@pytest.mark.parametrize("value", [-0.1, -1, float("nan"), np.float32(-1)])
def test_negative_rates_are_refused(name, value):
    with pytest.raises(InputError, match=f"Group {name}: .* is negative or NaN"):
        Group(**{name: value})


@pytest.mark.parametrize("rates", [{"learning_rate": 0.1}, {"decay": 0.1}])
def test_a_frozen_group_takes_no_rates(rates):
    with pytest.raises(InputError, match=r"Group\(frozen=True\)"):
        Group(**rates, frozen=True)


def test_an_unknown_decay_kind_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match=r"Group decay_kind: 'decopled'\n  did you mean 'decoupled'\?"):
        Group(0.1, 0.1, "decopled")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({NEW: Group(0.1)}, r"groups\['transferred'\]: no group moves this label"),
        (BOTH | {"nwe": Group(0.1)}, r"groups\['nwe'\]: no parameter has this label\n  did you mean 'new'\?"),
    ],
)
def test_a_label_without_group_and_a_group_without_label_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        per_label(LABELS, given)


@pytest.mark.parametrize(
    ("optimizer", "settings", "message"),
    [
        ("adma", {}, r"per_label optimizer: unknown: 'adma'\n  did you mean 'adam'\?"),
        ("adam", {"momentum": 0.9}, "per_label momentum=0.9: 'adam' does not read it"),
        ("sgd", {"momentum": 1.0}, r"per_label momentum: 1.0 is outside \[0, 1\)"),
        ("sgd", {"momentum": -0.1}, r"per_label momentum: -0.1 is outside \[0, 1\)"),
    ],
)
def test_an_optimizer_or_momentum_that_cannot_be_used_is_refused(optimizer, settings, message):
    with pytest.raises(InputError, match=message):
        per_label(LABELS, BOTH, optimizer, **settings)


def test_labels_of_other_parameters_are_refused_by_init():
    with pytest.raises(InputError, match="labels: tail"):
        per_label(LABELS, BOTH).init(network() | {"tail": jnp.ones(1)})


def test_decay_that_reaches_no_parameter_is_refused():
    params = {"weight": jnp.ones(2)}
    with pytest.raises(InputError, match=r"groups\['new'\]: decay_mask selects no parameter labelled 'new'"):
        per_label({"weight": NEW}, {NEW: Group(0.1, 0.1)}).init(params)


@pytest.mark.parametrize("name", ["learning_rate/nwe", "decay/transferred"])
def test_a_rate_of_no_group_is_refused_also_outside_a_step(name):
    tx = per_label(LABELS, {TRANSFERRED: Group(frozen=True), NEW: Group(0.1)})
    with pytest.raises(InputError, match=rf"rates\['{name}'\]: no group reads this rate"):
        updates(tx, network(), network(), {name: 0.1})


def test_a_frozen_gradient_does_not_count_when_the_norm_is_clipped():
    gradients = {"trunk": {"kernel": jnp.full((4, 5), 100.0), "bias": jnp.zeros(5)}}
    gradients["head"] = {"kernel": jnp.zeros((5, 3)), "bias": jnp.array([3.0, 4.0, 0.0])}
    params = network()
    tx = per_label(LABELS, {TRANSFERRED: Group(frozen=True), NEW: Group(1.0)}, clip_norm=1.0)
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_allclose(updates["head"]["bias"], [-0.6, -0.8, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(updates["trunk"]["kernel"], 0.0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm: 0.0 is not positive"),
        ({"clip_norm": float("nan")}, "clip_norm: nan is not positive"),
        ({"optimizer": "nesterov"}, "'nesterov': has no momentum"),
    ],
)
def test_settings_without_a_meaning_are_refused(how, message):
    with pytest.raises(InputError, match=message):
        per_label(LABELS, {TRANSFERRED: Group(0.1), NEW: Group(0.1)}, **how)


# --- an optimizer of one's own must not be complete ---

COMPLETE = {
    "adamw": lambda: optax.adamw(1e-1),
    "sgd": lambda: optax.sgd(1.0),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "lion": lambda: optax.lion(1.0),
    "adafactor": lambda: optax.adafactor(1e-2),
    "muon": lambda: optax.contrib.muon(1e-2),
    "a warm-up that begins at 0": lambda: optax.adamw(optax.linear_schedule(0.0, 0.1, 10)),
    "turned round by hand": lambda: optax.chain(optax.scale_by_adam(), optax.scale(-1)),
    "turned round by a rate": lambda: optax.chain(optax.scale_by_lion(), optax.scale_by_learning_rate(0.1)),
}
UNSCALED = {
    "adam": optax.scale_by_adam,
    "rms": lambda: optax.scale_by_rms(),
    "clipped, with decay": lambda: optax.chain(optax.clip(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.1)),
    "scaled up": lambda: optax.chain(optax.scale_by_sign(), optax.scale(0.5)),
    "some steps together": lambda: optax.MultiSteps(optax.identity(), 2),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_an_optimizer_that_goes_downhill_by_itself_is_refused(name):
    with pytest.raises(
        InputError, match=r"per_label optimizer: it is complete.*\n  .*scale_by_adam for adamw"
    ) as error:
        per_label(LABELS, BOTH, COMPLETE[name])
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize("name", UNSCALED)
def test_an_optimizer_that_leaves_the_scale_to_the_group_goes_to_the_minimum(name):
    labels, params = {"kernel": NEW}, {"kernel": jnp.full((2, 2), 3.0)}
    tx = per_label(labels, {NEW: Group(0.2)}, UNSCALED[name])
    update, state = jax.jit(tx.update), tx.init(params)
    for _ in range(60):
        updates, state = update(params, state, params)  # the gradient of w²/2 is w
        params = optax.apply_updates(params, updates)
    assert float(jnp.max(jnp.abs(params["kernel"]))) < 0.5


def test_the_trial_of_an_optimizer_works_within_a_traced_function():
    moved = jax.jit(lambda g: per_label(LABELS, BOTH, optax.scale_by_sign).update(g, None, g)[0])
    with pytest.raises(AttributeError):  # the state is None; what comes before it has passed
        moved(network())


@pytest.mark.parametrize("given", [optax.scale_by_adam(), None, 3, optax.adamw, lambda: 3, lambda: "adam"])
def test_what_makes_no_transformation_is_refused(given):
    with pytest.raises(InputError, match=r"per_label optimizer: .*\n  give .*lambda: optax.scale_by_adam\(\)"):
        per_label(LABELS, BOTH, given)


# --- what does not move does not count; what does not decay is told ---


@pytest.mark.parametrize("by", ["group", "rates", "traced rates"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_label_with_learning_rate_0_does_not_count_when_the_norm_is_clipped(by, optimizer):
    gradients, params = jax.tree.map(lambda g: 100 * g, network(1.3)), network()
    groups = {TRANSFERRED: Group(0.0 if by == "group" else 1.0), NEW: Group(1.0)}
    tx = per_label(LABELS, groups, optimizer, clip_norm=0.5)
    frozen = per_label(LABELS, {TRANSFERRED: Group(frozen=True), NEW: Group(1.0)}, optimizer, clip_norm=0.5)
    rates = {} if by == "group" else {"learning_rate/transferred": 0.0}
    update = jax.jit(tx.update) if by == "traced rates" else tx.update
    moved, _ = update(gradients, tx.init(params), params, rates=rates)
    alone, _ = frozen.update(gradients, frozen.init(params), params)
    assert_close(moved["head"], alone["head"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(moved["trunk"]))
    if optimizer == "sgd":
        norm = np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moved["head"])]))
        assert norm == pytest.approx(0.5, rel=1e-5)


def test_clipping_is_that_of_optax_where_everything_moves():
    gradients = scaled(10, network(1.3))
    tx = per_label(LABELS, {TRANSFERRED: Group(1.0), NEW: Group(1.0)}, clip_norm=2.0)
    clipped = jax.jit(lambda g: optax.clip_by_global_norm(2.0).update(g, optax.EmptyState())[0])(gradients)
    assert_close(updates(tx, gradients, network()), scaled(-1, clipped), rtol=3e-7)


def test_clipping_no_gradient_at_all_and_its_slope_are_numbers():
    tx = per_label(LABELS, {TRANSFERRED: Group(1.0), NEW: Group(1.0)}, clip_norm=2.0)

    def length(factor):
        gradients = jax.tree.map(lambda g: factor * g, zeros(network()))
        return sum(jnp.sum(u) for u in jax.tree.leaves(tx.update(gradients, tx.init(network()), network())[0]))

    assert [float(value) for value in jax.value_and_grad(length)(1.0)] == [0.0, 0.0]


def test_the_norm_of_bfloat16_gradients_is_a_float32_sum():
    labels, ones = {"kernel": NEW}, {"kernel": jnp.ones((4096, 1), jnp.bfloat16)}  # norm 64
    moved = updates(per_label(labels, {NEW: Group(1.0)}, clip_norm=1.0), ones, ones)
    np.testing.assert_allclose(np.asarray(moved["kernel"], np.float32), -1 / 64, rtol=1e-2)


BIASES = {"trunk": {"kernel": TRANSFERRED, "bias": "biases"}, "head": {"kernel": NEW, "bias": NEW}}


@pytest.mark.parametrize("value", [0.5, 0.0])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_decay_given_as_a_rate_that_reaches_nothing_is_refused(value, compiled):
    tx = per_label(BIASES, {**BOTH, "biases": Group(0.1)})
    update = jax.jit(tx.update) if compiled else tx.update
    with pytest.raises(InputError, match=r"rates\['decay/biases'\]: decay_mask selects no parameter labelled 'biases'"):
        update(network(), tx.init(network()), network(), rates={"decay/biases": value})
    reached = per_label(BIASES, {**BOTH, "biases": Group(0.1)}, decay_mask=everything)
    moved = updates(reached, zeros(network()), network(), {"decay/biases": 0.5})
    assert_close(moved["trunk"]["bias"], scaled(-0.05, network()["trunk"]["bias"]))


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_weights_under_the_names_of_other_libraries_decay(kind):
    params = {
        "lstm": {"recurrent_kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)},
        "words": {"embeddings": jnp.ones((9, 2))},
    }
    params |= {"torch": {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}, "low": {"lora_a": jnp.ones((2, 1))}}
    tx = per_label(jax.tree.map(lambda _: NEW, params), {NEW: Group(1.0, 0.1, kind)})
    moved = updates(tx, zeros(params), params)
    expected = jax.tree.map(lambda w: np.full(w.shape, -0.1 if w.ndim > 1 else 0.0), params)
    assert_close(moved, expected)


# --- other kinds of trees, and what is no group ---


def turned(tree):
    """The same leaves under the same names, in the order in which nobody expects them."""
    return (
        OrderedDict((name, turned(part)) for name, part in reversed(tree.items())) if isinstance(tree, dict) else tree
    )


@pytest.mark.parametrize("kind", [turned, FrozenDict])
def test_labels_gradients_and_masks_of_another_kind_of_tree_change_nothing(kind):
    params, gradients = network(), network(1.3)
    groups = {TRANSFERRED: Group(frozen=True), NEW: Group(0.5, 0.1, proximal=Ball(0.3, ("anchor",)))}
    given = {"anchor": network(0.2)}

    def moved(params, gradients, labels, anchor, mask):
        tx = per_label(labels, groups, "adam", clip_norm=1.0, decay_mask=mask)
        return tx.update(gradients, tx.init(params), params, given={"anchor": anchor})[0]

    expected = moved(params, gradients, LABELS, given["anchor"], kernels)

    def other_mask(params):
        return kind(kernels(params))

    for found in (
        moved(params, kind(gradients), kind(LABELS), kind(given["anchor"]), other_mask),
        moved(kind(params), gradients, LABELS, given["anchor"], kernels),
    ):
        assert named_leaves(found).keys() == named_leaves(expected).keys()
        for path, leaf in named_leaves(found).items():
            np.testing.assert_allclose(leaf, named_leaves(expected)[path], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: per_label(LABELS, {**BOTH, NEW: 0.1}), r"groups\['new'\]: 0.1 is no Group"),
        (lambda: per_label(LABELS, {**BOTH, 1: Group(0.1)}), r"groups\['1'\]: no parameter has this label"),
        (lambda: per_label({"kernel": 1}, {1: Group(0.1)}), "labels: kernel has 1, which is no text"),
        (lambda: per_label(LABELS, BOTH, schedule=0.1), "per_label schedule: 0.1 is no function"),
        (lambda: per_label(LABELS, BOTH, decay_mask=LABELS), "per_label decay_mask: .* is no function"),
        (lambda: per_label(LABELS, BOTH, clip_norm="1"), "clip_norm: 1 is not positive"),
        (lambda: per_label(LABELS, BOTH, momentum="0.9"), "momentum: 0.9 is outside"),
        (lambda: Group(0.1, proximal=0.1), "Group proximal: 0.1"),
        (lambda: Group(0.1, 0.1, 3), "Group decay_kind: '3'"),
        (lambda: per_label(LABELS, BOTH).update(network(), None), "per_label: needs the parameters"),
        (
            lambda: updates(per_label(LABELS, BOTH), network(), network(), {"learning_rate/new": np.ones(2)}),
            "one number",
        ),
        (lambda: updates(per_label(LABELS, BOTH), network(), network(), {"decay/new": -1.0}), "is negative or NaN"),
        (lambda: updates(per_label(LABELS, BOTH, schedule=lambda t: np.ones(2)), network(), network()), "has shape"),
        (lambda: per_label(LABELS, BOTH, decay_mask=lambda p: {}).init(network()), "decay_mask: head/bias is a param"),
        (
            lambda: per_label(LABELS, BOTH, decay_mask=lambda p: p).init(network()),
            "decay_mask: the mask has .* at head",
        ),
    ],
)
def test_what_is_no_group_no_function_and_no_number_is_told_in_two_lines(make, message):
    with pytest.raises(InputError, match=message) as error:
        make()
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize("optimizer", ["adam", "nesterov"])
def test_a_label_that_begins_to_move_later_moves_as_if_it_began_there(optimizer):
    start, momentum = network(), {"momentum": 0.9} if optimizer == "nesterov" else {}
    late = Group(lambda step: jnp.where(step >= 3, 1.0, 0.0))
    tx = per_label(LABELS, {TRANSFERRED: late, NEW: Group(frozen=True)}, optimizer, **momentum)
    own = per_label(LABELS, {TRANSFERRED: Group(0.1), NEW: Group(frozen=True)}, optimizer, **momentum)
    fixed = Fixed({"learning_rate/transferred": 0.1})
    still = train(tx, start, 3, fixed=fixed)
    jax.tree.map(np.testing.assert_array_equal, still, start)
    assert_close(train(tx, start, 5, fixed=fixed), train(own, start, 2), 1e-5)
