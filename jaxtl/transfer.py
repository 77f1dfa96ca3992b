"""Source parameters → target parameters, by explicit rules, with a report of what was actually copied.

Labels and anchor follow from what happened to each parameter, so that label and fact cannot disagree.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, compile_rule, some
from jaxtl.trees import Tree, copy_tree, map_named, named_leaves, shape_of

# (source leaf, target leaf) -> (values like the target's, which of them are the source's: bool, broadcastable)
Adaptation = Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What happened to every parameter, by path; `renamed` and `adapted` map target path to source path."""

    copied: tuple[str, ...]
    renamed: dict[str, str]
    adapted: dict[str, str]
    reinitialised: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = {
            "copied": self.copied,
            "renamed": [f"{source} -> {target}" for target, source in self.renamed.items()],
            "adapted": list(self.adapted),
            "re-initialised": self.reinitialised,
            "unused in the source": self.unused,
        }
        return "\n".join(f"{name} ({len(paths)}): {', '.join(paths)}" for name, paths in parts.items() if paths)


class Transfer(NamedTuple):
    """params and anchor are trees like the target's; the anchor is a copy, zero where nothing was copied."""

    params: Tree
    labels: Tree
    anchor: Tree
    report: Report


def sum_channels(source: jax.Array, target: jax.Array) -> tuple[jax.Array, Any]:
    """Adapt a first convolution kernel [H, W, C, O] to grey images [H, W, 1, O]: the sum over input channels.

    A grey image repeated in C channels gives the same output through the source kernel.
    """
    adapted = jnp.sum(source, axis=-2, keepdims=True)
    if adapted.shape != target.shape:
        raise InputError(f"{shape_of(source)} summed over channels is not {shape_of(target)}", where="sum_channels")
    return adapted.astype(target.dtype), True


def matching_classes(source_classes: Sequence[str], target_classes: Sequence[str]) -> Adaptation:
    """Adapt a head's kernel [D, C] or bias [C]: the columns of classes that both tasks name are copied, others fresh.

    Raises:
        InputError: no class in common, or (on use) a head that does not have these classes.
    """
    pairs = [(source_classes.index(name), i) for i, name in enumerate(target_classes) if name in source_classes]
    if not pairs:
        raise InputError(
            f"{', '.join(source_classes)} and {', '.join(target_classes)} have no class in common",
            where="matching_classes",
            todo="re-initialise the head: reinit=('head/.*',)",
        )
    source_index, target_index = map(np.array, zip(*pairs, strict=True))

    def adapt(source, target):
        for leaf, classes in ((source, source_classes), (target, target_classes)):
            if leaf.shape[-1] != len(classes):
                raise InputError(f"{shape_of(leaf)} has not {len(classes)} classes", where="matching_classes")
        shared = np.isin(np.arange(len(target_classes)), target_index)
        return target.at[..., target_index].set(source[..., source_index].astype(target.dtype)), shared

    return adapt


