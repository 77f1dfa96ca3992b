"""The tables and sentences of a result: the same cells on a terminal, in a log file and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from jaxtl.protocol import Run, Summary, price_of_choosing, verdict_sentence
from jaxtl.protocol.measures import ACCURACY, Measure, Truth
from jaxtl.protocol.results import Result, compact, headed, number, points
from jaxtl.protocol.summaries import mixed_devices
from jaxtl.report.plots.confusions import in_words
from jaxtl.text import latex, markdown, printable

DASH = "–"
CONTRASTS_FIXED = "Contrasts fixed beforehand"
MAJORITY = "majority class"  # the row of what guessing gives
EDGE = {"<": "▼", ">": "▲"}


class Table(NamedTuple):
    """Cells as text; the first column names the row. `words`: columns to be set flush left."""

    columns: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)

    def markdown(self) -> str:
        """A Markdown table, aligned so that it reads as plain text too."""
        head, *body = self._aligned(markdown)
        rule = ["-" * (cell_len(cell) - 1) + ("-" if i in self.words else ":") for i, cell in enumerate(head)]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))

    def plain(self) -> str:
        """Aligned columns, one line a row."""
        return "\n".join("  ".join(cells).rstrip() for cells in self._aligned(printable))

    def latex(self) -> str:
        r"""A LaTeX table by booktabs, lines a row each; \usepackage{booktabs} is all it needs."""
        head, *body = [" & ".join(map(latex, line)) + r" \\" for line in (self.columns, *self.rows)]
        columns = "".join("l" if i in self.words else "r" for i in range(len(self.columns)))
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        return "\n".join([*lines, r"\end{tabular}"])

    def rich(self) -> RichTable:
        """Fitted to a terminal's width."""
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for i, column in enumerate(self.columns):
            table.add_column(Text(printable(column)), justify="left" if i in self.words else "right", no_wrap=i == 0)
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        return table

    def _aligned(self, escaped: Callable[[str], str]) -> list[list[str]]:
        lines = [[escaped(cell) for cell in line] for line in (self.columns, *self.rows)]
        widths = [max(3, *map(cell_len, column)) for column in zip(*lines, strict=True)]  # a CJK character takes two

        def padded(i: int, cell: str) -> str:
            room = " " * (widths[i] - cell_len(cell))
            return cell + room if i in self.words else room + cell

        return [[padded(i, cell) for i, cell in enumerate(line)] for line in lines]


class Note(NamedTuple):
    """A few lines under a heading; without a heading, fine print."""

    heading: str
    lines: list[str]


def print_result(result: Result, console: Console, *, baseline: str = "l2", preset: str = "") -> None:
    """Show what came out: figures and differences, the settings chosen, verdicts, and what the intervals cover.

    Args:
        result: the comparison.
        console: where to. Where it is no terminal, lines are plain and never wrapped.
        baseline: the method that the others are compared with.
        preset: of the run; "smoke" is said to be a check.
    """
    plain = not console.is_terminal

    def say(text: str, style: str = "", indent: int = 0) -> None:
        line = Text(" " * indent + printable(text) if plain else printable(text), style)
        console.print(line if plain else Padding(line, (0, 0, 0, indent)), soft_wrap=plain)

    say(headed(result.title, preset), "bold")
    for table in (method_table(result, baseline), setting_table(result)):
        console.line()
        console.print(Text(table.plain()) if plain else table.rich(), soft_wrap=plain)
    for note in notes(result, baseline):
        console.line()
        if note.heading:
            say(note.heading, "bold")
        for line in note.lines:
            say(line, "" if note.heading else "dim", 2 if note.heading else 0)


def method_table(result: Result, baseline: str) -> Table:
    """A row for every method: the measure under each selection, difference to the baseline, what else was measured."""
    selections, measure = result.selections, result.measure
    compared = [selection for selection in selections if (baseline, selection) in result.summaries]
    shown = [measure.name] if selections == ["tuned"] else selections
    against = [f"− {baseline}" + (f", {selection}" if k else "") for k, selection in enumerate(compared)]
    worse = sorted({name for run in result.runs for name in run.metrics if name.startswith("corrupted/")})
    measured = {
        "balanced": measure == ACCURACY and result.truth is not None and result.truth.unequal,
        "source": result.measured("source"),
        "corrupted": bool(worse),
        "train − test": result.measured("train"),
    }
    rest = [name for name, there in measured.items() if there]
    rows = []
    for method in result.methods:
        row = [_mean_and_sd(result.summaries.get((method, selection)), measure) for selection in selections]
        row += [_difference(result, method, baseline, selection if k else None) for k, selection in enumerate(compared)]
        selection = result.shown(method)
        summary = result.summaries[method, selection]
        found = {
            "balanced": number(100 * result.balanced[method, selection], ".1f"),
            "source": measure.shown(summary.metrics.get("source", math.nan)),
            "corrupted": measure.shown(_mean([summary.metrics.get(name, math.nan) for name in worse])),
            "train − test": number(measure.scale * result.gap(method, selection), f"+{measure.pattern}"),
        }
        seconds = f"{_seconds(summary.choosing_seconds)} + {_seconds(summary.seconds)}"
        rows.append([method, *row, *(found[name] for name in rest), seconds])
    columns = ["method", *shown, *against, *rest, "seconds"]
    if measure == ACCURACY and result.truth is not None:
        known = dict.fromkeys(shown, result.truth.majority) | {"balanced": result.truth.chance}
        rows.append([MAJORITY, *(number(100 * known[name], ".1f") if name in known else "" for name in columns[1:])])
    return Table(columns, rows)


