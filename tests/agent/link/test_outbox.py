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


def files_in(path):
    return sorted(entry.name for entry in path.iterdir() if entry.is_file())


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
    """A result that the disk refuses goes into the reserve."""
    disk.fault = OSError(number, os.strerror(number))

    outbox.put("run-1", b"result", 2, "lease-1")

    assert not outbox.is_safe
    assert not (tmp_path / "reserve").exists()
    for opened in (outbox, Outbox(str(tmp_path), RESERVE_BYTES)):
        assert opened.pending() == ["run-1"]
        result = opened.read("run-1")
        assert (result.payload, result.attempt, result.lease_id) == (b"result", 2, "lease-1")


def test_results_stay_in_memory_without_a_reserve(outbox, disk, tmp_path):
    """Results beyond the reserve stay in memory until there is room."""
    disk.fault = FULL
    for run_id in ("run-1", "run-2", "run-3"):
        outbox.put(run_id, run_id.encode())
    assert files_in(tmp_path) == ["run-1.pb"]
    assert outbox.pending() == ["run-1", "run-2", "run-3"]
    assert outbox.in_memory == ["run-2", "run-3"]
    outbox.remove("run-2")

    assert not outbox.settle()
    disk.fault = None

    assert outbox.settle()
    assert files_in(tmp_path) == ["reserve", "run-1.pb", "run-3.pb"]
    assert [outbox.read(run_id).payload for run_id in outbox.pending()] == [b"run-1", b"run-3"]


def test_result_larger_than_the_reserve(outbox, disk, tmp_path):
    """A result larger than the reserve stays in memory."""
    disk.fault = FULL
    outbox.put("run-1", b"x" * RESERVE_BYTES)
    outbox.put("run-2", b"small")

    assert (tmp_path / "run-2.pb").stat().st_size == RESERVE_BYTES
    assert sorted(outbox.pending()) == ["run-1", "run-2"]
    assert outbox.read("run-1").payload == b"x" * RESERVE_BYTES


def test_large_result_is_not_written_in_vain(outbox, disk, monkeypatch):
    """A result larger than the free space is not written."""
    disk.fault = FULL
    outbox.put("run-1", b"x" * RESERVE_BYTES)
    disk.fault = AssertionError("the disk was written to")
    monkeypatch.setattr(outbox_module, "free_bytes", lambda _path: 100)

    assert not outbox.settle()


def test_start_on_a_full_disk(disk, tmp_path):
    """An outbox opens on a full disk."""
    disk.fault = FULL
    outbox = Outbox(str(tmp_path), RESERVE_BYTES)
    assert (outbox.is_safe, outbox.fault, outbox.missing_bytes()) == (False, FULL, RESERVE_BYTES)

    disk.fault = None

    assert outbox.settle()
    assert outbox.missing_bytes() == 0


def test_leftovers_are_removed(tmp_path):
    """Half-written files of a killed agent are removed."""
    (tmp_path / "run-1.pb.part").write_bytes(b"half")

    outbox = Outbox(str(tmp_path), RESERVE_BYTES)

    assert outbox.pending() == []
    assert files_in(tmp_path) == ["reserve"]


def test_refused_result_on_a_full_disk(outbox, disk, tmp_path):
    """A refused result in memory stays pending until there is room."""
    disk.fault = FULL
    outbox.put("run-1", b"x" * RESERVE_BYTES)
    assert (outbox.reject("run-1"), outbox.pending()) == ("", ["run-1"])

    disk.fault = None

    assert outbox.reject("run-1") == str(tmp_path / "rejected" / "run-1.pb")
    assert outbox.pending() == []


def test_file_that_cannot_be_removed(outbox, monkeypatch):
    """A committed result is not pending, even if its file remains."""
    outbox.put("run-1", b"result")

    def refuse(_path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", refuse)
    outbox.remove("run-1")

    assert outbox.pending() == []


def test_damaged_result_is_replaced(outbox, tmp_path):
    """The report of the damage replaces a damaged result."""
    outbox.put("run-1", b"result", 1, "lease-1")
    path = tmp_path / "run-1.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"T")
    damaged = path.read_bytes()
    with pytest.raises(DamagedResultError, match="its SHA-256 is another"):
        outbox.read("run-1")

    outbox.replace_damaged("run-1", b"report", 1, "lease-1")

    assert (tmp_path / "damaged" / "run-1.pb").read_bytes() == damaged
    assert (outbox.pending(), outbox.read("run-1").payload) == (["run-1"], b"report")


def test_damaged_result_is_never_overwritten(outbox, tmp_path, monkeypatch):
    """Where a damaged file cannot be moved, the report of the damage waits in memory."""
    (tmp_path / "run-1.pb").write_bytes(b"damaged")
    move = os.replace

    def refuse(path, kept):
        if os.path.dirname(kept).endswith("damaged"):
            raise FULL
        move(path, kept)

    monkeypatch.setattr(os, "replace", refuse)
    outbox.replace_damaged("run-1", b"report", 1, "lease-1")
    assert not outbox.settle()
    assert (tmp_path / "run-1.pb").read_bytes() == b"damaged"
    assert (outbox.in_memory, outbox.read("run-1").payload) == (["run-1"], b"report")

    monkeypatch.setattr(os, "replace", move)

    assert outbox.settle()
    assert (tmp_path / "damaged" / "run-1.pb").read_bytes() == b"damaged"
    assert outbox.read("run-1").payload == b"report"


def test_damaged_result_stays_when_its_report_is_delivered(outbox, tmp_path, monkeypatch):
    """A delivered report of the damage removes no file that could not be moved."""
    (tmp_path / "run-1.pb").write_bytes(b"damaged")

    def refuse(_path, _kept):
        raise FULL

    monkeypatch.setattr(os, "replace", refuse)
    outbox.replace_damaged("run-1", b"report", 1, "lease-1")
    outbox.remove("run-1")

    assert (outbox.pending(), (tmp_path / "run-1.pb").read_bytes()) == ([], b"damaged")


def test_damage_in_memory_is_no_fault_of_the_disk(outbox):
    """A result without a file is replaced, and the disk is not blamed."""
    outbox.replace_damaged("run-1", b"report", 1, "lease-1")

    assert (outbox.fault, outbox.pending(), outbox.is_safe) == (None, ["run-1"], True)


@pytest.mark.parametrize("content", [b"", b"x" * (RESERVE_BYTES - 1)])
def test_reserve_of_another_size(tmp_path, content):
    """A reserve that is too small is made again."""
    (tmp_path / "reserve").write_bytes(content)

    assert Outbox(str(tmp_path), RESERVE_BYTES).is_safe
    assert (tmp_path / "reserve").stat().st_size == RESERVE_BYTES


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
