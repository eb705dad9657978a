"""The loop that watches a run: its sampling times, what ends it, and broken sensors."""

import os
import time
from pathlib import Path

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.records import Finding
from efficientquant_agent.run import watcher as watching
from efficientquant_agent.run.watcher import Cancellation, SeriesRecorder, Watcher
from efficientquant_agent.samplers.base import Sampler
from efficientquant_agent.samplers.tegrastats_stream import Tegrastats

REPLAY = str(Path(__file__).parent.parent.parent / "fixtures" / "boards" / "tegrastats_replay")
FOREVER_S = float("inf")


class Calling(Sampler):
    """A sampler whose values come from a function of the test."""

    name = "temperature_gpu_c"

    def __init__(self, answer):
        self.closed = 0
        self._answer = answer

    def sample(self):
        """Return the test's value."""
        return self._answer()

    def close(self):
        """Count the call."""
        self.closed += 1


class VirtualTime:
    """A stand-in for the watcher's `time` and `selectors` whose clock advances by each wait."""

    EVENT_READ = 1
    CLOCK_THREAD_CPUTIME_ID = 0

    def __init__(self):
        self.now_s = 100.0

    def DefaultSelector(self):  # noqa: N802 — the name in selectors
        """Return itself as the selector."""
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def register(self, *_):
        """Ignore the file."""

    def select(self, timeout_s):
        """Advance the clock instead of waiting."""
        assert timeout_s >= 0
        self.now_s += timeout_s
        return []

    def monotonic(self):
        """Return the time."""
        return self.now_s

    def clock_gettime(self, _):
        """Return the CPU time of this thread, which is always zero."""
        return 0.0


@pytest.fixture
def virtual(monkeypatch):
    """Give the watcher a time that passes only where the test or a wait lets it."""
    clock = VirtualTime()
    monkeypatch.setattr(watching, "time", clock)
    monkeypatch.setattr(watching, "selectors", clock)
    return clock


@pytest.fixture
def cancellation():
    made = Cancellation()
    yield made
    made.close()


@pytest.fixture
def recorder():
    return SeriesRecorder(0.0, lambda _: None)


@pytest.mark.usefixtures("virtual")
def test_samples_come_at_their_interval(recorder, cancellation):
    """A rest of a second at 10 Hz samples at its start and each tenth, with one wake-up each."""
    watcher = Watcher(recorder, None, 0.1, FOREVER_S, cancellation)
    recorder.add([Calling(lambda: 40.0)])

    watcher.rest(1.05)

    [series] = watcher.close()
    assert series.time_s == pytest.approx([100 + k * 0.1 for k in range(11)])
    assert watcher.wakeups <= 12


def test_late_samples_are_not_made_up_for(virtual, recorder, cancellation):
    """A sample that took half a second is followed by the next an interval later, without catching up."""
    watcher = Watcher(recorder, None, 0.1, FOREVER_S, cancellation)
    taken_s = []

    def take():
        taken_s.append(virtual.now_s)
        if len(taken_s) == 2:
            virtual.now_s += 0.5
        return 40.0

    recorder.add([Calling(take)])

    watcher.rest(1.0)

    assert taken_s[:5] == pytest.approx([100.0, 100.1, 100.6, 100.7, 100.8])


def test_a_slightly_late_sample_keeps_the_pace(virtual, recorder, cancellation):
    """Delays of a few milliseconds do not add up: the samples stay on their grid."""
    watcher = Watcher(recorder, None, 0.1, FOREVER_S, cancellation)
    taken_s = []

    def take():
        taken_s.append(virtual.now_s)
        virtual.now_s += 0.03
        return 40.0

    recorder.add([Calling(take)])

    watcher.rest(0.95)

    assert taken_s == pytest.approx([100 + k * 0.1 for k in range(10)])


@pytest.mark.usefixtures("virtual")
def test_no_interval_is_too_short(recorder, cancellation):
    """An interval of zero becomes a hundredth of a second, so the loop still rests."""
    watcher = Watcher(recorder, None, 0.0, FOREVER_S, cancellation)
    recorder.add([Calling(lambda: 40.0)])

    watcher.rest(0.1)

    assert len(watcher.close()[0].value) <= 12


def test_cancelled_while_resting(recorder, cancellation):
    """A cancellation ends a rest of an hour at once, and every wait after it."""
    watcher = Watcher(recorder, None, 0.01, FOREVER_S, cancellation)
    recorder.add([Calling(lambda: cancellation.set() or 40.0)])

    watcher.rest(3600.0)
    watcher.rest(3600.0)

    assert watcher.killed_for == "cancelled"
    assert not watcher.wait_until(lambda _: False, 3600.0)


