"""An interval for the ratio of two percentiles from raw samples, which follow each other and are not independent."""

from collections.abc import Sequence
from itertools import count
from math import cbrt, ceil, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

Samples = Sequence[float]
_Array = NDArray[np.float64]

RESAMPLES = 1000
# Below this an interval would rest on a handful of blocks; it is the count of the tier smoke.
MIN_SAMPLES = 64
# More samples narrow an interval that only speaks of one process, and cost time.
MAX_SAMPLES = 4096
_MIN_BLOCKS = 10
_TAIL = 5.0  # percent on each side: a 90 % interval
# Samples of that many resamples are in memory at once: 8 MiB.
_CHUNK = 1 << 20


def bootstrap_interval(
    theirs: Sequence[Samples],
    own: Sequence[Samples],
    percent: float = 50,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Limit the ratio of two sides' percentiles, theirs over own, with 90 % confidence.

    Each side is the samples of each of its processes, in order; its value is the median of its processes' percentiles.
    It is the circular block bootstrap (Politis & Romano 1992): every process is put together again from blocks of its
    own samples, `resamples` times, and the limits are the 5th and 95th percentile of the ratios. The same samples and
    seed give the same limits. None with too few samples, or one of 0.
    """
    sides = [[thinned(samples) for samples in side] for side in (theirs, own)]
    if not all(sides) or any(len(samples) < MIN_SAMPLES or min(samples) <= 0 for side in sides for samples in side):
        return None
    draw = np.random.default_rng(seed)
    values = [
        np.median([_resampled_percentiles(np.asarray(one), percent, resamples, draw) for one in side], axis=0)
        for side in sides
    ]
    with np.errstate(over="ignore"):
        low, high = np.percentile(values[0] / values[1], [_TAIL, 100 - _TAIL])
    return (float(low), float(high)) if isfinite(high) else None


def block_length(samples: Samples) -> int:
    """Return how many neighbours stay together: n^(1/3), or twice the lag at which they no longer resemble each other.

    That lag is the first whose autocorrelation is below 2 / sqrt(n), where chance alone would put it. Ten blocks at
    least remain, so that a drift through the whole run widens the interval and cannot stop it.
    """
    n = len(samples)
    longest = max(1, n // _MIN_BLOCKS)
    centred = np.asarray(samples, np.float64) - np.mean(samples)
    power = float(centred @ centred)
    lag = 1
    while lag < longest and power and float(centred[:-lag] @ centred[lag:]) > power * 2 / sqrt(n):
        lag += 1
    return min(longest, max(ceil(cbrt(n)), 2 * lag))


def thinned(samples: Samples) -> Samples:
    """Leave MAX_SAMPLES at most: every k-th, where k is a prime, lest it falls in step with the inputs' cycle."""
    fewest = ceil(len(samples) / MAX_SAMPLES)
    return samples if fewest <= 1 else samples[:: next(k for k in count(max(fewest, 3)) if _is_prime(k))]


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(sqrt(number)) + 1))


def _resampled_percentiles(samples: _Array, percent: float, resamples: int, draw: np.random.Generator) -> _Array:
    """Return the percentile of each resample (resamples,): blocks that begin anywhere and go round the end."""
    n, length = len(samples), block_length(samples)  # type: ignore[arg-type]
    blocks = ceil(n / length)
    found = np.empty(resamples)
    rows = max(1, _CHUNK // n)
    for first in range(0, resamples, rows):
        starts = draw.integers(n, size=(min(rows, resamples - first), blocks, 1))
        places = (starts + np.arange(length)) % n
        drawn = samples[places.reshape(len(starts), -1)[:, :n]]
        found[first : first + len(starts)] = np.percentile(drawn, percent, axis=1)
    return found
