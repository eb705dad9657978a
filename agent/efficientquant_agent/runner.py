"""The parent's half of a run: starts the child, samples while it works, and turns whatever happens into a result."""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import deque
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from efficientquant_agent import worker
from efficientquant_agent.errors import SensorError
from efficientquant_agent.records import Assignment, RunResult, Series, StageTiming
from efficientquant_agent.samplers.base import Sampler
from efficientquant_agent.samplers.memory import BoardAvailable, ChildPss, SwapUsed

_LOG_TAIL_LINES = 20
_MIN_SAMPLING_INTERVAL_S = 0.01
_EXIT_TIMEOUT_S = 10.0


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


class Watch(NamedTuple):
    """What the parent saw of one child."""

    # "" when the child ended by itself, else "timeout" or "cancelled"
    killed_for: str
    log_tail: List[str]
    series: List[Series]
    sampler_cpu_s: float
    sampler_wakeups: int


class SeriesRecorder:
    """Samples several quantities into series; a sensor that fails is logged once and not asked again."""

    def __init__(self, samplers: Sequence[Sampler], started_s: float, log: Callable[[str], None]) -> None:
        self._samplers = list(samplers)
        self._started_s = started_s
        self._log = log
        self._series = {sampler.name: Series(sampler.name, [], []) for sampler in samplers}

    def sample(self) -> None:
        """Read every sensor once."""
        for sampler in list(self._samplers):
            try:
                value = sampler.sample()
            except SensorError as error:
                self._log("no more {} in this run: {}".format(sampler.name, error))
                self._samplers.remove(sampler)
                sampler.close()
                continue
            if value is not None:
                series = self._series[sampler.name]
                series.time_s.append(time.monotonic() - self._started_s)
                series.value.append(value)

    def close(self) -> List[Series]:
        """Release the sensors and return every series that has a sample."""
        for sampler in self._samplers:
            sampler.close()
        return [series for series in self._series.values() if series.value]


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


