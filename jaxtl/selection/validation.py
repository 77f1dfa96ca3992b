"""What held-out examples say of a trained net, and what choosing by a criterion has cost on test examples.

A log-loss on held-out examples punishes a net for being too sure of itself, which one number repairs and λ need not: so
it is taken only after the logits have found their temperature.

Source: Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks (2017).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.protocol.measures import checked_classes

COLDEST, HOTTEST = 0.01, 100.0  # temperatures: where every example is right, none is cold enough
HALVINGS = 60  # of an interval of ln temperature: to the last digit
MOST_CALIBRATING = 10_000  # examples: more of them move a temperature no further,
MOST_NUMBERS = 4_000_000  # nor do more logits
PARTS = 5  # of held-out examples that are nobody's folds


class ValidationCriteria(NamedTuple):
    """Held-out examples, numbers.

    Attributes:
        accuracy: share of them whose largest logit is the label's.
        log_loss: mean cross-entropy of each part at the temperature of the others.
        temperature: of all together.
    """

    accuracy: float
    log_loss: float
    temperature: float


def validation_criteria(logits: ArrayLike, labels: ArrayLike, parts: ArrayLike | None = None) -> ValidationCriteria:
    """Accuracy, and log-loss at a temperature that the judged examples had no say in.

    Args:
        logits: [N, C] of examples that the net was not trained on; in k-fold validation of all folds, one below the
            other, each by the net that did not see it.
        labels: [N] integers 0..C-1.
        parts: [N] integers, which fold each is in; None: every fifth together.

    Returns:
        `ValidationCriteria`; over nets, the largest accuracy and the least log-loss are the best.

    Raises:
        InputError: shapes that do not fit, labels out of range, logits not finite, a single part.

    Example:
        >>> logits = np.array([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0], [0.0, 3.0], [3.0, 0.0], [3.0, 0.0]])
        >>> found = validation_criteria(logits, [0, 1, 0, 1, 0, 1], [0, 0, 0, 1, 1, 1])
        >>> round(found.accuracy, 3), round(found.temperature, 3)
        (0.833, 1.864)
    """
    values, classes = _checked_logits(logits, labels, "validation_criteria")
    of = np.arange(len(values)) % PARTS if parts is None else np.asarray(parts)
    if of.shape != classes.shape or len(np.unique(of)) < 2:
        what = f"parts {list(of.shape)} of {len(np.unique(of))} kinds for {len(values)} examples"
        raise InputError(what, where="validation_criteria", todo="give each example the number of its fold, 2 or more")
    total = 0.0
    for part in np.unique(of):
        inside = of == part
        scale = temperature(values[~inside], classes[~inside])
        total -= log_likelihoods(values[inside] / scale, classes[inside]).sum()
    right = float((values.argmax(axis=1) == classes).mean())
    return ValidationCriteria(right, float(total / len(values)), temperature(values, classes))


def temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The T with the least mean cross-entropy of softmax(logits / T); the classes predicted stay the same.

    The loss is convex in 1/T, so that its slope changes sign once; halving finds where.

    Args:
        logits: [N, C] of held-out examples.
        labels: [N] integers 0..C-1.

    Returns:
        T within [0.01, 100]; an end where no T is cold enough (all is right) or hot enough (no better than chance).

    Raises:
        InputError: shapes that do not fit, labels out of range, logits not finite.

    Example:
        >>> round(temperature([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]], [0, 0, 0, 1]), 6)  # 4 / ln 3
        3.640957
    """
    values, classes = _checked_logits(logits, labels, "temperature")
    values = values - values[np.arange(len(values)), classes][:, None]
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        slope = (np.exp(_log_softmax(values * np.exp(-middle))) * values).sum()  # of the loss, by 1/T
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(np.exp(0.5 * (low + high)))


def calibrated(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that says how sure to be, of examples left out and of one more that is wrong.

    Where few are judged and all are right, the likeliest temperature calls every answer certain. One further example of
    the median margin, which belongs to the second class, keeps it from that: what Laplace's rule of succession adds. Of
    more than ten thousand examples as many are looked at, at equal distances.

    Args:
        logits: [N, C] of examples left out.
        labels: [N] integers.

    Example:
        >>> right = np.array([[4.0, 0.0]] * 9)
        >>> round(calibrated(right, np.zeros(9, int)), 3)  # nine of ten: 4 / ln 9
        1.82
    """
    if len(logits) > (most := min(MOST_CALIBRATING, max(1, MOST_NUMBERS // logits.shape[1]))):
        some = np.linspace(0, len(logits) - 1, most).astype(int)
        logits, labels = logits[some], labels[some]
    ranked = np.argsort(logits, axis=1)
    margins = np.take_along_axis(logits, ranked[:, -1:], 1) - np.take_along_axis(logits, ranked[:, -2:-1], 1)
    middle = int(np.argsort(margins[:, 0], kind="stable")[len(margins) // 2])
    more = np.concatenate([logits, logits[middle : middle + 1]])
    return temperature(more, np.append(labels, ranked[middle, -2]))


def regret(criterion_scores: ArrayLike, test: ArrayLike) -> np.ndarray:
    """What choosing by a criterion in every draw loses against the best fixed setting, by draw.

    The best fixed setting has the highest mean test accuracy over draws: it is known only afterwards. Test accuracies
    judge a choice here and have no part in it. Choosing by draw may also win: then it is negative.
    `paired("aic", "best fixed", -regret(...))` gives it an interval and a verdict.

    Args:
        criterion_scores: [draws, K], larger is better (−aic, log_evidence); −inf for a setting that diverged. Of equals
            the first is chosen.
        test: [draws, K] test accuracies of the same nets.

    Returns:
        [draws] float64.

    Raises:
        InputError: shapes that differ, NaN, test accuracies that are not finite, a draw without any score.

    Example:
        >>> regret([[1.0, 2.0], [2.0, 1.0]], [[0.5, 0.75], [0.5, 0.75]]).tolist()
        [0.0, 0.25]
    """
    scores, accuracies = np.asarray(criterion_scores, np.float64), np.asarray(test, np.float64)
    if scores.shape != accuracies.shape or scores.ndim != 2 or not scores.size:
        what = f"scores {list(scores.shape)}, test accuracies {list(accuracies.shape)}"
        raise InputError(what, where="regret", todo="give both [draws, settings]")
    if np.isnan(scores).any() or not np.isfinite(accuracies).all():
        todo = "score a setting that diverged −inf, and its accuracy 0"
        raise InputError("scores are NaN, or accuracies not finite", where="regret", todo=todo)
    empty = (scores == -np.inf).all(axis=1)
    if empty.any():
        what = f"draw {int(empty.argmax())} has no setting with a score"
        raise InputError(what, where="regret", todo="use a criterion that is finite here (AICc needs N > df + 1)")
    chosen = accuracies[np.arange(len(scores)), scores.argmax(axis=1)]
    return accuracies[:, accuracies.mean(axis=0).argmax()] - chosen


def _checked_logits(logits: ArrayLike, labels: ArrayLike, where: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        what = f"logits {list(values.shape)}, or not finite"
        raise InputError(what, where=where, todo="give finite numbers [examples, classes]")
    return values, checked_classes(np.asarray(labels), len(values), values.shape[1], where)


def log_likelihoods(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log softmax(logits)[label] by example, [N]."""
    return _log_softmax(logits)[np.arange(len(labels)), labels]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
