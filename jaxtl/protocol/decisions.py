"""A finding that is there or not: how well a score tells, and what acting on it is worth, by threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError


class Operating(NamedTuple):
    """What comes of a threshold.

    Attributes:
        sensitivity: of those with the finding, the share that is found.
        specificity: of those without it, the share that is left in peace.
    """

    sensitivity: float
    specificity: float


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """P(score of one with the finding > score of one without) + ½ P(equal): the area under the ROC curve, by ranks.

    Args:
        labels: [N], 0 or 1; both occur.
        scores: [N], larger where the finding is likelier.

    Raises:
        InputError: shapes that differ, other labels, scores that are not finite, nobody on one side.

    Example:
        >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])  # of four pairs three are in order, one is a tie
        0.875

    Source: Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve (1982).
    """
    from scipy.stats import rankdata

    found, values = _checked(labels, scores, "roc_auc")
    ill, well = int(found.sum()), int((~found).sum())
    return float((rankdata(values)[found].sum() - ill * (ill + 1) / 2) / (ill * well))


def roc_curve(labels: ArrayLike, scores: ArrayLike, at: ArrayLike) -> np.ndarray:
    """Sensitivity along the ROC curve, where so many of those without the finding are called ill.

    Args:
        labels, scores: as for `roc_auc`.
        at: [K] shares 1 − specificity, 0..1.

    Returns:
        [K], linear between the thresholds that there are; at a step its upper end.

    Raises:
        InputError: as `roc_auc`.

    Example:
        >>> roc_curve([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.8], [0.0, 0.5]).tolist()
        [1.0, 1.0]
    """
    found, values = _checked(labels, scores, "roc_curve")
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # of the examples of one score
    hits, alarms = (np.concatenate([[0.0], np.cumsum(side[order])[last] / side.sum()]) for side in (found, ~found))
    asked = np.asarray(at, np.float64)
    upper = np.searchsorted(alarms, asked, side="right") - 1  # a step is climbed where it stands
    return np.where(alarms[upper] == asked, hits[upper], np.interp(asked, alarms, hits))


def threshold_at_specificity(labels: ArrayLike, scores: ArrayLike, specificity: float) -> float:
    """The lowest threshold that leaves at least this share of those without the finding at or below it.

    To be taken on examples that choose, and used on others: on the same ones it flatters.

    Args:
        labels, scores: as for `roc_auc`; those with the finding have no say.
        specificity: a share, 0 to 1.

    Returns:
        The threshold; a score above it is called ill. It is the score of one of them, −∞ for specificity 0.

    Raises:
        InputError: as `roc_auc`, but that nobody need have the finding; a share that is none.

    Example:
        >>> threshold_at_specificity([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9, 0.8], 0.75)
        0.3

    Source: Youden, Index for rating diagnostic tests (1950), for the two shares.
    """
    found, values = _checked(labels, scores, "threshold_at_specificity", needed=("without",))
    if not 0 <= specificity <= 1:
        raise InputError(f"{specificity}", where="specificity", todo="give a share from 0 to 1")
    well = np.sort(values[~found])
    below = int(np.ceil(specificity * len(well) - 1e-9))  # 0.9 · 10 is 9, whatever its last bit
    return float(well[below - 1]) if below else -np.inf


def at_threshold(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Operating:
    """Sensitivity and specificity where scores above a threshold are called ill.

    Args:
        labels, scores: as for `roc_auc`.
        threshold: in the unit of the scores.

    Raises:
        InputError: as `roc_auc`.

    Example:
        >>> at_threshold([0, 0, 1, 1], [0.1, 0.7, 0.4, 0.8], 0.5)
        Operating(sensitivity=0.5, specificity=0.5)
    """
    found, values = _checked(labels, scores, "at_threshold")
    called = values > threshold
    return Operating(float(called[found].mean()), float(1 - called[~found].mean()))


def net_benefit(labels: ArrayLike, probabilities: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Found − falsely called · p / (1 − p), per person, if all are treated whose probability is p or more.

    A threshold p says how much a false alarm weighs: who treats from 20 % on takes four of them for one ill person
    found. To treat nobody has 0; to treat all is `net_benefit` of probabilities 1.

    Args:
        labels: [N], 0 or 1; one side may be empty.
        probabilities: [N] of the finding, 0 to 1.
        thresholds: [K], each at least 0 and below 1.

    Returns:
        [K], at most the share of those with the finding.

    Raises:
        InputError: shapes that differ, other labels, probabilities or thresholds out of range.

    Example:
        >>> net_benefit([0, 0, 0, 1], [0.1, 0.1, 0.4, 0.9], [0.2, 0.5]).tolist()
        [0.1875, 0.25]

    Source: Vickers and Elkin, Decision Curve Analysis: A Novel Method for Evaluating Prediction Models (2006).
    """
    found, values = _checked(labels, probabilities, "net_benefit", needed=())
    p = np.asarray(thresholds, np.float64)
    if values.min() < 0 or values.max() > 1 or not ((p >= 0) & (p < 1)).all():
        what = f"probabilities {values.min():g} to {values.max():g}, thresholds {p.tolist()[:4]}"
        raise InputError(what, where="net_benefit", todo="give probabilities in [0, 1] and thresholds in [0, 1)")
    treated = values >= p[..., None]
    return (treated & found).mean(axis=-1) - (treated & ~found).mean(axis=-1) * p / (1 - p)


def _checked(
    labels: ArrayLike, scores: ArrayLike, where: str, needed: Sequence[str] = ("with", "without")
) -> tuple[np.ndarray, np.ndarray]:
    """(who has the finding [N] bool, scores [N] float64), with somebody on each side that is needed."""
    found, values = np.asarray(labels), np.asarray(scores, np.float64)
    if found.ndim != 1 or found.shape != values.shape or not len(found):
        what = f"labels {list(found.shape)}, scores {list(values.shape)}"
        raise InputError(what, where=where, todo="give one of each for every example, [N]")
    if not np.isin(found, (0, 1)).all() or not np.isfinite(values).all():
        raise InputError(
            "labels other than 0 and 1, or scores not finite", where=where, todo="give 0 or 1, and numbers"
        )
    found = found.astype(bool)
    for side, of in (("with", found), ("without", ~found)):
        if side in needed and not of.any():
            raise InputError(f"nobody is {side} the finding", where=where, todo="give examples of both kinds")
    return found, values