class Runner:
    """Runs assignments one at a time, each in a child process of its own."""

    def __init__(self, device_name: str, scratch_root: str, log: Callable[[str], None], proc: str = "/proc") -> None:
        self._device_name = device_name
        self._scratch_root = scratch_root
        self._log = log
        self._proc = proc
        for leftover in os.listdir(scratch_root):  # of an agent that was killed
            shutil.rmtree(os.path.join(scratch_root, leftover))

    def run(
        self,
        assignment: Assignment,
        artifact_path: str,
        result: RunResult,
        cancellation: Cancellation,
        progress: Callable[[str, float], None],
    ) -> RunResult:
        """Return `result` completed by what the child did; a failed child is a result too."""
        result = result._replace(
            board_available_before_bytes=_once(BoardAvailable(self._proc)),
            swap_used_before_bytes=_once(SwapUsed(self._proc)),
        )
        scratch = tempfile.mkdtemp(dir=self._scratch_root)
        try:
            result = result._replace(started_unix_s=time.time(), started_monotonic_s=time.monotonic())
            child = self._start(assignment, artifact_path, scratch)
            try:
                watch = self._watch(child, assignment, result.started_monotonic_s, cancellation, progress)
                if not watch.killed_for:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(_EXIT_TIMEOUT_S)  # its pipes are closed: it is on its way out
            finally:
                _kill_group(child)
            duration_s = time.monotonic() - result.started_monotonic_s
            result = _with_watch(result._replace(duration_s=duration_s), watch)
            return _with_outcome(result, assignment, watch, child.returncode, scratch)
        finally:
            shutil.rmtree(scratch)

    def _start(self, assignment: Assignment, artifact_path: str, scratch: str) -> subprocess.Popen:
        spec = {
            "artifact_path": artifact_path,
            "backend": assignment.backend,
            "device_name": self._device_name,
            "measurement": assignment.measurement._asdict(),
            "parent_pid": os.getpid(),
            "scratch": scratch,
        }
        child = subprocess.Popen(
            [sys.executable, "-m", "efficientquant_agent.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        with contextlib.suppress(BrokenPipeError):  # dead already: its exit code and log will say why
            child.stdin.write(json.dumps(spec).encode())
            child.stdin.close()
        return child

    def _watch(
        self,
        child: subprocess.Popen,
        assignment: Assignment,
        started_s: float,
        cancellation: Cancellation,
        progress: Callable[[str, float], None],
    ) -> Watch:
        """Sample until the child is gone, blocked in between; kill it on timeout and on cancellation."""
        log_tail: deque = deque(maxlen=_LOG_TAIL_LINES)
        readers = {
            child.stdout: _Lines(lambda line: _pass_on(line, progress, log_tail)),
            child.stderr: _Lines(log_tail.append),
        }
        interval_s = max(assignment.measurement.sampling_interval_s, _MIN_SAMPLING_INTERVAL_S)
        deadline_s = started_s + assignment.timeout_s if assignment.timeout_s > 0 else float("inf")
        recorder = SeriesRecorder(
            [ChildPss(child.pid, self._proc), BoardAvailable(self._proc), SwapUsed(self._proc)], started_s, self._log
        )
        killed_for, wakeups, cpu_before_s = "", 0, _thread_cpu_s()
        with _sampling_on_last_cpu(), selectors.DefaultSelector() as selector:
            for stream in readers:
                selector.register(stream, selectors.EVENT_READ)
            selector.register(cancellation, selectors.EVENT_READ)
            sample_at_s = time.monotonic()
            while len(selector.get_map()) > 1 and not killed_for:
                ready = selector.select(max(0.0, min(sample_at_s, deadline_s) - time.monotonic()))
                wakeups += 1
                for key, _ in ready:
                    if key.fileobj is cancellation:
                        killed_for = "cancelled"
                    elif not _read(key.fileobj, readers[key.fileobj]):
                        selector.unregister(key.fileobj)
                now_s = time.monotonic()
                if now_s >= deadline_s:
                    killed_for = killed_for or "timeout"
                if now_s >= sample_at_s:
                    recorder.sample()
                    # A late sample must not be followed by a burst that makes up for it.
                    sample_at_s = max(sample_at_s + interval_s, now_s)
        return Watch(killed_for, list(log_tail), recorder.close(), _thread_cpu_s() - cpu_before_s, wakeups)


def _read(stream: Any, lines: _Lines) -> bool:
    """Take what is there; False at the end of the stream."""
    data = os.read(stream.fileno(), 65536)
    lines.feed(data)
    return bool(data)


def _pass_on(line: str, progress: Callable[[str, float], None], log_tail: deque) -> None:
    try:
        update = json.loads(line)
        phase, fraction = str(update["phase"]), float(update["fraction"])
    except (ValueError, KeyError, TypeError):
        log_tail.append(line)
    else:
        progress(phase, fraction)


def _kill_group(child: subprocess.Popen) -> None:
    """Leave nothing of the child behind: what it started dies with it."""
    with contextlib.suppress(ProcessLookupError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    child.stderr.close()


def _with_watch(result: RunResult, watch: Watch) -> RunResult:
    values = {series.name: series.value for series in watch.series}
    return result._replace(
        log_tail=watch.log_tail,
        series=watch.series,
        peak_pss_bytes=_whole(max(values.get("child_pss_bytes", ()), default=None)),
        board_available_min_bytes=_whole(min(values.get("board_available_bytes", ()), default=None)),
        swap_used_max_bytes=_whole(max(values.get("swap_used_bytes", ()), default=None)),
        sampler_cpu_s=watch.sampler_cpu_s,
        sampler_wakeups=watch.sampler_wakeups,
    )


def _with_outcome(result: RunResult, assignment: Assignment, watch: Watch, returncode: int, scratch: str) -> RunResult:
    if watch.killed_for == "timeout":
        message = "killed after {:g} s, the run's time limit".format(assignment.timeout_s)
        return result._replace(failure_type="timeout", failure_message=message)
    if watch.killed_for:
        return result._replace(failure_type="cancelled", failure_message="cancelled by the controller")
    outcome = _read_outcome(scratch)
    if outcome is None or returncode != 0:
        return _crashed(result, returncode)
    outcome["library_versions"] = dict(result.library_versions, **outcome.get("library_versions", {}))
    outcome["stages"] = list(result.stages) + [StageTiming(**stage) for stage in outcome.get("stages", ())]
    return result._replace(
        latency_s=_read_samples(scratch, worker.LATENCY_FILE),
        warmup_latency_s=_read_samples(scratch, worker.WARMUP_FILE),
        **outcome,
    )


def _crashed(result: RunResult, returncode: int) -> RunResult:
    if returncode == -signal.SIGKILL:
        seen = "its own memory peaked at {} bytes, the board had at least {} bytes left".format(
            result.peak_pss_bytes, result.board_available_min_bytes
        )
        message = "killed by SIGKILL, which this agent did not send: most likely out of memory ({})".format(seen)
        return result._replace(failure_type="runtime_oom", failure_message=message)
    how = "by signal {}".format(-returncode) if returncode < 0 else "with code {}".format(returncode)
    last_line = result.log_tail[-1] if result.log_tail else "it said nothing"
    message = "the run's process ended {}: {}".format(how, last_line)
    return result._replace(failure_type="runtime_error", failure_message=message)


def _read_outcome(scratch: str) -> Optional[Dict[str, Any]]:
    try:
        with open(os.path.join(scratch, worker.RESULT_FILE)) as stream:
            return json.load(stream)
    except (FileNotFoundError, ValueError):
        return None


def _read_samples(scratch: str, name: str) -> Sequence[float]:
    samples = array("d")
    with contextlib.suppress(FileNotFoundError), open(os.path.join(scratch, name), "rb") as stream:
        samples.frombytes(stream.read())
    return samples


def _once(sampler: Sampler) -> Optional[int]:
    """Read a quantity a single time, None also when it is broken: the recorder meets that a moment later, and logs."""
    try:
        return _whole(sampler.sample())
    except SensorError:
        return None
    finally:
        sampler.close()


def _whole(value: Optional[float]) -> Optional[int]:
    return None if value is None else int(value)


def _thread_cpu_s() -> float:
    return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)


@contextlib.contextmanager
def _sampling_on_last_cpu() -> Iterator[None]:
    """Keep this thread on the CPU that the measuring thread stays off, where there are more than two."""
    cpus = os.sched_getaffinity(0)
    if len(cpus) > 2:
        os.sched_setaffinity(0, {max(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
