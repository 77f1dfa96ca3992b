import math

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.protocol import Method, Range, trial_settings

LEARNING_RATES, PULLS = Range(0.004, 0.1), Range(0.03, 30.0)


def test_every_hyperparameter_takes_each_mid_quantile_once():
    search = {"learning_rate": LEARNING_RATES, "pull": PULLS, "ratio": Range(0.01, 1.0)}
    settings = trial_settings(search, 8)
    for name, values in search.items():
        quantiles = np.log([s[name] / values.low for s in settings]) / np.log(values.high / values.low)
        np.testing.assert_allclose(np.sort(quantiles), (np.arange(8) + 0.5) / 8)
    assert trial_settings(search, 8) == settings
    assert trial_settings(search, 8, seed=1) != settings
    assert trial_settings({}, 8) == [{}]


def test_quantiles_depend_on_the_name_alone():
    one = trial_settings({"learning_rate": LEARNING_RATES, "pull": PULLS}, 8)
    other = trial_settings({"ratio": Range(0.1, 1.0), "pull": Range(1.0, 7.0), "learning_rate": Range(1.0, 2.0)}, 8)
    for name, (ours, theirs) in {
        "learning_rate": (LEARNING_RATES, Range(1.0, 2.0)),
        "pull": (PULLS, Range(1.0, 7.0)),
    }.items():
        np.testing.assert_allclose(
            [ours.quantile(s[name]) for s in one], [theirs.quantile(s[name]) for s in other], atol=1e-12
        )
    for_ratio = [Range(0.1, 1.0).quantile(s["ratio"]) for s in other]
    assert not np.allclose(for_ratio, [PULLS.quantile(s["pull"]) for s in one])
    for_rate = [PULLS.quantile(s["rate"]) for s in trial_settings({"rate": PULLS}, 8)]
    assert not np.allclose(for_rate, [PULLS.quantile(s["pull"]) for s in one])
    rates = [s["learning_rate"] for s in one]
    assert rates == sorted(rates)


@pytest.mark.parametrize("name", ["pull", "pull_new", "pull_transferred", "ratio", "source_weight"])
def test_no_other_hyperparameter_rises_with_the_learning_rate(name):
    settings = trial_settings({"learning_rate": LEARNING_RATES, name: PULLS}, 8)
    logs = np.log([[s["learning_rate"], s[name]] for s in settings])
    assert abs(np.corrcoef(logs.T)[0, 1]) < 0.1


def test_range_is_logarithmic():
    assert PULLS.at(0.0) == 0.03
    assert PULLS.at(1.0) == pytest.approx(30.0)
    assert PULLS.at(0.5) == pytest.approx(math.sqrt(0.03 * 30.0))
    assert PULLS.quantile(PULLS.at(0.3)) == pytest.approx(0.3)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_wrong_ranges_are_refused(bounds):
    with pytest.raises(InputError, match="Range"):
        Range(*bounds)


def test_names_that_are_no_file_or_column_names_are_refused():
    with pytest.raises(InputError, match=r"\.\./a"):
        Method("../a", {}, print)
    with pytest.raises(InputError, match="search of a: the name 'seed'"):
        Method("a", {"seed": PULLS}, print)
