"""Repeats of one job beside those of another: how many times better, and within which interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import product
from math import comb, isfinite
from statistics import median

# The least effect that counts unless a caller names another: 0.05 is 5 %.
MIN_EFFECT = 0.05
# The answer where a rule forbids the comparison.
REFUSED = "not comparable"
# The chance of each limit of an interval to be wrong is at most one in this many: a 90 % interval.
ONE_IN = 20


class Answer(StrEnum):
    """What a comparison says of the variant."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    NOT_ENOUGH_DATA = "not enough data"


@dataclass(frozen=True)
class Comparison:
    """`ratio` is the twin's median over the variant's own: above 1 the variant is better, since less is better.

    `low` and `high` limit the ratio with at least 90 % confidence; None where there are too few repeats for that.
    """

    answer: Answer
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


def compare(twin: Sequence[float], own: Sequence[float], min_effect: float = MIN_EFFECT) -> Comparison:
    """Compare two sets of repeats of which less is better: each value is one repeat's median, above 0.

    Better or worse takes an interval that leaves out 1 and a ratio of at least 1 + `min_effect`, or at most its
    inverse. The same is an interval within these two. Everything else is not enough data. Raises ValueError for a
    value that is not above 0.
    """
    if not all(value > 0 for value in (*twin, *own)):
        raise ValueError(f"a repeat's value is not above 0: {[*twin, *own]}")
    if not twin or not own:
        return Comparison(Answer.NOT_ENOUGH_DATA)
    ratio = median(twin) / median(own)
    limits = ratio_interval(twin, own)
    if not all(map(isfinite, (ratio, *(limits or ())))):  # beyond what a float holds
        return Comparison(Answer.NOT_ENOUGH_DATA)
    if limits is None:
        return Comparison(Answer.NOT_ENOUGH_DATA, ratio)
    # The interval is one for the median of all ratios; it must hold the ratio of the medians too.
    low, high = min(limits[0], ratio), max(limits[1], ratio)
    return Comparison(answer_within(ratio, low, high, min_effect), ratio, low, high)


def ratio_interval(twin: Sequence[float], own: Sequence[float]) -> tuple[float, float] | None:
    """Limits of the factor between two distributions of one shape, at least 90 % confident; None with too few values.

    It is the Mann-Whitney test turned into an interval (Moses; Hollander, Wolfe & Chicken, Nonparametric Statistical
    Methods, 3rd edition, 4.3, on logarithms): of all n × m ratios, ordered, the k-th from either end, with the largest
    k that the test allows at 5 % on each side. Three values against three are the fewest that allow any: k = 1.
    """
    place = _place(len(twin), len(own))
    if place == 0:
        return None
    ratios = sorted(one / other for one, other in product(twin, own))
    return ratios[place - 1], ratios[-place]


def answer_within(ratio: float, low: float, high: float, min_effect: float = MIN_EFFECT) -> Answer:
    """Return what a ratio and its limits answer; see `compare`."""
    least = 1 + min_effect
    if low > 1 and ratio >= least:
        return Answer.BETTER
    if high < 1 and ratio <= 1 / least:
        return Answer.WORSE
    if low >= 1 / least and high <= least:
        return Answer.SAME
    return Answer.NOT_ENOUGH_DATA


@cache
def _place(n: int, m: int) -> int:
    """How many places from either end the limits lie: the largest k with P(U < k) <= 1 / ONE_IN; 0 for none."""
    total, so_far = comb(n + m, n), 0
    for place, count in enumerate(_arrangements(n, m)):
        so_far += count
        if so_far * ONE_IN > total:
            return place
    return 0


def _arrangements(n: int, m: int) -> list[int]:
    """In how many of the orders of n + m values Mann and Whitney's U is 0, 1, … n × m, where both are alike.

    They are the coefficients of the Gaussian binomial (n + m over n): the product of (1 - q^(m + i)) / (1 - q^i).
    """
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    return counts
