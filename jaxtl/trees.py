"""Parameter trees: paths as "trunk/conv_0/kernel", sums in float32, safe copies, differences with names.

Any pytree works: nested dicts (Flax linen), an NNX state or its pure dict, dataclasses (Equinox). Two trees belong
together by their paths: each kind of tree has an order of its own (a dict by name, an OrderedDict and a NamedTuple as
they were written), so that pairing by order would pair other leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError, kind_of

Tree = Any  # a pytree; the leaves are arrays unless said otherwise


def path_name(path: tuple) -> str:
    """The path of a leaf as one string, "a/b/kernel".

    An `nnx.State` holds `Param` variables whose array is one step further down; that step, "value", is left out.
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Tree) -> dict[str, Any]:
    """Every leaf under its path, in the tree's own order.

    Raises:
        InputError: two leaves under one path, as {"a/b": ..., "a": {"b": ...}} has them.

    Example:
        >>> named_leaves({"head": {"kernel": 1, "bias": 2}})
        {'head/bias': 2, 'head/kernel': 1}
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        if name in leaves:
            todo = "rename the dict key that contains '/'"
            raise InputError("two leaves have one path", where=name, todo=todo)
        leaves[name] = leaf
    return leaves


def paired(tree: Tree, other: Tree) -> Tree:
    """The leaves of `other` in the structure of `tree`, each where `tree` has its path.

    Args:
        tree, other: trees of the same paths, whatever their kinds and orders.

    Raises:
        InputError: a path that only one of them has.

    Example:
        >>> from collections import OrderedDict
        >>> paired({"a": 0, "b": 0}, OrderedDict(b=2, a=1))
        {'a': 1, 'b': 2}
    """
    ours, theirs = named_leaves(tree), named_leaves(other)
    for path in sorted(ours.keys() ^ theirs.keys()):
        what = f"{path} is in one tree only"
        raise InputError(what, where="two trees that belong together", todo="make one from the other")
    return jax.tree.unflatten(jax.tree.structure(tree), [theirs[path] for path in ours])


def map_named(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`jax.tree.map` by path: fn("a/b/kernel", leaf, ...) with the leaves that the trees have there."""
    rest = tuple(paired(tree, other) for other in rest)
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_name(path), *leaves), tree, *rest)


def keep(tree: Tree, mask: Tree) -> Tree:
    """The leaves where the bool tree `mask` is true; the others become None, which has no leaves."""
    return map_named(lambda _, leaf, kept: leaf if kept else None, tree, mask)


def among(like: Any, tree: Any) -> Any:
    """The leaves of a tree of dicts that another one has too.

    Example:
        >>> among({"a": {"b": 0}}, {"a": {"b": 1, "c": 2}, "d": 3})
        {'a': {'b': 1}}
    """
    return {name: among(part, tree[name]) for name, part in like.items()} if isinstance(like, dict) else tree


def sum_leaves(fn: Callable[..., jax.Array], *trees: Tree) -> jax.Array:
    """Σ over leaves and entries of fn(x, ...), in float32 whatever the leaves' dtype (float64 stays float64).

    A sum in bfloat16 loses everything below 1/256 of the running total.

    Args:
        fn: entrywise, from arrays of one shape to an array.
        *trees: trees of the same paths, paired by them.

    Returns:
        A scalar, 0 for a tree without leaves.
    """
    total = jnp.float32(0)
    first, *rest = trees
    for leaves in zip(*map(jax.tree.leaves, (first, *(paired(first, other) for other in rest))), strict=True):
        total = total + jnp.sum(fn(*(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in leaves)))
    return total


def copy_tree(tree: Tree) -> Tree:
    """New buffers with the same values: donating the copy leaves the caller's arrays alive."""
    return jax.tree.map(jnp.copy, tree)


def shape_of(leaf: Any) -> str:
    """A leaf in words: "float32[3, 3, 1, 16]"."""
    return f"{getattr(leaf, 'dtype', type(leaf).__name__)}{list(np.shape(leaf))}"


def differences(ours: Tree, theirs: Tree, dtypes: bool = True) -> list[str]:
    """How two trees differ in paths, shapes and dtypes: a line a path, both sides named; empty when they fit.

    Args:
        ours, theirs: trees of arrays.
        dtypes: whether another dtype is a difference.

    Example:
        >>> differences({"a": jnp.zeros(2), "b": jnp.zeros(1)}, {"a": jnp.zeros(3)})
        ['a: float32[2] against float32[3]', 'b: float32[1] against nothing']
    """
    a, b = named_leaves(ours), named_leaves(theirs)
    lines = []
    for path in sorted(a.keys() | b.keys()):
        left = shape_of(a[path]) if path in a else "nothing"
        right = shape_of(b[path]) if path in b else "nothing"
        same_shape = path in a and path in b and np.shape(a[path]) == np.shape(b[path])
        if left != right and (dtypes or not same_shape):
            lines.append(f"{path}: {left} against {right}")
    return lines


def check_same(ours: Tree, theirs: Tree, *, where: str, todo: str, dtypes: bool = True) -> None:
    """Refuse trees that differ in paths, shapes or, unless told otherwise, dtypes.

    They need not be of one kind or order: `paired` brings one into the structure of the other.

    Raises:
        InputError: names up to three of the paths that differ.
    """
    lines = differences(ours, theirs, dtypes)
    if lines:
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        raise InputError("; ".join(lines[:3]) + more, where=where, todo=todo)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed random keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def check_arrays(tree: Tree, *, where: str, todo: str = "give a tree of arrays, for example a dict") -> None:
    """Refuse a tree with a leaf that no compiled program takes, and arrays that were donated to an earlier one.

    Raises:
        InputError: names the path.
    """
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: isinstance(node, Iterator)):
        path = path_name(keys)
        place = f"{where}, '{path}'" if path else where
        numpy = isinstance(leaf, np.ndarray | np.generic)
        known = numpy or isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | bool | int | float | complex)
        if not known or (numpy and leaf.dtype.kind in "OSUMm"):
            raise InputError(f"{kind_of(leaf)} is no array of numbers", where=place, todo=todo)
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.is_deleted():
            what = "these numbers are gone: the step that was given them has written over them"
            raise InputError(what, where=place, todo="go on with the state that came back, or make it anew")
