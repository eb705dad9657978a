"""Tests that intervals from raw samples are reproducible and as often right as they claim."""

import random
from collections.abc import Callable
from itertools import accumulate

import pytest
from efficientquant_controller.analysis.bootstrap import (
    MAX_SAMPLES,
    MIN_SAMPLES,
    block_length,
    bootstrap_interval,
    thinned,
)


def independent(draw: random.Random, n: int) -> list[float]:
    return [draw.lognormvariate(0, 0.1) for _ in range(n)]


def sluggish(draw: random.Random, n: int) -> list[float]:
    """Return values with an autocorrelation of 0.8."""
    noise = (draw.gauss(0, 0.1) for _ in range(n))
    return [10 + value for value in accumulate(noise, lambda before, new: 0.8 * before + new)]


def test_the_same_samples_give_the_same_limits() -> None:
    """The limits depend only on the samples and the seed."""
    draw = random.Random(1)
    sides = [[independent(draw, 100)], [independent(draw, 100)]]

    first, again, other = (bootstrap_interval(*sides, seed=seed, resamples=100) for seed in (0, 0, 1))

    assert first == again != other


def test_the_interval_holds_the_ratio() -> None:
    """Latencies that are twice as long have a ratio of about 2, within the limits."""
    draw = random.Random(2)

    limits = bootstrap_interval([[2 * latency for latency in independent(draw, 400)]], [independent(draw, 400)])

    assert limits is not None
    assert 1.9 < limits[0] < 2 < limits[1] < 2.1


def test_a_tail_has_an_interval_of_its_own() -> None:
    """A tail changes the interval of the 99th percentile, and not that of the median."""
    draw = random.Random(3)
    quiet = independent(draw, 1000)
    tail = [3 * latency if n % 50 == 0 else latency for n, latency in enumerate(quiet)]

    median, slowest = (bootstrap_interval([tail], [quiet], percent, resamples=200) for percent in (50, 99))

    assert median is not None
    assert slowest is not None
    assert median[0] < 1.05 < 2 < slowest[0]


@pytest.mark.parametrize("n", [MIN_SAMPLES - 1, 0])
def test_too_few_samples_have_none(n: int) -> None:
    """A process with too few samples, a side without samples, and a sample of 0 give no interval."""
    enough = [1.0 + k / 100 for k in range(MIN_SAMPLES)]

    assert bootstrap_interval([enough], [enough, enough[:n]], resamples=10) is None
    assert bootstrap_interval([], [enough], resamples=10) is None
    assert bootstrap_interval([enough], [[0.0, *enough]], resamples=10) is None
    assert bootstrap_interval([enough], [enough], resamples=10) is not None


@pytest.mark.parametrize("make", [independent, sluggish])
def test_a_limit_is_wrong_about_once_in_twenty(make: Callable[[random.Random, int], list[float]]) -> None:
    """Of 200 pairs without a difference at most 9 %, plus four standard errors, have a lower limit above 1.

    The goal is 5 %. 200 samples with an autocorrelation of 0.8 give few blocks. Without blocks it would be 27 %.
    """
    draw = random.Random(4)

    wrong = 0
    for seed in range(200):
        limits = bootstrap_interval([make(draw, 200)], [make(draw, 200)], seed=seed, resamples=100)
        wrong += limits is not None and limits[0] > 1

    assert wrong / 200 <= 0.09 + 4 * (0.05 * 0.95 / 200) ** 0.5


def test_samples_that_resemble_their_neighbours_stay_together() -> None:
    """Independent samples get blocks of n^(1/3), sluggish samples longer blocks, and a drift the longest."""
    draw = random.Random(5)

    lengths = [block_length(samples) for samples in (independent(draw, 1000), sluggish(draw, 1000), range(1000))]

    assert lengths[0] == 10
    assert 10 < lengths[1] < 100
    assert lengths[2] == 100


def test_equal_samples_are_no_trouble() -> None:
    """Equal samples give an interval without width."""
    assert bootstrap_interval([[2.0] * 100], [[1.0] * 100], resamples=10) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("n", "kept"), [(100, 100), (MAX_SAMPLES, MAX_SAMPLES), (2 * MAX_SAMPLES, 2731), (600_000, 4027)]
)
def test_long_runs_are_thinned_out_of_step_with_the_inputs(n: int, kept: int) -> None:
    """Every k-th sample stays, with a prime k, so that all eight inputs remain."""
    remaining = thinned(range(n))

    assert len(remaining) == kept <= MAX_SAMPLES
    assert {sample % 8 for sample in remaining} == set(range(8))
