"""Features of several modalities as one: side by side, in a sum with gates, or as a product of low rank.

Parameters have an entry for each modality by its name. A modality that is absent counts as if it had never been there.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError, suggest
from jaxtl.trees import Tree

Features = Mapping[str, jax.Array]  # by modality [B, D_m]
Present = Mapping[str, jax.Array]  # by modality [B], 1 where it is there


def init_concatenated(rng: jax.Array, sizes: Mapping[str, int], outputs: int) -> Tree:
    """Parameters of `concatenated`: He's normal numbers, scaled by all inputs together, and 0 as bias.

    Args:
        rng: key.
        sizes: D_m by modality.
        outputs: C.
    """
    total = sum(sizes.values())
    return {"kernel": _normal(rng, sizes, outputs, total), "bias": jnp.zeros(outputs)}


def concatenated(params: Tree, features: Features, present: Present) -> jax.Array:
    """b + Σ_m f_m W_m: a linear head on all features side by side, 0 where a modality is absent.

    Args:
        params: as `init_concatenated` makes them.
        features, present: by modality.

    Returns:
        [B, C].

    Raises:
        InputError: a modality without parameters or presence.

    Example:
        >>> params = {"kernel": {"a": jnp.ones((1, 1)), "b": jnp.ones((2, 1))}, "bias": jnp.zeros(1)}
        >>> features = {"a": jnp.full((2, 1), 3.0), "b": jnp.ones((2, 2))}
        >>> concatenated(params, features, {"a": jnp.ones(2), "b": jnp.array([1, 0])}).tolist()
        [[5.0], [3.0]]
    """
    summands = [_of(params["kernel"], features, present, name) for name in sorted(features)]
    return sum(summands[1:], summands[0]) + params["bias"][None]


def init_gated(rng: jax.Array, sizes: Mapping[str, int], width: int, outputs: int) -> Tree:
    """Parameters of `gated`, with gates that are even at first.

    Args:
        rng: key.
        sizes: D_m by modality.
        width: of what the gates add up.
        outputs: C.
    """
    keys = jax.random.split(rng, len(sizes) + 1)
    towards = {name: _normal(key, {name: size}, width, size)[name] for key, (name, size) in _zipped(keys[1:], sizes)}
    gates = {name: jnp.zeros((size, len(sizes))) for name, size in sizes.items()}
    head = init_concatenated(keys[0], {"joint": width}, outputs)
    return {"gate": gates, "projection": towards, "kernel": head["kernel"]["joint"], "bias": head["bias"]}


def gated(params: Tree, features: Features, present: Present) -> jax.Array:
    """b + (Σ_m g_m f_m P_m) W with g = softmax(A · all features) over the modalities present.

    Args:
        params: as `init_gated` makes them; gates are in the order of the sorted names.
        features, present: by modality.

    Returns:
        [B, C].

    Raises:
        InputError: a modality without parameters or presence.

    Example:
        >>> params = init_gated(jax.random.key(0), {"a": 3, "b": 2}, 4, 5)
        >>> features = {"a": jnp.ones((6, 3)), "b": jnp.ones((6, 2))}
        >>> gated(params, features, {"a": jnp.ones(6), "b": jnp.ones(6)}).shape
        (6, 5)

    Source: Arevalo, Solorio, Montes-y-Gómez and González, "Gated Multimodal Units for Information Fusion", 2017 (there
    behind a tanh, with a logistic gate for two).
    """
    names = sorted(features)
    there = jnp.stack([_present(present, name) for name in names], axis=1)
    asked = [_of(params["gate"], features, present, name) for name in names]
    logits = jnp.where(there, sum(asked[1:], asked[0]), -jnp.inf)
    some = jnp.any(there, axis=1, keepdims=True)
    gates = jnp.where(some, jax.nn.softmax(jnp.where(some, logits, 0.0), axis=1), 0.0)
    parts = [gates[:, [k]] * _of(params["projection"], features, present, name) for k, name in enumerate(names)]
    return sum(parts[1:], parts[0]) @ params["kernel"] + params["bias"][None]


def init_low_rank(rng: jax.Array, sizes: Mapping[str, int], rank: int, outputs: int) -> Tree:
    """Parameters of `low_rank`: kernels [D_m, rank, C], and offsets [rank, C] of 1, the kernels of the 1 beside f_m.

    Args:
        rng: key.
        sizes: D_m by modality.
        rank: how many products are added up.
        outputs: C.
    """
    keys = jax.random.split(rng, len(sizes))
    drawn = {
        name: _normal(key, {name: size}, rank * outputs, size * rank)[name]
        for key, (name, size) in _zipped(keys, sizes)
    }
    return {
        "kernel": {name: kernel.reshape(-1, rank, outputs) for name, kernel in drawn.items()},
        "offset": {name: jnp.ones((rank, outputs)) for name in sizes},
        "mix": jnp.ones(rank) / rank,
        "bias": jnp.zeros(outputs),
    }


def low_rank(params: Tree, features: Features, present: Present) -> jax.Array:
    """b + Σ_r w_r Π_m (f_m W_m + o_m)_r: the outer product of all [f_m; 1] under a tensor of low rank.

    Args:
        params: as `init_low_rank` makes them.
        features, present: by modality; the factor of one that is absent is 1.

    Returns:
        [B, C].

    Raises:
        InputError: a modality without parameters or presence.

    Example:
        >>> kernel, one = dict.fromkeys("ab", jnp.full((1, 1, 1), 2.0)), dict.fromkeys("ab", jnp.ones((1, 1)))
        >>> params = {"kernel": kernel, "offset": one, "mix": jnp.ones(1), "bias": jnp.zeros(1)}  # (2 a + 1) (2 b + 1)
        >>> features = {"a": jnp.array([[1.0], [1.0]]), "b": jnp.array([[2.0], [2.0]])}
        >>> low_rank(params, features, {"a": jnp.ones(2), "b": jnp.array([1, 0])}).tolist()
        [[15.0], [3.0]]

    Source: Liu et al., "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors", 2018.
    """
    product: jax.Array | None = None
    for name in sorted(features):
        kernel, there = _named(params["kernel"], name, "parameters"), _present(present, name)[:, None]
        inputs = jnp.where(there, features[name], 0.0)
        found = jnp.einsum("bd,drc->brc", inputs, kernel) + params["offset"][name][None]
        found = jnp.where(there[..., None], found, 1.0)
        product = found if product is None else product * found
    assert product is not None  # or there is no modality
    return jnp.einsum("brc,r->bc", product, params["mix"]) + params["bias"][None]


def _of(kernels: Tree, features: Features, present: Present, name: str) -> jax.Array:
    """f_m W_m, 0 where a modality is absent: neither value nor gradient looks at what stands there."""
    there = _present(present, name)[:, None]
    return jnp.where(there, features[name], 0.0) @ _named(kernels, name, "parameters")


def _present(present: Present, name: str) -> jax.Array:
    return _named(present, name, "present") > 0


def _named(by_name: Mapping[str, jax.Array], name: str, where: str) -> jax.Array:
    if name not in by_name:
        raise InputError(f"no modality '{name}'", where=where, todo=suggest(name, by_name))
    return by_name[name]


def _normal(rng: jax.Array, sizes: Mapping[str, int], outputs: int, inputs: int) -> dict[str, jax.Array]:
    keys = jax.random.split(rng, len(sizes))
    scale = (2 / inputs) ** 0.5
    return {name: scale * jax.random.normal(key, (size, outputs)) for key, (name, size) in _zipped(keys, sizes)}


def _zipped(keys: jax.Array, sizes: Mapping[str, int]) -> list[tuple[jax.Array, tuple[str, int]]]:
    """A key for each modality, in the order of their names."""
    return list(zip(keys, sorted(sizes.items()), strict=True))
