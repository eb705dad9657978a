"""The tests of the measuring child, with a backend that fails on demand."""

import io
import os
from types import MappingProxyType

import numpy as np
import pytest
from efficientquant_agent import backends, protocol
from efficientquant_agent.backends.base import (
    Backend,
    EngineReport,
    InferenceError,
    LoadedModel,
    LoadError,
    OutOfMemoryError,
    StalePlanError,
)
from efficientquant_agent.backends.cudart import CudaError
from efficientquant_agent.child import measure, process
from efficientquant_agent.child.page_cache import drop_page_cache
from efficientquant_agent.records import BackendInfo
from efficientquant_agent.run.children import read_samples

NO_MEMORY = CudaError("cudaErrorMemoryAllocation", 2, "out of memory")
BROKEN = CudaError("cudaErrorLaunchFailure", 719, "unspecified launch failure")


class Scripted(Backend):
    """A backend that loads anything and fails where a test asks for it.

    `errors` maps a step, e.g. "report" or "load 2", to what it raises.
    """

    name = "scripted"
    errors = MappingProxyType({})
    done = ()

    @classmethod
    def step(cls, name):
        """Record a step, or raise its error."""
        cls.done.append(name)
        if name in cls.errors:
            raise cls.errors[name]

    @classmethod
    def probe(cls):
        """Return version 1."""
        return BackendInfo(cls.name, "1", ["P"])

    @classmethod
    def library_versions(cls):
        """Return no versions."""
        return {}

    @classmethod
    def load(cls, _content, _options, stage):
        """Load a model, where "load 1" is cold and "load 2" is warm."""
        with stage("session_create"):
            cls.step("load {}".format(1 + sum(name.startswith("load") for name in cls.done)))
        return ScriptedModel()


class ScriptedModel(LoadedModel):
    """A model with one layer."""

    def input_shapes(self):
        """Return one input."""
        return {"x": (1, 2)}

    def stage(self, feeds):
        """Stage the feeds themselves."""
        Scripted.step("stage")
        return list(feeds)

    def run_once(self, _staged):
        """Compute nothing."""
        if "run_once" in Scripted.errors:
            raise Scripted.errors["run_once"]

    def outputs(self, _staged):
        """Return one output."""
        return [np.zeros(1)]

    def report(self):
        """Return the layer's type."""
        Scripted.step("report")
        return EngineReport({"fp16": 1}, ({"name": "conv"},))

    def profile_layers(self, _staged, _repeats):
        """Return the layer's time."""
        Scripted.step("profile_layers")
        return [("conv", 0.5)]

    def close(self):
        """Record that the model was closed."""
        Scripted.step("close")


@pytest.fixture
def work(tmp_path, monkeypatch, quick):
    """Give a function that runs the child's main function in this process.

    It takes the errors to raise by step, and returns the result and the latencies.
    """
    (tmp_path / "model").write_bytes(b"model")
    spec = protocol.RunSpec(
        parent_pid=0,
        scratch=str(tmp_path),
        backend="scripted",
        device_name="bench-1",
        content_path=str(tmp_path / "model"),
        reference_path="",
        measurement=quick._replace(min_time_s=0.0, profile_layers=True),
    )
    monkeypatch.setattr(backends, "known", lambda: [Scripted])
    monkeypatch.setattr(measure, "die_with_parent", lambda _pid: None)
    monkeypatch.setattr(measure, "volunteer_for_oom_kill", lambda: None)
    monkeypatch.setattr(measure, "claim_standard_output", io.StringIO)
    monkeypatch.setattr(measure, "keep_off_last_cpu", lambda: "0")
    monkeypatch.setattr(process.sys, "stdin", io.TextIOWrapper(io.BytesIO(protocol.encode(spec))))
    monkeypatch.setattr(Scripted, "done", [])

    def run_main(**errors):
        monkeypatch.setattr(Scripted, "errors", errors)
        measure.main()
        return result()

    def result():
        outcome = protocol.read(str(tmp_path / protocol.OUTCOME_FILE), protocol.decode_outcome)
        return outcome, read_samples(str(tmp_path), protocol.LATENCY_FILE)

    run_main.result = result
    return run_main


