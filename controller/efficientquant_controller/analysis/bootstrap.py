"""An interval for the ratio of two percentiles from raw samples, which follow each other and are not independent."""

import random
from collections.abc import Sequence
from itertools import count
from math import cbrt, ceil, sqrt
from operator import mul
from statistics import fmean, median

from efficientquant_controller.analysis.statistics import percentile

RESAMPLES = 1000
# Below this an interval would rest on a handful of blocks; it is the count of the tier smoke.
MIN_SAMPLES = 64
# More samples narrow an interval that only speaks of one process, and cost seconds.
MAX_SAMPLES = 4096
_MIN_BLOCKS = 10
_TAIL = 5.0  # percent on each side: a 90 % interval


def bootstrap_interval(
    theirs: Sequence[Sequence[float]],
    own: Sequence[Sequence[float]],
    percent: float = 50,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Limit the ratio of two sides' percentiles, theirs over own, with 90 % confidence; None with too few samples.

    Each side is the samples of each of its processes, in order; its value is the median of its processes' percentiles.
    It is the circular block bootstrap (Politis & Romano 1992): every process is put together anew from blocks of its
    own samples, `resamples` times, and the limits are the 5th and 95th percentile of the ratios. The same samples and
    seed give the same limits.
    """
    sides = [[thinned(samples) for samples in side] for side in (theirs, own)]
    if not all(sides) or any(len(samples) < MIN_SAMPLES for side in sides for samples in side):
        return None
    draw = random.Random(seed)  # noqa: S311 – no secret: the same answer each time
    lengths = [[block_length(samples) for samples in side] for side in sides]

    def value(side: int) -> float:
        pairs = zip(sides[side], lengths[side], strict=True)
        return median(percentile(sorted(_resample(samples, length, draw)), percent) for samples, length in pairs)

    ratios = sorted(value(0) / value(1) for _ in range(resamples))
    return percentile(ratios, _TAIL), percentile(ratios, 100 - _TAIL)


def block_length(samples: Sequence[float]) -> int:
    """How many neighbours stay together: n^(1/3), or twice the lag at which they no longer resemble each other.

    That lag is the first whose autocorrelation is below 2 / sqrt(n), where chance alone would put it. Ten blocks at
    least remain, so that a drift through the whole run widens the interval and cannot stop it.
    """
    n = len(samples)
    longest = max(1, n // _MIN_BLOCKS)
    mean = fmean(samples)
    centred = [sample - mean for sample in samples]
    power = sum(map(mul, centred, centred))
    lag = 1
    while lag < longest and power and sum(map(mul, centred, centred[lag:])) > power * 2 / sqrt(n):
        lag += 1
    return min(longest, max(ceil(cbrt(n)), 2 * lag))


def thinned(samples: Sequence[float]) -> Sequence[float]:
    """Leave MAX_SAMPLES at most: every k-th, where k is a prime, lest it falls in step with the inputs' cycle."""
    fewest = ceil(len(samples) / MAX_SAMPLES)
    return samples if fewest <= 1 else samples[:: next(k for k in count(max(fewest, 3)) if _is_prime(k))]


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(sqrt(number)) + 1))


def _resample(samples: Sequence[float], length: int, draw: random.Random) -> list[float]:
    """As many samples, in blocks that begin anywhere and go round the end."""
    n = len(samples)
    ring = [*samples, *samples[:length]]
    found: list[float] = []
    while len(found) < n:
        start = draw.randrange(n)
        found += ring[start : start + length]
    return found[:n]
