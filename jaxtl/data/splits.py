"""Which examples are used for what: classes, held-out parts, small draws, folds. Pure functions of a seed.

Every draw is stratified, and a class draws from a generator of its own, (seed, class): in which order its examples are
drawn does not depend on the other classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.group_splits import generator, group_folds, groups_held_out, with_every_class
from jaxtl.errors import InputError, suggest


def by_class(dataset: DataSet, classes: Sequence[str | int]) -> DataSet:
    """Keep some classes and renumber their labels 0..C-1 in the order given.

    Args:
        dataset: any.
        classes: names or numbers, each once.

    Returns:
        A data set of these classes only; `origin` names them.

    Raises:
        InputError: no class, an unknown class, a class given twice, or no test example left.
    """
    if isinstance(classes, str) or not len(classes):
        todo = "give a sequence of class names or numbers"
        raise InputError(f"classes is {classes!r}", where=dataset.name, todo=todo)
    kept = [_class_number(dataset, wanted) for wanted in classes]
    for place, label in enumerate(kept):
        if label in kept[:place]:
            what = f"class '{dataset.classes[label]}' occurs twice"
            raise InputError(what, where=dataset.name, todo="name each class once")
    new_label = np.full(len(dataset.classes), -1, np.int32)
    new_label[kept] = np.arange(len(kept))

    def keep(split: Split) -> Split:
        labels = new_label[split.labels]
        return split.having(label=labels).take(labels >= 0)

    names = tuple(dataset.classes[label] for label in kept)
    shown = ", ".join(names) if len(names) <= 10 else f"{len(names)} of {len(dataset.classes)}"
    train, test = keep(dataset.train), keep(dataset.test)
    if not len(test):
        raise InputError(f"no test example of the classes {shown}", where=dataset.name, todo="choose other classes")
    return dataclasses.replace(
        dataset, train=train, test=test, classes=names, origin=f"{dataset.origin}; classes {shown} only"
    )


def hold_out(
    labels: np.ndarray, count: int, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Set `count` examples aside, from each class in proportion to its size.

    Args:
        labels: integers [N].
        count: how many to hold out; each class keeps at least one example in the rest.
        seed: >= 0.
        groups: integers [N], such as patients: each is held out whole or not at all, and the number of examples is as
            near to `count` as that leaves.

    Returns:
        (held [count], rest [N - count]): ascending indices into `labels`, disjoint.

    Raises:
        InputError: `count` is not positive, or so large that a class would be left empty; groups that cannot be parted.

    Example:
        >>> held, rest = hold_out(np.array([0, 1, 0, 1, 0, 1]), 2, seed=0)
        >>> len(held), len(rest)
        (2, 4)
    """
    members = _members(labels)
    sizes = np.array([len(positions) for positions in members.values()])
    most = len(labels) - len(sizes)
    if not 1 <= count <= most:
        what = f"{count} of {len(labels)} examples to hold out, but each of the {len(sizes)} classes keeps one"
        todo = f"hold out 1 to {most}" if most else "give more examples"
        raise InputError(what, where="hold_out", todo=todo)
    if groups is not None:
        return groups_held_out(labels, count, seed, groups)
    quotas = _quotas(sizes, count, seed)
    drawn = [_shuffled(members[label], seed, label)[:quota] for label, quota in zip(members, quotas, strict=True)]
    held = np.sort(np.concatenate(drawn))
    return held, np.setdiff1d(np.arange(len(labels)), held)


def per_class(
    labels: np.ndarray, n: int, seed: int, among: np.ndarray | None = None, *, classes: Sequence[str] = ()
) -> np.ndarray:
    """Draw n examples of every class without replacement.

    A larger n adds examples to the same draw: per_class(labels, 5, seed) is contained in per_class(labels, 10, seed).

    Args:
        labels: integers [N].
        n: examples of a class.
        seed: >= 0.
        among: indices into `labels` to draw from, in any order; by default all.
        classes: their names, for what is said of a class that is too small; its number where they are left out.

    Returns:
        Indices [C * n] into `labels`, class after class.

    Raises:
        InputError: a class has fewer than n examples, or `among` is not a set of indices.

    Example:
        >>> labels = np.array([0, 1, 0, 1, 0, 1])
        >>> labels[per_class(labels, 2, seed=0)].tolist()
        [0, 0, 1, 1]
    """
    if n < 1:
        raise InputError(f"{n} examples of a class", where="per_class", todo="use n >= 1")
    among = np.arange(len(labels)) if among is None else _checked_indices(among, len(labels))
    drawn = []
    for label in np.unique(labels):
        positions = among[labels[among] == label]
        if len(positions) < n:
            what = f"{_called(label, classes)} has {len(positions)} examples to draw from, {n} are wanted"
            raise InputError(what, where="per_class", todo="draw fewer or give more examples")
        drawn.append(_shuffled(positions, seed, label)[:n])
    return np.concatenate(drawn)


