"""Server and clients apart end where the one program of rounds does: in one process, and as processes of Flower."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federated_problem import SIZES, data_of, local_program, scaffold_program, weights

from jaxtl import checkpoints
from jaxtl.data import Split, local_epochs
from jaxtl.errors import InputError
from jaxtl.flower import Own, Plan, keys
from jaxtl.flower.serve import serve
from jaxtl.flower.work import Kept, Lasting, present, work
from jaxtl.methods.federated import Privacy, fed_adam, rounds

K, SEED = len(SIZES), 3
VISIT = local_epochs(4, 2)


def split_of(client):
    """The examples of one client, and nobody else's."""
    data = data_of()
    rows = np.asarray(data["index"][client][: int(data["count"][client])])
    return Split(**{name: np.asarray(field)[rows] for name, field in data["examples"].items()})


class Here:
    """Clients in this process, each with its own examples only."""

    def __init__(self, plan, tmp_path, gone=(), spoil=None):
        self.plan, self.gone, self.spoil, self.parcels = plan, set(gone), spoil or {}, []
        self.own = [Own(client, split_of(client), tmp_path / f"client{client}") for client in range(K)]

    def present(self, wanted):
        said = [present(self.plan, own) for own in self.own if own.client not in self.gone]
        return {one["client"]: one["weight"] for one in said}

    def ask(self, clients, sent):
        answers = {client: work(self.plan, self.own[client], sent) for client in clients}
        self.parcels.append((sent, answers))
        return {client: self.spoil.get(client, lambda parcel: parcel)(parcel) for client, parcel in answers.items()}


def alone(program, count=4, rates=None, gone=()):
    """The same rounds in one program."""
    rng, order = keys(SEED)
    data = {**data_of(), "order": order}
    data["weight"] = jnp.where(jnp.isin(data["client"], jnp.array(list(gone) or [-1])), 0.0, data["weight"])
    state, step = program.start(weights(), rng), jax.jit(program.step)
    for _ in range(count):
        state, metrics = step(state, data, program.fixed(rates))
    return state, metrics


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), a, b)


WAYS = {
    "fedavg": (local_program, {}, {}),
    "fedprox": (lambda: local_program(mu=0.3), {"sampled": 3}, {"penalty/new": 0.2}),
    "fedadam": (local_program, {"server": fed_adam}, {"server_learning_rate": 0.03}),
    "scaffold": (scaffold_program, {"controls": True, "sampled": 3}, {}),
    "personal": (local_program, {"personal": ("new",), "sampled": 3}, {"learning_rate/new": 0.1}),
}


@pytest.mark.parametrize("way", WAYS)
def test_server_and_clients_apart_end_where_one_program_does(way, tmp_path):
    make, how, rates = WAYS[way]
    program = rounds(make(), VISIT, clients=K, **how)
    plan = Plan(program, weights(), 4, SEED, rates, tmp_path / "server")
    fleet, said = Here(plan, tmp_path), []
    state = serve(plan, fleet, say=said.append)
    expected, metrics = alone(program, rates=rates)
    close(state.params, expected.params)
    close(state.model_state.control, expected.model_state.control)
    assert f"loss {float(metrics['loss']):.4g}" in said[-1]
    saved = checkpoints.load_weights(tmp_path / "server/model.safetensors")
    close(saved, state.params)


def small_plan(tmp_path, count=3, **how):
    return Plan(rounds(local_program(), VISIT, clients=K, **how), weights(), count, SEED, workdir=tmp_path / "server")


def test_a_lost_client_is_told_and_the_mean_is_over_the_others(tmp_path):
    plan, said = small_plan(tmp_path), []
    spoil = {
        0: lambda parcel: "its process ended",
        2: lambda parcel: parcel._replace(arrays={path: leaf * np.nan for path, leaf in parcel.arrays.items()}),
        3: lambda parcel: parcel._replace(arrays={**parcel.arrays, "params/trunk/bias": np.ones(3, np.float32)}),
        4: lambda parcel: parcel._replace(numbers={**parcel.numbers, "round": 7}),
    }
    state = serve(plan, Here(plan, tmp_path, spoil=spoil), say=said.append)
    close(state.params, alone(plan.program, 3, gone=spoil)[0].params)
    assert [line for line in said if line.startswith("round 2:")] == [
        "round 2: client 0 is lost: its process ended",
        "round 2: client 2 is lost: its change is not finite",
        "round 2: client 3 is lost: 'params/trunk/bias' is float32[3], not expected at all",
        "round 2: client 4 is lost: it answers another round",
    ]
    assert any(line.startswith("round 2 of 3: 1 of 5 clients, loss ") for line in said)


