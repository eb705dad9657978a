"""An interval for the ratio of two percentiles from dependent samples."""

from collections.abc import Sequence
from itertools import count
from math import cbrt, ceil, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

Samples = Sequence[float]
_Array = NDArray[np.float64]

RESAMPLES = 1000
# Fewer samples would give an interval from a handful of blocks. The tier smoke measures this many.
MIN_SAMPLES = 64
# More samples cost time and only narrow an interval that describes one process.
MAX_SAMPLES = 4096
_MIN_BLOCKS = 10
_TAIL = 5.0  # percent on each side: a 90 % interval
# This many resampled values are in memory at once: 8 MiB.
_CHUNK = 1 << 20


def bootstrap_interval(
    theirs: Sequence[Samples],
    own: Sequence[Samples],
    percent: float = 50,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Return the 90 % interval of a ratio of two percentiles.

    The ratio is theirs over own. Each side is the samples of each of its processes, in order. Its value is the median
    of its processes' percentiles. The method is the circular block bootstrap (Politis & Romano 1992): every process is
    rebuilt from blocks of its own samples, `resamples` times, and the limits are the 5th and 95th percentile of the
    ratios. The same samples and seed give the same limits. Returns None with fewer than MIN_SAMPLES samples of a
    process, a sample of 0 or below, or limits beyond a float.
    """
    sides = [[thinned(samples) for samples in side] for side in (theirs, own)]
    if not all(sides) or any(len(samples) < MIN_SAMPLES or min(samples) <= 0 for side in sides for samples in side):
        return None
    draw = np.random.default_rng(seed)
    values = [
        np.median([_resampled_percentiles(np.asarray(samples), percent, resamples, draw) for samples in side], axis=0)
        for side in sides
    ]
    with np.errstate(over="ignore"):
        low, high = np.percentile(values[0] / values[1], [_TAIL, 100 - _TAIL])
    return (float(low), float(high)) if isfinite(high) else None


def block_length(samples: Samples) -> int:
    """Return how many neighbouring samples stay together in a block.

    It is n^(1/3), or twice the lag at which samples no longer correlate if that is more. That lag is the first whose
    autocorrelation is below 2 / sqrt(n), the level of chance. At least ten blocks remain, so that a drift through the
    whole run still gives an interval, though a wider one.
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
    """Return at most MAX_SAMPLES samples: every k-th.

    k is a prime, so that it does not coincide with the cycle of the inputs.
    """
    step = ceil(len(samples) / MAX_SAMPLES)
    return samples if step <= 1 else samples[:: next(k for k in count(max(step, 3)) if _is_prime(k))]


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(sqrt(number)) + 1))


def _resampled_percentiles(samples: _Array, percent: float, resamples: int, draw: np.random.Generator) -> _Array:
    """Return the percentile of each resample, as an array (resamples,).

    Blocks begin anywhere and wrap around the end.
    """
    n, length = len(samples), block_length(samples)  # type: ignore[arg-type]
    blocks = ceil(n / length)
    percentiles = np.empty(resamples)
    rows = max(1, _CHUNK // n)
    for first in range(0, resamples, rows):
        starts = draw.integers(n, size=(min(rows, resamples - first), blocks, 1))
        places = (starts + np.arange(length)) % n
        drawn = samples[places.reshape(len(starts), -1)[:, :n]]
        percentiles[first : first + len(starts)] = np.percentile(drawn, percent, axis=1)
    return percentiles
