"""One comparison on one problem: its runs, and the figures that tables, pictures and files all show."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxtl.errors import InputError
from jaxtl.protocol.measures import ACCURACY, Measure, Truth, balanced_accuracy, confusion_matrix, number
from jaxtl.protocol.power import t_quantile
from jaxtl.protocol.runs import COLUMNS, Run
from jaxtl.protocol.statistics import Contrast, contrast
from jaxtl.protocol.summaries import Summary, summarise

CHECK = "a check, not a result"
PREDICTION = "prediction"
Axes = dict[str, float | int | str]


@dataclass(frozen=True)
class Result:
    """One comparison of methods on one problem.

    Attributes:
        title: in words: "classes 0-4 → 5-9; 20 labelled examples per class".
        axes: what tells this problem from the others of the experiment, {"n_per_class": 20, "source_examples": 25000};
            columns in every file. Numbers that differ between results become the x axis of a picture.
        runs: every run of the comparison, those that choose and those that report. Report runs have the metric "test"
            (the measure) and may have "train", "source" (what is kept on the source task),
            "lambda/LABEL" and "effective_rate/LABEL"; where one is missing a dash is shown.
        contrasts: the primary ones, fixed before the results were seen and corrected for each other.
        arrays: `RunStore.arrays`. Shown where a report run has them, all [T]: "curve/step", "curve/loss",
            "curve/validation" (the measure), "curve/norm/LABEL", "curve/distance/LABEL" (from the anchor).
        measure: what "test", "train" and "source" are.
        truth: the test examples that the array "prediction" [N] of a report run is about. With it, what guessing gives,
            balanced accuracies and confusions of classes are shown.
        own: what every replicate has for itself beside its draws and its design, in words: "source models".

    Raises:
        InputError: no report runs, or an axis named like another column.
    """

    title: str
    axes: Axes
    runs: list[Run]
    contrasts: list[Contrast]
    arrays: Callable[[Run], dict[str, np.ndarray]]
    measure: Measure = ACCURACY
    truth: Truth | None = None
    own: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not any(run.stage == "report" for run in self.runs):
            raise InputError("no report runs", where=f"result '{self.title}'", todo="hand over the runs of `compare`")
        taken = {*COLUMNS, *(name for run in self.runs for name in (*run.setting, *run.metrics))}
        for axis in taken & self.axes.keys():
            raise InputError(f"axis '{axis}' is also another column", where=f"result '{self.title}'", todo="rename it")

    @cached_property
    def summaries(self) -> dict[tuple[str, str], Summary]:
        """By (method, selection), in the order of the methods."""
        found = {(summary.method, summary.selection): summary for summary in summarise(self.runs)}
        methods = dict.fromkeys(method for method, _ in found)
        return {(m, s): found[m, s] for m in methods for s in self.selections if (m, s) in found}

    @property
    def methods(self) -> list[str]:
        """Their names, in the order of the runs."""
        return list(dict.fromkeys(method for method, _ in self.summaries))

    @property
    def selections(self) -> list[str]:
        """Those that any method was reported under, in the order of the runs."""
        return list(dict.fromkeys(run.selection for run in self.runs if run.stage == "report"))

    @cached_property
    def replicates(self) -> int:
        """How many there are."""
        return len({run.replicate for run in self.runs if run.stage == "report"})

    @property
    def unit(self) -> str:
        """What is repeated: "replicate", or "draw" of the only one."""
        return "replicate" if self.replicates > 1 else "draw"

    @cached_property
    def searched(self) -> dict[str, int]:
        """How many hyperparameters were chosen by tuning, by method."""
        found: dict[str, dict[str, set[float]]] = {}
        for run in self.runs:
            for name, value in run.setting.items() if run.stage == "tuning" and not run.replicate else ():
                found.setdefault(run.method, {}).setdefault(name, set()).add(value)
        return {method: sum(len(values) > 1 for values in names.values()) for method, names in found.items()}

    def shown(self, method: str) -> str:
        """The selection that a table with one row per method shows: the first that there is, mostly "tuned"."""
        return next(selection for selection in self.selections if (method, selection) in self.summaries)

    def reported(self, method: str, selection: str) -> list[Run]:
        """Report runs, ordered by draw."""
        found = (run for run in self.runs if (run.method, run.selection) == (method, selection))
        return sorted((run for run in found if run.stage == "report"), key=lambda run: (run.replicate, run.seed))

    def difference(self, method: str, baseline: str, selection: str | None = None) -> Contrast | None:
        """Method − baseline, paired by draw and uncorrected; None where one of them was not run or is the other.

        Both under one selection; left out: each under that which a table shows.
        """
        sides = {(name, selection or self.shown(name)) for name in (method, baseline) if name in self.methods}
        if len(sides) < 2 or not sides <= self.summaries.keys():
            return None
        return contrast(self.runs, method, baseline, selection=selection, measure=self.measure)

    def gap(self, method: str, selection: str) -> float:
        """Mean of train − test over the draws that have both; NaN where none has."""
        runs = [run for run in self.reported(method, selection) if "train" in run.metrics]
        return float(np.mean([run.metrics["train"] - run.metrics["test"] for run in runs])) if runs else math.nan

    def measured(self, metric: str) -> bool:
        """Whether any method has it."""
        return any(math.isfinite(summary.metrics.get(metric, math.nan)) for summary in self.summaries.values())

    def confusions(self, method: str, selection: str) -> list[np.ndarray]:
        """[C, C] counts by true and predicted class, one for each draw whose predictions were kept."""
        if self.truth is None:
            return []
        runs = [run for run in self.reported(method, selection) if PREDICTION in run.arrays]
        labels, classes = self.truth.labels, len(self.truth.names)
        return [confusion_matrix(labels, self.arrays(run)[PREDICTION], classes) for run in runs]

    @cached_property
    def balanced(self) -> dict[tuple[str, str], float]:
        """Mean balanced accuracy by (method, selection), 0 for a draw that diverged; NaN without predictions."""
        return {key: self._balanced(*key) for key in self.summaries}

    def _balanced(self, method: str, selection: str) -> float:
        known = [balanced_accuracy(counts) for counts in self.confusions(method, selection)]
        known += [0.0] * self.summaries[method, selection].diverged
        return float(np.mean(known)) if len(known) == len(self.reported(method, selection)) else math.nan

    def looked_into(self, baseline: str) -> dict[str, list[np.ndarray]]:
        """The confusions of the baseline and of the best method, as far as they were kept: by a name for a panel."""
        best = max(
            self.methods, key=lambda method: self.measure.better(self.summaries[method, self.shown(method)].mean)
        )
        roles = {baseline: "baseline"} if baseline in self.methods else {}
        roles[best] = "baseline and best" if best == baseline else "best"
        found = {f"{name} ({role})": self.confusions(name, self.shown(name)) for name, role in roles.items()}
        return {name: confusions for name, confusions in found.items() if confusions}

    def labels(self, metric: str) -> list[str]:
        """Every LABEL of the metrics "METRIC/LABEL"."""
        names = dict.fromkeys(name for summary in self.summaries.values() for name in summary.metrics)
        return [name.removeprefix(f"{metric}/") for name in names if name.startswith(f"{metric}/")]


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """95 % t interval of a mean over draws; NaN for one draw.

    Example:
        >>> low, high = interval_of_mean([0.70, 0.72, 0.74])
        >>> round(low, 3), round(high, 3)
        (0.67, 0.77)
    """
    if len(values) < 2:
        return math.nan, math.nan
    half = float(t_quantile(len(values)) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def varying(results: Sequence[Result]) -> list[str]:
    """The axes on which results differ."""
    names = dict.fromkeys(name for result in results for name in result.axes)
    return [name for name in names if len({result.axes.get(name) for result in results}) > 1]


def slug(axes: Axes) -> str:
    """Axes as the end of a file name.

    Example:
        >>> slug({"split": "0-4>5-9", "n_per_class": 20})
        '-split-0-4_5-9-n_per_class-20'
    """
    return "".join(f"-{name}-" + re.sub(r"[^\w.+-]+", "_", str(value)) for name, value in axes.items())


def headed(title: str, preset: str) -> str:
    """A title that says of a smoke run what its numbers are, wherever they are shown.

    Example:
        >>> headed("Maps", "smoke"), headed("Maps", "full")
        ('Maps (a check, not a result)', 'Maps')
    """
    return f"{title} ({CHECK})" if preset == "smoke" else title


def points(c: Contrast) -> str:
    """A difference with its interval, in points or in the unit of its measure.

    Example:
        >>> points(Contrast("a", "b", 0.012, 0.01, (0.005, 0.019), 0.01, 0.01, 0.5, 10, "helps", 0.01, 8))
        '+1.20 [0.50, 1.90]'
    """
    scale, pattern = c.measure.scale, c.measure.difference_pattern
    low, high = (number(scale * end, pattern) for end in c.ci95)
    return number(scale * c.difference, f"+{pattern}") + (f" [{low}, {high}]" if math.isfinite(c.ci95[0]) else "")


def compact(value: float) -> str:
    """Two significant digits, without an exponent where that is short.

    Example:
        >>> compact(0.01234), compact(31.6), compact(2500.0), compact(1.3e-7)
        ('0.012', '32', '2500', '1.3e−07')
    """
    if not 1e-4 <= abs(value) < 1e5:  # NaN too
        return number(value, ".2g")
    return number(value, f".{max(0, 1 - math.floor(math.log10(abs(value))))}f")