def test_a_run_that_goes_well(work):
    """A good run reports its layers, precision, stages and windows, and has no findings."""
    result, latency_s = work()

    assert len(latency_s) >= 64
    assert result.layers == [{"name": "conv", "mean_s": 0.5}]
    assert (result.realised_precision, result.findings) == ({"fp16": 1}, [])
    assert result.stages[-1].stage == "warm_session_create"
    assert [window.name for window in result.windows] == ["load", "warmup", "measure"]


@pytest.mark.parametrize(
    ("step", "check", "still_there"),
    [
        ("report", "engine_report", "profile_layers"),
        ("profile_layers", "layers", "load 2"),
        ("close", "warm_load", "report"),
        ("load 2", "warm_load", "report"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        NO_MEMORY,
        BROKEN,
        MemoryError(),
        OutOfMemoryError("no"),
        InferenceError("no"),
        StalePlanError("no"),
        OSError("no"),
    ],
)
def test_what_comes_after_the_measurement_spoils_nothing(work, step, check, still_there, error):
    """A failure after the timed loop is a finding of a run that succeeded."""
    result, latency_s = work(**{step: error})

    assert result.failure_type == ""
    assert len(latency_s) >= 64
    (finding,) = result.findings
    assert (finding.check, finding.severity) == (check, "info")
    assert str(error) in finding.message
    assert still_there in Scripted.done


@pytest.mark.parametrize("step", ["load 1", "stage", "run_once"])
@pytest.mark.parametrize("error", [NO_MEMORY, OutOfMemoryError("no workspace"), MemoryError()])
def test_memory_that_runs_out(work, step, error):
    """Memory that runs out, on the GPU or in the process, is runtime_oom at every step."""
    result, _ = work(**{step: error})

    assert result.failure_type == "runtime_oom"
    assert str(error) in result.failure_message


@pytest.mark.parametrize(
    ("step", "error", "failure_type"),
    [
        ("load 1", BROKEN, "load_failed"),
        ("load 1", LoadError("no"), "load_failed"),
        ("load 1", StalePlanError("no"), "stale_plan"),
        ("stage", BROKEN, "runtime_error"),
        ("run_once", BROKEN, "runtime_error"),
        ("run_once", InferenceError("no"), "runtime_error"),
    ],
)
def test_a_failure_has_a_type(work, step, error, failure_type):
    """A failure of CUDA or the runtime is typed by its step, in the runtime's own words."""
    result, _ = work(**{step: error})

    assert (result.failure_type, result.failure_message) == (failure_type, str(error))


def test_a_bug_leaves_what_is_known(work, capsys):
    """A bug is an agent_error with its last line, and exits with 0 so that the result counts."""
    with pytest.raises(SystemExit) as ended:
        work(stage=KeyError("surprise"))

    result, _ = work.result()
    assert ended.value.code == 0
    assert (result.failure_type, result.failure_message) == (
        *("agent_error", "bug in the agent: KeyError: 'surprise'"),
    )
    assert [stage.stage for stage in result.stages] == ["read", "session_create"]
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_after_the_measurement(work, capsys):
    """A bug after the measurement keeps the finished measurement."""
    with pytest.raises(SystemExit):
        work(report=KeyError("surprise"))

    result, latency_s = work.result()
    assert result.failure_type == ""
    assert [finding.check for finding in result.findings] == ["agent"]
    assert "KeyError: 'surprise'" in result.findings[0].message
    assert len(latency_s) >= 64
    assert "Traceback" in capsys.readouterr().err


def test_a_load_that_takes_minutes_is_not_repeated(work, monkeypatch):
    """A backend that builds while it loads is loaded once."""
    monkeypatch.setattr(Scripted, "loads_quickly", False)

    result, _ = work()

    assert [name for name in Scripted.done if name.startswith("load")] == ["load 1"]
    assert result.findings == []


def test_a_file_that_was_just_written_is_read_cold(tmp_path):
    """Pages that are not on the disk yet leave the page cache too, on disks where any can."""
    control, fresh = tmp_path / "control", tmp_path / "fresh"
    control.write_bytes(b"c" * 10**6)
    os.sync()
    can_drop = drop_page_cache(str(control))

    fresh.write_bytes(b"f" * 10**6)

    assert drop_page_cache(str(fresh)) == can_drop
