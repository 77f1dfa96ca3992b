"""Intervals over groups: those over examples where each is a group, wider where a group's examples are alike."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.protocol.decisions import roc_auc
from jaxtl.protocol.resampling import bootstrap_interval

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 80)
SCORES = RANDOM.normal(size=80) + LABELS


def area(rows):
    return roc_auc(LABELS[rows], SCORES[rows]) if len(np.unique(LABELS[rows])) > 1 else math.nan


def test_a_group_for_every_example_is_the_bootstrap_over_examples_written_out():
    rng, values = np.random.default_rng(3), []
    for _ in range(200):
        rows = rng.integers(0, 80, 80)
        values.append(area(rows))
    own = bootstrap_interval(area, np.arange(80), resamples=200, seed=3)
    assert own == tuple(np.percentile(values, [2.5, 97.5]))
    assert own == bootstrap_interval(area, [f"patient {k:02}" for k in range(80)], resamples=200, seed=3)


def test_a_group_comes_whole_or_not_at_all():
    groups = np.array([0, 1, 1, 2, 2, 2, 7])
    counts = np.unique(groups, return_counts=True)

    def seen(rows):
        for group, size in zip(*counts, strict=True):
            members = np.flatnonzero(groups == group)
            times = [int((rows == member).sum()) for member in members]
            assert len(times) == size
            assert len(set(times)) == 1
        return float(len(rows))

    low, high = bootstrap_interval(seen, groups, resamples=300)
    assert low < 7 < high


def test_copies_of_examples_do_not_make_an_interval_shorter():
    """Forty patients, each four times the same picture: the interval is that of forty, and over pictures half of it."""
    ill, score = np.repeat(LABELS[:40], 4), np.repeat(SCORES[:40], 4)

    def of(rows):
        return roc_auc(ill[rows], score[rows]) if len(np.unique(ill[rows])) > 1 else math.nan

    def once(rows):
        return roc_auc(LABELS[:40][rows], SCORES[:40][rows]) if len(np.unique(LABELS[:40][rows])) > 1 else math.nan

    whole = bootstrap_interval(of, np.repeat(np.arange(40), 4), resamples=500)
    assert whole == pytest.approx(bootstrap_interval(once, np.arange(40), resamples=500))
    alone = bootstrap_interval(of, np.arange(160), resamples=500)
    assert 0.4 < (alone[1] - alone[0]) / (whole[1] - whole[0]) < 0.6


def test_95_percent_of_a_mean_are_about_what_theory_says():
    values = RANDOM.normal(size=400)
    low, high = bootstrap_interval(lambda rows: float(values[rows].mean()), np.arange(400), resamples=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.12 * half)


def test_without_two_groups_there_is_no_interval_and_without_any_an_error():
    assert all(map(math.isnan, bootstrap_interval(area, np.zeros(80, int))))
    assert all(map(math.isnan, bootstrap_interval(lambda rows: math.nan, np.arange(80), resamples=5)))
    with pytest.raises(InputError, match=r"groups of shape \[0\]"):
        bootstrap_interval(area, [])
    with pytest.raises(InputError, match="0 resamples"):
        bootstrap_interval(area, np.arange(80), resamples=0)
