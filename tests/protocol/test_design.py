import math

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.protocol import Method, Range, trial_settings
from jaxtl.protocol.design import edges_of

LEARNING_RATES, PULLS = Range(0.004, 0.1), Range(0.03, 30.0)


@pytest.mark.parametrize("seed", range(4))
def test_every_hyperparameter_takes_a_value_in_each_part_of_its_range(seed):
    search = {"learning_rate": LEARNING_RATES, "pull": PULLS, "ratio": Range(0.01, 1.0)}
    settings = trial_settings(search, 8, seed)
    for name, values in search.items():
        shifts = 8 * np.sort([values.quantile(setting[name]) for setting in settings]) - np.arange(8)
        np.testing.assert_allclose(shifts, shifts[0], atol=1e-9)
        assert (shifts[0] == pytest.approx(0.5)) == (seed == 0)
        assert 0 <= shifts[0] < 1
    assert trial_settings(search, 8, seed) == settings
    assert trial_settings(search, 8, seed + 1) != settings
    assert trial_settings({}, 8) == [{}]


@pytest.mark.parametrize("trials", [8, 12, 16])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_discrepancy_is_about_that_of_scrambled_sobol_points_and_lower_with_more_columns(trials, count):
    from scipy.stats import qmc

    unit, ours, theirs, scattered = Range(1.0, math.e), [], [], []
    for seed in range(1, 13):
        settings = trial_settings(dict.fromkeys(["learning_rate", *"abc"[: count - 1]], unit), trials, seed)
        ours.append(qmc.discrepancy(np.log([list(setting.values()) for setting in settings])))
        theirs.append(qmc.discrepancy(qmc.Sobol(count, rng=seed).random(16)[:trials]))
        scattered.append(qmc.discrepancy(np.random.default_rng(seed).random((trials, count))))
    assert np.mean(ours) < (1.25 if count < 4 else 1.0) * np.mean(theirs)
    assert np.mean(ours) < 0.6 * np.mean(scattered)


@pytest.mark.parametrize("seed", [0, 5])
def test_methods_with_as_many_hyperparameters_try_the_same_quantiles(seed):
    one = trial_settings({"learning_rate": LEARNING_RATES, "pull": PULLS}, 8, seed)
    other = trial_settings({"ratio": Range(0.1, 1.0), "learning_rate": Range(1.0, 2.0)}, 8, seed)
    more = trial_settings({"zeal": PULLS, "learning_rate": LEARNING_RATES, "pull": Range(1.0, 7.0)}, 8, seed)
    rates = [LEARNING_RATES.quantile(s["learning_rate"]) for s in one]
    pulls = [PULLS.quantile(s["pull"]) for s in one]
    assert rates == sorted(rates)
    np.testing.assert_allclose([Range(1.0, 2.0).quantile(s["learning_rate"]) for s in other], rates)
    np.testing.assert_allclose([Range(0.1, 1.0).quantile(s["ratio"]) for s in other], pulls)
    np.testing.assert_allclose([Range(1.0, 7.0).quantile(s["pull"]) for s in more], pulls)


@pytest.mark.parametrize(
    ("trials", "count", "most"), [(6, 3, 0.1), (8, 4, 0.1), (8, 5, 0.1), (12, 5, 0.1), (20, 6, 0.1)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_two_hyperparameters_of_a_method_rise_together(trials, count, most, seed):
    search = {"learning_rate": LEARNING_RATES} | dict.fromkeys([f"pull/{k}" for k in range(count - 1)], PULLS)
    settings = trial_settings(search, trials, seed)
    logs = np.log([[setting[name] for name in search] for setting in settings])
    assert np.abs(np.corrcoef(logs.T) - np.eye(count)).max() < most


def test_settings_are_spread_out():
    settings = trial_settings({"learning_rate": LEARNING_RATES, "pull": PULLS, "ratio": PULLS}, 8)
    places = np.array(
        [[LEARNING_RATES.quantile(s["learning_rate"]), *map(PULLS.quantile, (s["pull"], s["ratio"]))] for s in settings]
    )
    gaps = np.linalg.norm(8 * (places[:, None] - places), axis=2) + 99 * np.eye(8)
    assert gaps.min() > 3  # of 8 rows at random the closest two are 1.4 to 3 apart
    for name in range(3):  # and both halves of one are tried with both halves of another
        for other in range(name):
            assert len({(*(row[[name, other]] > 0.5),) for row in places}) == 4


def test_one_value_is_fixed_and_not_searched():
    fixed, search = Range(0.5), {"learning_rate": LEARNING_RATES, "pull": PULLS}
    assert fixed.at(0.1) == fixed.at(0.9) == fixed.low == fixed.high
    assert fixed.quantile(0.5) == 0.5
    settings = trial_settings(search | {"pull/new": Range(0.5, 0.5)}, 8)
    assert settings == [setting | {"pull/new": 0.5} for setting in trial_settings(search, 8)]
    assert {setting["learning_rate"] for setting in trial_settings(search | {"learning_rate": fixed}, 8)} == {0.5}
    assert len({setting["pull"] for setting in trial_settings(search | {"learning_rate": fixed}, 8)}) == 8
    assert trial_settings({"learning_rate": fixed}, 8) == [{"learning_rate": 0.5}]
    assert edges_of(settings, 0) == ("learning_rate<",)
    assert edges_of([{"pull": 0.5}], 0) == ()


def test_range_is_logarithmic():
    assert PULLS.at(0.0) == 0.03
    assert PULLS.at(1.0) == pytest.approx(30.0)
    assert PULLS.at(0.5) == pytest.approx(math.sqrt(0.03 * 30.0))
    assert PULLS.quantile(PULLS.at(0.3)) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "bounds", [(0.0, 1.0), (0.0,), (2.0, 1.0), (1.0, math.inf), (math.inf,), (math.nan, 1.0), (1.0, math.nan)]
)
def test_wrong_ranges_are_refused(bounds):
    with pytest.raises(InputError, match="Range"):
        Range(*bounds)


def test_names_that_are_no_file_or_column_names_are_refused():
    with pytest.raises(InputError, match=r"\.\./a"):
        Method("../a", {}, print)
    with pytest.raises(InputError, match="search of a: the name 'seed'"):
        Method("a", {"seed": PULLS}, print)
