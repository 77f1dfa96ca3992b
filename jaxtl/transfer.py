"""Source parameters → target parameters, by explicit rules, with a report of what was actually copied.

Labels and anchor follow from what happened to each parameter, so that label and fact cannot disagree. Equal shapes do
not make equal meanings: a square matrix of PyTorch has the shape of a Flax kernel and is its transpose.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, PathRules, some
from jaxtl.trees import Tree, copy_tree, map_named, named_leaves, shape_of

# (source leaf, target leaf) -> (values like the target's, which of them are the source's: bool, broadcastable)
Adaptation = Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]]

# "weight", "weight_ih_l0", "in_proj_weight", "parametrizations.weight.original1" at the end of a path
_TORCH_WEIGHT = re.compile(r"(.*[./_])?weight(_\w+)?(\.original\d)?")


@dataclasses.dataclass(frozen=True)
class Report:
    """What happened to every parameter, by path; `renamed` and `adapted` map target path to source path.

    `adapted` are those whose values or axes are not the source's as they were.
    """

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
    """Adapt the kernel of a first layer to grey images: the sum over input channels.

    A grey image repeated in C channels gives the same output through the source kernel.

    Args:
        source: [H, W, C, O] of a convolution, or [P·C, O] of a dense layer on P flattened pixels.
        target: [H, W, 1, O] or [P, O].

    Raises:
        InputError: kernels of other shapes.
    """
    times = _channels(source, target)
    if not times:
        raise InputError(f"{shape_of(source)} summed over channels is not {shape_of(target)}", where="sum_channels")
    by_channel = source.reshape(*target.shape[:-1], times, target.shape[-1])
    return jnp.sum(by_channel, axis=-2).astype(target.dtype), True


def repeat_channels(source: jax.Array, target: jax.Array) -> tuple[jax.Array, Any]:
    """Adapt the kernel of a first layer for grey images to C channels: repeated for each of them and divided by C.

    A colour image gives the output that the mean of its channels gives through the source kernel.

    Args:
        source: [H, W, 1, O] of a convolution, or [P, O] of a dense layer on P flattened pixels.
        target: [H, W, C, O] or [P·C, O].

    Raises:
        InputError: kernels of other shapes.
    """
    times = _channels(target, source)
    if not times:
        raise InputError(
            f"{shape_of(source)} repeated over channels is not {shape_of(target)}", where="repeat_channels"
        )
    return (jnp.repeat(source, times, axis=-2) / times).astype(target.dtype), True


def _channels(colour: jax.Array, grey: jax.Array) -> int:
    """How many inputs of one first kernel stand for an input of the other; 0 if they are not of one layer."""
    if colour.ndim != grey.ndim or grey.ndim < 2 or (grey.ndim > 2 and grey.shape[-2] != 1):
        return 0
    times = colour.shape[-2] // grey.shape[-2]
    return times if colour.shape == (*grey.shape[:-2], times * grey.shape[-2], grey.shape[-1]) else 0


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


def channels_last(height: int, width: int) -> Adaptation:
    """Adapt the first dense kernel after features were flattened: from [C·H·W, D], PyTorch's order, to [H·W·C, D].

    Args:
        height, width: of the features before they are flattened.

    Raises:
        InputError: (on use) another shape.

    Example:
        >>> kernel = np.arange(6).reshape(6, 1)  # of 2 channels on 1×3 places
        >>> channels_last(1, 3)(kernel, kernel)[0].ravel().tolist()
        [0, 3, 1, 4, 2, 5]
    """

    def adapt(source, target):
        if source.ndim != 2 or source.shape[0] % (height * width):
            raise InputError(f"{shape_of(source)} has no {height}×{width} features", where="channels_last")
        by_channel = source.reshape(-1, height * width, source.shape[1])
        return by_channel.swapaxes(0, 1).reshape(source.shape), True

    return adapt


def transfer(
    source_params: Tree,
    target_params: Tree,
    rename: Sequence[tuple[str, str]] = (),
    reinit: Sequence[str] = (),
    adapt: Sequence[tuple[str, Adaptation]] = (),
    layout: Literal["flax", "torch"] = "flax",
) -> Transfer:
    """Copy every parameter of the source that the target has under the same path; refuse what does not fit.

    Args:
        source_params: tree of arrays.
        target_params: tree of arrays, freshly initialised.
        rename: (regex, replacement) on whole source paths, first match wins: `("head/(.*)", r"source_head/\\1")`.
        reinit: regexes of target paths that keep their fresh values and are labelled new.
        adapt: (regex, rule) on target paths whose shapes differ by intention: `sum_channels`,
            `repeat_channels`, `matching_classes`. A
            leaf that came wholly from the source is labelled transferred, one that did in part new.
        layout: how the source's weights lie. "torch": every leaf of ≥ 2 axes that is called "weight" there and not
            "weight" or "embedding" here goes from [out, in, ...] to [..., in, out], before `adapt` sees it: linear
            layers, convolutions (transposed ones as Flax has them with `transpose_kernel=True`). The rule
            `channels_last` is for a dense layer after a flattening. "flax": as here; such a leaf is refused, unless
            `adapt` has a rule for it.

    Returns:
        Transfer(params, labels, anchor, report).

    Raises:
        InputError: a target parameter that the source lacks, another shape or dtype, a rule that matches nothing, two
            source parameters renamed to one path, a weight in PyTorch's layout, NaN or infinity in what is copied.

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
    fresh = PathRules([(pattern, None) for pattern in _listed(reinit, "reinit")], "reinit")
    adaptations = PathRules(_listed(adapt, "adapt"), "adapt")
    _check_layout(layout, available)
    copied, renamed, adapted, reinitialised, not_finite = [], {}, {}, [], []

    def move(path, target):
        if fresh.first(path):
            reinitialised.append(path)
            return target, NEW, jnp.zeros_like(target)
        if path not in available:
            raise InputError("the source has no such parameter", where=path, todo=f"reinit=('{path}',), or rename one")
        origin, source = available[path]
        values, from_source, as_it_was = _arrived(path, origin, source, target, adaptations.first(path), layout)
        if not _is_finite(values):
            not_finite.append(path)
        if not as_it_was:
            adapted[path] = origin
        elif origin == path:
            copied.append(path)
        else:
            renamed[path] = origin
        wholly = np.all(from_source)
        anchor = values if wholly else jnp.where(from_source, values, jnp.zeros_like(values))
        return values, TRANSFERRED if wholly else NEW, anchor

    moved = map_named(move, target_params)
    params, labels, anchor = jax.tree.transpose(jax.tree.structure(target_params), None, moved)
    _refuse_idle(fresh, "reinit", named_leaves(target_params))
    _refuse_idle(adaptations, "adapt", named_leaves(target_params))
    if not (copied or renamed or adapted):
        raise InputError("nothing was copied", where="transfer", todo="this is a new model: initialise it instead")
    if not_finite:
        todo = f"take a checkpoint from before it diverged, or reinit=('{not_finite[0]}', ...)"
        raise InputError(f"the source has NaN or infinity in {some(not_finite)}", where="transfer", todo=todo)
    used = {*copied, *renamed.values(), *adapted.values()}
    unused = tuple(origin for origin, _ in available.values() if origin not in used)
    report = Report(tuple(copied), renamed, adapted, tuple(reinitialised), unused)
    return Transfer(params, labels, copy_tree(anchor), report)


