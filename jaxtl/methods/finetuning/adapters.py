"""Adapters: kernels of a source that stays, and small matrices beside them that are trained.

    {"base": parameters of the model,  "adapter": {path of a kernel: {"a": [rows, r], "b": [r, out] (, "m": [out])}}}

The forward pass of any model is wrapped and sees the kernels that result; what is new in it (a head) is trained in the
base as ever. A dense kernel is [in, out], that of a convolution [h, w, in, out], whose rows are h·w·in.

Decay on A and B is no L2-SP: ½(‖A‖² + ‖B‖²) ≥ ‖AB‖_*, with equality at the best factors of a product, so that it pulls
the change of the weights towards 0 in the nuclear norm, which makes it of low rank. L2-SP is ½‖s A B‖²: `factored_l2`.
A and B are float32 whatever the model's dtype: steps from B = 0 in bfloat16 are lost where a decay comes first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.labels import check_labels
from jaxtl.losses import Forward
from jaxtl.trees import Tree, map_named, named_leaves

BASE, ADAPTER = "base", "adapter"  # the parts of the parameters; the second is also the label of what is in it


def lora_scale(alpha: float, rank: int, *, stabilised: bool = False) -> float:
    """s of W + s A B: α / r, or α / √r, with which the size of a change does not fall with its rank (rsLoRA).

    Example:
        >>> lora_scale(8, 4), lora_scale(8, 4, stabilised=True)
        (2.0, 4.0)

    Source: Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023.
    """
    return alpha / (rank**0.5 if stabilised else rank)


def lora(params: Tree, on: Tree, rank: int, rng: jax.Array) -> dict[str, Tree]:
    """Low-rank changes of some kernels, W + s A B, with A at random and B = 0: the model is what it was.

    Args:
        params: nested dicts of arrays.
        on: bool tree like them: which are adapted; each has two or more axes.
        rank: r, at most; a kernel with fewer rows or columns has as many as these.
        rng: key.

    Returns:
        {"base": params, "adapter": ...}; A is uniform in ±1/√rows.

    Raises:
        InputError: a rank below 1, a mask of other paths, one that selects nothing or a vector.

    Example:
        >>> params = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}
        >>> made = lora(params, {"kernel": True, "bias": False}, 2, jax.random.key(0))
        >>> {name: leaf.shape for name, leaf in made["adapter"]["kernel"].items()}
        {'a': (6, 2), 'b': (2, 4)}

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022.
    """
    chosen = _chosen(params, on, rank, "lora")

    def of(index: int, kernel: jax.Array) -> dict[str, jax.Array]:
        rows, out = matrix(kernel).shape
        r, bound = min(rank, rows, out), rows**-0.5
        a = jax.random.uniform(jax.random.fold_in(rng, index), (rows, r), minval=-bound, maxval=bound)
        return {"a": a, "b": jnp.zeros((r, out))}

    made = {path: of(index, kernel) for index, (path, kernel) in enumerate(chosen.items())}
    return {BASE: params, ADAPTER: _nested(made)}


def dora(params: Tree, on: Tree, rank: int, rng: jax.Array) -> dict[str, Tree]:
    """Direction and length of every column apart: m_j (W + s A B)_j / ‖(W + s A B)_j‖, from m_j = ‖W_j‖ on.

    As in the published program the norm is taken for a constant by the gradient.

    Args:
        params, on, rank, rng: as for `lora`.

    Returns:
        As `lora`, with "m" [out] beside each "a" and "b".

    Raises:
        InputError: as `lora`.

    Example:
        >>> made = dora({"kernel": jnp.array([[3.0], [4.0]])}, {"kernel": True}, 1, jax.random.key(0))
        >>> made["adapter"]["kernel"]["m"].tolist()
        [5.0]

    Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024.
    """
    made = lora(params, on, rank, rng)
    adapters = {
        path: {**own, "m": _lengths(matrix(named_leaves(params)[path]))} for path, own in _flat(made[ADAPTER]).items()
    }
    return {BASE: params, ADAPTER: _nested(adapters)}


def pissa(params: Tree, on: Tree, rank: int) -> dict[str, Tree]:
    """The r largest singular directions of a kernel are trained, A = U_r √S_r, B = √S_r V_rᵀ, and the rest stays.

    Its scale is 1. The base holds W − A B, in float32 at least, so that the model is what it was. A decay on A and B
    pulls what the source learned towards 0, and not the change.

    Args:
        params, on, rank: as for `lora`.

    Returns:
        As `lora`.

    Raises:
        InputError: as `lora`.

    Example:
        >>> made = pissa({"kernel": jnp.diag(jnp.array([3.0, 1.0]))}, {"kernel": True}, 1)
        >>> made["base"]["kernel"].tolist()
        [[0.0, 0.0], [0.0, 1.0]]

    Source: Meng, Wang and Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language
    Models", 2024.
    """
    chosen, made, rest = _chosen(params, on, rank, "pissa"), {}, {}
    for path, kernel in chosen.items():
        wide = matrix(kernel).astype(jnp.promote_types(kernel.dtype, jnp.float32))
        u, s, v = jnp.linalg.svd(wide, full_matrices=False)
        r, root = min(rank, len(s)), jnp.sqrt(s)
        made[path] = {"a": u[:, :r] * root[None, :r], "b": root[:r, None] * v[:r]}
        rest[path] = (wide - made[path]["a"] @ made[path]["b"]).reshape(kernel.shape)
    return {BASE: map_named(lambda path, w: rest.get(path, w), params), ADAPTER: _nested(made)}


def merged(params: dict[str, Tree], scale: Any) -> Tree:
    """The parameters of the model itself, every adapter within its kernel: for export, and without cost in use.

    Args:
        params: {"base", "adapter"} of `lora`, `dora` or `pissa`.
        scale: s, see `lora_scale`; 1 for `pissa`.

    Returns:
        A tree like the base, in its dtypes.

    Example:
        >>> own = {"kernel": {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 2))}}
        >>> merged({"base": {"kernel": jnp.eye(2)}, "adapter": own}, 0.5)["kernel"].tolist()
        [[1.5, 0.5], [0.5, 1.5]]
    """
    adapters = _flat(params[ADAPTER])

    def of(path: str, kernel: jax.Array) -> jax.Array:
        if path not in adapters:
            return kernel
        own = adapters[path]
        changed = matrix(kernel) + scale * (own["a"] @ own["b"])
        if "m" in own:
            lengths = jax.lax.stop_gradient(_lengths(changed))
            changed = changed * (own["m"] / jnp.where(lengths > 0, lengths, 1.0))[None]
        return changed.reshape(kernel.shape).astype(kernel.dtype)

    return map_named(of, params[BASE])


def adapted(forward: Forward, scale: Any) -> Forward:
    """A forward pass on {"base", "adapter"}: that of the model, with the kernels of `merged`.

    What is frozen in the base is told to the model under its own names, but for kernels with an adapter, which move.

    Args:
        forward: (params, model_state, batch, ctx) -> (outputs, model_state), of any model.
        scale: s, see `lora_scale`.

    Example:
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"head": batch["x"] @ params["kernel"]}, model_state
        >>> own = {"kernel": {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 1))}}
        >>> params, batch = {"base": {"kernel": jnp.zeros((2, 1))}, "adapter": own}, {"x": jnp.ones((1, 2))}
        >>> adapted(forward, 2.0)(params, {}, batch, None)[0]["head"].tolist()
        [[4.0]]
    """

    def wrapped(params, model_state, batch, ctx):
        if getattr(ctx, "frozen", None):
            own = {path.removeprefix(f"{BASE}/") for path in ctx.frozen if path.startswith(f"{BASE}/")}
            ctx = dataclasses.replace(ctx, frozen=frozenset(own - _flat(params[ADAPTER]).keys()))
        return forward(merged(params, scale), model_state, batch, ctx)

    return wrapped


def factored_l2(scale: Any) -> Callable[[Tree], jax.Array]:
    """L2-SP of what `lora` adapts, fn(params) -> ½ Σ ‖s A B‖² = ½ s² Σ tr(AᵀA BBᵀ): products of r × r only.

    For `penalties.Term` on the label "adapter".

    Args:
        scale: s, see `lora_scale`.

    Example:
        >>> adapters = {"kernel": {"a": jnp.ones((3, 1)), "b": jnp.ones((1, 2))}}
        >>> float(factored_l2(2.0)({"base": None, "adapter": adapters}))  # six entries of 2
        12.0

    Source: Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
    2018, of a product of factors.
    """

    def penalty(params: Tree) -> jax.Array:
        total = jnp.float32(0)
        for own in _flat(params[ADAPTER]).values():
            total += 0.5 * scale**2 * jnp.sum((own["a"].T @ own["a"]) * (own["b"] @ own["b"].T))
        return total

    return penalty


def matrix(kernel: jax.Array) -> jax.Array:
    """A kernel [..., out] as [rows, out].

    Example:
        >>> matrix(jnp.zeros((3, 3, 4, 8))).shape
        (36, 8)
    """
    return kernel.reshape(-1, kernel.shape[-1])


def _lengths(columns: jax.Array) -> jax.Array:
    """[out] of [rows, out]."""
    return jnp.sqrt(jnp.sum(jnp.square(columns.astype(jnp.promote_types(columns.dtype, jnp.float32))), axis=0))


def _chosen(params: Tree, on: Tree, rank: int, where: str) -> dict[str, jax.Array]:
    """The kernels that are adapted, by path."""
    if not (isinstance(rank, int) and rank >= 1):
        raise InputError(f"{rank!r}", where=f"{where} rank", todo="give an integer >= 1")
    check_labels(params, on, where=f"{where} on")
    wanted = named_leaves(on)
    chosen = {path: leaf for path, leaf in named_leaves(params).items() if wanted[path]}
    for path, leaf in chosen.items():
        if jnp.ndim(leaf) < 2:
            raise InputError(f"{path} is no matrix", where=f"{where} on", todo="select kernels: labels.kernels(params)")
    if not chosen:
        raise InputError("selects no kernel", where=f"{where} on", todo="make it of labels: having(labels, ...)")
    return chosen


def _flat(adapters: Tree) -> dict[str, dict[str, jax.Array]]:
    """{path of a kernel: its own}."""
    found: dict[str, dict[str, jax.Array]] = {}
    for path, leaf in named_leaves(adapters).items():
        kernel, _, name = path.rpartition("/")
        found.setdefault(kernel, {})[name] = leaf
    return found


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{"a/b": x} as {"a": {"b": x}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *above, last = path.split("/")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    return tree
