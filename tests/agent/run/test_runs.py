"""Whole runs: a real agent process against a scripted controller."""

import os
import signal

import pytest

WAIT_S = 60.0


def test_happy_run(controller, start_agent, tiny_model):
    """A successful run reports every stage, latency and series, and the real options of its session."""
    agent = start_agent(controller.address)
    agent.wait_for_line("ready: connected to {} as bench-1 (device ".format(controller.address))
    controller.assign("run-1", tiny_model)

    result = controller.reports.get(timeout=WAIT_S)

    assert (result.run_id, result.failure_type, result.failure_message) == ("run-1", "", "")
    cold = ["transfer", "read", "session_create", "first_inference"]
    assert [stage.stage for stage in result.stages] == [*cold, "warm_read", "warm_session_create"]
    assert result.stages[0].size_bytes == result.stages[1].size_bytes == len(tiny_model)
    assert all(stage.duration_s > 0 for stage in result.stages)
    assert len(result.latency_s) >= 64
    assert sum(result.latency_s) >= 0.05
    assert len(result.warmup_latency_s) >= 10
    assert list(result.providers) == ["CPUExecutionProvider"]
    assert result.session_options["intra_op_threads"] == "1"
    assert {"python", "grpcio", "onnxruntime", "numpy"} <= set(result.library_versions)
    assert {"python", "grpcio", "protobuf", "onnxruntime", "numpy"} <= set(result.device.library_versions)
    assert {"board_available_before_bytes", "swap_used_before_bytes", "sampler_wakeups"} <= set(result.measured)
    assert result.measured["board_available_before_bytes"] > 10e6
    assert {"child_pss_bytes", "board_available_bytes", "swap_used_bytes"} <= {s.name for s in result.series}
    assert [window.name for window in result.windows] == ["load", "warmup", "measure", "model"]
    assert all(0 < window.start_s < window.end_s for window in result.windows)
    assert result.conditions["clocks"] in ("free", "locked", "unverifiable")
    assert result.device_id == controller.hellos.get(timeout=WAIT_S).device_id


def test_second_run_comes_from_the_cache(controller, start_agent, tiny_model):
    """A cached artifact is not transferred again: its transfer has 0 bytes."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model)
    controller.assign("run-2", tiny_model)

    sizes = [controller.reports.get(timeout=WAIT_S).stages[0].size_bytes for _ in range(2)]

    assert sizes == [len(tiny_model), 0]
    assert controller.fetches.qsize() == 1


def test_cancelled_run(controller, start_agent, tiny_model, long_lasting):
    """A cancelled run ends at once, is reported as cancelled and leaves no process behind."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting, timeout_s=0)
    controller.wait_for_phase("measure")

    controller.cancel("run-1")

    assert controller.reports.get(timeout=WAIT_S).failure_type == "cancelled"


def test_observer_is_cheap(controller, start_agent, tiny_model, quick):
    """The parent blocks between samples, takes under 5 % of a core, and wakes only for samples and progress."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=quick._replace(min_time_s=2.0, sampling_interval_s=0.1))

    result = controller.reports.get(timeout=WAIT_S)

    assert result.measured["sampler_cpu_s"] < 0.05 * result.duration_s
    assert 20 <= result.measured["sampler_wakeups"] < 40 * result.duration_s


def test_timeout(controller, start_agent, tiny_model, long_lasting):
    """A run that takes longer than its limit is killed and reported as a timeout."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting, timeout_s=2.0)

    result = controller.reports.get(timeout=WAIT_S)

    assert (result.failure_type, result.failure_message) == ("timeout", "killed after 2 s, the run's time limit")
    assert 2.0 <= result.duration_s < 10.0


def test_child_killed(controller, start_agent, tiny_model, long_lasting, child_of):
    """A child killed by somebody else counts as out of memory, and the agent does the next run."""
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting)
    controller.wait_for_phase("measure")

    os.kill(child_of(agent.pid), signal.SIGKILL)
    controller.assign("run-2", tiny_model)

    results = [controller.reports.get(timeout=WAIT_S) for _ in range(2)]
    assert [result.failure_type for result in results] == ["runtime_oom", ""]
    assert "SIGKILL" in results[0].failure_message


def test_child_crashes(controller, start_agent, tiny_model, long_lasting, child_of):
    """A child that dies of any other signal is a runtime error that names the signal."""
    agent = start_agent(controller.address)
    controller.assign("run-1", tiny_model, measurement=long_lasting)
    controller.wait_for_phase("measure")

    os.kill(child_of(agent.pid), signal.SIGSEGV)

    result = controller.reports.get(timeout=WAIT_S)
    assert result.failure_type == "runtime_error"
    assert "signal 11" in result.failure_message


def test_corrupt_model(controller, start_agent, tiny_model):
    """A file that is not ONNX is a failure to load, in the runtime's words."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model[: len(tiny_model) // 2])

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == "load_failed"
    assert "protobuf" in result.failure_message.lower()


@pytest.mark.parametrize(
    ("model", "failure_type", "words"),
    [("fails_at_run", "runtime_error", "Gather"), ("integer_input", "load_failed", "input 'token' is tensor(int64)")],
)
def test_model_that_cannot_be_measured(controller, start_agent, models, model, failure_type, words):
    """A model that loads but cannot be run gives the reason."""
    start_agent(controller.address)
    controller.assign("run-1", (models / (model + ".onnx")).read_bytes())

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == failure_type
    assert words in result.failure_message


def test_unknown_backend(controller, start_agent, tiny_model):
    """A backend that this device lacks is named, with the device and its available backends."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, backend="trt")

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == "load_failed"
    assert result.failure_message.startswith("backend 'trt' is not available on bench-1 (available: ")
    assert "ort-cpu); install its runtime there" in result.failure_message


def test_backend_without_code(controller, start_agent, tiny_model):
    """A backend that this release of the agent has no code for is named, with the known ones."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, backend="ov-cpu")

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == "load_failed"
    assert result.failure_message == (
        "this agent knows no backend 'ov-cpu' (it knows: trt, trt-rtx, ort-cuda, ort-trt, ort-cpu, openvino-cpu); "
        "upgrade it, or choose another backend"
    )


def test_unknown_artifact(controller, start_agent, tiny_model):
    """An artifact that the controller does not have is unavailable, and is not asked for again."""
    start_agent(controller.address)
    controller.assign("run-1", tiny_model, sha256="0" * 64)

    assert controller.reports.get(timeout=WAIT_S).failure_type == "artifact_unavailable"
    assert controller.fetches.qsize() == 1
