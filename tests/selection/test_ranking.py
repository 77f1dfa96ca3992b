"""What a ranking is worth: Kendall's τ of SciPy, regret, and an interval over targets and draws."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.errors import InputError
from jaxtl.selection import kendall, rank_and_choose, regret, resampled_interval


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 20), kinds=st.integers(2, 30))
def test_tau_is_that_of_scipy_with_ties_and_infinities(seed, n, kinds):
    rng = np.random.default_rng(seed)
    scores, worth = rng.integers(kinds, size=n).astype(float), rng.integers(kinds, size=n) / kinds
    scores[scores == kinds - 1] = np.inf
    theirs = scipy.stats.kendalltau(scores, worth).statistic
    assert kendall(scores, worth) == pytest.approx(0 if np.isnan(theirs) else theirs, abs=1e-12)
    worth = rng.permutation(n) / n  # what equals weigh there depends on their order
    ranks = np.argsort(np.argsort(-worth))
    theirs = scipy.stats.weightedtau(scores, worth, rank=ranks).statistic
    assert kendall(scores, worth, weighted=True) == pytest.approx(0 if np.isnan(theirs) else theirs, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), weighted=st.booleans())
def test_tau_is_bounded_and_knows_ranks_only(seed, weighted):
    rng = np.random.default_rng(seed)
    scores, worth, order = rng.normal(size=9), rng.integers(5, size=9) / 5, rng.permutation(9)
    found = kendall(scores, worth, weighted)
    assert -1 - 1e-12 <= found <= 1 + 1e-12
    assert kendall(np.exp(scores), worth, weighted) == pytest.approx(found)
    assert kendall(scores[order], worth[order], weighted) == pytest.approx(found)
    assert kendall(-scores, worth, weighted) == pytest.approx(-found)
    if np.ptp(worth):
        assert kendall(worth, worth, weighted) == pytest.approx(1)


def test_a_mistake_among_the_best_weighs_more():
    worth = np.arange(6) / 6
    among_best, among_worst = worth[[0, 1, 2, 3, 5, 4]], worth[[1, 0, 2, 3, 4, 5]]
    assert kendall(among_best, worth) == kendall(among_worst, worth)
    assert kendall(among_best, worth, weighted=True) < kendall(among_worst, worth, weighted=True)


def test_every_cell_chooses_for_itself():
    rng = np.random.default_rng(0)
    scores, worth = rng.normal(size=(2, 3, 4)), rng.random((2, 3, 4))
    scores[1, 1] = [-np.inf, 0.0, -np.inf, -np.inf]
    found = rank_and_choose(scores, worth)
    for t in range(2):
        np.testing.assert_array_equal(found.regret[t], regret(scores[t], worth[t]))
        for d in range(3):
            assert found.chosen[t, d] == worth[t, d, scores[t, d].argmax()]
            assert found.tau[t, d] == kendall(scores[t, d], worth[t, d])
            assert found.weighted[t, d] == kendall(scores[t, d], worth[t, d], weighted=True)
    assert found.chosen[1, 1] == worth[1, 1, 1]


def test_the_interval_is_wider_where_targets_differ_than_where_draws_do():
    rng = np.random.default_rng(0)
    draws, targets = rng.normal(size=(8, 8)), np.repeat(rng.normal(size=(8, 1)), 8, axis=1)
    widths = [np.diff(resampled_interval(values))[0] for values in (draws, targets)]
    assert widths[0] < widths[1]
    alone = targets[:, 0].std() / np.sqrt(8)
    assert widths[1] == pytest.approx(2 * 1.96 * alone, rel=0.1)
    assert resampled_interval(draws, seed=1) == resampled_interval(draws, seed=1) != resampled_interval(draws, seed=2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: kendall([1.0], [1.0]), "two or more"),
        (lambda: kendall([1.0, 2.0], [1.0, 2.0, 3.0]), r"scores \[2\], worth \[3\]"),
        (lambda: kendall([1.0, np.nan], [1.0, 2.0]), "scores are NaN"),
        (lambda: kendall([1.0, 2.0], [1.0, np.inf]), "not finite"),
        (lambda: rank_and_choose([[1.0]], [[1.0]]), "targets, draws, candidates"),
        (lambda: rank_and_choose(np.ones((1, 1, 2)), np.ones((1, 1, 3))), r"worth \[1, 1, 3\]"),
        (lambda: resampled_interval([1.0, 2.0]), r"values \[2\]"),
        (lambda: resampled_interval([[1.0, np.nan]]), "not finite"),
    ],
)
def test_what_has_no_ranks_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()
