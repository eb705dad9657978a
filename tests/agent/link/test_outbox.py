"""The outbox on a disk that is full, and after damage."""

import errno
import os
import shutil

import pytest
from efficientquant_agent.errors import DamagedResultError
from efficientquant_agent.link import outbox as outbox_module
from efficientquant_agent.link.outbox import Outbox

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
RESERVE_BYTES = 4096


class Disk:
    """A disk that a test fills.

    Only writes of whole files and allocations need new blocks.
    """

    def __init__(self):
        self.fault = None

    def refuse_or(self, function):
        """Return a function that fails while the disk is full."""

        def guarded(*arguments, **options):
            if self.fault is not None:
                raise self.fault
            return function(*arguments, **options)

        return guarded


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    for name in ("write_whole", "allocate"):
        monkeypatch.setattr(outbox_module, name, disk.refuse_or(getattr(outbox_module, name)))
    return disk


@pytest.fixture
def outbox(tmp_path, disk):  # noqa: ARG001
    return Outbox(str(tmp_path), RESERVE_BYTES)


def test_reserve_is_made_at_the_start(outbox, tmp_path):
    """An outbox has all blocks of its reserve before the first result."""
    status = (tmp_path / "reserve").stat()

    assert outbox.is_safe
    assert (status.st_size, status.st_blocks * 512 >= RESERVE_BYTES) == (RESERVE_BYTES, True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_result_goes_into_the_reserve(outbox, disk, tmp_path, number):
    """A result that the disk refuses is written over the reserve, and a new agent finds it."""
    disk.fault = OSError(number, os.strerror(number))

    outbox.put("run-1", b"result", 2, "lease-1")

    assert not outbox.is_safe
    assert not (tmp_path / "reserve").exists()
    for opened in (outbox, Outbox(str(tmp_path), RESERVE_BYTES)):
        assert opened.pending() == ["run-1"]
        result = opened.read("run-1")
        assert (result.payload, result.attempt, result.lease_id) == (b"result", 2, "lease-1")


def test_results_stay_in_memory_without_a_reserve(outbox, disk, tmp_path):
    """Results beyond the reserve stay in memory, pending like the others, and reach the disk later."""
    disk.fault = FULL
    for run_id in ("run-1", "run-2", "run-3"):
        outbox.put(run_id, run_id.encode())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run-1.pb"]
    assert outbox.pending() == ["run-1", "run-2", "run-3"]
    outbox.remove("run-2")

    assert not outbox.settle()
    disk.fault = None

    assert outbox.settle()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["reserve", "run-1.pb", "run-3.pb"]
    assert [outbox.read(run_id).payload for run_id in outbox.pending()] == [b"run-1", b"run-3"]


def test_result_larger_than_the_reserve(outbox, disk, tmp_path):
    """A result that does not fit into the reserve stays in memory, and the reserve stays for the next."""
    disk.fault = FULL
    outbox.put("run-1", b"x" * RESERVE_BYTES)
    outbox.put("run-2", b"small")

    assert (tmp_path / "run-2.pb").stat().st_size == RESERVE_BYTES
    assert sorted(outbox.pending()) == ["run-1", "run-2"]
    assert outbox.read("run-1").payload == b"x" * RESERVE_BYTES


def test_large_result_is_not_written_in_vain(outbox, disk, monkeypatch):
    """A result in memory is not written to a disk that is seen to be too small for it."""
    disk.fault = FULL
    outbox.put("run-1", b"x" * RESERVE_BYTES)
    disk.fault = AssertionError("the disk was written to")
    monkeypatch.setattr(outbox_module, "free_bytes", lambda _path: 100)

    assert not outbox.settle()


def test_start_on_a_full_disk(disk, tmp_path):
    """An outbox opens on a full disk and makes its reserve when there is room."""
    disk.fault = FULL
    outbox = Outbox(str(tmp_path), RESERVE_BYTES)
    assert (outbox.is_safe, outbox.fault, outbox.missing_bytes()) == (False, FULL, RESERVE_BYTES)

    disk.fault = None

    assert outbox.settle()
    assert outbox.missing_bytes() == 0


def test_leftovers_are_removed(tmp_path):
    """A half-written file of a killed agent makes room, and is no result."""
    (tmp_path / "run-1.pb.part").write_bytes(b"half")

    outbox = Outbox(str(tmp_path), RESERVE_BYTES)

    assert outbox.pending() == []
    assert os.listdir(str(tmp_path)) == ["reserve"]


def test_refused_result_on_a_full_disk(outbox, disk, tmp_path):
    """A refused result that is only in memory stays pending until the disk has room for it."""
    disk.fault = FULL
    outbox.put("run-1", b"x" * RESERVE_BYTES)
    assert (outbox.reject("run-1"), outbox.pending()) == ("", ["run-1"])

    disk.fault = None

    assert outbox.reject("run-1") == str(tmp_path / "rejected" / "run-1.pb")
    assert outbox.pending() == []


def test_file_that_cannot_be_removed(outbox, monkeypatch):
    """A committed result whose file the disk does not remove is not pending any more."""
    outbox.put("run-1", b"result")

    def refuse(_path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", refuse)
    outbox.remove("run-1")

    assert outbox.pending() == []


def test_damaged_result_is_replaced(outbox, tmp_path):
    """A damaged result is moved aside, and the report of the damage is pending in its place."""
    outbox.put("run-1", b"result", 1, "lease-1")
    path = tmp_path / "run-1.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"T")
    damaged = path.read_bytes()
    with pytest.raises(DamagedResultError, match="its SHA-256 is another"):
        outbox.read("run-1")

    outbox.replace_damaged("run-1", b"report", 1, "lease-1")

    assert (tmp_path / "damaged" / "run-1.pb").read_bytes() == damaged
    assert (outbox.pending(), outbox.read("run-1").payload) == (["run-1"], b"report")


def test_names_that_are_no_run(outbox, tmp_path):
    """A file whose name cannot be a run id is left alone."""
    (tmp_path / ".x.pb").write_bytes(b"")

    assert outbox.pending() == []


def test_directory_that_is_lost_while_the_agent_runs(outbox, tmp_path):
    """The next result creates a removed outbox again."""
    shutil.rmtree(str(tmp_path))
    assert outbox.pending() == []

    outbox.put("run", b"result")

    assert (outbox.pending(), outbox.read("run").payload) == (["run"], b"result")
