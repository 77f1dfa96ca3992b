"""The report of a detector: how good it is on pictures for testing, what was tried, how to go on."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data.letterbox import factors
from jaxtl.devices import backend
from jaxtl.finetune.boxes.dealing import described
from jaxtl.finetune.boxes.work import BoxesFound, write_found
from jaxtl.methods.finetuning import DETECTION
from jaxtl.protocol.detections import (
    AP50,
    MAP,
    average_precision_50,
    average_precisions,
    hits,
    mean_average_precision,
    resampled_precisions,
)
from jaxtl.protocol.results import compact
from jaxtl.report import Page, Plot, Section, Table
from jaxtl.report.html import write_html
from jaxtl.report.plots.boxes import drawn_boxes, precision_and_recall
from jaxtl.terminal import Terminal

RESAMPLES, FEWEST = 400, 60  # of an interval over pictures: of many classes each takes long
FEW = 20  # classes
PICTURES = 4  # that are drawn
PREDICTIONS = "test_boxes.json"


def measured(found: BoxesFound) -> dict[str, Any]:
    """mAP and AP50 on the pictures for testing, with 95 % intervals over these pictures."""
    truth, boxes = found.truth, found.found
    count = max(FEWEST, min(RESAMPLES, RESAMPLES * FEW // len(found.data.classes)))
    draws = resampled_precisions(truth, boxes, count)
    ends = np.percentile(draws, [2.5, 97.5], axis=0)
    values = {"map": mean_average_precision(truth, boxes), "ap50": average_precision_50(truth, boxes)}
    return values | {f"{name}_ci95": ends[:, k].tolist() for k, name in enumerate(("map", "ap50"))}


def in_words(figures: dict[str, Any]) -> str:
    """The two with their intervals: "mAP 41.0 % [37.2, 44.9], AP50 80.1 % [75.0, 84.8]"."""
    parts = []
    for name, measure in (("map", MAP), ("ap50", AP50)):
        low, high = figures[f"{name}_ci95"]
        value = measure.shown(figures[name])
        parts.append(f"{measure.name} {value} % [{measure.shown(low)}, {measure.shown(high)}]")
    return ", ".join(parts)


def report(
    found: BoxesFound, figures: dict[str, Any], workdir: Path, command: str, console: Terminal | None = None
) -> None:
    """Show all of it, and write report.html, test_boxes.json, summary.md, plots and, last, summary.json."""
    write_found(workdir / PREDICTIONS, found)
    page = Page(console or Terminal(quiet=True))
    page.add(_good(found, figures), figures | {"classes": found.data.classes, "sure": found.model.sure})
    page.add(_tried(found), {"winner": found.winner, "plan": found.plan.kept()})
    if found.data.skipped:
        lines = [f"{file}: {why}" for file, why in found.data.skipped]
        page.add(Section(f"Left out: {len(lines)} pictures", lines=lines[:20]), {"skipped": lines})
    page.add(_card(found, workdir), {"model": found.model.record()})
    data = described(found.data)[0].removeprefix("data").strip()
    header = {
        "experiment": f"finetune {found.data.name}",
        "data": f"{data}; {found.data.origin}",
        "notice": "; ".join(found.notices),
        "command": command,
        "device": backend.describe_device(),
        "versions": backend.versions(),
        "minutes": found.minutes,
        "config": {},
        "glossary": {name: DETECTION[name].means for name in found.plan.methods},
    }
    facts = [(name, str(header[name.lower()])) for name in ("Data", "Device")]
    facts += [("Minutes", f"{found.minutes:.1f}"), ("Command", f"`{command}`")]
    write_html(workdir / "report.html", f"A model of {found.data.name}", facts, page.sections, str(header["notice"]))
    page.write(workdir, header, {"tried": found.runs})
    page.console.print(f"wrote {workdir / 'report.html'}", soft_wrap=True)


def _good(found: BoxesFound, figures: dict[str, Any]) -> Section:
    truth, boxes, names, sure = found.truth, found.found, found.data.classes, found.model.sure
    precisions = np.full((10, len(names)), np.nan)
    some = average_precisions(truth, boxes)[:, : len(names)]
    precisions[:, : some.shape[1]] = some
    rows, curves = [], {}
    for k, name in enumerate(names):
        scores, right, count = hits(truth, boxes, k)
        believed = scores >= sure
        rows.append([name, f"{count:,}", _percent(precisions[:, k].mean()), _percent(precisions[0, k])])
        rows[-1] += [_share(right[believed].sum(), believed.sum()), _share(right[believed].sum(), count)]
        curves[name] = (scores, right, count)
    table = Table(["class", "boxes", "AP", "AP50", "right of believed, %", "found, %"], rows)
    lines = [
        f"On the {len(truth)} pictures for testing, looked at once: {in_words(figures)}; intervals over the pictures.",
        "mAP: average precision, mean over classes and overlaps from 0.5 to 0.95, as COCO defines it; AP50: at 0.5.",
        f"A box is believed from a score of {sure:.2f} on, which had the largest F1 on pictures held out.",
    ]
    best = np.argsort(-(truth[..., 4] >= 0).sum(axis=1), kind="stable")
    shown = np.sort(best[: max(1, len(best) // 2)][:: max(1, len(best) // 2 // PICTURES)][:PICTURES])
    assert found.data.test is not None
    drawn = functools.partial(
        drawn_boxes,
        "What is there, and what was found",
        np.asarray(found.data.test.images)[shown],
        _on_canvas(found, truth[shown], shown),
        {found.winner: _on_canvas(found, boxes[shown], shown)},
        names,
    )
    plots = [
        Plot("boxes", "Pictures for testing: true boxes, and as many of the surest that were found", drawn),
        Plot(
            "precision",
            "Precision against recall at an overlap of 0.5; the point is where boxes are believed from",
            functools.partial(precision_and_recall, curves, sure),
        ),
    ]
    return Section("How good the model is", [table], lines, plots)


def _on_canvas(found: BoxesFound, rows: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Boxes in pixels of their pictures as they lie on the canvas."""
    canvas = found.model.inputs.edges
    scales = np.array([factors((int(w), int(h)), canvas) for w, h in found.data.sizes[1][shown]])
    return np.concatenate([rows[..., :4] * scales[:, None], rows[..., 4:]], axis=2)