def _check_layout(layout: str, available: dict[str, tuple[str, Any]]) -> None:
    if layout not in ("flax", "torch"):
        raise InputError(f"unknown: '{layout}'", where="transfer layout", todo="'flax' or 'torch'")
    if layout == "torch" and not any(_is_torch_kernel(path, *of) for path, of in available.items()):
        what = "no leaf that PyTorch calls 'weight' becomes a kernel, so nothing would be turned"
        raise InputError(what, where="transfer layout='torch'", todo="leave the layout out")


def _is_torch_kernel(path: str, origin: str, source: Any) -> bool:
    """Whether a weight of PyTorch, [out, in, ...], would become a kernel, [..., in, out]; by their names.

    Scales of normalisation have one axis, embeddings are [number, features] in both.
    """
    kept = "embedding" in path.rsplit("/", 1)[-1] or _TORCH_WEIGHT.fullmatch(path)
    return bool(np.ndim(source) >= 2 and _TORCH_WEIGHT.fullmatch(origin) and not kept)


def _arrived(path: str, origin: str, source, target, rule, layout: str) -> tuple[Any, Any, bool]:
    """The values for the target, which of them are the source's, and whether they are the source's as it was."""
    turned = _is_torch_kernel(path, origin, source)
    if turned and layout == "torch":
        source = source.transpose(*range(2, source.ndim), 1, 0)
    elif turned and not rule:
        raise InputError(
            f"'{origin}' is named as PyTorch names weights, which are [out, in, ...]; a kernel is [..., in, out]",
            where=path,
            todo=f"transfer(..., layout='torch') turns them all; adapt=(('{path}', rule),) says what to do with this",
        )
    if rule:
        return *_adapted(path, rule[1], source, target), False
    _check_fits(path, source, target)
    return source, True, not turned


