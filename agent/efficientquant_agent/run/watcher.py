"""Watching a run from outside: one loop that samples, blocks in between, and minds child, clock and user."""

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
    """Set from any thread; wakes whoever waits for it, in threading's way or in select's."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._reader, self._writer = os.pipe()

    def set(self) -> None:
        """Cancel; once is enough, more does no harm."""
        if not self.event.is_set():
            self.event.set()
            os.write(self._writer, b"x")

    def fileno(self) -> int:
        """Return what becomes readable when it is set."""
        return self._reader

    def close(self) -> None:
        """Release the pipe."""
        os.close(self._reader)
        os.close(self._writer)


class SeriesRecorder:
    """Samples several quantities into series; a sensor that fails is told once and not asked again."""

    def __init__(self, started_s: float, log: Callable[[str], None]) -> None:
        self._samplers: List[Sampler] = []
        self._started_s = started_s
        self._log = log
        self._series: Dict[str, Series] = {}
        self.latest: Dict[str, float] = {}
        self.findings: List[Finding] = []

    def add(self, samplers: Sequence[Sampler]) -> None:
        """Read these too from now on."""
        self._samplers.extend(samplers)

    def drop(self, samplers: Sequence[Sampler]) -> None:
        """Read these no more, and release them."""
        for sampler in samplers:
            if sampler in self._samplers:
                self._samplers.remove(sampler)
                sampler.close()

    def sample(self) -> None:
        """Read every sensor once."""
        for sampler in list(self._samplers):
            if not sampler.due(time.monotonic()):
                continue
            try:
                value = sampler.sample()
            except SensorError as error:
                if sampler.name in self._series:
                    self.broken(sampler.name, error)
                else:
                    self._closed(sampler.name, error)
                self.drop([sampler])
                continue
            if value is not None:
                self.put(time.monotonic(), {sampler.name: value})

    def put(self, monotonic_s: float, values: Mapping[str, float]) -> None:
        """Record values that were read at one moment."""
        for name, value in values.items():
            series = self._series.setdefault(name, Series(name, [], []))
            series.time_s.append(monotonic_s - self._started_s)
            series.value.append(value)
        self.latest.update(values)

    def extreme(self, name: str, choose: Callable[[Sequence[float]], float]) -> Optional[float]:
        """Return the largest or smallest value of a series so far; None before there is one."""
        series = self._series.get(name)
        return choose(series.value) if series else None

    def broken(self, name: str, error: SensorError) -> None:
        """Say that a sensor is lost: what it would have told is missing from here on, and the result says so."""
        self._log("no more {} in this run: {}".format(name, error))
        self.findings.append(Finding("sensor", "soft", "{} was lost during the run: {}".format(name, error)))

    def _closed(self, name: str, error: SensorError) -> None:
        """Say, once, that a sensor gave nothing from the start, as one that is for root alone: nothing was lost."""
        finding = Finding("sensor", "info", "{} cannot be read here: {}".format(name, error))
        if finding not in self.findings:
            self._log("no {} in this run: {}".format(name, error))
            self.findings.append(finding)

    def close(self) -> List[Series]:
        """Release the sensors and return every series that has a sample."""
        self.drop(list(self._samplers))
        return [series for series in self._series.values() if series.value]


class Watcher:
    """Samples the board through all steps of a run.

    `killed_for` is "" until the run's time limit ("timeout") or its user ("cancelled") ends it; every method returns
    at once from then on.
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
        """Read everything once, now, with what tegrastats has said until now."""
        self.recorder.sample()
        if self._stream is not None:
            self._read_stream()

    def rest(self, duration_s: float) -> None:
        """Watch the board alone for a while."""
        self._loop({}, time.monotonic() + duration_s)

    def wait_until(self, is_met: Callable[[Mapping[str, float]], bool], timeout_s: float) -> bool:
        """Watch until the latest values meet a condition; False when they do not in time."""
        until_s = time.monotonic() + timeout_s
        self._loop({}, until_s, lambda: is_met(self.recorder.latest))
        return is_met(self.recorder.latest)

    def watch(self, samplers: Sequence[Sampler], handlers: Mapping[Any, Callable[[str], None]]) -> None:
        """Watch a child by its pipes until it has closed them; `handlers` get the lines of each."""
        self.recorder.add(samplers)
        try:
            self._loop({stream: _Lines(handle) for stream, handle in handlers.items()}, float("inf"))
        finally:
            self.recorder.drop(samplers)

    def cpu_s(self) -> float:
        """Return the CPU time that watching took so far, in seconds, tegrastats' own included."""
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
        """Sample until `until_s`, until `is_done()` or, with pipes, until all of them have ended."""
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
        """Count what watching costs; starting a child between two steps is no part of it."""
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
            # A late sample is not made up for by a second one right after it.
            next_s = self._sample_at_s + self._interval_s
            self._sample_at_s = next_s if next_s > now_s else now_s + self._interval_s


class _Lines:
    """Bytes in any pieces become whole lines."""

    def __init__(self, handle: Callable[[str], None]) -> None:
        self._handle = handle
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Handle every line that is complete; no data is the end, and ends the last line too."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop() if data else b""
        for line in lines:
            if line.strip():
                self._handle(line.decode(errors="replace").rstrip())


def kill_group(child: subprocess.Popen) -> None:
    """Leave nothing of a child behind: what it started dies with it."""
    with contextlib.suppress(ProcessLookupError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    child.stderr.close()


def _thread_cpu_s() -> float:
    return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)


@contextlib.contextmanager
def _sampling_on_last_cpu() -> Iterator[None]:
    """Keep this thread on the CPU that the measuring thread stays off, where there are more than two."""
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
    """Return the CPUs that a task may run on, with those that a power mode has switched off; empty if unknown.

    The process's main thread is asked, which is never narrowed. This one's own set may have lost CPUs for good: a
    kernel before 6.2 keeps only those that are on when a set is restored.
    """
    try:
        with open(os.path.join(task, "status"), encoding="utf-8", errors="replace") as stream:
            found = re.search(r"^Cpus_allowed_list:\s*([0-9,-]+)$", stream.read(), re.MULTILINE)
    except OSError:
        return set()
    spans = [span.partition("-") for span in found.group(1).split(",")] if found else []
    return {cpu for first, _, last in spans for cpu in range(int(first), int(last or first) + 1)}