def transfer(
    source_params: Tree,
    target_params: Tree,
    rename: Sequence[tuple[str, str]] = (),
    reinit: Sequence[str] = (),
    adapt: Sequence[tuple[str, Adaptation]] = (),
) -> Transfer:
    """Copy every parameter of the source that the target has under the same path; refuse what does not fit.

    Args:
        source_params: tree of arrays.
        target_params: tree of arrays, freshly initialised.
        rename: (regex, replacement) on whole source paths, first match wins: `("head/(.*)", r"source_head/\\1")`.
        reinit: regexes of target paths that keep their fresh values and are labelled new.
        adapt: (regex, rule) on target paths whose shapes differ by intention: `sum_channels`, `matching_classes`. A
            leaf that came wholly from the source is labelled transferred, one that did in part new.

    Returns:
        Transfer(params, labels, anchor, report).

    Raises:
        InputError: a target parameter that the source lacks, another shape or dtype, a rule that matches nothing, two
            source parameters renamed to one path.

    Example:
        >>> source = {"trunk": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(5)}}
        >>> target = {"trunk": {"kernel": jnp.zeros(2)}, "head": {"kernel": jnp.zeros(3)}}
        >>> moved = transfer(source, target, reinit=("head/.*",))
        >>> moved.labels
        {'head': {'kernel': 'new'}, 'trunk': {'kernel': 'transferred'}}
        >>> print(moved.report)
        copied (1): trunk/kernel
        re-initialised (1): head/kernel
        unused in the source (1): head/kernel
    """
    available = _renamed(named_leaves(source_params), rename)
    fresh = _Rules([(pattern, None) for pattern in reinit], "reinit")
    adaptations = _Rules(adapt, "adapt")
    copied, renamed, adapted, reinitialised = [], {}, {}, []

    def move(path, target):
        if fresh.first(path):
            reinitialised.append(path)
            return target, NEW, jnp.zeros_like(target)
        if path not in available:
            raise InputError("the source has no such parameter", where=path, todo=f"reinit=('{path}',), or rename one")
        origin, source = available[path]
        rule = adaptations.first(path)
        if rule:
            values, from_source = _adapted(path, rule[1], source, target)
            adapted[path] = origin
            anchor = jnp.where(from_source, values, jnp.zeros_like(values))
            return values, TRANSFERRED if np.all(from_source) else NEW, anchor
        if shape_of(source) != shape_of(target):
            raise InputError(
                f"the source has {shape_of(source)}, the target {shape_of(target)}",
                where=path,
                todo=f"reinit=('{path}',), or adapt=(('{path}', sum_channels or matching_classes(...)),)",
            )
        if origin == path:
            copied.append(path)
        else:
            renamed[path] = origin
        return source, TRANSFERRED, source

    moved = map_named(move, target_params)
    params, labels, anchor = jax.tree.transpose(jax.tree.structure(target_params), None, moved)
    fresh.refuse_idle(named_leaves(target_params))
    adaptations.refuse_idle(named_leaves(target_params))
    if not (copied or renamed or adapted):
        raise InputError("nothing was copied", where="transfer", todo="this is a new model: initialise it instead")
    used = {*copied, *renamed.values(), *adapted.values()}
    unused = tuple(origin for origin, _ in available.values() if origin not in used)
    report = Report(tuple(copied), renamed, adapted, tuple(reinitialised), unused)
    return Transfer(params, labels, copy_tree(anchor), report)


def _adapted(path: str, rule: Adaptation, source, target) -> tuple[jax.Array, Any]:
    try:
        values, from_source = rule(source, target)
    except InputError as error:
        raise InputError(f"{error.where}: {error.what}", where=path, todo=error.todo) from None
    if shape_of(values) != shape_of(target):
        raise InputError(f"the adaptation made {shape_of(values)}, the target is {shape_of(target)}", where=path)
    return values, from_source


class _Rules:
    """(regex, value) pairs on whole paths; remembers which were used."""

    def __init__(self, rules: Sequence[tuple[str, Any]], where: str):
        self.rules = [(compile_rule(pattern, where), value) for pattern, value in rules]
        self.where, self.used = where, set[int]()

    def first(self, path: str) -> tuple[re.Match, Any] | None:
        for position, (pattern, value) in enumerate(self.rules):
            if match := pattern.fullmatch(path):
                self.used.add(position)
                return match, value
        return None

    def refuse_idle(self, paths) -> None:
        for position, (pattern, _) in enumerate(self.rules):
            if position not in self.used:
                raise InputError(
                    f"'{pattern.pattern}' matches nothing", where=self.where, todo=f"the paths are {some(paths)}"
                )


def _renamed(source: dict[str, Any], rename: Sequence[tuple[str, str]]) -> dict[str, tuple[str, Any]]:
    """{path in the target: (path in the source, leaf)}."""
    rules = _Rules(rename, "rename")
    result: dict[str, tuple[str, Any]] = {}
    for origin, leaf in source.items():
        rule = rules.first(origin)
        path = _expand(*rule) if rule else origin
        if path in result:
            raise InputError(f"'{origin}' and '{result[path][0]}' would both become '{path}'", where="rename")
        result[path] = (origin, leaf)
    rules.refuse_idle(source)
    return result


def _expand(match: re.Match, replacement: str) -> str:
    try:
        return match.expand(replacement)  # not `sub`, which replaces "(.*)" a second time, by the empty end
    except re.error as error:
        raise InputError(f"{replacement!r} is not a replacement ({error})", where="rename") from None
