"""Comparisons made again from stored runs: they choose and report what they should, and know what intervals cover."""

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.protocol.simulate import (
    Plan,
    Scores,
    calibrate,
    coarse,
    components,
    contradictory,
    designed,
    differences,
    losses_of_search,
    replicate_difference,
    scattered,
)

RNG = np.random.default_rng(0)


def scores(replicates=6, draws=10, trials=8, gain=0.0, noise=0.02):
    """Crossed runs whose settings differ by replicate, with noise of every run."""
    quality = 0.6 + gain + 0.03 * RNG.normal(size=(replicates, 1, trials))
    shape = (replicates, draws, trials)
    return Scores(quality + noise * RNG.normal(size=shape), quality + noise * RNG.normal(size=shape))


def test_a_replicate_chooses_on_its_tuning_draws_and_is_reported_on_others():
    validation, test = RNG.random((2, 2, 5, 4))
    ours, theirs = Scores(validation, test), Scores(validation[::-1], test[::-1])
    tried, report = np.array([0, 2, 3]), np.array([3, 4])
    chosen = max(tried, key=lambda k: validation[1, 0, k] + validation[1, 2, k])
    other = max(range(4), key=lambda k: validation[0, 1, k])
    both = (np.array([0, 2]), np.array([1])), (report, report[:1]), (tried, np.arange(4))
    found = replicate_difference(ours, theirs, 1, *both)
    assert found == pytest.approx(test[1, [3, 4], chosen].mean() - test[0, 3, other])


def test_a_comparison_has_as_many_differences_as_replicates_and_follows_its_seed():
    a, b = scores(), scores(gain=0.05)
    plan = Plan(7, 2, 4, 5)
    found = differences(a, b, plan, np.random.default_rng(1))
    assert found.shape == (7,)
    np.testing.assert_array_equal(found, differences(a, b, plan, np.random.default_rng(1)))
    assert plan.runs == 7 * (5 * 2 + 4)
    np.testing.assert_array_equal(differences(a, a, plan, np.random.default_rng(1)), 0)  # one method against itself
    for apart in ("choice", "draws"):
        assert np.ptp(differences(a, a, plan._replace(report=3), np.random.default_rng(1), apart)) > 0


def test_intervals_of_independent_replicates_hold_their_truth():
    a, b = scores(replicates=200), scores(replicates=200, gain=0.03)
    plan = Plan(8, 1, 4, 8)
    found = calibrate(b, a, plan, 800, seed=1)
    assert 0.93 <= found.coverage <= 0.97
    assert found.truth == pytest.approx(0.03, abs=0.01)
    assert sum(found.verdicts.values()) == 800
    null = calibrate(a, a, plan, 800, seed=1, apart="draws")
    assert (null.truth, 0.93 <= null.coverage <= 0.97) == (0.0, True)
    planted = calibrate(a, a, plan, 400, seed=1, apart="draws", planted=0.08)
    assert planted.verdicts["helps"] > 390


def test_components_are_those_that_were_put_in():
    """Replicates shift all differences, and the draw that chooses decides between two settings a step apart."""
    replicates, draws, step, shift, noise = 400, 10, 0.02, 0.015, 0.01
    lottery = RNG.random((replicates, draws, 1)) < 0.5  # of the draw that chooses
    validation = np.concatenate([lottery, ~lottery], axis=2).astype(float)
    own = shift * RNG.normal(size=(replicates, 1, 1)) + noise * RNG.normal(size=(replicates, draws, 1))
    a = Scores(validation, own + np.array([0.0, step]))
    b = Scores(np.zeros_like(validation), np.zeros_like(validation))
    assert components(a, b) == pytest.approx((shift, step / 2, noise), rel=0.1)  # ± half a step


def test_more_than_is_stored_is_refused():
    a = scores()
    for plan, apart in (
        (Plan(4, 5, 6, 8), ""),
        (Plan(4, 3, 5, 8), "choice"),
        (Plan(4, 1, 5, 8), "draws"),
        (Plan(4, 1, 1, 9), ""),
    ):
        with pytest.raises(InputError, match="simulated comparison"):
            differences(a, a, plan, RNG, apart)


def test_what_contradicts():
    assert contradictory(["helps"] * 3 + ["no effect beyond ±1"] + ["undecided"] * 6) == 0.1
    assert contradictory(["undecided"] * 5) == 0.0


def test_searches_lose_nothing_where_all_is_equal_and_less_with_more_runs():
    edge, draws = 16, 6
    places = (np.arange(edge) + 0.5) / edge
    surface = (0.7 - 0.2 * ((places[:, None] - 0.4) ** 2 + (places - 0.7) ** 2)).ravel()
    noisy = surface + 0.005 * RNG.normal(size=(draws, edge**2))
    flat = np.full((draws, edge**2), 0.5)
    assert set(losses_of_search(8, edge, flat, flat, 5, RNG).values()) == {0.0}
    few, many = (losses_of_search(count, edge, noisy, noisy, 60, np.random.default_rng(1)) for count in (4, 32))
    assert list(few) == ["grid", "random", "low discrepancy", "halving over draws"]
    assert all(few[name] > many[name] >= 0 for name in few if name != "grid")  # 4 cells may lie well by luck
    assert few["low discrepancy"] < few["random"]


@pytest.mark.parametrize("way", [coarse, scattered, designed])
@pytest.mark.parametrize("count", [4, 8, 32])
def test_a_search_tries_as_many_different_cells_as_it_may(way, count):
    cells = way(count, 16, np.random.default_rng(0))
    assert len({*cells.tolist()}) == count
    assert (cells.min() >= 0, cells.max() < 256) == (True, True)
