"""The warm-up rule and the timed loop, for any runtime."""

import gc
import statistics
import time
from array import array
from typing import Any, Callable, NamedTuple, Optional, Sequence

from efficientquant_agent.records import Measurement

WINDOW_TOLERANCE = 0.05
_WINDOW_COUNT = 3
_WINDOW_MIN_SAMPLES = 5
# The duration of one chunk: long compared with the work between two chunks, short enough for a live progress bar.
_CHUNK_S = 0.25
_CHUNK_MAX_SAMPLES = 65536

# progress(fraction), called between chunks, never inside the timed loop
Progress = Callable[[float], None]


class WarmUp(NamedTuple):
    """Latencies of the warm-up in seconds.

    `converged` is true when it ended by the rule, and false when it ended by its time limit.
    """

    latency_s: Sequence[float]
    converged: bool


class Latencies(NamedTuple):
    """Latencies of the timed loop in seconds.

    They are by the host's clock, and also by the device's where it has one.
    """

    latency_s: Sequence[float]
    device_latency_s: Sequence[float]


def windows_agree(latency_s: Sequence[float]) -> bool:
    """Tell whether the last three windows of latencies agree.

    Their medians must be within 5 % of the smallest. A window is a sixth of all samples and at least 5, so that the
    three cover the second half of a long warm-up.
    """
    size = max(_WINDOW_MIN_SAMPLES, len(latency_s) // 6)
    if len(latency_s) < _WINDOW_COUNT * size:
        return False
    recent = latency_s[len(latency_s) - _WINDOW_COUNT * size :]
    medians = [statistics.median(recent[i * size : (i + 1) * size]) for i in range(_WINDOW_COUNT)]
    return max(medians) <= min(medians) * (1 + WINDOW_TOLERANCE)


def is_warm(latency_s: Sequence[float], min_count: int, min_time_s: float) -> bool:
    """Tell whether a warm-up with these latencies is over.

    It needs enough inferences, enough time, and stable latencies.
    """
    return len(latency_s) >= min_count and sum(latency_s) >= min_time_s and windows_agree(latency_s)


def warm_up(
    run_once: Callable[[Any], Any], inputs: Sequence[Any], measurement: Measurement, progress: Progress
) -> WarmUp:
    """Run until the warm-up rule holds or its time limit is reached.

    Every sample is kept.
    """
    latency_s = array("d")
    chunk = array("d", bytes(8 * _WINDOW_MIN_SAMPLES))
    while sum(latency_s) < measurement.warmup_max_time_s:
        _time_chunk(run_once, inputs, chunk, len(latency_s))
        latency_s.extend(chunk)
        if is_warm(latency_s, measurement.warmup_min_count, measurement.warmup_min_time_s):
            return WarmUp(latency_s, True)
        chunk = _next_chunk(latency_s, _CHUNK_S / 5)
        progress(min(1.0, sum(latency_s) / measurement.warmup_max_time_s))
    return WarmUp(latency_s, False)


def measure(
    run_once: Callable[[Any], Any],
    inputs: Sequence[Any],
    measurement: Measurement,
    progress: Optional[Progress] = None,
    device_s: Optional[Callable[[], float]] = None,
) -> Latencies:
    """Return the latency of every inference in seconds, in order.

    With `device_s`, the device's own times are returned too. Stops when the minimum time and the minimum count are both
    reached. The garbage collector is off meanwhile.
    """
    latency_s, device_latency_s = array("d"), array("d")
    chunk = array("d", bytes(8))
    elapsed_s = 0.0
    gc.collect()
    gc.disable()
    try:
        while elapsed_s < measurement.min_time_s or len(latency_s) < max(1, measurement.min_count):
            if device_s is None:
                _time_chunk(run_once, inputs, chunk, len(latency_s))
            else:
                device_chunk = array("d", bytes(8 * len(chunk)))
                _time_chunk_twice(run_once, device_s, inputs, chunk, device_chunk, len(latency_s))
                device_latency_s.extend(device_chunk)
            latency_s.extend(chunk)
            elapsed_s += sum(chunk)
            chunk = _next_chunk(latency_s, _CHUNK_S)
            if progress is not None:
                progress(_fraction(elapsed_s, len(latency_s), measurement))
    finally:
        gc.enable()
    return Latencies(latency_s, device_latency_s)


def _time_chunk(run_once: Callable[[Any], Any], inputs: Sequence[Any], samples: "array[float]", offset: int) -> None:
    """Fill `samples` with latencies, taking inputs in turn from `offset`."""
    clock = time.perf_counter
    input_count = len(inputs)
    for i in range(len(samples)):
        staged = inputs[(offset + i) % input_count]
        started_s = clock()
        run_once(staged)
        samples[i] = clock() - started_s


def _time_chunk_twice(
    run_once: Callable[[Any], Any],
    device_s: Callable[[], float],
    inputs: Sequence[Any],
    samples: "array[float]",
    device_samples: "array[float]",
    offset: int,
) -> None:
    """Fill `samples` and `device_samples` with the latencies of both clocks.

    The device's own time is read after the host's clock has stopped.
    """
    clock = time.perf_counter
    input_count = len(inputs)
    for i in range(len(samples)):
        staged = inputs[(offset + i) % input_count]
        started_s = clock()
        run_once(staged)
        samples[i] = clock() - started_s
        device_samples[i] = device_s()


def _next_chunk(latency_s: Sequence[float], duration_s: float) -> "array[float]":
    """Return an array for about `duration_s` of further samples.

    Its length is estimated from the last few samples.
    """
    typical_s = max(statistics.median(latency_s[-9:]), 1e-9)
    return array("d", bytes(8 * int(min(max(1, duration_s / typical_s), _CHUNK_MAX_SAMPLES))))


def _fraction(elapsed_s: float, count: int, measurement: Measurement) -> float:
    by_time = elapsed_s / measurement.min_time_s if measurement.min_time_s > 0 else 1.0
    by_count = count / measurement.min_count if measurement.min_count > 0 else 1.0
    return min(1.0, by_time, by_count)