def test_time_limit_while_resting(virtual, recorder, cancellation):
    """A rest ends at the run's time limit, and the first reason for an end stays."""
    watcher = Watcher(recorder, None, 0.1, 102.0, cancellation)

    watcher.rest(3600.0)
    cancellation.set()
    watcher.rest(3600.0)

    assert watcher.killed_for == "timeout"
    assert virtual.now_s == pytest.approx(102.0)


def test_waiting_ends_with_what_is_waited_for(virtual, recorder, cancellation):
    """A wait ends with the reading that meets its condition, or else at its timeout."""
    heat = iter(range(90, 0, -10))
    watcher = Watcher(recorder, None, 0.1, FOREVER_S, cancellation)
    recorder.add([Calling(lambda: float(next(heat)))])

    cooled = watcher.wait_until(lambda latest: latest.get("temperature_gpu_c", 100.0) < 60, 10.0)

    assert (cooled, recorder.latest["temperature_gpu_c"]) == (True, 50.0)
    assert not watcher.wait_until(lambda latest: latest["temperature_gpu_c"] > 99, 0.2)
    assert virtual.now_s == pytest.approx(100.4 + 0.2)


def test_look(recorder, cancellation):
    """One look reads the sensors and what tegrastats has printed, before any wait."""
    stream = Tegrastats(REPLAY, 0.01, without=["temperature_gpu_c"])
    stream.first_sample()
    watcher = Watcher(recorder, stream, 0.1, FOREVER_S, cancellation)
    recorder.add([Calling(lambda: 99.0)])

    watcher.look()

    assert (recorder.latest["temperature_gpu_c"], recorder.latest["temperature_cpu_c"]) == (99.0, 40.5)
    assert recorder.latest["power_pom_5v_in_w"] == 3.82
    watcher.close()


@pytest.mark.parametrize("where", ["waiting", "looking"])
def test_tegrastats_that_dies(recorder, cancellation, monkeypatch, where):
    """When tegrastats dies, its readings stay, the loss is a finding, and the other sensors are still read."""
    monkeypatch.setenv("TEGRASTATS_DIE_AFTER", "3")
    monkeypatch.setenv("TEGRASTATS_DIE_CODE", "7")
    stream = Tegrastats(REPLAY, 0.01)
    watcher = Watcher(recorder, stream, 0.01, FOREVER_S, cancellation)

    if where == "waiting":
        watcher.wait_until(lambda _: bool(recorder.findings), 30.0)
    else:
        deadline_s = time.monotonic() + 30.0
        while not recorder.findings and time.monotonic() < deadline_s:
            watcher.look()

    message = "tegrastats was lost during the run: {}: ended with code 7".format(REPLAY)
    assert recorder.findings == [Finding("sensor", "soft", message)]
    calls = []
    recorder.add([Calling(lambda: calls.append(40.0) or 40.0)])
    watcher.wait_until(lambda _: bool(calls), 30.0)
    assert watcher.cpu_s() >= 0.0
    values = {series.name: series.value for series in watcher.close()}
    assert len(values["power_pom_5v_in_w"]) == 3
    assert len(values["temperature_gpu_c"]) > 3


def test_pieces_become_lines(recorder, cancellation):
    """A child's pieces of output arrive as whole lines, with an unfinished last line and without empty ones."""
    reader, writer = os.pipe()
    lines = []
    watcher = Watcher(recorder, None, 0.01, FOREVER_S, cancellation)
    pieces = [b"fir", b"st\nsecond\r\n\n  \nth", b"ird", b" \xff"]
    sampler = Calling(lambda: os.write(writer, pieces.pop(0)) if pieces else close_once())

    def close_once():
        os.close(writer)
        sampler.sample = lambda: None

    with os.fdopen(reader, "rb") as stream:
        watcher.watch([sampler], {stream: lines.append})

    assert lines == ["first", "second", "third \ufffd"]
    assert sampler.closed == 1


def test_childs_sensors_are_let_go(recorder, cancellation):
    """A dropped sensor is closed once and read no more, but its series stays."""
    sampler = Calling(lambda: 40.0)
    watcher = Watcher(recorder, None, 0.1, FOREVER_S, cancellation)
    recorder.add([sampler])
    watcher.look()

    recorder.drop([sampler, sampler])
    watcher.look()

    assert sampler.closed == 1
    assert [series.value for series in watcher.close()] == [[40.0]]


