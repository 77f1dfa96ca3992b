"""The server's part of all rounds: who is asked, what their changes come to, and where a killed server goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import checkpoints
from jaxtl.errors import InputError
from jaxtl.flower.plan import CONTROL, PARAMS, STATE, Parcel, Plan, unpacked
from jaxtl.flower.work import METRIC
from jaxtl.methods.federated.local import Ended
from jaxtl.methods.federated.merging import Replies
from jaxtl.methods.federated.rounds import Keys, drawn
from jaxtl.methods.federated.sharing import Leaves, leaves_at
from jaxtl.step import TrainState, program_of
from jaxtl.text import printable
from jaxtl.writers import Writer


class Fleet(Protocol):
    """The clients, wherever they are."""

    def present(self, wanted: int) -> Mapping[int, float]:
        """{client: weight} of those that can be asked; waits for so many of them as long as it is patient."""
        ...

    def ask(self, clients: Sequence[int], sent: Parcel) -> Mapping[int, Parcel | str]:
        """{client: its reply, or in a few words why there is none}."""
        ...


def serve(plan: Plan, fleet: Fleet, *, least: int = 1, say: Callable[[str], None] = print) -> TrainState:
    """All rounds of a run that are left, each saved before the next begins.

    Clients are drawn by the seed among those that are there. One that is lost is told in a line and does not count:
    the mean is over the others, by their weights.

    Args:
        plan: of the run; its `workdir` is needed.
        fleet: the clients.
        least: replies that a round needs.
        say: gets a line for every round and for every client that is lost.

    Returns:
        The last state; its parameters are in workdir/model.safetensors too.

    Raises:
        InputError: no directory or that of another run; fewer replies than `least`. What was saved stays.
    """
    if plan.workdir is None:
        raise InputError("the server has no place for its rounds", where="Plan workdir", todo="give a directory")
    with checkpoints.own(plan.workdir) as workdir, Writer(workdir, tensorboard=False) as writer:
        state = _resumed(plan, workdir, say)
        writer.rewind(int(state.step) if int(state.step) else -1)
        weights: dict[int, float] = {}
        wanted = plan.program.clients
        while (number := int(state.step)) < plan.rounds:
            there = fleet.present(wanted)
            if absent := sorted(set(range(plan.program.clients)) - set(there)) if wanted > 1 else []:
                say(f"round {number + 1}: without {_some(absent)}, which did not come")
            wanted = 1  # who was waited for once is not waited for again, and may come later
            weights |= there
            chosen = _chosen(plan, state, there)
            sent = plan.sent(state)
            replies, lost = _good(plan, state, fleet.ask(chosen, sent))
            for client, why in sorted(lost.items()):
                say(f"round {number + 1}: client {client} is lost: {printable(why)}")
            if len(replies) < least:
                what = f"round {number + 1}: {len(replies)} of {len(chosen)} clients answered, {least} are needed"
                raise InputError(what, where=workdir, todo="the same command goes on with this round")
            state, metrics = _merged(plan, state, chosen, replies, weights)
            figures = {name: float(value) for name, value in metrics.items()}
            checkpoints.save(workdir, state, {"run": plan.run})
            writer.write(number + 1, figures)
            of = f"{len(replies)} of {len(chosen)} clients"
            said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            say(f"round {number + 1} of {plan.rounds}: {of}, {said}")
        checkpoints.export(state.params, workdir / "model.safetensors")
        return state


def _some(clients: Sequence[int]) -> str:
    return f"client{'s' * (len(clients) > 1)} {', '.join(map(str, clients))}"


def _resumed(plan: Plan, workdir: Path, say: Callable[[str], None]) -> TrainState:
    """The state of the last round that was saved, or that before the first."""
    begin = plan.begin()
    if checkpoints.latest_step(workdir) is None:
        return begin
    state = checkpoints.restore(workdir, begin)
    if checkpoints.read_meta(workdir) != {"run": plan.run}:
        what = "holds rounds of another run: its model, its seed, its rates or its number of clients differ"
        raise InputError(what, where=workdir, todo="choose another workdir, or repeat what began it")
    say(f"goes on after round {int(state.step)}")
    return state


def _chosen(plan: Plan, state: TrainState, there: Mapping[int, float]) -> list[int]:
    """Those that a single process would draw, of clients that are there."""
    every = jnp.arange(plan.program.clients)
    weight = np.array([there.get(int(client), 0.0) for client in every], np.float32)
    place, _ = drawn({"client": every, "weight": weight}, plan.program.sampled, Keys.of(state.rng, state.step).sample)
    return [client for client in np.asarray(place).tolist() if client in there]


def _good(
    plan: Plan, state: TrainState, answers: Mapping[int, Parcel | str]
) -> tuple[dict[int, tuple[Parcel, dict[str, Leaves]]], dict[int, str]]:
    """Replies that are what they should be, and why the others are none."""
    sharing, memory = plan.program.sharing, state.model_state
    sent = leaves_at(state.params, sharing.sent)
    like = {PARAMS: sent, STATE: sharing.split_state(memory.state)[0], CONTROL: memory.control}
    good, lost = {}, {}
    for client, answer in answers.items():
        if isinstance(answer, str):
            lost[client] = answer
            continue
        try:
            parts = unpacked(answer.arrays, like, f"from client {client}")
        except InputError as error:
            lost[client] = error.what
            continue
        if not all(np.all(np.isfinite(leaf)) for leaf in answer.arrays.values()):
            lost[client] = "its change is not finite"
        elif answer.numbers.get("round") != int(state.step):
            lost[client] = "it answers another round"
        else:
            good[client] = answer, parts
    return good, lost


def _merged(
    plan: Plan,
    state: TrainState,
    chosen: Sequence[int],
    replies: Mapping[int, tuple[Parcel, dict[str, Leaves]]],
    weights: Mapping[int, float],
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The server's part of the step, compiled once: for a client that is lost there are zeros of weight 0."""
    slots: list[int | None] = [client if client in replies else None for client in chosen]
    slots += [None] * (plan.program.sampled - len(slots))
    _, like = next(iter(replies.values()))
    names = sorted({name for parcel, _ in replies.values() for name in parcel.numbers if name.startswith(METRIC)})

    def stacked(part: str) -> Leaves:
        zeros = {path: np.zeros_like(leaf) for path, leaf in like[part].items()}
        rows = [zeros if client is None else replies[client][1][part] for client in slots]
        return {path: jnp.asarray(np.stack([row[path] for row in rows])) for path in zeros}

    def numbers(name: str) -> jax.Array:
        return jnp.array([0.0 if k is None else replies[k][0].numbers.get(name, np.nan) for k in slots], jnp.float32)

    found = Ended(
        stacked(PARAMS),
        stacked(STATE),
        stacked(CONTROL),
        {},
        {},
        {name.removeprefix(METRIC): numbers(name) for name in names},
        numbers("clipped"),
    )
    weight = jnp.array([0.0 if client is None else weights[client] for client in slots], jnp.float32)
    every = jnp.array([weights.get(client, 0.0) for client in range(plan.program.clients)], jnp.float32)
    nobody = jnp.full(len(slots), plan.program.clients)
    return program_of(plan.program.merge)(state, Replies(found, weight, nobody, every), plan.fixed)
