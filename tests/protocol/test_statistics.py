import math

import numpy as np
import pytest
import scipy.stats

from jaxtl.errors import InputError
from jaxtl.protocol import (
    ACCURACY,
    Run,
    contrast,
    contrast_family,
    holm,
    paired,
    price_of_choosing,
    summarise,
    verdict_sentence,
)

RNG = np.random.default_rng(7)


def report(method, accuracies, selection="tuned", first_seed=100, **more):
    return [
        Run(method, "report", selection, first_seed + i, None, 0, {}, metrics={"test": a}, seconds=2.0, **more)
        for i, a in enumerate(accuracies)
    ]


@pytest.mark.parametrize("n", [2, 3, 10, 30])
def test_interval_is_that_of_the_paired_t_test(n):
    a, b = RNG.normal(0.70, 0.02, n), RNG.normal(0.69, 0.02, n)
    ours, theirs = paired("a", "b", a - b), scipy.stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert ours.n == n
    np.testing.assert_allclose(ours.ci95, (interval.low, interval.high), rtol=1e-9)
    np.testing.assert_allclose(ours.sd, math.sqrt(sum((a - b - (a - b).mean()) ** 2) / (n - 1)))
    np.testing.assert_allclose(ours.difference, a.mean() - b.mean(), rtol=1e-9)
    np.testing.assert_allclose(ours.p, theirs.pvalue, rtol=1e-9)
    assert (ours.p < 0.05) == (ours.ci95[0] > 0 or ours.ci95[1] < 0)
    inside = [scipy.stats.ttest_1samp(sign * (a - b), -0.01, alternative="greater").pvalue for sign in (1, -1)]
    np.testing.assert_allclose(ours.p_agree, max(inside), rtol=1e-9)
    ninety = theirs.confidence_interval(0.90)
    assert (ours.p_agree < 0.05) == (ninety.low > -0.01 and ninety.high < 0.01)


def test_holm_by_hand():
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04 → never below the one before: .02 .03 .06 .06
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([math.nan, 0.02])[1] == 0.04
    assert math.isnan(holm([math.nan, 0.02])[0])


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.02, 0.03, 0.025, 0.02, 0.03, 0.024], "helps"),
        ([-0.02, -0.03, -0.025, -0.02, -0.03, -0.024], "hurts"),
        ([0.002, 0.003, 0.002, 0.003, 0.002, 0.003], "no effect beyond ±1"),  # surely there, and too small to matter
        ([0.002, -0.003, 0.002, -0.003, 0.002, -0.001], "no effect beyond ±1"),
        ([0.02, -0.03, 0.02, -0.03, 0.05, 0.01], "undecided"),
        ([0.02, 0.021, 0.02], "helps"),
        ([0.001] * 9 + [0.05], "undecided"),  # one outlier stretches the interval over 0 and the margin
        ([-0.02, 0.002, -0.01, 0.004, -0.012, 0.006], "undecided"),  # inside the margin on one side only
        ([0.02] * 4, "helps"),
        ([0.0] * 6, "no effect beyond ±1"),
        ([0.05], "undecided"),
        ([0.01, math.nan, 0.02], "undecided"),
    ],
)
def test_verdicts(differences, verdict):
    assert paired("a", "b", differences).verdict == verdict


def test_the_margin_is_named_in_points():
    small = [0.002, -0.003, 0.002, -0.003, 0.002, -0.001]
    assert paired("a", "b", small, measure=ACCURACY._replace(margin=0.005)).verdict == "no effect beyond ±0.5"
    assert paired("a", "b", small, measure=ACCURACY._replace(margin=0.001)).verdict == "undecided"


def test_the_better_direction_is_the_measures():
    smaller = ACCURACY._replace(larger=False)
    assert paired("a", "b", [0.02, 0.03, 0.025, 0.02], measure=smaller).verdict == "hurts"


def test_one_unit_and_not_a_number_give_no_figures():
    one = paired("a", "b", [0.05])
    assert one.difference == 0.05
    assert all(math.isnan(x) for x in (one.sd, *one.ci95, one.p, one.p_holm, one.p_agree, one.detectable))
    assert one.decided_by is None
    lost = paired("a", "b", [0.05, math.inf])
    assert all(math.isnan(x) for x in (lost.difference, lost.sd, *lost.ci95, lost.p, lost.p_agree, lost.detectable))
    assert lost.verdict == "undecided"
    with pytest.raises(InputError, match="a vs b"):
        paired("a", "b", [])


