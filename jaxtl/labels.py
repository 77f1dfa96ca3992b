"""What each parameter is: a tree of strings beside the parameters, written as rules on their paths.

Penalties, decay, learning rates, freezing and reports are all functions of (parameters, labels).
Different questions may use different label trees over the same parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.trees import Tree, keep, map_named, named_leaves, paired, sum_leaves

TRANSFERRED = "transferred"
NEW = "new"
SHARED = "shared"  # by several tasks; what belongs to one is "task:NAME"
DEPTH = "depth:"  # and a number, from input to output

Rules = Iterable[tuple[str, str]]  # (regular expression for a whole path, label)

# A word of a parameter's name that says it is added, multiplied with, or counted: no weight, whatever its axes.
NO_WEIGHTS = {"bias", "biases", "offset", "shift", "beta", "scale", "gain", "gamma", "mean", "var", "variance"}


class LabelCount(NamedTuple):
    """How much of a model carries a label."""

    leaves: int
    parameters: int
    bytes: int


def compile_rule(pattern: str, where: str) -> re.Pattern[str]:
    """A regular expression for whole paths; one that cannot be read is the user's mistake, not a traceback."""
    if not isinstance(pattern, str):
        raise InputError(f"{pattern!r} is no text", where=where, todo='give a regular expression, such as "head/.*"')
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression ({error})", where=where) from None


class PathRules:
    """Pairs of a regular expression and a value; the first whose expression matches a whole path decides.

    Args:
        pairs: (regex, value), in order.
        where: of what they are the rules, for messages.

    Raises:
        InputError: an expression that cannot be read.

    Example:
        >>> rules = PathRules([("head/.*", NEW), (".*", TRANSFERRED)], where="label rules")
        >>> rules.first("head/kernel")[1], rules.idle
        ('new', ['.*'])
    """

    def __init__(self, pairs: Iterable[tuple[str, Any]], where: str):
        self.pairs = [(compile_rule(pattern, where), value) for pattern, value in pairs]
        self._deciding: set[int] = set()  # positions, not patterns: the same rule written twice compiles to one object

    def first(self, path: str) -> tuple[re.Match[str], Any] | None:
        """The match and the value of the rule that decides for a path, None where no rule does."""
        for position, (pattern, value) in enumerate(self.pairs):
            if match := pattern.fullmatch(path):
                self._deciding.add(position)
                return match, value
        return None

    @property
    def idle(self) -> list[str]:
        """The expressions that have decided for no path so far."""
        return [pattern.pattern for k, (pattern, _) in enumerate(self.pairs) if k not in self._deciding]


def _pairs(rules: Rules) -> list[tuple[str, str]]:
    rules = list(rules)
    for rule in rules:
        if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[1], str)):
            todo = 'give (regular expression, label) pairs: [("head/.*", "new"), (".*", "transferred")]'
            raise InputError(f"{rule!r} is no such pair", where="label rules", todo=todo)
    return [(pattern, label) for pattern, label in rules]


def label_params(params: Tree, rules: Rules, otherwise: Tree | None = None) -> Tree:
    """Label every parameter by the first rule whose regular expression matches its whole path.

    Args:
        params: tree of arrays.
        rules: (regex, label) pairs, tried in order against "a/b/kernel" with `re.fullmatch`.
        otherwise: label tree of the same paths; a leaf that no rule covers keeps its label there.

    Returns:
        A tree of strings with the structure of `params`.

    Raises:
        InputError: a leaf that nothing covers, a rule that decides nothing (a typo would be silent), a label that is no
            text, or an `otherwise` of other paths.

    Example:
        >>> params = {"trunk": {"kernel": np.ones((2, 3))}, "head": {"kernel": np.ones((3, 5))}}
        >>> label_params(params, [("head/.*", NEW), (".*", TRANSFERRED)])
        {'head': {'kernel': 'new'}, 'trunk': {'kernel': 'transferred'}}
    """
    deciding = PathRules(_pairs(rules), "label rules")

    def label_of(path, _leaf, *kept):
        if found := deciding.first(path):
            return found[1]
        if kept:
            return kept[0]
        raise InputError("no rule covers this parameter", where=path, todo='add a rule, or a last one (".*", label)')

    if otherwise is not None:
        check_labels(params, otherwise)
    labels = map_named(label_of, params, *(() if otherwise is None else (otherwise,)))
    if deciding.idle:
        raise InputError(
            f"decides nothing (no path matches, or an earlier rule took them all): {deciding.idle[0]!r}",
            where="label rules",
            todo=f"the paths are {some(named_leaves(params))}",
        )
    return labels


