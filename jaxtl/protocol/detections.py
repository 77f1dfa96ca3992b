"""What found boxes are worth: average precision by the definition of COCO, and measures of it for a comparison."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.protocol.measures import Measure

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the overlap from which on a found box is right
RECALLS = np.linspace(0.0, 1.0, 101)  # at which the precision is read
MOST = 100  # boxes of a class that count on an image, the surest ones
ANY_AREA = (0.0, 1e10)
AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # square pixels
SURE = 1 - 1e-10  # an overlap of 1 is reached by rounding only
NONE = -1  # the class of a row that holds no box


def overlaps(boxes: ArrayLike, others: ArrayLike) -> np.ndarray:
    """Intersection over union of every box with every other one.

    |a ∩ b| / |a ∪ b|

    Args:
        boxes: [D, 4] x0, y0, x1, y1 in any unit.
        others: [G, 4].

    Returns:
        [D, G] float64, 0 where nothing is shared.

    Example:
        >>> overlaps([[0, 0, 2, 2]], [[0, 0, 2, 1], [5, 5, 6, 6]]).tolist()
        [[0.5, 0.0]]
    """
    a, b = (np.asarray(side, np.float64).reshape(-1, 4) for side in (boxes, others))
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    union = areas(a)[:, None] + areas(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def areas(boxes: np.ndarray) -> np.ndarray:
    """[N] of boxes [N, 4]."""
    return np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)


class _Matched(NamedTuple):
    """Found boxes of one class on one image, the surest first, at T thresholds."""

    scores: np.ndarray  # [D]
    right: np.ndarray  # [T, D]
    counted: np.ndarray  # [T, D] those that are neither right nor wrong are not
    truths: int


def _matched(truth: np.ndarray, found: np.ndarray, area: tuple[float, float]) -> _Matched:
    """Each found box takes the free true one that it overlaps most; of equal ones the last, as in pycocotools.

    True boxes of another size count for nobody, but may be taken where none of the right size can be.
    """
    found = found[np.argsort(-found[:, 5], kind="stable")][:MOST]
    of_truth, of_found = areas(truth), areas(found)
    wanted = (of_truth >= area[0]) & (of_truth <= area[1])
    rows, free = np.arange(len(THRESHOLDS)), np.ones((len(THRESHOLDS), len(truth)), bool)
    counted = np.tile((of_found >= area[0]) & (of_found <= area[1]), (len(THRESHOLDS), 1))
    right = np.zeros_like(counted)
    for d, overlap in enumerate(overlaps(found[:, :4], truth[:, :4])):
        can = free & (overlap >= np.minimum(THRESHOLDS, SURE)[:, None])
        can &= wanted | ~(can & wanted).any(axis=1, keepdims=True)
        some = can.any(axis=1)
        if some.any():
            best = len(truth) - 1 - np.argmax(np.where(can, overlap, -1.0)[:, ::-1], axis=1)
            free[rows[some], best[some]] = False
            right[:, d] = some & wanted[best]
            counted[:, d] = np.where(some, wanted[best], counted[:, d])
    return _Matched(found[:, 5], right, counted, int(wanted.sum()))


def _precision(right: np.ndarray, wrong: np.ndarray, truths: int) -> float:
    """Mean over `RECALLS` of the best precision at such a recall or a higher one; rows are ordered by score."""
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    precision = hits / np.maximum(hits + misses, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / truths, RECALLS, side="left")
    return float(np.append(best, 0.0)[np.minimum(place, len(best))].mean())


def average_precisions(truth: ArrayLike, found: ArrayLike, area: tuple[float, float] = ANY_AREA) -> np.ndarray:
    """Average precision of every class at every threshold, as COCO defines it.

    mean over recalls 0, 0.01, ... 1 of max {precision at recall r' : r' ≥ r}

    A found box is right if it overlaps a true one of its class by the threshold at least; each true one is found once,
    by the surest first. The 100 surest of a class count on an image. Boxes of "iscrowd" are not known here.

    Args:
        truth: [N, M, 5] for each image x0, y0, x1, y1 and class; rows of class −1 are none.
        found: [N, K, 6] x0, y0, x1, y1, class and score, likewise.
        area: (least, largest) of a true box in square units; others are neither to be found nor wrong where they are,
            see `AREAS`.

    Returns:
        [10, C] for the thresholds 0.5, 0.55, ... 0.95; NaN of a class that is nowhere true.

    Raises:
        InputError: other shapes, or numbers that are not finite.

    Example:
        >>> truth = [[[0, 0, 2, 2, 0], [4, 4, 6, 6, 0]]]
        >>> found = [[[0, 0, 2, 1.5, 0, 0.9], [0, 0, 2, 2, 0, 0.8], [0, 0, 9, 9, -1, 0.0]]]
        >>> average_precisions(truth, found)[[0, 5, 6], 0].round(3).tolist()  # overlap of the first: 0.75
        [0.505, 0.505, 0.252]

    Source: Lin et al., Microsoft COCO: Common Objects in Context, 2014, in the form of its evaluation code.
    """
    true, said = (_checked(side, columns) for side, columns in ((truth, 5), (found, 6)))
    if len(true) != len(said):
        what = f"true boxes of {len(true)} images, found ones of {len(said)}"
        raise InputError(what, where="average_precisions", todo="give both for every image, in one order")
    classes = int(max(true[..., 4].max(initial=NONE), said[..., 4].max(initial=NONE))) + 1
    result = np.full((len(THRESHOLDS), classes), np.nan)
    for c in range(classes):
        pairs = zip(true, said, strict=True)
        parts = [_matched(one[one[:, 4] == c], other[other[:, 4] == c], area) for one, other in pairs]
        if not (truths := sum(part.truths for part in parts)):
            continue
        order = np.argsort(-np.concatenate([part.scores for part in parts]), kind="stable")
        right, counted = (np.concatenate(sides, axis=1)[:, order] for sides in list(zip(*parts, strict=True))[1:3])
        result[:, c] = [_precision(*rows, truths) for rows in zip(right, counted & ~right, strict=True)]
    return result


def hits(truth: ArrayLike, found: ArrayLike, label: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Found boxes of a class over all images, the surest first, and which of them are right at an overlap of 0.5.

    Args:
        truth, found: as for `average_precisions`.
        label: the class.

    Returns:
        (scores [D], right bool [D], how many are true).

    Raises:
        InputError: as `average_precisions`.

    Example:
        >>> scores, right, truths = hits([[[0, 0, 2, 2, 0]]], [[[0, 0, 2, 2, 0, 0.5], [4, 4, 6, 6, 0, 0.9]]], 0)
        >>> scores.tolist(), right.tolist(), truths
        ([0.9, 0.5], [False, True], 1)
    """
    pairs = zip(_checked(truth, 5), _checked(found, 6), strict=True)
    parts = [_matched(one[one[:, 4] == label], other[other[:, 4] == label], ANY_AREA) for one, other in pairs]
    scores = np.concatenate([part.scores for part in parts])
    right = np.concatenate([part.right[0] for part in parts])
    order = np.argsort(-scores, kind="stable")
    return scores[order], right[order], sum(part.truths for part in parts)