def imbalanced(labels: np.ndarray, ratio: float, seed: int, among: np.ndarray | None = None) -> np.ndarray:
    """Thin the classes out to a long tail: class c of C keeps a share ratio^(−c / (C − 1)) of its examples.

    Class 0 stays whole and the last class is `ratio` times smaller; each keeps at least one example. A share that is no
    whole number of examples goes up or down by lot, one for all classes, so that it is right on average. A larger ratio
    takes examples away from the same draw: what it keeps is contained in what a smaller one keeps. (Cui, Jia, Lin, Song
    and Belongie, Class-balanced loss based on effective number of samples, 2019.)

    Args:
        labels: integers [N].
        ratio: at least 1.
        seed: >= 0.
        among: indices into `labels` to draw from, in any order; by default all.

    Returns:
        Ascending indices into `labels`.

    Raises:
        InputError: a ratio below 1, or `among` is not a set of indices.

    Example:
        >>> labels = np.repeat([0, 1, 2], 100)
        >>> np.bincount(labels[imbalanced(labels, 100, seed=0)]).tolist()
        [100, 10, 1]
    """
    if not 1 <= ratio < np.inf:
        raise InputError(f"ratio {ratio} of the largest class to the smallest", where="imbalanced", todo="use >= 1")
    among = np.arange(len(labels)) if among is None else _checked_indices(among, len(labels))
    members = _members(labels[among])
    shares, lot = ratio ** -np.linspace(0, 1, len(members)), generator(seed).random()
    kept = [
        _shuffled(among[positions], seed, label)[: max(1, math.floor(share * len(positions) + lot))]
        for share, (label, positions) in zip(shares, members.items(), strict=True)
    ]
    return np.sort(np.concatenate(kept))


def label_noise(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Give a part of the examples a wrong label, drawn evenly from the other classes.

    Every example is wrong with probability `fraction`, also where that is less than one example of a class. They are
    drawn together: fraction · N of them, up or down to a whole number by lot, spread over the classes by their sizes. A
    larger fraction adds to the same draw: what is wrong at 0.1 is wrong in the same way at 0.2. Only for labels to
    train on; noise in test labels measures nothing.

    Args:
        labels: integers [N] of at least two classes.
        fraction: of the examples, in 0..1.
        seed: >= 0.

    Returns:
        Labels [N]; `!= labels` where they are wrong. The labels given are not changed.

    Raises:
        InputError: a fraction outside 0..1, or one class only.

    Example:
        >>> labels = np.repeat([0, 1], 10)
        >>> (label_noise(labels, 0.2, seed=0) != labels).sum()
        np.int64(4)
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"fraction {fraction}", where="label_noise", todo="use a fraction in 0..1")
    members = _members(labels)
    if len(members) < 2:
        raise InputError("one class only", where="label_noise", todo="give labels of at least two classes")
    wrong, turn = labels.copy(), np.empty(len(labels))
    for label, positions in members.items():
        others = np.array([other for other in members if other != label], labels.dtype)
        shuffled = _shuffled(positions, seed, label)
        wrong[shuffled] = others[generator(seed, label, 1).integers(len(others), size=len(positions))]
        # Its members come at equal distances after a random start: whatever is first in turn holds each class's part.
        turn[shuffled] = (np.arange(len(positions)) + generator(seed, label, 2).random()) / len(positions)
    count = math.floor(fraction * len(labels) + generator(seed, 0, 3).random())
    return np.where(np.argsort(np.argsort(turn)) < count, wrong, labels)


