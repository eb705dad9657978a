"""The tests of the building child, however it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from efficientquant_agent import protocol
from efficientquant_agent.protocol import OUTCOME_FILE, PLAN_FILE, REPORT_FILE, BuildOptions

CHILD = Path(__file__).parent.parent / "backends" / "building_child.py"
OPTIONS = BuildOptions(builder_flags=["fp16"], workspace_ladder_bytes=[1 << 28])


@pytest.fixture
def start(tmp_path):
    """Give a function that starts the child for a scripted artifact."""
    (tmp_path / "scratch").mkdir()
    children = []

    def start_child(how, backend="fake"):
        artifact = tmp_path / "artifact"
        artifact.write_text(how)
        spec = protocol.BuildSpec(
            parent_pid=os.getpid(),
            scratch=str(tmp_path / "scratch"),
            backend=backend,
            device_name="nano-1",
            artifact_path=str(artifact),
            options=OPTIONS,
        )
        child = subprocess.Popen(
            [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        children.append(child)
        child.stdin.write(protocol.encode(spec))
        child.stdin.close()
        child.stdin = None
        return child

    yield start_child
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


def failure(tmp_path):
    return protocol.read(str(tmp_path / "scratch" / OUTCOME_FILE), protocol.decode_build_failure)


def test_a_build_leaves_plan_and_report(start, tmp_path):
    """A good build leaves the plan and its report, and the runtime's output goes to the log."""
    child = start("good")
    progress, log = child.communicate()

    report = protocol.read(str(tmp_path / "scratch" / REPORT_FILE), protocol.decode_report)
    assert child.returncode == 0
    assert [json.loads(line)["phase"] for line in progress.splitlines()] == ["build"]
    assert b"the artifact says good" in log
    assert b"a runtime prints" in log
    assert (report.workspace_bytes, report.notes, report.settings) == (1 << 28, ("as asked",), {"sm": "53"})
    assert sorted(os.listdir(str(tmp_path / "scratch"))) == sorted([PLAN_FILE, REPORT_FILE])


@pytest.mark.parametrize(
    ("how", "failure_type", "sentence"),
    [("refused", "unsupported_op", "Nonsense"), ("memory", "build_oom", "memory ran out")],
)
def test_a_build_that_fails_says_so(start, tmp_path, how, failure_type, sentence):
    """A failure is typed, has a sentence and leaves no part of a plan."""
    child = start(how)
    child.communicate()

    assert child.returncode == 0
    assert failure(tmp_path).failure_type == failure_type
    assert sentence in failure(tmp_path).failure_message
    assert os.listdir(str(tmp_path / "scratch")) == [OUTCOME_FILE]


def test_a_killed_build_leaves_nothing(start, tmp_path):
    """A build that is killed leaves no result, and its parent sees the signal."""
    child = start("killed")
    child.communicate()

    assert child.returncode == -signal.SIGKILL
    assert os.listdir(str(tmp_path / "scratch")) == []


def test_a_hanging_build_can_be_killed(start, tmp_path):
    """A build that hangs has reported its start, and leaves nothing when its parent kills it."""
    child = start("hangs")
    assert json.loads(child.stdout.readline().decode())["phase"] == "build"

    child.kill()
    child.communicate()

    assert child.returncode == -signal.SIGKILL
    assert os.listdir(str(tmp_path / "scratch")) == []


def test_a_missing_backend_is_named(start, tmp_path):
    """A device without the runtime lists the backends that it has."""
    start("good", backend="trt").communicate()

    assert failure(tmp_path).failure_type == "load_failed"
    assert "'trt' is not available on nano-1 (available: fake)" in failure(tmp_path).failure_message
