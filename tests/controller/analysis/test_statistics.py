"""Tests of summaries of samples, mostly against numpy."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from efficientquant_controller.analysis.statistics import (
    drift,
    overlatencies,
    percentile,
    samples_needed,
    summarize,
    upper_bound,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

latencies = st.lists(st.floats(min_value=1e-6, max_value=1e3), min_size=1, max_size=300)


@given(latencies, st.sampled_from([0, 50, 90, 95, 99, 100]))
def test_percentile(samples: list[float], percent: float) -> None:
    """A percentile equals numpy's default percentile."""
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
    """Five samples give the numbers that were computed by hand."""
    summary = summarize([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (summary.p50_s, summary.p90_s, summary.p95_s, summary.p99_s) == (3.0, 4.6, 4.8, 4.96)
    assert (summary.mean_s, summary.mad_s) == (3.0, 1.0)
    assert summary.standard_deviation_s == math.sqrt(2.5)
    assert summary.cov == math.sqrt(2.5) / 3


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_refused(samples: list[float]) -> None:
    """No samples, and samples that are not finite, raise ValueError."""
    with pytest.raises(ValueError, match=r"no samples|not a finite number"):
        summarize(samples)


def exact_chance(over: int, count: int, percent: int) -> Fraction:
    """Return P(at most `over` of `count` lie over the percentile) exactly."""
    rate = Fraction(100 - percent, 100)
    return sum(math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(over + 1))


@pytest.mark.parametrize(("percent", "fewest"), [(90, 64), (99, 662)])
def test_the_fewest_samples_of_the_rule_book(percent: int, fewest: int) -> None:
    """64 samples bound p90 and 662 bound p99, and with one sample less one is missing."""
    samples = [float(n) for n in range(fewest)]

    enough, short, none = (upper_bound(taken, percent) for taken in (samples, samples[1:], []))

    assert (enough.value_s, enough.samples_missing, enough.discarded) == (fewest - 1.0, 0, 0)
    assert (short.value_s, short.samples_missing) == (None, 1)
    assert none.samples_missing == samples_needed(percent) == fewest
    assert str(short) == f"not enough samples for p{percent} (1 more are needed)"


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
@pytest.mark.parametrize("count", [63, 64, 65, 661, 662, 663, 1024, 1500])
def test_as_many_are_over_as_exact_arithmetic_allows(percent: int, count: int) -> None:
    """As many samples are over the percentile as keep the exact chance at most 1 %."""
    over = overlatencies(count, percent)

    assert over == 0 or exact_chance(over, count, percent) <= Fraction(1, 100)
    assert exact_chance(over + 1, count, percent) > Fraction(1, 100)


@pytest.mark.parametrize("count", [10_000, 270_336, 600_000])
@pytest.mark.parametrize("percent", [90, 99])
def test_as_many_are_over_as_the_incomplete_beta_function_allows(percent: int, count: int) -> None:
    """For long runs t agrees with I_p(n - t, t + 1), the form in MLPerf's rules."""
    over = overlatencies(count, percent)

    assert special.betainc(count - over, over + 1, percent / 100) <= 0.01
    assert special.betainc(count - over - 1, over + 2, percent / 100) > 0.01


def test_the_bound_is_the_t_th_slowest() -> None:
    """The bound of p90 is the t-th slowest of 1,024 samples and above p90 itself."""
    samples = [float(n) for n in range(1024)]
    random.Random(0).shuffle(samples)

    bound = upper_bound(samples, 90)

    assert (bound.discarded, bound.value_s) == (overlatencies(1024, 90) - 1, 1024.0 - overlatencies(1024, 90))
    assert bound.value_s > summarize(samples).p90_s


def test_a_bound_is_too_low_at_most_once_in_a_hundred() -> None:
    """Of 4,000 runs of 100 samples at most 1 %, plus four standard errors, bound p90 too low."""
    draw = random.Random(0)

    low = sum((upper_bound([draw.random() for _ in range(100)], 90).value_s or 0) < 0.9 for _ in range(4000))

    assert low / 4000 <= 0.01 + 4 * (0.01 * 0.99 / 4000) ** 0.5


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([1.0] * 3 + [9.0] * 3 + [1.5] * 3, 0.5),
        ([2.0, 2.0, 2.0, 5.0, 1.0, 1.0, 1.0], -0.5),  # the middle may be longer than a third
        ([2.0, 3.0], None),
        ([0.0, 1.0, 1.0], None),
    ],
)
def test_drift(samples: list[float], expected: float | None) -> None:
    """The drift compares the medians of the last and the first third only."""
    assert drift(samples) == expected
