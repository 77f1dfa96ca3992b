"""Which pictures are learned from, which choose, which test; and what there is, in words."""

from __future__ import annotations

import numpy as np

from jaxtl.data import Split, hold_out
from jaxtl.data.boxed_files import BoxedFiles
from jaxtl.errors import InputError

TEST, CHOOSE = 5, 4  # one in so many pictures is kept for testing, and of the others one in so many chooses
MOST_CHOOSE = 100
FEWEST = 8  # pictures: fewer cannot be learned from, chosen by and tested on


def with_test(found: BoxedFiles, seed: int) -> BoxedFiles:
    """With a fifth of the pictures kept for testing, where no part is.

    Raises:
        InputError: so few pictures that they cannot be divided.
    """
    count = len(found.train)
    if count < FEWEST:
        todo = f"give {FEWEST} at least, so that some choose and some test"
        raise InputError(f"{count} pictures to learn from", where=found.origin, todo=todo)
    if found.test is not None:
        return found
    held, rest = hold_out(rarest(found.train), max(1, count // TEST), seed)
    train, test = (found.train.take(rows) for rows in (rest, held))
    names, truth, sizes = found.files[0], found.truth[0], found.sizes[0]
    return found._replace(
        train=train,
        test=test,
        files=([names[row] for row in rest], [names[row] for row in held]),
        truth=(truth[rest], truth[held]),
        sizes=(sizes[rest], sizes[held]),
        notices=[*found.notices, f"no part for testing: {len(held)} pictures were kept for it"],
    )


def rarest(part: Split) -> np.ndarray:
    """[N] integers >= 0: of the classes in each picture the one that fewest pictures have; the last of those without.

    Classes, or none, that one picture alone has are as those that all have: nothing could be held out of them.
    """
    labels = np.asarray(part["box_class"])
    classes = int(labels.max()) + 1
    has = np.stack([(labels == k).any(axis=1) for k in range(classes)] + [(labels < 0).all(axis=1)], axis=1)
    ranked = np.argsort(has.sum(axis=0), kind="stable")
    own = ranked[has[:, ranked].argmax(axis=1)]
    alone = np.bincount(own, minlength=classes + 1)[own] < 2
    return np.where(alone, np.bincount(own).argmax(), own)


def described(found: BoxedFiles) -> list[str]:
    """What there is, in two lines."""
    parts = [part for part in (found.train, found.test) if part is not None]
    counts = np.sum(
        [np.bincount(part["box_class"][part["box_class"] >= 0], minlength=len(found.classes)) for part in parts], axis=0
    )
    many = ", ".join(f"{count:,} {name}" for count, name in zip(counts, found.classes, strict=True))
    test = f", {len(parts[1]):,} for testing" if len(parts) > 1 else ""
    lines = [f"data      {len(found.train):,} pictures to learn from{test}; boxes: {many}"]
    return lines + [f"left out: {file}: {why}" for file, why in found.skipped[:20]]


def held_out(part: Split, seed: int) -> np.ndarray:
    """Rows of the pictures that choose."""
    return hold_out(rarest(part), min(MOST_CHOOSE, max(1, len(part) // CHOOSE)), seed + 1)[0]


def mirrored(part: Split, columns: int) -> Split:
    """The boxes of all pictures as they are, then of all mirrored left to right."""
    box, label = np.asarray(part["box"]), np.asarray(part["box_class"])
    other = box.copy()
    other[..., 0], other[..., 2] = columns - box[..., 2], columns - box[..., 0]
    other[label < 0] = 0
    return Split(box=np.concatenate([box, other]), box_class=np.concatenate([label, label]))
