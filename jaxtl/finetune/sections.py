"""How good a model is, shown in the way of its kind of label: classes, several labels, or numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtl.finetune.readings import COVERAGE
from jaxtl.finetune.work import Found
from jaxtl.protocol import ACCURACY, MEASURES, Measure, confusion_matrix
from jaxtl.protocol.measures import f1_by_label
from jaxtl.protocol.resampling import RESAMPLES, bootstrap_interval
from jaxtl.report import Plot, Section, Table
from jaxtl.report.plots import answers
from jaxtl.report.plots.confusions import confusion_maps, in_words

SHOWN = 12  # examples that are confidently wrong
MATRIX = 100  # classes up to which summary.json has their confusions
CLASSES = 50  # that a table shows one by one, the worst first
PARTS = 5  # of the numbers, from small to large, in a table

Sections = list[tuple[Section, dict[str, Any]]]
CALIBRATION = "Does a probability mean what it says?"
SURELY_WRONG = "The most confidently wrong, which may be wrong labels"


class Judged(NamedTuple):
    """What the model that is kept was judged by.

    Attributes:
        lines, figures: the measure, for a person and for summary.json.
        what: it is shown by, in words.
        labels: of those examples, as they are.
        said: what is told of each.
        rows, unseen, labels_unseen: examples to learn from, each at least once, what was said of it by a model that had
            not seen it, and its label.
    """

    lines: list[str]
    figures: dict[str, Any]
    what: str
    labels: np.ndarray
    said: np.ndarray
    rows: np.ndarray
    unseen: np.ndarray
    labels_unseen: np.ndarray


def interval(
    measure: Measure, labels: np.ndarray, logits: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """95 % of the measure over examples, or groups of them: what others of the same kind would have given.

    Of an accuracy Wilson's interval, which knows that all right is not surely all, with as many examples as would say
    as much if each were for itself: windows of one recording are alike. Else percentiles of resamples.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927); Korn and Graubard,
    Confidence intervals for proportions with small expected number of positive counts estimated from survey data
    (1998); `bootstrap_interval`.
    """
    each = np.arange(len(labels)) if groups is None else groups
    if measure == ACCURACY:
        right = (logits.argmax(axis=1) == labels).astype(float)
        n, share, z = _as_many(right, each), measure.score(labels, logits), 1.96
        middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    def score(rows: np.ndarray) -> float:
        return measure.score(labels[rows], logits[rows]) if len(np.unique(labels[rows])) > 1 else math.nan

    return bootstrap_interval(score, each, resamples=RESAMPLES if labels.size <= 20_000 else 100)


def _as_many(right: np.ndarray, groups: np.ndarray) -> float:
    """How many examples, each for itself, would have a share that varies as this one does: p(1 − p)/Var(share)."""
    _, place = np.unique(groups, return_inverse=True)
    share = right.mean()
    spread = np.sum(np.bincount(place, right - share) ** 2)
    return min(len(right), share * (1 - share) * len(right) ** 2 / spread) if spread > 0 else float(place.max() + 1)


def told(measure: Measure, value: float, ends: tuple[float, float]) -> str:
    """A value with its interval: "87.3 % [84.0, 90.1]"."""
    unit = " %" if measure.percent else ""
    return f"{measure.shown(value)}{unit} [{measure.shown(ends[0])}, {measure.shown(ends[1])}]"


def unseen(found: Found) -> tuple[float, tuple[float, float]]:
    """(the measure on examples left out, its interval over these)."""
    kind, everything = found.model.kind, found.data.train.labels
    rows, outputs = found.outcome.once(found.winner)
    value = found.outcome.measure.better(found.outcome.mean(found.winner))
    groups = found.data.train.groups
    own = kind.learned(everything[rows], everything), outputs
    return value, interval(_own(found), *own, None if groups is None else groups[rows])


def judged(found: Found) -> Judged:
    """What stands in front of every way to show it."""
    kind, everything, reading = found.model.kind, found.data.train.labels, found.model.reading
    measure, many = _own(found), found.modality.many
    value, ends = unseen(found)
    over = f"the {many}" if found.data.train.groups is None else f"the {many}, and knows which belong together"
    lines = [f"On {many} left out: {measure.name} {told(measure, value, ends)}; the interval is over {over}."]
    figures: dict[str, Any] = {"unseen": value, "unseen_ci95": ends, "reading": reading._asdict()}
    rows, outputs = found.outcome.once(found.winner)
    what, labels = f"{many} left out", everything[rows]
    if found.tested is not None and found.data.test is not None:
        what, labels, outputs = f"{many} for testing", found.data.test.labels, found.tested
        own = kind.learned(labels, everything), found.tested / reading.temperature
        score, ends = measure.score(*own), interval(measure, *own, found.data.test.groups)
        said = f"On the {len(labels)} {many} for testing, looked at once: {measure.name} {told(measure, score, ends)}."
        lines.insert(0, said)
        figures |= {"test": score, "test_ci95": ends}
    rows, every = found.outcome.unseen(found.winner)
    said_of = [np.asarray(kind.said(jnp.asarray(part), reading)) for part in (outputs, every)]
    return Judged(lines, figures, what, labels, said_of[0], rows, said_of[1], everything[rows])


def _own(found: Found) -> Measure:
    """What decides, as it is computed where examples are many: R² by their own variance."""
    return MEASURES[found.outcome.measure.key]


# ---------------------------------------------------------------- classes


def _of_classes(seen: Judged, found: Found) -> Sections:
    names = found.data.classes
    predicted = seen.said.argmax(axis=1)
    confusion = confusion_matrix(seen.labels, predicted, len(names))
    lines = [*seen.lines, f"Most often: {in_words([confusion], names)}."]
    lines += [f"The {len(names) - CLASSES} better classes are not shown."] if len(names) > CLASSES else []
    draw: Callable = functools.partial(
        confusion_maps, "Which classes are taken for which", names, {found.winner: [confusion]}
    )
    plots = [Plot("confusion", "Which classes are taken for which", draw), _reliability(seen.said, seen.labels)]
    figures = seen.figures | ({"confusion": confusion} if len(names) <= MATRIX else {})
    section = Section("How good the model is", [_by_class(confusion, names, found)], lines, plots)
    said, labels = seen.unseen.argmax(axis=1), seen.labels_unseen
    sure = np.where(said != labels, seen.unseen.max(axis=1), 0.0)
    words = [
        (f"is {names[own]}", f"said to be {names[k]} ({100 * p:.0f} %)")
        for own, k, p in zip(labels, said, sure, strict=True)
    ]
    return [(section, figures), *_wrong(found, SURELY_WRONG, seen.rows, sure, words)]


def _by_class(confusion: np.ndarray, names: Sequence[str], found: Found) -> Table:
    counts = np.bincount(found.data.train.labels, minlength=len(names))
    own, said, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / own, right / said
    order = np.argsort(recall, kind="stable")[:CLASSES] if len(names) > CLASSES else np.arange(len(names))

    def cell(value: float) -> str:
        return f"{100 * value:.0f}" if math.isfinite(value) else "–"

    rows = [[names[k], f"{counts[k]:,}", cell(recall[k]), cell(precision[k])] for k in order]
    return Table(["class", "to learn from", "found, %", "right when named, %"], rows)


# ---------------------------------------------------------------- several labels


def _of_several(seen: Judged, found: Found) -> Sections:
    names, counts = found.data.classes, found.data.train.labels.sum(axis=0)
    f1 = f1_by_label(seen.labels, seen.said - 0.5)
    precision = np.array([_average_precision(seen.labels[:, k], seen.said[:, k]) for k in range(len(names))])
    order = np.argsort(np.nan_to_num(precision), kind="stable")[:CLASSES] if len(names) > CLASSES else range(len(names))
    rows = [
        [names[k], f"{counts[k]:,}", _cell(counts[k] / len(found.data.train)), _cell(precision[k]), _cell(f1[k])]
        for k in order
    ]
    table = Table(["label", "to learn from", "frequency, %", "average precision, %", "F1, %"], rows)
    means = " and ".join(f"{100 * np.nanmean(one):.1f}" for one in (precision, f1))
    lines = [
        *seen.lines,
        f"The table is of {seen.what}; the means over the labels are {means} %.",
        "An average precision no larger than the frequency is that of guessing. F1 is of labels named from 50 % on.",
    ]
    lines += [f"The {len(names) - CLASSES} better labels are not shown."] if len(names) > CLASSES else []
    flat = seen.said.reshape(-1)
    plots = [_reliability(np.stack([1 - flat, flat], axis=1), seen.labels.reshape(-1))]
    figures = seen.figures | {"average_precision": dict(zip(names, precision.tolist(), strict=True))}
    section = Section("How good the model is", [table], lines, plots)
    gap = np.abs(seen.unseen - seen.labels_unseen)
    worst = gap.argmax(axis=1)
    words = [
        (f"is {'' if own[k] else 'not '}{names[k]}", f"said {names[k]} with {100 * p[k]:.0f} %")
        for own, k, p in zip(seen.labels_unseen, worst, seen.unseen, strict=True)
    ]
    sure = np.where(gap.max(axis=1) > 0.5, gap.max(axis=1), 0.0)
    return [(section, figures), *_wrong(found, SURELY_WRONG, seen.rows, sure, words)]


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """NaN of a label that all examples have, or none."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores)) if 0 < labels.sum() < len(labels) else math.nan