def label_by_depth(params: Tree, stages: Sequence[str]) -> Tree:
    """ "depth:k" for every parameter, k being the place of the stage that it is in, from input to output.

    Strict: a parameter that no stage covers would move like one of the head without a word.

    Args:
        params: tree of arrays.
        stages: regular expressions for whole paths, such as `models.stage_paths` gives.

    Raises:
        InputError: as `label_params`.

    Example:
        >>> params = {"trunk": {"conv_0": np.ones(2), "conv_1": np.ones(2)}, "head": np.ones(2)}
        >>> label_by_depth(params, ["trunk/conv_0", "trunk/conv_1", "head"])
        {'head': 'depth:2', 'trunk': {'conv_0': 'depth:0', 'conv_1': 'depth:1'}}
    """
    return label_params(params, [(stage, f"{DEPTH}{k}") for k, stage in enumerate(stages)])


def depth_of(label: str) -> int | None:
    """k of the label "depth:k", None of any other.

    Example:
        >>> depth_of("depth:2"), depth_of("new")
        (2, None)
    """
    number = label.removeprefix(DEPTH)
    return int(number) if number != label and number.isdecimal() else None


def count_by_label(params: Tree, labels: Tree) -> dict[str, LabelCount]:
    """Leaves, parameters and bytes of every label, in the order of the label's first leaf.

    Example:
        >>> count_by_label({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}, {"a": "new", "b": "new"})
        {'new': LabelCount(leaves=2, parameters=10, bytes=40)}
    """
    check_labels(params, labels)
    counts: dict[str, LabelCount] = {}
    for leaf, label in zip(jax.tree.leaves(params), jax.tree.leaves(paired(params, labels)), strict=True):
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
    moved = params if anchor is None else map_named(lambda _, w, a: w - a, params, anchor)
    return {
        label: jnp.sqrt(sum_leaves(jnp.square, keep(moved, selected(params, labels, label, kernels, "labels"))))
        for label in sorted(label_set(labels))
    }


def label_set(labels: Tree) -> set[str]:
    """The labels that occur in a label tree.

    Raises:
        InputError: one that is no text.
    """
    for path, label in named_leaves(labels).items():
        if not isinstance(label, str):
            what = f"{path} has {label!r}, which is no text"
            raise InputError(what, where="labels", todo="make the tree with label_params, or of strings")
    return set(jax.tree.leaves(labels))


def having(labels: Tree, *wanted: str) -> Tree:
    """Bool tree: which leaves carry one of the wanted labels.

    Example:
        >>> having({"trunk": "transferred", "head": "new"}, NEW)
        {'head': True, 'trunk': False}
    """
    return jax.tree.map(lambda label: label in wanted, labels)


def kernels(params: Tree) -> Tree:
    """Bool tree: the weights proper; not biases, scales, offsets or statistics.

    A leaf called "kernel" or "embedding", and any other with two or more axes: "weight" of PyTorch and Equinox, "w" of
    Haiku, "recurrent_kernel", "embeddings", "lora_a". Not among them: a leaf with a word of `NO_WEIGHTS` in its name
    ("moving_mean"), a "b" beside a "w", and what a layer with "norm" in its name holds, which may be stacked.

    Example:
        >>> kernels({"query": {"weight": np.ones((2, 3)), "bias": np.ones(3)}, "norm": {"weight": np.ones(3)}})
        {'norm': {'weight': False}, 'query': {'bias': False, 'weight': True}}
    """
    paths = named_leaves(params).keys()

    def is_weight(path, leaf):
        layer, _, name = path.rpartition("/")
        if name in ("kernel", "embedding"):
            return True
        says_no = NO_WEIGHTS & set(re.split("[^a-z]+", name.lower())) or "norm" in name.lower()
        if says_no or "norm" in layer.rpartition("/")[2].lower():
            return False
        return np.ndim(leaf) >= 2 and not (name == "b" and f"{path[:-1]}w" in paths)

    return map_named(is_weight, params)


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


def selected(params: Tree, labels: Tree, label: str, on: Callable[[Tree], Tree], where: str) -> Tree:
    """Bool tree like `params`: the leaves with this label among those that `on(params)` selects.

    Raises:
        InputError: `on` gives no bool tree of these paths.
    """
    mask = on(params)
    check_labels(params, mask, where)
    for path, chosen in named_leaves(mask).items():
        if not isinstance(chosen, bool | np.bool_):
            what = f"the mask has {type(chosen).__name__} at {path}"
            raise InputError(what, where=where, todo="give one True or False for each parameter")
    return map_named(lambda _, leaf, own, chosen: own == label and bool(chosen), params, labels, mask)


def some(names: Iterable[str], most: int = 6) -> str:
    """A few names in one line, and how many there are.

    Example:
        >>> some(["a", "b", "c"], most=2)
        'a, b, … (3 in all)'
    """
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
