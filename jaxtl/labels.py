"""What each parameter is: a tree of strings beside the parameters, written as rules on their paths.

Penalties, decay, learning rates, freezing and reports are all functions of (parameters, labels).
Different questions may use different label trees over the same parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.trees import Tree, keep, map_named, named_leaves, sum_leaves

TRANSFERRED = "transferred"
NEW = "new"
SHARED = "shared"  # by several tasks; what belongs to one is "task:NAME"

Rules = Iterable[tuple[str, str]]  # (regular expression for a whole path, label)


class LabelCount(NamedTuple):
    """How much of a model carries a label."""

    leaves: int
    parameters: int
    bytes: int


def compile_rule(pattern: str, where: str) -> re.Pattern[str]:
    """A regular expression for whole paths; one that cannot be read is the user's mistake, not a traceback."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression ({error})", where=where) from None


def label_params(params: Tree, rules: Rules, otherwise: Tree | None = None) -> Tree:
    """Label every parameter by the first rule whose regular expression matches its whole path.

    Args:
        params: tree of arrays.
        rules: (regex, label) pairs, tried in order against "a/b/kernel" with `re.fullmatch`.
        otherwise: label tree of the same structure; a leaf that no rule covers keeps its label there.

    Returns:
        A tree of strings with the structure of `params`.

    Raises:
        InputError: a leaf that nothing covers, a rule that decides nothing (a typo would be silent), or an
            `otherwise` of another structure.

    Example:
        >>> params = {"trunk": {"kernel": np.ones((2, 3))}, "head": {"kernel": np.ones((3, 5))}}
        >>> label_params(params, [("head/.*", NEW), (".*", TRANSFERRED)])
        {'head': {'kernel': 'new'}, 'trunk': {'kernel': 'transferred'}}
    """
    compiled = [(compile_rule(pattern, "label rules"), label) for pattern, label in rules]
    deciding = set()  # positions, not patterns: the same rule written twice compiles to one object

    def label_of(path, _leaf, *kept):
        for position, (pattern, label) in enumerate(compiled):
            if pattern.fullmatch(path):
                deciding.add(position)
                return label
        if kept:
            return kept[0]
        raise InputError("no rule covers this parameter", where=path, todo='add a rule, or a last one (".*", label)')

    if otherwise is not None:
        check_labels(params, otherwise)
    labels = map_named(label_of, params, *(() if otherwise is None else (otherwise,)))
    idle = [pattern.pattern for position, (pattern, _) in enumerate(compiled) if position not in deciding]
    if idle:
        raise InputError(
            f"decides nothing (no path matches, or an earlier rule took them all): {idle[0]!r}",
            where="label rules",
            todo=f"the paths are {some(named_leaves(params))}",
        )
    return labels


def count_by_label(params: Tree, labels: Tree) -> dict[str, LabelCount]:
    """Leaves, parameters and bytes of every label, in the order of the label's first leaf.

    Example:
        >>> count_by_label({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}, {"a": "new", "b": "new"})
        {'new': LabelCount(leaves=2, parameters=10, bytes=40)}
    """
    check_labels(params, labels)
    counts: dict[str, LabelCount] = {}
    for leaf, label in zip(jax.tree.leaves(params), jax.tree.leaves(labels), strict=True):
        old = counts.get(label, LabelCount(0, 0, 0))
        size = int(np.prod(leaf.shape))
        counts[label] = LabelCount(old.leaves + 1, old.parameters + size, old.bytes + size * leaf.dtype.itemsize)
    return counts


def norm_by_label(params: Tree, labels: Tree, anchor: Tree | None = None) -> dict[str, jax.Array]:
    """√Σ (w − anchor)² over the kernels of every label: its norm, or its distance from an anchor.

    Args:
        params: tree of arrays.
        labels: tree of strings like `params`.
        anchor: tree like `params`; zero when left out.

    Returns:
        {label: float32 scalar}.

    Example:
        >>> params = {"kernel": np.array([3.0, 4.0], np.float32), "bias": np.ones(2, np.float32)}
        >>> float(norm_by_label(params, {"kernel": "new", "bias": "new"})["new"])
        5.0
    """
    moved = params if anchor is None else jax.tree.map(lambda w, a: w - a, params, anchor)
    norms = {}
    for label in sorted(label_set(labels)):
        mask = jax.tree.map(lambda carries, kernel: carries and kernel, having(labels, label), kernels(params))
        norms[label] = jnp.sqrt(sum_leaves(jnp.square, keep(moved, mask)))
    return norms


def label_set(labels: Tree) -> set[str]:
    """The labels that occur in a label tree."""
    return set(jax.tree.leaves(labels))


def having(labels: Tree, *wanted: str) -> Tree:
    """Bool tree: which leaves carry one of the wanted labels.

    Example:
        >>> having({"trunk": "transferred", "head": "new"}, NEW)
        {'head': True, 'trunk': False}
    """
    return jax.tree.map(lambda label: label in wanted, labels)


def kernels(params: Tree) -> Tree:
    """Bool tree: the weights proper, whose path ends in "kernel" or "embedding"; not biases, scales, offsets."""
    return map_named(lambda path, _: path.rsplit("/", 1)[-1] in ("kernel", "embedding"), params)


def everything(params: Tree) -> Tree:
    """Bool tree: every leaf."""
    return jax.tree.map(lambda _: True, params)


def check_labels(params: Tree, labels: Tree, where: str = "labels") -> None:
    """Refuse a tree of labels, or of masks, that does not fit the parameters leaf by leaf.

    Raises:
        InputError: names a path on one side only.
    """
    ours, theirs = named_leaves(params).keys(), named_leaves(labels).keys()
    for path in sorted(ours ^ theirs):
        what = "a parameter without entry" if path in ours else "an entry without parameter"
        raise InputError(f"{path} is {what}", where=where, todo="make the tree from these very parameters")


def some(names: Iterable[str], most: int = 6) -> str:
    """A few names in one line, and how many there are.

    Example:
        >>> some(["a", "b", "c"], most=2)
        'a, b, … (3 in all)'
    """
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
