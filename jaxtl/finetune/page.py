"""The report of a fine-tuning: what is known of the model, what was tried, what it cost, and how to go on."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

from jaxtl.devices import backend
from jaxtl.finetune.card import card_lines
from jaxtl.finetune.options import HEADS, NAMES
from jaxtl.finetune.sections import SECTIONS, judged
from jaxtl.finetune.work import Found
from jaxtl.protocol.results import compact, points
from jaxtl.report import Page, Plot, Section, Table
from jaxtl.report.html import write_html
from jaxtl.report.plots import answers
from jaxtl.terminal import Terminal

COVERS = (
    "The interval of a difference covers which examples were left out, the heads' first weights and the order of "
    "batches. All draws learn from the same few examples: it says nothing of others, and is rather too narrow."
)


def report(found: Found, workdir: Path, command: str, console: Terminal | None = None) -> None:
    """Show all of it, and write report.html, summary.md, plots and, last, summary.json."""
    page = Page(console or Terminal(quiet=True))
    page.add(_tried(found), _figures_of_trials(found))
    for section, figures in SECTIONS[found.model.kind.name](judged(found), found):
        page.add(section, figures)
    if found.data.skipped:
        lines = [f"{file}: {why}" for file, why in found.data.skipped]
        shown = [*lines[:20], *([f"… and {len(lines) - 20} more"] if len(lines) > 20 else [])]
        page.add(Section(f"Left out: {len(lines)} files", lines=shown), {"skipped": lines})
    page.add(_card(found, workdir), {"model": found.model.record()})
    described = found.model.kind.described(found.data.train.labels, found.data.classes)
    header = {
        "experiment": f"finetune {found.data.name}",
        "data": f"{len(found.data.train)} labelled {found.modality.many}, {described}; {found.data.origin}",
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
    title = f"A model of {found.data.name}"
    write_html(workdir / "report.html", title, facts, page.sections, str(header["notice"]))
    page.write(workdir, header, {"tried": found.outcome.found.runs})
    page.console.print(f"wrote {workdir / 'report.html'}", soft_wrap=True)


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


def _card(found: Found, workdir: Path) -> Section:
    lines, here = card_lines(found.model), Path.cwd()
    run = shlex.quote(str(workdir.relative_to(here) if workdir.is_relative_to(here) else workdir))
    lines += [
        f"To use it: `jaxtl predict {run} new_{found.modality.many}/ --csv=out.csv`",
        f"To hand it on: `jaxtl export {run} --to=model.onnx`, or .stablehlo, .safetensors",
        f"To try more: the same command with a larger --budget than {found.options.budget}",
    ]
    return Section("Model card", (), lines)