def test_sentences():
    many = paired("l2_differential", "l2", np.array([-4, 1, -6, 3, -7, -2, 0, -5, 2, -3]) / 1000)
    assert verdict_sentence(many) == (
        "l2_differential vs l2: −0.21 points [−0.46, 0.04] over 10 draws: no effect beyond ±1 (p 2.6e−05)"
    )
    assert verdict_sentence(paired("a", "b", [0.003])) == (
        "a vs b: +0.30 points over 1 draw: undecided (one draw gives no interval)"
    )
    assert verdict_sentence(paired("a", "b", [0.003, math.nan])) == "a vs b: not a number over 2 draws: undecided"
    assert "+0.00 points [0.00, 0.00]" in verdict_sentence(paired("a", "b", [-1e-9, -1e-9]))


def test_contrasts_pair_by_seed_and_correct_both_tests_over_the_family():
    base, gain = np.array([0.60, 0.62, 0.59, 0.61, 0.60, 0.63]), np.array([0.02, 0.03, 0.0, 0.01, 0.02, 0.03])
    runs = report("a", base + gain) + report("b", base)[::-1] + report("c", base + gain / 10)
    alone, near = contrast(runs, "a", "b"), contrast(runs, "c", "b")
    assert (alone.p, alone.verdict) == (alone.p_holm, "helps")
    np.testing.assert_allclose(alone.sd, gain.std(ddof=1))  # unpaired order would give another sd
    family = contrast_family(runs, [("a", "b"), ("c", "b")])
    assert [(c.a, c.b) for c in family] == [("a", "b"), ("c", "b")]
    assert [c.p for c in family] == [alone.p, near.p]
    assert [c.p_holm for c in family] == holm([alone.p, near.p])
    assert [c.p_agree for c in family] == holm([alone.p_agree, near.p_agree])
    assert [c.verdict for c in family] == ["helps", "no effect beyond ±1"]


def test_a_verdict_may_fall_to_the_correction():
    runs = report("a", [0.72, 0.70, 0.73, 0.71]) + report("b", [0.70] * 4) + report("c", [0.70] * 4)
    assert contrast(runs, "a", "b").verdict == "undecided"
    sure = report("d", [0.722, 0.71, 0.73, 0.715])
    assert contrast(runs + sure, "d", "b").verdict == "helps"
    assert contrast_family(runs + sure, [("d", "b"), ("a", "c"), ("a", "b")])[0].verdict == "undecided"


# ---- replicates


def in_replicates(method, groups, tuned=True):
    """Report runs of [replicates][draws], and a run that chose."""
    chosen_in = "tuning" if tuned else "fold"
    runs = [
        Run(method, "report", "tuned", 10 + k, None, 0, {}, metrics={"test": value}, replicate=r, chosen_in=chosen_in)
        for r, group in enumerate(groups)
        for k, value in enumerate(group)
    ]
    return [*runs, *([Run(method, "tuning", "", 0, None, 0, {"pull": 1.0})] if tuned else [])]


def test_draws_of_a_replicate_count_by_their_mean():
    ours = [[0.70, 0.74], [0.69, 0.71], [0.75, 0.73], [0.72, 0.70]]
    theirs = [[0.68, 0.70], [0.66, 0.70], [0.70, 0.72], [0.70, 0.69]]
    c = contrast(in_replicates("a", ours) + in_replicates("b", theirs), "a", "b")
    differences = (np.array(ours) - np.array(theirs)).mean(axis=1)
    alone = paired("a", "b", differences, unit="replicate")
    assert (c.n, c.unit, c.difference, c.ci95, c.verdict) == (
        4,
        "replicate",
        alone.difference,
        alone.ci95,
        alone.verdict,
    )
    summary = summarise(in_replicates("a", ours))[0]
    assert summary.units == pytest.approx(np.mean(ours, axis=1))
    assert summary.sd == pytest.approx(np.mean(ours, axis=1).std(ddof=1))
    assert (summary.mean, len(summary.values)) == (pytest.approx(np.mean(ours)), 8)


def test_one_replicate_decides_nothing_where_all_draws_share_a_choice():
    ours, theirs = [[0.70, 0.74, 0.72, 0.73]], [[0.60, 0.64, 0.61, 0.63]]
    c = contrast(in_replicates("a", ours) + in_replicates("b", theirs, tuned=False), "a", "b")
    assert (c.given_choice, c.verdict, c.unit, c.n) == (True, "undecided", "draw", 4)
    assert c.p < 1e-3
    assert verdict_sentence(c).endswith("over 4 draws: undecided (given one choice of settings)")
    assert (
        contrast_family(in_replicates("a", ours) + in_replicates("b", theirs), [("a", "b")])[0].verdict == "undecided"
    )
    each = in_replicates("a", ours, tuned=False) + in_replicates("b", theirs, tuned=False)
    assert (contrast(each, "a", "b").given_choice, contrast(each, "a", "b").verdict) == (False, "helps")


