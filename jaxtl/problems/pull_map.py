"""Two pulls at once: every pair of them on the same draws, and what every criterion says of each."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

from jaxtl.problems.criteria import Criteria
from jaxtl.protocol import Draw, Run, RunStore, Setting, Trainer
from jaxtl.writers import Progress


class PullMap(NamedTuple):
    """The runs of a method over a square of pulls.

    Attributes:
        method: its name.
        axes: how a setting calls the pull that goes down the map, and the one that goes across.
        tuning, report: [draws][K] runs, the weakest pulls first; the first have a validation score alone.
    """

    method: str
    axes: tuple[str, str]
    tuning: list[list[Run]]
    report: list[list[Run]]

    @property
    def learning_rate(self) -> float:
        """That of all runs."""
        return self.report[0][0].setting["learning_rate"]

    @property
    def pulls(self) -> np.ndarray:
        """[K, 2]: down and across."""
        return np.array([[run.setting[axis] for axis in self.axes] for run in self.report[0]])

    @property
    def side(self) -> np.ndarray:
        """[√K], the pulls on each side of the square."""
        return np.unique(self.pulls)

    @property
    def test(self) -> np.ndarray:
        """[report draws, K] accuracies, 0 for a run that diverged."""
        return self.scores("test")

    def scores(self, column: str, sign: int = 1) -> np.ndarray:
        """[report draws, K] of "validation" or of a metric, times a sign; −inf where there is none."""

        def score(run: Run) -> float:
            value = run.validation if column == "validation" else run.metrics.get(column, np.nan)
            return sign * value if np.isfinite(value) else -np.inf

        return np.array([[score(run) for run in runs] for runs in self.report])

    @property
    def tuning_scores(self) -> np.ndarray:
        """[K] mean validation score on the tuning draws."""
        return np.mean([[run.validation for run in runs] for runs in self.tuning], axis=0)

    def along_diagonal(self, metric: str) -> np.ndarray:
        """[√K] mean over the report draws of a metric where both pulls are equal; NaN where a run has diverged."""
        diagonal = np.flatnonzero(self.pulls[:, 0] == self.pulls[:, 1])
        return np.mean([[runs[k].metrics.get(metric, np.nan) for k in diagonal] for runs in self.report], axis=0)


def map_out(
    trainer: Trainer,
    method: str,
    pulls: np.ndarray,
    axes: tuple[str, str],
    learning_rate: float,
    criteria: Criteria,
    store: RunStore,
) -> PullMap:
    """Train every pair of pulls on every draw, all of a draw in one sweep; runs that the store has are not made again.

    Args:
        trainer: of a few-shot problem, whose config has the fields of `Draws`.
        method: one of its recipes.
        pulls: [√K] of each side, ascending.
        axes: how a setting calls them, down and across.
        learning_rate: of all runs.
        criteria: what is measured on the report draws; the tuning draws are validated alone.
        store: keeps the runs.

    Raises:
        Interrupted: a stop was requested; finished draws are kept.
    """
    config = criteria.problem.config
    settings: list[Setting] = [
        {"learning_rate": learning_rate, axes[0]: float(down), axes[1]: float(across)}
        for down, across in itertools.product(pulls, repeat=2)
    ]
    tuning, report = [], []
    seeds = [*config.tuning_seeds, *config.report_seeds]
    with Progress(len(seeds), f"{method}, n = {criteria.problem.n}: {len(settings)} pairs of pulls a draw") as progress:
        for draw in map(Draw, seeds):
            if draw.seed in config.tuning_seeds:
                tuning.append(trainer.kept(store, method, settings, draw))
            else:
                measure = functools.partial(criteria.of_all, trainer, method, draw)
                report.append(trainer.kept(store, method, settings, draw, stage="report", measure=measure))
            progress.advance()
    return PullMap(method, axes, tuning, report)
