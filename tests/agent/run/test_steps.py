"""The steps of a run with a real measuring process, on a board of the test's own."""

import os
import signal
import time

import pytest
from efficientquant_agent import samplers
from efficientquant_agent.errors import RunFailedError, SensorError
from efficientquant_agent.records import Assignment, Finding, RunResult
from efficientquant_agent.run.steps import Files, Steps
from efficientquant_agent.run.watcher import Cancellation
from efficientquant_agent.samplers.base import Sampler

GIB = 1 << 30


class Sensor(Sampler):
    """A sensor whose values come from a function of the test."""

    def __init__(self, name, answer):
        self.name = name
        self._answer = answer

    def sample(self):
        """Return the test's value."""
        return self._answer()

    def close(self):
        """Do nothing."""


class Board:
    """A board with these sensors, and others for a child."""

    def __init__(self, *sensors, of_child=lambda _: [], available_bytes=GIB, notes=()):
        self._sensors = sensors
        self._of_child = of_child
        self._available_bytes = available_bytes
        self._notes = notes

    def discover(self, interval_s, gpu_uuid, use_gpu):
        """Return the sensors."""
        del interval_s, gpu_uuid, use_gpu
        return samplers.Discovery(list(self._sensors), None, None, "VDD_IN", list(self._notes))

    def child_samplers(self, pid, gpu):
        """Return the sensors of a child."""
        del gpu
        return self._of_child(pid)

    def available_bytes(self):
        """Return the memory that is left."""
        return self._available_bytes

    def swap_used_bytes(self):
        """Return that no swap is used."""
        return 0


class Run:
    """One run of the steps."""

    def __init__(self, scratch, model, measurement):
        self.phases = []
        self.said = []
        self.cancellation = Cancellation()
        self._scratch = scratch
        self._model = model
        self._measurement = measurement
        self._steps = None

    def take(self, board, timeout_s=60.0):
        """Take the steps and return the result as the runner makes it."""
        assignment = Assignment(
            *("run-1", "job", "campaign", 1, 0, "tiny", "fp32", "0" * 64, 0, "ort-cpu"), self._measurement, timeout_s
        )
        result = RunResult("run-1", "device", 1, None, "ort-cpu", started_monotonic_s=time.monotonic())
        steps = Steps(
            *(board, None, assignment, Files(self._model), result, self._scratch, self.cancellation),
            *(lambda phase, _: self.phases.append(phase), self.said.append),
        )
        try:
            steps.do("bench-1")
        except RunFailedError as error:
            steps.fail(error)
        return steps.finish()

    def phases_in_order(self):
        """Return each phase once."""
        return sorted(set(self.phases), key=self.phases.index)


@pytest.fixture
def make_run(tmp_path, models, quick):
    """Return a function that makes a run of the tiny model, with changes to a quick measurement."""
    made = []

    def make(**changes):
        measurement = quick._replace(**changes)
        made.append(Run(str(tmp_path), str(models / "tiny.onnx"), measurement))
        return made[-1]

    yield make
    for run in made:
        run.cancellation.close()


def values_of(result, name):
    return next(series.value for series in result.series if series.name == name)


def heat(celsius):
    return Sensor("temperature_gpu_c", lambda: celsius)


def test_windows_in_order(make_run):
    """A run has five windows from rest to rest, and `model` lasts from loading to the end."""
    run = make_run(idle_s=0.1)

    result = run.take(Board(heat(40.0)))

    assert (result.failure_type, result.failure_message) == ("", "")
    *parts, whole = result.windows
    assert [window.name for window in parts] == ["idle_before", "load", "warmup", "measure", "idle_after"]
    edges = [edge for window in parts for edge in (window.start_s, window.end_s)]
    in_order = [0.0, whole.start_s, *edges, whole.end_s, result.duration_s]
    assert (whole.name, in_order) == ("model", sorted(in_order))
    assert run.phases_in_order() == ["idle", "load", "warmup", "measure"]
    assert result.windows[0].end_s - result.windows[0].start_s >= 0.1
    assert result.conditions["rail_set"] == "VDD_IN"
    assert result.findings == []


@pytest.mark.parametrize("idle_s", [0.0, 0.1])
def test_readings_reach_beyond_every_window(make_run, idle_s):
    """A sensor is read before the first window and after the last, so that a counter loses no energy."""
    result = make_run(idle_s=idle_s, sampling_interval_s=3600.0).take(Board(heat(40.0)))

    [series] = [each for each in result.series if each.name == "temperature_gpu_c"]
    assert series.time_s[0] <= result.windows[0].start_s
    assert series.time_s[-1] >= max(window.end_s for window in result.windows if window.name != "model")


def test_board_that_never_cools_down(make_run):
    """A board that stays above the gate is measured after the timeout, with a soft finding."""
    run = make_run(hot_zones="temperature_gpu_c", max_start_temperature_c=60.0, gate_timeout_s=0.2)

    result = run.take(Board(heat(71.0)))

    assert result.failure_type == ""
    assert len(result.latency_s) >= 64
    message = "started at 71.0 °C, which is above the gate of 60 °C, after waiting 0 s"
    assert result.findings == [Finding("temperature", "soft", message)]
    assert run.phases_in_order()[0] == "gate"


