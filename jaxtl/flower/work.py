"""A client's part of a round, in its own process: our local program on its examples, and what it sends of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import checkpoints
from jaxtl.data import on_clients
from jaxtl.errors import InputError
from jaxtl.flower.plan import CONTROL, PARAMS, STATE, Own, Parcel, Plan, keys, packed, unpacked
from jaxtl.methods.federated import Rounds
from jaxtl.methods.federated.local import Client, Ended, Sent
from jaxtl.methods.federated.rounds import Keys
from jaxtl.methods.federated.sharing import Leaves, leaves_at, with_leaves
from jaxtl.program import Weights
from jaxtl.step import Fixed, Rates, compile_step
from jaxtl.trees import Tree, copy_tree

METRIC = "metric/"  # in front of the names of means over a client's steps


class Kept(NamedTuple):
    """What stays with a client from round to round: see `memory.Memory`, of one client."""

    own: Leaves
    own_state: Leaves
    control: Leaves


class Lasting(NamedTuple):
    """What a client has on disk: before its last round too, which a server that was killed asks for once more."""

    step: jax.Array  # rounds it has seen
    before: Kept
    after: Kept


class Begun(NamedTuple):
    """What a round changes of a client, so that its buffers are used again."""

    params: Leaves
    state: Leaves
    kept: Kept


def work(plan: Plan, own: Own, sent: Parcel) -> Parcel:
    """All local steps of a client in one round, in one compiled call.

    Args:
        plan: of the run.
        own: what this client has.
        sent: what the server sends.

    Returns:
        Changes of what is shared, means of metrics, and the round; nothing that stays with the client.

    Raises:
        InputError: a parcel of another run, parts that stay with the client and no directory for them.
    """
    program, number = plan.program, int(sent.numbers["round"])
    if sent.numbers["run"] != plan.run:
        what = f"client {own.client} would begin with another model, seed or rate than the server"
        raise InputError(what, where="--run-config", todo="run the same app, with the same --run-config, everywhere")
    _check_number(own, program)
    weights = Weights(program.own(plan.weights.params), program.memory(plan.weights).state)
    shared, _ = program.sharing.split_state(weights.model_state)
    params = leaves_at(weights.params, program.sharing.sent)
    control = params if program.controls else {}
    parts = unpacked(sent.arrays, {PARAMS: params, STATE: shared, CONTROL: control}, "from the server")
    kept = _kept(plan, own, number)
    begun = jax.tree.map(jnp.array, Begun(parts[PARAMS], parts[STATE], kept))
    rng, order = keys(plan.seed)
    data: dict[str, Any] = on_clients(own.split, [np.arange(len(own.split))], order)
    data |= {"client": jnp.array([own.client], jnp.int32)}
    common: dict[str, Any] = {"weights": weights, "control": parts[CONTROL], "data": data}
    common |= {"round": jnp.int32(number), "rng": Keys.of(rng, number).local}
    ended = _visit(program)(begun, common, plan.fixed)
    _keep(plan, own, number, kept, ended)
    changes = {PARAMS: ended.change, STATE: ended.state_change, CONTROL: ended.control_change}
    metrics = {f"{METRIC}{name}": float(value) for name, value in ended.metrics.items()}
    return Parcel(packed(changes), {**metrics, "clipped": float(ended.clipped), "round": number})


def present(plan: Plan, own: Own) -> dict[str, float | int]:
    """What the server has to know of a client before it draws some: number, weight, and which run it takes part in.

    Raises:
        InputError: a number that no client has.
    """
    _check_number(own, plan.program)
    return {"client": own.client, "weight": own.counts, "run": plan.run}


@functools.lru_cache(maxsize=8)
def _visit(program: Rounds) -> Callable[[Begun, Mapping[str, Any], Fixed], Ended]:
    def visit(begun: Begun, common: Mapping[str, Any], fixed: Fixed) -> Ended:
        weights, kept = common["weights"], begun.kept
        params, state = with_leaves(weights.params, begun.params), with_leaves(weights.model_state, begun.state)
        rates = Rates(fixed.rates)
        client = Client(0, 1.0, kept.own, kept.own_state, kept.control)
        sent = Sent(
            params, state, common["control"], common["data"], rates, fixed.given, common["round"], common["rng"]
        )
        return program.local(client, sent)

    compiled: Any = compile_step(visit)
    return compiled


def _check_number(own: Own, program: Rounds) -> None:
    if not (isinstance(own.client, int) and 0 <= own.client < program.clients):
        todo = f"number the clients from 0 to {program.clients - 1}"
        raise InputError(f"client {own.client} of {program.clients}", where="Own client", todo=todo)


def _first(plan: Plan) -> Kept:
    """What a client has before its first round."""
    sharing, memory = plan.program.sharing, plan.program.memory(plan.weights)
    params = plan.program.own(plan.weights.params)
    zeros: Tree = jax.tree.map(jnp.zeros_like, leaves_at(params, sharing.sent)) if plan.program.controls else {}
    return copy_tree(Kept(leaves_at(params, sharing.personal), sharing.split_state(memory.state)[1], zeros))


def _kept(plan: Plan, own: Own, number: int) -> Kept:
    """What the client had before this round.

    Raises:
        InputError: no directory, or one that another run or another client uses.
    """
    first = _first(plan)
    if not jax.tree.leaves(first):
        return first
    if own.workdir is None:
        what = "parts of the model stay with this client and have no place to last in"
        raise InputError(what, where=f"client {own.client}", todo="give Own(..., workdir=DIRECTORY)")
    if checkpoints.latest_step(own.workdir) is None:
        return first
    lasting: Lasting = checkpoints.restore(own.workdir, Lasting(jnp.int32(0), first, first))
    meta, seen = checkpoints.read_meta(own.workdir), int(lasting.step)
    if meta != {"client": own.client, "run": plan.run} or number < seen - 1:
        what = f"holds what client {meta.get('client')} kept of round {seen} of {_which(meta, plan)}"
        todo = (
            f"give a directory of its own to round {number + 1} of client {own.client}, or begin anew in an empty one"
        )
        raise InputError(what, where=Path(own.workdir), todo=todo)
    return lasting.before if number == seen - 1 else lasting.after


def _which(meta: Mapping[str, Any], plan: Plan) -> str:
    return "this run" if meta.get("run") == plan.run else "another run"


def _keep(plan: Plan, own: Own, number: int, before: Kept, ended: Ended) -> None:
    """Save what the client has after this round, where there is any."""
    if own.workdir is None or not jax.tree.leaves(before):
        return
    control = {path: c + ended.control_change[path] for path, c in before.control.items()}
    after = Kept(ended.own, ended.own_state, control)
    with checkpoints.own(own.workdir):
        state = Lasting(jnp.int32(number + 1), before, after)
        checkpoints.save(own.workdir, state, {"client": own.client, "run": plan.run})
