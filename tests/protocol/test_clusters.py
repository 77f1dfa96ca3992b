"""Means over units that share things: the error by hand, intervals by simulation, contrasts by both."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from jaxtl.errors import InputError
from jaxtl.protocol import clustered_error, judged_together, paired, verdict_sentence

SIZES = {"a": 4, "b": 2, "c": 2}  # as cells of a published grid: three data sets on three trunks, one on its own
CELLS = [(data, trunk) for data, size in SIZES.items() for trunk in "xyz" for _ in range(size)] + [("d", "w")] * 5
CROSSED = {"data": [data for data, _ in CELLS], "trunk": [trunk for _, trunk in CELLS]}


def variance_by_pairs(values, same):
    """Σ over pairs of values that share, each residual times each other."""
    residuals = values - values.mean()
    pairs = itertools.product(range(len(values)), repeat=2)
    return sum(residuals[i] * residuals[j] for i, j in pairs if same(i, j)) / len(values) ** 2


@pytest.mark.parametrize(("of_data", "of_trunk"), [(2.0, 0.0), (0.0, 2.0), (2.0, 3.0)])
def test_two_ways_are_the_sum_over_pairs_that_share_either(of_data, of_trunk):
    values = np.random.default_rng(0).normal(size=len(CELLS))
    values += [of_data * (data == "a") + of_trunk * (trunk == "x") for data, trunk in CELLS]
    ways = [lambda i, j, way=way: CELLS[i][way] == CELLS[j][way] for way in (0, 1)]
    counts = [4, 4, len(set(CELLS))]
    parts = [*ways, lambda i, j: CELLS[i] == CELLS[j]]
    data, trunk, both = (k / (k - 1) * variance_by_pairs(values, way) for k, way in zip(counts, parts, strict=True))
    found = clustered_error(values, CROSSED)
    assert (data + trunk - both > max(data, trunk, both)) == (of_data * of_trunk > 0)
    assert found.error == pytest.approx(math.sqrt(max(data + trunk - both, data, trunk, both)), rel=1e-12)
    assert found.clusters == 4
    assert clustered_error(values, {"data": CROSSED["data"]}).error == pytest.approx(math.sqrt(data), rel=1e-12)


def test_with_a_cluster_for_every_value_it_is_the_t_test():
    values = np.random.default_rng(1).normal(0.01, 0.02, 12)
    one = paired("a", "b", values, clusters={"unit": range(12)})
    alone = paired("a", "b", values)
    assert one.clustered.error == pytest.approx(alone.sd / math.sqrt(12), rel=1e-12)
    for figure in ("ci95", "p", "p_agree", "detectable", "sd", "difference"):
        np.testing.assert_allclose(getattr(one, figure), getattr(alone, figure), rtol=1e-9)


def test_the_largest_part_stands_where_the_difference_is_negative():
    values = np.array([1.0, -1.0, -1.0, 1.0])  # sums of rows and of columns are 0, and those of cells are not
    found = clustered_error(values, {"data": [0, 0, 1, 1], "trunk": [0, 1, 0, 1]})
    assert found.error == pytest.approx(math.sqrt(4 / 3 * 4 / 16))


@pytest.mark.parametrize(("data", "trunk", "own"), [(1.0, 0.0, 0.3), (0.0, 1.0, 0.3), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_intervals_hold_whatever_is_shared_and_those_of_independent_cells_do_not(data, trunk, own):
    rng, held, alone = np.random.default_rng(2), 0, 0
    ways = [np.unique(labels, return_inverse=True)[1] for labels in CROSSED.values()]
    for _ in range(300):
        shared = [sd * rng.normal(size=4)[way] for sd, way in zip((data, trunk), ways, strict=True)]
        values = sum(shared) + own * rng.normal(size=len(CELLS))
        error, clusters = clustered_error(values, CROSSED)
        held += abs(values.mean()) < scipy.stats.t.ppf(0.975, clusters - 1) * error
        alone += scipy.stats.ttest_1samp(values, 0).pvalue > 0.05
    assert held / 300 > 0.91
    assert (alone / 300 > 0.91) == (data == trunk == 0)


def test_a_contrast_over_clusters_says_so_and_asks_for_no_more_of_them():
    values = np.array([0.02 * (data == "a") - 0.01 * (trunk == "x") for data, trunk in CELLS])
    one = paired("new", "equal", values, unit="cell", clusters=CROSSED)
    half = scipy.stats.t.ppf(0.975, 3) * clustered_error(values, CROSSED).error
    np.testing.assert_allclose(one.ci95, (values.mean() - half, values.mean() + half), rtol=1e-9)
    assert (one.n, one.verdict, one.decided_by) == (29, "undecided", None)
    assert "over 29 cells: undecided (p " in verdict_sentence(one)
    (left, right) = judged_together([one, one])
    assert left.p_holm == right.p_holm == pytest.approx(min(1.0, 2 * one.p))
    assert left.detectable > one.detectable


@pytest.mark.parametrize(
    ("values", "clusters", "says"),
    [
        ([1.0, math.nan], {"data": [0, 1]}, "not finite"),
        ([], {"data": []}, "values [0]"),
        ([1.0, 2.0], {"data": [0]}, "1 labels of data for 2 values"),
        ([1.0, 2.0], {"data": [0, 0]}, "one data only"),
        ([1.0, 2.0], {}, "clusters of 0 ways"),
        ([1.0, 2.0], {"a": [0, 1], "b": [0, 1], "c": [0, 1]}, "clusters of 3 ways"),
    ],
)
def test_what_has_no_error_is_refused(values, clusters, says):
    with pytest.raises(InputError) as refused:
        clustered_error(values, clusters)
    assert says in str(refused.value)
