"""Engines: when a kept one is reused, and builds that are killed or fail."""

import hashlib
import os
import signal
import time

import pytest
from efficientquant_agent import protocol
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.protocol import BuildReport
from efficientquant_agent.records import Assignment, BackendInfo, DeviceSnapshot, Gpu
from efficientquant_agent.run import engines
from efficientquant_agent.run.children import Ended
from efficientquant_agent.run.engines import Engines, build_settings, workspace_ladder_bytes
from efficientquant_agent.run.watcher import Cancellation, SeriesRecorder, Watcher

NANO_GPU = Gpu("Tegra X1", "", 53, None, True, True, False, False, "")
MIB = 1 << 20


def device(memory_total_bytes=4059 * MIB, gpu=NANO_GPU, version="8.2.1.8"):
    """Return a device with TensorRT."""
    backends = [BackendInfo("trt", version, ["TensorRT"])]
    return DeviceSnapshot(
        "1422", "Nano", "Ubuntu", "4.9", "aarch64", "", 4, memory_total_bytes, 0, "R32.7.4", {}, backends, gpus=[gpu]
    )


def assignment(sha256="ab" * 32, flags=("fp16",)):
    """Return an assignment of an artifact to TensorRT."""
    return Assignment("r", "j", "c", 1, 0, "m", "fp16", sha256, 1, "trt", None, 60.0, "jetson-nano", flags)


@pytest.fixture
def watcher():
    """Give a watcher without sensors."""
    cancellation = Cancellation()
    yield Watcher(SeriesRecorder(time.monotonic(), print), None, 0.1, float("inf"), cancellation)
    cancellation.close()


@pytest.fixture
def children(monkeypatch):
    """Script how the build's children end, by functions from spec to exit code."""
    scripts, specs = [], []

    def run_child(module, spec, *_):
        assert module == protocol.BUILD_MODULE
        specs.append(spec)
        return Ended(scripts.pop(0)(spec), ["the last line"])

    monkeypatch.setattr(engines, "run_child", run_child)
    run_child.scripts, run_child.specs = scripts, specs
    return run_child


def succeed(spec):
    """Write a plan and its report, and return the exit code of success."""
    content = b"plan"
    with open(os.path.join(spec.scratch, protocol.PLAN_FILE), "wb") as stream:
        stream.write(content)
    sha256 = hashlib.sha256(content).hexdigest()
    workspace = spec.options.workspace_ladder_bytes[0]
    report = BuildReport(sha256, len(content), workspace, 0.5, 2.0, [], {})
    protocol.write(os.path.join(spec.scratch, protocol.REPORT_FILE), report)
    return 0


def killed(_):
    """Return the exit code of SIGKILL."""
    return -signal.SIGKILL


def get(tmp_path, watcher, conditions=None, **changes):
    """Return an engine, built in a scratch folder of its own."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    made = Engines(str(tmp_path / "state"), 1 << 30, "nano-3")
    asked = assignment(**changes)
    return made.get(asked, "model.onnx", device(), conditions or {}, str(scratch), watcher, lambda *_: None)


def test_built_once(tmp_path, watcher, children):
    """An engine is built once and then taken from the cache, also by another agent process."""
    children.scripts.append(succeed)

    first, second = get(tmp_path, watcher), get(tmp_path, watcher)

    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.path == second.path
    assert second.report.build_s == 2.0


def test_other_circumstances_other_engine(tmp_path, watcher, children):
    """Another artifact, flag or power mode needs another engine."""
    children.scripts += [succeed] * 4

    keys = {
        get(tmp_path, watcher).key,
        get(tmp_path, watcher, sha256="cd" * 32).key,
        get(tmp_path, watcher, flags=()).key,
        get(tmp_path, watcher, conditions={"power_mode": "5W"}).key,
    }

    assert len(keys) == 4


def test_another_release_another_engine():
    """A plan of one TensorRT, driver or GPU is not reused for another."""
    usual = build_settings(assignment(), device(), {})

    assert build_settings(assignment(), device(version="8.2.2"), {}) != usual
    assert build_settings(assignment(), device(gpu=NANO_GPU._replace(compute_capability=72)), {}) != usual
    assert build_settings(assignment(), device(gpu=NANO_GPU._replace(driver_version="1")), {}) != usual


def test_workspace_of_a_shared_memory():
    """A 4 GB Nano starts at 256 MiB, and a discrete GPU at 1 GiB."""
    discrete = NANO_GPU._replace(integrated=False)

    assert workspace_ladder_bytes(device()) == [256 * MIB, 128 * MIB, 64 * MIB]
    assert workspace_ladder_bytes(device(gpu=discrete))[0] == 1 << 30
    assert workspace_ladder_bytes(device(memory_total_bytes=512 * MIB)) == [64 * MIB]


def test_killed_build_gets_less_workspace(tmp_path, watcher, children):
    """A build that the kernel kills is retried with the next smaller workspace, and the report says so."""
    children.scripts += [killed, succeed]

    plan = get(tmp_path, watcher)

    assert [spec.options.workspace_ladder_bytes[0] for spec in children.specs] == [256 * MIB, 128 * MIB]
    assert plan.report.notes == ["the kernel killed the build with a workspace of 256 MiB"]


def test_build_out_of_memory(tmp_path, watcher, children):
    """A build that is killed with every workspace is build_oom, with the workspaces tried and the memory left."""
    children.scripts += [killed] * 3
    watcher.recorder.put(time.monotonic(), {"board_available_bytes": 7.0, "swap_used_bytes": 9.0})

    with pytest.raises(RunFailedError) as caught:
        get(tmp_path, watcher)

    assert caught.value.failure_type == "build_oom"
    assert "workspaces of 256, 128, 64 MiB were tried" in str(caught.value)
    assert "at least 7 bytes left, swap in use reached 9 bytes" in str(caught.value)


def test_build_crashes(tmp_path, watcher, children):
    """A build that dies of another signal fails with its last line and is not retried."""
    children.scripts.append(lambda _: -signal.SIGSEGV)

    with pytest.raises(RunFailedError, match="signal 11: the last line") as caught:
        get(tmp_path, watcher)

    assert caught.value.failure_type == "build_failed"


def test_forgotten(tmp_path, watcher, children):
    """An engine that does not load is rebuilt."""
    children.scripts += [succeed, succeed]
    plan = get(tmp_path, watcher)

    Engines(str(tmp_path / "state"), 1 << 30, "nano-3").forget(plan)

    assert get(tmp_path, watcher).from_cache is False
