"""A source task and a target task in a few letters: "0-4:5-9", "cat+dog:truck+ship", ":0-2+airplane"."""

from __future__ import annotations

import re

from jaxtl.data.dataset import DataSet
from jaxtl.data.overlap import apart
from jaxtl.data.splits import by_class
from jaxtl.errors import InputError, suggest


def source_and_target(
    split: str, source: DataSet, target: DataSet, *, where: object = "split"
) -> tuple[DataSet, DataSet]:
    """The tasks that a split names: source classes, a colon, target classes.

    A number is the name of a class where any class is named by a number, and otherwise a place, from 0. A range holds
    its ends and what lies between them as numbers do: among classes 1 to 12, "1-3" is "1+2+3" in whatever order the
    classes are stored. Names come first, and may hold "-", "+" and ":" as long as there is one way to read the split.

    Training examples that would serve both tasks are divided between them, see `overlap.apart`.

    Args:
        split: on each side, classes joined by "+", by name, by number or as a range of numbers; an empty side is all
            classes.
        source, target: data sets; may be the same one.
        where: what errors name, such as the flag that the split came from.

    Returns:
        (source task, target task), classes renumbered from 0 in the order named. Where examples were divided, the
        `notice` of both says so.

    Raises:
        InputError: not one colon, an unknown class, a class named twice, a split that can be read in two ways, or a
            class whose examples cannot be divided.

    Example:
        >>> import numpy as np
        >>> from jaxtl.data import from_arrays
        >>> names = ["cat", "dog", "bird", "fish"]
        >>> pets = from_arrays(np.zeros((12, 4, 4), np.uint8), np.arange(12) % 4, classes=names)
        >>> [task.classes for task in source_and_target("0-1:fish+bird", pets, pets)]
        [('cat', 'dog'), ('fish', 'bird')]
    """
    try:
        theirs, ours = _sides(split, source, target)
        tasks = by_class(source, theirs), by_class(target, ours)
        nothing_shared = source is target and not set(theirs) & set(ours)
        return tasks if nothing_shared else apart(*tasks)
    except InputError as error:
        raise InputError(error.what, where=where, todo=error.todo) from None


def _sides(split: str, source: DataSet, target: DataSet) -> tuple[list[int], list[int]]:
    """The classes on either side of the colon; of several colons, names of classes hold all but one."""
    colons = [place for place, letter in enumerate(split) if letter == ":"]
    readings, failed = [], None
    for place in colons:
        try:
            readings.append((_classes(split[:place], source), _classes(split[place + 1 :], target)))
        except InputError as error:
            failed = error
    if len(colons) == 1 and failed:
        raise failed
    if len(readings) != 1:
        todo = "write source:target, such as 0-4:5-9 or cat+dog:truck+ship"
        raise InputError(f"'{_short(split)}' has {len(colons)} colons", todo=todo)
    return readings[0]


def _classes(side: str, data: DataSet) -> list[int]:
    if not side:
        return list(range(len(data.classes)))
    pieces = side.split("+")
    longest = 1 + 2 * max(name.count("+") for name in data.classes)  # pieces of a range between two such names
    if len(pieces) > longest * len(data.classes):
        what = f"'{_short(side)}' names more classes than the {len(data.classes)} of {data.name}"
        raise InputError(what, todo="name each class once")
    ways: list[list[list[int]]] = [[[]]]  # to read the first so many pieces, two at most
    for end in range(1, len(pieces) + 1):
        found: list[list[int]] = []
        for start in range(max(0, end - longest), end):
            term = _term("+".join(pieces[start:end]), data) if ways[start] else []
            found += [way + term for way in ways[start] if term and way + term not in found]
        ways.append(found[:2])
    if len(ways[-1]) > 1:
        first, second = (", ".join(f"'{data.classes[label]}'" for label in way) for way in ways[-1])
        todo = "name the classes in another order, or rename them"
        raise InputError(f"'{_short(side)}' can be read as {first} or as {second}", todo=todo)
    if not ways[-1]:
        raise _unknown(next((piece for piece in pieces if not _term(piece, data)), side), data)
    return ways[-1][0]


def _term(text: str, data: DataSet) -> list[int]:
    """The classes that a name, a number or a range means, [] if none."""
    if text in data.classes:
        return [data.classes.index(text)]
    numbers = _numbers(data)
    if text in numbers:
        return [numbers[text]]
    for dash in re.finditer("-", text):
        ends = text[: dash.start()], text[dash.end() :]
        if all(end in numbers for end in ends):
            low, high = map(list(numbers).index, ends)
            if low > high:
                raise InputError(f"the range '{text}' runs backwards", todo=f"write {ends[1]}-{ends[0]}")
            return list(numbers.values())[low : high + 1]
    return []


def _numbers(data: DataSet) -> dict[str, int]:
    """Which class a number means, in ascending order: the one of this name, or the one at this place.

    Names such as "0-2" and "0.5" are of numbers too: beside them a place would mislead.
    """
    if not any(re.fullmatch(r"[-+.\d]*\d[-+.\d]*", name) for name in data.classes):
        return {str(place): place for place in range(len(data.classes))}
    whole = [(int(name), place) for place, name in enumerate(data.classes) if re.fullmatch(r"-?[0-9]{1,18}", name)]
    return {data.classes[place]: place for _, place in sorted(whole)}


def _unknown(text: str, data: DataSet) -> InputError:
    names = list(data.classes)
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    told = f"no class '{_short(text)}' in {data.name}, whose {len(names)} classes are {listed}"
    todo = suggest(text, names)
    if not todo.startswith("did you mean"):
        half = len(names) // 2
        todo = f"write source:target, such as {'+'.join(names[:half][:3])}:{'+'.join(names[half:][:3])}"
    return InputError(told, todo=todo)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"
