"""What a paired comparison is able to find with so many draws: told before it starts, and beside its results."""

from __future__ import annotations

import functools
import math

import numpy as np

from jaxtl.protocol.measures import ACCURACY, Measure

SIGNIFICANCE = 0.05
POWER = 0.8
EXACT = 14  # draws up to which all sign patterns are counted
SETS = 1000  # of simulated differences, which know the power to less than a hundredth


def smallest_p(n: int) -> float:
    """The smallest p value that n draws can have in a two-sided sign-flip test: 2/2ⁿ."""
    return 2.0 ** (1 - n)


def cannot_decide(draws: int, contrasts: int, *, measure: Measure = ACCURACY) -> str:
    """What a comparison with so few report draws is unable to say, in one line, to be told before it starts.

    With m contrasts under Holm's correction the smallest p must be below 5 % / m, and with n draws none is smaller than
    2/2ⁿ. "No effect" needs a 95 % interval within the margin: an sd below margin · √n / t.

    Args:
        draws: report draws.
        contrasts: how many are corrected for each other.
        measure: has the margin below which effects do not matter.

    Returns:
        The line; "" where differences can be found, or none is asked for.

    Example:
        >>> cannot_decide(10, 4)
        ''
        >>> print(cannot_decide(5, 1))
        5 report draws cannot show a difference (p is 0.062 at least; 6 draws can); "no effect beyond ±1" ...
    """
    if not contrasts or contrasts * smallest_p(draws) < SIGNIFICANCE:
        return ""
    if draws == 1:
        return 'one report draw gives no interval and no test: every verdict will be "undecided"'
    enough = draws
    while contrasts * smallest_p(enough) >= SIGNIFICANCE:
        enough += 1
    least = f"p is {min(1.0, contrasts * smallest_p(draws)):.2g} at least"
    least += f" with {contrasts} contrasts" if contrasts > 1 else ""
    margin, digits = measure.scale * measure.margin, measure.difference_pattern
    sd = margin * math.sqrt(draws) / t_quantile(draws)
    return (
        f"{draws} report draws cannot show a difference ({least}; {enough} draws can); "
        f'"no effect beyond ±{margin:g}" needs differences with an sd below {sd:{digits}}{measure.points}'
    )


def detectable_difference(sd: float, n: int, factor: int = 1) -> float:
    """The smallest true difference that is found with 80 % power: verdict "helps", where it is positive.

    That takes factor · p < 5 % for the p of the sign flips, and an interval above 0. Power is the share of 1,000 sets
    of n normal differences, drawn with a fixed seed, for which both hold. Up to 14 draws all 2ⁿ sign patterns are
    counted, beyond, as many random ones as 14 draws have.

    Args:
        sd: standard deviation of the paired differences.
        n: number of draws, at least 2.
        factor: what p is multiplied by: for the smallest p of a family under Holm's correction, the number of
            contrasts.

    Returns:
        A difference in the unit of sd; infinite where no p would be small enough (5 draws or fewer), NaN where sd is.

    Example:
        >>> round(detectable_difference(sd=1.0, n=10), 1), round(detectable_difference(1.0, 10, factor=4), 1)
        (1.0, 1.3)
    """
    ratio = _detectable_ratio(n, factor)
    return ratio * sd if math.isfinite(ratio) else ratio + sd  # NaN stays NaN


@functools.cache
def _detectable_ratio(n: int, factor: int) -> float:
    """The detectable difference / sd."""
    if factor * smallest_p(n) >= SIGNIFICANCE:
        return math.inf
    rng = np.random.default_rng(0)
    noise = _standard_normal(rng, n)
    half = t_quantile(n) * noise.std(axis=1, ddof=1) / math.sqrt(n)
    if n <= EXACT:  # of a pattern and its opposite one is enough: |sum| is the same
        flipped = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
    else:
        flipped = rng.integers(0, 2, (2 ** (EXACT - 1), n))
    signs = (1 - 2 * flipped).astype(np.float32).T

    def power(difference: float) -> float:
        values = noise + np.float32(difference)
        total = values.sum(axis=1)
        p = np.mean(np.abs(values @ signs) >= (1 - 1e-6) * np.abs(total)[:, None], axis=1)
        return float(np.mean((factor * p < SIGNIFICANCE) & (total > n * half)))

    low, high = 0.0, 1.0
    while power(high) < POWER:
        low, high = high, 2 * high
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return high


def _standard_normal(rng: np.random.Generator, n: int) -> np.ndarray:
    """[SETS, n] with the means at their quantiles, since a mean is independent of what differs from it."""
    from scipy.special import ndtri

    noise = rng.standard_normal((SETS, n))
    means = ndtri((np.arange(SETS) + 0.5) / SETS) / math.sqrt(n)
    return (noise - noise.mean(axis=1, keepdims=True) + means[:, None]).astype(np.float32)


def t_quantile(n: int) -> float:
    """How many standard errors of a mean over n draws its 95 % interval reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - SIGNIFICANCE / 2))
