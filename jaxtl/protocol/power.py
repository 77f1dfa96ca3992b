"""What a paired comparison is able to find: told before it starts, beside its results, and how much more would decide.

One test stands behind everything: Student's t over the means of replicates (of draws, where each chose for itself).
Superiority asks it of 0, equivalence of both ends of the margin; Holm's correction multiplies p by a factor.
"""

from __future__ import annotations

import functools
import math

import numpy as np

SIGNIFICANCE = 0.05
POWER = 0.8
ENOUGH = 2.0  # sd of the replicates' differences that a plan should be able to find
MOST = 10_000


def t_p(mean: float, sd: float, n: int, of: float = 0.0) -> float:
    """One-sided p value of "the mean is not above `of`": P(T ≥ √n (mean − of) / sd) for T with n − 1 degrees.

    Example:
        >>> round(t_p(1.0, 1.0, 10), 4)  # t = √10
        0.0058
    """
    from scipy.special import stdtr

    if sd == 0:  # all alike
        return 0.5 if mean == of else float(mean < of)
    return float(stdtr(n - 1, -math.sqrt(n) * (mean - of) / sd))


def t_quantile(n: int, level: float = 1 - SIGNIFICANCE / 2) -> float:
    """Of Student's t over n values: by default how many standard errors a 95 % interval reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, level))


def power_to_differ(difference: float, sd: float, n: int, factor: int = 1) -> float:
    """Probability that n replicates show a true difference ≥ 0, on its side: factor · p < 5 % (two-sided).

    Args:
        difference, sd: of the replicates' differences, in one unit.
        n: number of replicates.
        factor: what p is multiplied by: for the smallest p of a family under Holm's correction, the number of
            contrasts.

    Source: J. Cohen, Statistical Power Analysis for the Behavioral Sciences (1988).
    """
    return _above(difference, sd, n, SIGNIFICANCE / 2 / factor)


def power_to_agree(difference: float, sd: float, n: int, margin: float, factor: int = 1) -> float:
    """Probability that two one-sided tests show a true difference to be within ±margin, or a little less.

    That is what the two tests reach at least together: P(both) ≥ P(one) + P(other) − 1.

    Source: D. J. Schuirmann, A comparison of the two one-sided tests procedure and the power approach for assessing the
    equivalence of average bioavailability (1987).
    """
    level = SIGNIFICANCE / factor
    return max(0.0, _above(margin - difference, sd, n, level) + _above(margin + difference, sd, n, level) - 1)


def detectable_difference(sd: float, n: int, factor: int = 1) -> float:
    """The smallest true difference that n replicates show with 80 % power, by the test behind the verdicts.

    Args:
        sd: standard deviation of the paired differences.
        n: how many there are, at least 2.
        factor: as for `power_to_differ`.

    Returns:
        A difference in the unit of sd; NaN where sd is.

    Example:
        >>> round(detectable_difference(sd=1.0, n=10), 2), round(detectable_difference(1.0, 10, factor=4), 2)
        (1.0, 1.28)
    """
    return _detectable_ratio(n, factor) * sd if math.isfinite(sd) else math.nan


@functools.cache
def _detectable_ratio(n: int, factor: int) -> float:
    """The detectable difference / sd."""
    from scipy.optimize import brentq

    high = 1.0
    while power_to_differ(high, 1.0, n, factor) < POWER:
        high *= 2
    return float(brentq(lambda ratio: power_to_differ(ratio, 1.0, n, factor) - POWER, 0.0, high, xtol=1e-6))


def replicates_to_decide(difference: float, sd: float, margin: float, factor: int = 1) -> float:
    """How many replicates decide with 80 % power, if difference and sd are as they were found.

    Args:
        difference, sd: of the replicates' differences.
        margin: below which differences do not matter.
        factor: as for `power_to_differ`.

    Returns:
        The number; infinite beyond ten thousand, NaN where sd is.

    Example:
        >>> replicates_to_decide(0.01, 0.01, margin=0.01), replicates_to_decide(0.0, 0.01, margin=0.01)
        (10, 11)
    """
    if not math.isfinite(sd):
        return math.nan

    def decides(n: int) -> bool:
        differs = power_to_differ(abs(difference), sd, n, factor)
        return max(differs, power_to_agree(abs(difference), sd, n, margin, factor)) >= POWER

    low, high = 1, 2
    while not decides(high):
        low, high = high, 2 * high
        if high > MOST:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def cannot_decide(n: int, contrasts: int, unit: str = "replicate") -> str:
    """What a comparison of so few replicates is unable to say, in one line, to be told before it starts.

    Args:
        n: replicates; draws where each of them chooses for itself, or nothing is chosen.
        contrasts: how many are corrected for each other.
        unit: what n counts.

    Returns:
        The line; "" where differences of two standard deviations between replicates are found, or none is asked for.

    Example:
        >>> cannot_decide(8, 4)
        ''
        >>> print(cannot_decide(3, 1))
        3 replicates find differences of 3.3 standard deviations between replicates at least; 5 find those of 2
    """
    if not contrasts:
        return ""
    enough = next(k for k in range(2, MOST) if detectable_difference(1.0, k, contrasts) <= ENOUGH)
    if n == 1:
        return f'one {unit} decides nothing: every verdict will be "undecided"; {enough} {unit}s can decide'
    if n >= enough:
        return ""
    least = detectable_difference(1.0, n, contrasts)
    return (
        f"{n} {unit}s find differences of {least:.1f} standard deviations between {unit}s at least; {enough} find "
        f"those of {ENOUGH:g}"
    )


def _above(difference: float, sd: float, n: int, level: float) -> float:
    """Power of a one-sided t test at a level."""
    from scipy.special import nctdtr

    if sd == 0:
        return float(difference > 0)
    power = 1 - float(nctdtr(n - 1, math.sqrt(n) * difference / sd, t_quantile(n, 1 - level)))
    return power if np.isfinite(power) else float(difference > 0)  # far beyond what the series can sum