def test_components_of_variance_are_those_that_were_put_in():
    rng = np.random.default_rng(0)
    shape, choice, draw = (4000, 3), 0.012, 0.02
    ours = 0.7 + choice * rng.normal(size=(shape[0], 1)) + draw * rng.normal(size=shape)
    c = contrast(in_replicates("a", ours) + in_replicates("b", np.full(shape, 0.6)), "a", "b")
    assert (c.sd_choice, c.sd_draw) == pytest.approx((choice, draw), rel=0.05)
    alike = contrast(in_replicates("a", [[0.7, 0.8], [0.8, 0.7]]) + in_replicates("b", np.full((2, 2), 0.6)), "a", "b")
    assert alike.sd_choice == 0.0


def test_the_interval_over_replicates_holds_and_that_over_draws_does_not():
    """A choice that moves every draw of a replicate together: the 95 % interval over draws forgets it."""
    rng, held = np.random.default_rng(1), {"over replicates": [], "within one": []}
    for _ in range(1000):
        choice = 0.01 * rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=(8, 1))
        values = choice + 0.005 * rng.normal(size=(8, 4))
        for name, found in (
            ("over replicates", paired("a", "b", values.mean(axis=1))),
            ("within one", paired("a", "b", values[0])),
        ):
            held[name].append(found.ci95[0] <= 0 <= found.ci95[1])
    assert 0.93 <= np.mean(held["over replicates"]) <= 0.97
    assert np.mean(held["within one"]) < 0.8


def test_contrasts_refuse_what_cannot_be_paired():
    runs = report("l2", [0.6, 0.7]) + report("l2_sp", [0.6, 0.7], first_seed=101)
    with pytest.raises(InputError, match="different draws"):
        contrast(runs, "l2", "l2_sp")
    with pytest.raises(InputError, match=r"l2_ps(.|\n)*did you mean 'l2_sp'"):
        contrast(runs, "l2", "l2_ps")
    with pytest.raises(InputError, match="honest"):
        contrast(runs, "l2", "l2_sp", selection="honest")
    with pytest.raises(InputError, match="two report runs for one draw"):
        contrast(runs + runs, "l2", "l2")


def test_summaries():
    runs = [
        Run("l2", "tuning", "", 0, None, 0, {"pull": 1.0}, validation=0.6, seconds=5.0),
        Run("l2", "fold", "", 100, 0, 0, {"pull": 1.0}, validation=0.6, seconds=0.5),
        Run(
            "l2",
            "report",
            "tuned",
            101,
            None,
            0,
            {"pull": 1.0},
            metrics={"test": 0.7, "train": 0.9},
            seconds=2.0,
            chosen_in="tuning",
        ),
        Run(
            "l2",
            "report",
            "tuned",
            100,
            None,
            0,
            {"pull": 1.0},
            metrics={"test": 0.6, "train": 0.8},
            seconds=3.0,
            chosen_in="tuning",
        ),
        Run(
            "l2", "report", "honest", 100, None, 0, {"pull": 1.0}, metrics={"test": 0.6}, seconds=3.0, chosen_in="fold"
        ),
        Run(
            "l2",
            "report",
            "honest",
            101,
            None,
            1,
            {"pull": 2.0},
            ("pull>",),
            -math.inf,
            {"test": 0.0},
            diverged=True,
            chosen_in="fold",
        ),
    ]
    tuned, honest = summarise(runs)
    assert (tuned.method, tuned.selection, tuned.seeds, tuned.values) == ("l2", "tuned", (100, 101), (0.6, 0.7))
    assert tuned.mean == pytest.approx(0.65)
    assert tuned.sd == pytest.approx(0.1 / math.sqrt(2))
    assert tuned.metrics == pytest.approx({"test": 0.65, "train": 0.85})
    assert (tuned.setting, tuned.edges, tuned.diverged) == ({"pull": 1.0}, (), 0)
    assert (tuned.seconds, tuned.choosing_seconds) == (5.0, 5.0)
    assert (honest.setting, honest.settings) == (None, ({"pull": 1.0}, {"pull": 2.0}))
    assert (honest.edges, honest.diverged, honest.choosing_seconds) == (("pull>",), 1, 0.5)
    assert honest.values == (0.6, 0.0)
    assert math.isnan(summarise(report("a", [0.5]))[0].sd)


def test_price_of_choosing_is_tuned_minus_honest():
    tuned, cost = np.array([0.7, 0.72, 0.71]), np.array([0.01, 0.02, 0.03])
    runs = report("l2", tuned) + report("l2", tuned - cost, "honest") + report("l2_sp", tuned)
    prices = price_of_choosing(runs)
    assert list(prices) == ["l2"]
    assert prices["l2"].difference == pytest.approx(0.02)
    assert prices["l2"].sd == pytest.approx(0.01)
    assert (prices["l2"].a, prices["l2"].b) == ("l2 (tuned)", "l2 (honest)")
