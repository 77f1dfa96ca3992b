"""Arrays of your own as a data set: every field checked once, where it comes in, and nothing cast that would lose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.data.dataset import DataSet, Split, Target
from jaxtl.data.fields import checked_split
from jaxtl.data.overlap import copies
from jaxtl.data.splits import hold_out
from jaxtl.errors import InputError


def from_arrays(
    images: Any,
    labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
    *,
    target: Target = "class",
    groups: Any = None,
    test_groups: Any = None,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    origin: str = "arrays in memory",
    test_fraction: float = 0.2,
    seed: int = 0,
) -> DataSet:
    """Your own data as a `DataSet`.

    Args:
        images: [N, H, W, C], grey images [N, H, W] (they become [N, H, W, 1]) or features [N, D]. uint8 stays uint8;
            other integers and floats become float32. Or any fields by name: {"image": as above, "signal": [N, T, C] or
            [N, T], "token": integers [N, L], "length": integers [N], "number": [N, K] or [N], "box": [N, M, 4], ...};
            the last word of a name says what it is, as in "left_image", and other names hold any numbers.
        labels: by `target`; None where nothing is labelled, or the test part alone.
        test_images, test_labels: like `images` and `labels`; without a test part one is split off, in which classes are
            in proportion and no group of the training part occurs.
        target: what labels are. "class": integers [N] or [N, 1] in 0..C-1. "labels": 0 and 1 [N, C], none or several.
            "number": [N] or [N, K].
        groups: [N] numbers or words of what must not be divided between training and testing: patients, speakers.
        test_groups: of a test part that is given.
        classes: the C names; by default "0", "1", ... as many as the training labels use, which must have no gap. A
            class that is named may be missing in training; the notice tells.
        name: short, for tables.
        origin: where the data came from, in words.
        test_fraction: the part to split off, in (0, 1); read only if no test part is given.
        seed: of that split.

    Returns:
        The data set; the arrays given are not changed. `notice` counts what both parts have in common, byte for byte.

    Raises:
        InputError: empty parts, lengths that differ, channels in front of the pixels, numbers that are NaN, infinite or
            too large, labels that are not what `target` says, a class without a training example, fields, shapes or
            dtypes that differ between train and test.

    Example:
        >>> data = from_arrays(np.zeros((10, 8, 8), np.uint8), np.arange(10) % 2, classes=["cat", "dog"])
        >>> data.train.images.shape, len(data.test)
        ((8, 8, 8, 1), 2)
        >>> speech = from_arrays({"signal": np.ones((6, 100))}, np.arange(6) % 2, groups=["ann", "ben", "eve"] * 2)
        >>> speech.train["signal"].shape, set(speech.train.groups.tolist()) & set(speech.test.groups.tolist())
        ((4, 100, 1), set())
    """
    lacking = test_labels is not None if test_images is None else labels is not None and test_labels is None
    if lacking:
        raise InputError("only one of test_images and test_labels is given", where=name, todo="give both or neither")
    if test_images is not None:
        train_groups, test_groups = _numbered(groups, test_groups, name)
        train = checked_split(images, labels, target, train_groups, where=f"{name}, train")
        test = checked_split(test_images, test_labels, target, test_groups, where=f"{name}, test")
        return _assembled(train, test, classes, name, origin, name, target)
    everything = checked_split(images, labels, target, _numbered(groups, None, name)[0], where=name)
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction}", where=name, todo="use a fraction between 0 and 1")
    count = max(1, round(test_fraction * len(everything)))
    held, rest = hold_out(everything.strata, count, seed, everything.groups)
    return _assembled(everything.take(rest), everything.take(held), classes, name, origin, name, target)


def assembled(
    images: Any,
    labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    classes: Sequence[str] | None,
    name: str,
    origin: str,
    where: object,
) -> DataSet:
    """Two parts that were read from files as a checked `DataSet`, every class with a training example.

    The arguments are those of `from_arrays`; errors name `where`.
    """
    train = checked_split(images, labels, where=f"{where}, train")
    test = checked_split(test_images, test_labels, where=f"{where}, test")
    data = _assembled(train, test, classes, name, origin, where)
    if absent := _absent(train, data.classes):
        what = f"{len(absent)} of {len(data.classes)} classes have no example"
        first = f"the first is class {absent[0]} ({data.classes[absent[0]]})"
        raise InputError(f"{what}, {first}", where=f"{where}, train", todo="number the classes that occur 0..C-1")
    return data


def _assembled(
    train: Split,
    test: Split,
    classes: Sequence[str] | None,
    name: str,
    origin: str,
    where: object,
    target: Target = "class",
) -> DataSet:
    labelled = (train, "train") if "label" in train else (test, "test")  # unlabelled training, tested by labels
    names = _names_of(labelled[0], classes, target, where=f"{where}, {labelled[1]}")
    _check_test(train, test, names, where=f"{where}, test")
    data = DataSet(name, train, test, names, origin)
    for notice in (_missing(train, names), _shared_groups(train, test), copies(train, test)):
        data = data.told(notice)
    return data


def _missing(train: Split, names: Sequence[str]) -> str:
    absent = _absent(train, names)
    more = ", ..." if len(absent) > 3 else ""
    return f"no training example of {', '.join(names[label] for label in absent[:3])}{more}" if absent else ""


def _absent(train: Split, names: Sequence[str]) -> list[int]:
    """Named classes that training never sees."""
    return sorted(set(range(len(names))) - set(np.unique(train.labels).tolist())) if train.target == "class" else []


def _shared_groups(train: Split, test: Split) -> str:
    if train.groups is None or test.groups is None:
        return ""
    both = np.intersect1d(train.groups, test.groups)
    return f"{len(both)} of {len(np.unique(test.groups))} test groups are in the training part too" if len(both) else ""


def _numbered(groups: Any, test_groups: Any, where: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Groups as int32, the same number for the same name in both parts."""
    given = [np.asarray(part) for part in (groups, test_groups) if part is not None]
    for part in given:
        if part.ndim != 1 or part.dtype.kind not in "uiUS":
            what = f"groups are {part.dtype} {list(part.shape)}"
            raise InputError(what, where=where, todo="give one number or word for each example, [N]")
    if not given:
        return None, None
    numbers = np.unique(np.concatenate(given), return_inverse=True)[1].astype(np.int32)
    first, second = np.split(numbers, [len(given[0])])
    return (first, second if test_groups is not None else None) if groups is not None else (None, first)


