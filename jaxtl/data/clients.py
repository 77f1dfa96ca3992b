"""Examples dealt out to clients that keep them: who has what, and in which batches each of them goes through its own.

Partitions are pure functions of a seed in NumPy; every example is in one part. Clients differ in size: on the device
they lie side by side, filled up to the largest one, and a mask says what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data.dataset import Split
from jaxtl.data.group_splits import generator
from jaxtl.errors import InputError, whole_number

TRIES = 200  # draws of proportions before it is said that there are too few examples

Visit = Callable[[Mapping[str, Any], Any, Any], tuple[jax.Array, jax.Array]]


def iid_parts(labels: np.ndarray, clients: int, seed: int) -> list[np.ndarray]:
    """All examples shuffled and cut into parts of one size, to one example.

    Args:
        labels: [N]; what they hold does not matter.
        clients: K.
        seed: >= 0.

    Returns:
        K ascending arrays of indices, disjoint, which together are 0..N-1.

    Raises:
        InputError: fewer examples than clients.

    Example:
        >>> [len(part) for part in iid_parts(np.zeros(7), 3, seed=0)]
        [3, 2, 2]
    """
    _check(labels, clients, "iid_parts")
    return [np.sort(part) for part in np.array_split(generator(seed).permutation(len(labels)), clients)]


def dirichlet_parts(labels: np.ndarray, clients: int, alpha: float, seed: int, least: int = 1) -> list[np.ndarray]:
    """Classes dealt out unequally: client k has a share p_ck of class c, p_c ~ Dirichlet(α, …, α).

    A small α gives a class to few clients, a large one is nearly `iid_parts`. Shares are drawn anew until every client
    has `least` examples.

    Args:
        labels: integers [N].
        clients: K.
        alpha: > 0.
        seed: >= 0.
        least: examples of the smallest client.

    Returns:
        As `iid_parts`.

    Raises:
        InputError: no such α, or so few examples that a client is left without.

    Example:
        >>> parts = dirichlet_parts(np.repeat([0, 1], 50), 4, alpha=0.5, seed=0)
        >>> sorted(np.concatenate(parts).tolist()) == list(range(100))
        True

    Source: Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", 2019.
    """
    _check(labels, clients, "dirichlet_parts")
    if not 0 < alpha < math.inf:
        raise InputError(f"{alpha}", where="dirichlet_parts alpha", todo="use a number > 0, such as 0.5")
    rng = generator(seed)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    for _ in range(TRIES):
        shares = rng.dirichlet(np.full(clients, alpha), size=len(members))
        ends = [np.rint(np.cumsum(own)[:-1] * len(of)).astype(int) for own, of in zip(shares, members, strict=True)]
        dealt = [np.split(of, end) for of, end in zip(members, ends, strict=True)]
        parts = [np.sort(np.concatenate(own)) for own in zip(*dealt, strict=True)]
        if min(map(len, parts)) >= least:
            return parts
    what = f"{len(labels)} examples for {clients} clients: in {TRIES} draws one of them always had less than {least}"
    raise InputError(what, where="dirichlet_parts", todo="use fewer clients or a larger alpha")


def class_parts(labels: np.ndarray, clients: int, classes: int, seed: int) -> list[np.ndarray]:
    """Every client has examples of so many classes, and of no other; a class is shared equally by those that have it.

    Args:
        labels: integers [N].
        clients: K.
        classes: of each client.
        seed: >= 0.

    Returns:
        As `iid_parts`.

    Raises:
        InputError: more classes than there are, clients that cannot have all of them, classes too small to be shared.

    Example:
        >>> labels = np.repeat([0, 1, 2, 3], 10)
        >>> [len(np.unique(labels[part])) for part in class_parts(labels, 6, 2, seed=0)]
        [2, 2, 2, 2, 2, 2]

    Source: after McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017,
    whose shards may give a client one class twice.
    """
    _check(labels, clients, "class_parts")
    known, sizes = np.unique(labels, return_counts=True)
    where = "class_parts"
    if not 1 <= classes <= len(known):
        raise InputError(f"{classes} classes each, of {len(known)}", where=where, todo=f"use 1 to {len(known)}")
    if clients * classes < len(known):
        what = f"{clients} clients with {classes} classes each cannot have all of {len(known)}"
        raise InputError(what, where=where, todo="use more clients, or more classes each")
    rng = generator(seed)
    left = np.full(len(known), clients * classes // len(known))
    left[rng.permutation(len(known))[: clients * classes % len(known)]] += 1
    if np.any(sizes < left):
        what = f"class {known[np.argmin(sizes - left)]} has fewer examples than clients that share it"
        raise InputError(what, where=where, todo="use fewer clients, or fewer classes each")
    shards = [np.array_split(rng.permutation(np.flatnonzero(labels == c)), n) for c, n in zip(known, left, strict=True)]
    parts = []
    for _ in range(clients):  # the classes that most are left of: so the last client finds different ones too
        own = np.lexsort((rng.random(len(known)), -left))[:classes]
        parts.append(np.sort(np.concatenate([shards[c].pop() for c in own])))
        left[own] -= 1
    return parts


def _check(labels: np.ndarray, clients: int, where: str) -> None:
    if len(labels) < whole_number(clients, f"{where} clients"):
        what = f"{len(labels)} examples for {clients} clients"
        raise InputError(what, where=where, todo="use fewer clients")


def on_clients(
    split: Split, parts: Sequence[np.ndarray], order: jax.Array, weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """What `local_epochs` goes through: examples on the device, and which of them each client has.

    Args:
        split: a training part.
        parts: K arrays of indices into it; empty for a client that only fills up a number.
        order: key of the orders of data.
        weights: of each client in a mean, ≥ 0; its number of examples when left out.

    Returns:
        "examples" (every field [N, ...]), "index" int32 [K, M] filled up to the largest client, "count" int32 [K],
        "weight" float32 [K], "client" int32 [K], which random numbers go by, and "order".

    Raises:
        InputError: no clients, an index outside the split, other weights than clients, a negative one.

    Example:
        >>> split = Split(np.zeros((5, 2), np.float32), np.arange(5, dtype=np.int32))
        >>> data = on_clients(split, [np.array([0, 1, 4]), np.array([2])], jax.random.key(0))
        >>> data["index"].tolist(), data["count"].tolist(), data["weight"].tolist()
        ([[0, 1, 4], [2, 0, 0]], [3, 1], [3.0, 1.0])
    """
    counts = np.array([len(part) for part in parts], np.int32)
    if not len(counts) or not counts.max():
        raise InputError("no client has an example", where="on_clients parts", todo="give an array of indices for each")
    shares = np.asarray(counts if weights is None else weights, np.float32)
    if shares.shape != counts.shape or not np.all((shares >= 0) & np.isfinite(shares)) or not np.any(shares):
        what = f"they are not {len(counts)} numbers, some > 0 and none negative"
        raise InputError(what, where="on_clients weights", todo="give one number >= 0 for each client")
    index = np.zeros((len(counts), counts.max()), np.int32)
    for row, part in zip(index, parts, strict=True):
        if len(part) and not (np.min(part) >= 0 and np.max(part) < len(split)):
            what = f"indices from {np.min(part)} to {np.max(part)} into {len(split)} examples"
            raise InputError(what, where="on_clients parts", todo="make them of the labels of this split")
        row[: len(part)] = part
    return {
        "examples": {name: jnp.asarray(field) for name, field in split.fields.items()},
        "index": jnp.asarray(index),
        "count": jnp.asarray(counts),
        "weight": jnp.asarray(shares),
        "client": jnp.arange(len(counts), dtype=jnp.int32),
        "order": order,
    }


def local_epochs(batch_size: int, epochs: int = 1) -> Visit:
    """How a client goes through its examples in a round: so many times, each time in a new order.

    Step t sees order_e[jB : jB + B] of its n examples, t = e⌈n/B⌉ + j. The last batch of an epoch is filled up by other
    examples of its own, which are masked; a client with fewer examples than the largest one has done its steps earlier.

    Args:
        batch_size: B; where the largest client has fewer examples, all of them.
        epochs: E.

    Returns:
        visit(data, client, round) -> (rows int32 [L, B] of data["examples"], mask bool [L, B]), L = E⌈M/B⌉: the steps
        of the largest client; `client` is a place in data["index"], and may be traced like `round`.

    Raises:
        InputError: an empty batch, no epoch.

    Example:
        >>> split = Split(np.zeros((5, 2), np.float32), np.arange(5, dtype=np.int32))
        >>> data = on_clients(split, [np.array([0, 1, 4]), np.array([2])], jax.random.key(0))
        >>> rows, mask = local_epochs(2, epochs=2)(data, 0, 0)
        >>> mask.sum(axis=1).tolist(), sorted(rows[:2][mask[:2]].tolist())
        ([2, 1, 2, 1], [0, 1, 4])
        >>> local_epochs(2, epochs=2)(data, 1, 0)[1].sum(axis=1).tolist()
        [1, 1, 0, 0]
    """
    whole_number(batch_size, "local_epochs batch_size")
    whole_number(epochs, "local_epochs epochs")

    def visit(data: Mapping[str, Any], client: Any, round: Any) -> tuple[jax.Array, jax.Array]:
        most = data["index"].shape[1]
        size = min(batch_size, most)
        own, count = data["index"][client], data["count"][client]
        key = jax.random.fold_in(data["order"], data["client"][client])

        def order(epoch):
            bits = jax.random.bits(jax.random.fold_in(key, round * epochs + epoch), (most,))
            return jnp.lexsort((bits, jnp.arange(most) >= count))

        orders = jax.vmap(order)(jnp.arange(epochs))  # [E, M], its own examples first
        turns = jnp.arange(epochs * -(-most // size))
        own_turns = jnp.maximum(1, -(-count // size))  # of an epoch
        epoch, place = turns // own_turns, turns % own_turns
        position = place[:, None] * size + jnp.arange(size)[None]
        mask = (position < count) & (epoch < epochs)[:, None]
        place = position % jnp.maximum(1, count)  # what fills a batch up is its own too: statistics see nobody else's
        return own[orders[jnp.minimum(epoch, epochs - 1)[:, None], place]], mask

    return visit
