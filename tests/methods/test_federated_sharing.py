"""What leaves a client: personal parts stay, frozen ones are not sent, statistics go with their module, noise."""

from __future__ import annotations

import functools
import math
import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federated_problem import LABELS, RATE, SIZES, compiled, data_of, local_program, run, scaffold_program, weights
from scipy.optimize import brentq
from scipy.stats import norm

from jaxtl.data import Split, local_epochs, on_clients
from jaxtl.devices.placement import make_mesh
from jaxtl.errors import InputError
from jaxtl.labels import label_params
from jaxtl.loop import fit
from jaxtl.losses import mean_of, softmax_cross_entropy
from jaxtl.methods.federated import Memory, Privacy, epsilon, rounds
from jaxtl.methods.federated.privacy import clipped
from jaxtl.models import Classifier, Cnn, as_forward, initial_model_state, initialise
from jaxtl.optimizers import Group
from jaxtl.penalties import Term
from jaxtl.program import Weights, make_program

K = len(SIZES)
VISIT = local_epochs(4, 2)
ALWAYS = (("shared", Group(lambda step: 1.0)), ("new", Group(lambda step: 1.0)))
HELD = (("shared", Group(frozen=True)), ("new", Group(RATE)))


@functools.cache
def made(local=None, visit=VISIT, **how):
    return rounds(local or local_program(), visit, **{"clients": K, **how})


PERSONAL = {"personal": ("new",)}


def client_of(weights, client):
    return weights.model_state.of_client(weights.params, client)


def weights_after(program, data, count=2, start=None, **how):
    state, _ = run(program, data, count, start=start, **how)
    return Weights(state.params, state.model_state)


def test_personal_parts_never_reach_the_server_or_another_client():
    """Another head of one client changes, in a round, no other client's; the server's is never touched."""
    program, data = made(**PERSONAL), data_of()
    state = program.start(weights(), jax.random.key(0))
    own = state.model_state.own["head/kernel"]
    assert own.shape == (K, 3, 2)
    other = state._replace(model_state=state.model_state._replace(own={"head/kernel": own.at[2].add(1.0)}))
    ended = [compiled(program)(one, data, program.fixed())[0] for one in (state, other)]
    heads = [np.asarray(one.model_state.own["head/kernel"]) for one in ended]
    for k in set(range(K)) - {2}:
        np.testing.assert_array_equal(heads[0][k], heads[1][k])
        assert np.any(heads[0][k] != own[k])
    assert np.any(heads[0][2] != heads[1][2])
    for one in ended:
        np.testing.assert_array_equal(one.params["head"]["kernel"], weights().params["head"]["kernel"])
    assert np.any(ended[0].params["trunk"]["kernel"] != ended[1].params["trunk"]["kernel"])  # by what is shared


def test_no_mean_over_clients_has_the_shape_of_a_personal_part():
    """Outside of what clients do, nothing makes one [3, 2] of K of them, as something makes one [4, 3] of K."""
    program = made(**PERSONAL)
    traced = jax.make_jaxpr(program.step)(program.start(weights(), jax.random.key(0)), data_of(), program.fixed())

    def reduced(shape):
        return [
            eqn
            for eqn in traced.jaxpr.eqns
            if any(getattr(given.aval, "shape", None) == (K, *shape) for given in eqn.invars)
            and any(made.aval.shape == shape for made in eqn.outvars)
        ]

    assert reduced((4, 3))
    assert not reduced((3, 2))


