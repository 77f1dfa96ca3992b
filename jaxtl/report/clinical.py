"""What a clinician asks of a study: who is found, what a probability is worth, and what holds in another laboratory."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.problems.clinical import ELSEWHERE, HELD, HERE, Clinical, reading_of, score_of
from jaxtl.protocol import MEASURES, Contrast, paired
from jaxtl.protocol.decisions import net_benefit, roc_curve
from jaxtl.protocol.measures import softmax
from jaxtl.protocol.resampling import RESAMPLES, bootstrap_interval
from jaxtl.protocol.results import Result, number, points, slug
from jaxtl.report.cells import percent
from jaxtl.report.page import Section
from jaxtl.report.plots import clinical as pictures
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.tables import DASH, Table, repeated

FEW_RESAMPLES = 200  # of several kinds: each has a curve of its own
TOLD = ("roc_auc", "calibration_error", "calibrated", "temperature", "sensitivity", "specificity", "elsewhere")


class Studied(NamedTuple):
    """A study of one source, with the problem that it was of."""

    source: str
    result: Result
    problem: Clinical


class Answers(NamedTuple):
    """What one method said in its report runs, those that diverged apart.

    Attributes:
        logits: [R, N, C] of test examples.
        far: [R, M, C] of those from elsewhere; [R, 0, C] without such.
        temperatures: [R], of held-out examples.
        points: [R, 2] (1 − specificity, sensitivity) at the threshold of held-out examples; [0, 2] of several kinds.
        figures: metric -> a value for each run.
    """

    logits: np.ndarray
    far: np.ndarray
    temperatures: np.ndarray
    points: np.ndarray
    figures: dict[str, list[float]]


def answers_of(studied: Studied, method: str) -> Answers | None:
    """Of a method as tables show it; None where every run diverged."""
    result, problem = studied.result, studied.problem
    runs = [run for run in result.reported(method, result.shown(method)) if HERE in run.arrays]
    if not runs:
        return None
    kept = [result.arrays(run) for run in runs]
    read = [
        reading_of(one[HELD], problem.held_labels(run.replicate), problem.config.specificity)
        for run, one in zip(runs, kept, strict=True)
    ]
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    figures = {name: [run.metrics[name] for run in runs if name in run.metrics] for name in names}
    told = zip(figures.get("specificity", []), figures.get("sensitivity", []), strict=True)
    return Answers(
        np.stack([one[HERE] for one in kept]),
        np.stack([one.get(ELSEWHERE, one[HERE][:0]) for one in kept]),
        np.array([one.temperature for one in read]),
        np.array([(1 - specificity, sensitivity) for specificity, sensitivity in told]).reshape(-1, 2),
        figures,
    )


def auc_interval(answers: Answers, labels: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % of the ROC-AUC, mean over report runs, over groups of test examples that are drawn again."""
    score = MEASURES["roc_auc"].score

    def mean(rows: np.ndarray) -> float:
        return float(np.mean([score(labels[rows], logits[rows]) for logits in answers.logits]))

    return bootstrap_interval(mean, groups, resamples=RESAMPLES if answers.logits.shape[-1] == 2 else FEW_RESAMPLES)


def clinical_section(
    title: str,
    studies: Sequence[Studied],
    alone: Collection[str],
    bar: str,
    shown: Sequence[tuple[str, str]],
) -> tuple[Section, dict[str, Any]]:
    """A row for each source and method, answers in words, and pictures of some of them.

    Args:
        title: of the question.
        studies: of it, a source each; the same test examples and the same draws.
        alone: methods that use nothing of a source; of several studies the first that has one tells of it.
        bar: one of these, which all others are to pass.
        shown: (source, method) of the pictures, "" for the source of those alone; what was not run is left out.

    Returns:
        (the section, by "source, method" its figures).
    """
    problem = studies[0].problem
    labels, groups, two = problem.task.test.labels, problem.groups(), len(problem.task.classes) == 2
    found: dict[tuple[str, str], tuple[Studied, Answers]] = {}
    for one in studies:
        for method in one.result.methods:
            key = ("" if method in alone else one.source, method)
            if key not in found and (answers := answers_of(one, method)) is not None:
                found[key] = one, answers
    rows, figures = [], {}
    for key, (one, answers) in found.items():
        interval = auc_interval(answers, labels, groups)
        against = difference(one.result, found["", bar][0].result, key[1], bar) if ("", bar) in found else None
        figures[named(*key)] = {
            "test": answers.figures["test"],
            "difference": None if against is None else (against.difference, against.ci95),
            "roc_auc_ci95": interval,
            **{name: own for name, own in answers.figures.items() if name.split("/")[-1] in TOLD},
        }
        rows.append([key[0] or DASH, key[1], *_cells(answers, against, interval, two)])
    measure = studies[0].result.measure.name
    columns = ["source", "method", f"{measure}, %", f"− {bar}", "ROC-AUC [95 %], %"]
    columns += ["found of 100", "false alarms of 100"] if two else [f"{measure} elsewhere, %"]
    columns += ["ECE", "at T"] if two else ["ECE", "at T", "ECE elsewhere", "at T"]
    words = {named(*key): found[key][1] for key in shown if key in found}
    lines = [_in_words(name, one, problem) for name, one in words.items()] if two else []
    lines += _notes(problem, studies[0].result, bar)
    plots = _plots(title, studies[0].result, problem, words)
    return Section(title, [Table(columns, rows, words=(0, 1))], lines, plots), figures


def named(source: str, method: str) -> str:
    """A row in words."""
    return ", ".join(filter(None, (source, method)))


