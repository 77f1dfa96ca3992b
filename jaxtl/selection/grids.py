"""A grid that somebody has trained to the end: every setting on every draw of every cell, validated and tested."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.selection.choices import random_search, ranked

SETTING = ("alpha", "beta", "learning_rate")
FIGURES = ("validation_accuracy", "validation_loss", "test_accuracy", "tuning_seconds", "training_seconds")
DIGITS = 6  # of an accuracy: beyond, means in single precision tell equal ones apart, and are more than 1
ACCURACY, LOG_LOSS = "accuracy", "log-loss"
CHOOSERS = (ACCURACY, LOG_LOSS)


class Cell(NamedTuple):
    """A question that the grid was put to: n labelled examples of a data set, and a pretrained trunk."""

    data: str
    trunk: str
    n: int

    def __str__(self) -> str:
        return f"{self.data}, {self.trunk}, n = {self.n:,}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cells, settings [K], and what was measured of every setting on every draw of every cell, [cells, draws, K].

    Attributes:
        cells: in the order of the first axis.
        alpha: [K] rate towards the source on transferred parameters.
        beta: [K] rate towards 0 on new ones.
        learning_rate: [K].
        validation_accuracy, validation_loss: of a run on a part of the n examples, by the others of them.
        test_accuracy: of a run on all n.
        tuning_seconds, training_seconds: of the two runs.
    """

    cells: tuple[Cell, ...]
    alpha: np.ndarray
    beta: np.ndarray
    learning_rate: np.ndarray
    validation_accuracy: np.ndarray
    validation_loss: np.ndarray
    test_accuracy: np.ndarray
    tuning_seconds: np.ndarray
    training_seconds: np.ndarray

    @classmethod
    def of(cls, rows: Mapping[str, ArrayLike], where: object) -> Grid:
        """A grid from its runs in any order.

        Args:
            rows: columns of one length: data, trunk, n, seed, those of `SETTING` and those of `FIGURES`. A loss that is
                not finite is that of a run that diverged.
            where: they come from, for messages.

        Raises:
            InputError: no runs, a setting that is not there once on every draw of a cell, accuracies outside 0 to 1, or
                times that are no times.
        """
        columns = _sorted(rows, where)
        cells = [Cell(*one) for one in zip(*(columns[name].tolist() for name in Cell._fields), strict=True)]
        there = np.stack([columns[name] for name in SETTING], axis=1)
        settings = np.unique(there, axis=0)
        own = {cell: np.array([cell == one for one in cells]) for cell in dict.fromkeys(cells)}
        draws = max(len(np.unique(columns["seed"][runs])) for runs in own.values())
        for cell, runs in own.items():
            seeds = np.unique(columns["seed"][runs])
            whole = all(np.array_equal(there[runs & (columns["seed"] == seed)], settings) for seed in seeds)
            if not whole or len(seeds) != draws:
                what = f"{cell}: {runs.sum()} runs are not {len(settings)} settings on {draws} draws, each once"
                raise InputError(what, where=where, todo="every cell needs the same settings on as many draws")
        shape = (len(own), draws, len(settings))
        return cls(tuple(own), *settings.T, **{name: columns[name].reshape(shape) for name in FIGURES})

    def within(self, kept: np.ndarray) -> Grid:
        """The same of some cells.

        Args:
            kept: bool [cells].
        """
        cells = tuple(cell for cell, keep in zip(self.cells, kept, strict=True) if keep)
        return dataclasses.replace(self, cells=cells, **{name: getattr(self, name)[kept] for name in FIGURES})

    @property
    def clusters(self) -> dict[str, list[str]]:
        """What cells share, as `paired` takes it."""
        return {"data set": [cell.data for cell in self.cells], "trunk": [cell.trunk for cell in self.cells]}

    def scores(self, chooser: str) -> np.ndarray:
        """[cells, draws, K] by validation alone, larger is better: accuracy, of equals log-loss; or the reverse."""
        accuracy = self.validation_accuracy
        loss = np.where(np.isfinite(self.validation_loss), -self.validation_loss, -np.inf)
        return ranked(accuracy, loss) if chooser == ACCURACY else ranked(loss, accuracy)

    def chosen(self, allowed: np.ndarray, chooser: str, tried: int = 0, figure: str = "test_accuracy") -> np.ndarray:
        """What comes of choosing among the settings that are allowed, the mean over the draws of each cell.

        Args:
            allowed: bool [K].
            chooser: one of `CHOOSERS`.
            tried: how many of them at random are tried, the mean over all ways to draw them; 0: all.
            figure: which of `FIGURES` of the chosen setting.

        Returns:
            [cells].
        """
        worth = getattr(self, figure)[..., allowed]
        return random_search(self.scores(chooser)[..., allowed], worth, tried or int(allowed.sum())).mean(axis=1)


def _sorted(rows: Mapping[str, ArrayLike], where: object) -> dict[str, np.ndarray]:
    """The columns of `Grid.of`, by cell, draw and setting; refused where a figure cannot be."""
    columns = {name: np.asarray(rows[name]) for name in (*Cell._fields, "seed", *SETTING, *FIGURES)}
    if not len(columns["n"]):
        raise InputError("holds no runs", where=where)
    columns |= {name: columns[name].astype(np.float64) for name in (*SETTING, *FIGURES)}
    for name in ("validation_accuracy", "test_accuracy"):
        columns[name] = np.round(columns[name], DIGITS)
        if not ((columns[name] >= 0) & (columns[name] <= 1)).all():
            raise InputError(f"{name} outside 0 to 1, or missing", where=where, todo="give accuracies as fractions")
    for name in (*SETTING, "tuning_seconds", "training_seconds"):
        if not (np.isfinite(columns[name]) & (columns[name] >= 0)).all():
            raise InputError(f"{name} negative, or missing", where=where)
    order = np.lexsort([columns[name] for name in (*SETTING[::-1], "seed", *Cell._fields[::-1])])
    return {name: column[order] for name, column in columns.items()}