def test_a_client_that_is_not_drawn_keeps_its_part_and_everything_personal_is_training_alone():
    data, everything = data_of(), ("shared", "new")
    some = weights_after(made(sampled=2, **PERSONAL), data, 1)
    heads, began = some.model_state.own["head/kernel"], np.asarray(weights().params["head"]["kernel"])
    moved = np.any(np.asarray(heads) != began, axis=(1, 2))
    assert moved.sum() == 2
    alone = weights_after(made(personal=everything), data)
    jax.tree.map(np.testing.assert_array_equal, alone.params, weights().params)
    own = data_of(SIZES[:1])
    one = weights_after(rounds(local_program(), VISIT, clients=1), own)
    wide = {**data, **{name: data[name][:1] for name in ("count", "weight", "client", "index")}}
    first = weights_after(made(clients=1, personal=everything), wide)
    for part in LABELS:
        kernel = client_of(alone, 0).params[part]["kernel"]
        np.testing.assert_allclose(client_of(first, 0).params[part]["kernel"], kernel, 1e-5, 1e-6)
        assert np.any(client_of(alone, 1).params[part]["kernel"] != kernel)
    assert one.model_state.server(one.params) == (one.params, {})
    assert (one.model_state.personal, alone.model_state.personal) == ((), ("head/kernel", "trunk/kernel"))


def test_personal_parts_learn_first_and_the_others_then():
    """One client, four steps: two of the head, the trunk held, then two of the trunk, with momentum of their own."""
    data = data_of((16,))
    local = local_program(groups=ALWAYS, momentum=0.9)
    program = rounds(local, local_epochs(4), clients=1, personal_first=0.5, **PERSONAL)
    rates = {"learning_rate/shared": RATE, "learning_rate/new": RATE}
    found = client_of(weights_after(program, data, 1, rates=rates), 0).params
    rows, _ = local_epochs(4)(data, 0, 0)
    state = local.start(weights(), jax.random.key(0))
    for step, own in enumerate(rows):
        held = {"learning_rate/shared": RATE * (step >= 2), "learning_rate/new": RATE * (step < 2)}
        batch = {name: a[own] for name, a in data["examples"].items()}
        state, _ = compiled(local)(state, batch, local.fixed({name: jnp.float32(rate) for name, rate in held.items()}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), found, state.params)


def test_bytes_follow_from_the_labels():
    start = weights()  # a trunk of 12 numbers, a head of 6
    assert made().traffic(start) == (72, 72)
    assert made(**PERSONAL).traffic(start) == (48, 48)
    assert made(scaffold_program(), controls=True, **PERSONAL).traffic(start) == (96, 96)
    frozen = made(local_program(groups=HELD))
    assert frozen.traffic(start) == (24, 24)
    after = weights_after(frozen, data_of(), 1)
    assert frozen.traffic(after) == (24, 24)
    np.testing.assert_array_equal(after.params["trunk"]["kernel"], start.params["trunk"]["kernel"])
    assert made(personal=("shared", "new")).traffic(start) == (0, 0)


@pytest.fixture(scope="module")
def batch_normalised():
    """(visit, data, labelled program with a personal normalisation or not, start) of a CNN with batch statistics."""
    model = Classifier(Cnn((2, 3), "batch"), (("head", 2),))
    params = initialise(model, jax.random.key(0), (4, 4, 1))
    start = Weights(params, initial_model_state(model, (4, 4, 1)))
    rng = np.random.default_rng(0)
    split = Split(rng.normal(size=(12, 4, 4, 1)).astype(np.float32), np.arange(12, dtype=np.int32) % 2)
    data = on_clients(split, [np.arange(4), np.arange(4, 12)], jax.random.key(0))

    def program(rules):
        labels = label_params(params, rules)
        groups = {label: Group(0.1) for label in {*jax.tree.leaves(labels)}}
        task = {"task": Term(1.0, mean_of(softmax_cross_entropy))}
        return make_program(as_forward(model), labels, task, groups)

    return data, program, start