def best_threshold(truth: ArrayLike, found: ArrayLike, classes: int) -> float:
    """The score from which on boxes are best believed: with the largest F1 at an overlap of 0.5, over all classes.

    F1 = 2 · right / (believed + true)

    Args:
        truth, found: as for `average_precisions`.
        classes: C.

    Returns:
        A score that a box has; 1 where none is right.

    Raises:
        InputError: as `average_precisions`.

    Example:
        >>> best_threshold([[[0, 0, 2, 2, 0]]], [[[0, 0, 2, 2, 0, 0.5], [4, 4, 6, 6, 0, 0.25]]], 1)
        0.5
    """
    parts = [hits(truth, found, label) for label in range(classes)]
    scores, right = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    truths = sum(part[2] for part in parts)
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + truths)
    return float(scores[order][np.argmax(f1)]) if right.any() else 1.0


def resampled_precisions(truth: ArrayLike, found: ArrayLike, count: int, seed: int = 0) -> np.ndarray:
    """mAP and AP50 of as many images as there are, drawn with replacement: what others of their kind would have given.

    An image that is drawn twice counts twice: its boxes are weighed, and matched once.

    Args:
        truth, found: as for `average_precisions`.
        count: R, of draws.
        seed: of the draws.

    Returns:
        [R, 2] float64: mAP, AP50.

    Raises:
        InputError: as `average_precisions`.

    Example:
        >>> truth, found = [[[0, 0, 2, 2, 0]]], [[[0, 0, 2, 2, 0, 0.9]]]
        >>> resampled_precisions(truth, found, 2).tolist()
        [[1.0, 1.0], [1.0, 1.0]]

    Source: Efron, Bootstrap methods: another look at the jackknife, 1979.
    """
    true, said = (_checked(side, columns) for side, columns in ((truth, 5), (found, 6)))
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(true), (count, len(true)))
    times = np.stack([np.bincount(draw, minlength=len(true)) for draw in draws])
    classes = int(max(true[..., 4].max(initial=NONE), said[..., 4].max(initial=NONE))) + 1
    result = np.full((count, len(THRESHOLDS), classes), np.nan)
    for c in range(classes):
        pairs = zip(true, said, strict=True)
        parts = [_matched(one[one[:, 4] == c], other[other[:, 4] == c], ANY_AREA) for one, other in pairs]
        order = np.argsort(-np.concatenate([part.scores for part in parts]), kind="stable")
        right = np.concatenate([part.right for part in parts], axis=1)[:, order]
        owner = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])[order]
        truths = times @ np.array([part.truths for part in parts])
        for r in np.flatnonzero(truths):
            weights = times[r][owner]
            result[r, :, c] = [_precision(row * weights, ~row * weights, int(truths[r])) for row in right]
    return np.array([[_mean(one), _mean(one[0])] for one in result])


def mean_average_precision(truth: ArrayLike, found: ArrayLike) -> float:
    """`average_precisions` averaged over all thresholds and the classes that occur: COCO's AP; 0 without any.

    Example:
        >>> mean_average_precision([[[0, 0, 2, 2, 0]]], [[[0, 0, 2, 2, 0, 0.9]]])
        1.0
    """
    return _mean(average_precisions(truth, found))


def average_precision_50(truth: ArrayLike, found: ArrayLike) -> float:
    """The same at the threshold 0.5 alone: AP50, that of PASCAL VOC but for how precision is read.

    Source: Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, 2010.
    """
    return _mean(average_precisions(truth, found)[0])


def _mean(precisions: np.ndarray) -> float:
    known = precisions[np.isfinite(precisions)]
    return float(known.mean()) if known.size else 0.0


def _checked(boxes: ArrayLike, columns: int) -> np.ndarray:
    array = np.asarray(boxes, np.float64)
    if array.ndim != 3 or array.shape[2] != columns:
        todo = f"give [images, boxes, {columns}], rows of class −1 where there are fewer"
        raise InputError(f"boxes of shape {list(array.shape)}", where="average_precisions", todo=todo)
    if not np.isfinite(array).all():
        todo = "give class −1 to rows that hold none"
        raise InputError("numbers are NaN or infinite", where="average_precisions", todo=todo)
    return array


MAP = Measure("mAP", mean_average_precision)
AP50 = Measure("AP50", average_precision_50)
