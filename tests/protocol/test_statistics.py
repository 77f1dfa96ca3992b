import itertools
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
    sign_flip_p,
    summarise,
    verdict_sentence,
)

RNG = np.random.default_rng(7)


def report(method, accuracies, selection="tuned", first_seed=100, **more):
    return [
        Run(method, "report", selection, first_seed + i, None, 0, {}, metrics={"test": a}, seconds=2.0, **more)
        for i, a in enumerate(accuracies)
    ]


def brute_force_p(differences):
    """Every sign pattern, in exact integers."""
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    reached = sum(abs(sum(s * d for s, d in zip(p, differences, strict=True))) >= observed for p in patterns)
    return reached / len(patterns)


@pytest.mark.parametrize("n", [2, 3, 10, 30])
def test_interval_is_that_of_the_paired_t_test(n):
    a, b = RNG.normal(0.70, 0.02, n), RNG.normal(0.69, 0.02, n)
    ours, theirs = paired("a", "b", a - b), scipy.stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert ours.n == n
    np.testing.assert_allclose(ours.ci95, (interval.low, interval.high), rtol=1e-9)
    np.testing.assert_allclose(ours.sd, math.sqrt(sum((a - b - (a - b).mean()) ** 2) / (n - 1)))
    np.testing.assert_allclose(ours.difference, a.mean() - b.mean(), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_sign_flips_are_exact_with_ties_and_zeros(n):
    for _ in range(20):
        integers = RNG.integers(-4, 5, n).tolist()  # many equal sums, which floats only nearly reproduce
        assert sign_flip_p([i * 0.001 for i in integers]) == brute_force_p(integers)


def test_sign_flips_of_nothing_and_of_the_extreme():
    assert sign_flip_p([0.0] * 6) == 1.0
    assert sign_flip_p([0.01] * 20) == 2 / 2**20


def test_many_draws_are_sampled_near_the_t_test_and_never_zero():
    values = RNG.normal(0.4, 1.0, 24)
    assert sign_flip_p(values) == sign_flip_p(values)
    assert sign_flip_p(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    assert sign_flip_p([0.01] * 60) == 1 / 100_001


def test_sampled_flips_agree_with_the_exact_ones():
    integers = [3, -1, 2, 5, 0, -2, 4, 1, -3, 2, 1, 3, -2, 4, 0, 1, -1, 2, 3, -4]
    exact = sign_flip_p(integers)
    assert sign_flip_p([*integers, 0, 0]) == pytest.approx(exact, abs=0.006)  # zeros change no sum: 2²² against 2²⁰


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
        ([0.002, 0.003, 0.002, 0.003, 0.002, 0.003], "helps"),  # surely there, though smaller than the margin
        ([0.002, -0.003, 0.002, -0.003, 0.002, -0.001], "no effect beyond ±1"),
        ([0.02, -0.03, 0.02, -0.03, 0.05, 0.01], "undecided"),
        ([0.02, 0.021, 0.02, 0.021, 0.02], "undecided"),  # the interval excludes 0, but p cannot be below 2/2⁵
        ([0.001] * 9 + [0.05], "undecided"),  # p is 2/2¹⁰, but one outlier stretches the interval over 0
        ([-0.02, 0.002, -0.01, 0.004, -0.012, 0.006], "undecided"),  # inside the margin on one side only
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


def test_one_draw_and_not_a_number_give_no_figures():
    one = paired("a", "b", [0.05])
    assert one.difference == 0.05
    assert all(math.isnan(x) for x in (one.sd, *one.ci95, one.p, one.p_holm, one.detectable))
    lost = paired("a", "b", [0.05, math.inf])
    assert all(math.isnan(x) for x in (lost.difference, lost.sd, *lost.ci95, lost.p, lost.p_holm, lost.detectable))
    with pytest.raises(InputError, match="a vs b"):
        paired("a", "b", [])


def test_sentences():
    many = paired("l2_differential", "l2", np.array([-4, 1, -6, 3, -7, -2, 0, -5, 2, -3]) / 1000)
    assert verdict_sentence(many) == (
        "l2_differential vs l2: −0.21 points [−0.46, 0.04] over 10 draws: "
        "no effect beyond ±1 (detectable at 80 % power: 0.35)"
    )
    assert verdict_sentence(paired("a", "b", [0.003])) == (
        "a vs b: +0.30 points over 1 draw: undecided (one draw gives no interval)"
    )
    assert verdict_sentence(paired("a", "b", [0.003, math.nan])) == "a vs b: not a number over 2 draws: undecided"
    assert "+0.00 points [0.00, 0.00]" in verdict_sentence(paired("a", "b", [-1e-9, -1e-9]))


def test_contrasts_pair_by_seed_and_correct_over_the_family():
    base, gain = np.array([0.60, 0.62, 0.59, 0.61, 0.60, 0.63]), np.array([0.02, 0.03, 0.02, 0.01, 0.02, 0.03])
    runs = report("a", base + gain) + report("b", base)[::-1] + report("c", base + gain / 2)
    alone = contrast(runs, "a", "b")
    assert (alone.p, alone.p_holm, alone.verdict) == (0.03125, 0.03125, "helps")
    np.testing.assert_allclose(alone.sd, gain.std(ddof=1))  # unpaired order would give another sd
    first, second = contrast_family(runs, [("a", "b"), ("c", "b")])
    assert (first.a, first.b, second.a, second.b) == ("a", "b", "c", "b")
    assert (first.p, first.p_holm, first.verdict) == (0.03125, 0.0625, "undecided")
    assert second.verdict == "undecided"


def test_family_verdict_may_fall_back_to_no_effect():
    runs = report("a", [0.702, 0.703, 0.702, 0.703, 0.702, 0.703]) + report("b", [0.70] * 6) + report("c", [0.70] * 6)
    assert contrast(runs, "a", "b").verdict == "helps"
    assert [c.verdict for c in contrast_family(runs, [("a", "b"), ("a", "c")])] == ["no effect beyond ±1"] * 2


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