def test_statistics_stay_with_a_normalisation_that_is_personal_and_are_averaged_otherwise(batch_normalised):
    data, program, start = batch_normalised
    visit = local_epochs(4)
    shared = rounds(program([(".*", "shared")]), visit, clients=2)
    own = rounds(program([(".*norm.*", "norm"), (".*", "shared")]), visit, clients=2, personal=("norm",))
    one, other = (weights_after(of, data, 1, start=start) for of in (shared, own))
    assert {path.rpartition("/")[2] for path in other.model_state.own} == {"scale", "bias"}
    assert {path.rpartition("/")[2] for path in other.model_state.own_state} == {"mean", "var"}
    jax.tree.map(np.testing.assert_array_equal, other.model_state.state, start.model_state)
    assert one.model_state.own_state == {}
    statistics = [jax.tree.leaves(client_of(other, k).model_state) for k in range(2)]
    for first, second, averaged in zip(*statistics, jax.tree.leaves(one.model_state.state), strict=True):
        if first.shape == (2,):  # the first layer's, whose inputs are the same whatever is personal, in the first step
            assert np.any(first != second)
        assert np.all(np.isfinite(averaged))
    sent = own.traffic(start).up
    assert shared.traffic(start).up - sent == 4 * 4 * (2 + 3)
    assert own.traffic(other).up == sent


def test_a_state_without_a_mean_is_refused():
    program = made()
    with pytest.raises(InputError, match="int32 has no mean over clients"):
        program.start(weights()._replace(model_state={"count": {"n": jnp.int32(0)}}), jax.random.key(0))


# ---------------------------------------------------------------- privacy


def test_changes_are_clipped_to_the_bound_over_all_leaves_and_short_ones_are_not():
    change = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    for bound, factor in ((2.5, 0.5), (5.0, 1.0), (50.0, 1.0)):
        leaves, short = jax.jit(clipped, static_argnums=1)(change, bound)
        np.testing.assert_allclose(leaves["a"], factor * change["a"], rtol=1e-6)
        np.testing.assert_allclose(leaves["b"], factor * change["b"], rtol=1e-6)
        assert float(short) == (factor < 1)
    leaves, _ = clipped({"a": jnp.zeros(2)}, 1.0)
    np.testing.assert_array_equal(leaves["a"], 0.0)


def test_noise_has_the_deviation_that_is_said_and_every_client_counts_alike():
    """‖mean of clipped changes‖ ≤ C whatever the weights; over many seeds entries of the noise are N(0, (zC/S)²)."""
    data = data_of(weights=np.array([1000.0, 1.0, 1.0, 1.0, 1.0]))
    bound = 0.01
    silent = weights_after(made(privacy=Privacy(bound, 0.0)), data, 1)
    state, metrics = run(made(privacy=Privacy(bound, 0.0)), data, 1)
    equal = weights_after(made(privacy=Privacy(bound, 0.0)), data_of(), 1)
    jax.tree.map(np.testing.assert_array_equal, silent.params, equal.params)
    assert float(metrics["clipped"]) == pytest.approx(1.0)
    moved = [np.asarray(a - b) for a, b in zip(*map(jax.tree.leaves, (silent.params, weights().params)), strict=True)]
    assert math.sqrt(sum(np.sum(one**2) for one in moved)) <= bound * 1.001
    noisy, found = made(privacy=Privacy(bound, 3.0)), []
    for seed in range(60):
        after = weights_after(noisy, data, 1, seed=seed)
        pairs = zip(jax.tree.leaves(after.params), jax.tree.leaves(silent.params), strict=True)
        found.append(np.concatenate([np.ravel(a - b) for a, b in pairs]))
    found = np.array(found)
    assert found.std() == pytest.approx(3.0 * bound / K, rel=0.1)
    assert abs(found.mean()) < 4 * 3.0 * bound / K / math.sqrt(found.size)
    assert abs(np.corrcoef(found[:, 0], found[:, -1])[0, 1]) < 0.5
    assert state.step == 1


def test_what_noise_would_not_cover_is_refused(batch_normalised):
    with pytest.raises(InputError, match="control variates would leave a client without noise"):
        made(scaffold_program(), controls=True, privacy=Privacy(1.0, 1.0))
    data, program, start = batch_normalised
    private = rounds(program([(".*", "shared")]), local_epochs(4), clients=2, privacy=Privacy(1.0, 1.0))
    state = private.start(start, jax.random.key(0))
    with pytest.raises(InputError, match="would leave a client without noise"):
        jax.eval_shape(private.step, state, data, private.fixed())


