"""What so many draws can find: by the very rule that verdicts go by, and told beforehand where it is nothing."""

import itertools
import math

import numpy as np
import pytest

from jaxtl.protocol import (
    ACCURACY,
    Run,
    cannot_decide,
    contrast_family,
    detectable_difference,
    paired,
    verdict_sentence,
)
from jaxtl.protocol.power import smallest_p

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


@pytest.mark.parametrize(("n", "factor"), [(6, 1), (8, 1), (8, 4), (10, 1), (10, 4), (10, 8)])
def test_the_detectable_difference_is_found_in_four_of_five(n, factor):
    rng, sd, times = np.random.default_rng([n, factor]), 0.013, 1500
    found = [paired("a", "b", values) for values in rng.normal(detectable_difference(sd, n, factor), sd, (times, n))]
    assert np.mean([factor * c.p < 0.05 and c.ci95[0] > 0 for c in found]) == pytest.approx(0.8, abs=0.03)


def test_a_family_finds_its_detectable_difference_in_four_of_five_with_every_correction():
    rng, sd, n = np.random.default_rng(1), 0.01, 10
    nothing = [[0.01, -0.01] * 5] * 3  # p = 1: Holm asks of the fourth that p is below 5 % / 4
    effect = family(*nothing, [0.01, -0.01] * 5)[0].detectable / family(*nothing, [0.01, -0.01] * 5)[0].sd * sd
    verdicts = [family(*nothing, values)[-1].verdict for values in rng.normal(effect, sd, (600, n))]
    assert verdicts.count("helps") / len(verdicts) == pytest.approx(0.8, abs=0.05)


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


def test_it_scales_with_sd_and_is_near_the_t_tests_where_there_are_many_draws():
    assert detectable_difference(0.0, 10) == 0.0
    assert detectable_difference(0.02, 10) == pytest.approx(2 * detectable_difference(0.01, 10))
    assert math.isnan(detectable_difference(math.nan, 10))
    assert detectable_difference(1.0, 60) == pytest.approx(0.368, rel=0.01)  # of a paired t test
    assert [detectable_difference(1.0, n, 4) for n in (2, 3, 5, 7)] == [math.inf] * 4


@pytest.mark.parametrize("draws", range(1, 10))
@pytest.mark.parametrize("contrasts", [1, 2, 4, 8])
def test_a_plan_that_cannot_find_a_difference_says_so(draws, contrasts):
    """Held against the surest result there can be: all differences equal."""
    found = family(*[[0.05] * draws] * contrasts)
    assert all(c.p == pytest.approx(smallest_p(draws)) for c in found if draws > 1)
    assert bool(cannot_decide(draws, contrasts)) == all(c.verdict == "undecided" for c in found)


def test_the_line_names_what_would_do():
    assert cannot_decide(3, 4).startswith(
        "3 report draws cannot show a difference (p is 1 at least with 4 contrasts; 8 "
    )
    assert cannot_decide(3, 4).endswith('"no effect beyond ±1" needs differences with an sd below 0.40 points')
    assert "±0.5" in cannot_decide(2, 1, measure=ACCURACY._replace(margin=0.005))
    assert cannot_decide(1, 1) == 'one report draw gives no interval and no test: every verdict will be "undecided"'
    assert cannot_decide(2, 0) == cannot_decide(6, 1) == cannot_decide(8, 4) == ""
    for draws, sd in ((2, 0.001), (3, 0.0039), (5, 0.008)):
        below = np.array([-1.0, 1.0, *[0.0] * (draws - 2)])
        below *= sd / below.std(ddof=1)
        assert paired("a", "b", below).verdict == "no effect beyond ±1"
        assert paired("a", "b", 1.2 * below).verdict == "undecided"


def test_a_sentence_says_that_there_were_too_few_draws():
    assert verdict_sentence(paired("a", "b", [0.03, 0.04, 0.035])).endswith(
        "undecided (too few draws to find a difference)"
    )
