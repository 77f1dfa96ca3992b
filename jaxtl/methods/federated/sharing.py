"""What leaves a client: the label tree says it. Parts of a model by path, {path: leaf}.

    sent       goes to the server and comes back: all but the two below
    personal   stays with each client, whose value is its own; the server has the value that all began with
    frozen     moves nowhere, so that nobody has to send it

Batch statistics go with the parameters of their module: those of a normalisation that is personal stay (FedBN).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError, suggest
from jaxtl.labels import label_set
from jaxtl.trees import Tree, map_named, named_leaves

Leaves = dict[str, Any]  # {path: leaf}, some of those of a tree


class Traffic(NamedTuple):
    """Bytes that one client receives and sends in a round."""

    down: int
    up: int


@dataclasses.dataclass(frozen=True)
class Sharing:
    """The paths of parameters by what happens to them.

    Attributes:
        sent, personal: disjoint; all others are frozen.
    """

    sent: frozenset[str]
    personal: frozenset[str]

    @classmethod
    def of(cls, labels: Tree, personal: tuple[str, ...], frozen: frozenset[str]) -> Sharing:
        """By the labels whose parameters stay with each client, and the paths that are held.

        Raises:
            InputError: a label that no parameter has.

        Example:
            >>> labels = {"trunk": {"kernel": "shared"}, "head": {"kernel": "new"}}
            >>> Sharing.of(labels, ("new",), frozenset()).sent
            frozenset({'trunk/kernel'})
        """
        if isinstance(personal, str):
            todo = f"write ('{personal}',)"
            raise InputError(f"'{personal}' is no tuple of labels", where="rounds personal", todo=todo)
        for label in personal:
            if label not in label_set(labels):
                todo = suggest(str(label), label_set(labels))
                raise InputError(f"no parameter has the label '{label}'", where="rounds personal", todo=todo)
        moving = {path: label for path, label in named_leaves(labels).items() if path not in frozen}
        own = frozenset(path for path, label in moving.items() if label in personal)
        return cls(frozenset(moving) - own, own)

    @property
    def moving(self) -> frozenset[str]:
        """All that clients train."""
        return self.sent | self.personal

    def stays(self, path: str) -> bool:
        """Whether a leaf of the model state, "batch_stats/trunk/norm_0/mean", is of a module that is personal."""
        module = path.partition("/")[2].rpartition("/")[0]
        return any(own.startswith(f"{module}/") for own in self.personal) if module else False

    def split_state(self, model_state: Tree) -> tuple[Leaves, Leaves]:
        """(leaves of the model state that are sent, those that stay).

        Raises:
            InputError: a leaf that is sent and has no mean, such as a counter.
        """
        leaves = named_leaves(model_state)
        own = {path: leaf for path, leaf in leaves.items() if self.stays(path)}
        for path, leaf in leaves.items():
            if path not in own and not jnp.issubdtype(leaf.dtype, jnp.inexact):
                todo = "make it a float, or label its module as personal"
                raise InputError(f"{leaf.dtype} has no mean over clients", where=f"model_state '{path}'", todo=todo)
        return {path: leaf for path, leaf in leaves.items() if path not in own}, own


def leaves_at(tree: Tree, paths: frozenset[str]) -> Leaves:
    """Some leaves of a tree."""
    return {path: leaf for path, leaf in named_leaves(tree).items() if path in paths}


def with_leaves(tree: Tree, leaves: Mapping[str, Any]) -> Tree:
    """A tree with these leaves in place of its own.

    Example:
        >>> with_leaves({"a": {"b": 0, "c": 0}}, {"a/b": 1})
        {'a': {'b': 1, 'c': 0}}
    """
    return map_named(lambda path, leaf: leaves.get(path, leaf), tree)


def for_each(leaves: Leaves, clients: int) -> Leaves:
    """[K, ...]: one copy for each client."""
    return {path: jnp.broadcast_to(leaf, (clients, *jnp.shape(leaf))) for path, leaf in leaves.items()}


def size_of(*parts: Leaves) -> int:
    """Bytes of all of their leaves."""
    return sum(leaf.size * leaf.dtype.itemsize for part in parts for leaf in jax.tree.leaves(part))
