"""Summaries of latency samples.

They can be recomputed from the raw samples, which the store keeps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

# The version of this package's numbers, which is stored with them. Increment it with every change that gives another
# number for the same samples.
STATISTICS_VERSION = 2
# The confidence of the bounds, as in MLPerf's rules, with a tolerance of 0.
CONFIDENCE = 0.99


@dataclass(frozen=True)
class LatencySummary:
    """A summary of latencies.

    Percentiles are linearly interpolated, and the spread is that of a sample.
    """

    count: int
    min_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float
    mean_s: float
    standard_deviation_s: float  # of the sample (n - 1); 0 for one sample
    cov: float  # coefficient of variation: standard deviation over mean; 0 where the mean is 0
    mad_s: float  # median absolute deviation from the median, unscaled


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of `ordered`, which is ascending.

    It interpolates linearly between the two values nearest to rank (n - 1) × percent / 100. This is numpy's default and
    Hyndman & Fan's type 7 (The American Statistician 50, 1996).
    """
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def summarize(samples_s: Sequence[float]) -> LatencySummary:
    """Summarize latencies in seconds.

    Raises ValueError when there is none, or one is not a finite number.
    """
    if not samples_s:
        raise ValueError("no samples to summarize")
    for index, sample in enumerate(samples_s):
        if not math.isfinite(sample):
            raise ValueError(f"sample {index} of {len(samples_s)} is {sample}, not a finite number")
    ordered = sorted(samples_s)
    mean_s = math.fsum(ordered) / len(ordered)
    squares = math.fsum((sample - mean_s) ** 2 for sample in ordered)
    standard_deviation_s = math.sqrt(squares / (len(ordered) - 1)) if len(ordered) > 1 else 0.0
    p50_s = percentile(ordered, 50)
    return LatencySummary(
        count=len(ordered),
        min_s=ordered[0],
        p50_s=p50_s,
        p90_s=percentile(ordered, 90),
        p95_s=percentile(ordered, 95),
        p99_s=percentile(ordered, 99),
        max_s=ordered[-1],
        mean_s=mean_s,
        standard_deviation_s=standard_deviation_s,
        cov=standard_deviation_s / mean_s if mean_s else 0.0,
        mad_s=median(abs(sample - p50_s) for sample in ordered),
    )


@dataclass(frozen=True)
class Bound:
    """A latency that the percentile does not exceed, at CONFIDENCE.

    `value_s` is None with too few samples. `samples_missing` is how many more give a bound. `discarded` samples are
    slower than the bound.
    """

    percent: int
    value_s: float | None
    samples_missing: int
    discarded: int

    def __str__(self) -> str:
        """Return the bound, or the number of missing samples, as text."""
        if self.value_s is None:
            return f"not enough samples for p{self.percent} ({self.samples_missing} more are needed)"
        return f"p{self.percent} <= {self.value_s} s at {CONFIDENCE:.0%} confidence"


def upper_bound(samples_s: Sequence[float], percent: int) -> Bound:
    """Bound a percentile from above by MLPerf Inference's early-stopping rule.

    The confidence is 99 %, the tolerance 0. With t samples over the true percentile and h under it, n = h + t, the rule
    requires the smallest h whose chance of so few samples over it, I_p(h, t + 1), is at most 1 %. The estimate is the
    t-th slowest sample for the largest t that n samples allow: t - 1 are discarded. t is at least 1, which needs 64
    samples for p90 and 662 for p99. Samples are assumed to be independent. Sources: MLCommons, inference_rules,
    appendix "Early stopping", and LoadGen's single stream.
    """
    if missing := samples_missing(len(samples_s), percent):
        return Bound(percent, None, missing, 0)
    over = overlatencies(len(samples_s), percent)
    return Bound(percent, sorted(samples_s)[-over], 0, over - 1)


def overlatencies(count: int, percent: int) -> int:
    """Return the largest t that MLPerf's early-stopping rule allows.

    It is the largest t with P(at most t of `count` lie over the percentile) = I_p(count - t, t + 1) <= 1 %, or 0 when
    there is none. Each term of the binomial sum follows from the previous term. The terms that are left out before the
    first one weigh less than 1e-20.
    """
    under, over = percent / 100, (100 - percent) / 100
    mean, spread = count * over, math.sqrt(count * over * under)
    k = max(0, math.floor(mean - 10 * spread))
    logarithm = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
    term = math.exp(logarithm + k * math.log(over) + (count - k) * math.log(under))
    chance = 0.0
    while k <= count:
        chance += term
        if chance > 1 - CONFIDENCE:
            return max(k - 1, 0)
        term *= (count - k) / (k + 1) * over / under
        k += 1
    return count  # not reached: the chances add up to 1


def samples_missing(count: int, percent: int) -> int:
    """Return how many more samples a bound of the percentile needs."""
    return max(0, samples_needed(percent) - count)


@cache
def samples_needed(percent: int) -> int:
    """Return the fewest samples that bound a percentile.

    They are 64 for p90 and 662 for p99.
    """
    count = 2
    while overlatencies(count, percent) < 1:
        count += 1
    return count


def drift(samples_s: Sequence[float]) -> float | None:
    """Return the relative change of the median over the run.

    It is the last third's median over the first third's, less 1: 0.02 is 2 % slower at the end. Returns None for fewer
    than 3 samples, and when the first third's median is 0.
    """
    third = len(samples_s) // 3
    if third == 0:
        return None
    first_s, last_s = median(samples_s[:third]), median(samples_s[-third:])
    return last_s / first_s - 1 if first_s else None
