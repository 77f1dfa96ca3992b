"""Splits that part no group, and the generators that all draws come from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from jaxtl.errors import InputError

# Of more groups × classes, or groups × folds, looking for the best fold of each takes long
MOST_COUNTS, MOST_PLACES = 1_000_000, 20_000


def group_folds(
    labels: np.ndarray, folds: int, seed: int, groups: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(train, validation) of every fold, no group in two of them."""
    from sklearn.model_selection import StratifiedGroupKFold

    count = len(np.unique(groups))
    if count < folds:
        what = f"{count} groups for {folds} folds"
        raise InputError(what, where="groups", todo="use fewer folds or give more groups")
    rng = generator(seed)
    if count * len(np.unique(labels)) > MOST_COUNTS or count * folds > MOST_PLACES:
        yield from _dealt_whole(labels, folds, rng, groups)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer examples than folds
        yield from StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)


def _dealt_whole(
    labels: np.ndarray, folds: int, rng: np.random.Generator, groups: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """So many groups, of few examples each, are dealt like cards, those of one class after those of another."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    lots = rng.permutation(len(first))
    order = np.lexsort((lots, labels[first]))
    fold_of_group = np.empty(len(first), np.int64)
    fold_of_group[order] = np.arange(len(first)) % folds
    fold_of = fold_of_group[group]
    for fold in range(folds):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def with_every_class(
    labels: np.ndarray, groups: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A fold from whose validation part the groups are taken back that hold all of a class."""
    lost = ~np.isin(labels[validation], labels[train])
    back = np.isin(groups[validation], groups[validation][lost])
    return np.sort(np.concatenate([train, validation[back]])), validation[~back]


def groups_held_out(labels: np.ndarray, count: int, seed: int, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the folds that part the groups, the one nearest to `count` that leaves no class without an example."""
    number, largest = len(np.unique(groups)), np.unique(labels, return_counts=True)[1].max()
    if min(number, largest) < 2:
        what = f"{number} groups cannot be parted, to hold out {count} of {len(labels)} examples"
        raise InputError(what, where="hold_out groups", todo="give at least 2")
    folds = min(max(2, round(len(labels) / count)), number, int(largest))
    parts = [(held, rest) for rest, held in group_folds(labels, folds, seed, groups)]
    parts = [part for part in parts if len(np.unique(labels[part[1]])) == len(np.unique(labels))]
    if not parts:
        raise InputError("a class is in one group only", where="hold_out groups", todo="give more groups")
    return min(parts, key=lambda part: abs(len(part[0]) - count))


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Of a seed and a use.

    Raises:
        InputError: a negative seed.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative", where="seed", todo="use a seed >= 0")
    return np.random.default_rng([seed, *stream])