def _names_of(part: Split, classes: Sequence[str] | None, target: Target, where: str) -> tuple[str, ...]:
    if target == "class" and "label" in part:
        return _class_names(part.labels, classes, where)
    if target == "labels" and "label" in part:
        names = tuple(map(str, range(part.labels.shape[1]))) if classes is None else _named_once(classes, where)
        if len(names) != part.labels.shape[1]:
            what = f"{len(names)} class names for {part.labels.shape[1]} labels an example"
            raise InputError(what, where=where, todo="name each once")
        return names
    return () if classes is None else _named_once(classes, where)


def _named_once(classes: Sequence[str], where: str) -> tuple[str, ...]:
    names = tuple(str(name) for name in classes)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"a class name occurs twice: '{twice}'", where=where, todo="name each class once")
    return names


def _class_names(labels: np.ndarray, classes: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The names of the classes; without names, each number up to the largest has an example."""
    present = np.unique(labels)
    if classes is not None:
        names = _named_once(classes, where)
        count = len(names)
        if present[-1] >= count:
            what = f"label {present[-1]}, but the {count} class names are for 0..{count - 1}"
            from_one = present[0] == 1 and present[-1] == count
            todo = "number the classes 0..C-1 and name them all" + (", not from 1: labels - 1" if from_one else "")
            raise InputError(what, where=where, todo=todo)
        return names
    count = int(present[-1]) + 1
    if len(present) < count:
        first = next(label for label in range(count) if label >= len(present) or present[label] != label)
        what = f"{count - len(present)} of {count} classes have no example, the first is class {first}"
        from_one = present[0] == 1 and len(present) == count - 1
        todo = "number the classes that occur 0..C-1" + (", not from 1: labels - 1" if from_one else "")
        raise InputError(
            what, where=where, todo=f"{todo}, or name all of them: classes=[...]" if not from_one else todo
        )
    return tuple(map(str, range(count)))


def _check_test(train: Split, test: Split, names: tuple[str, ...], where: str) -> None:
    missing = sorted((set(train.names) ^ set(test.names)) - ({"group"} if "label" in train else {"group", "label"}))
    if missing:
        what = f"the fields are {', '.join(test.names)}, and {', '.join(train.names)} of the training part"
        raise InputError(what, where=where, todo=f"give {', '.join(missing)} to both parts or to none")
    if test.target == "class" and test.labels.max() >= len(names):
        what = f"label {test.labels.max()}, but the classes of the training part are 0..{len(names) - 1}"
        raise InputError(what, where=where, todo="test only on classes that were trained")
    for name in set(train.names) & set(test.names):
        kinds = [f"{part[name].dtype}{list(part[name].shape[1:])}" for part in (train, test)]
        if kinds[0] != kinds[1]:
            article = "an" if name[0] in "aeiou" else "a"
            what = f"{article} {name} is {kinds[1]}, a training {name} {kinds[0]}"
            raise InputError(what, where=where, todo="bring both parts to one shape and dtype")
