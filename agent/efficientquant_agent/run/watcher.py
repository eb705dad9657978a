"""The loop that watches a run from outside.

It samples, blocks in between, and handles the child's output, the time limit and cancellation.
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set

from efficientquant_agent.errors import SensorError
from efficientquant_agent.records import Finding, Series
from efficientquant_agent.samplers.base import Sampler
from efficientquant_agent.samplers.tegrastats_stream import Tegrastats

MIN_INTERVAL_S = 0.01


class Cancellation:
    """A cancellation that any thread can set.

    It wakes threads that wait for `event`, and loops that select on fileno().
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._reader, self._writer = os.pipe()

    def set(self) -> None:
        """Cancel once and ignore further calls."""
        if not self.event.is_set():
            self.event.set()
            os.write(self._writer, b"x")

    def fileno(self) -> int:
        """Return the descriptor that becomes readable on cancellation."""
        return self._reader

    def close(self) -> None:
        """Release the pipe."""
        os.close(self._reader)
        os.close(self._writer)


class SeriesRecorder:
    """A recorder that samples several quantities into series.

    A sensor that fails is reported once and not read again.
    """

    def __init__(self, started_s: float, log: Callable[[str], None]) -> None:
        self._samplers: List[Sampler] = []
        self._started_s = started_s
        self._log = log
        self._series: Dict[str, Series] = {}
        self.latest: Dict[str, float] = {}
        self.findings: List[Finding] = []

    def add(self, samplers: Sequence[Sampler]) -> None:
        """Read these samplers, too, from now on."""
        self._samplers.extend(samplers)

    def drop(self, samplers: Sequence[Sampler]) -> None:
        """Stop reading these samplers and release them."""
        for sampler in samplers:
            if sampler in self._samplers:
                self._samplers.remove(sampler)
                sampler.close()

    def sample(self) -> None:
        """Read every sensor that is due, once."""
        for sampler in list(self._samplers):
            if not sampler.due(time.monotonic()):
                continue
            try:
                value = sampler.sample()
            except SensorError as error:
                if sampler.name in self._series:
                    self.broken(sampler.name, error)
                else:
                    self._unreadable(sampler.name, error)
                self.drop([sampler])
                continue
            if value is not None:
                self.put(time.monotonic(), {sampler.name: value})

    def put(self, monotonic_s: float, values: Mapping[str, float]) -> None:
        """Record values that were read at the same time."""
        for name, value in values.items():
            series = self._series.setdefault(name, Series(name, [], []))
            series.time_s.append(monotonic_s - self._started_s)
            series.value.append(value)
        self.latest.update(values)

    def extreme(self, name: str, choose: Callable[[Sequence[float]], float]) -> Optional[float]:
        """Return the largest or smallest value of a series so far.

        `choose` is max or min. None without a value.
        """
        series = self._series.get(name)
        return choose(series.value) if series else None

    def broken(self, name: str, error: SensorError) -> None:
        """Report a sensor as lost during the run.

        Its values are missing from here on, and the result says so.
        """
        self._log("no more {} in this run: {}".format(name, error))
        self.findings.append(Finding("sensor", "soft", "{} was lost during the run: {}".format(name, error)))

    def _unreadable(self, name: str, error: SensorError) -> None:
        """Report, once, a sensor that could never be read.

        Nothing was lost, so the finding is an "info". An example is a sensor for root only.
        """
        finding = Finding("sensor", "info", "{} cannot be read here: {}".format(name, error))
        if finding not in self.findings:
            self._log("no {} in this run: {}".format(name, error))
            self.findings.append(finding)

    def close(self) -> List[Series]:
        """Release the sensors and return every series that has a sample."""
        self.drop(list(self._samplers))
        return [series for series in self._series.values() if series.value]