def _percent(value: float) -> str:
    return MAP.shown(float(value)) if np.isfinite(value) else "–"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}" if whole else "–"


def _tried(found: BoxesFound) -> Section:
    rows, best = [], {}
    for name in found.plan.methods:
        own = [run for run in found.runs if run.method == name and not run.diverged]
        best[name] = max(own, key=lambda run: run.validation) if own else None
        chosen = best[name]
        setting = ", ".join(f"{key} {compact(value)}" for key, value in chosen.setting.items()) if chosen else "–"
        value = MAP.shown(chosen.validation) if chosen else "diverged"
        seconds = sum(run.seconds for run in found.runs if run.method == name)
        rows.append([name + (" (kept)" if name == found.winner else ""), value, setting, f"{seconds:.0f}"])
    table = Table(["method", "mAP held out, %", "setting", "seconds"], rows, (0, 2))
    effort = found.plan.effort
    lines = [
        f"Each method tried {effort.trials} settings × {effort.steps} steps; of each the best on pictures held out.",
        "The best of several is a little flattered by having been chosen; pictures for testing chose nothing.",
        f"The model that is kept ({found.winner}) learned once more, from all {len(found.data.train)} pictures.",
    ]
    if "features" in best and len(best) > 1:
        lines.insert(1, "Fine-tuning is kept where it is ahead of the head alone (features) by more than a point.")
    lines += [f"Not tried: {found.plan.why}."] if found.plan.why else []
    return Section("What was tried", [table], lines)


def _card(found: BoxesFound, workdir: Path) -> Section:
    here = Path.cwd()
    run = shlex.quote(str(workdir.relative_to(here) if workdir.is_relative_to(here) else workdir))
    lines = [
        *found.model.lines(),
        f"To use it: `jaxtl predict {run} new_pictures/ --csv=boxes.csv --draw=drawn/`",
        f"To hand it on: `jaxtl export {run} --to=model.safetensors`",
        f"To try more: the same command with a larger --budget than {found.options.budget}",
    ]
    return Section("Model card", (), lines)