def test_board_that_cools_down(make_run):
    """A board that cools down starts with the first reading below the gate."""
    falling_c = iter([70.0, 65.0, 60.0] + 10000 * [59.0])
    run = make_run(hot_zones="temperature_gpu_c", max_start_temperature_c=60.0, gate_timeout_s=30.0, idle_s=0.05)

    result = run.take(Board(Sensor("temperature_gpu_c", lambda: next(falling_c))))

    assert (result.failure_type, result.findings) == ("", [])
    [series] = [each for each in result.series if each.name == "temperature_gpu_c"]
    assert series.value[:4] == [70.0, 65.0, 60.0, 59.0]
    assert series.time_s[3] <= result.windows[0].start_s


@pytest.mark.parametrize("celsius", [59.0, None], ids=["cool", "not known"])
def test_gate_that_is_open(make_run, celsius):
    """A board that is cool or of unknown temperature starts at once."""
    run = make_run(hot_zones="temperature_gpu_c", max_start_temperature_c=60.0, gate_timeout_s=30.0)

    assert run.take(Board(heat(celsius))).findings == []
    assert "gate" not in run.phases


def test_cancelled_at_the_gate(make_run):
    """A run that is cancelled while its board cools down ends there and starts no process."""
    run = make_run(hot_zones="temperature_gpu_c", max_start_temperature_c=60.0, gate_timeout_s=3600.0)

    result = run.take(Board(Sensor("temperature_gpu_c", lambda: run.cancellation.set() or 71.0)))

    assert (result.failure_type, result.failure_message) == ("cancelled", "cancelled by the controller")
    assert run.phases == ["gate"]
    assert result.findings == []


def test_time_limit_while_resting(make_run):
    """The time limit also ends a rest, and the readings so far are delivered with the failure."""
    run = make_run(idle_s=3600.0)

    result = run.take(Board(heat(40.0)), timeout_s=0.2)

    assert result.failure_type == "timeout"
    assert result.failure_message == "killed after 0.2 s, the run's time limit"
    assert [window.name for window in result.windows] == ["idle_before", "model"]
    assert len(result.series[0].value) > 1


def test_refused_for_memory(make_run):
    """A board without the memory for the model is refused before anything waits or starts."""
    run = make_run(idle_s=3600.0)

    result = run.take(Board(heat(40.0), available_bytes=100))

    assert result.failure_type == "refused"
    assert run.phases == []


def test_killed_for_memory(make_run):
    """A measuring process that the kernel kills is runtime_oom, with the memory of the process and the board."""

    def kill(pid):
        def sample():
            os.kill(pid, signal.SIGKILL)
            return 734003200.0

        return [Sensor("child_pss_bytes", sample)]

    left = iter([GIB, GIB // 4] + 10000 * [GIB // 2])
    run = make_run()

    result = run.take(Board(Sensor("board_available_bytes", lambda: float(next(left))), of_child=kill))

    assert result.failure_type == "runtime_oom"
    assert result.failure_message == (
        "killed by SIGKILL, which this agent did not send: most likely out of memory (its own memory peaked at "
        "734003200 bytes, the board had at least 268435456 bytes left)"
    )
    assert (max(values_of(result, "child_pss_bytes")), min(values_of(result, "board_available_bytes"))) == (
        *(734003200.0, GIB / 4),
    )
    assert result.windows[-1].name == "model"


def test_killed_for_memory_unseen(make_run):
    """Without any sensor the failure is the same, with unknown memory."""
    run = make_run()

    def kill_at_once(pid):
        os.kill(pid, signal.SIGKILL)
        return []

    result = run.take(Board(of_child=kill_at_once))

    assert result.failure_type == "runtime_oom"
    assert "its own memory peaked at unknown bytes" in result.failure_message


def test_sensor_that_breaks(make_run):
    """A sensor that breaks loses the rest of its series, and the run goes on."""
    readings = iter([4.5, 4.6])

    def read():
        try:
            return next(readings)
        except StopIteration:
            raise SensorError("/sys/in_power0_input", "i/o error") from None

    run = make_run(idle_s=0.1)

    result = run.take(Board(Sensor("power_vdd_in_w", read), heat(40.0)))

    assert result.failure_type == ""
    message = "power_vdd_in_w was lost during the run: /sys/in_power0_input: i/o error"
    assert result.findings == [Finding("sensor", "soft", message)]
    values = {series.name: series.value for series in result.series}
    assert values["power_vdd_in_w"] == [4.5, 4.6]
    assert len(values["temperature_gpu_c"]) > 5
    assert run.said == ["no more power_vdd_in_w in this run: /sys/in_power0_input: i/o error"]


def test_notes_are_findings(make_run):
    """What could not be found on the board is an info finding of the result."""
    result = make_run().take(Board(notes=["no power: nothing here"]))

    assert result.findings == [Finding("sensor", "info", "no power: nothing here")]


def test_own_memory_is_among_what_was_read_from_outside(make_run):
    """The child's own readings are merged with those from outside, in order of time."""
    run = make_run()

    result = run.take(Board(of_child=lambda _: [Sensor("child_pss_bytes", lambda: 1.0)]))

    [series] = [each for each in result.series if each.name == "child_pss_bytes"]
    assert series.time_s == sorted(series.time_s)
    assert sum(value > 1.0 for value in series.value) == 3  # after loading, warming up and measuring
    assert 1.0 in series.value
    assert max(series.value) > 1e6
