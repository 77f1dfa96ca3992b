"""Two domains out of one set, or of other classes on either side: what adaptation is asked on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.splits import by_class
from jaxtl.errors import InputError

BLOCK = 1000  # images that are changed at a time
UNKNOWN = "unknown"  # the class of what the source has no class for


def halved(data: DataSet, change: Callable[[jax.Array, jax.Array], jax.Array], words: str) -> tuple[DataSet, DataSet]:
    """Every other training image as it is, the rest changed: no image is on both sides.

    Args:
        data: a set of images.
        change: (grey levels 0..255 [N, H, W, C], key) -> the same, changed; a thousand images at a time, always alike.
        words: what it does, for the target's name.

    Returns:
        (source, target): images as uint8 of 0..255 on both sides; the target's test images are the changed ones of the
        whole test part.

    Example:
        >>> from jaxtl.data import from_arrays
        >>> images, labels = np.full((40, 4, 4, 1), 200, np.uint8), np.arange(40) % 2
        >>> source, target = halved(from_arrays(images, labels), lambda images, key: images / 2, "darker")
        >>> len(source.train) == len(target.train), int(target.train.images.max()), target.name
        (True, 100, 'arrays, darker')
    """
    level = 1.0 if int(np.max(data.train.images)) > 16 else 255 / 16  # those of small digits are 0 to 16

    def grey(part: Split) -> Split:
        return part.having(image=np.asarray(part.images * level).round().astype(np.uint8))

    def changed(part: Split) -> Split:
        images, key = grey(part).images, jax.random.key(0)
        starts = range(0, len(images), BLOCK)
        blocks = [change(jnp.asarray(images[k : k + BLOCK]), jax.random.fold_in(key, k)) for k in starts]
        return part.having(image=np.concatenate([np.asarray(block).round().astype(np.uint8) for block in blocks]))

    own, other = data.train.take(slice(0, None, 2)), data.train.take(slice(1, None, 2))
    source = dataclasses.replace(data, train=grey(own), test=grey(data.test))
    target = dataclasses.replace(data, train=changed(other), test=changed(data.test), name=f"{data.name}, {words}")
    return source, target


def by_field(data: DataSet, field: str, *, where: object = "by_field") -> tuple[DataSet, ...]:
    """A set for each value of a field of numbers: laboratories, sites, machines.

    Raises:
        InputError: no such field, fewer than two values, or a value without test examples.

    Example:
        >>> from jaxtl.data import from_arrays
        >>> fields = {"image": np.zeros((40, 4, 4), np.uint8), "lab": np.arange(40) // 2 % 2}
        >>> labs = by_field(from_arrays(fields, np.arange(40) % 2), "lab")
        >>> [(lab.name, len(lab.train) + len(lab.test)) for lab in labs]
        [('arrays, lab 0', 20), ('arrays, lab 1', 20)]
    """
    values = _values(data, field, where)
    if len(values) < 2 or not np.isin(values, data.test[field]).all():
        what = f"'{field}' of '{data.name}' is {', '.join(map(str, values[:6]))} in training"
        raise InputError(what, where=where, todo="give two values or more, each with test examples")
    return tuple(having(data, field, str(value)) for value in values)


def having(data: DataSet, field: str, value: str, *, where: object = "having") -> DataSet:
    """The examples of one laboratory, site or machine.

    Args:
        data: has the field, of numbers.
        field, value: what its examples have, as it is printed.
        where: what errors name.

    Raises:
        InputError: no such field, or a value that no training or no test example has.

    Example:
        >>> from jaxtl.data import from_arrays
        >>> fields = {"image": np.zeros((40, 4, 4), np.uint8), "lab": np.arange(40) // 2 % 2}
        >>> lab = having(from_arrays(fields, np.arange(40) % 2), "lab", "1")
        >>> lab.name, len(lab.train) + len(lab.test)
        ('arrays, lab 1', 20)
    """
    found = [one for one in _values(data, field, where) if str(one) == value and one in data.test[field]]
    if not found:
        names = ", ".join(map(str, np.unique(data.test[field])[:6]))
        raise InputError(f"no '{field}' of '{data.name}' is '{value}'", where=where, todo=f"it is {names}")
    train, test = (part[field] == found[0] for part in (data.train, data.test))
    return dataclasses.replace(_of(data, train, test), name=f"{data.name}, {field} {value}")


def _values(data: DataSet, field: str, where: object) -> np.ndarray:
    if field not in data.train:
        what = f"'{data.name}' has no field '{field}'"
        raise InputError(what, where=where, todo=f"it has {', '.join(data.train.fields)}")
    return np.unique(data.train[field])


def two_by_field(data: DataSet, field: str, fewest: int, *, where: object = "two_by_field") -> tuple[DataSet, DataSet]:
    """The two sets of a field with two values, with the classes that both have enough of.

    Args:
        data, field: as for `by_field`.
        fewest: training examples of a class in each; with fewer it is left out.
        where: what to name in an error.

    Raises:
        InputError: as `by_field`; another number of values; fewer than two classes left.
    """
    sets = by_field(data, field, where=where)
    if len(sets) != 2:
        raise InputError(f"'{field}' has {len(sets)} values", where=where, todo="name a set of two")
    counts = [np.bincount(one.train.labels, minlength=len(data.classes)) for one in sets]
    enough = [k for k in range(len(data.classes)) if min(count[k] for count in counts) >= fewest]
    if len(enough) < 2:
        what = f"{len(enough)} classes have {fewest} training examples for each '{field}'"
        raise InputError(what, where=where, todo="give more of at least two")
    first, second = (by_class(one, enough) for one in sets)
    return first, second


def partial(source: DataSet, target: DataSet, shared: int) -> tuple[DataSet, DataSet]:
    """A target with the first classes of the source only; which those are, no method is told.

    Args:
        source, target: of the same classes.
        shared: how many classes the target keeps.

    Returns:
        (source, target), both with the names of all classes.

    Raises:
        InputError: no class, or all of them.
    """
    _check_shared(source, shared)
    return source, _of(target, target.train.labels < shared, target.test.labels < shared)


def open_set(source: DataSet, target: DataSet, shared: int) -> tuple[DataSet, DataSet]:
    """A source with the first classes of the target only; the rest of the target's are one class, "unknown".

    Args:
        source, target: of the same classes.
        shared: how many classes the source keeps.

    Returns:
        (source, target) of `shared` + 1 classes, the last without an example in the source.

    Raises:
        InputError: no class, or all of them.
    """
    _check_shared(source, shared)
    classes = (*source.classes[:shared], UNKNOWN)

    def known(part: Split) -> Split:
        return part.having(label=np.minimum(part.labels, shared))

    source = _of(source, source.train.labels < shared, source.test.labels < shared)
    target = dataclasses.replace(target, train=known(target.train), test=known(target.test))
    return dataclasses.replace(source, classes=classes), dataclasses.replace(target, classes=classes)


def _of(data: DataSet, train: np.ndarray, test: np.ndarray) -> DataSet:
    return dataclasses.replace(data, train=data.train.take(train), test=data.test.take(test))


def _check_shared(source: DataSet, shared: int) -> None:
    if not 0 < shared < len(source.classes):
        what = f"{shared} of {len(source.classes)} classes are shared"
        raise InputError(what, where="shared", todo=f"share 1 to {len(source.classes) - 1} of them")
