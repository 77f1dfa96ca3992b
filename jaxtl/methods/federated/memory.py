"""What lasts from round to round beside the parameters: of the server, and of every client."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.methods.federated.merging import Replies, mean_by
from jaxtl.methods.federated.sharing import Leaves, Sharing, with_leaves
from jaxtl.program import Weights
from jaxtl.trees import Tree


class Memory(NamedTuple):
    """What lasts from round to round beside the parameters, as the `model_state` of a run.

    Attributes:
        state: the server's model state (batch statistics).
        control: c of every path that is sent; {} without control variates.
        own: [K, ...] each client's personal parameters by path.
        own_state: [K, ...] its leaves of the model state that stay.
        controls: [K, ...] its c_k.
    """

    state: Tree
    control: Leaves
    own: Leaves
    own_state: Leaves
    controls: Leaves

    @property
    def of_clients(self) -> tuple[Leaves, Leaves, Leaves]:
        """What each client has of its own."""
        return self.own, self.own_state, self.controls

    @property
    def personal(self) -> tuple[str, ...]:
        """Paths of what differs between the models of clients."""
        return (*self.own, *self.own_state)

    def server(self, params: Tree) -> Weights:
        """The server's model, of the parameters of the same run: personal parts are those that all began with."""
        return Weights(params, self.state)

    def of_client(self, params: Tree, client: Any) -> Weights:
        """The model of one client: the server's with the parts that are its own."""
        own, own_state = jax.tree.map(lambda leaf: leaf[client], (self.own, self.own_state))
        return Weights(with_leaves(params, own), with_leaves(self.state, own_state))


def remembered(memory: Memory, sharing: Sharing, replies: Replies) -> Memory:
    """What lasts, after a round: each client's own at its place, and c by as much of the weight as took part."""
    found, mean = replies.found, mean_by(replies.weight)
    total = jnp.sum(replies.every)
    share = jnp.sum(replies.weight) / jnp.where(total > 0, total, 1.0)
    drift, moved = mean(found.control_change), mean(found.state_change)
    state, _ = sharing.split_state(memory.state)

    def put(old: Leaves, new: Leaves) -> Leaves:
        return {path: leaf.at[replies.target].set(new[path], mode="drop") for path, leaf in old.items()}

    added = {
        path: c.at[replies.target].add(found.control_change[path], mode="drop") for path, c in memory.controls.items()
    }
    return Memory(
        with_leaves(memory.state, {path: (leaf + moved[path]).astype(leaf.dtype) for path, leaf in state.items()}),
        {path: c + share * drift[path] for path, c in memory.control.items()},
        put(memory.own, found.own),
        put(memory.own_state, found.own_state),
        added,
    )