def test_recorder_tells_extremes_and_the_latest():
    """The recorder knows the latest value and the extremes of each series, None without a value."""
    recorder = SeriesRecorder(10.0, lambda _: None)

    recorder.put(11.5, {"a": 3.0})
    recorder.put(12.0, {"a": 1.0, "b": 0.0})

    assert recorder.latest == {"a": 1.0, "b": 0.0}
    assert (recorder.extreme("a", max), recorder.extreme("a", min), recorder.extreme("b", max)) == (3.0, 1.0, 0.0)
    assert recorder.extreme("c", max) is None
    assert [(series.name, series.time_s) for series in recorder.close()] == [("a", [1.5, 2.0]), ("b", [2.0])]


def test_recorder_finds_a_broken_sensor_once():
    """A sensor that breaks is closed, reported in one soft finding that names it, and not read again."""
    answers = [40.0]

    def read_once():
        if not answers:
            raise SensorError("/sys/x", "i/o error")
        return answers.pop()

    sampler = Calling(read_once)
    recorder = SeriesRecorder(0.0, lambda _: None)
    recorder.add([sampler])

    for _ in range(3):
        recorder.sample()

    message = "temperature_gpu_c was lost during the run: /sys/x: i/o error"
    assert recorder.findings == [Finding("sensor", "soft", message)]
    assert sampler.closed == 1
    assert [series.value for series in recorder.close()] == [[40.0]]


def test_recorder_loses_nothing_that_it_never_had():
    """A sensor that this user may not read is reported once for all children, as an info."""

    def denied():
        raise SensorError("/sys/x", "permission denied")

    said = []
    recorder = SeriesRecorder(0.0, said.append)
    recorder.add([Calling(denied)])
    recorder.sample()
    recorder.add([Calling(denied)])
    recorder.sample()

    message = "temperature_gpu_c cannot be read here: /sys/x: permission denied"
    assert recorder.findings == [Finding("sensor", "info", message)]
    assert said == ["no temperature_gpu_c in this run: /sys/x: permission denied"]


class Affinity:
    """A kernel before 6.2 with eight CPUs, which reports and keeps only those online."""

    def __init__(self, monkeypatch, online):
        self.online = set(online)
        self.kept = set(range(8))
        self.asked = []
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: self.kept & self.online)
        monkeypatch.setattr(os, "sched_setaffinity", self._set)

    def _set(self, task, cpus):
        assert task == 0
        self.asked.append(set(cpus))
        self.kept = set(cpus) & self.online


@pytest.mark.parametrize("online", [[0], [0, 1]])
def test_thread_is_left_alone_where_cpus_are_few(online, recorder, cancellation, monkeypatch):
    """With one or two CPUs online the thread is not pinned, and keeps those offline for later."""
    kernel = Affinity(monkeypatch, online)

    Watcher(recorder, None, 0.01, FOREVER_S, cancellation).rest(0.0)

    assert (kernel.asked, kernel.kept) == ([], set(range(8)))


def test_thread_gets_back_cpus_that_were_off(recorder, cancellation, monkeypatch, tmp_path):
    """A thread gets back the CPUs that a power mode has switched off."""
    status = "Name:\tefficientquant\nCpus_allowed:\tff\nCpus_allowed_list:\t0-2,3,4-7\nMems_allowed_list:\t0\n"
    (tmp_path / "status").write_text(status)
    monkeypatch.setattr(watching._allowed_cpus, "__defaults__", (str(tmp_path),))
    kernel = Affinity(monkeypatch, [0, 1, 2, 3])
    watcher = Watcher(recorder, None, 0.01, FOREVER_S, cancellation)

    watcher.rest(0.0)
    assert kernel.asked == [{3}, set(range(8))]
    kernel.online = set(range(8))
    watcher.rest(0.0)

    assert kernel.kept == set(range(8))


@pytest.mark.parametrize("status", [None, "Name:\tefficientquant\n"])
def test_unknown_allowed_cpus(status, tmp_path):
    """Without an answer of the kernel the set of allowed CPUs is empty."""
    if status:
        (tmp_path / "status").write_text(status)

    assert watching._allowed_cpus(str(tmp_path)) == set()


def test_allowed_cpus_of_this_process():
    """The kernel reports at least those CPUs that are online."""
    assert watching._allowed_cpus() >= os.sched_getaffinity(os.getpid())


def test_cancellation_wakes_once():
    """A cancellation can be set any number of times without blocking, and stays readable."""
    cancellation = Cancellation()

    for _ in range(100000):
        cancellation.set()

    assert cancellation.event.is_set()
    assert os.read(cancellation.fileno(), 10) == b"x"
    cancellation.close()
