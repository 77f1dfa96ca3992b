"""The report of a fine-tuning: what is known of the model, what was tried, what it cost, and how to go on."""

from __future__ import annotations

import functools
import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.devices import backend
from jaxtl.finetune.card import card_lines
from jaxtl.finetune.options import HEADS, NAMES
from jaxtl.finetune.work import Found
from jaxtl.protocol import ACCURACY, Measure, confusion_matrix
from jaxtl.protocol.results import compact, points
from jaxtl.report import Page, Plot, Section, Table
from jaxtl.report.html import write_html
from jaxtl.report.plots import answers
from jaxtl.report.plots.confusions import confusion_maps, in_words
from jaxtl.terminal import Terminal

RESAMPLES = 1000  # of an interval over examples
SHOWN = 12  # examples that are confidently wrong
MATRIX = 100  # classes up to which summary.json has their confusions
CLASSES = 50  # that a table shows one by one, the worst first
COVERS = (
    "The interval of a difference covers which examples were left out, the heads' first weights and the order of "
    "batches. All draws learn from the same few examples: it says nothing of others, and is rather too narrow."
)


def report(found: Found, workdir: Path, command: str, console: Terminal | None = None) -> None:
    """Show all of it, and write report.html, summary.md, plots and, last, summary.json."""
    page = Page(console or Terminal(quiet=True))
    rows, logits = found.outcome.unseen(found.winner)
    labels = found.data.train.labels[rows]
    probabilities = _softmax(logits / found.model.temperature)
    page.add(_tried(found), _figures_of_trials(found))
    page.add(*_answers(found))
    if wrong := _wrong(found, rows, labels, probabilities):
        page.add(wrong)
    if found.data.skipped:
        lines = [f"{file}: {why}" for file, why in found.data.skipped]
        shown = [*lines[:20], *([f"… and {len(lines) - 20} more"] if len(lines) > 20 else [])]
        page.add(Section(f"Left out: {len(lines)} files", lines=shown), {"skipped": lines})
    page.add(_card(found, workdir), {"model": found.model.record()})
    header = {
        "experiment": f"finetune {found.data.name}",
        "data": f"{found.model.card['examples']} of {len(found.data.classes)} classes, {found.data.origin}",
        "notice": "; ".join(filter(None, [found.begun.notice, *found.data.notices])),
        "command": command,
        "device": backend.describe_device(),
        "versions": backend.versions(),
        "minutes": found.minutes,
        "config": {},
        "glossary": {name: NAMES[name] for name in found.outcome.names},
    }
    facts = [(name, str(header[name.lower()])) for name in ("Data", "Device")]
    facts += [("Minutes", f"{found.minutes:.1f}"), ("Command", f"`{command}`")]
    title = f"A classifier of {found.data.name}"
    write_html(workdir / "report.html", title, facts, page.sections, str(header["notice"]))
    page.write(workdir, header, {"tried": found.outcome.found.runs})
    page.console.print(f"wrote {workdir / 'report.html'}", soft_wrap=True)


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def interval(measure: Measure, labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """95 % of the measure over examples: what others of the same kind would have given.

    Of an accuracy Wilson's interval, which knows that all right is not surely all; else percentiles of resamples.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927); Efron, Bootstrap
    methods: another look at the jackknife (1979).
    """
    if measure == ACCURACY:
        n, share, z = len(labels), measure.score(labels, logits), 1.96
        middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    rng = np.random.default_rng(0)
    count = RESAMPLES if len(labels) <= 20_000 else 100
    values = []
    for _ in range(count):
        rows = rng.integers(0, len(labels), len(labels))
        if len(np.unique(labels[rows])) > 1:
            values.append(measure.score(labels[rows], logits[rows]))
    low, high = np.nanpercentile(values, [2.5, 97.5]) if values else (math.nan, math.nan)
    return float(low), float(high)


def told(measure: Measure, value: float, ends: tuple[float, float]) -> str:
    """A value with its interval: "87.3 % [84.0, 90.1]"."""
    unit = " %" if measure.percent else ""
    return f"{measure.shown(value)}{unit} [{measure.shown(ends[0])}, {measure.shown(ends[1])}]"


def _tried(found: Found) -> Section:
    outcome, measure = found.outcome, found.outcome.measure
    bar = next((name for name in ("logistic", "ridge") if name in outcome.names), outcome.names[0])
    contrasts = {c.a: c for c in outcome.found.contrasts}
    rows = []
    for name in outcome.names:
        own, runs = outcome.values(name), outcome.runs(name)
        sd = f" ± {measure.shown(float(own.std(ddof=1)))}" if len(own) > 1 else ""
        against = points(contrasts[name]) if name in contrasts else ""
        seconds = f"{sum(run.seconds for run in runs):.1f}"
        kind = "head" if name in HEADS else "fine-tuning"
        rows.append([name + (" (kept)" if name == found.winner else ""), kind, measure.shown(float(own.mean())) + sd])
        rows[-1] += [against, seconds]
    table = Table(["method", "what", f"{measure.heading} ± sd", f"− {bar}", "seconds"], rows, (0, 1))
    _, c, sentence = outcome.verdict()
    lines = [sentence] if sentence else []
    if c is not None:
        draws = f"{c.a} − {c.b}: {points(c)}{measure.points} over {c.n} draws, {c.verdict}"
        lines += [f"{draws}.", COVERS]
    effort, many = found.plan.effort, found.modality.many
    times = "once" if effort.repeats == 1 else f"{effort.repeats} times"
    lines.append(
        f"Every method chose its settings within what it learned from, and was judged by the {many} left out: "
        f"{effort.folds} folds, dealt {times}. The best of {len(rows)} is a little flattered by having been chosen."
    )
    chosen = ", ".join(f"{name} {compact(value)}" for name, value in found.fitted.setting.items())
    lines.append(f"The model that is kept ({found.winner}) learned from all {many} with {chosen}.")
    lines += [f"Not tried: {found.plan.why}."] if found.plan.why else []
    values = {name: outcome.values(name) for name in outcome.names}
    plot = Plot("tried", "What was tried", functools.partial(answers.tried, values, measure, found.winner))
    return Section("What was tried, and whether fine-tuning pays", [table], lines, [plot])


def _figures_of_trials(found: Found) -> dict[str, Any]:
    outcome = found.outcome
    return {
        "measure": outcome.measure.key,
        "methods": {name: outcome.values(name) for name in outcome.names},
        "seconds": {name: sum(run.seconds for run in outcome.runs(name)) for name in outcome.names},
        "winner": found.winner,
        "verdict": outcome.verdict()[2],
        "plan": found.plan.kept(),
        "features_per_second": found.rate,
    }


def _answers(found: Found) -> tuple[Section, dict[str, Any]]:
    measure, names, many = found.outcome.measure, found.data.classes, found.modality.many
    rows, logits = found.outcome.once(found.winner)
    labels, probabilities = found.data.train.labels[rows], _softmax(logits / found.model.temperature)
    value = float(found.outcome.values(found.winner).mean())
    ends = interval(measure, labels, logits)
    lines = [f"On {many} left out: {measure.name} {told(measure, value, ends)}; the interval is over them."]
    figures: dict[str, Any] = {"unseen": value, "unseen_ci95": ends, "temperature": found.model.temperature}
    if found.tested is not None and found.data.test is not None:
        truth = found.data.test.labels
        score = measure.score(truth, found.tested)
        ends = interval(measure, truth, found.tested)
        said = f"On the {len(truth)} {many} for testing, looked at once: {measure.name} {told(measure, score, ends)}."
        lines.insert(0, said)
        figures |= {"test": score, "test_ci95": ends}
        labels, probabilities = truth, _softmax(found.tested)
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, len(names))
    table = _by_class(confusion, names, found)
    lines += [f"Most often: {in_words([confusion], names)}."]
    lines += [f"The {len(names) - CLASSES} better classes are not shown."] if len(names) > CLASSES else []
    draw: Callable = functools.partial(
        confusion_maps, "Which classes are taken for which", names, {found.winner: [confusion]}
    )
    plots = [Plot("confusion", "Which classes are taken for which", draw)]
    draw = functools.partial(answers.reliability, probabilities, labels)
    plots.append(Plot("reliability", "Does a probability mean what it says?", draw))
    figures |= {"confusion": confusion} if len(names) <= MATRIX else {}
    return Section("How good the model is", [table], lines, plots), figures


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


