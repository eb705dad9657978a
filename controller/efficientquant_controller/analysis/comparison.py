"""Comparison of the repeats of two jobs, with an interval."""

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
# Each limit of an interval is wrong at most once in this many times, which makes a 90 % interval.
ONE_IN = 20


class Answer(StrEnum):
    """The answer about the variant, compared with its twin."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    NOT_ENOUGH_DATA = "not enough data"


@dataclass(frozen=True)
class Comparison:
    """An answer with its ratio and interval.

    `ratio` is the twin's median over the variant's own. Less is better, so above 1 the variant is better. `low` and
    `high` limit the ratio with at least 90 % confidence. They are None with too few repeats.
    """

    answer: Answer
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


def compare(twin: Sequence[float], own: Sequence[float], min_effect: float = MIN_EFFECT) -> Comparison:
    """Compare two sets of repeats, where less is better.

    Each value is one repeat's median, above 0. BETTER and WORSE need an interval without 1 and a ratio of at least
    1 + `min_effect`, or at most its inverse. SAME needs an interval within these two. Everything else is
    NOT_ENOUGH_DATA. Raises ValueError when a value is not above 0.
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
    # The interval is for the median of all ratios. It must contain the ratio of the medians too.
    low, high = min(limits[0], ratio), max(limits[1], ratio)
    return Comparison(answer_within(ratio, low, high, min_effect), ratio, low, high)


def ratio_interval(twin: Sequence[float], own: Sequence[float]) -> tuple[float, float] | None:
    """Return the limits of the factor between two distributions of one shape.

    Their confidence is at least 90 %. Returns None with too few values, and always where a side has a single value,
    which says nothing about how its processes differ.

    It is the Mann-Whitney test turned into an interval (Moses, see Hollander, Wolfe & Chicken, Nonparametric
    Statistical Methods, 3rd edition, 4.3, on logarithms): of all n × m ratios, ordered, the k-th from either end,
    with the largest k that the test allows at 5 % on each side. Three values against three are the fewest that allow
    any: k = 1.
    """
    place = _place(len(twin), len(own))
    if place == 0 or 1 in (len(twin), len(own)):
        return None
    ratios = sorted(theirs / ours for theirs, ours in product(twin, own))
    return ratios[place - 1], ratios[-place]


def answer_within(ratio: float, low: float, high: float, min_effect: float = MIN_EFFECT) -> Answer:
    """Return the answer for a ratio and its limits, see `compare`."""
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
    """Return the place of the limits, counted from either end.

    It is the largest k with P(U < k) <= 1 / ONE_IN, or 0 when there is none.
    """
    total, so_far = comb(n + m, n), 0
    for place, count in enumerate(_arrangements(n, m)):
        so_far += count
        if so_far * ONE_IN > total:
            return place
    return 0


def _arrangements(n: int, m: int) -> list[int]:
    """Count the orders of n + m values by their U.

    The result is how many orders have a Mann-Whitney U of 0, 1, … n × m. All orders are equally likely when both sides
    are alike. The counts are the coefficients of the Gaussian binomial (n + m over n): the product of
    (1 - q^(m + i)) / (1 - q^i).
    """
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    return counts
