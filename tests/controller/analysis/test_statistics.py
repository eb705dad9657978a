"""Summaries of samples, against numpy."""

import math

import numpy as np
import pytest
from efficientquant_controller.analysis.statistics import percentile, summarize
from hypothesis import given
from hypothesis import strategies as st

latencies = st.lists(st.floats(min_value=1e-6, max_value=1e3), min_size=1, max_size=300)


@given(latencies, st.sampled_from([0, 50, 90, 95, 99, 100]))
def test_percentile(samples: list[float], percent: float) -> None:
    """A percentile is numpy's default one."""
    assert percentile(sorted(samples), percent) == pytest.approx(np.percentile(samples, percent), rel=1e-12)


@given(latencies)
def test_moments(samples: list[float]) -> None:
    """Count, extremes, mean and spread are numpy's."""
    summary = summarize(samples)
    deviation = np.std(samples, ddof=1) if len(samples) > 1 else 0.0
    assert (summary.count, summary.min_s, summary.max_s) == (len(samples), min(samples), max(samples))
    assert summary.mean_s == pytest.approx(np.mean(samples), rel=1e-12)
    assert summary.standard_deviation_s == pytest.approx(deviation, rel=1e-6, abs=1e-12 * max(samples))
    assert summary.mad_s == pytest.approx(np.median(np.abs(samples - np.median(samples))), rel=1e-9, abs=1e-15)


def test_by_hand() -> None:
    """Five samples give the numbers that a person computes by hand."""
    summary = summarize([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (summary.p50_s, summary.p90_s, summary.p95_s, summary.p99_s) == (3.0, 4.6, 4.8, 4.96)
    assert (summary.mean_s, summary.mad_s) == (3.0, 1.0)
    assert summary.standard_deviation_s == math.sqrt(2.5)
    assert summary.cov == math.sqrt(2.5) / 3


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_refused(samples: list[float]) -> None:
    """No samples, and samples that are no finite numbers, are refused."""
    with pytest.raises(ValueError, match=r"no samples|not a finite number"):
        summarize(samples)
