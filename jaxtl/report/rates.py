"""Ways to choose rates, beside each other: what each came to, what it cost, and which rates it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl.problems.tuning import FEW, Found, Tuning
from jaxtl.protocol import paired
from jaxtl.protocol.results import compact, number, points
from jaxtl.report.cells import percent
from jaxtl.report.page import Section
from jaxtl.report.tables import Table


def rates_section(
    heading: str, tuning: Tuning, ways: Mapping[str, Sequence[Found]], longest: int
) -> tuple[Section, dict[str, Any]]:
    """What ways to choose rates came to on the same draws; the first is what the others are compared with.

    Args:
        heading: of the section.
        tuning: what chose.
        ways: {name: what it came to on every draw}; two draws or more.
        longest: runs of a search by gradient, at most.

    Returns:
        (the section, figures of every way).
    """
    baseline, draws = next(iter(ways)), len(next(iter(ways.values())))
    outcome, chosen, figures = [], [], {}
    for name, found in ways.items():
        row, figures[name] = _outcome(name, found, baseline, ways[baseline])
        outcome.append(row)
        rates = [np.exp(np.mean([np.log(one.rates[rate]) for one in found])) for rate in tuning.learned]
        chosen.append([name, *map(compact, rates)])
    head = ["rates by", "log-loss", f"− {baseline}", "accuracy", f"− {baseline}, points", "runs", "seconds"]
    words = [rate.replace("learning_rate", "lr").replace("penalty", "λ").replace("/", " ") for rate in tuning.learned]
    tables = [Table([*head, "compiling"], outcome), Table(["rates by", *words], chosen)]
    settled = {name: [one.settled for one in found] for name, found in ways.items() if found[0].settled is not None}
    told = (f"{name.strip()}: {sum(map(bool, each))}" for name, each in settled.items())
    lines = [
        f"Every draw chooses for itself by the log-loss of {len(tuning.problem.held)} held-out examples; accuracy is "
        "that on test data, looked at once.",
        f"Mean over {draws} draws (accuracy ± sd); differences paired by draw, 95 % interval, given one source model. "
        "Rates: geometric means.",
        "A run of a search also computes its slope. Seconds: median of all draws but the first; compiling: what the "
        f"first took longer, 0 where a row above compiled the program. For {FEW} of many: their share of the time.",
        f"Searches that settled within {longest} runs, of {draws} draws: {'; '.join(told)}.",
        tuning.problem.truth.sentence,
    ]
    return Section(heading, tables, lines), figures


def _outcome(
    name: str, found: Sequence[Found], baseline: str, others: Sequence[Found]
) -> tuple[list[str], dict[str, Any]]:
    """A row of the table and its figures."""
    loss, test = (np.array([getattr(one, column) for one in found]) for column in ("log_loss", "test"))
    losses = paired(name, baseline, loss - [one.log_loss for one in others])
    tests = paired(name, baseline, test - [one.test for one in others])
    seconds = [one.seconds for one in found]
    later = float(np.median(seconds[1:]))
    low, high = (number(end, ".3f") for end in losses.ci95)
    compared = [f"{number(losses.difference, '+.3f')} [{low}, {high}]", points(tests)] if name != baseline else ["", ""]
    row = [name, number(loss.mean(), ".3f"), compared[0]]
    row += [percent(test), compared[1]]
    runs = float(np.mean([one.runs for one in found]))
    row += [number(runs, ".3g"), number(later, ".2f"), number(max(0.0, seconds[0] - later), ".1f")]
    figures = {"log_loss": loss, "test": test, "rates": [one.rates for one in found], "runs": runs, "seconds": seconds}
    return row, figures | {"difference": tests.difference, "ci95": tests.ci95, "verdict": tests.verdict}
