"""Room on the disk for the next run."""

import errno
import os

import pytest
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.link import artifacts as artifacts_module
from efficientquant_agent.link import outbox as outbox_module
from efficientquant_agent.link import room as room_module
from efficientquant_agent.link.artifacts import ArtifactCache
from efficientquant_agent.link.outbox import Outbox
from efficientquant_agent.link.room import MARGIN_BYTES, Room
from efficientquant_agent.records import Assignment

MIB = 1024**2
NAME = "a" * 64


class SmallDisk:
    """A disk of a given size that holds only artifacts."""

    def __init__(self, path, size_bytes):
        self.path = path
        self.size_bytes = size_bytes

    def free(self, _path):
        """Return the free bytes."""
        return self.size_bytes - sum(entry.stat().st_size for entry in self.path.iterdir())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "outbox").mkdir()
    return tmp_path


@pytest.fixture
def open_room(folder, monkeypatch):
    """Return a function that opens a Room on a small disk."""

    def open_with(size_bytes, recheck_s=0.0):
        disk = SmallDisk(folder / "artifacts", size_bytes)
        for module in (artifacts_module, room_module):
            monkeypatch.setattr(module, "free_bytes", disk.free)
        cache = ArtifactCache(str(folder / "artifacts"), 10**9, lambda *_: iter(()), print)
        outbox = Outbox(str(folder / "outbox"), 4096)
        return Room(str(folder), outbox, cache, recheck_s), disk

    return open_with


def assignment(quick, size_bytes, reference_bytes=0):
    return Assignment(
        "run-1",
        "job",
        "campaign",
        1,
        0,
        "tiny",
        "fp32",
        NAME,
        size_bytes,
        "ort-cpu",
        quick,
        60.0,
        reference_sha256="b" * 64 if reference_bytes else "",
        reference_bytes=reference_bytes,
    )


def test_run_needs_its_files_and_a_margin(open_room, quick, folder):
    """A run needs room for its files and a margin."""
    room, disk = open_room(MARGIN_BYTES + 3 * MIB - 1)
    run = assignment(quick, 2 * MIB, MIB)

    assert not room.admits(run)
    assert room.problem() == (
        "the disk of the state directory is full (needs 11 MiB, 10 MiB free); make room in {}".format(folder)
    )
    disk.size_bytes += 1
    assert (room.admits(run), room.problem()) == (True, "")


def test_partial_file_needs_the_rest_only(open_room, quick, folder):
    """What was already fetched of an artifact needs no room again."""
    (folder / "artifacts" / (NAME + ".partial")).write_bytes(b"x" * MIB)
    room, _ = open_room(MARGIN_BYTES + 2 * MIB)

    assert room.admits(assignment(quick, 2 * MIB))
    assert not room.admits(assignment(quick, 2 * MIB + 1))


def test_cached_artifacts_make_room(open_room, quick, folder):
    """The least recently used artifacts are removed to make room."""
    for age_s, name in enumerate([NAME, "c" * 64, "d" * 64]):
        (folder / "artifacts" / name).write_bytes(b"x" * MIB)
        os.utime(str(folder / "artifacts" / name), (1000 + age_s, 1000 + age_s))
    room, _ = open_room(MARGIN_BYTES + 3 * MIB)

    assert (room.admits(assignment(quick, MIB, MIB)), room.problem()) == (True, "")
    assert sorted(path.name[0] for path in (folder / "artifacts").iterdir()) == ["a", "d"]


def test_artifacts_are_not_removed_in_vain(open_room, quick, folder):
    """When all other artifacts would not be enough, none is removed."""
    (folder / "artifacts" / ("c" * 64)).write_bytes(b"x" * MIB)
    room, _ = open_room(MARGIN_BYTES + MIB)

    assert not room.admits(assignment(quick, 5 * MIB))
    assert [path.name[0] for path in (folder / "artifacts").iterdir()] == ["c"]


def test_artifact_that_cannot_be_removed(open_room, quick, folder, monkeypatch):
    """A cached artifact that stays on a read-only disk makes no room."""
    (folder / "artifacts" / ("c" * 64)).write_bytes(b"x" * MIB)
    room, _ = open_room(MARGIN_BYTES + 2 * MIB)

    def refuse(_path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", refuse)

    assert not room.admits(assignment(quick, 2 * MIB))


def test_run_that_no_empty_disk_holds(open_room, quick, monkeypatch):
    """A run that is larger than the whole disk fails, and does not wait."""
    room, _ = open_room(MARGIN_BYTES + 9 * MIB)
    monkeypatch.setattr(room_module, "disk_bytes", lambda _path: MARGIN_BYTES + 9 * MIB)
    room.require_possible(assignment(quick, 9 * MIB))

    assert room.is_impossible(assignment(quick, 9 * MIB, 1))
    with pytest.raises(RunFailedError, match="needs 18 MiB, and the disk of the state directory has 17 MiB in all"):
        room.require_possible(assignment(quick, 9 * MIB, 1))


def test_state_directory_that_cannot_be_read(open_room, quick, folder, monkeypatch):
    """A disk that cannot be read is a problem, and no bug."""
    room, _ = open_room(MARGIN_BYTES + 9 * MIB)
    room.admits(assignment(quick, MIB))

    def refuse(_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(room_module, "free_bytes", refuse)

    assert room.problem() == "the state directory cannot be read: Input/output error; see to {}".format(folder)


def test_refused_write_holds_runs(open_room, quick, folder):
    """After a failed write no run starts until the recheck."""
    room, _ = open_room(MARGIN_BYTES + 9 * MIB, recheck_s=60.0)
    run = assignment(quick, MIB)
    room.refuse(OSError(errno.EDQUOT, "Disk quota exceeded"))

    assert not room.admits(run)
    assert room.problem() == "the state directory cannot be written: disk quota exceeded; see to {}".format(folder)
    room.accept()
    assert room.problem() == ""


def test_no_run_starts_without_a_reserve(open_room, quick, folder, monkeypatch):
    """No run starts without a reserve."""
    room, _ = open_room(MARGIN_BYTES + 4096)
    (folder / "outbox" / "reserve").unlink()

    def refuse(_path, _size_bytes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(outbox_module, "allocate", refuse)
        assert not room.admits(assignment(quick, 0))
    assert room.problem().startswith("the disk of the state directory is full (needs 9 MiB, 8 MiB free)")

    assert (room.admits(None), room.problem()) == (True, "")
    assert room.admits(assignment(quick, 0))