def stratified_folds(
    labels: np.ndarray,
    folds: int,
    seed: int,
    *,
    classes: Sequence[str] = (),
    groups: np.ndarray | None = None,
    rare: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut the examples into folds for cross-validation.

    The sizes of two folds differ by at most one, in each class and in all, unless groups have to stay whole.

    Args:
        labels: integers [N].
        folds: at least 2.
        seed: >= 0.
        classes: as for `per_class`.
        groups: integers [N]; each is in one fold, and classes are spread over the folds as evenly as that leaves.
        rare: take classes with fewer examples, or groups, than folds, which then are in some validation parts only; one
            with a single example or group is in none, and trained on in all. A part may then be empty.

    Returns:
        For each fold (train, validation): ascending indices into `labels`; each example is in one validation part.

    Raises:
        InputError: fewer than 2 folds, a class with fewer examples than folds, fewer groups than folds, or a class
            that is in one group only.

    Example:
        >>> [validation.size for _, validation in stratified_folds(np.array([0, 1, 0, 1, 0, 1]), 3, seed=0)]
        [2, 2, 2]
    """
    if folds < 2:
        raise InputError(f"{folds} folds", where="stratified_folds", todo="use at least 2")
    members = _members(labels)
    smallest = min(members, key=lambda label: len(members[label]))
    if len(members[smallest]) < folds and not rare:
        what = f"{_called(smallest, classes)} has {len(members[smallest])} examples for {folds} folds"
        todo = f"use at most {len(members[smallest])} folds or more examples"
        raise InputError(what, where="stratified_folds", todo=todo)
    if groups is not None:
        parts = list(group_folds(labels, folds, seed, groups))
        if rare:
            return [with_every_class(labels, groups, *part) for part in parts]
        for train, _ in parts:
            if lost := set(members) - set(labels[train].tolist()):
                what = f"{_called(min(lost), classes)} is in one group only"
                raise InputError(what, where="stratified_folds groups", todo="give more groups, or leave the class out")
        return parts
    # Dealt like cards, class after class without starting over: no fold collects the remainders of all classes.
    dealt = np.concatenate([_shuffled(positions, seed, label) for label, positions in members.items()])
    fold_of = np.empty(len(labels), np.int64)
    fold_of[dealt] = np.arange(len(labels)) % folds
    fold_of[[positions[0] for positions in members.values() if len(positions) == 1]] = folds
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(folds)]


def _called(label: int, classes: Sequence[str]) -> str:
    return f"class '{classes[label]}'" if classes else f"class {label}"


def _class_number(dataset: DataSet, wanted: str | int) -> int:
    if isinstance(wanted, str):
        if wanted not in dataset.classes:
            where = f"{dataset.name}, classes"
            raise InputError(f"no class {wanted!r}", where=where, todo=suggest(wanted, dataset.classes))
        return dataset.classes.index(wanted)
    if not isinstance(wanted, (int, np.integer)) or not 0 <= wanted < len(dataset.classes):
        todo = f"use 0..{len(dataset.classes) - 1} or a name"
        raise InputError(f"no class {wanted}", where=f"{dataset.name}, classes", todo=todo)
    return int(wanted)


def _members(labels: np.ndarray) -> dict[int, np.ndarray]:
    """The ascending positions of each class that occurs."""
    if not len(labels):
        raise InputError("no examples", where="labels", todo="give at least one")
    return {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}


def _quotas(sizes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` in whole numbers in proportion to `sizes` (largest remainders, ties by lot), below each size."""
    exact = count * sizes / sizes.sum()
    quotas = np.floor(exact).astype(int)
    lots = generator(seed).permutation(len(sizes))
    while (short := count - quotas.sum()) > 0:
        open_classes = quotas < sizes - 1
        order = np.lexsort((lots, quotas - exact, ~open_classes))
        quotas[order[: min(short, open_classes.sum())]] += 1
    return quotas


def _checked_indices(among: np.ndarray, size: int) -> np.ndarray:
    among = np.asarray(among)
    if among.ndim != 1 or among.dtype.kind not in "ui" or len(np.unique(among)) != len(among):
        raise InputError("these are no indices, each once", where="among", todo="give integers [M] without repetition")
    if len(among) and not (among.min() >= 0 and among.max() < size):
        what = f"indices from {among.min()} to {among.max()} into {size} labels"
        raise InputError(what, where="among", todo=f"use 0..{size - 1}")
    return among


def _shuffled(positions: np.ndarray, seed: int, label: int) -> np.ndarray:
    return generator(seed, label).permutation(np.sort(positions))
