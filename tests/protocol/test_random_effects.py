"""Effects of many studies as one: against published figures, a direct search of the likelihood, and simulation."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from jaxtl.errors import InputError
from jaxtl.protocol import random_effects

# Trials of the BCG vaccine (Colditz et al., 1994): cases and others, vaccinated and not.
TRIALS = np.array(
    [
        *([4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619], [33, 5036, 47, 5761]),
        *([180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892], [29, 7470, 45, 7232]),
        *([17, 1699, 65, 1600], [186, 50448, 141, 27197], [5, 2493, 3, 2338], [27, 16886, 29, 17825]),
    ],
    float,
)


def test_published_figures_of_thirteen_trials():
    """Viechtbauer, "Conducting Meta-Analyses in R with the metafor Package", 2010: log relative risks, REML."""
    a, b, c, d = TRIALS.T
    effects = np.log(a / (a + b) / (c / (c + d)))
    found = random_effects(effects, np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)))
    assert found.mean == pytest.approx(-0.7145, abs=5e-5)
    assert found.tau**2 == pytest.approx(0.3132, abs=5e-5)
    assert found.heterogeneity == pytest.approx(0.9222, abs=5e-5)
    assert found.error == pytest.approx(0.1808, abs=5e-5)  # by Hartung and Knapp
    assert found.ci95 == pytest.approx((-1.1084, -0.3206), abs=5e-5)


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5])
def test_tau_has_the_greatest_restricted_likelihood(spread):
    rng = np.random.default_rng(0)
    s = rng.uniform(0.05, 0.3, 9)
    y = rng.normal(0.1, np.hypot(s, spread))

    def loss(tau2):
        w = 1 / (s**2 + tau2)
        return np.sum(w * (y - w @ y / w.sum()) ** 2) - np.log(w).sum() + np.log(w.sum())

    best = scipy.optimize.minimize_scalar(loss, bounds=(0, 4), method="bounded", options={"xatol": 1e-10}).x
    assert random_effects(y, s).tau ** 2 == pytest.approx(best, abs=1e-6)


def test_with_equal_errors_it_is_the_t_test_and_tau_is_what_the_errors_leave():
    y = np.array([0.3, -0.1, 0.5, 0.2, 0.9])
    found, t = random_effects(y, np.full(5, 0.1)), scipy.stats.ttest_1samp(y, 0)
    assert (found.mean, found.p) == (pytest.approx(y.mean()), pytest.approx(t.pvalue))
    assert found.ci95 == pytest.approx(tuple(t.confidence_interval()))
    assert found.tau**2 == pytest.approx(y.var(ddof=1) - 0.01)
    assert random_effects(y, np.full(5, 1.0)).tau == 0


def test_order_does_not_matter_units_scale_and_two_studies_foretell_nothing():
    y, s = np.array([0.3, -0.1, 0.5]), np.array([0.1, 0.2, 0.05])
    one, turned, scaled = random_effects(y, s), random_effects(y[::-1], s[::-1]), random_effects(100 * y, 100 * s)
    for field in ("mean", "error", "ci95", "tau", "prediction95"):
        assert getattr(one, field) == pytest.approx(getattr(turned, field), rel=1e-9)
        np.testing.assert_allclose(getattr(scaled, field), 100 * np.asarray(getattr(one, field)), rtol=1e-9)
    assert np.isnan(random_effects(y[:2], s[:2]).prediction95).all()


@pytest.mark.parametrize(("replicates", "tau"), [*itertools.product([3, 8], [0.3, 1.0])])
def test_intervals_about_hold_though_errors_are_estimated_from_few_replicates(replicates, tau):
    """Over 1,500 repetitions the mean was covered in 92 to 94 %, another study in 87 to 95 %."""
    rng, held, foretold, times = np.random.default_rng(1), 0, 0, 400
    noise = np.geomspace(0.3, 3.0, 10)  # of a replicate, in each study
    for _ in range(times):
        true = rng.normal(0.0, tau, 11)
        values = true[:10, None] + rng.normal(size=(10, replicates)) * noise[:, None]
        found = random_effects(values.mean(1), values.std(1, ddof=1) / np.sqrt(replicates))
        held += found.ci95[0] <= 0 <= found.ci95[1]
        foretold += found.prediction95[0] <= true[10] <= found.prediction95[1]
    assert held / times > 0.88
    assert foretold / times > 0.84


@pytest.mark.parametrize(
    ("effects", "errors"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 1.0]), ([1.0, 2.0], [0.0, 1.0])]
)
def test_what_cannot_be_pooled_is_refused(effects, errors):
    with pytest.raises(InputError, match="random_effects"):
        random_effects(effects, errors)
