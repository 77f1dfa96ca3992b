"""A pretrained trunk under a detector's head: what of it stays frozen and is kept, and what is trained."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtl.finetune.trunks import SMALL
from jaxtl.models.detector import Detector, Maps, map_taps

STRIDE = 16  # pixels: the coarsest cells of maps that are used
STRIDES = (8, STRIDE)
POOLING = 2  # blocks over which pictures are averaged before a small network, so that its cells have 8 pixels


class Parts(NamedTuple):
    """A detector, whole and cut.

    Attributes:
        depth: stages below the cut; 0: none.
        above: what is trained.
        whole: all of it, with the same names.
    """

    depth: int
    above: Detector
    whole: Detector


def parts_of(name: str, model: Any, stages: tuple[str, ...], canvas: tuple[int, int], classes: int) -> Parts:
    """A trunk's maps with cells of 8 and of 16 pixels under a head; stages with finer cells are below the cut.

    Args:
        name: of the trunk.
        model: the trunk.
        stages: their names.
        canvas: rows and columns of a picture, multiples of 16.
        classes: C.

    Raises:
        InputError: a trunk without such maps.
    """
    if name == SMALL:
        model = model.clone(input_pooling=POOLING)
        whole = Detector(Maps(model, map_taps(model, (*canvas, 3), STRIDES)), classes)
        return Parts(0, whole, whole)
    taps = map_taps(model, (*canvas, 3), STRIDES)
    depth, stop = stages.index(taps[0]), stages.index(taps[-1]) + 1
    model = model.clone(stop=stop) if stop < len(stages) else model
    above = model.clone(start=depth) if depth else model
    return Parts(depth, Detector(Maps(above, taps), classes), Detector(Maps(model, taps), classes))
