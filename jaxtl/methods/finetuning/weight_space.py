"""Models made of models: interpolated, averaged, added up. No gradient is computed; all take and return trees.

Only what came from the source has an anchor. A head that is new has none, and drawn towards 0 its logits shrink: what
needs an anchor changes the parameters with a given label and leaves the others as they were trained. An average needs
members in one basin, which is what a common pretrained start gives; without it the average of good models is no model.
Statistics of batch normalisation belong to the weights that they were taken with: those of an average are taken anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.labels import TRANSFERRED, check_labels
from jaxtl.trees import Tree, check_same, map_named


def wise_ft(params: Tree, anchor: Tree, labels: Tree, share: Any, label: str = TRANSFERRED) -> Tree:
    """Between the source and what it has become, a + share · (w − a), for the parameters with a label.

    Args:
        params: tree of arrays, trained.
        anchor: tree like `params`, where they started.
        labels: tree of strings like `params`.
        share: 0 is the anchor, 1 what was trained; one number, traced or not.
        label: of the parameters that are interpolated; the others stay.

    Returns:
        A tree like `params`.

    Raises:
        InputError: trees of other paths or shapes.

    Example:
        >>> labels = {"head": "new", "trunk": "transferred"}
        >>> wise_ft({"head": 4.0, "trunk": 4.0}, {"head": 0.0, "trunk": 2.0}, labels, 0.5)
        {'head': 4.0, 'trunk': 3.0}

    Source: Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", 2022.
    """
    return _between(params, anchor, labels, label, lambda path: share)


def lines(
    params: Tree,
    anchor: Tree,
    labels: Tree,
    depth: Callable[[str], int],
    blocks: int,
    share: Any,
    label: str = TRANSFERRED,
) -> Tree:
    """`wise_ft` with a share that grows from block to block: a + (α + (1 − α)(ℓ − 1)/(L − 1)) · (w − a).

    Args:
        params, anchor, labels, label: as for `wise_ft`.
        depth: path of a parameter with the label -> its block ℓ, from 1 at the input to L. A function, since names
            mislead: ".3." is in the names of a fourth block and of the third layer of any other.
        blocks: L; a single one takes α.
        share: α, of the first block; the last one keeps what it has become.

    Returns:
        A tree like `params`.

    Raises:
        InputError: a block outside 1…L, trees of other paths or shapes.

    Example:
        >>> params, anchor = {"b1": 1.0, "b2": 1.0, "b3": 1.0}, {"b1": 0.0, "b2": 0.0, "b3": 0.0}
        >>> labels = dict.fromkeys(params, "transferred")
        >>> lines(params, anchor, labels, lambda path: int(path[1]), 3, 0.5)
        {'b1': 0.5, 'b2': 0.75, 'b3': 1.0}

    Source: Wang et al., "LiNeS: Post-Training Layer Scaling Prevents Forgetting and Enhances Model Merging", 2025.
    """

    def of(path: str) -> Any:
        block = depth(path)
        if not 1 <= block <= blocks:
            raise InputError(f"block {block} of {path}", where="lines depth", todo=f"give 1 to {blocks}")
        return share + (1 - share) * (block - 1) / max(1, blocks - 1)

    return _between(params, anchor, labels, label, of)


def task_arithmetic(anchor: Tree, trained: Sequence[Tree], scales: Sequence[Any]) -> Tree:
    """A source with the changes of several tasks added or taken away, a + Σ_k c_k (w_k − a).

    Args:
        anchor: tree of arrays that all of them started from.
        trained: trees like it: what it has become on each task.
        scales: c_k; some tenths where there are several, negative to forget a task.

    Returns:
        A tree like `anchor`.

    Raises:
        InputError: another number of scales, trees of other paths or shapes.

    Example:
        >>> task_arithmetic({"w": 1.0}, [{"w": 3.0}, {"w": 0.0}], [0.5, -1.0])
        {'w': 3.0}

    Source: Ilharco et al., "Editing Models with Task Arithmetic", 2023.
    """
    if len(scales) != len(trained):
        what = f"{len(trained)} trees and {len(scales)} scales"
        raise InputError(what, where="task_arithmetic", todo="give one for one")
    _check_alike([anchor, *trained], "task_arithmetic trained")

    def added(_, a, *ws):
        return _like(a, a + sum(c * (w - a) for c, w in zip(scales, ws, strict=True)))

    return map_named(added, anchor, *trained)


def uniform_soup(trained: Sequence[Tree]) -> Tree:
    """The mean of several models, Σ_k w_k / K.

    It needs members in one basin: of one pretrained start, with learning rates that do not lead out of it. Where they
    started from random numbers, or with one member that was thrown far, it is worse than each of them.

    Args:
        trained: trees of the same paths and shapes; what counts (integers) is that of the first.

    Returns:
        A tree like the first.

    Raises:
        InputError: none, or trees of other paths or shapes.

    Example:
        >>> uniform_soup([{"w": jnp.ones(1)}, {"w": jnp.zeros(1)}])["w"].tolist()
        [0.5]

    Source: Wortsman et al., "Model Soups: Averaging Weights of Multiple Fine-Tuned Models Improves Accuracy without
    Increasing Inference Time", 2022.
    """
    _check_alike(trained, "uniform_soup trained")
    return map_named(lambda _, *ws: sum(ws[1:], start=ws[0]) / len(ws) if is_real(ws[0]) else ws[0], *trained)


def greedy_soup(trained: Sequence[Tree], score: Callable[[Tree], float]) -> tuple[Tree, list[int]]:
    """The mean of those that do no harm: from the best one on, each is kept if the soup's score does not fall.

    As in the paper, a member that leaves the score as it is is kept (≥); the authors' program asks for more (>).

    Args:
        trained: as for `uniform_soup`.
        score: tree -> number, the larger the better, from validation data; asked 2K − 1 times.

    Returns:
        (the soup, which members are in it, the best first).

    Raises:
        InputError: as `uniform_soup`.

    Example:
        >>> members = [{"w": jnp.float32(w)} for w in (1.0, 3.0, 9.0)]
        >>> soup, kept = greedy_soup(members, lambda tree: -abs(float(tree["w"]) - 2))
        >>> float(soup["w"]), kept
        (2.0, [0, 1])

    Source: Wortsman et al., "Model Soups", 2022.
    """
    _check_alike(trained, "greedy_soup trained")
    scores = [score(one) for one in trained]
    best, *others = sorted(range(len(trained)), key=lambda k: -scores[k])
    soup, kept, reached = trained[best], [best], scores[best]
    for k in others:
        wider = uniform_soup([trained[i] for i in (*kept, k)])
        if (found := score(wider)) >= reached:
            soup, kept, reached = wider, [*kept, k], found
    return soup, kept


def model_stock(trained: Sequence[Tree], anchor: Tree, labels: Tree, label: str = TRANSFERRED) -> Tree:
    """The mean of a few models, drawn towards the source leaf by leaf, as far as they disagree.

    a + t (w̄ − a),   t = K cos θ / (1 + (K − 1) cos θ),   cos θ the mean cosine between two of the w_k − a

    t is kept in [0, 1]: where the members moved apart, cos θ < 0 and the formula runs to any number (−21.9 for two
    members at −0.916). Parameters with another label have no anchor and are averaged.

    Args:
        trained: two or more trees of the same paths and shapes.
        anchor: tree like them, where they started.
        labels: tree of strings like them.
        label: of the parameters that have an anchor.

    Returns:
        A tree like the first.

    Raises:
        InputError: fewer than two, trees of other paths or shapes.

    Example:
        >>> apart = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}]
        >>> model_stock(apart, {"w": jnp.zeros(2)}, {"w": "transferred"})["w"].tolist()
        [0.0, 0.0]

    Source: Jang, Yun and Han, "Model Stock: All We Need Is Just a Few Fine-Tuned Models", 2024.
    """
    if len(trained) < 2:
        raise InputError(f"{len(trained)} models", where="model_stock trained", todo="give two or more")
    _check_alike([anchor, *trained], "model_stock trained")
    check_labels(anchor, labels, where="model_stock labels")

    def drawn(_, mean, a, own, *ws):
        if own != label or not is_real(mean):
            return mean
        return _like(mean, a + stock_ratio(jnp.stack([w - a for w in ws])) * (mean - a))

    return map_named(drawn, uniform_soup(trained), anchor, labels, *trained)


def stock_ratio(moved: jax.Array) -> jax.Array:
    """How far the mean of K movements [K, ...] is to be trusted: t of `model_stock`, in [0, 1].

    A movement of length 0 is at a right angle to all others.

    Example:
        >>> float(stock_ratio(jnp.eye(2)))
        0.0
    """
    count, flat = len(moved), moved.reshape(len(moved), -1).astype(jnp.promote_types(moved.dtype, jnp.float32))
    norms = jnp.linalg.norm(flat, axis=1, keepdims=True)
    units = flat / jnp.where(norms > 0, norms, 1.0)
    cosine = (jnp.sum(jnp.square(units.sum(axis=0))) - jnp.sum(units * units)) / (count * (count - 1))
    cosine = jnp.clip(cosine, 0.0, 1.0)
    return count * cosine / (1 + (count - 1) * cosine)


def _between(params: Tree, anchor: Tree, labels: Tree, label: str, share: Callable[[str], Any]) -> Tree:
    """a + share(path) · (w − a) where a leaf has the label."""
    _check_alike([params, anchor], "anchor")
    check_labels(params, labels)

    def moved(path, w, a, own):
        return _like(w, a + share(path) * (w - a)) if own == label else w

    return map_named(moved, params, anchor, labels)


def _check_alike(trees: Sequence[Tree], where: str) -> None:
    if not trees:
        raise InputError("no model", where=where, todo="give one or more")
    for tree in trees[1:]:
        check_same(trees[0], tree, where=where, todo="give trees of one model", dtypes=False)


def _like(leaf: Any, value: Any) -> Any:
    """In the leaf's dtype: a share that is an array would make a bfloat16 leaf float32."""
    return value.astype(leaf.dtype) if hasattr(leaf, "dtype") else value


def is_real(leaf: Any) -> bool:
    """Whether a leaf is averaged: no counter, no key."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))