def _check_fits(path: str, source: Any, target: Any) -> None:
    if shape_of(source) != shape_of(target):
        raise InputError(
            f"the source has {shape_of(source)}, the target {shape_of(target)}",
            where=path,
            todo=f"reinit=('{path}',), or adapt=(('{path}', sum_channels or matching_classes(...)),)",
        )


def _is_finite(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return True
    lib = np if isinstance(leaf, np.ndarray) else jnp  # jnp would make float64 float32, and 1e300 infinite
    return bool(lib.all(lib.isfinite(leaf)))


def _adapted(path: str, rule: Adaptation, source, target) -> tuple[jax.Array, Any]:
    try:
        values, from_source = rule(source, target)
    except InputError as error:
        raise InputError(f"{error.where}: {error.what}", where=path, todo=error.todo) from None
    if shape_of(values) != shape_of(target):
        raise InputError(f"the adaptation made {shape_of(values)}, the target is {shape_of(target)}", where=path)
    return values, from_source


def _listed(rules: Any, where: str) -> list[Any]:
    """Refuse text, which is a list of letters, a dict, and a pair instead of a list of pairs."""
    pairs = where != "reinit"
    listed = [] if isinstance(rules, str | Mapping) else list(rules)
    fit = all(isinstance(rule, tuple | list) and len(rule) == 2 if pairs else isinstance(rule, str) for rule in listed)
    if isinstance(rules, str | Mapping) or not fit:
        example = {"rename": "[('old', 'new')]", "adapt": "[('conv/kernel', sum_channels)]", "reinit": "['head/.*']"}
        what = f"this is no list of {'pairs' if pairs else 'regular expressions'}"
        raise InputError(what, where=where, todo=f"write {where}={example[where]}")
    return listed


def _refuse_idle(rules: PathRules, where: str, paths: Iterable[str]) -> None:
    for pattern in rules.idle:
        raise InputError(f"'{pattern}' matches nothing", where=where, todo=f"the paths are {some(paths)}")


def _renamed(source: dict[str, Any], rename: Sequence[tuple[str, str]]) -> dict[str, tuple[str, Any]]:
    """{path in the target: (path in the source, leaf)}."""
    rules = PathRules(_listed(rename, "rename"), "rename")
    result: dict[str, tuple[str, Any]] = {}
    for origin, leaf in source.items():
        rule = rules.first(origin)
        path = _expand(*rule) if rule else origin
        if path in result:
            raise InputError(f"'{origin}' and '{result[path][0]}' would both become '{path}'", where="rename")
        result[path] = (origin, leaf)
    _refuse_idle(rules, "rename", source)
    return result


def _expand(match: re.Match, replacement: str) -> str:
    try:
        return match.expand(replacement)  # not `sub`, which replaces "(.*)" a second time, by the empty end
    except re.error as error:
        raise InputError(f"{replacement!r} is not a replacement ({error})", where="rename") from None
