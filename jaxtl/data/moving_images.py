"""Clips of images that move: what is shown can be seen in every frame, which way it moves in their order alone.

Every image moves all four ways. Left is right backwards, up is down backwards, frame by frame; and across its line an
image stands where it might have been along it. So a frame that is taken out of a clip says nothing of the motion, and
all frames without their order say at most along which line.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.on_disk import memory_budget
from jaxtl.errors import InputError

CLIP, FRAMES = "clip", "frames"  # fields [N, T, H, W, C]: one in its order, and one in which the order is no matter
MOTION = "motion"  # a field: which of the motions
MOTIONS = ("right", "left", "down", "up")
CLOSER = "give fewer frames or a larger frame"


def moving(data: DataSet, frames: int, edge: int, seed: int = 0) -> DataSet:
    """Four clips of every image, one for each of the motions, at a constant speed on a line within the frame.

    A speed is drawn from the whole pixels a frame that there is room for, a start from where it leaves room.

    Args:
        data: images [N, H, W, C]; around them is the smallest value that occurs.
        frames: T of a clip, at least 2.
        edge: of a frame, in pixels.
        seed: of speeds and places.

    Returns:
        Fields "frames" [4·N, T, edge, edge, C] of the dtype of the images, "motion", "label" as the image has it, and
        "group", the image: no image is in both parts.

    Raises:
        InputError: no images, no room to move, or more than fits into memory.

    Example:
        >>> from jaxtl.data import from_arrays
        >>> clips = moving(from_arrays(np.arange(64, dtype=np.uint8).reshape(-1, 2, 2), np.arange(16) % 2), 3, 4)
        >>> clips.train["frames"].shape[1:], len(clips.train) // len({*clips.train.groups.tolist()})
        ((3, 4, 4, 1), 4)
    """
    if "image" not in data.train or data.train.images.ndim != 4:
        raise InputError("has no images to move", where=data.name, todo="name a set of images")
    shape = data.train.images.shape[1:]
    room = edge - max(shape[:2])
    if frames < 2 or room < frames - 1:
        what = f"images of {shape[0]}x{shape[1]} pixels in {frames} frames of {edge}x{edge}"
        raise InputError(what, where="moving", todo="give 2 frames at least" if frames < 2 else CLOSER)
    each = frames * edge * edge * shape[2] * data.train.images.dtype.itemsize * len(MOTIONS)
    if (bytes_ := each * (len(data.train) + len(data.test))) > memory_budget():
        what = f"{bytes_ / 2**30:.1f} GiB of clips"
        raise InputError(what, where="moving", todo="give fewer images, fewer frames or a smaller one")
    low = min(part.images.min() for part in (data.train, data.test))
    rng, begun = np.random.default_rng([seed, frames, edge]), 0
    parts = list[Split]()
    for part in (data.train, data.test):
        clips = _clips(np.asarray(part.images), _lines(len(part), frames, room, rng), edge, low)
        labels, group = (np.repeat(own, len(MOTIONS)) for own in (part.labels, begun + np.arange(len(part))))
        motion = np.tile(np.arange(len(MOTIONS), dtype=np.int32), len(part))
        parts.append(Split(**{FRAMES: clips, MOTION: motion, "label": labels, "group": group.astype(np.int32)}))
        begun += len(part)
    origin = f"{data.origin}, each moved {len(MOTIONS)} ways in {frames} frames of {edge}x{edge} pixels"
    return DataSet(f"{data.name}, moving", parts[0], parts[1], data.classes, origin, data.notice)


def motions(data: DataSet, *, ordered: bool) -> DataSet:
    """The same clips, and the question which way they move; what they show is the field "shown".

    Args:
        data: see `moving`.
        ordered: whether the order of frames is seen, field "clip"; else "frames".
    """

    def asked(part: Split) -> Split:
        asked = part.without(MOTION, FRAMES).having(shown=part.labels, label=part[MOTION])
        return asked.having(**{CLIP if ordered else FRAMES: part[FRAMES]})

    return dataclasses.replace(data, train=asked(data.train), test=asked(data.test), classes=MOTIONS)


def _lines(count: int, frames: int, room: int, rng: np.random.Generator) -> np.ndarray:
    """Where images are [count, T, 2], along their line and across it; both have one distribution over frames."""
    speed = rng.integers(1, room // (frames - 1) + 1, count)
    start, another = rng.integers(0, room - speed * (frames - 1) + 1, (2, count))
    along = start[:, None] + speed[:, None] * np.arange(frames)
    across = another + speed * rng.integers(0, frames, count)
    return np.stack(np.broadcast_arrays(along, across[:, None]), axis=-1)


def _clips(images: np.ndarray, lines: np.ndarray, edge: int, low: float) -> np.ndarray:
    """[4·N, T, edge, edge, C], the four motions of an image one after another."""
    count, frames = lines.shape[:2]
    clips = np.full((count, len(MOTIONS), frames, edge, edge, images.shape[-1]), low, images.dtype)
    for k, line in enumerate((lines[..., ::-1], lines)):  # (row, column): first across and along, then turned
        rows, columns = (
            line[..., axis, None] + np.arange(images.shape[axis + 1]) for axis in range(2)
        )  # [N, T, height], [N, T, width]
        place = np.arange(count)[:, None, None, None], np.arange(frames)[:, None, None]
        clips[:, 2 * k][*place, rows[..., :, None], columns[..., None, :]] = images[:, None]
        clips[:, 2 * k + 1] = clips[:, 2 * k, ::-1]
    return clips.reshape(-1, *clips.shape[2:])