# ---------------------------------------------------------------- numbers


def _of_numbers(seen: Judged, found: Found) -> Sections:
    truth, value = np.asarray(seen.labels, np.float64), seen.said[:, 0].astype(np.float64)
    error, half = value - truth, found.model.reading.half
    rmse, mae = float(np.sqrt(np.mean(error**2))), float(np.mean(np.abs(error)))
    spread, inside = float(truth.std()), float(np.mean(np.abs(error) <= half))
    lines = [
        *seen.lines,
        f"Of {seen.what} the root mean square error is {rmse:.4g}, the mean absolute error {mae:.4g}; always saying "
        f"their mean would have {spread:.4g}.",
        f"The interval of a prediction is ± {half:.4g}, a quantile of the errors on examples left out: it is to hold "
        f"{100 * COVERAGE:.0f} % of further ones of their kind, and holds {100 * inside:.0f} % of {seen.what}.",
    ]
    places = np.array_split(np.argsort(truth, kind="stable"), min(PARTS, len(truth)))
    rows = [
        [
            f"{truth[part].min():.4g} to {truth[part].max():.4g}",
            *(f"{len(part):,}", f"{error[part].mean():.4g}", f"{np.abs(error[part]).mean():.4g}"),
            _cell(float(np.mean(np.abs(error[part]) <= half))),
        ]
        for part in places
    ]
    columns = ["numbers", found.modality.many, "mean error", "mean absolute error", "in the interval, %"]
    plot = Plot("predicted", "Predicted against true", functools.partial(answers.predicted, truth, value, half))
    figures = seen.figures | {"rmse": rmse, "mae": mae, "inside": inside}
    section = Section("How good the model is", [Table(columns, rows)], lines, [plot])
    far = np.abs(seen.unseen[:, 0] - seen.labels_unseen)
    words = [
        (f"is {own:.4g}", f"said to be {said:.4g}")
        for own, said in zip(seen.labels_unseen, seen.unseen[:, 0], strict=True)
    ]
    return [(section, figures), *_wrong(found, "The farthest off, which may be wrong labels", seen.rows, far, words)]


