"""Grids of settings: put together from runs in any order, chosen among by validation alone."""

import itertools

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.selection import Grid
from jaxtl.selection.grids import ACCURACY, FIGURES, LOG_LOSS

CELLS = (("cats", "small", 10), ("cats", "small", 100), ("dogs", "large", 10))
ALPHA, BETA, RATES, SEEDS = (0.0, 0.1), (0.0, 0.1), (0.1, 1.0), (5, 3)
RNG = np.random.default_rng(0)


def rows(**replaced):
    """Runs of the grid in an order of chance."""
    runs = list(itertools.product(CELLS, SEEDS, ALPHA, BETA, RATES))
    RNG.shuffle(runs)
    columns = {name: [cell[k] for cell, *_ in runs] for k, name in enumerate(("data", "trunk", "n"))}
    columns |= {name: [run[k + 1] for run in runs] for k, name in enumerate(("seed", "alpha", "beta", "learning_rate"))}
    return columns | {name: RNG.uniform(size=len(runs)) for name in FIGURES} | replaced


def test_every_figure_is_that_of_its_cell_draw_and_setting():
    columns = rows()
    grid = Grid.of(columns, "here")
    assert [tuple(cell) for cell in grid.cells] == list(CELLS)
    for k, value in enumerate(columns["test_accuracy"]):
        cell = [tuple(one) for one in grid.cells].index(tuple(columns[name][k] for name in ("data", "trunk", "n")))
        (setting,) = np.flatnonzero(
            (grid.alpha == columns["alpha"][k])
            & (grid.beta == columns["beta"][k])
            & (grid.learning_rate == columns["learning_rate"][k])
        )
        found = grid.test_accuracy[cell, sorted(SEEDS).index(columns["seed"][k]), setting]
        assert found == pytest.approx(value, abs=1e-6)
    assert grid.clusters == {"data set": ["cats", "cats", "dogs"], "trunk": ["small", "small", "large"]}
    few = grid.within(np.array([True, False, True]))
    assert few.cells == (grid.cells[0], grid.cells[2])
    np.testing.assert_array_equal(few.tuning_seconds, grid.tuning_seconds[[0, 2]])


def test_test_figures_have_no_part_in_a_choice():
    columns = rows()
    grid, other = Grid.of(columns, "here"), Grid.of(columns | {"test_accuracy": rows()["test_accuracy"]}, "here")
    for chooser in (ACCURACY, LOG_LOSS):
        np.testing.assert_array_equal(grid.scores(chooser), other.scores(chooser))


@pytest.mark.parametrize(("chooser", "figure"), [(ACCURACY, "validation_accuracy"), (LOG_LOSS, "validation_loss")])
def test_each_chooser_goes_by_its_own_figure_first(chooser, figure):
    grid = Grid.of(rows(), "here")
    values = getattr(grid, figure)
    best = values.argmax(axis=-1) if chooser == ACCURACY else values.argmin(axis=-1)
    np.testing.assert_array_equal(grid.scores(chooser).argmax(axis=-1), best)


def test_of_equal_accuracies_the_lower_loss_is_chosen_and_rounding_is_no_difference():
    columns = rows()
    columns["validation_accuracy"] = np.full(len(columns["n"]), 0.55) + 6e-8 * RNG.normal(size=len(columns["n"]))
    grid = Grid.of(columns, "here")
    everything = np.ones(8, bool)
    best = np.take_along_axis(grid.test_accuracy, grid.validation_loss.argmin(axis=-1)[..., None], axis=-1)
    np.testing.assert_allclose(grid.chosen(everything, ACCURACY), best.mean(axis=(1, 2)))


def test_what_diverged_is_chosen_last_by_its_loss_and_among_itself_by_its_accuracy():
    columns = rows()
    columns["validation_loss"] = np.where(np.array(columns["alpha"]) > 0, np.nan, columns["validation_loss"])
    grid = Grid.of(columns, "here")
    scores, diverged = grid.scores(LOG_LOSS), grid.alpha > 0
    assert (scores[..., diverged].max(axis=-1) < scores[..., ~diverged].min(axis=-1)).all()
    order = np.argsort(scores[..., diverged], axis=-1)
    np.testing.assert_array_equal(order, np.argsort(grid.validation_accuracy[..., diverged], axis=-1))


def test_a_choice_is_among_what_is_allowed_and_a_search_between_its_worst_and_best():
    grid = Grid.of(rows(), "here")
    equal = grid.alpha == grid.beta
    score = np.where(equal, grid.scores(ACCURACY), -1)
    picked = score.argmax(axis=-1)
    expected = np.take_along_axis(grid.training_seconds, picked[..., None], axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(grid.chosen(equal, ACCURACY, figure="training_seconds"), expected)
    one = grid.chosen(equal, ACCURACY, 1)
    np.testing.assert_allclose(one, grid.test_accuracy[..., equal].mean(axis=(1, 2)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"validation_accuracy": 55.0}, "validation_accuracy outside 0 to 1"),
        ({"test_accuracy": np.nan}, "test_accuracy outside 0 to 1"),
        ({"alpha": -1.0}, "alpha negative"),
        ({"tuning_seconds": np.inf}, "tuning_seconds negative, or missing"),
        ({"beta": 0.7}, "16 runs are not 9 settings on 2 draws"),
        ({"seed": 9}, "runs are not 8 settings on 3 draws"),
        ({"n": 12}, "runs are not 8 settings on 2 draws"),
    ],
)
def test_a_grid_with_a_hole_or_a_wrong_figure_is_refused(change, says):
    columns = rows()
    for name, value in change.items():
        columns[name] = [value, *columns[name][1:]]
    with pytest.raises(InputError) as refused:
        Grid.of(columns, "grid.npz")
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 2


def test_no_runs_are_refused():
    with pytest.raises(InputError, match="holds no runs"):
        Grid.of({name: [] for name in rows()}, "grid.npz")
