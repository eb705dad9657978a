"""CUDA's memory, events and graphs, by libcudart and by pycuda."""

import contextlib
import ctypes
import statistics
import time

from efficientquant_agent.backends import cudart
from efficientquant_agent.backends.cuda_from_pycuda import Pycuda, find_pycuda

from gpu_check.rows import Absent, Seen

BUFFER_BYTES = 1 << 20
# Small copies, so that the time of the calls counts.
SMALL_BYTES = 1 << 12
ROUND_TRIPS = 2000


def check() -> Seen:
    """Copy bytes to the device and back, and compare them.

    Copies use pinned and mapped memory, and a CUDA graph. Raises Absent without the library.
    """
    try:
        cuda = cudart.open_library()
    except cudart.CudaError as error:
        raise Absent(str(error)) from error
    yield "versions", "runtime {}, driver {}".format(cuda.runtime_version(), cuda.driver_version())
    free_bytes = cuda.free_bytes()
    with _opened(cuda) as (device, stream_and_events):
        for kind in ("pinned", "mapped"):
            try:
                with _buffers(cuda, kind) as (source, target):
                    seen = _round_trip(cuda, device, source, target, stream_and_events)
                    yield "{} round trip of 1 MiB".format(kind), seen
                    yield "{} by a CUDA graph".format(kind), _graph(cuda, device, target, stream_and_events[0])
            except cudart.CudaError as error:  # the other kind may work
                yield kind, error
    yield "memory", "{} bytes free before, {} bytes after".format(free_bytes, cuda.free_bytes())


def check_pycuda() -> Seen:
    """Check pycuda as libcudart is checked, and compare the times of both.

    Raises Absent without either of them.
    """
    pycuda = find_pycuda()
    if pycuda.driver is None:
        raise Absent(pycuda.problem or "pycuda is not installed")
    try:
        runtime = cudart.open_library()
    except cudart.CudaError as error:
        raise Absent(str(error)) from error
    yield "version", pycuda.version
    medians_s = {}
    for cuda in (runtime, Pycuda(pycuda.driver, pycuda.version, runtime)):
        cuda.begin("spin")
        with _opened(cuda) as (device, stream_and_events), _buffers(cuda, "pinned") as (source, target):
            if cuda is not runtime:
                yield "round trip of 1 MiB", _round_trip(cuda, device, source, target, stream_and_events)
            medians_s[cuda.library] = _median_s(cuda, device, source, target, stream_and_events)
        cuda.end()
    yield (
        "median of {} round trips of 4 KiB".format(ROUND_TRIPS),
        ", ".join("{:.2f} µs by {}".format(median_s * 1e6, library) for library, median_s in medians_s.items()),
    )


@contextlib.contextmanager
def _opened(cuda):
    """Hold device memory, and a stream with two events."""
    stream, start, end = cuda.stream_create(), cuda.event_create(), cuda.event_create()
    device = cuda.malloc(BUFFER_BYTES)
    yield device, (stream, start, end)
    cuda.free(device)
    cuda.event_destroy(start)
    cuda.event_destroy(end)
    cuda.stream_destroy(stream)


@contextlib.contextmanager
def _buffers(cuda, kind):
    """Hold two buffers of host memory."""
    source, target = cuda.host_alloc(BUFFER_BYTES, kind), cuda.host_alloc(BUFFER_BYTES, kind)
    yield source, target
    cuda.host_free(source)
    cuda.host_free(target)


def _median_s(cuda, device, source, target, stream_and_events):
    """Return the host's median time of a small round trip."""
    stream, start, end = stream_and_events
    times_s = []
    for _ in range(ROUND_TRIPS):
        started_s = time.perf_counter()
        cuda.event_record(start, stream)
        cuda.copy_to_device(device, source.host, SMALL_BYTES, stream)
        cuda.copy_to_host(target.host, device, SMALL_BYTES, stream)
        cuda.event_record(end, stream)
        cuda.stream_synchronize(stream)
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s)


def _round_trip(cuda, device, source, target, stream_and_events):
    """Copy there and back, and return the times by events and host.

    Returns an AssertionError when the time by events is not within the host's time. Raises AssertionError for other
    bytes.
    """
    stream, start, end = stream_and_events
    ctypes.memset(source.host, 0x5A, BUFFER_BYTES)
    ctypes.memset(target.host, 0, BUFFER_BYTES)
    started_s = time.perf_counter()
    cuda.event_record(start, stream)
    cuda.copy_to_device(device, source.host, BUFFER_BYTES, stream)
    cuda.copy_to_host(target.host, device, BUFFER_BYTES, stream)
    cuda.event_record(end, stream)
    cuda.stream_synchronize(stream)
    host_s, device_s = time.perf_counter() - started_s, cuda.elapsed_s(start, end)
    _require_same(target)
    if not 0 < device_s <= host_s * 1.05:
        return AssertionError("{:.1f} µs by events, {:.1f} µs by the host's clock".format(device_s * 1e6, host_s * 1e6))
    return "the same bytes; {:.1f} µs by events, {:.1f} µs by the host's clock".format(device_s * 1e6, host_s * 1e6)


def _graph(cuda, device, target, stream):
    ctypes.memset(target.host, 0, BUFFER_BYTES)
    with cuda.capture(stream) as captured:
        cuda.copy_to_host(target.host, device, BUFFER_BYTES, stream)
    if ctypes.string_at(target.host, 1) != b"\0":
        return AssertionError("the copy was done while it was captured")
    cuda.graph_launch(captured[0], stream)
    cuda.stream_synchronize(stream)
    _require_same(target)
    cuda.graph_destroy(captured[0])
    return "the same bytes"


def _require_same(target):
    if ctypes.string_at(target.host, BUFFER_BYTES) != b"\x5a" * BUFFER_BYTES:
        raise AssertionError("other bytes came back than were sent")