def _wrong(found: Found, rows: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> Section | None:
    """Examples of which another class was said with the most confidence, each once."""
    sure, said = probabilities.max(axis=1), probabilities.argmax(axis=1)
    order = [k for k in np.argsort(-sure, kind="stable") if said[k] != labels[k]]
    first = list({int(rows[k]): k for k in reversed(order)}.values())[::-1][:SHOWN]
    if not first:
        return None
    first.sort(key=lambda k: -sure[k])
    names, files = found.data.classes, found.data.files
    answered = [(names[labels[k]], f"{names[said[k]]} ({100 * sure[k]:.0f} %)") for k in first]
    called = [files[rows[k]] if files else f"{found.modality.one} {rows[k]}" for k in first]
    return found.modality.wrong(found.data.train, rows[first], called, answered)


def _card(found: Found, workdir: Path) -> Section:
    lines, here = card_lines(found.model), Path.cwd()
    run = shlex.quote(str(workdir.relative_to(here) if workdir.is_relative_to(here) else workdir))
    lines += [
        f"To use it: `jaxtl predict {run} new_{found.modality.many}/ --csv=out.csv`",
        f"To hand it on: `jaxtl export {run} --to=model.onnx`, or .stablehlo, .safetensors",
        f"To try more: the same command with a larger --budget than {found.options.budget}",
    ]
    return Section("Model card", (), lines)