def setting_table(result: Result) -> Table:
    """A row for every method: the setting chosen, and the effective rates that it ended with."""
    labels = [label for label in result.labels("effective_rate") if result.measured(f"effective_rate/{label}")]
    rows = []
    for method in result.methods:
        selection = result.shown(method)
        metrics = result.summaries[method, selection].metrics
        rates = {label: metrics.get(f"effective_rate/{label}", math.nan) for label in labels}
        words = " · ".join(f"{label} {compact(rate)}" for label, rate in rates.items() if math.isfinite(rate))
        rows.append([method, setting_in_words(result.reported(method, selection)), *([words] if labels else [])])
    return Table(["method", "setting chosen", *(["lr/‖w‖²"] if labels else [])], rows, words=(0, 1, 2))


def setting_in_words(runs: Sequence[Run]) -> str:
    """The setting of a method's report runs: "lr 0.012 · pull new 4.0 (λ 0.01) ▲"; a range where draws differ.

    A pull for a label has its λ in brackets, a pull for all labels has the λ of each; any other λ stands by itself.
    """
    edges = {edge for run in runs for edge in run.edges}
    pulling = dict.fromkeys(name for run in runs for name, value in run.metrics.items() if value)
    names = [name for name in pulling if name.startswith("lambda/")]
    lams = {name.removeprefix("lambda/"): _range([run.metrics.get(name, math.nan) for run in runs]) for name in names}
    words = []
    for name in runs[0].setting:
        label = name.removeprefix("pull/")
        own = [lams.pop(label)] if name != label and label in lams else []
        if name == "pull":
            own, lams = list(dict.fromkeys(lams.values())), {}
        flags = "".join(f" {sign}" for end, sign in EDGE.items() if name + end in edges)
        values = _range([run.setting[name] for run in runs])
        words.append(f"{_name(name)} {values}" + (f" (λ {', '.join(own)})" if own else "") + flags)
    words += [f"λ {label} {value}" for label, value in lams.items()]
    return " · ".join(words) or "nothing to choose"


def notes(result: Result, baseline: str) -> list[Note]:
    """What is to be said below the tables."""
    found = [
        Note(
            CONTRASTS_FIXED,
            [verdict_sentence(c) for c in result.contrasts],
        ),
        Note("Where these differences vary, standard deviations in points", _components(result)),
        Note("Price of choosing from the labelled examples alone: tuned − honest", _prices(result)),
        Note("Diverged", _diverged(result)),
        Note("Pairs made on several kinds of device, which differ by rounding too", mixed_devices(result.runs)),
        Note("Classes confused most", _confused(result, baseline)),
        Note("", _fine_print(result, baseline)),
    ]
    return [note for note in found if note.lines]


def _components(result: Result) -> list[str]:
    between = ", ".join(["choice", *result.own])
    return [
        f"{c.a} vs {c.b}: {between} {number(c.measure.scale * c.sd_choice, c.measure.difference_pattern)}; draw "
        f"{number(c.measure.scale * c.sd_draw, c.measure.difference_pattern)}"
        for c in result.contrasts
        if c.sd_choice is not None and c.sd_draw is not None
    ]


def _prices(result: Result) -> list[str]:
    lines = []
    for method, c in price_of_choosing(result.runs, measure=result.measure).items():
        honest = result.summaries[method, "honest"]
        who = "each draw chose for itself" if honest.setting is None else "all draws chose"
        setting = setting_in_words(result.reported(method, "honest"))
        took = f"choosing took {_seconds(honest.choosing_seconds)} s"
        lines.append(
            f"{method}: {points(c)}{result.measure.points} over {counted(c.n, c.unit)}; {who}: {setting}; {took}"
        )
    return lines


def _diverged(result: Result) -> list[str]:
    counts = f"{result.measure.name} {result.measure.scale * result.measure.failed:g}"
    return [
        f"{method}, {selection}: {summary.diverged} of {counted(len(summary.seeds), 'draw')}, counted as {counts}"
        for (method, selection), summary in result.summaries.items()
        if summary.diverged
    ]


def _confused(result: Result, baseline: str) -> list[str]:
    if result.truth is None:
        return []
    found = result.looked_into(baseline)
    return [f"{name}: {in_words(confusions, result.truth.names)}" for name, confusions in found.items()]


