"""Agents whose state directory is on a disk that a test fills."""

import contextlib
import os
import resource
import subprocess
from pathlib import Path

import pytest

WAIT_S = 60.0
SIZE_BYTES = 32 * 1024**2
MOUNT = "mount -t tmpfs -o size=$0 tmpfs $1 && echo mounted && exec cat"


class SmallDisk:
    """A small tmpfs in its own mount namespace."""

    def __init__(self, path):
        path.mkdir()
        self.path = path
        self._holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", MOUNT, str(SIZE_BYTES), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.is_mounted = self._holder.stdout.readline() == b"mounted\n"
        self.enter = ["nsenter", "-t", str(self._holder.pid), "-U", "-m", "--preserve-credentials"]
        # The same disk, seen from outside.
        self.seen = Path("/proc/{}/root{}".format(self._holder.pid, path))

    def fill(self):
        """Take every free block."""
        with contextlib.suppress(OSError), open(str(self.seen / "filler"), "wb", buffering=0) as stream:
            while stream.write(b"x" * 4096):
                pass
        status = os.statvfs(str(self.seen))
        assert status.f_bavail == 0

    def make_room(self):
        """Give the blocks back."""
        (self.seen / "filler").unlink()

    def close(self):
        """Unmount the disk, once no agent uses it."""
        self._holder.communicate(b"", timeout=WAIT_S)


@pytest.fixture
def disk(tmp_path):
    small = SmallDisk(tmp_path / "state")
    if not small.is_mounted:
        small.close()
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs a kernel that lets a user mount a tmpfs")
    yield small
    small.close()


@pytest.fixture
def start_on_disk(disk, start_agent, controller):
    """Give a function that starts an agent on the small disk."""
    return lambda: start_agent(controller.address, state_dir=disk.path, enter=disk.enter)


def wait_for_problem(controller, part):
    """Return the first heartbeat with this problem, or with none."""
    while True:
        beat = controller.heartbeats.get(timeout=WAIT_S).heartbeat
        if part in beat.problem and bool(part) == bool(beat.problem):
            return beat


def test_runs_wait_until_results_can_be_kept(controller, start_agent, tiny_model, tmp_path):
    """Without a reserve an agent starts no run and says why."""
    agent = start_agent(controller.address, enter=["sh", "-c", 'ulimit -S -f 1000; exec "$@"', "sh"])
    controller.assign("run-1", tiny_model)
    agent.wait_for_line("the state directory cannot be written: file too large; see to")
    assert "file too large" in controller.hellos.get(timeout=WAIT_S).problem
    beat = wait_for_problem(controller, "file too large; see to {}".format(tmp_path / "state"))
    while list(beat.active_run_ids) != ["run-1"]:
        beat = wait_for_problem(controller, "file too large")
    assert controller.fetches.empty()

    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    assert controller.reports.get(timeout=WAIT_S).failure_type == ""
    wait_for_problem(controller, "")
    agent.wait_for_line("the state directory has room again")


def test_runs_wait_for_room(controller, start_on_disk, disk, tiny_model):
    """On a full disk runs wait until there is room."""
    agent = start_on_disk()
    agent.wait_for_line("ready: connected")
    disk.fill()
    controller.assign("run-1", tiny_model)
    controller.assign("run-2", tiny_model)

    beat = wait_for_problem(controller, "is full (needs 9 MiB, 0 MiB free); make room in {}".format(disk.path))
    while list(beat.active_run_ids) != ["run-1", "run-2"]:
        beat = wait_for_problem(controller, "is full")
    assert controller.fetches.empty()
    disk.make_room()

    results = [controller.reports.get(timeout=WAIT_S) for _ in range(2)]
    assert [(result.run_id, result.failure_type) for result in results] == [("run-1", ""), ("run-2", "")]
    wait_for_problem(controller, "")
    assert controller.hellos.qsize() == 1


def test_result_on_a_full_disk_survives_a_kill(controller, start_on_disk, disk, tiny_model):
    """A result on a full disk survives a killed agent."""
    controller.report_gate.clear()
    agent = start_on_disk()
    agent.wait_for_line("ready: connected")
    disk.fill()
    controller.assign("run-1", tiny_model)
    wait_for_problem(controller, "is full")
    controller.cancel("run-1")
    agent.wait_for_line("run run-1: cancelled")
    first = controller.hellos.get(timeout=WAIT_S)
    agent.kill()
    controller.report_gate.set()
    controller.reports.queue.clear()

    start_on_disk().wait_for_line("ready: connected")

    assert controller.reports.get(timeout=WAIT_S).failure_type == "cancelled"
    second = controller.hellos.get(timeout=WAIT_S)
    assert second.session_epoch == first.session_epoch + 1
    assert "the disk of the state directory is full" in second.problem
    disk.make_room()
    wait_for_problem(controller, "")


def test_disk_that_fills_up_during_a_fetch(controller, start_on_disk, disk, tiny_model):
    """A fetch that fills the disk waits for room."""
    controller.chunk_bytes = 100
    controller.fetch_gate.clear()
    agent = start_on_disk()
    content = tiny_model + b"\0" * 8192  # not in the buffer of the file at once
    controller.assign("run-1", content)
    controller.fetches.get(timeout=WAIT_S)
    disk.fill()
    controller.fetch_gate.set()
    wait_for_problem(controller, "is full")

    disk.make_room()

    assert controller.reports.get(timeout=WAIT_S).stages[0].stage == "transfer"
    assert [line for line in agent.seen if "Traceback" in line or "bug" in line] == []


def test_disk_that_fills_up_during_a_run(controller, start_on_disk, disk, tiny_model, quick):
    """A run without room for its samples fails as agent_error."""
    agent = start_on_disk()
    controller.assign("run-1", tiny_model, measurement=quick._replace(min_time_s=2.0))
    controller.wait_for_phase("measure")
    disk.fill()

    failed = controller.reports.get(timeout=WAIT_S)
    assert (failed.failure_type, "No space left on device" in failed.failure_message) == ("agent_error", True)
    controller.assign("run-2", tiny_model)
    wait_for_problem(controller, "is full")
    disk.make_room()

    assert controller.reports.get(timeout=WAIT_S).failure_type == ""
    assert [line for line in agent.seen if "Traceback" in line or "bug" in line] == []
