"""Examples of one part, checked field by field where they come in: nothing is cast that would lose anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.data.dataset import Split, Target
from jaxtl.data.on_disk import Stored
from jaxtl.errors import InputError, suggest

CHANNELS = (1, 3, 4)  # of grey and colour images, and of those with transparency
EXACT = 2**24  # up to here float32 holds every integer
RESERVED = ("label", "group", "index", "order")  # no inputs: given apart, or added on the device


def checked_split(
    images: Any, labels: Any, target: Target = "class", groups: np.ndarray | None = None, *, where: str
) -> Split:
    """One part, from what `from_arrays` is given; errors name `where`."""
    inputs = dict(images) if isinstance(images, Mapping) else {"image": images}
    for name in inputs:
        if name in RESERVED or not inputs:
            raise InputError(f"a field is called '{name}'", where=where, todo="give labels and groups by themselves")
    if not inputs:
        raise InputError("no fields", where=where, todo='give at least one, such as {"image": images}')
    fields = {name: _checked_field(name, array, where) for name, array in inputs.items()}
    if labels is not None:
        fields["label"] = _checked_target(labels, target, where)
    first = next(iter(fields))
    for name, array in fields.items():
        if len(array) != len(fields[first]):
            what = f"{len(fields[first])} {first}s but {len(array)} {name}s"
            raise InputError(what, where=where, todo=_one_each(fields[first], array, first, name))
    if groups is not None and len(groups) != len(fields[first]):
        what = f"{len(fields[first])} {first}s but {len(groups)} groups"
        raise InputError(what, where=where, todo="give the group of each example")
    return Split(**fields, **({} if groups is None else {"group": groups}))


def _one_each(first: Any, array: Any, name: str, other: str) -> str:
    last = first.ndim == 4 and first.shape[3] == len(array)  # as MATLAB has them
    return f"they come last here: np.moveaxis({name}s, -1, 0)" if last else f"give one {other} per {name}"


def _checked_field(name: str, values: Any, where: str) -> Any:
    kind = name.rpartition("_")[2]
    if isinstance(values, Stored) and len(values):
        return values
    return FIELDS.get(kind, _checked_numbers)(values, name, where)


def _checked_target(labels: Any, target: Target, where: str) -> np.ndarray:
    if target == "class":
        return _checked_labels(labels, where)
    if target == "number":
        return _checked_numbers(np.asarray(_as_array(labels, "labels", where), np.float64), "label", where)
    if target == "labels":
        return _checked_several(labels, where)
    raise InputError(f"target is {target!r}", where=where, todo=suggest(str(target), ("class", "labels", "number")))


def _checked_several(labels: Any, where: str) -> np.ndarray:
    labels = _as_array(labels, "labels", where)
    if labels.ndim != 2 or labels.size == 0 or not np.isin(labels, (0, 1)).all():
        what = f"labels {labels.dtype} {list(labels.shape)}"
        raise InputError(what, where=where, todo="give 0 or 1 for every example and label, [N, C]")
    return labels.astype(np.int32)


def _checked_numbers(values: Any, name: str, where: str, axes: Sequence[int] = ()) -> np.ndarray:
    """Any numbers: integers stay integers, as int32, uint8 and bool stay what they are, floats become float32."""
    array = _as_array(values, f"{name}s", where)
    if array.ndim < 1 or array.size == 0 or array.dtype.kind not in "uifb" or (axes and array.ndim not in axes):
        what = f"{name}s {array.dtype} of shape {list(array.shape)}"
        raise InputError(what, where=where, todo=f"give numbers {WANTED.get(name.rpartition('_')[2], '[N, ...]')}")
    if array.dtype in (np.uint8, np.bool_):
        return array
    if array.dtype.kind in "ui":
        low, high = array.min(), array.max()
        if low < -(2**31) or high >= 2**31:
            what = f"{name}s run from {low} to {high}"
            raise InputError(what, where=where, todo="number them anew, so that 32 bits hold them")
        return array.astype(np.int32)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused next
        array = array.astype(np.float32)
    _refuse_not_finite(array, f"{name}s", "numbers", where)
    return array


def _refuse_not_finite(array: np.ndarray, names: str, parts: str, where: str) -> None:
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if bad.any():
        what = f"{bad.sum()} {names} have {parts} that are NaN or infinite, the first is number {bad.argmax()}"
        raise InputError(what, where=where, todo="remove or repair them")


def _checked_signals(values: Any, name: str, where: str) -> np.ndarray:
    array = _checked_numbers(values, name, where, axes=(2, 3))
    return array[..., None] if array.ndim == 2 else array


def _checked_integers(values: Any, name: str, where: str) -> np.ndarray:
    array = _checked_numbers(values, name, where, axes=(1,) if name.endswith("length") else (2,))
    if array.dtype.kind not in "ui" or array.min() < 0:
        what = f"{name}s {array.dtype} from {array.min()}"
        raise InputError(what, where=where, todo=f"give integers >= 0, {WANTED[name.rpartition('_')[2]]}")
    return array.astype(np.int32)


def _checked_boxes(values: Any, name: str, where: str) -> np.ndarray:
    array = _checked_numbers(values, name, where, axes=(3,)).astype(np.float32)
    if array.shape[2] != 4:
        raise InputError(f"{name}s of shape {list(array.shape)}", where=where, todo=f"give {WANTED['box']}")
    return array


def _checked_rows(values: Any, name: str, where: str) -> np.ndarray:
    array = _checked_numbers(values, name, where, axes=(1, 2)).astype(np.float32)
    return array[:, None] if array.ndim == 1 else array


WANTED = {
    "signal": "[N, T] or [N, T, C]",
    "token": "[N, L]",
    "length": "[N]",
    "number": "[N] or [N, K]",
    "box": "[N, M, 4]",
}


def _as_array(values: Any, what: str, where: str) -> np.ndarray:
    todo = "give one array of numbers, every example of one shape"
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"the {what} are ragged", where=where, todo=todo) from error
    if array.dtype.hasobject:
        raise InputError(f"the {what} are Python objects", where=where, todo=todo)
    return array


def _checked_images(images: Any, name: str, where: str) -> np.ndarray:
    images = _as_array(images, f"{name}s", where)
    if images.ndim < 2 or images.size == 0:
        todo = "give [N, H, W, C], grey [N, H, W] or features [N, D]"
        raise InputError(f"images of shape {list(images.shape)}", where=where, todo=todo)
    if images.dtype.kind not in "uif":
        raise InputError(f"images are {images.dtype}", where=where, todo="give uint8 or float32")
    if images.ndim == 4 and images.shape[1] in CHANNELS and images.shape[3] not in CHANNELS:
        what = f"images of shape {list(images.shape)} have their channels in front"
        raise InputError(what, where=where, todo="give [N, H, W, C]: images.transpose(0, 2, 3, 1)")
    if images.dtype != np.uint8:
        if images.dtype.kind in "ui" and max(int(images.max()), -int(images.min())) > EXACT:
            what = f"images of {images.dtype} up to {images.max()}, of which float32 holds {EXACT:,} at most"
            raise InputError(what, where=where, todo='scale them; of tokens and other codes: {"token": images}')
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused next
            images = images.astype(np.float32)
        _refuse_not_finite(images, "images", "pixels", where)
    return images[..., None] if images.ndim == 3 else images


def _checked_labels(labels: Any, where: str) -> np.ndarray:
    labels = _as_array(labels, "labels", where)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.size == 0:
        raise InputError(f"labels of shape {list(labels.shape)}", where=where, todo=_one_label_each(labels))
    if labels.dtype.kind not in "ui":
        raise InputError(f"labels are {labels.dtype}", where=where, todo=_as_integers(labels))
    low, high = labels.min(), labels.max()
    if low < 0 or high >= 2**31:
        unlabelled = f"; leave the {np.sum(labels < 0):,} out that have none: labels >= 0" if low == -1 else ""
        todo = f"number the classes 0..C-1{unlabelled}"
        raise InputError(f"labels run from {low} to {high}", where=where, todo=todo)
    return labels.astype(np.int32)


def _one_label_each(labels: np.ndarray) -> str:
    """What to do with labels of several axes, or none."""
    todo = "give one integer per example, [N]"
    if labels.size and labels.size == max(labels.shape, default=0):
        return f"{todo}: labels.ravel()"
    if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "uifb":
        return todo
    if np.allclose(labels.sum(axis=1), 1, atol=1e-3) and np.all(labels >= 0):
        return f"{todo}; of one-hot rows or probabilities that is labels.argmax(axis=1)"
    if np.all((labels == 0) | (labels == 1)):
        return f"{todo}; these rows name none or several classes: target='labels', or choose one"
    return todo


def _as_integers(labels: np.ndarray) -> str:
    """What to do with labels [N] of another dtype."""
    todo = "give integers 0..C-1"
    if labels.dtype.kind in "US":
        return f"{todo}: classes, labels = np.unique(labels, return_inverse=True)"
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        return f"{todo}; leave the {np.isnan(labels).sum():,} out that are NaN"
    if labels.dtype.kind == "b" or (labels.dtype.kind == "f" and np.all(labels == np.round(labels))):
        return f"{todo}: labels.astype(int)"
    return f"{todo}; numbers to be predicted are no classes: target='number'"


FIELDS: dict[str, Callable[[Any, str, str], np.ndarray]] = {
    "image": _checked_images,
    "signal": _checked_signals,
    "token": _checked_integers,
    "length": _checked_integers,
    "number": _checked_rows,
    "box": _checked_boxes,
}