def repeated(result: Result) -> str:
    """What figures are means of: "10 draws", "8 replicates of 4 draws each"."""
    replicates = result.replicates
    draws = {len(summary.seeds) // replicates for summary in result.summaries.values()}
    count = counted(draws.pop(), "draw") if len(draws) == 1 else f"{min(draws)} to {max(draws)} draws"
    return f"{counted(replicates, 'replicate')} of {count} each" if replicates > 1 else count


def coverage(result: Result) -> list[str]:
    """What the intervals cover, and what they do not."""
    draws = "draws (subset, head initialisation, batch order, augmentation)"
    source = result.measured("source") and "source models" not in result.own
    given, other = ("one source model and ", "other source models or ") if source else ("", "")
    if result.replicates > 1:
        own = ", ".join(["tuning draws", "settings tried", *result.own])
        lines = [f"Intervals cover replicates: {own} and {draws}, given {given}one test set, not {other}other data."]
    elif result.searched:
        lines = [
            f"Intervals cover {draws}, given the settings chosen, {given}one test set, not {other}other data. Choosing "
            "is drawn too: one replicate decides nothing. --config.replicates=8 goes on from what is there."
        ]
    else:
        lines = [f"Intervals cover {draws}, given {given}one test set, not {other}other data."]
    return lines + _searched(result)


def _searched(result: Result) -> list[str]:
    """That equal trials are fewer for each of more hyperparameters."""
    counts = {method: count for method, count in result.searched.items() if count}
    if len(set(counts.values())) < 2:
        return []
    trials = len({run.trial for run in result.runs if run.stage == "tuning"})
    few, many = (pick(counts, key=lambda method: counts[method]) for pick in (min, max))
    return [
        f"Every method has {trials} trials, for {counted(counts[few], 'hyperparameter')} ({few}) as for {counts[many]} "
        f"({many}): that favours methods with fewer."
    ]


def _fine_print(result: Result, baseline: str) -> list[str]:
    measure = result.measure
    name = measure.name[0].upper() + measure.name[1:] + ("" if measure.larger else " (smaller is better)")
    unit = " in %" if measure.percent else ""
    lines = [f"{name} on target test data{unit}, mean ± standard deviation over {repeated(result)}."]
    if baseline in result.methods:
        unit = "points, " if measure.percent else ""
        lines.append(
            f"− {baseline}: {unit}paired by {result.unit}, 95 % interval, not corrected for the number of rows."
        )
    else:
        lines.append(f"No differences to {baseline}: it was not run.")
    lines += coverage(result)
    if result.truth is not None and measure == ACCURACY:
        lines += [result.truth.sentence, _balanced_in_words(result, result.truth)]
    if any(name.startswith("corrupted/") for run in result.runs for name in run.metrics):
        lines.append(
            f"Corrupted: mean {measure.name} on the same test images made worse in several ways; each is in runs.csv."
        )
    source = (
        f"Source: {measure.name} kept on the source task{', %' if measure.percent else ''}. "
        if result.measured("source")
        else ""
    )
    gap = "Train − test: points. " if result.measured("train") and measure.percent else ""
    lines.append(f"{source}{gap}Seconds: choosing + report runs.")
    if any(summary.edges for summary in result.summaries.values()):
        lines.append("▼ ▲: the lowest or highest value that was tried; a better one may lie beyond.")
    return lines


def _balanced_in_words(result: Result, truth: Truth) -> str:
    if truth.unequal:
        return "Balanced: accuracy within each class, averaged over classes."
    gaps = [abs(result.balanced[key] - summary.mean) for key, summary in result.summaries.items()]
    known = [gap for gap in gaps if math.isfinite(gap)]
    if not known:
        return "Classes are of nearly one size."
    return f"Classes are of nearly one size: balanced accuracy is within {100 * max(known):.1f} points in every row."


def _mean_and_sd(summary: Summary | None, measure: Measure) -> str:
    if summary is None:
        return DASH
    sd = measure.shown(summary.sd)
    return measure.shown(summary.mean) + ("" if sd == DASH else f" ± {sd}")


def _difference(result: Result, method: str, baseline: str, selection: str | None) -> str:
    difference = result.difference(method, baseline, selection)
    return points(difference) if difference else "baseline" if method == baseline else DASH


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    ends = [compact(end) for end in (min(known), max(known))] if known else [DASH]
    return " to ".join(dict.fromkeys(ends))


def _name(hyperparameter: str) -> str:
    return hyperparameter.replace("learning_rate", "lr").replace("_", " ").replace("/", " ")


def _seconds(seconds: float) -> str:
    return number(seconds, ".1f" if seconds < 9.95 else ".0f")


def counted(n: int, what: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "draw"), counted(3, "draw")
        ('1 draw', '3 draws')
    """
    return f"{n} {what}{'' if n == 1 else 's'}"
