"""The experiment on linear models: figures against scikit-learn, choices against the curves they are read from."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge

from experiments import ridge_regression as experiment
from experiments.ridge_regression import FEATURES, GROUPS, SIZES, SUBGRADIENT, Config, Problem
from jaxtl.errors import InputError
from jaxtl.selection.linear import CRITERIA, group_lasso_violation, judge_ridge

TINY = Config(
    rates=(0.03, 1.0),
    path_points=4,
    steps=1500,
    criteria_points=15,
    splits=3,
    train_sizes=(20, 60),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    experiment.main(TINY, workdir)
    return workdir


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished / "summary.json").read_text())


@pytest.fixture(scope="module")
def problem():
    return Problem.of(*experiment.diabetes())


def test_the_textbook_case_is_ridge_regression_and_has_the_known_slope(summary):
    x, y = experiment.textbook_data()
    for name, intercept in (("no_intercept", False), ("intercept", True)):
        theirs = Ridge(alpha=0.1, fit_intercept=intercept).fit(x, y[:, 0])
        for slope, constant in summary["textbook"][name].values():
            assert slope == pytest.approx(theirs.coef_[0], abs=2e-6)
            assert constant is None if not intercept else constant == pytest.approx(theirs.intercept_, abs=2e-6)
    assert summary["textbook"]["no_intercept"]["descended"][0] == pytest.approx(2.116148, abs=1e-6)


def test_paths_and_zeros_are_those_of_other_solvers(summary, problem):
    lams = summary["paths"]["lambda"]
    for k, lam in enumerate(lams):
        solvers = {
            "L2": Ridge(alpha=len(problem.y) * lam, fit_intercept=False),
            "L1": Lasso(alpha=lam, fit_intercept=False, tol=1e-12, max_iter=100_000),
            "elastic net": ElasticNet(alpha=lam, l1_ratio=0.5, fit_intercept=False, tol=1e-12, max_iter=100_000),
        }
        for name, solver in solvers.items():
            ours, theirs = summary["paths"][name]["coefficients"][k], solver.fit(problem.x, problem.y).coef_
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
            assert summary["paths"][name]["zeros"][0][k] == np.sum(theirs == 0)
    assert max(summary["paths"][name]["gap"] for name in ("L2", "L1", "elastic net", "group lasso")) < 1e-4


def test_the_group_lasso_takes_whole_groups_and_a_subgradient_takes_nothing(summary):
    coefficients = np.array(summary["paths"]["group lasso"]["coefficients"])
    weights, groups = summary["paths"]["group lasso"]["zeros"]
    for row, gone, gone_groups in zip(coefficients, weights, groups, strict=True):
        zero = dict(zip(FEATURES, row == 0, strict=True))
        whole = [names for names in GROUPS.values() if all(zero[name] for name in names)]
        assert gone == sum(map(len, whole))
        assert gone_groups == len(whole)
    assert (groups[0], groups[-1]) == (0, 4)
    assert not np.any(summary["paths"][SUBGRADIENT]["zeros"])


def test_a_group_lasso_that_is_not_at_its_minimum_is_found_out(problem, summary):
    lams = np.array(summary["paths"]["lambda"])
    coefficients = np.array(summary["paths"]["group lasso"]["coefficients"])

    def violation(lams, coefficients):
        return group_lasso_violation(problem.x, problem.y, lams, coefficients, SIZES)

    assert violation(lams, coefficients) < 1e-4
    assert violation(lams, 1.05 * coefficients) > 1e-3
    assert violation(lams, np.zeros_like(coefficients)) > 0.1
    assert violation(1.1 * lams, coefficients) > 1e-3


def test_criteria_choose_the_minimum_of_their_curve_and_the_training_error_the_smallest_rate(summary):
    lams = summary["criteria"]["lambda"]
    for name in ("training error", *CRITERIA):
        found = summary["criteria"][name]
        assert found["lambda"] == lams[int(np.argmin(found["curve"]))]
    assert summary["criteria"]["training error"]["lambda"] == lams[0]
    assert summary["criteria"]["BIC"]["df"] < summary["criteria"]["AIC"]["df"]


def test_splits_are_judged_on_patients_that_chose_nothing(summary):
    x, y = experiment.diabetes()
    changed, lams = y.copy(), np.geomspace(1e-5, 100.0, 15)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:60], order[60:]
    changed[test] = 100 + np.arange(len(test)) % 7
    one, other = (judge_ridge(x, targets, train, test, lams) for targets in (y, changed))
    for name in CRITERIA:
        assert one[name][1] == other[name][1]
        assert one[name][0] <= one["best λ"][0]
    theirs = LinearRegression().fit(x[train], y[train]).score(x[test], y[test])
    assert one["least squares"][0] == pytest.approx(theirs, abs=1e-9)
    found = summary["splits"]["60"]
    assert found["GCV"]["minus_loo"] == pytest.approx(found["GCV"]["r2_mean"] - found["LOO"]["r2_mean"])


def test_the_report_is_complete(finished):
    text = (finished / "summary.md").read_text()
    for heading in ("The textbook case", "Coefficients along λ", "Criteria along λ", "Which criterion chooses well?"):
        assert f"## {heading}" in text
    for name in ("paths", "criteria"):
        assert f"](plots/{name}.png)" in text
        assert (finished / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": (1.0, 0.1)}, r"--config.rates: .* is no range"),
        ({"train_sizes": (50, 5)}, "--config.train_sizes: 5 is less than 12"),
        ({"train_sizes": (442,)}, "--config.train_sizes: 442 is more than 432"),
        ({"l1_ratio": 2.0}, r"--config.l1_ratio: 2.0 is not in \(0, 1\]"),
        ({"textbook_lambda": -1.0}, "--config.textbook_lambda: -1.0 is less than 0"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        experiment.main(dataclasses.replace(TINY, **changes), tmp_path)
    assert not list(tmp_path.iterdir())
