"""Examples by the names of their fields: images, tokens, lengths, waveforms, boxes, labels, groups, or whatever."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

Target = Literal["class", "labels", "number", "none"]


class Split:
    """Examples of one part: an array [N, ...] for every field.

    Some names mean something: "image", "label" (int32 [N] for a class each, 0 and 1 [N, C] for several labels, float32
    for numbers) and "group" (int32 [N], what must not be divided: a patient, a speaker, a machine). An array that would
    take too much memory is `Stored`: `np.asarray(split["image"][index])` reads some of it.

    Args:
        images, labels: short for the fields "image" and "label".
        fields: arrays by name, all of one length.

    Example:
        >>> texts = Split(token=np.zeros((5, 8), np.int32), length=np.full(5, 8), label=np.arange(5) % 2)
        >>> len(texts), texts.names, texts.take([0, 3]).labels.tolist()
        (5, ('token', 'length', 'label'), [0, 1])
    """

    __slots__ = ("fields",)

    fields: Mapping[str, Any]

    def __init__(self, images: Any = None, labels: Any = None, /, **fields: Any):
        short = {"image": images, "label": labels}
        self.fields = {**{name: array for name, array in short.items() if array is not None}, **fields}

    def __len__(self) -> int:
        return len(next(iter(self.fields.values()), ()))

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __repr__(self) -> str:
        return f"Split({', '.join(f'{name} {a.dtype}{list(a.shape)}' for name, a in self.fields.items())})"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the fields."""
        return tuple(self.fields)

    @property
    def images(self) -> Any:
        """The field "image"."""
        return self.fields["image"]

    @property
    def labels(self) -> np.ndarray:
        """The field "label"."""
        return self.fields["label"]

    @property
    def groups(self) -> np.ndarray | None:
        """The field "group", None without it."""
        return self.fields.get("group")

    @property
    def strata(self) -> np.ndarray:
        """int32 [N], what a draw spreads evenly over: the class of each example, 0 where there are no classes."""
        classes = self.target == "class"
        return self.labels if classes else np.zeros(len(self), np.int32)

    @property
    def target(self) -> Target:
        """What "label" holds: a "class" each, several "labels", "number"s, or "none" where nothing is labelled."""
        if "label" not in self.fields:
            return "none"
        if self.labels.dtype.kind == "f":
            return "number"
        return "class" if self.labels.ndim == 1 else "labels"

    def like(self, *names: str) -> list[jax.ShapeDtypeStruct]:
        """Shape and dtype of one example in some fields, for `models.initialise`."""
        return [jax.ShapeDtypeStruct(self.fields[name].shape[1:], self.fields[name].dtype) for name in names]

    @property
    def nbytes(self) -> int:
        """Of all fields."""
        return sum(array.nbytes for array in self.fields.values())

    def take(self, index: Any) -> Split:
        """Some of the examples, by a slice, a mask [N] or indices [M]."""
        return Split(**{name: array[index] for name, array in self.fields.items()})

    def having(self, **fields: Any) -> Split:
        """The same examples with these fields beside or in place of theirs."""
        return Split(**{**self.fields, **fields})

    def without(self, *names: str) -> Split:
        """The same examples without these fields: `split.without("label")` are unlabelled."""
        return Split(**{name: array for name, array in self.fields.items() if name not in names})


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """A train and a test part with the names of their classes.

    Attributes:
        name: short, for tables.
        train: the training part.
        test: the test part, whose examples have the shapes and dtypes of those of `train`.
        classes: the class names; label i is classes[i]. () where labels are numbers, or nothing is labelled.
        origin: where it came from, in words that can stand next to a result.
        notice: a line to show when there is something to know of it, such as that it is not what was asked for first.
        words: how many numbers its tokens may be, first those of a vocabulary that came from elsewhere or is its own,
            then further ones; (0, 0) without tokens.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    origin: str
    notice: str = ""
    words: tuple[int, int] = (0, 0)

    @property
    def content(self) -> tuple[Any, ...]:
        """All arrays of both parts."""
        return *self.train.fields.values(), *self.test.fields.values()

    def told(self, notice: str) -> DataSet:
        """The same set with a further notice."""
        return dataclasses.replace(self, notice="; ".join(filter(None, (self.notice, notice))))