def difference(result: Result, other: Result, method: str, bar: str) -> Contrast | None:
    """A method of one study less the bar of another on the same draws, paired by unit; None where it is the bar."""
    if method == bar:
        return None
    units = [own.summaries[name, own.shown(name)].units for own, name in ((result, method), (other, bar))]
    return paired(method, bar, np.subtract(units[0], units[1]), unit=result.unit, measure=result.measure)


def _cells(answers: Answers, against: Contrast | None, interval: tuple[float, float], two: bool) -> list[str]:
    """One row of the table, behind its names."""
    own = answers.figures
    area, *ends = (number(100 * x, ".1f") for x in (float(np.mean(own["roc_auc"])), *interval))
    cells = [percent(own["test"]), points(against) if against else "", f"{area} [{', '.join(ends)}]"]
    if two:
        cells += [_of_100(own["sensitivity"]), _of_100([1 - x for x in own["specificity"]])]
    else:
        cells += [percent(own["elsewhere"]) if "elsewhere" in own else DASH]
    names = [
        "calibration_error",
        "calibrated",
        *([] if two else ["elsewhere/calibration_error", "elsewhere/calibrated"]),
    ]
    return cells + [number(100 * float(np.mean(own[name])), ".1f") if name in own else DASH for name in names]


def _of_100(shares: Sequence[float]) -> str:
    return number(100 * float(np.mean(shares)), ".0f")


def _in_words(name: str, answers: Answers, problem: Clinical) -> str:
    """The answer to "of 100 with the finding, how many are found?"."""
    other, finding = problem.task.classes
    own = answers.figures
    return (
        f"{name}: of 100 with {finding} {_of_100(own['sensitivity'])} are found, and of 100 that are {other} "
        f"{_of_100([1 - x for x in own['specificity']])} are called ill by the same threshold, where held-out images "
        f"had promised {100 * (1 - problem.config.specificity):.0f}."
    )


def _notes(problem: Clinical, result: Result, bar: str) -> list[str]:
    test = problem.task.test
    counts = ", ".join(f"{n} {name}" for n, name in zip(problem.truth.counts, problem.task.classes, strict=True))
    groups = test.groups
    whom = f"the {len(test)} test images" if groups is None else f"{len(np.unique(groups))} groups of test images"
    alone = (
        ""
        if groups is not None
        else "; whose images they are is not stated, and if somebody has several, it is too short"
    )
    lines = [
        f"{result.measure.name.capitalize()}: mean ± standard deviation over {repeated(result)}. − {bar}: points, "
        f"paired by {result.unit}, 95 % interval, not corrected for the number of rows; {bar} needs no source.",
        f"ROC-AUC: mean over report runs, with a bootstrap interval over {whom}, given the models{alone}.",
        f"ECE: expected calibration error in points; T: the temperature that {len(problem.held_labels(0))} held-out "
        "training images ask for, which no test image has a say in.",
        f"Test images: {counts}.",
    ]
    if len(problem.task.classes) == 2:
        share = 100 * problem.truth.counts[1] / len(test)
        lines.append(
            f"Decision curves are for a share of {share:.1f} % with the finding, as among the test images; in a "
            "practice it is another, and so are they."
        )
    if problem.elsewhere is not None:
        lines.append(
            f"Elsewhere: {len(problem.elsewhere)} test images of the other laboratory, at the temperature of this one. "
            "A source model of that laboratory has learned from its training images; others have not."
        )
    return lines


def _plots(title: str, result: Result, problem: Clinical, shown: Mapping[str, Answers]) -> list[Plot]:
    labels, end = problem.task.test.labels, slug({k: v for k, v in result.axes.items() if k != "from"})
    if not shown:
        return []
    panels = {("test", name): _reliability(labels, one.logits, one.temperatures) for name, one in shown.items()}
    if problem.elsewhere is not None:
        far = problem.elsewhere.labels
        panels |= {("elsewhere", name): _reliability(far, one.far, one.temperatures) for name, one in shown.items()}
    draw: Any = functools.partial(pictures.reliability_panels, f"Does a probability mean what it says? {title}", panels)
    plots = [Plot(f"reliability{end}", f"Of answers of each probability, how many are right: {title}", draw)]
    if len(problem.task.classes) != 2:
        return plots
    roc = {name: _roc(labels, one) for name, one in shown.items()}
    draw = functools.partial(pictures.roc_curves, f"Who is found: {title}", roc, problem.config.specificity)
    plots.insert(0, Plot(f"roc{end}", f"Found by false alarms: {title}", draw))
    curves = {name: _benefit(labels, one) for name, one in shown.items()}
    everybody = net_benefit(labels, np.ones(len(labels)), pictures.THRESHOLDS)
    draw = functools.partial(pictures.decision_curves, f"What acting on it is worth: {title}", curves, everybody)
    return [*plots, Plot(f"decisions{end}", f"Net benefit by threshold: {title}", draw)]


def _reliability(labels: np.ndarray, logits: np.ndarray, temperatures: np.ndarray) -> pictures.Reliability:
    """All report runs together."""
    plain, tempered = (softmax(np.concatenate(part)) for part in (logits, logits / temperatures[:, None, None]))
    return pictures.Reliability(np.tile(labels, len(logits)), plain, tempered)


def _roc(labels: np.ndarray, answers: Answers) -> pictures.Roc:
    hits = [roc_curve(labels, score_of(logits), pictures.ALARMS) for logits in answers.logits]
    x, y = answers.points.mean(axis=0)
    return pictures.Roc(np.mean(hits, axis=0), (float(x), float(y)))


def _benefit(labels: np.ndarray, answers: Answers) -> np.ndarray:
    """Mean over report runs, of probabilities at the temperature of held-out examples."""
    said = [softmax(logits / t)[:, 1] for logits, t in zip(answers.logits, answers.temperatures, strict=True)]
    return np.mean([net_benefit(labels, one, pictures.THRESHOLDS) for one in said], axis=0)