# ---------------------------------------------------------------- what they share


def _cell(share: float) -> str:
    return f"{100 * share:.0f}" if math.isfinite(share) else "–"


def _reliability(probabilities: np.ndarray, labels: np.ndarray) -> Plot:
    return Plot("reliability", CALIBRATION, functools.partial(answers.reliability, probabilities, labels))


def _wrong(
    found: Found, heading: str, rows: np.ndarray, wrong: np.ndarray, words: Sequence[tuple[str, str]]
) -> Sections:
    """Examples that are the most wrong, each once; none where nothing is.

    Args:
        found: has the examples.
        heading: of the section.
        rows: [M] which examples.
        wrong: [M] how much, 0 where it is not.
        words: [M] what each is and what was said.
    """
    order = [int(k) for k in np.argsort(-wrong, kind="stable") if wrong[k] > 0]
    first = list({int(rows[k]): k for k in reversed(order)}.values())[::-1][:SHOWN]
    if not first:
        return []
    first.sort(key=lambda k: -wrong[k])
    files = found.data.files
    called = [files[rows[k]] if files else f"{found.modality.one} {rows[k]}" for k in first]
    return [(found.modality.wrong(heading, found.data.train, rows[first], called, [words[k] for k in first]), {})]


SECTIONS: dict[str, Callable[[Judged, Found], Sections]] = {
    "classes": _of_classes,
    "several": _of_several,
    "number": _of_numbers,
}