@pytest.mark.parametrize("values", [(0.0, 1.0), (-1.0, 1.0), (1.0, -0.1), (math.inf, 1.0), (1.0, math.nan)])
def test_bounds_and_noise_that_make_no_sense_are_refused(values):
    with pytest.raises(InputError, match="Privacy"):
        Privacy(*values)


def exact_gaussian(noise, delta):
    """ε of one Gaussian of sensitivity 1, by the closed form of Balle and Wang (2018)."""

    def excess(eps):
        return norm.cdf(0.5 / noise - eps * noise) - math.exp(eps) * norm.cdf(-0.5 / noise - eps * noise) - delta

    return brentq(excess, 0, 200)


def test_epsilon_without_sampling_is_that_of_gaussians_one_after_another():
    """T releases with noise z/2 are one with noise z/2√T; a bound by Rényi divergences is above, and not far."""
    pytest.importorskip("dp_accounting")
    for noise, count in ((4.0, 50), (20.0, 10)):
        exact = exact_gaussian(noise / 2 / math.sqrt(count), 1e-5)
        found = epsilon(Privacy(1.0, noise), clients=100, sampled=100, rounds=count, delta=1e-5)
        assert exact < found < 1.15 * exact
        fewer = epsilon(Privacy(1.0, noise), clients=100, sampled=10, rounds=count, delta=1e-5)
        assert fewer < found
    assert found == epsilon(Privacy(7.0, noise), clients=100, sampled=100, rounds=count, delta=1e-5)


def test_the_accountant_is_told_half_the_noise_and_the_exchange_of_a_client(monkeypatch):
    told = []

    class Accountant:
        def __init__(self, neighboring_relation):
            told.append(neighboring_relation)

        def compose(self, event, count):
            told.append((event, count))

        def get_epsilon(self, delta):
            return 1.5

    library, rdp = ModuleType("dp_accounting"), ModuleType("dp_accounting.rdp")
    library.GaussianDpEvent = lambda noise: ("gaussian", noise)
    library.SampledWithoutReplacementDpEvent = lambda *of: ("sampled", *of)
    library.NeighboringRelation = type("R", (), {"REPLACE_ONE": "replace one"})
    library.rdp, rdp.RdpAccountant = rdp, Accountant
    monkeypatch.setitem(sys.modules, "dp_accounting", library)
    monkeypatch.setitem(sys.modules, "dp_accounting.rdp", rdp)
    assert epsilon(Privacy(0.3, 2.0), clients=50, sampled=5, rounds=7, delta=1e-3) == 1.5
    assert told == ["replace one", (("sampled", 50, 5, ("gaussian", 1.0)), 7)]
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(InputError, match="dp-accounting is not installed"):
        epsilon(Privacy(0.3, 2.0), clients=50, sampled=5, rounds=7, delta=1e-3)
    assert epsilon(Privacy(0.3, 0.0), clients=50, sampled=5, rounds=7, delta=1e-3) == math.inf
    for wrong in ({"sampled": 51}, {"delta": 0.0}, {"delta": 1.0}, {"rounds": 0}):
        with pytest.raises(InputError, match=f"epsilon {next(iter(wrong))}"):
            epsilon(Privacy(0.3, 2.0), **{"clients": 50, "sampled": 5, "rounds": 7, "delta": 1e-3, **wrong})


# ---------------------------------------------------------------- devices


@pytest.mark.parametrize("sampled", [K, 2])
def test_two_devices_do_what_one_does_with_any_number_of_clients(sampled):
    program, data = made(scaffold_program(), sampled=sampled, controls=True, **PERSONAL), data_of()

    def fitted(mesh):
        state = program.start(weights(), jax.random.key(3))
        return fit(program.step, state, data, program.fixed(), steps=2, chunk=2, mesh=mesh)

    (one, first), (two, second) = fitted(None), fitted(make_mesh(["data:2"]))
    assert isinstance(two.model_state, Memory)
    for a, b in zip(*map(jax.tree.leaves, ((one.params, one.model_state), (two.params, two.model_state))), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)
    assert first[-1]["loss"] == pytest.approx(second[-1]["loss"], rel=1e-5)
