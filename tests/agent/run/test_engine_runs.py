"""Whole runs with a TensorRT double whose engines run on ONNX Runtime."""

import io
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from efficientquant_agent.child.page_cache import drop_page_cache

WAIT_S = 60.0
DOUBLE = Path(__file__).parent.parent.parent / "fixtures" / "doubles" / "tensorrt"


@pytest.fixture
def tensorrt(tmp_path, monkeypatch):
    """Give the agent's processes that TensorRT, and return a function that scripts it."""
    script = tmp_path / "tensorrt.json"
    monkeypatch.setenv("PYTHONPATH", str(DOUBLE))
    monkeypatch.setenv("DOUBLE_TENSORRT", str(script))

    def play(**events):
        script.write_text(json.dumps(events))

    play()
    return play


@pytest.fixture
def done():
    """Return a function that reads what the double has done, as words in order."""

    def read(tmp_path):
        return (tmp_path / "tensorrt.json.log").read_text().split()

    return read


def reference_of(content):
    """Return inputs and the outputs that ONNX Runtime gives for them, as the controller makes them."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = np.random.RandomState(3).random_sample((8, 1, 3, 16, 16)).astype(np.float16)
    outputs = [session.run(None, {"image": image.astype(np.float32)})[0] for image in inputs]
    stream = io.BytesIO()
    np.savez(stream, **{"input:image": inputs, "output:0": np.stack(outputs)})
    return stream.getvalue()


@pytest.mark.usefixtures("tensorrt")
def test_engine_of_a_nano(controller, start_agent, tiny_model, quick, tmp_path, done):
    """An engine is built once, reused by the next run, checked, measured by both clocks, and reported by layer."""
    start_agent(controller.address)
    asked = quick._replace(profile_layers=True)
    for run_id in ("run-1", "run-2"):
        controller.assign(run_id, tiny_model, backend="trt", measurement=asked, reference=reference_of(tiny_model))

    first, second = [controller.reports.get(timeout=WAIT_S) for _ in range(2)]

    assert (first.failure_type, first.failure_message) == ("", "")
    stages = [stage.stage for stage in first.stages]
    assert stages[:6] == ["transfer", "parse", "build", "read", "cuda_init", "deserialize"]
    assert "parse" not in [stage.stage for stage in second.stages]
    assert (first.engine.from_cache, second.engine.from_cache) == (False, True)
    assert first.engine.sha256 == second.engine.sha256
    assert dict(first.engine.realised_precision) == {"int8": 1, "fp16": 1, "fp32": 1, "unknown": 1}
    assert json.loads(first.engine.layers_json)[0]["mean_s"] == pytest.approx(0.0005)
    assert len(first.device_latency_s) == len(first.latency_s) >= 64
    assert first.agreement.count == 8
    assert first.agreement.cosine > 0.9999
    assert first.session_options["memory_kind"] == "mapped"
    assert first.device.gpus[0].compute_capability == 53
    assert done(tmp_path).count("build") == 1
    reads = [stage.cold for result in (first, second) for stage in result.stages if stage.stage == "read"]
    assert reads == [can_drop_pages(tmp_path)] * 2


def can_drop_pages(folder):
    """Tell whether this file system can drop a file's pages, which a tmpfs cannot."""
    control = folder / "control"
    control.write_bytes(b"c" * 10**6)
    os.sync()
    return drop_page_cache(str(control))


def test_stale_plan_is_rebuilt(controller, start_agent, tensorrt, tiny_model, tmp_path, done):
    """A kept engine that does not load is rebuilt, once, and the result says so."""
    start_agent(controller.address)
    tensorrt(stale_plans=1)
    controller.assign("run-1", tiny_model, backend="trt")

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == ""
    assert done(tmp_path)[:4] == ["build", "load", "build", "load"]
    assert any("did not load" in finding.message for finding in result.findings)


def test_plan_that_never_loads(controller, start_agent, tensorrt, tiny_model):
    """An engine that does not load even when it is new is a load failure, in TensorRT's words."""
    start_agent(controller.address)
    tensorrt(stale_plans=9)
    controller.assign("run-1", tiny_model, backend="trt")

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == "load_failed"
    assert "not compatible with this version" in result.failure_message


def test_killed_builds(controller, start_agent, tensorrt, tiny_model):
    """A killed build is retried with less workspace, and the engine's notes name the killed ones."""
    start_agent(controller.address)
    tensorrt(kill_builds=1)
    controller.assign("run-1", tiny_model, backend="trt")

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == ""
    assert ["the kernel killed the build" in note for note in result.engine.notes] == [True]


def test_build_out_of_memory(controller, start_agent, tensorrt, tiny_model):
    """A build that is killed with every workspace is build_oom, with the workspaces tried and the memory left."""
    start_agent(controller.address)
    tensorrt(kill_builds=99)
    controller.assign("run-1", tiny_model, backend="trt")

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == "build_oom"
    assert "64 MiB were tried; the board had at least" in result.failure_message


def test_hung_build(controller, start_agent, tensorrt, tiny_model):
    """A build that never ends is killed at the run's time limit, and the agent goes on."""
    start_agent(controller.address)
    tensorrt(hang=True)
    controller.assign("run-1", tiny_model, backend="trt", timeout_s=3.0)

    assert controller.reports.get(timeout=WAIT_S).failure_type == "timeout"
    tensorrt()
    controller.assign("run-2", tiny_model, backend="trt")
    assert controller.reports.get(timeout=WAIT_S).failure_type == ""


def test_wrong_engine_is_a_finding(controller, start_agent, tensorrt, tiny_model):
    """An engine with other outputs is reported with their agreement, and nothing is measured."""
    start_agent(controller.address)
    tensorrt(scale=-1.0)
    controller.assign("run-1", tiny_model, backend="trt", reference=reference_of(tiny_model))

    result = controller.reports.get(timeout=WAIT_S)

    assert result.failure_type == "wrong_outputs"
    assert result.agreement.cosine == pytest.approx(-1.0, abs=1e-3)
    assert not result.latency_s
