"""The tests of the warm-up rule and the timed loop."""

import gc

import pytest
from efficientquant_agent.child import timed_loop


@pytest.mark.parametrize(
    ("latency_s", "warm"),
    [
        ([0.01] * 15, True),
        ([0.01] * 14, False),
        ([0.01] * 5 + [0.0104] * 5 + [0.0102] * 5, True),
        ([0.01] * 5 + [0.0106] * 5 + [0.01] * 5, False),
        ([0.05] * 5 + [0.01] * 15, True),
        ([0.012] * 60 + [0.01] * 60, True),
        ([0.012] * 61 + [0.01] * 59, True),
        ([0.012] * 90 + [0.01] * 30, False),
    ],
)
def test_windows(latency_s, warm):
    """Three windows, together the second half of the samples and at least 15, agree within 5 %."""
    assert timed_loop.windows_agree(latency_s) is warm


@pytest.mark.parametrize(
    ("count", "min_count", "min_time_s", "warm"),
    [(20, 20, 0.2, True), (20, 21, 0.2, False), (20, 20, 0.21, False), (40, 10, 0.2, True)],
)
def test_warm_needs_count_and_time(count, min_count, min_time_s, warm):
    """A stable warm-up is over only with enough inferences and enough time."""
    assert timed_loop.is_warm([0.0100001] * count, min_count, min_time_s) is warm


def test_warm_up_gives_up(quick, monkeypatch):
    """A model that never settles is measured after the time limit, marked, and keeps its samples."""
    clock_s = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: (next(clock_s) ** 2) * 1e-3)

    warm_up = timed_loop.warm_up(lambda _: None, [0], quick, lambda _: None)

    assert not warm_up.converged
    assert sum(warm_up.latency_s) >= quick.warmup_max_time_s


@pytest.mark.parametrize(("min_time_s", "min_count", "expected"), [(0.0, 64, 64), (1.0, 64, 100), (0.0, 0, 1)])
def test_stop_rule(quick, monkeypatch, min_time_s, min_count, expected):
    """Measuring stops when the minimum time and the minimum count are both reached, at the end of a chunk."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks) * 0.01)
    measurement = quick._replace(min_time_s=min_time_s, min_count=min_count)

    latency_s = timed_loop.measure(lambda _: None, [0], measurement).latency_s

    assert expected <= len(latency_s) <= expected + 25
    assert list(latency_s) == pytest.approx([0.01] * len(latency_s))


def test_inputs_are_cycled(quick):
    """Inputs are taken in turn, also across chunks, with the garbage collector off."""
    seen = []

    def run_once(staged):
        seen.append(staged)
        assert not gc.isenabled()

    latency_s = timed_loop.measure(run_once, [0, 1, 2], quick._replace(min_time_s=0.0)).latency_s

    assert seen == [i % 3 for i in range(len(latency_s))]
    assert gc.isenabled()


def test_progress(quick):
    """Progress is a fraction that ends at 1."""
    fractions = []

    timed_loop.measure(lambda _: None, [0], quick, fractions.append)

    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
