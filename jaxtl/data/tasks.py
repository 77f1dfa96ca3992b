"""A source task and a target task in a few letters: "0-4:5-9", "cat+dog:truck+ship", ":0-2+airplane"."""

from __future__ import annotations

from jaxtl.data.dataset import DataSet
from jaxtl.data.splits import by_class
from jaxtl.errors import InputError, suggest


def source_and_target(split: str, source: DataSet, target: DataSet) -> tuple[DataSet, DataSet]:
    """The tasks that a split names: source classes, a colon, target classes.

    Args:
        split: on each side, classes joined by "+", by name, by number or as a range of numbers; an empty side is all
            classes.
        source, target: data sets; may be the same one.

    Returns:
        (source task, target task), classes renumbered from 0 in the order named.

    Raises:
        InputError: not one colon, an unknown class, or a class named twice.

    Example:
        >>> import numpy as np
        >>> from jaxtl.data import from_arrays
        >>> names = ["cat", "dog", "bird", "fish"]
        >>> pets = from_arrays(np.zeros((12, 4, 4), np.uint8), np.arange(12) % 4, classes=names)
        >>> [task.classes for task in source_and_target("0-1:fish+bird", pets, pets)]
        [('cat', 'dog'), ('fish', 'bird')]
    """
    sides = split.split(":")
    if len(sides) != 2:
        todo = "write source:target, such as 0-4:5-9 or cat+dog:truck+ship"
        raise InputError(f"'{split}' has {len(sides) - 1} colons", where="split", todo=todo)
    return by_class(source, _classes(sides[0], source)), by_class(target, _classes(sides[1], target))


def _classes(side: str, data: DataSet) -> list[int | str]:
    classes: list[int | str] = []
    for part in side.split("+") if side else data.classes:
        low, dash, high = part.partition("-")
        if part in data.classes:  # first, for classes whose name is a number or holds a dash
            classes.append(part)
        elif low.isdecimal() and (high.isdecimal() or not dash):
            classes += range(int(low), int(high or low) + 1)
        else:
            raise InputError(f"no class '{part}' in {data.name}", where="split", todo=suggest(part, data.classes))
    return classes