def test_a_client_that_is_not_there_is_told_once_and_welcome_later(tmp_path):
    plan, said = small_plan(tmp_path, sampled=3), []
    fleet = Here(plan, tmp_path, gone=[1])
    ask = fleet.ask

    def then_it_comes(clients, sent):
        assert sent.numbers["round"] or 1 not in clients
        fleet.gone.clear()
        return ask(clients, sent)

    fleet.ask = then_it_comes
    serve(plan, fleet, say=said.append)
    assert [line for line in said if "without" in line] == ["round 1: without client 1, which did not come"]


def test_too_few_replies_end_the_run_and_the_same_call_goes_on_to_the_same_end(tmp_path):
    """A server that ends anywhere goes on with the round that was not saved; so do clients with parts of their own."""
    plan = small_plan(tmp_path, 4, personal=("new",))
    fleet = Here(plan, tmp_path)
    ask = fleet.ask

    def killed(clients, sent):
        answers = ask(clients, sent)  # clients have done their part of round 3 and have kept it
        return {client: "gone" for client in clients} if sent.numbers["round"] == 2 else answers

    fleet.ask = killed
    with pytest.raises(InputError, match="round 3: 0 of 5 clients answered, 1 are needed") as stopped:
        serve(plan, fleet, say=lambda line: None)
    assert "goes on with this round" in str(stopped.value)
    fleet.ask, said = ask, []
    state = serve(plan, fleet, say=said.append)
    assert said[0] == "goes on after round 2"
    assert [sent.numbers["round"] for sent, _ in fleet.parcels] == [0, 1, 2, 2, 3]
    first, again = (answers for _, answers in fleet.parcels[2:4])
    for client, parcel in first.items():
        jax.tree.map(np.testing.assert_array_equal, parcel.arrays, again[client].arrays)
    close(state.params, alone(plan.program)[0].params)
    lines = (tmp_path / "server/metrics.jsonl").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == [f'{{"step": {number}' for number in (1, 2, 3, 4)]


def test_what_is_personal_is_in_no_parcel_and_lasts_with_its_client(tmp_path):
    plan = small_plan(tmp_path, 2, personal=("new",))
    fleet = Here(plan, tmp_path)
    serve(plan, fleet, say=lambda line: None)
    for sent, answers in fleet.parcels:
        assert set(sent.arrays) == {"params/trunk/kernel"}
        assert all(set(parcel.arrays) == {"params/trunk/kernel"} for parcel in answers.values())
    own = alone(plan.program, 2)[0].model_state.own["head/kernel"]
    for client in range(K):
        like = Kept({"head/kernel": own[client]}, {}, {})
        kept = checkpoints.restore(tmp_path / f"client{client}", Lasting(jnp.int32(0), like, like))
        close(kept.after, like)
    homeless = dataclasses.replace(plan, workdir=tmp_path / "other")
    sent = homeless.sent(homeless.begin())
    with pytest.raises(InputError, match="give Own"):
        work(homeless, Own(0, split_of(0)), sent)
    with pytest.raises(InputError, match="holds what client 0 kept of round 2 of this run"):
        work(homeless, fleet.own[0], sent)
    with pytest.raises(InputError, match="holds what client 0 kept"):
        work(homeless, fleet.own[0]._replace(client=1), sent)


@pytest.mark.parametrize("change", [{"seed": 4}, {"rates": {"learning_rate/new": 0.2}}, {"weights": weights(1)}])
def test_another_run_is_refused_by_client_and_by_server(change, tmp_path):
    plan = small_plan(tmp_path, 1)
    other = dataclasses.replace(plan, **change)
    with pytest.raises(InputError, match="the same --run-config"):
        work(other, Own(0, split_of(0)), plan.sent(plan.begin()))
    serve(plan, Here(plan, tmp_path), say=lambda line: None)
    with pytest.raises(InputError, match="holds rounds of another run"):
        serve(dataclasses.replace(other, rounds=2), Here(other, tmp_path), say=lambda line: None)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"program": local_program()}, "is no program of rounds"),
        ({"program": rounds(local_program(), VISIT, clients=K, privacy=Privacy(1.0, 1.0))}, "hides nothing from them"),
        ({"rounds": 0}, "0 is less than 1"),
        ({"rates": {"learning_rate/nwe": 1.0}}, "did you mean"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong, what, tmp_path):
    with pytest.raises(InputError, match=what):
        dataclasses.replace(small_plan(tmp_path), **wrong)


def test_a_server_without_a_directory_and_a_client_of_no_number_are_refused(tmp_path):
    plan = small_plan(tmp_path)
    with pytest.raises(InputError, match="no place for its rounds"):
        serve(dataclasses.replace(plan, workdir=None), Here(plan, tmp_path))
    with pytest.raises(InputError, match="client 5 of 5"):
        present(plan, Own(5, split_of(0)))
