"""A client's part of a round: local steps from what the server sent and from what is its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.methods.federated.control import CONTROL, PASSED, STATE, check_watched, watched
from jaxtl.methods.federated.privacy import Privacy, clipped
from jaxtl.methods.federated.sharing import Leaves, Sharing, leaves_at, with_leaves
from jaxtl.optimizers import PerLabelState
from jaxtl.program import Program, Weights
from jaxtl.step import Fixed, Rates, TrainState
from jaxtl.trees import Tree

SERVER = "server"  # among the trees that are given: what a client began its round with

Visit = Callable[[Mapping[str, Any], Any, Any], tuple[jax.Array, jax.Array]]


class Client(NamedTuple):
    """A client of a round: its place in the data, its weight in the mean, and what is its own, by path."""

    place: Any
    weight: Any
    own: Leaves
    own_state: Leaves
    control: Leaves


class Sent(NamedTuple):
    """What a client is sent: parameters, model state and c; and what all know, data, rates and given trees."""

    params: Tree
    state: Tree
    control: Leaves
    data: Mapping[str, Any]
    rates: Rates
    given: Mapping[str, Tree]
    round: jax.Array
    rng: jax.Array


class Ended(NamedTuple):
    """What a client's steps come to: changes of what is sent, and what it keeps.

    Attributes:
        change, state_change, control_change: of parameters, model state and c_k.
        own, own_state: see `Client`.
        metrics: means over its steps.
        clipped: whether the change was longer than its bound.
    """

    change: Leaves
    state_change: Leaves
    control_change: Leaves
    own: Leaves
    own_state: Leaves
    metrics: dict[str, jax.Array]
    clipped: jax.Array


class Local(NamedTuple):
    """How clients work, see `rounds`; `personal` are labels."""

    program: Program
    visit: Visit
    sharing: Sharing
    personal: tuple[str, ...]
    personal_first: float | None
    controls: bool
    privacy: Privacy | None

    def __call__(self, client: Client, sent: Sent) -> Ended:
        """All steps of one client."""
        begun = Weights(with_leaves(sent.params, client.own), with_leaves(sent.state, client.own_state))
        gap = {path: leaf - client.control[path] for path, leaf in sent.control.items()}
        given = {**sent.given, SERVER: begun.params}
        if self.controls:
            given[CONTROL] = with_leaves(jax.tree.map(jnp.zeros_like, begun.params), gap)
        rows, mask = self.visit(sent.data, client.place, sent.round)
        steps = jnp.sum(jnp.any(mask, axis=1))

        def step(number: jax.Array, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
            fixed = Fixed(self._rates(sent.rates, number, steps), given)
            return self.program.step(state, _batch(sent.data["examples"], rows[number], mask[number]), fixed)

        def turn(number: jax.Array, so_far: tuple) -> tuple:
            state, sums = so_far
            moved, metrics = step(number, state)
            if self.controls:
                check_watched(state.model_state, moved.model_state)
            return moved, {name: sums[name] + value for name, value in metrics.items()}

        # To its own number of steps: side by side, those that are done hold all of their state.
        state = self._begin(begun, sent, client.place, steps)
        _, metrics = jax.eval_shape(step, jnp.int32(0), state)
        sums = {name: jnp.zeros(value.shape, value.dtype) for name, value in metrics.items()}
        state, sums = jax.lax.fori_loop(0, steps, turn, (state, sums))
        return self._ended(client, begun, state, sums, steps)

    def _begin(self, begun: Weights, sent: Sent, place: Any, steps: jax.Array) -> TrainState:
        """At the first of its steps in this round, with a fresh optimizer that knows which step it is."""
        first = sent.round * steps
        opt_state = jax.tree.map(
            lambda part: part._replace(step=first) if isinstance(part, PerLabelState) else part,
            self.program.tx.init(begun.params),
            is_leaf=lambda part: isinstance(part, PerLabelState),
        )
        model_state = watched(*begun) if self.controls else begun.model_state
        rng = jax.random.fold_in(sent.rng, sent.data["client"][place])
        return TrainState(first, begun.params, model_state, opt_state, rng)

    def _rates(self, asked: Rates, number: jax.Array, steps: jax.Array) -> Rates:
        """Those of the program; a learning rate of 0 holds what does not learn yet, or not any more."""
        rates = {name: asked[name] for name in self.program.rates.keys() & asked.keys()}
        if self.personal_first is not None:
            first = number < self.personal_first * steps
            for name, default in self.program.rates.items():
                kind, _, label = name.partition("/")
                if kind == "learning_rate":
                    learns = first if label in self.personal else ~first
                    rates[name] = jnp.where(learns, asked.get(name, default), 0.0)
        return Rates(rates, asked.asked)

    def _ended(
        self, client: Client, begun: Weights, state: TrainState, sums: dict[str, jax.Array], steps: jax.Array
    ) -> Ended:
        params, model_state = state.params, state.model_state
        control_change: Leaves = {}
        taken = jnp.maximum(steps, 1)
        if self.controls:
            passed = leaves_at(model_state[PASSED], self.sharing.sent)
            control_change = {
                path: jnp.where(steps > 0, passed[path] / taken - c, 0.0) for path, c in client.control.items()
            }
            model_state = model_state[STATE]
        before, after = (leaves_at(tree, self.sharing.sent) for tree in (begun.params, params))
        change, short = {path: after[path] - leaf for path, leaf in before.items()}, jnp.float32(0)
        if self.privacy:
            change, short = clipped(change, self.privacy.clip)
        (state_before, _), (state_after, own_state) = map(self.sharing.split_state, (begun.model_state, model_state))
        return Ended(
            change,
            {path: state_after[path] - leaf for path, leaf in state_before.items()},
            control_change,
            leaves_at(params, self.sharing.personal),
            own_state,
            {name: value / taken for name, value in sums.items()},
            short,
        )


def _batch(examples: Mapping[str, jax.Array], rows: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
    """All fields of some examples; those that only fill a batch up have the mask 0, whatever mask they bring."""
    batch = {name: field[rows] for name, field in examples.items()}
    return {**batch, "mask": counts * batch["mask"] if "mask" in batch else counts}
