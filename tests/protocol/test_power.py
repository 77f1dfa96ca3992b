"""What so many replicates can find: by the test that verdicts go by, told beforehand; and how many would decide."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from jaxtl.protocol import Run, cannot_decide, contrast_family, detectable_difference, paired, verdict_sentence
from jaxtl.protocol.power import power_to_agree, power_to_differ, replicates_to_decide, t_p

BASE = np.random.default_rng(3).normal(0.6, 0.02, 12)


def family(*differences):
    """Contrasts of methods m0, m1, ... with a base, as `compare` asks for them."""
    columns = {"base": BASE[: len(differences[0])]}
    columns |= {f"m{k}": columns["base"] + np.asarray(given) for k, given in enumerate(differences)}
    runs = [
        Run(method, "report", "tuned", seed, None, 0, {}, metrics={"test": float(value)})
        for method, values in columns.items()
        for seed, value in enumerate(values)
    ]
    return contrast_family(runs, [(f"m{k}", "base") for k in range(len(differences))])


def test_p_is_that_of_scipys_t_test():
    values = np.random.default_rng(0).normal(0.3, 1.0, 9)
    for of in (-1.0, 0.0, 0.7):
        theirs = scipy.stats.ttest_1samp(values, of, alternative="greater").pvalue
        assert t_p(values.mean(), values.std(ddof=1), 9, of) == pytest.approx(theirs, rel=1e-9)
    assert [t_p(mean, 0.0, 5) for mean in (0.1, 0.0, -0.1)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("n", "factor"), [(3, 1), (6, 1), (8, 4), (20, 8)])
def test_power_is_what_is_found_in_many_sets(n, factor):
    rng, times, effect, margin = np.random.default_rng([n, factor]), 4000, 1.1, 1.4

    def test(values, of, alternative):
        return factor * scipy.stats.ttest_1samp(values, of, axis=1, alternative=alternative).pvalue

    values = rng.normal(effect, 1.0, (times, n))
    found = np.mean((test(values, 0, "two-sided") < 0.05) & (values.mean(axis=1) > 0))
    assert power_to_differ(effect, 1.0, n, factor) == pytest.approx(found, abs=0.025)
    values = rng.normal(0.1, 1.0, (times, n))
    found = np.mean(np.maximum(test(values, -margin, "greater"), test(values, margin, "less")) < 0.05)
    assert power_to_agree(0.1, 1.0, n, margin, factor) < found + 0.02  # it is a bound, near where it counts
    if found > 0.7:
        assert power_to_agree(0.1, 1.0, n, margin, factor) == pytest.approx(found, abs=0.03)


def test_a_family_finds_its_detectable_difference_in_four_of_five_with_every_correction():
    rng, sd, n = np.random.default_rng(1), 0.02, 10
    nothing = [[0.02, -0.02] * 5] * 3  # p = 1: Holm asks of the fourth that p is below 5 % / 4
    effect = family(*nothing, [0.02, -0.02] * 5)[0].detectable / family(*nothing, [0.02, -0.02] * 5)[0].sd * sd
    verdicts = [family(*nothing, values)[-1].verdict for values in rng.normal(effect, sd, (250, n))]
    assert verdicts.count("helps") / len(verdicts) == pytest.approx(0.8, abs=0.08)


def test_what_others_of_a_family_show_makes_it_easier():
    sure, nothing = [0.02, 0.03] * 5, [0.01, -0.01] * 5
    own = [0.01, -0.02, 0.005, 0.01, -0.01, 0.02, 0.015, -0.005, 0.01, 0.0]
    beside = [family(own, *others)[0].detectable for others in ((sure, sure), (sure, nothing), (nothing, nothing))]
    assert beside == sorted(set(beside))
    assert [family(own)[0].detectable, paired("a", "b", own).detectable] == pytest.approx([beside[0]] * 2)


def holm_says(ps, k):
    """Whether the k-th is rejected: by the definition, over all sets that contain it (closed testing by Bonferroni)."""
    others = [i for i in range(len(ps)) if i != k]
    sets = [(k, *more) for size in range(len(ps)) for more in itertools.combinations(others, size)]
    return all(min(ps[i] for i in chosen) * len(chosen) < 0.05 for chosen in sets)


def test_the_factor_is_what_closed_testing_asks_of_a_contrast():
    from jaxtl.protocol.statistics import _holm_factor

    rng = np.random.default_rng(0)
    for _ in range(300):
        ps = list(10 ** rng.uniform(-3.5, 0, rng.integers(1, 6)))
        assert (ps[0] * _holm_factor(ps[1:]) < 0.05) == holm_says(ps, 0), ps


def test_what_is_not_a_number_still_counts_as_a_member():
    one, other = family([math.nan] * 8, [0.01, -0.01] * 4)
    assert math.isnan(one.detectable)
    assert other.detectable == pytest.approx(detectable_difference(other.sd, 8, 2))


def test_it_scales_with_sd_and_is_the_published_one_of_the_t_test():
    assert detectable_difference(0.0, 10) == 0.0
    assert detectable_difference(0.02, 10) == pytest.approx(2 * detectable_difference(0.01, 10))
    assert math.isnan(detectable_difference(math.nan, 10))
    assert detectable_difference(1.0, 10) == pytest.approx(0.9964, abs=0.002)  # Cohen's tables: d 1.0 needs 10 pairs
    assert detectable_difference(1.0, 34) == pytest.approx(0.4955, abs=0.002)  # and d 0.5 needs 34


@pytest.mark.parametrize(
    ("difference", "sd", "factor"), [(0.0, 0.01, 1), (0.004, 0.01, 4), (0.02, 0.02, 4), (0.01, 0.01, 1)]
)
def test_so_many_decide_and_one_less_does_not(difference, sd, factor):
    n, margin = replicates_to_decide(difference, sd, 0.01, factor), 0.01

    def power(n):
        return max(power_to_differ(difference, sd, n, factor), power_to_agree(difference, sd, n, margin, factor))

    assert power(n) >= 0.8 > power(n - 1)


def test_nothing_decides_what_is_too_small_for_its_noise():
    assert replicates_to_decide(0.01, 1.0, margin=0.01) == math.inf
    assert math.isnan(replicates_to_decide(0.01, math.nan, margin=0.01))
    assert replicates_to_decide(0.02, 0.0, margin=0.01) == 2


@pytest.mark.parametrize("contrasts", [1, 2, 4, 8])
def test_a_plan_that_finds_only_what_is_huge_says_so(contrasts):
    for n in range(2, 12):
        finds = detectable_difference(1.0, n, contrasts)
        assert bool(cannot_decide(n, contrasts)) == (finds > 2.0)
    assert cannot_decide(1, contrasts).startswith('one replicate decides nothing: every verdict will be "undecided"; ')
    enough = int(cannot_decide(1, contrasts).split()[-4])
    assert detectable_difference(1.0, enough, contrasts) <= 2.0 < detectable_difference(1.0, enough - 1, contrasts)
    assert cannot_decide(1, 0) == ""


def test_the_line_names_what_would_do():
    assert cannot_decide(3, 4, "draw") == (
        "3 draws find differences of 6.5 standard deviations between draws at least; 7 find those of 2"
    )


def test_a_sentence_says_how_many_would_decide():
    found = paired("a", "b", [0.03, -0.02, 0.035, 0.0], unit="replicate")
    assert verdict_sentence(found).endswith(f"undecided (about {found.decided_by} would decide)")
    assert found.decided_by == replicates_to_decide(found.difference, found.sd, 0.01)
    hopeless = paired("a", "b", [1.0, -0.98], unit="replicate")
    assert verdict_sentence(hopeless).endswith("undecided (nothing would decide)")
