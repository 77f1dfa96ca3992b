"""The experiment on a grid of others: planted effects are found, test figures choose nothing, nonsense is refused."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import scipy.stats

from experiments import published_grid as experiment
from experiments.published_grid import ALL, FREE, QUESTIONS, RULES, Config, allowed, descended, difference, made
from jaxtl.errors import InputError
from jaxtl.protocol import clustered_error
from jaxtl.report.plots.cells import against_size
from jaxtl.report.plots.style import styled
from jaxtl.selection import Grid

RATES = (0.0, 0.001, 0.1)
CELLS = [(data, trunk, n) for data in ("a", "b", "c") for trunk in ("x", "y", "z") for n in (100, 20_000)]


def grid_of(worth, noise=0.0):
    """Test accuracy worth(α, β, learning rate, cell), which validation sees with noise."""
    rng, rows = np.random.default_rng(0), []
    for cell, seed, a, b, rate in itertools.product(CELLS, range(2), RATES, RATES, (0.1, 1.0)):
        accuracy = worth(a, b, rate, cell)
        seen = np.clip(accuracy + noise * rng.normal(), 0, 1)
        rows.append((*cell, seed, a, b, rate, seen, 1 - seen, accuracy, 1800.0, 3600.0))
    names = ("data", "trunk", "n", "seed", "alpha", "beta", "learning_rate", "validation_accuracy", "validation_loss")
    names += ("test_accuracy", "tuning_seconds", "training_seconds")
    return Grid.of(dict(zip(names, zip(*rows, strict=True), strict=True)), "made up")


def planted(a, b, rate, cell):
    """Two points for β > α, one for α > β on trunk x, and the larger learning rate is right."""
    return 0.8 + 0.02 * (b > a) + 0.01 * (a > b) * (cell[1] == "x") - 0.1 * (rate < 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(Config(preset="smoke", data="digits", searches=(4, 8)), workdir)
    return workdir


def test_every_contrast_is_the_effect_that_was_planted():
    grid = grid_of(planted)
    on_x = np.array([0.01 * (cell.trunk == "x") for cell in grid.cells])
    expected = {
        ("harder on new", "equal rates"): 0.02,
        ("harder on transferred", "equal rates"): on_x,
        ("harder on new", "harder on transferred"): 0.02 - on_x,
        ("equal rates", FREE): 0.0,
        ("transferred alone", FREE): on_x,
        ("new alone", FREE): 0.02,
        (ALL, FREE): 0.02,
    }
    assert set(expected) == set(QUESTIONS)
    for pair, effect in expected.items():
        np.testing.assert_allclose(difference(grid, *pair), effect, atol=1e-12)


def test_verdicts_know_what_cells_share():
    grid = grid_of(planted)
    _, figures = experiment.answers(grid)
    found = {(c["a"], c["b"]): c for c in figures["contrasts"]}
    sure, shared = found["harder on new", "equal rates"], found["harder on transferred", "equal rates"]
    assert (sure["verdict"], sure["n"]) == ("helps", len(CELLS))
    values = difference(grid, "harder on transferred", "equal rates")
    half = scipy.stats.t.ppf(0.975, 2) * clustered_error(values, grid.clusters).error
    np.testing.assert_allclose(shared["ci95"], (values.mean() - half, values.mean() + half), rtol=1e-9)
    assert scipy.stats.ttest_1samp(values, 0).pvalue < 0.01
    assert shared["verdict"] == "undecided"  # an effect on one trunk of three says nothing of other trunks


def test_with_as_many_settings_a_rule_has_no_more_luck_than_the_other():
    grid = grid_of(lambda a, b, rate, cell: 0.7, noise=0.02)  # nothing matters: validation sees luck alone
    lucky = dataclasses.replace(grid, test_accuracy=grid.validation_accuracy)
    assert difference(lucky, ALL, FREE).mean() > 0.02
    same = [difference(lucky, a, b, budget=True).mean() for a, b in QUESTIONS]
    np.testing.assert_allclose(same, 0, atol=0.01)
    np.testing.assert_array_equal(difference(grid, ALL, FREE), 0)


def test_rules_hold_each_other():
    grid = grid_of(planted)
    masks = {name: allowed(grid, name) for name in RULES}
    assert [int(mask.sum()) for mask in masks.values()] == [2, 6, 12, 12, 6, 6, 18]
    assert (masks["equal rates"] == masks["harder on new"] & masks["harder on transferred"]).all()
    assert (masks[FREE] == masks["transferred alone"] & masks["new alone"]).all()


def test_a_search_loses_what_its_order_statistics_say_and_costs_its_runs():
    grid = grid_of(lambda a, b, rate, cell: 0.5 + 0.4 * ((a, b, rate) == (0.1, 0.0, 1.0)))
    _, figures = experiment.searches(grid, [3, 9])
    for k in (3, 9):
        np.testing.assert_allclose(figures["searches"][f"{k} at random"]["lost"]["accuracy"], 0.4 * (1 - k / 18))
        assert figures["searches"][f"{k} at random"]["hours"] == pytest.approx(k / 2 + 1)
    assert figures["searches"]["all 18"]["hours"] == pytest.approx(10)


def test_a_descent_in_closed_form_is_the_descent_by_steps():
    rng = np.random.default_rng(0)
    x, y, anchor, pull = (
        rng.normal(size=(4, 6)),
        rng.normal(size=(4, 2)),
        rng.normal(size=(6, 2)),
        np.array([0.1, 0] * 3),
    )
    found = descended(x, y, anchor, pull, [0.5, 1.0])
    for rate, weights in zip((0.5, 1.0), found, strict=True):
        step, walked = rate / np.linalg.eigvalsh(x.T @ x / 4 + np.diag(pull))[-1], anchor
        for _ in range(experiment.STEPS):
            walked = walked - step * (x.T @ (x @ walked - y) / 4 + pull[:, None] * (walked - anchor))
        np.testing.assert_allclose(weights, walked, atol=1e-9)


def test_a_run_without_the_files_says_what_stands_in_and_writes_its_page(finished):
    text, summary = (finished / "summary.md").read_text(), json.loads((finished / "summary.json").read_text())
    assert experiment.STANDS_IN in text
    assert len(summary["contrasts"]) == len(QUESTIONS) + 1
    assert len(summary["cells"]) == len(made().cells) == 8
    for picture in ("contrasts", "cells"):
        assert (finished / f"plots/{picture}.png").stat().st_size > 10_000
    grid = made()
    assert 0.6 < grid.chosen(allowed(grid, ALL), "accuracy").mean() < 1.0


def test_a_picture_has_a_mark_for_every_cell():
    values = np.array([0.2, -0.004, 0.0])
    with styled():
        panel = against_size("title", "examples", [40, 100, 1000], ["x", "y", "x"], {"a − b": values}).axes[0]
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in panel.lines[1:]]
    np.testing.assert_allclose(marks, [(40, 20.0), (100, -0.4), (1000, 0.0)])
    assert [line.get_marker() for line in panel.lines[1:]] == ["o", "s", "o"]


def test_what_cannot_be_is_told_before_the_work(tmp_path):
    with pytest.raises(InputError, match=r"--config\.searches: 28 is more than the 27 settings"):
        experiment.main(Config(data="digits", searches=(4, 28)), tmp_path)
    with pytest.raises(InputError, match=r"no such file or directory\n.*data-emphasized-ELBo"):
        experiment.main(Config(data=str(tmp_path / "nowhere")), tmp_path)
