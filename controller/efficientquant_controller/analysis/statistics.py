"""Summaries of latency samples, recomputable from the raw samples that the store keeps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class LatencySummary:
    """What a series of latencies looks like; percentiles by linear interpolation, spread as sample statistics."""

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
    """Interpolate linearly between the two nearest of `ordered` (ascending), at rank (n - 1) × percent / 100.

    It is numpy's default and Hyndman & Fan's type 7 (The American Statistician 50, 1996).
    """
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def summarize(samples_s: Sequence[float]) -> LatencySummary:
    """Summarize latencies in seconds; raises ValueError when there is none or one is not a finite number."""
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