class Watcher:
    """A watcher that samples the board through all steps of a run.

    `killed_for` is "" until the run's time limit ("timeout") or its user ("cancelled") ends it. From then on
    rest(), wait_until() and watch() return at once.
    """

    def __init__(
        self,
        recorder: SeriesRecorder,
        stream: Optional[Tegrastats],
        interval_s: float,
        deadline_s: float,
        cancellation: Cancellation,
    ) -> None:
        self.recorder = recorder
        self.killed_for = ""
        self.wakeups = 0
        self._stream = stream
        self._interval_s = max(interval_s, MIN_INTERVAL_S)
        self._deadline_s = deadline_s
        self._cancellation = cancellation
        self._sample_at_s = time.monotonic()
        self._loop_cpu_s = 0.0
        self._stream_cpu_s = 0.0

    def look(self) -> None:
        """Read every sensor once, and what tegrastats has printed so far."""
        self.recorder.sample()
        if self._stream is not None:
            self._read_stream()

    def rest(self, duration_s: float) -> None:
        """Watch the board, without a child, for a duration."""
        self._loop({}, time.monotonic() + duration_s)

    def wait_until(self, is_met: Callable[[Mapping[str, float]], bool], timeout_s: float) -> bool:
        """Watch until the latest values meet a condition.

        Return False when they do not in time.
        """
        until_s = time.monotonic() + timeout_s
        self._loop({}, until_s, lambda: is_met(self.recorder.latest))
        return is_met(self.recorder.latest)

    def watch(self, samplers: Sequence[Sampler], handlers: Mapping[Any, Callable[[str], None]]) -> None:
        """Watch a child until it has closed its pipes.

        `handlers` get the lines of each pipe.
        """
        self.recorder.add(samplers)
        try:
            self._loop({stream: _Lines(handle) for stream, handle in handlers.items()}, float("inf"))
        finally:
            self.recorder.drop(samplers)

    def cpu_s(self) -> float:
        """Return the CPU time that watching took so far, in seconds.

        It includes tegrastats' own.
        """
        if self._stream is not None:
            self._stream_cpu_s = self._stream.cpu_s
        return self._loop_cpu_s + self._stream_cpu_s

    def close(self) -> List[Series]:
        """Release everything and return what was recorded."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        return self.recorder.close()

    def _loop(self, pipes: Dict[Any, "_Lines"], until_s: float, is_done: Callable[[], bool] = lambda: False) -> None:
        """Sample until `until_s`, until `is_done()` or until all pipes have ended.

        Without pipes only the first two count.
        """
        with self._counting_cpu(), _sampling_on_last_cpu(), selectors.DefaultSelector() as selector:
            for source in [self._cancellation, *pipes]:
                selector.register(source, selectors.EVENT_READ)
            if self._stream is not None:
                selector.register(self._stream, selectors.EVENT_READ)
            waiting = dict(pipes)
            while not self.killed_for and not is_done():
                now_s = time.monotonic()
                if now_s >= until_s or (pipes and not waiting):
                    return
                due_s = min(self._sample_at_s, self._deadline_s, until_s)
                for key, _ in selector.select(max(0.0, due_s - now_s)):
                    self._handle(key.fileobj, waiting, selector)
                self.wakeups += 1
                self._tick()

    @contextlib.contextmanager
    def _counting_cpu(self) -> Iterator[None]:
        """Count the CPU time of watching.

        Starting a child between two steps is not included.
        """
        before_s = _thread_cpu_s()
        try:
            yield
        finally:
            self._loop_cpu_s += _thread_cpu_s() - before_s

    def _handle(self, source: Any, waiting: Dict[Any, "_Lines"], selector: selectors.BaseSelector) -> None:
        if source is self._cancellation:
            self.killed_for = "cancelled"
        elif source is self._stream:
            self._read_stream(selector)
        else:
            data = os.read(source.fileno(), 65536)
            waiting[source].feed(data)
            if not data:
                selector.unregister(source)
                del waiting[source]

    def _read_stream(self, selector: Optional[selectors.BaseSelector] = None) -> None:
        stream = self._stream
        assert stream is not None
        try:
            for monotonic_s, values in stream.read():
                self.recorder.put(monotonic_s, values)
        except SensorError as error:
            if selector is not None:
                selector.unregister(stream)
            stream.close()
            self._stream_cpu_s = stream.cpu_s
            self._stream = None
            self.recorder.broken("tegrastats", error)

    def _tick(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._deadline_s:
            self.killed_for = self.killed_for or "timeout"
        if now_s >= self._sample_at_s:
            self.recorder.sample()
            # A late sample is not followed by another at once to catch up.
            next_s = self._sample_at_s + self._interval_s
            self._sample_at_s = next_s if next_s > now_s else now_s + self._interval_s


class _Lines:
    """A buffer that joins pieces of bytes into whole lines."""

    def __init__(self, handle: Callable[[str], None]) -> None:
        self._handle = handle
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Handle every complete line.

        Empty `data` means the end, and also completes the last line.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop() if data else b""
        for line in lines:
            if line.strip():
                self._handle(line.decode(errors="replace").rstrip())


def kill_group(child: "subprocess.Popen[bytes]") -> None:
    """Kill a child that still runs, with its process group.

    Waits for its end and closes its pipes.
    """
    with contextlib.suppress(ProcessLookupError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


def _thread_cpu_s() -> float:
    return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)


@contextlib.contextmanager
def _sampling_on_last_cpu() -> Iterator[None]:
    """Keep this thread on the last CPU.

    The measuring thread stays off that CPU. With one or two CPUs online this thread is left alone.
    """
    online = os.sched_getaffinity(0)
    if len(online) <= 2:
        yield
        return
    allowed = _allowed_cpus() or online
    os.sched_setaffinity(0, {max(online)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _allowed_cpus(task: str = "/proc/self") -> Set[int]:
    """Return the CPUs that a task may run on, empty if unknown.

    CPUs that a power mode has switched off are included. The set is that of the process's main thread, which is never
    narrowed. This thread's own set may have lost CPUs for good: a kernel before 6.2 keeps only those online when a set
    is restored.
    """
    try:
        with open(os.path.join(task, "status"), encoding="utf-8", errors="replace") as stream:
            match = re.search(r"^Cpus_allowed_list:\s*([0-9,-]+)$", stream.read(), re.MULTILINE)
    except OSError:
        return set()
    spans = [span.partition("-") for span in match.group(1).split(",")] if match else []
    return {cpu for first, _, last in spans for cpu in range(int(first), int(last or first) + 1)}
